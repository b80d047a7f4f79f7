"""The one door to MLflow: a server that is away is waited for, and nothing is made twice."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos import databricks_pb2 as codes

from search import store as store_module
from search.errors import InputError, Interrupted, SearchError, TakenOver
from search.store import (
    CLIENT_RETRIES,
    LONGEST_PARAM,
    ROLE,
    Data,
    Score,
    Store,
    Unwritable,
    client_retries,
    first_line,
    is_outage,
    long_tag,
    read_long_tag,
    within,
)

NOWHERE = "http://127.0.0.1:1"
AWAY = MlflowException("no route\nto host", error_code=codes.TEMPORARILY_UNAVAILABLE)
BUSY = MlflowException("too many", error_code=codes.REQUEST_LIMIT_EXCEEDED)
REFUSED = MlflowException("not this", error_code=codes.INVALID_PARAMETER_VALUE)
TWICE = MlflowException("duplicate key", error_code=codes.BAD_REQUEST)
NOT_PERMITTED = MlflowException("Permission denied", error_code=codes.PERMISSION_DENIED)
UNKNOWN = MlflowException("a page of HTML", error_code=codes.UNAUTHENTICATED)
NewStore = Callable[[Path], str]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (CLIENT_RETRIES, "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "RETRY_AFTER_S", (0.001, 0.002, 0.003))
    monkeypatch.setattr(store_module, "RETRY_ARTIFACT_AFTER_S", (0.001, 0.002))


@pytest.fixture
def store(new_store: NewStore, tmp_path: Path) -> Store:
    return Store.connect(new_store(tmp_path), "taxis")


class Client:
    """Stands where MLflow's client does; keeps what it is asked, and fails as often as told."""

    def __init__(self, real: MlflowClient | None = None) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.before: list[Exception] = []  # raised in place of the next requests
        self.after: list[Exception] = []  # raised once the next requests have been done
        self._real = real

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **named: Any) -> Any:
            self.asked.append((name, named))
            if self.before:
                raise self.before.pop(0)
            answer = None if self._real is None else getattr(self._real, name)(*args, **named)
            if self.after and name != "search_runs":
                raise self.after.pop(0)
            return answer

        return call

    @property
    def calls(self) -> list[str]:
        return [name for name, _ in self.asked]


def stood_in(store: Store, *, real: bool = False) -> Client:
    """Put a client of ours into a store."""
    client = Client(store.client if real else None)
    store.client = client  # type: ignore[assignment]
    return client


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (AWAY, True),
        (BUSY, True),
        (MlflowException("no code: the client's own, as for a lost connection"), True),
        (MlflowException("x", error_code=codes.DEADLINE_EXCEEDED), True),
        (MlflowException("x", error_code=codes.RESOURCE_EXHAUSTED), True),
        (REFUSED, False),
        (MlflowException("x", error_code=codes.UNAUTHENTICATED), False),
        (MlflowException("x", error_code=codes.PERMISSION_DENIED), False),
        (MlflowException("x", error_code=codes.RESOURCE_DOES_NOT_EXIST), False),
        (MlflowException("x", error_code=codes.RESOURCE_ALREADY_EXISTS), False),
        (ConnectionError("reset"), True),
        (TimeoutError(), True),
        (requests.ConnectionError("reset"), True),
        (requests.Timeout("slow"), True),
        (ValueError("ours"), False),
        (KeyError("ours"), False),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_outage_is_what_may_pass(error: Exception, *, expected: bool) -> None:
    """A server that is away or busy may take the same request later; a refusal stays one."""
    assert is_outage(error) is expected


