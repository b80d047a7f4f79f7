"""Runs are written to MLflow: an absent server is waited for, and nothing is made twice."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos import databricks_pb2 as codes

from search.errors import InputError, Interrupted, SearchError, TakenOver
from search.record import request_retries
from search.record import store as store_module
from search.record.connection import connect
from search.record.store import CLIENT_RETRIES, LONGEST_PARAM, Score, Store
from search.record.store_errors import Unwritable
from search.record.tags import ROLE
from search.values.data import DataDescription

NOWHERE = "http://127.0.0.1:1"
AWAY = MlflowException("no route\nto host", error_code=codes.TEMPORARILY_UNAVAILABLE)
BUSY = MlflowException("too many", error_code=codes.REQUEST_LIMIT_EXCEEDED)
REFUSED = MlflowException("not this", error_code=codes.INVALID_PARAMETER_VALUE)
DUPLICATE = MlflowException("duplicate key", error_code=codes.BAD_REQUEST)
NOT_PERMITTED = MlflowException("Permission denied", error_code=codes.PERMISSION_DENIED)
NewStore = Callable[[Path], str]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (CLIENT_RETRIES, "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))


@pytest.fixture
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_retries, "RETRY_AFTER_S", (0.001, 0.002, 0.003))
    monkeypatch.setattr(store_module, "RETRY_ARTIFACT_AFTER_S", (0.001, 0.002))


@pytest.fixture
def store(new_store: NewStore, tmp_path: Path) -> Store:
    return connect(new_store(tmp_path), "taxis")


class FakeClient:
    """Stands in for MLflow's client: records the requests, and fails as it was told to."""

    def __init__(self, real: MlflowClient | None = None) -> None:
        self.requests: list[tuple[str, dict[str, Any]]] = []  # name and keyword arguments
        self.fail_before: list[Exception] = []  # raised in place of the next requests
        self.fail_after: list[Exception] = []  # raised once the next requests have been made
        self._real = real

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **named: Any) -> Any:
            self.requests.append((name, named))
            if self.fail_before:
                raise self.fail_before.pop(0)
            answer = None if self._real is None else getattr(self._real, name)(*args, **named)
            if self.fail_after and name != "search_runs":
                raise self.fail_after.pop(0)
            return answer

        return call

    @property
    def calls(self) -> list[str]:
        return [name for name, _ in self.requests]


def replace_client(store: Store, *, real: bool = False) -> FakeClient:
    """Put a fake client into a store; if ``real``, it passes requests on to the real one."""
    client = FakeClient(store.client if real else None)
    store.client = client  # type: ignore[assignment]
    return client


@pytest.mark.usefixtures("_short_waits")
class TestPatience:
    def patient(self, *errors: Exception, patience_s: float = 30.0) -> tuple[Store, FakeClient]:
        self.messages: list[str] = []
        store = Store(NOWHERE, "0").patient(self.messages.append, patience_s)
        client = replace_client(store)
        client.fail_before = list(errors)
        return store, client

    def test_outage_is_waited_for(self) -> None:
        """The request is repeated until it succeeds; the user reads once what is waited for."""
        store, client = self.patient(AWAY, BUSY, AWAY, AWAY)
        store.end("r1", "FINISHED", 1_000)
        assert client.calls == ["set_terminated"] * 5
        assert self.messages == ["waiting for the tracking server: too many"]

    def test_short_outage_is_not_reported(self) -> None:
        """A second try that succeeds is no news."""
        store, _ = self.patient(AWAY)
        store.end("r1", "FINISHED", 1_000)
        assert self.messages == []

    def test_refusal_is_not_repeated(self) -> None:
        """The same request would be refused again."""
        store, client = self.patient(REFUSED)
        with pytest.raises(MlflowException, match="not this"):
            store.end("r1", "FINISHED", 1_000)
        assert client.calls == ["set_terminated"]

    def test_refusal_after_an_outage_is_not_repeated(self) -> None:
        """Each answer is judged by itself."""
        store, client = self.patient(AWAY, REFUSED)
        with pytest.raises(MlflowException, match="not this"):
            store.reopen("r1")
        assert len(client.calls) == 2

    def test_patience_ends(self) -> None:
        """A server that stays away is an error after the given time."""
        store, client = self.patient(*[AWAY] * 10_000, patience_s=0.1)
        began = time.monotonic()
        with pytest.raises(MlflowException, match="no route"):
            store.reopen("r1")
        assert time.monotonic() - began < 5
        assert len(client.calls) > 2

    def test_store_does_not_wait_by_default(self) -> None:
        """The writer has its own waits, and makes one request at a time."""
        store = Store(NOWHERE, "0")
        client = replace_client(store)
        client.fail_before = [AWAY]
        with pytest.raises(MlflowException, match="no route"):
            store.reopen("r1")
        assert client.calls == ["update_run"]

    def test_bug_is_not_waited_for(self) -> None:
        """An error of our own code is raised at once."""
        store, client = self.patient(ZeroDivisionError())
        with pytest.raises(ZeroDivisionError):
            store.reopen("r1")
        assert len(client.calls) == 1


