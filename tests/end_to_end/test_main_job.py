"""The results of the main job: its output, its runs in MLflow, its registered model."""

from __future__ import annotations

import getpass
import json
import re
import stat
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from command import (
    HAS_REAL_DATA,
    NO_REAL_DATA,
    REAL_TRAIN,
    REAL_VALID,
    REPOSITORY,
    Result,
    processes,
    wait_until,
)

pytestmark = pytest.mark.slow
needs_real_data = pytest.mark.skipif(not HAS_REAL_DATA, reason=NO_REAL_DATA)

MODEL = "nyc-taxi-duration"
SEARCHED = {"max_depth", "learning_rate", "reg_alpha", "reg_lambda", "min_child_weight"}
COMMON = {"train-data-path", "valid-data-path", "preprocessing"}
Report = dict[str, Any]


@pytest.fixture(scope="module")
def client(main_job: Result) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(main_job.store)


@pytest.fixture(scope="module")
def runs(client: Any, main_report: Report) -> list[Any]:
    """The runs of the main job, without those of later searches in the same store."""
    parent = main_report["parent_run_id"]
    experiment = [main_report["experiment_id"]]
    children = client.search_runs(experiment, f"tags.`mlflow.parentRunId` = '{parent}'")
    return [client.get_run(parent), *children]


@pytest.fixture(scope="module")
def of_role(runs: list[Any]) -> Callable[[str], list[Any]]:
    def found(role: str) -> list[Any]:
        return [run for run in runs if run.data.tags["search.role"] == role]

    return found


@pytest.fixture(scope="module")
def trials(of_role: Callable[[str], list[Any]]) -> list[Any]:
    return sorted(of_role("trial"), key=lambda run: str(run.data.tags["search.trial_id"]))


@pytest.fixture(scope="module")
def refit(of_role: Callable[[str], list[Any]]) -> Any:
    (run,) = of_role("refit")
    return run


@pytest.fixture(scope="module")
def curves(client: Any, trials: list[Any]) -> dict[str, list[Any]]:
    """All points of each trial's learning curve, by run id."""
    ids = [run.info.run_id for run in trials]
    return {run_id: client.get_metric_history(run_id, "validation-rmse") for run_id in ids}


# The output


def test_stdout_is_one_json_object(main_job: Result) -> None:
    """A script can parse stdout as it is."""
    assert main_job.stdout.count("\n") == 1
    assert isinstance(json.loads(main_job.stdout), dict)


def test_report_has_exactly_the_promised_keys(main_report: Report) -> None:
    """Scripts rely on the keys of the report."""
    assert {
        key: set(part) if isinstance(part, dict) else None for key, part in main_report.items()
    } == {
        "search": None,
        "task": None,
        "metric": None,
        "direction": None,
        "experiment_id": None,
        "parent_run_id": None,
        "data": {"origin", "train_rows", "valid_rows", "dropped", "digest"},
        "trials": {"finished", "stopped", "failed", "interrupted", "total"},
        "best": {"trial_id", "run_id", "score", "rmse", "params"},
        "refit": {
            "run_id",
            "model_uri",
            "version",
            "alias",
            "score",
            "test_score",
            "rmse",
            "test_rmse",
        },
        "seconds": {"total", "start_up", "search", "refit"},
    }


def test_report_names_task_and_metric(main_report: Report) -> None:
    """The score of a taxi search is the RMSE, and lower is better."""
    assert main_report["task"] == "taxi"
    assert (main_report["metric"], main_report["direction"]) == ("rmse", "minimize")
    best, refit = main_report["best"], main_report["refit"]
    assert best["score"] == best["rmse"]
    assert (refit["score"], refit["test_score"]) == (refit["rmse"], refit["test_rmse"])


def test_report_counts_the_trials(main_report: Report) -> None:
    """All six trials have ended; none failed, none was interrupted."""
    counts = main_report["trials"]
    assert counts["total"] == 6 == counts["finished"] + counts["stopped"]
    assert counts["finished"] >= 1


