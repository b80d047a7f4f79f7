"""A search that an earlier version began goes on: the names in the store are the same.

``data/store-0.1.0.sql.gz`` is a store as the version before the rooms left it: the search ``whole``
(4 trials of lasso, refitted and registered), and ``interrupted`` (15 of 24 trials of XGBoost ended,
2 were running), both on the generated sample.
"""

from __future__ import annotations

import gzip
import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from command import Result, run_search
from mlflow import MlflowClient
from mlflow.entities import Run

pytestmark = pytest.mark.slow

STORE = Path(__file__).with_name("data") / "store-0.1.0.sql.gz"
TRIALS = 24
ENDED_BEFORE = 15


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the store of the earlier version."""
    folder = tmp_path_factory.mktemp("older")
    script = gzip.decompress(STORE.read_bytes()).decode().replace("/STORE", str(folder))
    with sqlite3.connect(folder / "mlflow.db") as database:
        database.executescript(script)
    # MLflow refuses a schema that is older than itself
    upgrade = [sys.executable, "-m", "mlflow", "db", "upgrade", uri_of(folder)]
    subprocess.run(upgrade, check=True, capture_output=True)
    return folder


def uri_of(folder: Path) -> str:
    return f"sqlite:///{folder / 'mlflow.db'}"


def runs(folder: Path, search: str, role: str) -> list[Run]:
    client = MlflowClient(uri_of(folder))
    (parent,) = client.search_runs(["1"], f"attributes.run_name = '{search}'")
    wanted = f"tags.`search.role` = '{role}'"
    children = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}' and {wanted}"
    return [parent] if role == "search" else list(client.search_runs(["1"], children))


def ended_trials(folder: Path, search: str) -> dict[str, tuple[object, ...]]:
    """Return what must not change of the trials that have ended."""
    return {
        run.data.tags["search.trial_id"]: (
            run.info.run_id,
            run.info.start_time,
            run.info.end_time,
            run.data.tags["search.status"],
            run.data.tags["search.point"],
            run.data.metrics["rmse"],
        )
        for run in runs(folder, search, "trial")
        if run.data.tags["search.status"] in ("finished", "stopped")
    }


@pytest.fixture(scope="module")
def before(folder: Path) -> dict[str, tuple[object, ...]]:
    ended = ended_trials(folder, "interrupted")
    assert len(ended) == ENDED_BEFORE
    return ended


@pytest.fixture(scope="module")
def resumed(folder: Path, before: dict[str, tuple[object, ...]]) -> Result:
    assert before
    result = run_search(["--resume", "interrupted", "--json"], folder)
    assert result.code == 0, result.stderr
    return result


def test_ended_trials_stay(
    resumed: Result, folder: Path, before: dict[str, tuple[object, ...]]
) -> None:
    """They are not run again, and their runs do not change."""
    assert f"{ENDED_BEFORE} of {TRIALS} trials have ended" in resumed.stderr
    after = ended_trials(folder, "interrupted")
    assert {trial_id: after[trial_id] for trial_id in before} == before


def test_search_is_completed(resumed: Result, folder: Path) -> None:
    """The interrupted trials run in their own runs; the best trial is refitted and registered."""
    summary = json.loads(resumed.stdout)
    trials = runs(folder, "interrupted", "trial")
    assert len(trials) == len(ended_trials(folder, "interrupted")) == TRIALS
    assert {run.info.status for run in trials} == {"FINISHED"}
    best = min(run.data.metrics["rmse"] for run in trials)
    assert summary["best"]["rmse"] == best
    assert summary["refit"]["rmse"] == pytest.approx(best, abs=1e-4)
    (parent,) = runs(folder, "interrupted", "search")
    assert parent.info.status == "FINISHED"


def test_complete_search_is_known_to_be_complete(folder: Path) -> None:
    """Its best trial and its refit are read from the store."""
    result = run_search(["--resume", "whole", "--json"], folder)
    assert result.code == 0, result.stderr
    assert "nothing is left to do" in result.stderr
    summary = json.loads(result.stdout)
    assert summary["refit"]["version"] == "1"
    assert summary["best"]["rmse"] == pytest.approx(8.9468, abs=1e-4)


def test_complete_search_is_extended(folder: Path) -> None:
    """More trials of the same search."""
    before = ended_trials(folder, "whole")
    result = run_search(["--resume", "whole", "--num-samples", "6", "--json"], folder)
    assert result.code == 0, result.stderr
    after = ended_trials(folder, "whole")
    assert len(after) == 6
    assert {trial_id: after[trial_id] for trial_id in before} == before


def test_new_search_starts_from_an_older_one(folder: Path) -> None:
    """--warm-start reads trials whose metric is not named in the store."""
    options = ["--trainable", "lasso", "--num-samples", "1", "--warm-start", "whole"]
    data = ["--train-data", "sample", "--valid-data", "sample"]
    result = run_search([*options, *data], folder)
    assert result.code == 0, result.stderr
    assert "scored trials of 'whole'" in result.stderr
