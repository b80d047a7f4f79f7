"""From notes to runs in MLflow: whatever the server does, nothing is lost and nothing doubled."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import DatasetInput, Run
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    INVALID_PARAMETER_VALUE,
    PERMISSION_DENIED,
    TEMPORARILY_UNAVAILABLE,
)

from search import writer as writer_module
from search.errors import Interrupted, SearchError
from search.journal import Journal
from search.notes import Ended, Note, Progressed, Started
from search.store import Data, Store
from search.writer import TrialRuns, Writer

PARAMS = {"max_depth": 7, "learning_rate": 0.125}
NewStore = Callable[[Path], str]


@pytest.fixture
def store(new_store: NewStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)  # artifacts go to ./mlruns
    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    return Store.connect(new_store(tmp_path), "taxis")


@pytest.fixture
def reader(store: Store) -> MlflowClient:
    """Reads back what was written, by a client of its own."""
    return MlflowClient(store.uri)


class Flaky:
    """The store's client; counts calls, and fails as ``fails`` says before each one."""

    def __init__(self, client: Any, fails: Callable[[str], None] = lambda _: None) -> None:
        self.calls: list[str] = []
        self._client, self._fails = client, fails

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            self._fails(name)
            return getattr(self._client, name)(*args, **kwargs)

        return call


def wrap(store: Store, fails: Callable[[str], None] = lambda _: None) -> Flaky:
    flaky = Flaky(store.client, fails)
    store.client = flaky  # type: ignore[assignment]
    return flaky


def runs_of(store: Store) -> TrialRuns:
    data = Data("trips", "ab" * 16, {"train": "a.parquet", "valid": "b.parquet"}, {"rows": 3})
    paths = {"train-data-path": "a.parquet", "valid-data-path": "b.parquet"}
    return TrialRuns(store, "s1", "parent", paths, {"developer": "me", "model": "xgboost"}, data)


FINISHED: tuple[Note, ...] = (
    Started("0001", PARAMS, 1_000),
    Progressed("0001", 0, (9.0, 8.0), 2_000),
    Progressed("0001", 2, (7.0,), 3_000),
    Ended("0001", "finished", 4_000, {"rmse": 7.0, "best_iteration": 2.0, "fit_seconds": 1.5}),
)


def write(store: Store, *notes: Note, **more: Any) -> Writer:
    """Write notes by way of a journal in the current folder."""
    with Journal(Path("s1.journal")) as journal, Writer(runs_of(store), journal, **more) as writer:
        for note in notes:
            writer.put(note)
    return writer


def only_run(store: Store, reader: MlflowClient) -> Run:
    (run,) = reader.search_runs([store.experiment_id])
    return run


def curve_of(reader: MlflowClient, run: Run) -> list[tuple[int, float]]:
    history = reader.get_metric_history(run.info.run_id, "validation-rmse")
    return sorted((metric.step, metric.value) for metric in history)


def inputs_of(run: Run) -> list[DatasetInput]:
    assert run.inputs is not None
    return list(run.inputs.dataset_inputs)


CURVE = [(0, 9.0), (1, 8.0), (2, 7.0)]


class TestWritten:
    @pytest.fixture
    def run(self, store: Store, reader: MlflowClient) -> Run:
        writer = write(store, *FINISHED)
        run = only_run(store, reader)
        assert writer.run_ids == {"0001": run.info.run_id}
        return run

    def test_status_and_times(self, run: Run) -> None:
        """The run ended as the trial did, when it did."""
        info = run.info
        assert (info.status, info.start_time, info.end_time) == ("FINISHED", 1_000, 4_000)

    def test_params(self, run: Run) -> None:
        """Hyperparameters under their own names, and the paths; nothing else."""
        assert run.data.params == {
            "max_depth": "7",
            "learning_rate": "0.125",
            "train-data-path": "a.parquet",
            "valid-data-path": "b.parquet",
        }

    def test_tags(self, run: Run) -> None:
        """Role, id, status, parent and what all runs are tagged with; nothing else."""
        assert run.data.tags == {
            "developer": "me",
            "model": "xgboost",
            "mlflow.parentRunId": "parent",
            "mlflow.runName": "s1-0001",
            "search.role": "trial",
            "search.trial_id": "0001",
            "search.status": "finished",
            "search.point": '{"max_depth": 7, "learning_rate": 0.125}',
        }

    def test_metrics(self, run: Run) -> None:
        """The last of the curve, the best score, its round and the time; nothing else."""
        assert run.data.metrics == {
            "validation-rmse": 7.0,
            "rmse": 7.0,
            "best_iteration": 2.0,
            "fit_seconds": 1.5,
        }

    def test_curve_has_each_step_once(self, run: Run, reader: MlflowClient) -> None:
        """A step is a round, counted as `best_iteration` counts them."""
        assert curve_of(reader, run) == CURVE

    def test_dataset(self, run: Run) -> None:
        """The data is the run's one input, by its digest."""
        (used,) = inputs_of(run)
        assert (used.dataset.name, used.dataset.digest) == ("trips", "ab" * 16)

    def test_no_artifacts(self, run: Run, reader: MlflowClient) -> None:
        """A trial that worked leaves no files."""
        assert reader.list_artifacts(run.info.run_id) == []