@pytest.mark.usefixtures("_quick")
class TestPatience:
    def patient(self, *errors: Exception, patience_s: float = 30.0) -> tuple[Store, Client]:
        self.said: list[str] = []
        store = Store(NOWHERE, "0").patient(self.said.append, patience_s)
        client = stood_in(store)
        client.before = list(errors)
        return store, client

    def test_an_outage_is_waited_for(self) -> None:
        """The request is made until it is taken; the user hears once what is waited for."""
        store, client = self.patient(AWAY, BUSY, AWAY, AWAY)
        store.end("r1", "FINISHED", 1_000)
        assert client.calls == ["set_terminated"] * 5
        assert self.said == ["waiting for the tracking server: too many"]

    def test_a_moments_outage_is_not_told(self) -> None:
        """What a second try mends is no news."""
        store, _ = self.patient(AWAY)
        store.end("r1", "FINISHED", 1_000)
        assert self.said == []

    def test_a_refusal_is_not_waited_for(self) -> None:
        """Asking again would change nothing."""
        store, client = self.patient(REFUSED)
        with pytest.raises(MlflowException, match="not this"):
            store.end("r1", "FINISHED", 1_000)
        assert client.calls == ["set_terminated"]

    def test_a_refusal_after_an_outage_is_not_waited_for(self) -> None:
        """Each answer is judged for itself."""
        store, client = self.patient(AWAY, REFUSED)
        with pytest.raises(MlflowException, match="not this"):
            store.reopen("r1")
        assert len(client.calls) == 2

    def test_patience_ends(self) -> None:
        """A server that stays away is an error, in the time that was given."""
        store, client = self.patient(*[AWAY] * 10_000, patience_s=0.1)
        began = time.monotonic()
        with pytest.raises(MlflowException, match="no route"):
            store.reopen("r1")
        assert time.monotonic() - began < 5
        assert len(client.calls) > 2

    def test_a_store_is_impatient_unless_asked(self) -> None:
        """The writer waits in its own way, and asks once at a time."""
        store = Store(NOWHERE, "0")
        client = stood_in(store)
        client.before = [AWAY]
        with pytest.raises(MlflowException, match="no route"):
            store.reopen("r1")
        assert client.calls == ["update_run"]

    def test_a_defect_is_not_waited_for(self) -> None:
        """An error of ours shows its traceback at once."""
        store, client = self.patient(ZeroDivisionError())
        with pytest.raises(ZeroDivisionError):
            store.reopen("r1")
        assert len(client.calls) == 1


@pytest.mark.usefixtures("_quick")
class TestCreate:
    @pytest.fixture
    def patient(self, store: Store) -> Store:
        return store.patient(lambda _: None, 30.0)

    def made(self, store: Store) -> list[tuple[str, str]]:
        found = MlflowClient(store.uri).search_runs([store.experiment_id])
        return sorted((run.info.run_name or "", run.info.run_id) for run in found)

    def test_a_run_is_made_with_its_tags(self, patient: Store) -> None:
        """All that tells a run from others is there from its first moment, by one request."""
        client = stood_in(patient, real=True)
        run_id = patient.create("s1", {"search.role": "search"}, 1_000)
        run = MlflowClient(patient.uri).get_run(run_id)
        assert (run.info.run_name, run.info.start_time) == ("s1", 1_000)
        assert run.data.tags["search.role"] == "search"
        assert client.calls == ["create_run"]

    @pytest.mark.parametrize("lost", [1, 2, 3])
    def test_a_lost_answer_makes_no_second_run(self, lost: int, patient: Store) -> None:
        """The run was made and the answer got lost: it is looked up, and taken."""
        client = stood_in(patient, real=True)
        client.after = [AWAY] * lost
        run_id = patient.create("s1", {"search.role": "search"}, 1_000)
        assert self.made(patient) == [("s1", run_id)]
        assert client.calls.count("create_run") == 1

    def test_a_lost_request_is_made_again(self, patient: Store) -> None:
        """Where there is no run to be found, there is one afterwards, and only one."""
        client = stood_in(patient, real=True)
        client.before = [AWAY, AWAY, AWAY]
        run_id = patient.create("s1", {}, 1_000)
        assert self.made(patient) == [("s1", run_id)]

    def test_what_others_made_is_not_taken(self, patient: Store) -> None:
        """A run of another name or another moment is another's."""
        others = [patient.create("s2", {}, 1_000), patient.create("s1", {}, 1_001)]
        client = stood_in(patient, real=True)
        client.before = [AWAY]
        run_id = patient.create("s1", {}, 1_000)
        assert run_id not in others
        assert len(self.made(patient)) == 3

    def test_a_refusal_is_told(self, patient: Store) -> None:
        """No run is looked for that cannot have been made."""
        client = stood_in(patient, real=True)
        client.before = [REFUSED]
        with pytest.raises(MlflowException, match="not this"):
            patient.create("s1", {}, 1_000)
        assert client.calls == ["create_run"]


