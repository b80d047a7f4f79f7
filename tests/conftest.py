"""Searches that several tests check; each one runs once in a session."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    # its folder is on the path once pytest has collected a test beside it
    from command import Result

NewStore = Callable[[Path], str]


def selected(request: pytest.FixtureRequest, parameter: str) -> set[Any]:
    """Return the values of a parameter in the selected tests of the module."""
    return {
        item.callspec.params[parameter]
        for item in request.session.items
        if item.path == request.path and isinstance(item, pytest.Function)
        if parameter in getattr(getattr(item, "callspec", None), "params", {})
    }


@pytest.fixture(scope="session")
def new_store(tmp_path_factory: pytest.TempPathFactory) -> NewStore:
    """Put an empty MLflow store into a folder; return its URI.

    Its tables are created once and copied, because creating them takes seconds.
    """
    from mlflow import MlflowClient

    template = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{template}").search_experiments()

    def copy_to(folder: Path) -> str:
        shutil.copy(template, folder / "mlflow.db")
        return f"sqlite:///{folder / 'mlflow.db'}"

    return copy_to


@pytest.fixture(scope="session")
def main_job(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The main job: six XGBoost trials, with the default store, in an empty folder."""
    from command import run_search

    options = ["--num-samples", "6", "--set", "num_boost_round=12", "--json"]
    result = run_search([*options, *_data_options()], tmp_path_factory.mktemp("main"))
    assert result.code == 0, result.stderr
    return result


@pytest.fixture(scope="session")
def main_report(main_job: Result) -> dict[str, Any]:
    """The JSON object of the main job."""
    report: dict[str, Any] = json.loads(main_job.stdout)
    return report


@pytest.fixture(scope="session")
def lasso_and_linear(
    main_job: Result, tmp_path_factory: pytest.TempPathFactory, new_store: NewStore
) -> tuple[Result, Result]:
    """Two searches without a free parameter: lasso in the main job's store, linear in another."""
    from command import run_search

    other_folder = tmp_path_factory.mktemp("linear")
    new_store(other_folder)
    lasso_options = ["--trainable", "lasso", "--set", "alpha=0.01", "--num-samples", "5", "--json"]
    linear_options = ["--trainable", "linear"]
    with ThreadPoolExecutor(2) as pool:
        lasso = pool.submit(run_search, [*lasso_options, *_data_options()], main_job.folder)
        linear = pool.submit(run_search, [*linear_options, *_data_options()], other_folder)
        return lasso.result(), linear.result()


@pytest.fixture(scope="session")
def ended_early(
    tmp_path_factory: pytest.TempPathFactory, new_store: NewStore
) -> dict[str, tuple[Result, bytes]]:
    """Searches ended by SIGINT, SIGTERM and a time budget, each with its terminal output."""
    from test_interrupt import WAYS, run_and_end_early

    folders = {way: tmp_path_factory.mktemp(way) for way in WAYS}
    stores = [new_store(folder) for folder in folders.values()]
    with ThreadPoolExecutor(len(WAYS)) as pool:
        results = pool.map(run_and_end_early, folders, folders.values(), stores)
        return dict(zip(folders, results, strict=True))


@pytest.fixture(scope="session")
def out_of_time(ended_early: dict[str, tuple[Result, bytes]]) -> tuple[Result, bytes]:
    """The search ended by its time budget, and its terminal output."""
    return ended_early["budget"]


@pytest.fixture(scope="session")
def without_fault(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, object]:
    """The outcomes of the trials of the fault campaign's search when nothing happens to it."""
    import faults

    return faults.run_without_fault(tmp_path_factory.mktemp("no-fault"))


@pytest.fixture(scope="session")
def cluster_scenarios(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, Future[Any]]:
    """The cluster scenarios that selected tests need, in parallel: each one mostly waits."""
    import test_aws
    import test_own_machines

    scenarios = {"test_aws": test_aws, "test_own_machines": test_own_machines}
    selected = {item.path.stem for item in request.session.items}
    pool = ThreadPoolExecutor(len(scenarios))
    return {
        name: pool.submit(scenario.run_scenario, tmp_path_factory.mktemp(name))
        for name, scenario in scenarios.items()
        if name in selected and scenario.UNUSABLE is None
    }


def _data_options() -> list[str]:
    from command import HAS_REAL_DATA, REAL_TRAIN, REAL_VALID

    train, valid = (str(REAL_TRAIN), str(REAL_VALID)) if HAS_REAL_DATA else ("sample", "sample")
    return ["--train-data", train, "--valid-data", valid]
