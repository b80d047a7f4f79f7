"""``fmin`` in a script, as somebody has written it for hyperopt's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from command import MARK, REPOSITORY, processes, wait_until
from mlflow import MlflowClient
from mlflow.entities import Run

pytestmark = pytest.mark.slow

LIMIT_S = 240

SEVERAL = """
import json

import hyperopt
import mlflow
import numpy as np
from hyperopt import STATUS_OK, Trials, hp, tpe
from hyperopt.pyll import scope

from search import fmin
from search.trial import report

mlflow.set_experiment("theirs")
offset = np.arange(4.0)
found = {}

space = {
    "lr": hp.loguniform("rate", -5, 0),
    "depth": scope.int(hp.quniform("depth", 1, 9, 1)),
    "family": hp.choice("family", [{"kind": "a", "w": hp.uniform("w", 0, 1)}, {"kind": "b"}]),
    "seed": 42,
}


def quiet(params):
    loss = (params["lr"] - 0.1) ** 2 + abs(params["depth"] - 4)
    return loss + params["family"].pop("w", 0.5) + offset.sum() - params.pop("seed") / 7


def talkative(params):
    print("looking at", params["depth"])
    with mlflow.start_run(nested=True):
        mlflow.set_tag("team", "taxis")
        mlflow.log_params(params)
        mlflow.log_metric("depth_squared", params["depth"] ** 2)
        mlflow.log_text("a note", "notes/note.txt")
    return {"loss": quiet(params), "status": STATUS_OK, "other": [params["depth"]]}


def failing(x):
    if x > 0:
        raise KeyError("too far")
    return -x


def curved(x):
    for epoch in range(9):
        report(abs(x) + 9 - epoch, step=epoch)
    return abs(x)


def hyperopts(**more):
    trials, rstate = Trials(), np.random.default_rng(7)
    best = hyperopt.fmin(
        quiet, space, tpe.suggest, 30, trials=trials, rstate=rstate, verbose=False
    )
    return best, trials


best, theirs = hyperopts()
ours = Trials()
found["same best"] = [
    best,
    fmin(quiet, space, tpe.suggest, 30, trials=ours, rstate=np.random.default_rng(7),
         max_concurrent=1, name="one-by-one"),
]
found["losses"] = [theirs.losses(), ours.losses()]
found["vals"] = [theirs.vals, ours.vals]

trials = Trials()
fmin(talkative, space, tpe.suggest, 6, trials=trials, seed=1, name="talkative")
found["others"] = [result["other"][0] for result in trials.results]

trials = Trials()
try:
    fmin(failing, hp.uniform("x", -1, 1), tpe.suggest, 40, trials=trials, seed=1, name="raises")
except KeyError as error:
    found["raised"] = error.args[0]

trials = Trials()
fmin(failing, hp.uniform("x", -1, 1), tpe.suggest, 12, trials=trials, seed=1,
     catch_eval_exceptions=True, name="catches")
found["caught"] = [len(trials), len(trials._dynamic_trials)]

trials = Trials()
fmin(abs, hp.uniform("x", -1, 1), tpe.suggest, trials=trials, seed=1, loss_threshold=0.3,
     name="threshold")
found["threshold"] = [min(trials.losses()), len(trials)]

fmin(curved, hp.uniform("x", -1, 1), tpe.suggest, 8, seed=1, name="curved")
json.dump(found, open("found.json", "w"), default=float)
"""

KILLED = """
import os
import time

from hyperopt import Trials, hp, tpe

from search import fmin


def slow(x):
    open(f"ran/{x!r}-{os.getpid()}-{time.time()}", "w").close()
    time.sleep(0.5)
    return {"loss": x * x, "status": "ok", "twice": 2 * x}


trials = Trials()
again = {"resume": "killed"} if os.path.exists("again") else {"name": "killed", "seed": 5}
fmin(slow, hp.uniform("x", -1, 1), tpe.suggest, 16, trials=trials, **again)
assert len(trials) == 16, len(trials)
assert all(result["twice"] == 2 * vals["x"][0] for result, vals in
           [(t["result"], t["misc"]["vals"]) for t in trials.trials])
"""


def started(script: str, folder: Path) -> subprocess.Popen[bytes]:
    (folder / "script.py").write_text(script)
    with (folder / "stderr.txt").open("ab") as stderr:
        return subprocess.Popen(
            [sys.executable, "script.py"],
            cwd=folder,
            stderr=stderr,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), MARK: folder.name},
        )


def runs_of(folder: Path, experiment: str, search: str, role: str = "trial") -> list[Run]:
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return []
    runs = client.search_runs([found.experiment_id], f"tags.`search.role` = '{role}'")
    named = [run for run in runs if str(run.info.run_name).startswith(search)]
    return sorted(named, key=lambda run: str(run.info.run_name))


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which a script has called ``fmin`` several times."""
    folder = tmp_path_factory.mktemp("several")
    with started(SEVERAL, folder) as script:
        code = script.wait(LIMIT_S)
    assert code == 0, (folder / "stderr.txt").read_text()
    return folder