@needs_real_data
def test_report_describes_the_data(main_report: Report) -> None:
    """All rows of the real months are used, because these files hold usable trips only."""
    data = main_report["data"]
    assert (data["origin"], data["train_rows"], data["valid_rows"]) == ("files", 73_908, 61_921)
    assert data["dropped"] == {}
    assert re.fullmatch("[0-9a-f]{32}", data["digest"])


def test_parts_take_no_longer_than_the_command(main_job: Result, main_report: Report) -> None:
    """The reported seconds of the parts add up to no more than the command took."""
    seconds = main_report["seconds"]
    parts = seconds["start_up"] + seconds["search"] + seconds["refit"]
    assert 0 < parts <= seconds["total"] + 0.01 <= main_job.ended_s - main_job.started_s


def test_libraries_print_nothing_on_stderr(main_job: Result) -> None:
    """Messages of Ray and MLflow do not reach stderr."""
    assert not re.search(
        r"INFO|WARNING|Warning|Traceback|ERROR|\[20\d\d-|raylet|pid=|alembic", main_job.stderr
    )


def test_last_lines_have_the_next_commands(main_job: Result) -> None:
    """The user can copy the commands that show the runs and serve the model."""
    end = "\n".join(main_job.stderr_lines[-6:])
    assert f"mlflow ui --backend-store-uri {main_job.store}" in end
    assert f"mlflow models serve -m models:/{MODEL}@" in end


def test_last_lines_have_the_best_trial(main_job: Result, main_report: Report) -> None:
    """The best trial and its score are on stderr too."""
    end = "\n".join(main_job.stderr_lines[-6:])
    assert main_report["best"]["trial_id"] in end
    assert f"{main_report['best']['rmse']:.4f}" in end


# Files and processes


def test_only_the_user_can_read_the_state_folder(main_job: Result) -> None:
    """Other users of the machine cannot read the state of a search."""
    assert stat.S_IMODE((main_job.folder / ".search").stat().st_mode) == 0o700


def test_no_process_is_left(main_job: Result) -> None:
    """When the command ends, its Ray cluster ends too."""
    mark = main_job.mark
    wait_until(lambda: not processes(mark), 10, f"all processes gone, left: {processes(mark)}")


def test_folder_has_the_store_and_the_state_only(main_job: Result) -> None:
    """The command leaves MLflow's store, its artifacts and the state folder, nothing else."""
    names = {path.name for path in main_job.folder.iterdir()}
    assert {name for name in names if not name.startswith(("stdout-", "stderr-"))} == {
        "mlflow.db",
        "mlruns",
        ".search",
    }


# Runs in MLflow


def test_runs_are_one_parent_the_trials_and_one_refit(runs: list[Any]) -> None:
    """There is one run for each trial, and no other run."""
    roles = sorted(run.data.tags["search.role"] for run in runs)
    assert roles == ["refit", "search", *["trial"] * 6]


def test_every_run_is_finished(runs: list[Any]) -> None:
    """No run of a successful search is RUNNING, FAILED or KILLED."""
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_parent_has_the_name_of_the_search(
    of_role: Callable[[str], list[Any]], main_report: Report
) -> None:
    """The parent run has the search's name and the id in the report."""
    (parent,) = of_role("search")
    assert parent.info.run_name == main_report["search"]
    assert parent.info.run_id == main_report["parent_run_id"]


def test_trials_are_numbered_and_end_as_reported(trials: list[Any], main_report: Report) -> None:
    """Each trial has its own id, and the report counts the statuses of the runs."""
    assert len({run.data.tags["search.trial_id"] for run in trials}) == 6
    statuses = [run.data.tags["search.status"] for run in trials]
    assert set(statuses) <= {"finished", "stopped"}
    assert statuses.count("finished") == main_report["trials"]["finished"]
    assert statuses.count("stopped") == main_report["trials"]["stopped"]


def test_every_run_has_author_date_model_and_commit(runs: list[Any], main_job: Result) -> None:
    """These tags are on every run, not only on the parent."""
    days = {f"{datetime.fromtimestamp(s, UTC):%Y-%m-%d}" for s in _lifetime_s(main_job)}
    commit = _commit()
    for run in runs:
        tags = run.data.tags
        assert tags["developer"] == getpass.getuser()
        assert tags["mlflow.user"] == getpass.getuser()
        assert tags["model"] == "xgboost"
        assert tags["date"] in days
        assert tags["mlflow.source.name"]
        assert tags["mlflow.source.git.commit"] == commit