def test_any_text_can_be_stored(store: Store) -> None:
    """What a trainable raises may hold what no database does; it is said by its escapes."""
    odd = "half of a pair \ud83d and a \0"
    run_id = store.create("odd", {"a": odd}, 1)
    store.describe(run_id, {"b": odd}, {"c": odd})
    store.score(run_id, [], {"d": odd})
    store.write_text(run_id, odd, "odd.txt")
    data = store.client.get_run(run_id).data
    said = {data.tags[name] for name in "acd"} | {data.params["b"]}
    assert said == {"half of a pair \\ud83d and a \\0"}


class TestDescribed:
    @pytest.fixture
    def store(self) -> Store:
        return Store(NOWHERE, "0")

    def test_one_request_says_it_all(self, store: Store) -> None:
        """Params and tags go together."""
        client = stood_in(store)
        store.describe("r1", {"depth": 7, "kernel": {"name": "rbf"}}, {"model": "lasso"})
        ((name, said),) = client.asked
        assert name == "log_batch"
        assert [(each.key, each.value) for each in said["params"]] == [
            ("depth", "7"),
            ("kernel", '{"name": "rbf"}'),
        ]
        assert [(each.key, each.value) for each in said["tags"]] == [("model", "lasso")]

    def test_nothing_to_say_takes_no_request(self, store: Store) -> None:
        """A server is not asked for nothing."""
        client = stood_in(store)
        store.describe("r1")
        assert client.asked == []

    def test_many_are_said_in_several(self, store: Store) -> None:
        """No request holds more than the server takes, and none is left out."""
        client = stood_in(store)
        params = {f"p{number}": number for number in range(150)}
        store.describe("r1", params, {f"t{number}": "" for number in range(80)})
        sizes = [len(said["params"]) + len(said["tags"]) for _, said in client.asked]
        assert (max(sizes), sum(sizes)) == (100, 230)

    def test_a_param_too_long_is_cut(self, store: Store) -> None:
        """It is for people to read; what is read back is in tags."""
        client = stood_in(store)
        store.describe("r1", {"long": "x" * 7_000, "fits": "x" * LONGEST_PARAM})
        long, fits = (each.value for each in client.asked[0][1]["params"])
        assert (len(long), long[-3:]) == (LONGEST_PARAM, "...")
        assert fits == "x" * LONGEST_PARAM

    @pytest.mark.parametrize(("scores", "requests_made"), [(0, 1), (998, 1), (999, 2), (2_500, 3)])
    def test_metrics_go_many_at_once_and_tags_with_the_last(
        self, scores: int, requests_made: int, store: Store
    ) -> None:
        """A request holds what the server takes; an outcome is there when all of it is."""
        client = stood_in(store)
        tags = {"search.status": "finished", "search.rungs": "{}"}
        store.score("r1", [Score("rmse", 1.0, 1_000, step) for step in range(scores)], tags)
        sizes = [(len(said["metrics"]), len(said["tags"])) for _, said in client.asked]
        assert len(sizes) == requests_made
        assert sum(metrics for metrics, _ in sizes) == scores
        assert max(metrics + told for metrics, told in sizes) <= 1_000
        assert [told for _, told in sizes] == [*[0] * (requests_made - 1), 2]