@pytest.mark.usefixtures("_short_waits")
class TestCreate:
    @pytest.fixture
    def patient(self, store: Store) -> Store:
        return store.patient(lambda _: None, 30.0)

    def names_and_ids(self, store: Store) -> list[tuple[str, str]]:
        runs = MlflowClient(store.uri).search_runs([store.experiment_id])
        return sorted((run.info.run_name or "", run.info.run_id) for run in runs)

    def test_run_is_made_with_its_tags(self, patient: Store) -> None:
        """One request makes the run with all that distinguishes it from other runs."""
        client = replace_client(patient, real=True)
        run_id = patient.create("s1", {"search.role": "search"}, 1_000)
        run = MlflowClient(patient.uri).get_run(run_id)
        assert (run.info.run_name, run.info.start_time) == ("s1", 1_000)
        assert run.data.tags["search.role"] == "search"
        assert client.calls == ["create_run"]

    @pytest.mark.parametrize("lost", [1, 2, 3])
    def test_lost_answer_makes_no_second_run(self, lost: int, patient: Store) -> None:
        """If the run was made and the answer was lost, the run is looked up and used."""
        client = replace_client(patient, real=True)
        client.fail_after = [AWAY] * lost
        run_id = patient.create("s1", {"search.role": "search"}, 1_000)
        assert self.names_and_ids(patient) == [("s1", run_id)]
        assert client.calls.count("create_run") == 1

    def test_lost_request_is_repeated(self, patient: Store) -> None:
        """If no run was made, exactly one is made later."""
        client = replace_client(patient, real=True)
        client.fail_before = [AWAY, AWAY, AWAY]
        run_id = patient.create("s1", {}, 1_000)
        assert self.names_and_ids(patient) == [("s1", run_id)]

    def test_run_of_another_search_is_not_used(self, patient: Store) -> None:
        """A run with another name or another start time is not the one that was asked for."""
        others = [patient.create("s2", {}, 1_000), patient.create("s1", {}, 1_001)]
        client = replace_client(patient, real=True)
        client.fail_before = [AWAY]
        run_id = patient.create("s1", {}, 1_000)
        assert run_id not in others
        assert len(self.names_and_ids(patient)) == 3

    def test_refusal_is_raised(self, patient: Store) -> None:
        """A refused request made no run, so none is looked up."""
        client = replace_client(patient, real=True)
        client.fail_before = [REFUSED]
        with pytest.raises(MlflowException, match="not this"):
            patient.create("s1", {}, 1_000)
        assert client.calls == ["create_run"]


def test_any_text_can_be_stored(store: Store) -> None:
    """Characters that UTF-8 or a database cannot hold are written as escapes."""
    odd = "half of a pair \ud83d and a \0"
    run_id = store.create("odd", {"a": odd}, 1)
    store.describe(run_id, {"b": odd}, {"c": odd})
    store.score(run_id, [], {"d": odd})
    store.write_text(run_id, odd, "odd.txt")
    data = store.client.get_run(run_id).data
    kept = {data.tags[name] for name in "acd"} | {data.params["b"]}
    assert kept == {"half of a pair \\ud83d and a \\0"}


