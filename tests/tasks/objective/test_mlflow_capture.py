"""What an objective logs by MLflow's API is collected, attempt by attempt, and goes nowhere else.

The redirection holds for a whole process, so the attempts run in another one, as in a search.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from search.tasks.objective import mlflow_capture
from search.tasks.objective.mlflow_capture import capture, install
from search.tasks.objective.mlflow_redirect import noted
from search.tasks.objective.private_store import PrivateStore
from search.values.logged import Logged

Objective = Callable[[], Any]
Attempt = Callable[[Objective], Logged | None]

ROOT = Path(__file__).parents[3]
PINNED = ["scikit-learn"]  # else MLflow looks for what a model imports, for ten seconds


@pytest.fixture(scope="module")
def template(new_store: Callable[[Path], str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    new_store(folder)
    return folder / "mlflow.db"


@pytest.fixture(scope="module")
def worker(
    template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ProcessPoolExecutor]:
    """A worker process, as a search has them."""
    arguments = (template.read_bytes(), tmp_path_factory.mktemp("worker"))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=install, initargs=arguments) as pool:
        yield pool


@pytest.fixture
def attempt(worker: ProcessPoolExecutor) -> Attempt:
    """Run an objective as one attempt of a trial; return what it logged."""
    return lambda objective: worker.submit(attempted, objective).result()


def attempted(objective: Objective) -> Logged | None:
    """Run an objective on a thread of its own, as a worker does; its errors are the trial's."""
    results: list[Logged | None] = []

    def run() -> None:
        captured = None
        try:
            with capture("0001-1") as captured:
                objective()
        except BaseException as error:  # noqa: BLE001 - whatever an objective raises
            errors.append(repr(error))
        assert captured is not None
        results.append(captured.logged)

    errors.clear()
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return results[0]


errors: list[str] = []  # of the last attempt, in the worker


def last_errors() -> list[str]:
    return errors


def names_in(archive: bytes | None) -> list[str]:
    assert archive is not None
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return tar.getnames()


def text_in(archive: bytes | None, name: str) -> str:
    assert archive is not None
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        file = tar.extractfile(name)
        assert file is not None
        return file.read().decode()


def logs_without_a_run() -> None:
    import mlflow

    mlflow.log_param("depth", 3)
    mlflow.log_metrics({"auc": 0.5, "loss": 1.0})
    mlflow.set_tag("team", "a")
    mlflow.log_text("hello", "notes/a.txt")


def test_logging_without_a_run_is_collected(attempt: Attempt) -> None:
    """``mlflow.log_*`` starts a run by itself, as in a script; nothing of MLflow's own is kept."""
    logged = attempt(logs_without_a_run)
    assert logged is not None
    assert logged.params == {"depth": "3"}
    assert {(point.key, point.value) for point in logged.metrics} == {("auc", 0.5), ("loss", 1.0)}
    assert logged.tags == {"team": "a"}
    assert text_in(logged.artifacts, "notes/a.txt") == "hello"
    assert (logged.models, logged.models_archive, logged.notes) == ((), None, ())


def logs_nothing() -> None:
    import mlflow

    mlflow.active_run()


def test_nothing_logged_is_none(attempt: Attempt) -> None:
    """An attempt that only imports MLflow has nothing to carry."""
    assert attempt(logs_nothing) is None


def logs_nested_runs() -> None:
    import mlflow

    with mlflow.start_run(nested=True, run_name="the whole", description="what it is"):
        mlflow.log_param("folds", 2)
        for fold in range(2):
            with mlflow.start_run(nested=True):
                mlflow.log_param("fold", fold)
                mlflow.log_metric("auc", fold / 2)
                mlflow.log_text(f"fold {fold}", "fold.txt")
        mlflow.log_metric("auc", 0.25)