class TestData:
    ROWS = Data("trips", "d" * 32, {"train": "trips.parquet"}, {"train_rows": 30})

    def described(self, *errors: Exception) -> Client:
        store = Store(NOWHERE, "0")
        client = stood_in(store)
        client.before = list(errors)
        store.describe("r1", data=self.ROWS)
        return client

    def test_who_comes_second_with_the_same_rows_asks_again(self) -> None:
        """Two runs made the data set at once; MLflow refuses one of them, whose run lacks it."""
        assert self.described().calls == ["log_inputs"]
        assert self.described(TWICE).calls == ["log_inputs"] * 2

    @pytest.mark.parametrize("errors", [(REFUSED,), (TWICE, TWICE)])
    def test_another_refusal_is_told(self, errors: tuple[Exception, ...]) -> None:
        """Asking once more is enough, and for that reason only."""
        with pytest.raises(MlflowException):
            self.described(*errors)


class TestDelete:
    def test_a_run_is_deleted(self, store: Store) -> None:
        """It is out of sight."""
        store.delete(store.create("s1", {ROLE: "trial"}, 1_000))
        assert MlflowClient(store.uri).search_runs([store.experiment_id]) == []

    def test_where_that_is_not_permitted_it_is_no_trial_any_more(self, store: Store) -> None:
        """In somebody else's experiment one may write, and not delete."""
        run_id = store.create("s1", {ROLE: "trial"}, 1_000)
        stood_in(store, real=True).before = [NOT_PERMITTED]
        store.delete(run_id)
        run = MlflowClient(store.uri).get_run(run_id)
        assert (run.data.tags[ROLE], run.info.status) == ("deleted", "KILLED")

    def test_another_failure_is_told(self, store: Store) -> None:
        """A server that is away may take it later."""
        run_id = store.create("s1", {ROLE: "trial"}, 1_000)
        stood_in(store, real=True).before = [AWAY]
        with pytest.raises(MlflowException, match="no route"):
            store.delete(run_id)
        assert MlflowClient(store.uri).get_run(run_id).data.tags[ROLE] == "trial"