class TestDescribe:
    @pytest.fixture
    def store(self) -> Store:
        return Store(NOWHERE, "0")

    def test_params_and_tags_take_one_request(self, store: Store) -> None:
        """Params and tags are written together."""
        client = replace_client(store)
        store.describe("r1", {"depth": 7, "kernel": {"name": "rbf"}}, {"model": "lasso"})
        ((name, written),) = client.requests
        assert name == "log_batch"
        assert [(each.key, each.value) for each in written["params"]] == [
            ("depth", "7"),
            ("kernel", '{"name": "rbf"}'),
        ]
        assert [(each.key, each.value) for each in written["tags"]] == [("model", "lasso")]

    def test_nothing_to_write_takes_no_request(self, store: Store) -> None:
        """No empty request is made."""
        client = replace_client(store)
        store.describe("r1")
        assert client.requests == []

    def test_many_params_and_tags_take_several_requests(self, store: Store) -> None:
        """No request holds more than the server takes, and nothing is left out."""
        client = replace_client(store)
        params = {f"p{number}": number for number in range(150)}
        store.describe("r1", params, {f"t{number}": "" for number in range(80)})
        sizes = [len(written["params"]) + len(written["tags"]) for _, written in client.requests]
        assert (max(sizes), sum(sizes)) == (100, 230)

    def test_long_param_is_cut(self, store: Store) -> None:
        """Params are for people to read; what the search reads back is in tags."""
        client = replace_client(store)
        store.describe("r1", {"long": "x" * 7_000, "fits": "x" * LONGEST_PARAM})
        long, fits = (each.value for each in client.requests[0][1]["params"])
        assert (len(long), long[-3:]) == (LONGEST_PARAM, "...")
        assert fits == "x" * LONGEST_PARAM


@pytest.mark.parametrize(("scores", "requests_made"), [(0, 1), (998, 1), (999, 2), (2_500, 3)])
def test_tags_are_written_with_the_last_metrics(scores: int, requests_made: int) -> None:
    """A request holds what the server takes; the outcome is there once all metrics are."""
    store = Store(NOWHERE, "0")
    client = replace_client(store)
    tags = {"search.status": "finished", "search.rungs": "{}"}
    store.score("r1", [Score("rmse", 1.0, 1_000, step) for step in range(scores)], tags)
    sizes = [(len(written["metrics"]), len(written["tags"])) for _, written in client.requests]
    assert len(sizes) == requests_made
    assert sum(metrics for metrics, _ in sizes) == scores
    assert max(metrics + tags_written for metrics, tags_written in sizes) <= 1_000
    assert [tags_written for _, tags_written in sizes] == [*[0] * (requests_made - 1), 2]


class TestData:
    ROWS = DataDescription("trips", "d" * 32, {"train": "trips.parquet"}, {"train_rows": 30})

    def described(self, *errors: Exception) -> FakeClient:
        store = Store(NOWHERE, "0")
        client = replace_client(store)
        client.fail_before = list(errors)
        store.describe("r1", data=self.ROWS)
        return client

    def test_data_that_another_run_makes_meanwhile_is_written_again(self) -> None:
        """If two runs make the same data set at once, MLflow refuses one; it tries again."""
        assert self.described().calls == ["log_inputs"]
        assert self.described(DUPLICATE).calls == ["log_inputs"] * 2

    @pytest.mark.parametrize("errors", [(REFUSED,), (DUPLICATE, DUPLICATE)])
    def test_other_refusals_are_raised(self, errors: tuple[Exception, ...]) -> None:
        """There is one more try, and only if the data set was made twice."""
        with pytest.raises(MlflowException):
            self.described(*errors)


class TestDelete:
    def test_run_is_deleted(self, store: Store) -> None:
        """A deleted run is not found any more."""
        store.delete(store.create("s1", {ROLE: "trial"}, 1_000))
        assert MlflowClient(store.uri).search_runs([store.experiment_id]) == []

    def test_run_that_may_not_be_deleted_loses_its_role(self, store: Store) -> None:
        """A user may have the permission to write to an experiment, and not to delete there."""
        run_id = store.create("s1", {ROLE: "trial"}, 1_000)
        replace_client(store, real=True).fail_before = [NOT_PERMITTED]
        store.delete(run_id)
        run = MlflowClient(store.uri).get_run(run_id)
        assert (run.data.tags[ROLE], run.info.status) == ("deleted", "KILLED")

    def test_other_failures_are_raised(self, store: Store) -> None:
        """During an outage the run keeps its role."""
        run_id = store.create("s1", {ROLE: "trial"}, 1_000)
        replace_client(store, real=True).fail_before = [AWAY]
        with pytest.raises(MlflowException, match="no route"):
            store.delete(run_id)
        assert MlflowClient(store.uri).get_run(run_id).data.tags[ROLE] == "trial"


