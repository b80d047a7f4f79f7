"""The writer sends events to MLflow: at any failure, none is lost and none is doubled."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
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

from search.errors import Interrupted, SearchError
from search.record import writer as writer_module
from search.record.connection import connect
from search.record.journal import Journal
from search.record.run_metadata import RunMetadata
from search.record.store import Store
from search.record.trial_runs import SearchRuns, TrialRuns
from search.record.writer import Ask, Hooks, Writer
from search.values.data import DataDescription
from search.values.events import Ended, Event, Progressed, Started
from search.values.metric import Metric

PARAMS = {"max_depth": 7, "learning_rate": 0.125}
RMSE = Metric("rmse", "minimize", label="RMSE")
NewStore = Callable[[Path], str]


@pytest.fixture
def store(new_store: NewStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)  # artifacts go to ./mlruns
    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    return connect(new_store(tmp_path), "taxis")


@pytest.fixture
def reader(store: Store) -> MlflowClient:
    """A second client, which reads what the writer wrote."""
    return MlflowClient(store.uri)


class FlakyClient:
    """The store's client: records the calls, and calls ``fails`` before each one."""

    def __init__(self, client: Any, fails: Callable[[str], None] = lambda _: None) -> None:
        self.calls: list[str] = []
        self._client, self._fails = client, fails

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            self._fails(name)
            return getattr(self._client, name)(*args, **kwargs)

        return call


def replace_client(store: Store, fails: Callable[[str], None] = lambda _: None) -> FlakyClient:
    client = FlakyClient(store.client, fails)
    store.client = client  # type: ignore[assignment]
    return client


def asks(store: Store) -> Ask:
    """Return what makes the writer's calls in this process."""
    data = DataDescription("trips", "ab" * 16, {"train": "a.parquet"}, {"rows": 3})
    metadata = RunMetadata({"train-data-path": "a.parquet"}, {"developer": "me"}, data)
    runs = TrialRuns(store, SearchRuns("s1", "parent", metadata, RMSE.curve))
    return lambda name, *args: getattr(runs, name)(*args)


FINISHED: tuple[Event, ...] = (
    Started("0001", PARAMS, 1_000),
    Progressed("0001", 0, (9.0, 8.0), 2_000),
    Progressed("0001", 2, (7.0,), 3_000),
    Ended("0001", "finished", 4_000, {"rmse": 7.0, "best_iteration": 2.0, "fit_seconds": 1.5}),
)
CURVE = [(0, 9.0), (1, 8.0), (2, 7.0)]


def write(
    store: Store,
    *events: Event,
    hooks: Hooks | None = None,
    known: Mapping[str, str] | None = None,
) -> Writer:
    """Write events through a journal in the current folder."""
    with (
        Journal(Path("s1.journal")) as journal,
        Writer(asks(store), journal, known=known, hooks=hooks) as writer,
    ):
        for event in events:
            writer.put(event)
    return writer


def only_run(store: Store, reader: MlflowClient) -> Run:
    (run,) = reader.search_runs([store.experiment_id])
    return run


def curve_of(reader: MlflowClient, run: Run) -> list[tuple[int, float]]:
    history = reader.get_metric_history(run.info.run_id, RMSE.curve)
    return sorted((point.step, point.value) for point in history)


def inputs_of(run: Run) -> list[DatasetInput]:
    assert run.inputs is not None
    return list(run.inputs.dataset_inputs)