@pytest.mark.usefixtures("_quick")
class TestArtifacts:
    def test_any_failure_is_tried_again_by_the_patient(self) -> None:
        """An artifact store is its own server, and may be away in its own way."""
        store = Store(NOWHERE, "0", 1.0)
        client = stood_in(store)
        client.before = [OSError(5, "Input/output error"), KeyError("cloud")]
        store.write_text("r1", "x", "x.txt")
        assert client.calls == ["log_text"] * 3

    def test_one_that_takes_nothing_is_told_in_one_line(self) -> None:
        """The reason is the disk's or the cloud's own, and no endless wait."""
        store = Store(NOWHERE, "0", 1.0)
        client = stood_in(store)
        client.before = [PermissionError(13, "Permission denied", "/x")] * 9
        with pytest.raises(Unwritable, match=r"written: Permission denied$"):
            store.write_file("r1", "x.txt", "models")
        assert len(client.calls) == 3

    def test_the_impatient_try_once(self) -> None:
        """The writer tries again in its own way."""
        store = Store(NOWHERE, "0")
        client = stood_in(store)
        client.before = [OSError(28, "No space left on device")]
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

    def test_what_came_to_its_end_is_finished(self, store: Store, run_id: str) -> None:
        """Inside, the run runs."""
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
    def test_what_ended_otherwise_has_the_status_of_that(
        self, error: BaseException, status: str, store: Store, run_id: str
    ) -> None:
        """A run that another driver has is left alone; the error is told unchanged."""
        with pytest.raises(type(error)) as raised, store.closing(run_id, contextlib.nullcontext):
            raise error
        assert raised.value is error
        assert self.status(store, run_id) == status

    @pytest.mark.parametrize("fails", [False, True])
    def test_signals_wait_only_for_the_end(self, *, fails: bool, store: Store, run_id: str) -> None:
        """Inside, a signal may come at any time; the run's end is not to be torn."""
        seen: list[str] = []

        @contextlib.contextmanager
        def unbroken() -> Iterator[None]:
            seen.append(self.status(store, run_id))
            yield
            seen.append(self.status(store, run_id))

        with contextlib.suppress(ZeroDivisionError), store.closing(run_id, unbroken):
            assert seen == []
            _ = 1 / (not fails)
        assert seen == ["RUNNING", "FAILED" if fails else "FINISHED"]

    def test_a_run_that_cannot_be_ended_hides_nothing(
        self, store: Store, run_id: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Why the search leaves is told, and that its run is open."""
        said: list[str] = []

        def away(*args: object, **named: object) -> None:
            del args, named
            raise AWAY

        monkeypatch.setattr(MlflowClient, "set_terminated", away)
        patient = store.patient(said.append)
        with (
            pytest.raises(ZeroDivisionError),
            patient.closing(run_id, contextlib.nullcontext),
        ):
            raise ZeroDivisionError
        assert said == [f"run {run_id} could not be ended: no route"]


class TestLongTag:
    @settings(
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(text=st.text(max_size=20), other=st.text(max_size=20))
    def test_any_text_is_read_again(
        self, text: str, other: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Cut into what a tag holds, and put together again; also over another text's tags."""
        monkeypatch.setattr(store_module, "LONGEST_TAG", 4)
        tags = long_tag("search.point", text)
        assert max(map(len, tags.values())) <= 4
        assert read_long_tag({**tags, "search.point.x": "x"}, "search.point") == text
        assert read_long_tag({**long_tag("search.point", other), **tags}, "search.point") == text

    def test_a_short_text_is_one_tag(self) -> None:
        """What fits is under its own name."""
        assert long_tag("search.point", "{}") == {"search.point": "{}"}

    def test_where_there_is_none_it_is_empty(self) -> None:
        """A run that never said has said nothing."""
        assert read_long_tag({"search.pointer": "x"}, "search.point") == ""

    def test_the_store_takes_the_longest(self, store: Store) -> None:
        """A part is no longer than MLflow allows, in whatever script it is written."""
        run_id = store.create("s1", long_tag("search.point", "検" * 20_001), 1_000)
        store.describe(run_id, tags=long_tag("search.options", "😀" * 16_000))
        tags = store.tags(run_id)
        assert read_long_tag(tags, "search.point") == "検" * 20_001
        assert read_long_tag(tags, "search.options") == "😀" * 16_000


class TestConnect:
    def test_an_experiment_is_made_once(self, new_store: NewStore, tmp_path: Path) -> None:
        """The second search finds that of the first."""
        uri = new_store(tmp_path)
        first, second = Store.connect(uri, "taxis"), Store.connect(uri, "taxis")
        assert first.experiment_id == second.experiment_id
        assert Store.connect(uri, "taxis", create=False).experiment_id == first.experiment_id

    def test_one_that_is_not_there_is_not_made_to_look_into(
        self, new_store: NewStore, tmp_path: Path
    ) -> None:
        """Who goes on with a search of a mistyped experiment is told, and leaves none."""
        uri = new_store(tmp_path)
        with pytest.raises(InputError, match="no such experiment"):
            Store.connect(uri, "taxes", create=False)
        assert MlflowClient(uri).get_experiment_by_name("taxes") is None

    @pytest.mark.parametrize("create", [True, False])
    def test_one_that_was_deleted_is_refused(
        self, *, create: bool, new_store: NewStore, tmp_path: Path
    ) -> None:
        """The user is told how to have it back."""
        uri = new_store(tmp_path)
        client = MlflowClient(uri)
        client.delete_experiment(client.create_experiment("taxis"))
        with pytest.raises(InputError, match="mlflow experiments restore"):
            Store.connect(uri, "taxis", create=create)

    def test_several_may_make_one_database_at_once(self, tmp_path: Path) -> None:
        """Searches, or a search and `mlflow ui`, may begin a folder at the same moment."""
        code = (
            "import sys\n"
            "from search.store import Store\n"
            "input()\n"
            "print(Store.connect(sys.argv[1], 'e').experiment_id)\n"
        )
        command = [sys.executable, "-c", code, f"sqlite:///{tmp_path / 'new.db'}"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started = [subprocess.Popen(command, text=True, **pipes) for _ in range(3)]  # type: ignore[call-overload]
        for each in started:
            each.stdin.write("\n")
            each.stdin.flush()
        ended = [each.communicate(timeout=120) for each in started]
        assert {out.strip() for out, _ in ended} == {"1"}, [err[-300:] for _, err in ended]

    def test_one_that_another_search_made_meanwhile_is_taken(
        self, new_store: NewStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Two searches may start at once in a new store."""
        uri, real = new_store(tmp_path), MlflowClient.create_experiment

        def made_twice(client: MlflowClient, name: str, **named: Any) -> str:
            real(client, name, **named)
            return real(client, name, **named)

        monkeypatch.setattr(MlflowClient, "create_experiment", made_twice)
        found = MlflowClient(uri).get_experiment_by_name
        assert Store.connect(uri, "taxis").experiment_id == getattr(
            found("taxis"), "experiment_id", None
        )

    @pytest.mark.parametrize(
        "met", [AttributeError("dimension_attributes"), RuntimeError("table runs already exists")]
    )
    def test_a_migration_that_somebody_else_has_under_way_is_waited_for(
        self, met: Exception, new_store: NewStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`mlflow ui`, say, opened the folder's database a moment before."""
        uri, real, meets = new_store(tmp_path), MlflowClient.get_experiment_by_name, [met, met]

        def half_made(client: MlflowClient, name: str) -> Any:
            if meets:
                raise meets.pop()
            return real(client, name)

        monkeypatch.setattr(MlflowClient, "get_experiment_by_name", half_made)
        assert Store.connect(uri, "taxis").experiment_id
        assert meets == []

    def test_the_client_does_not_try_again_by_itself(self, store: Store) -> None:
        """A POST whose answer was lost would make a second run."""
        assert os.environ[CLIENT_RETRIES] == "0"
        with client_retries():
            assert int(os.environ[CLIENT_RETRIES]) > 0
        assert os.environ[CLIENT_RETRIES] == "0"
        assert store.experiment_id


class TestWithin:
    def test_an_answer_in_time_is_the_answer(self) -> None:
        """Whatever it is."""
        assert within(5, lambda: None, NOWHERE) is None

    def test_no_answer_in_time_is_told(self) -> None:
        """A server that hangs holds nobody, and the password in its address is not shown."""
        release = threading.Event()
        with pytest.raises(InputError) as error:
            within(0.05, release.wait, "http://me:secret@host:5000")
        release.set()
        assert "http://host:5000 cannot be used: no answer within 0 s" in str(error.value)
        assert "secret" not in str(error.value)

    def test_a_refusal_is_told_by_its_first_line(self) -> None:
        """A page of HTML, or a traceback, is none of the user's business."""

        def refuses() -> None:
            raise AWAY

        with pytest.raises(InputError, match=r"cannot be used: no route; is it running"):
            within(5, refuses, NOWHERE)

    @pytest.mark.parametrize(
        ("error", "said"),
        [
            (UNKNOWN, "it lets in only whom it knows; set MLFLOW_TRACKING_USERNAME"),
            (NOT_PERMITTED, "Permission denied; whoever runs it grants"),
            (ModuleNotFoundError(name="psycopg"), "the package psycopg is missing"),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_what_can_be_mended_is_told_with_how(self, error: Exception, said: str) -> None:
        """A password, a permission, a package: no need to ask whether the server runs."""

        def refuses() -> None:
            raise error

        with pytest.raises(InputError, match=said):
            within(5, refuses, NOWHERE)

    def test_bad_input_is_told_as_it_is(self) -> None:
        """What knows better says it better."""
        known = InputError("--experiment-name: no")

        def refuses() -> None:
            raise known

        with pytest.raises(InputError) as error:
            within(5, refuses, NOWHERE)
        assert error.value is known


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("first\nsecond"), "first"),
        (ValueError("\n\n  first\n"), "first"),
        (ValueError(), "ValueError"),
        (ValueError("x" * 1_000), "x" * 300),
    ],
)
def test_the_first_line_says_something(error: Exception, line: str) -> None:
    """An error without words has its kind."""
    assert first_line(error) == line