def test_trial_has_exactly_the_promised_params(trials: list[Any]) -> None:
    """The hyperparameters under their own names, the data's paths, the preprocessing."""
    for run in trials:
        assert set(run.data.params) == SEARCHED | COMMON


@needs_real_data
def test_trial_has_the_paths_of_its_data(trials: list[Any]) -> None:
    """The paths are as the user has named them."""
    for run in trials:
        assert run.data.params["train-data-path"] == str(REAL_TRAIN)
        assert run.data.params["valid-data-path"] == str(REAL_VALID)


def test_trial_has_exactly_the_promised_metrics(trials: list[Any]) -> None:
    """The curve, its lowest value, the round of that, the seconds of the fit; no process ids."""
    for run in trials:
        assert set(run.data.metrics) == {
            "validation-rmse",
            "rmse",
            "best_iteration",
            "fit_seconds",
        }


def test_curve_has_every_round_once(trials: list[Any], curves: dict[str, list[Any]]) -> None:
    """The steps are the rounds from 0; a finished trial has all twelve."""
    for run in trials:
        steps = sorted(point.step for point in curves[run.info.run_id])
        assert steps == list(range(len(steps)))
        if run.data.tags["search.status"] == "finished":
            assert len(steps) == 12


def test_score_is_the_lowest_value_of_the_curve(
    trials: list[Any], curves: dict[str, list[Any]]
) -> None:
    """`rmse` is the lowest value of the curve, `best_iteration` is its round."""
    for run in trials:
        best = min(curves[run.info.run_id], key=lambda point: float(point.value))
        assert run.data.metrics["rmse"] == best.value
        assert run.data.metrics["best_iteration"] == best.step


def test_fit_takes_no_longer_than_its_run(trials: list[Any]) -> None:
    """`fit_seconds` is positive and at most the duration of the run."""
    for run in trials:
        took_s = (run.info.end_time - run.info.start_time) / 1000
        assert 0 < run.data.metrics["fit_seconds"] <= took_s + 0.5


def test_runs_have_the_real_times(runs: list[Any], main_job: Result) -> None:
    """Runs start and end while the command runs, and children within their parent."""
    parent = runs[0]
    start_s, end_s = _lifetime_s(main_job)
    for run in runs:
        assert start_s <= run.info.start_time / 1000 <= run.info.end_time / 1000 <= end_s
        assert parent.info.start_time <= run.info.start_time
        assert run.info.end_time <= parent.info.end_time


def test_every_run_has_the_data_as_its_input(runs: list[Any], main_report: Report) -> None:
    """Each run has one dataset, with the digest in the report."""
    for run in runs:
        (used,) = run.inputs.dataset_inputs
        assert used.dataset.digest == main_report["data"]["digest"]


def test_report_has_the_best_trial(trials: list[Any], main_report: Report) -> None:
    """The best trial is the one with the lowest score; the report has its parameters."""
    best = min(trials, key=lambda run: float(run.data.metrics["rmse"]))
    reported = main_report["best"]
    assert reported["run_id"] == best.info.run_id
    assert reported["trial_id"] == best.data.tags["search.trial_id"]
    assert reported["rmse"] == best.data.metrics["rmse"]
    assert set(reported["params"]) == SEARCHED
    for name, value in reported["params"].items():
        assert float(best.data.params[name]) == value


def test_values_are_in_the_search_space(trials: list[Any]) -> None:
    """The depth is a whole number from 4 to 100; the others are in their ranges."""
    for run in trials:
        assert re.fullmatch(r"\d+", run.data.params["max_depth"])
        for name, low, high in (
            ("max_depth", 4, 100),
            ("learning_rate", 0.0497, 1.0),
            ("reg_alpha", 0.0067, 0.368),
            ("reg_lambda", 0.00247, 0.368),
            ("min_child_weight", 0.367, 20.1),
        ):
            assert low <= float(run.data.params[name]) <= high


