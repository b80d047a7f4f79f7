"""A search that an earlier version began goes on: the names in the store are the same.

``data/store-0.1.0.sql.gz`` is a store as the version before the rooms left it: the search ``whole``
(4 trials of lasso, refitted and registered), and ``interrupted`` (15 of 24 trials of XGBoost ended,
2 were running), both on the generated sample.
"""

from __future__ import annotations

import gzip
import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from command import Result, run_search
from mlflow import MlflowClient
from mlflow.entities import Run

pytestmark = pytest.mark.slow

STORE = Path(__file__).with_name("data") / "store-0.1.0.sql.gz"
TRIALS = 24
ENDED_BEFORE = 15


@dataclass(frozen=True)
class WentOn:
    """A search of the earlier version, and the commands that went on with it."""

    folder: Path
    before: dict[str, tuple[object, ...]]  # the trials that had ended
    results: Sequence[Result]


@pytest.fixture(scope="module")
def searches(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Future[WentOn]]:
    """Both searches go on at once, each in its own copy of the store of the earlier version."""
    first, second = (tmp_path_factory.mktemp("older") for _ in range(2))
    script = gzip.decompress(STORE.read_bytes()).decode().replace("/STORE", str(first))
    with sqlite3.connect(first / "mlflow.db") as database:
        database.executescript(script)
    # MLflow refuses a schema that is older than itself
    upgrade = [sys.executable, "-m", "mlflow", "db", "upgrade", uri_of(first)]
    subprocess.run(upgrade, check=True, capture_output=True)
    shutil.copy(first / "mlflow.db", second)
    pool = ThreadPoolExecutor(2)
    return {
        "interrupted": pool.submit(go_on, first, "interrupted", [[]]),
        "whole": pool.submit(go_on, second, "whole", [[], ["--num-samples", "6"]]),
    }


def go_on(folder: Path, search: str, commands: Sequence[Sequence[str]]) -> WentOn:
    """Resume a search with the options of each command."""
    before = ended_trials(folder, search)
    results = [run_search(["--resume", search, "--json", *more], folder) for more in commands]
    return WentOn(folder, before, results)


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
def interrupted(searches: Mapping[str, Future[WentOn]]) -> WentOn:
    found = searches["interrupted"].result()
    assert len(found.before) == ENDED_BEFORE
    assert found.results[0].code == 0, found.results[0].stderr
    return found


@pytest.fixture(scope="module")
def whole(searches: Mapping[str, Future[WentOn]]) -> WentOn:
    return searches["whole"].result()


def test_ended_trials_stay(interrupted: WentOn) -> None:
    """They are not run again, and their runs do not change."""
    (resumed,) = interrupted.results
    assert f"{ENDED_BEFORE} of {TRIALS} trials have ended" in resumed.stderr
    after = ended_trials(interrupted.folder, "interrupted")
    assert {trial_id: after[trial_id] for trial_id in interrupted.before} == interrupted.before


def test_search_is_completed(interrupted: WentOn) -> None:
    """The interrupted trials run in their own runs; the best trial is refitted and registered."""
    summary, folder = json.loads(interrupted.results[0].stdout), interrupted.folder
    trials = runs(folder, "interrupted", "trial")
    assert len(trials) == len(ended_trials(folder, "interrupted")) == TRIALS
    assert {run.info.status for run in trials} == {"FINISHED"}
    best = min(run.data.metrics["rmse"] for run in trials)
    assert summary["best"]["rmse"] == best
    assert summary["refit"]["rmse"] == pytest.approx(best, abs=1e-4)
    (parent,) = runs(folder, "interrupted", "search")
    assert parent.info.status == "FINISHED"


def test_complete_search_is_known_to_be_complete(whole: WentOn) -> None:
    """Its best trial and its refit are read from the store."""
    result = whole.results[0]
    assert result.code == 0, result.stderr
    assert "nothing is left to do" in result.stderr
    summary = json.loads(result.stdout)
    assert summary["refit"]["version"] == "1"
    assert summary["best"]["rmse"] == pytest.approx(8.9468, abs=1e-4)


def test_complete_search_is_extended(whole: WentOn) -> None:
    """More trials of the same search."""
    extended = whole.results[1]
    assert extended.code == 0, extended.stderr
    after = ended_trials(whole.folder, "whole")
    assert len(after) == 6
    assert {trial_id: after[trial_id] for trial_id in whole.before} == whole.before