class TestWritten:
    def test_events_become_a_complete_run(self, store: Store, reader: MlflowClient) -> None:
        """The run has status, times, params, metrics, curve and data; there is no other run."""
        writer = write(store, *FINISHED)
        run = only_run(store, reader)
        assert writer.run_ids == {"0001": run.info.run_id}
        info = run.info
        assert (info.status, info.start_time, info.end_time) == ("FINISHED", 1_000, 4_000)
        assert run.data.params == {
            "max_depth": "7",
            "learning_rate": "0.125",
            "train-data-path": "a.parquet",
        }
        assert run.data.tags["search.status"] == "finished"
        assert run.data.metrics == {
            "validation-rmse": 7.0,
            "rmse": 7.0,
            "best_iteration": 2.0,
            "fit_seconds": 1.5,
        }
        assert curve_of(reader, run) == CURVE
        assert len(inputs_of(run)) == 1
        assert reader.list_artifacts(run.info.run_id) == []

    @pytest.mark.parametrize(
        ("status", "run_status"),
        [("stopped", "FINISHED"), ("failed", "FAILED"), ("interrupted", "KILLED")],
    )
    def test_outcome_is_the_status_of_the_run(
        self, status: str, run_status: str, store: Store, reader: MlflowClient
    ) -> None:
        """Each outcome has its tag and its status in MLflow."""
        write(store, *FINISHED[:2], Ended("0001", status, 4_000))
        run = only_run(store, reader)
        assert (run.info.status, run.data.tags["search.status"]) == (run_status, status)

    def test_failure_is_kept(self, store: Store, reader: MlflowClient, tmp_path: Path) -> None:
        """The last line of the error is a tag, the traceback an artifact."""
        ended = Ended("0001", "failed", 4_000, failure="E: x", traceback="Traceback: x")
        write(store, FINISHED[0], ended)
        run = only_run(store, reader)
        assert run.data.tags["search.failure"] == "E: x"
        (artifact,) = reader.list_artifacts(run.info.run_id)
        kept = Path(reader.download_artifacts(run.info.run_id, artifact.path, str(tmp_path)))
        assert kept.read_text() == "Traceback: x"

    def test_trial_takes_few_requests(self, store: Store) -> None:
        """A trial without rungs takes five requests, and each rung takes one more."""
        client = replace_client(store)
        started, first, second, ended = FINISHED
        assert isinstance(second, Progressed)
        assert isinstance(ended, Ended)
        write(store, started, first, replace(ended, start=second.start, curve=second.curve))
        assert len(client.calls) == 6

    def test_known_run_is_opened_again(self, store: Store, reader: MlflowClient) -> None:
        """A trial that runs again continues its run."""
        first = write(store, FINISHED[0], Ended("0001", "interrupted", 2_000))
        writer = write(store, *FINISHED, known=first.run_ids)
        assert writer.run_ids == first.run_ids
        run = only_run(store, reader)
        assert (run.info.status, run.data.tags["search.status"]) == ("FINISHED", "finished")


