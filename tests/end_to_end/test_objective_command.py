"""``--objective``: a script's objective from the command line."""

from __future__ import annotations

import json

import pytest
from command import Result, run_search
from mlflow import MlflowClient

pytestmark = pytest.mark.slow

TRAIN = """
import mlflow
from hyperopt import STATUS_OK, hp
from hyperopt.pyll import scope

import loss_beside

mlflow.set_tracking_uri("http://127.0.0.1:9")
mlflow.set_experiment("not-this-one")

search_space = {"n": scope.int(hp.quniform("n", 1, 9, 1)), "kind": hp.choice("kind", ["a", "b"])}


def objective(params):
    mlflow.log_metric("seen", params["n"])
    if params["kind"] == "b" and params["n"] > 7:
        print("this will not do")
        raise RuntimeError("b is too large")
    return {"loss": loss_beside.loss(params["n"]), "status": STATUS_OK}


if __name__ == "__main__":
    raise SystemExit("it is not run by itself")
"""
BESIDE = "def loss(n):\n    return (n - 3) ** 2\n"
OPTIONS = ["--objective", "train.py", "--json", "--name", "mine", "--num-samples"]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A search of eight trials."""
    folder = tmp_path_factory.mktemp("objective")
    (folder / "train.py").write_text(TRAIN)
    (folder / "loss_beside.py").write_text(BESIDE)
    return run_search([*OPTIONS, "8"], folder)


def test_objective_is_searched_as_it_stands(searched: Result) -> None:
    """Its imports beside it work; the JSON names task, metric and best, and there is no refit."""
    assert searched.code == 0, searched.stderr
    report = json.loads(searched.stdout)
    assert (report["task"], report["metric"], report["direction"]) == (
        "objective",
        "loss",
        "minimize",
    )
    assert report["refit"] is report["data"] is None
    assert report["trials"]["total"] == 8
    assert report["best"]["score"] == report["best"]["loss"]


def test_runs_are_in_the_search_s_store_only(searched: Result) -> None:
    """The store that the script names while it is imported is not asked."""
    client = MlflowClient(searched.store)
    names = {experiment.name for experiment in client.search_experiments()}
    assert names == {"Default", "train"}
    experiment = client.get_experiment_by_name("train")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.`search.role` = 'trial'")
    assert len(runs) == 8
    for run in runs:
        assert run.data.metrics["seen"] == float(run.data.params["n"])
        assert run.data.params["kind"] in ("a", "b")
        assert len(run.data.tags["search.code_digest"]) == 32


def test_source_of_the_objective_is_an_artifact_of_the_search(searched: Result) -> None:
    """One can see what was searched."""
    client = MlflowClient(searched.store)
    parent = json.loads(searched.stdout)["parent_run_id"]
    (file,) = client.list_artifacts(parent, "code")
    assert file.path == "code/train.py"


def test_changed_objective_goes_on_only_when_told_to(searched: Result) -> None:
    """Old scores may not compare with new ones. A comment is no change."""
    folder = searched.folder
    (folder / "train.py").write_text(TRAIN.replace("STATUS_OK}", "STATUS_OK}  # as before"))
    resume = ["--resume", "mine", "--json", "--num-samples"]
    assert run_search([*resume, "9"], folder).code == 0
    (folder / "loss_beside.py").write_text(BESIDE.replace("3", "4"))
    refused = run_search([*resume, "10"], folder)
    assert refused.code == 2
    assert "--changed-objective" in refused.stderr_lines[-1]
    told = run_search([*resume, "10", "--changed-objective"], folder)
    assert told.code == 0, told.stderr
    assert json.loads(told.stdout)["trials"]["total"] == 10


def test_options_of_another_task_are_refused(searched: Result) -> None:
    """An objective has no `--trainable`; `--max-steps` goes with an objective only."""
    for options, flag in (
        ([*OPTIONS, "2", "--trainable", "lasso"], "--trainable"),
        (["--max-steps", "5"], "--max-steps"),
    ):
        refused = run_search(options, searched.folder)
        assert refused.code == 2
        assert refused.stderr_lines[-1].startswith(f"search: {flag}")