def test_nested_runs_become_one(attempt: Attempt) -> None:
    """``nested=True`` needs no parent; what several runs say under one key is kept by number."""
    logged = attempt(logs_nested_runs)
    assert logged is not None
    assert logged.params == {"folds": "2", "fold": "0", "fold.2": "1"}
    points = {point.key: point.value for point in logged.metrics}
    assert points == {"auc": 0.25, "auc.2": 0.0, "auc.3": 0.5}
    assert logged.tags == {"mlflow.runName": "the whole", "mlflow.note.content": "what it is"}
    assert text_in(logged.artifacts, "fold.txt") == "fold 0"
    assert text_in(logged.artifacts, "fold.2.txt") == "fold 1"


def logs_steps() -> None:
    import mlflow

    with mlflow.start_run():
        for step in range(3):
            mlflow.log_metric("curve", step / 2, step=step, timestamp=1_000 + step)


def test_metrics_keep_their_steps(attempt: Attempt) -> None:
    """Each value has its step and its time."""
    logged = attempt(logs_steps)
    assert logged is not None
    assert logged.metrics == (
        ("curve", 0.0, 1_000, 0),
        ("curve", 0.5, 1_001, 1),
        ("curve", 1.0, 1_002, 2),
    )


def leaves_a_run_open() -> None:
    import mlflow

    mlflow.start_run()
    mlflow.log_metric("loss", 1.0, synchronous=False)


def test_open_run_is_ended(attempt: Attempt) -> None:
    """A run left open, with values still on their way, does not reach the next attempt."""
    first, second = attempt(leaves_a_run_open), attempt(leaves_a_run_open)
    for logged in (first, second):
        assert logged is not None
        assert [point.key for point in logged.metrics] == ["loss"]


def starts_twice() -> None:
    import mlflow

    mlflow.start_run()
    mlflow.start_run()


def test_second_run_that_is_not_nested_fails_as_in_a_script(
    attempt: Attempt, worker: ProcessPoolExecutor
) -> None:
    """The objective's mistake is the trial's failure, in MLflow's words."""
    attempt(starts_twice)
    assert "is already active" in worker.submit(last_errors).result()[0]


def raises() -> None:
    import mlflow

    with mlflow.start_run():
        mlflow.log_param("seen", "yes")
        raise ValueError("mine")


def test_what_a_failed_attempt_logged_is_kept(
    attempt: Attempt, worker: ProcessPoolExecutor
) -> None:
    """The exception goes on to the trial, and what was logged before it is there."""
    logged = attempt(raises)
    assert logged is not None
    assert logged.params == {"seen": "yes"}
    assert worker.submit(last_errors).result() == ["ValueError('mine')"]


def logs_from_a_thread() -> None:
    import mlflow

    def log() -> None:
        mlflow.start_run()
        mlflow.log_param("from", "a thread")

    thread = threading.Thread(target=log)
    thread.start()
    thread.join()
    mlflow.log_param("also", "here")


def test_runs_of_threads_are_collected_and_ended(attempt: Attempt) -> None:
    """MLflow has an active run for each thread; all of them are the trial's."""
    for logged in (attempt(logs_from_a_thread), attempt(logs_from_a_thread)):
        assert logged is not None
        assert logged.params == {"from": "a thread", "also": "here"}


LOGS_IN_A_PROCESS = "import mlflow; mlflow.log_param('from', 'a process')"


def logs_from_a_process() -> None:
    subprocess.run([sys.executable, "-c", LOGS_IN_A_PROCESS], check=True, capture_output=True)


def test_what_a_process_logs_is_collected(attempt: Attempt) -> None:
    """A program that the objective runs logs to the same place."""
    logged = attempt(logs_from_a_process)
    assert logged is not None
    assert logged.params == {"from": "a process"}


def logs_once(key: str) -> Objective:
    return LogsOnce(key)


class LogsOnce:
    """An objective that logs one param, and sees what is in its store."""

    def __init__(self, key: str) -> None:
        self.key = key

    def __call__(self) -> None:
        import mlflow

        assert mlflow.last_active_run() is None
        assert len(mlflow.search_runs()) == 0
        assert mlflow.MlflowClient().search_registered_models() == []
        with mlflow.start_run():
            mlflow.log_param(self.key, 1)