@pytest.mark.parametrize(
    ("status", "shown"), [("stopped", "FINISHED"), ("failed", "FAILED"), ("interrupted", "KILLED")]
)
def test_outcome_is_the_runs_status(
    status: str, shown: str, store: Store, reader: MlflowClient
) -> None:
    """Each outcome has its tag and its status in MLflow."""
    write(store, *FINISHED[:2], Ended("0001", status, 4_000))
    run = only_run(store, reader)
    assert (run.info.status, run.data.tags["search.status"]) == (shown, status)


def test_failure_is_kept(store: Store, reader: MlflowClient, tmp_path: Path) -> None:
    """A failed trial's run has the last line as a tag and the traceback as an artifact."""
    ended = Ended("0001", "failed", 4_000, failure="E: x", traceback="Traceback: x")
    write(store, FINISHED[0], ended)
    run = only_run(store, reader)
    assert run.data.tags["search.failure"] == "E: x"
    (artifact,) = reader.list_artifacts(run.info.run_id)
    kept = Path(reader.download_artifacts(run.info.run_id, artifact.path, str(tmp_path)))
    assert kept.read_text() == "Traceback: x"


def test_long_curve_is_whole(store: Store, reader: MlflowClient) -> None:
    """A curve longer than one request may be is written in several."""
    curve = tuple(float(value) for value in range(2_500, 0, -1))
    write(store, FINISHED[0], Progressed("0001", 0, curve, 2_000))
    assert [value for _, value in curve_of(reader, only_run(store, reader))] == list(curve)


def test_trial_takes_few_requests(store: Store) -> None:
    """One that ends without a rung costs the server five requests, each rung one more."""
    flaky = wrap(store)
    started, first, second, ended = FINISHED
    assert isinstance(second, Progressed)
    assert isinstance(ended, Ended)
    write(store, started, first, replace(ended, start=second.start, curve=second.curve))
    assert len(flaky.calls) == 6