@pytest.fixture(scope="module")
def found(several: Path) -> Mapping[str, Any]:
    """What the script found."""
    result: Mapping[str, Any] = json.loads((several / "found.json").read_text())
    return result


def test_results_are_hyperopts_at_one_trial_at_a_time(found: Mapping[str, Any]) -> None:
    """The same points, losses and best values from the same generator."""
    for what in ("same best", "losses", "vals"):
        theirs, ours = found[what]
        assert ours == theirs


def test_what_an_objective_logs_is_in_its_trials_run_once(
    several: Path, found: Mapping[str, Any]
) -> None:
    """Params, metrics, tags and files of its own run, in the experiment that the script named."""
    trials = runs_of(several, "theirs", "talkative-")
    assert len(trials) == 6
    client = MlflowClient(f"sqlite:///{several / 'mlflow.db'}")
    depths = [int(run.data.params["depth"]) for run in trials]
    assert sorted(depths) == sorted(found["others"])
    for run, depth in zip(trials, depths, strict=True):
        assert run.data.metrics["depth_squared"] == depth**2
        assert run.data.params["family"] in ("0", '{"kind": "b"}')  # by its value, if that is plain
        assert run.data.tags["team"] == "taxis"
        assert [file.path for file in client.list_artifacts(run.info.run_id, "notes")] == [
            "notes/note.txt"
        ]
    everything = client.search_runs([trials[0].info.experiment_id])
    assert {run.data.tags.get("search.role") for run in everything} == {"search", "trial"}


def test_first_exception_of_an_objective_is_raised(several: Path, found: Mapping[str, Any]) -> None:
    """With its own type; the search is FAILED, and nothing is left RUNNING."""
    assert found["raised"] == "too far"
    (parent,) = runs_of(several, "theirs", "raises", "search")
    assert parent.info.status == "FAILED"
    assert {run.info.status for run in runs_of(several, "theirs", "raises-")} <= {
        "FINISHED",
        "FAILED",
        "KILLED",
    }


def test_caught_exceptions_are_failures_of_their_trials(
    several: Path, found: Mapping[str, Any]
) -> None:
    """The search goes on to its last trial; hyperopt's Trials hide the failed ones."""
    scored, all_trials = found["caught"]
    assert 0 < scored < all_trials == 12
    statuses = [run.data.tags["search.status"] for run in runs_of(several, "theirs", "catches-")]
    assert statuses.count("failed") == 12 - scored


def test_threshold_ends_a_search_without_a_number_of_trials(found: Mapping[str, Any]) -> None:
    """No further trial starts once a loss is below it."""
    best, trials = found["threshold"]
    assert best < 0.3
    assert trials < 100


def test_reports_are_the_learning_curve(several: Path) -> None:
    """A step is recorded once; the score is what was returned, or the last report of a stop."""
    client = MlflowClient(f"sqlite:///{several / 'mlflow.db'}")
    for run in runs_of(several, "theirs", "curved-"):
        curve = client.get_metric_history(run.info.run_id, "validation-loss")
        steps = [point.step for point in curve]
        assert steps == list(range(len(steps)))
        x = abs(float(run.data.params["x"]))
        if run.data.tags["search.status"] == "finished":
            assert (len(steps), run.data.metrics["loss"]) == (9, x)
        else:
            assert run.data.metrics["loss"] == curve[-1].value


def test_ray_is_gone_with_the_script(several: Path) -> None:
    """It stays up between the calls of one process, and not longer."""
    wait_until(lambda: not processes(several.name), 20, "Ray's processes have ended")


def test_script_that_was_killed_goes_on(tmp_path: Path) -> None:
    """Finished trials are not run again, and their results are there."""
    (tmp_path / "ran").mkdir()
    with started(KILLED, tmp_path) as script:

        def finished() -> list[Run]:
            runs = runs_of(tmp_path, "script", "killed-")
            return [run for run in runs if run.info.status == "FINISHED"]

        wait_until(lambda: len(finished()) >= 4, 120, "four trials have finished")
        script.send_signal(signal.SIGKILL)
    ended = {run.info.run_id for run in finished()}
    points = {run.data.params["x"] for run in finished()}
    began = time.time()
    (tmp_path / "again").touch()
    with started(KILLED, tmp_path) as script:
        assert script.wait(LIMIT_S) == 0, (tmp_path / "stderr.txt").read_text()
    runs = runs_of(tmp_path, "script", "killed-")
    assert len(runs) == 16
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert ended <= {run.info.run_id for run in runs}
    again = [name for name in os.listdir(tmp_path / "ran") if float(name.split("-")[-1]) > began]
    assert not {name.rsplit("-", 2)[0] for name in again} & points