def test_parent_has_the_installed_packages(
    client: Any, main_report: Report, tmp_path: Path
) -> None:
    """The artifact lists every installed package with its exact version."""
    kept = client.download_artifacts(
        main_report["parent_run_id"], "environment/requirements.txt", str(tmp_path)
    )
    lines = Path(kept).read_text().splitlines()
    assert f"mlflow=={metadata.version('mlflow')}" in lines
    assert f"xgboost=={metadata.version('xgboost')}" in lines
    assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.+!]+", line)] == []


def test_parent_has_python_and_platform(of_role: Callable[[str], list[Any]]) -> None:
    """The parent run has tags for the Python version and the platform."""
    (parent,) = of_role("search")
    tags = parent.data.tags
    assert any("python" in name.lower() for name in tags)
    assert any("platform" in name.lower() for name in tags)


# The refit and its models


def test_refit_has_the_score_of_the_best_trial(main_report: Report) -> None:
    """The same rows, parameters and rounds give the same model."""
    assert main_report["refit"]["rmse"] == pytest.approx(main_report["best"]["rmse"], abs=1e-6)
    assert main_report["refit"]["test_rmse"] is None


def test_refit_has_model_and_preprocessor_as_files(client: Any, refit: Any) -> None:
    """The booster and the vectorizer are plain artifacts under the promised paths."""
    folders = ("models", "preprocessor")
    paths = [
        artifact.path
        for folder in folders
        for artifact in client.list_artifacts(refit.info.run_id, folder)
    ]
    assert paths == ["models/model.ubj", "preprocessor/preprocessor.bin"]


def test_plain_model_is_the_flavour_model(
    client: Any, main_job: Result, refit: Any, tmp_path: Path
) -> None:
    """`mlflow.xgboost` loads the same booster that is in the plain file."""
    import xgboost

    plain = client.download_artifacts(refit.info.run_id, "models/model.ubj", str(tmp_path))
    assert (
        flavour_model(main_job.store, refit).save_raw()
        == xgboost.Booster(model_file=plain).save_raw()
    )


def test_refit_is_registered(client: Any, main_report: Report, refit: Any) -> None:
    """The registered version belongs to the refit run and is ready."""
    version = client.get_model_version(MODEL, main_report["refit"]["version"])
    assert main_report["refit"]["run_id"] == refit.info.run_id == version.run_id
    assert main_report["refit"]["model_uri"] == f"models:/{MODEL}/{version.version}"
    assert version.status == "READY"


@needs_real_data
def test_first_version_is_champion(client: Any, main_report: Report) -> None:
    """The first version in an empty registry gets the alias champion."""
    assert main_report["refit"]["alias"] == "champion"
    champion = client.get_model_version_by_alias(MODEL, "champion")
    assert str(champion.version) == main_report["refit"]["version"]


def test_model_requires_published_packages_only(main_job: Result, main_report: Report) -> None:
    """Its requirements are pinned, come from a package index, and do not name our packages."""
    import mlflow

    mlflow.set_tracking_uri(main_job.store)
    file = mlflow.pyfunc.get_model_dependencies(main_report["refit"]["model_uri"])
    lines = [line.strip() for line in Path(file).read_text().splitlines() if line.strip()]
    assert {"mlflow", "xgboost"} <= {line.partition("==")[0] for line in lines}
    for line in lines:
        name, version = re.fullmatch(r"([A-Za-z0-9._-]+)==([\w.+!]+)", line).groups()  # type: ignore[union-attr]
        assert name not in ("search", "trainables")
        assert metadata.version(name) == version
        assert metadata.distribution(name).read_text("direct_url.json") is None


def test_model_has_signature_and_example(main_job: Result, main_report: Report) -> None:
    """The logged model describes its input and its output."""
    import mlflow

    mlflow.set_tracking_uri(main_job.store)
    info = mlflow.models.get_model_info(main_report["refit"]["model_uri"])
    assert info.signature.inputs.input_names() == [
        "PULocationID",
        "DOLocationID",
        "trip_distance",
    ]
    assert info.signature.outputs is not None
    assert info.saved_input_example_info is not None