def test_attempts_do_not_mix(attempt: Attempt, worker: ProcessPoolExecutor) -> None:
    """An attempt neither sees nor carries what the one before it has logged."""
    for key in ("first", "second"):
        logged = attempt(logs_once(key))
        assert worker.submit(last_errors).result() == []
        assert logged is not None
        assert logged.params == {key: "1"}


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_attempts_leave_no_files_open(attempt: Attempt, worker: ProcessPoolExecutor) -> None:
    """A worker that runs many trials does not run out of file handles."""
    attempt(leaves_a_run_open)
    before = worker.submit(open_files).result()
    for _ in range(5):
        attempt(leaves_a_run_open)
    assert worker.submit(open_files).result() <= before


class TestModels:
    def test_model_can_be_loaded_inside_and_is_carried_apart(
        self, attempt: Attempt, worker: ProcessPoolExecutor
    ) -> None:
        """``model_uri`` is good inside the trial; the files are in the models' archive."""
        logged = attempt(logs_a_model)
        assert worker.submit(last_errors).result() == []
        assert logged is not None
        (model,) = logged.models
        assert (model.name, model.flavors, model.registered_as) == ("ridge", ("sklearn",), "")
        assert model.params == {"alpha": "2"}
        assert f"{model.folder}/MLmodel" in names_in(logged.models_archive)
        assert model.size_bytes > 0
        assert logged.artifacts is None

    def test_registering_is_noted(self, attempt: Attempt, worker: ProcessPoolExecutor) -> None:
        """Both ways to register a model work without a registry, and say which name it gets."""
        logged = attempt(registers_models)
        assert worker.submit(last_errors).result() == []
        assert logged is not None
        names = {(model.name, model.registered_as) for model in logged.models}
        assert names == {("one", "first"), ("one", "again"), ("two", "second"), ("kept", "third")}

    def test_autologging_is_collected(self, attempt: Attempt, worker: ProcessPoolExecutor) -> None:
        """A fit under ``autolog`` has its params, metrics, plots and model."""
        logged = attempt(fits_under_autolog)
        assert worker.submit(last_errors).result() == []
        assert logged is not None
        assert logged.params["max_depth"] == "2"
        assert "training_score" in {point.key for point in logged.metrics}
        assert "training_confusion_matrix.png" in names_in(logged.artifacts)
        assert [model.flavors for model in logged.models] == [("sklearn",)]
        assert not any(key.startswith("mlflow.") for key in logged.tags)


def fitted_ridge() -> Any:
    from sklearn.linear_model import Ridge

    return Ridge(alpha=2).fit([[0.0], [1.0], [2.0]], [0.0, 1.0, 2.0])


def logs_a_model() -> None:
    import mlflow

    with mlflow.start_run():
        mlflow.log_param("alpha", 2)
        info = mlflow.sklearn.log_model(fitted_ridge(), name="ridge", pip_requirements=PINNED)
        assert mlflow.sklearn.load_model(info.model_uri).alpha == 2
        assert mlflow.pyfunc.load_model(info.model_uri).predict([[1.0]]) is not None


def registers_models() -> None:
    import mlflow

    log_model = partial(mlflow.sklearn.log_model, fitted_ridge(), pip_requirements=PINNED)
    with mlflow.start_run() as run, tempfile.TemporaryDirectory() as folder:
        one = log_model(name="one", registered_model_name="first")
        mlflow.register_model(one.model_uri, "again")
        log_model(name="two")
        mlflow.register_model(f"runs:/{run.info.run_id}/two", "second")
        mlflow.sklearn.save_model(fitted_ridge(), f"{folder}/kept", pip_requirements=PINNED)
        mlflow.log_artifacts(f"{folder}/kept", "kept")
        mlflow.register_model(f"runs:/{run.info.run_id}/kept", "third")