@pytest.mark.usefixtures("_short_waits")
class TestArtifacts:
    def test_patient_store_repeats_after_any_failure(self) -> None:
        """An artifact store is a server of its own, and fails with errors of its own."""
        store = Store(NOWHERE, "0").patient(lambda _: None, 1.0)
        client = replace_client(store)
        client.fail_before = [OSError(5, "Input/output error"), KeyError("cloud")]
        store.write_text("r1", "x", "x.txt")
        assert client.calls == ["log_text"] * 3

    def test_permanent_failure_is_an_error_of_one_line(self) -> None:
        """The message has the reason of the disk or the cloud; the tries end."""
        store = Store(NOWHERE, "0").patient(lambda _: None, 1.0)
        client = replace_client(store)
        client.fail_before = [PermissionError(13, "Permission denied", "/x")] * 9
        with pytest.raises(Unwritable, match=r"written: Permission denied$"):
            store.write_file("r1", "x.txt", "models")
        assert len(client.calls) == 3

    def test_impatient_store_tries_once(self) -> None:
        """The writer has its own tries."""
        store = Store(NOWHERE, "0")
        client = replace_client(store)
        client.fail_before = [OSError(28, "No space left on device")]
        with pytest.raises(Unwritable, match="No space"):
            store.write_text("r1", "x", "x.txt")
        assert len(client.calls) == 1


class TestClosing:
    @pytest.fixture
    def run_id(self, store: Store) -> str:
        return store.create("s1", {}, 1_000)

    @pytest.fixture(autouse=True)
    def _impatient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(store_module, "LAST_PATIENCE_S", 0.05)

    def status(self, store: Store, run_id: str) -> str:
        return str(MlflowClient(store.uri).get_run(run_id).info.status)

    def test_run_without_an_error_is_finished(self, store: Store, run_id: str) -> None:
        """Inside, the run is RUNNING; afterwards it has its end time."""
        with store.closing(run_id, contextlib.nullcontext):
            assert self.status(store, run_id) == "RUNNING"
        run = MlflowClient(store.uri).get_run(run_id)
        assert run.info.status == "FINISHED"
        assert run.info.end_time is not None
        assert abs(run.info.end_time / 1_000 - time.time()) < 60

    @pytest.mark.parametrize(
        ("error", "status"),
        [
            (SearchError("x"), "FAILED"),
            (InputError("x"), "FAILED"),
            (ZeroDivisionError("x"), "FAILED"),
            (SystemExit(1), "FAILED"),
            (Interrupted("x"), "KILLED"),
            (KeyboardInterrupt(), "KILLED"),
            (TakenOver("x"), "RUNNING"),
        ],
        ids=lambda value: value if isinstance(value, str) else type(value).__name__,
    )
    def test_error_determines_the_status(
        self, error: BaseException, status: str, store: Store, run_id: str
    ) -> None:
        """A run that another driver has taken over does not change; the error is passed on."""
        with pytest.raises(type(error)) as raised, store.closing(run_id, contextlib.nullcontext):
            raise error
        assert raised.value is error
        assert self.status(store, run_id) == status

    @pytest.mark.parametrize("fails", [False, True])
    def test_signals_are_deferred_only_at_the_end(
        self, *, fails: bool, store: Store, run_id: str
    ) -> None:
        """Inside, a signal may come at any time; it must not interrupt the request that ends."""
        seen: list[str] = []

        @contextlib.contextmanager
        def deferred() -> Iterator[None]:
            seen.append(self.status(store, run_id))
            yield
            seen.append(self.status(store, run_id))

        with contextlib.suppress(ZeroDivisionError), store.closing(run_id, deferred):
            assert seen == []
            _ = 1 / (not fails)
        assert seen == ["RUNNING", "FAILED" if fails else "FINISHED"]

    def test_run_that_cannot_be_ended_hides_no_error(
        self, store: Store, run_id: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The error of the search is raised, and a message says that the run is open."""
        messages: list[str] = []

        def away(*args: object, **named: object) -> None:
            del args, named
            raise AWAY

        monkeypatch.setattr(MlflowClient, "set_terminated", away)
        patient = store.patient(messages.append)
        with (
            pytest.raises(ZeroDivisionError),
            patient.closing(run_id, contextlib.nullcontext),
        ):
            raise ZeroDivisionError
        assert messages == [f"run {run_id} could not be ended: no route"]