# Searches without a free parameter


@needs_real_data
def test_lasso_with_fixed_alpha_runs_one_trial(lasso_and_linear: tuple[Result, Result]) -> None:
    """More trials would all try the same point; stderr says that only one is run."""
    lasso, _linear = lasso_and_linear
    assert lasso.code == 0, lasso.stderr
    report = json.loads(lasso.stdout)
    assert report["trials"]["total"] == 1
    assert report["best"]["params"] == {"alpha": 0.01}
    assert "nothing left to search" in lasso.stderr


@needs_real_data
def test_lasso_has_the_known_rmse(lasso_and_linear: tuple[Result, Result]) -> None:
    """The RMSE of alpha 0.01 on the two months of 2021 is known."""
    report = json.loads(lasso_and_linear[0].stdout)
    assert round(report["best"]["rmse"], 4) == 11.1673
    assert round(report["refit"]["rmse"], 4) == 11.1673


@needs_real_data
def test_worse_model_is_challenger(
    lasso_and_linear: tuple[Result, Result], client: Any, main_report: Report
) -> None:
    """The better version stays champion."""
    lasso = json.loads(lasso_and_linear[0].stdout)
    assert lasso["refit"]["alias"] == "challenger"
    found = {name: client.get_model_version_by_alias(MODEL, name) for name in ALIASES}
    aliases = {name: str(version.version) for name, version in found.items()}
    assert aliases == {
        "champion": main_report["refit"]["version"],
        "challenger": lasso["refit"]["version"],
    }


ALIASES = ("champion", "challenger")


@needs_real_data
def test_same_rows_have_the_same_digest(
    lasso_and_linear: tuple[Result, Result], main_report: Report
) -> None:
    """Two searches on the same trips describe their data in the same way."""
    assert json.loads(lasso_and_linear[0].stdout)["data"] == main_report["data"]


@needs_real_data
def test_model_without_rounds_has_one_point_and_no_best_iteration(
    lasso_and_linear: tuple[Result, Result], client: Any
) -> None:
    """The curve of a linear model is one point, and there is no best round."""
    report = json.loads(lasso_and_linear[0].stdout)
    run = client.get_run(report["best"]["run_id"])
    assert set(run.data.metrics) == {"validation-rmse", "rmse", "fit_seconds"}
    assert len(client.get_metric_history(run.info.run_id, "validation-rmse")) == 1
    assert set(run.data.params) == {"alpha"} | COMMON
    (plain,) = client.list_artifacts(report["refit"]["run_id"], "models")
    assert plain.path == "models/model.bin"


@needs_real_data
def test_linear_has_the_known_rmse(lasso_and_linear: tuple[Result, Result]) -> None:
    """The RMSE of linear regression on the two months of 2021 is known."""
    from mlflow import MlflowClient

    _lasso, linear = lasso_and_linear
    assert linear.code == 0, linear.stderr
    assert linear.stdout == ""  # without --json all messages are on stderr
    (experiment,) = MlflowClient(linear.store).search_experiments(
        filter_string="name = 'nyc-taxi-experiment'"
    )
    runs = MlflowClient(linear.store).search_runs(
        [experiment.experiment_id], "tags.`search.role` = 'trial'"
    )
    assert [round(run.data.metrics["rmse"], 4) for run in runs] == [7.7587]
    assert "7.7587" in linear.stderr


def flavour_model(store: str, refit: Any) -> Any:
    """Load the refit's model by its own flavour; the run lists its logged models."""
    import mlflow

    mlflow.set_tracking_uri(store)
    uris = [f"models:/{output.model_id}" for output in refit.outputs.model_outputs]
    (uri,) = [uri for uri in uris if "xgboost" in mlflow.models.get_model_info(uri).flavors]
    return mlflow.xgboost.load_model(uri)


def _lifetime_s(result: Result) -> tuple[float, float]:
    """Return start and end of the command, widened by 1 ms because MLflow has milliseconds."""
    return result.started_s - 0.001, result.ended_s + 0.001


def _commit() -> str:
    command = ["git", "-C", str(REPOSITORY), "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