def fits_under_autolog() -> None:
    import mlflow
    from sklearn.ensemble import RandomForestClassifier

    mlflow.sklearn.autolog(log_input_examples=False, silent=True)
    try:
        forest = RandomForestClassifier(3, max_depth=2, random_state=0)
        forest.fit([[0.0], [1.0], [2.0], [3.0]] * 5, [0, 0, 1, 1] * 5)
    finally:
        mlflow.sklearn.autolog(disable=True)


class TestRedirected:
    def test_no_request_leaves_for_the_author_s_server(
        self, attempt: Attempt, worker: ProcessPoolExecutor, tmp_path: Path
    ) -> None:
        """A server named at the top of the module is noted; nobody connects to it."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.setblocking(False)
            uri = f"http://127.0.0.1:{server.getsockname()[1]}"
            logged = attempt(FromFile(tmp_path, TOP.format(uri=uri)))
            assert worker.submit(last_errors).result() == []
            with pytest.raises(BlockingIOError):
                server.accept()
        assert logged is not None
        assert logged.params == {"here": "yes"}
        asked = {"tracking_uri": uri, "registry_uri": uri, "experiment_name": "mine"}
        assert worker.submit(noted).result() == asked

    def test_variables_of_the_author_change_nothing(
        self, attempt: Attempt, worker: ProcessPoolExecutor
    ) -> None:
        """An objective that sets MLflow's environment variables logs to its trial all the same."""
        logged = attempt(sets_variables)
        assert worker.submit(last_errors).result() == []
        assert logged is not None
        assert logged.params == {"here": "yes"}
        assert attempt(logs_without_a_run) is not None

    def test_ids_of_the_script_s_own_store_are_admitted(
        self, attempt: Attempt, worker: ProcessPoolExecutor
    ) -> None:
        """A run of the script's experiment, or below its run, is collected like any other."""
        logged = attempt(uses_ids_of_the_script)
        assert worker.submit(last_errors).result() == []
        assert logged is not None
        assert logged.params == {"first": "1", "second": "2", "third": "3"}

    def test_run_of_another_store_is_one_clear_error(
        self, attempt: Attempt, worker: ProcessPoolExecutor
    ) -> None:
        """The error says why the run is not there, and how to read it."""
        assert attempt(reads_another_run) is None
        (error,) = worker.submit(last_errors).result()
        assert "is not one of this trial's" in error


def uses_ids_of_the_script() -> None:
    import mlflow

    with mlflow.start_run(experiment_id="17"):
        mlflow.log_param("first", 1)
    with mlflow.start_run(nested=True, parent_run_id="ab" * 16):
        mlflow.log_param("second", 2)
    client = mlflow.MlflowClient()
    run = client.create_run("17", tags={"mlflow.parentRunId": "ab" * 16})
    client.log_param(run.info.run_id, "third", 3)


def reads_another_run() -> None:
    import mlflow

    mlflow.get_run("ab" * 16)


TOP = """
import mlflow
from mlflow import set_experiment
from mlflow.tracking import set_tracking_uri

set_tracking_uri("{uri}")
mlflow.set_registry_uri("{uri}")
EXPERIMENT = set_experiment("mine")


def objective():
    with mlflow.start_run(experiment_id=EXPERIMENT.experiment_id):
        mlflow.log_param("here", "yes")
"""


class FromFile:
    """An objective in a file of its own."""

    def __init__(self, folder: Path, text: str) -> None:
        self.folder, self.text = folder, text

    def __call__(self) -> None:
        (self.folder / "authors_module.py").write_text(self.text)
        sys.path.insert(0, str(self.folder))
        import authors_module  # type: ignore[import-not-found]

        authors_module.objective()


def sets_variables() -> None:
    os.environ["MLFLOW_TRACKING_URI"] = "http://127.0.0.1:1"
    os.environ["MLFLOW_EXPERIMENT_NAME"] = "mine"
    import mlflow

    mlflow.log_param("here", "yes")