class TestServerAway:
    @pytest.fixture(autouse=True)
    def _impatient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(writer_module, "RETRY_AFTER_S", (0.01,))

    @pytest.mark.parametrize("name", ["create_run", "log_batch", "log_inputs", "set_terminated"])
    def test_nothing_is_lost_or_doubled(
        self, name: str, store: Store, reader: MlflowClient
    ) -> None:
        """A request that twice does not get through is made again, and changes nothing else."""
        left = [2]

        def fails(called: str) -> None:
            if called == name and left[0]:
                left[0] -= 1
                raise ConnectionError("no route to host")

        wrap(store, fails)
        write(store, *FINISHED)
        run = only_run(store, reader)
        assert left == [0]
        assert (run.info.status, curve_of(reader, run)) == ("FINISHED", CURVE)
        assert len(inputs_of(run)) == 1

    @pytest.mark.parametrize("name", ["create_run", "log_batch", "log_inputs", "set_terminated"])
    def test_lost_answer_doubles_nothing(
        self, name: str, store: Store, reader: MlflowClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A request that was taken, but whose answer got lost, is made again without harm."""
        real, left = getattr(store.client, name), [2]

        def loses_answer(*args: Any, **kwargs: Any) -> Any:
            answer = real(*args, **kwargs)
            if left[0]:
                left[0] -= 1
                raise ConnectionError("connection reset")
            return answer

        monkeypatch.setattr(store.client, name, loses_answer)
        write(store, *FINISHED)
        run = only_run(store, reader)
        assert (run.info.status, curve_of(reader, run)) == ("FINISHED", CURVE)
        assert len(inputs_of(run)) == 1
        assert len(reader.get_metric_history(run.info.run_id, "rmse")) == 1

    def test_staying_away_is_an_error_at_the_end(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A server that does not come back fails the search; the journal holds what it missed."""
        monkeypatch.setattr(writer_module, "DRAIN_S", 0.1)
        flaky = wrap(store, refuses(ConnectionError("no route to host")))
        with pytest.raises(SearchError, match=r"4 notes .*no route to host"):
            write(store, *FINISHED)
        assert set(flaky.calls) <= {"create_run", "search_runs"}
        with Journal(Path("s1.journal")) as journal:
            assert list(journal.waiting.values()) == list(FINISHED)

    def test_the_next_start_sends_the_rest(
        self, store: Store, reader: MlflowClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What was not sent is in the journal, and a later start sends it."""
        monkeypatch.setattr(writer_module, "DRAIN_S", 0.1)
        real = store.client
        wrap(store, refuses(ConnectionError("no route to host"), "set_terminated"))
        with pytest.raises(SearchError):
            write(store, *FINISHED)
        store.client = real
        write(store)
        run = only_run(store, reader)
        assert (run.info.status, curve_of(reader, run)) == ("FINISHED", CURVE)
        assert not Path("s1.journal").exists()

    def test_hurry_does_not_wait(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        """Who does not want to wait is not kept waiting, and loses nothing."""
        monkeypatch.setattr(writer_module, "HURRIED_S", 0.1)
        wrap(store, refuses(ConnectionError("no route to host")))
        with pytest.raises(SearchError, match=r"4 notes"):
            write(store, *FINISHED, hurried=lambda: True)

    def test_refusal_of_everything_waits_too(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A token that ran out is the server's refusal of all: said at the end, nothing lost."""
        error = MlflowException("no token", error_code=PERMISSION_DENIED)
        wrap(store, refuses(error))
        with pytest.raises(SearchError, match=r"4 notes .*no token"):
            write(store, *FINISHED)
        with Journal(Path("s1.journal")) as journal:
            assert len(journal.waiting) == 4


OTHER: tuple[Note, ...] = (
    Started("0002", PARAMS, 5_000),
    Ended("0002", "finished", 6_000, {"rmse": 6.0}),
)


class TestRefusedRun:
    def test_deleted_run_costs_only_itself(self, store: Store, reader: MlflowClient) -> None:
        """A run that somebody deletes while its trial runs stops no other trial's."""
        said: list[str] = []
        with (
            Journal(Path("s1.journal")) as journal,
            Writer(runs_of(store), journal, say=said.append) as writer,
        ):
            writer.put(FINISHED[0])
            while writer.waiting:
                pass
            reader.delete_run(writer.run_ids["0001"])
            for note in (*FINISHED[1:], *OTHER):
                writer.put(note)
        run = only_run(store, reader)
        assert (run.data.tags["search.trial_id"], run.info.status) == ("0002", "FINISHED")
        assert len(said) == 1
        assert "0001" in said[0]

    def test_refused_note_leaves_no_run_open(self, store: Store, reader: MlflowClient) -> None:
        """Where one thing a trial has to say is refused, the rest of it is written."""
        error = MlflowException("not this", error_code=INVALID_PARAMETER_VALUE)
        wrap(store, refuses(error, "log_inputs"))
        said: list[str] = []
        write(store, *FINISHED, say=said.append)
        run = only_run(store, reader)
        assert (run.info.status, curve_of(reader, run)) == ("FINISHED", CURVE)
        assert len(said) == 1

    def test_traceback_without_an_artifact_store_is_a_tag(
        self, store: Store, reader: MlflowClient
    ) -> None:
        """An artifact store that takes nothing keeps no trial's outcome waiting."""
        wrap(store, refuses(PermissionError(13, "Permission denied"), "log_text"))
        failed = Ended("0001", "failed", 4_000, failure="E: x", traceback="Traceback: x")
        write(store, FINISHED[0], failed)
        run = only_run(store, reader)
        assert run.info.status == "FAILED"
        assert run.data.tags["search.traceback"] == "Traceback: x"


def test_full_disk_is_said_and_nothing_waits_for_it(
    store: Store, reader: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A journal that cannot be written ends the search, and what it has to say is sent."""

    def full(*args: object) -> None:  # noqa: ARG001
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Journal, "_write", full)
    failures: list[SearchError] = []
    write(store, *FINISHED, fail=failures.append)
    assert only_run(store, reader).info.status == "FINISHED"
    assert "No space left on device" in str(failures[0])


def test_who_ends_the_search_waits_for_no_server_that_is_away(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One Ctrl-C is enough where nothing answers; it is an interrupt and no failure."""
    monkeypatch.setattr(writer_module, "HURRIED_S", 0.1)
    wrap(store, refuses(MlflowException("away", error_code=TEMPORARILY_UNAVAILABLE)))
    with pytest.raises(Interrupted, match=r"4 notes .* are not in the tracking store yet"):
        write(store, *FINISHED, interrupted=lambda: True)


def test_who_ends_the_search_waits_for_a_server_that_answers(
    store: Store, reader: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After one Ctrl-C what is known is written."""
    monkeypatch.setattr(writer_module, "HURRIED_S", 0.0)
    write(store, *FINISHED, interrupted=lambda: True)
    assert only_run(store, reader).info.status == "FINISHED"


def test_abandoned_search_is_not_written(store: Store, reader: MlflowClient) -> None:
    """Another driver's runs are left alone; what was to say stays in the journal."""
    write(store, *FINISHED, abandoned=lambda: True)
    with Journal(Path("s1.journal")) as journal:
        assert list(journal.waiting.values()) == list(FINISHED)
    assert list(reader.search_runs([store.experiment_id])) == []


def refuses(error: Exception, *names: str) -> Callable[[str], None]:
    """Return what fails with ``error`` when one of ``names`` is called, or anything at all."""

    def fails(called: str) -> None:
        if not names or called in names:
            raise error

    return fails
