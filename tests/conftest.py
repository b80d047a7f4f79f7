"""Searches that several tests look at: each is run once in a session."""

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
    from command import Ended

NewStore = Callable[[Path], str]


@pytest.fixture(scope="session")
def new_store(tmp_path_factory: pytest.TempPathFactory) -> NewStore:
    """Put an empty MLflow store into a folder; return its URI.

    Its tables are made once and copied: making them takes seconds.
    """
    from mlflow import MlflowClient

    made = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{made}").search_experiments()

    def put(folder: Path) -> str:
        shutil.copy(made, folder / "mlflow.db")
        return f"sqlite:///{folder / 'mlflow.db'}"

    return put


@pytest.fixture(scope="session")
def main_job(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """The main job: six XGBoost trials, into the default store of an empty folder."""
    from command import searched

    options = ["--num-samples", "6", "--set", "num_boost_round=12", "--json"]
    ended = searched([*options, *_data()], tmp_path_factory.mktemp("main"))
    assert ended.code == 0, ended.stderr
    return ended


@pytest.fixture(scope="session")
def main_report(main_job: Ended) -> dict[str, Any]:
    """The JSON object of the main job."""
    report: dict[str, Any] = json.loads(main_job.stdout)
    return report


@pytest.fixture(scope="session")
def lasso_and_linear(
    main_job: Ended, tmp_path_factory: pytest.TempPathFactory, new_store: NewStore
) -> tuple[Ended, Ended]:
    """Two searches with nothing left to search: lasso in the main job's store, linear elsewhere."""
    from command import searched

    elsewhere = tmp_path_factory.mktemp("linear")
    new_store(elsewhere)
    fixed = ["--trainable", "lasso", "--set", "alpha=0.01", "--num-samples", "5", "--json"]
    with ThreadPoolExecutor(2) as pool:
        lasso = pool.submit(searched, [*fixed, *_data()], main_job.folder)
        linear = pool.submit(searched, ["--trainable", "linear", *_data()], elsewhere)
        return lasso.result(), linear.result()


@pytest.fixture(scope="session")
def ended_early(
    tmp_path_factory: pytest.TempPathFactory, new_store: NewStore
) -> dict[str, tuple[Ended, bytes]]:
    """Searches that SIGINT, SIGTERM and a time budget end, and what came to their terminals."""
    from test_interrupt import WAYS, run_ended_early

    folders = {way: tmp_path_factory.mktemp(way) for way in WAYS}
    stores = [new_store(folder) for folder in folders.values()]
    with ThreadPoolExecutor(len(WAYS)) as pool:
        ended = pool.map(run_ended_early, folders, folders.values(), stores)
        return dict(zip(folders, ended, strict=True))


@pytest.fixture(scope="session")
def out_of_time(ended_early: dict[str, tuple[Ended, bytes]]) -> tuple[Ended, bytes]:
    """The search that its time budget ended, and what it wrote to its terminal."""
    return ended_early["budget"]


@pytest.fixture(scope="session")
def told(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, Future[Any]]:
    """The stories of clusters that are asked for, side by side: for most of the time they wait."""
    import test_aws
    import test_own_machines

    stories = {"test_aws": test_aws, "test_own_machines": test_own_machines}
    asked_for = {item.path.stem for item in request.session.items}
    pool = ThreadPoolExecutor(len(stories))
    return {
        name: pool.submit(story.told_in, tmp_path_factory.mktemp(name))
        for name, story in stories.items()
        if name in asked_for and story.UNUSABLE is None
    }


def _data() -> list[str]:
    from command import HAS_REAL_DATA, REAL_TRAIN, REAL_VALID

    train, valid = (str(REAL_TRAIN), str(REAL_VALID)) if HAS_REAL_DATA else ("sample", "sample")
    return ["--train-data", train, "--valid-data", valid]