def logs_much() -> None:
    import mlflow

    mlflow.log_param("here", "yes")
    mlflow.log_text("x" * 2_000, "large.txt")


def logs_too_much() -> None:
    from search.tasks.objective import mlflow_readback

    limit, mlflow_readback.LARGEST_BYTES = mlflow_readback.LARGEST_BYTES, 1_000
    logs_much()
    limits.append(limit)


limits: list[int] = []


def restore_limit() -> None:
    from search.tasks.objective import mlflow_readback

    mlflow_readback.LARGEST_BYTES = limits.pop()


def test_too_large_artifacts_are_named_and_not_carried(
    attempt: Attempt, worker: ProcessPoolExecutor
) -> None:
    """All else is kept, and one line says what to do."""
    logged = attempt(logs_too_much)
    worker.submit(restore_limit).result()
    assert logged is not None
    assert (logged.params, logged.artifacts) == ({"here": "yes"}, None)
    assert len(logged.notes) == 1
    assert "log their path instead" in logged.notes[0]


NEVER_IMPORTS = """
import os, sys
from pathlib import Path
from search.tasks.objective.mlflow_capture import capture, install

install(Path(sys.argv[1]).read_bytes(), Path(sys.argv[2]))
with capture("0001-1") as captured:
    pass
assert captured.logged is None
loaded = {"mlflow", "sqlalchemy", "pandas"} & set(sys.modules)
assert not loaded, loaded
"""


def test_objective_without_mlflow_imports_none(template: Path, tmp_path: Path) -> None:
    """A worker whose objective never uses MLflow never imports it, and leaves no files."""
    folder = tmp_path / "stores"
    command = [sys.executable, "-c", NEVER_IMPORTS, str(template), str(folder)]
    subprocess.run(command, check=True, cwd=ROOT)
    assert list(folder.iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from search.tasks.objective.mlflow_capture import install

install(Path(sys.argv[1]).read_bytes(), Path(sys.argv[2]))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_stores_of_killed_workers_are_removed(template: Path, tmp_path: Path) -> None:
    """The next worker on the machine removes what a killed one has left."""
    for program in (KILLED, NEVER_IMPORTS):
        command = [sys.executable, "-c", program, str(template), str(tmp_path)]
        subprocess.run(command, check=False, cwd=ROOT)
    assert list(tmp_path.iterdir()) == []


def test_unknown_table_may_have_rows(template: Path, tmp_path: Path) -> None:
    """With a schema that is not known here, MLflow's client is asked."""
    store = PrivateStore(template.read_bytes(), tmp_path)
    assert store.may_have("experiments")
    assert not store.may_have("logged_models")
    assert store.may_have("no_such_table")


def test_capture_needs_install() -> None:
    """In a process that is no worker the module changes nothing."""
    assert mlflow_capture._store is None


def test_unknown_version_of_mlflow_is_captured_by_its_public_functions(
    template: Path, tmp_path: Path
) -> None:
    """A release that nobody has tested changes no trial that logs in the usual way."""
    program = f"""
import pathlib
from search.tasks.objective import mlflow_redirect
mlflow_redirect.PROVEN = ((0, 0), (0, 0))
from search.tasks.objective.mlflow_capture import capture, install
install(pathlib.Path({str(template)!r}).read_bytes(), pathlib.Path({str(tmp_path)!r}))
import mlflow
mlflow.set_tracking_uri("http://127.0.0.1:9")
mlflow.set_experiment("theirs")
for value in (1.0, 2.0):
    with capture("attempt") as captured:
        mlflow.start_run()
        mlflow.log_param("depth", 3)
        mlflow.log_metric("loss", value)
    logged = captured.logged
    assert logged.params == {{"depth": "3"}}, logged
    assert [point.value for point in logged.metrics] == [value], logged
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment, timeout=120)