class TestOutage:
    @pytest.fixture(autouse=True)
    def _short_waits(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(writer_module, "RETRY_AFTER_S", (0.01,))

    @pytest.mark.parametrize("name", ["create_run", "log_batch", "log_inputs", "set_terminated"])
    def test_lost_request_is_repeated(self, name: str, store: Store, reader: MlflowClient) -> None:
        """A request that fails twice is made again; nothing is lost and nothing is doubled."""
        left = [2]

        def fails(called: str) -> None:
            if called == name and left[0]:
                left[0] -= 1
                raise ConnectionError("no route to host")

        replace_client(store, fails)
        write(store, *FINISHED)
        run = only_run(store, reader)
        assert left == [0]
        assert (run.info.status, curve_of(reader, run)) == ("FINISHED", CURVE)
        assert len(inputs_of(run)) == 1

    @pytest.mark.parametrize("name", ["create_run", "log_batch", "log_inputs", "set_terminated"])
    def test_lost_answer_doubles_nothing(
        self, name: str, store: Store, reader: MlflowClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A request that succeeded, but whose answer was lost, is repeated without harm."""
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

    def test_outage_at_the_end_is_an_error(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """If the server stays away the search fails; the journal holds what was not sent."""
        monkeypatch.setattr(writer_module, "DRAIN_S", 0.1)
        client = replace_client(store, refuses(ConnectionError("no route to host")))
        with pytest.raises(SearchError, match=r"4 events .*no route to host"):
            write(store, *FINISHED)
        assert set(client.calls) <= {"create_run", "search_runs"}
        with Journal(Path("s1.journal")) as journal:
            assert list(journal.waiting.values()) == list(FINISHED)

    def test_next_start_sends_the_rest(
        self, store: Store, reader: MlflowClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A later start sends the events that wait in the journal."""
        monkeypatch.setattr(writer_module, "DRAIN_S", 0.1)
        real = store.client
        replace_client(store, refuses(ConnectionError("no route to host"), "set_terminated"))
        with pytest.raises(SearchError):
            write(store, *FINISHED)
        store.client = real
        write(store)
        run = only_run(store, reader)
        assert (run.info.status, curve_of(reader, run)) == ("FINISHED", CURVE)
        assert not Path("s1.journal").exists()

    def test_hurried_end_does_not_wait(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        """A user who does not want to wait does not, and loses no event."""
        monkeypatch.setattr(writer_module, "HURRIED_S", 0.1)
        replace_client(store, refuses(ConnectionError("no route to host")))
        with pytest.raises(SearchError, match=r"4 events"):
            write(store, *FINISHED, hooks=Hooks(hurried=lambda: True))

    def test_refusal_of_all_requests_is_an_error_at_the_end(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """If a token has expired, the error says so, and no event is lost."""
        error = MlflowException("no token", error_code=PERMISSION_DENIED)
        replace_client(store, refuses(error))
        with pytest.raises(SearchError, match=r"4 events .*no token"):
            write(store, *FINISHED)
        with Journal(Path("s1.journal")) as journal:
            assert len(journal.waiting) == 4


OTHER: tuple[Event, ...] = (
    Started("0002", PARAMS, 5_000),
    Ended("0002", "finished", 6_000, {"rmse": 6.0}),
)


class TestRefusedRun:
    def test_deleted_run_does_not_block_others(self, store: Store, reader: MlflowClient) -> None:
        """If a user deletes the run of a running trial, other trials are still written."""
        messages: list[str] = []
        with (
            Journal(Path("s1.journal")) as journal,
            Writer(asks(store), journal, hooks=Hooks(say=messages.append)) as writer,
        ):
            writer.put(FINISHED[0])
            while writer.waiting:
                time.sleep(0.001)
            reader.delete_run(writer.run_ids["0001"])
            for event in (*FINISHED[1:], *OTHER):
                writer.put(event)
        run = only_run(store, reader)
        assert (run.data.tags["search.trial_id"], run.info.status) == ("0002", "FINISHED")
        assert len(messages) == 1
        assert "0001" in messages[0]

    def test_refused_event_leaves_no_run_open(self, store: Store, reader: MlflowClient) -> None:
        """If one event of a trial is refused, the others are written; one message says so."""
        error = MlflowException("not this", error_code=INVALID_PARAMETER_VALUE)
        replace_client(store, refuses(error, "log_inputs"))
        messages: list[str] = []
        write(store, *FINISHED, hooks=Hooks(say=messages.append))
        run = only_run(store, reader)
        assert (run.info.status, curve_of(reader, run)) == ("FINISHED", CURVE)
        assert len(messages) == 1

    def test_traceback_without_an_artifact_store_is_a_tag(
        self, store: Store, reader: MlflowClient
    ) -> None:
        """An artifact store that takes nothing does not delay the outcome of a trial."""
        replace_client(store, refuses(PermissionError(13, "Permission denied"), "log_text"))
        failed = Ended("0001", "failed", 4_000, failure="E: x", traceback="Traceback: x")
        write(store, FINISHED[0], failed)
        run = only_run(store, reader)
        assert run.info.status == "FAILED"
        assert run.data.tags["search.traceback"] == "Traceback: x"


def test_full_disk_is_reported_and_events_are_still_sent(
    store: Store, reader: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A journal that cannot be written ends the search, and its events are sent."""

    def full(*args: object) -> None:  # noqa: ARG001
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Journal, "_write", full)
    failures: list[SearchError] = []
    write(store, *FINISHED, hooks=Hooks(fail=failures.append))
    assert only_run(store, reader).info.status == "FINISHED"
    assert "No space left on device" in str(failures[0])


def test_interrupted_search_does_not_wait_for_an_absent_server(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One Ctrl-C is enough if nothing answers; the error is an interrupt, not a failure."""
    monkeypatch.setattr(writer_module, "HURRIED_S", 0.1)
    away = MlflowException("away", error_code=TEMPORARILY_UNAVAILABLE)
    replace_client(store, refuses(away))
    with pytest.raises(Interrupted, match=r"4 events .* are not in the tracking store yet"):
        write(store, *FINISHED, hooks=Hooks(interrupted=lambda: True))


def test_interrupted_search_waits_for_a_server_that_answers(
    store: Store, reader: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After one Ctrl-C all events are written."""
    monkeypatch.setattr(writer_module, "HURRIED_S", 0.0)
    write(store, *FINISHED, hooks=Hooks(interrupted=lambda: True))
    assert only_run(store, reader).info.status == "FINISHED"


def test_abandoned_search_is_not_written(store: Store, reader: MlflowClient) -> None:
    """The runs belong to another driver now; the events stay in the journal."""
    write(store, *FINISHED, hooks=Hooks(abandoned=lambda: True))
    with Journal(Path("s1.journal")) as journal:
        assert list(journal.waiting.values()) == list(FINISHED)
    assert list(reader.search_runs([store.experiment_id])) == []


def refuses(error: Exception, *names: str) -> Callable[[str], None]:
    """Return a function that raises ``error`` for these calls; without names, for all."""

    def fails(called: str) -> None:
        if not names or called in names:
            raise error

    return fails
