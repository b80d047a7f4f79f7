"""The one door through which runs are written to MLflow.

Every call goes by :class:`mlflow.MlflowClient`, never by the fluent API: that keeps its active
run in module globals. No call is made before :meth:`Store.connect`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from mlflow import MlflowClient
from mlflow.entities import Dataset as LoggedDataset
from mlflow.entities import DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from search import database
from search.errors import InputError, Interrupted, SearchError, TakenOver
from search.server import credentials_apart, scrubbed, unusable, without_credentials

# For what a search asks first. That there is a server is known by then (search/server.py); where
# many searches begin at once, all of it is slow.
CONNECT_TIMEOUT_S = 60.0
REQUEST_TIMEOUT_S = 10  # later on, when others wait
DATABASE_TIMEOUT_S = 12.0  # one that MLflow asks again and again by itself
CREATE_TIMEOUT_S = 120.0  # a database made anew goes through all its migrations, here
PATIENCE_S = 120.0  # for a server that is away while nothing else can go on
LAST_PATIENCE_S = 10.0  # for one that is away when the search leaves anyway
RETRY_AFTER_S = (0.2, 0.5, 1.0, 2.0, 5.0)  # then the last, again and again
RETRY_ARTIFACT_AFTER_S = (0.5, 2.0, 8.0)

# what the store takes at once (mlflow.utils.validation); lengths in characters
METRICS_A_REQUEST = 1_000
DESCRIBED_A_REQUEST = 100
LONGEST_PARAM = 6_000
LONGEST_TAG = 8_000

# sqlite's words for a migration that somebody else has done or is doing
MADE_TWICE = ("already exists", "duplicate column name", "database is locked", "no such table")

CLIENT_RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
REQUEST_TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"

T = TypeVar("T")
Unbroken = contextlib.AbstractContextManager[None]

# has `mlflow ui` open the experiment as model training, not as generative AI
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}

# tags of a search's runs
PARENT = "mlflow.parentRunId"
ROLE = "search.role"
TRIAL_ID = "search.trial_id"
STATUS = "search.status"
POINT = "search.point"  # the trial's parameters as JSON: a param is text only
RUNGS = "search.rungs"  # JSON: round -> lowest score by then, as the scheduler saw it
OPTIONS = "search.options"  # JSON: what the command was given
DRIVER = "search.driver"
BEAT = "search.heartbeat"
STATE_DIR = "search.state_dir"
SUPERSEDED = "search.superseded"

CURVE = "validation-rmse"

# MLflow's status of a run, by the trial's
RUN_STATUS = {
    "finished": "FINISHED",
    "stopped": "FINISHED",
    "failed": "FAILED",
    "interrupted": "KILLED",
}


@dataclass(frozen=True)
class Data:
    """The rows a run used, as MLflow shows them."""

    name: str
    digest: str
    source: Mapping[str, str]  # role -> path, as named by the user
    profile: Mapping[str, Any]

    def logged(self) -> DatasetInput:
        """Return the entity MLflow stores with the run."""
        entity = LoggedDataset(
            name=self.name,
            digest=self.digest,
            source_type="local",
            source=json.dumps({"uri": ", ".join(self.source.values()), **self.source}),
            profile=json.dumps(dict(self.profile)),
        )
        return DatasetInput(entity, [InputTag("mlflow.data.context", "training")])


@dataclass(frozen=True)
class Score:
    """One value of one metric. All four fields are its key: writing it twice changes nothing."""

    key: str
    value: float
    at_ms: int  # milliseconds since the epoch
    step: int = 0


class Store:
    """The runs of one experiment.

    A request that the server does not take is an error at once; :meth:`patient` makes a store
    that tries it again.
    """

    def __init__(
        self,
        uri: str,
        experiment_id: str,
        patience_s: float = 0.0,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.uri = uri
        self.experiment_id = experiment_id
        self.client = MlflowClient(uri, registry_uri=uri)
        self._patience_s = patience_s
        self._say = say

    @classmethod
    def connect(cls, uri: str, experiment_name: str, *, create: bool = True) -> Store:
        """Reach the store, and find the experiment or make it.

        :raises InputError: the store cannot be reached in time, refuses, or the experiment
            was deleted, or is not there and is not to be made.
        """
        uri = _client_prepared(uri)
        with _requests_of(int(CONNECT_TIMEOUT_S)):
            reached = within(_timeout_s(uri), lambda: _reached(uri, experiment_name, create), uri)
        os.environ.setdefault(REQUEST_TIMEOUT, str(REQUEST_TIMEOUT_S))
        return cls(uri, reached)

    def patient(self, say: Callable[[str], None], patience_s: float = PATIENCE_S) -> Store:
        """Return the same store, for whom a server may be away for ``patience_s``."""
        return Store(self.uri, self.experiment_id, patience_s, say)

    def create(self, name: str, tags: Mapping[str, str], at_ms: int) -> str:
        """Create a run; return its id.

        An answer may be lost after the run was made: before it is tried again, it is looked up.
        """
        tried = 0

        def made() -> str:
            nonlocal tried
            tried += 1
            found = self._created(name, at_ms) if tried > 1 else None
            if found is not None:
                return found
            kept = {key: _storable(text) for key, text in tags.items()}
            run = self.client.create_run(self.experiment_id, at_ms, kept, name)
            return str(run.info.run_id)

        return self.ask(made)

    def reopen(self, run_id: str) -> None:
        """Have a run that ended run on; its start stays."""
        self.ask(lambda: self.client.update_run(run_id, status="RUNNING"))

    def describe(
        self,
        run_id: str,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        data: Data | None = None,
    ) -> None:
        """Write params and tags in one request, and the data the run uses in another."""
        entities: list[Param | RunTag] = [
            *(Param(name, _param(value)) for name, value in (params or {}).items()),
            *(RunTag(name, _storable(value)) for name, value in (tags or {}).items()),
        ]
        for batch in _batches(entities, DESCRIBED_A_REQUEST):
            kept = [each for each in batch if isinstance(each, Param)]
            others = [each for each in batch if isinstance(each, RunTag)]
            self.ask(partial(self.client.log_batch, run_id, params=kept, tags=others))
        if data is not None:
            self._describe_data(run_id, data)

    def _describe_data(self, run_id: str, data: Data) -> None:
        request = partial(self.client.log_inputs, run_id, [data.logged()])
        try:
            self.ask(request)
        except MlflowException as error:
            # Of two runs that are the first with these rows the second is refused: both make the
            # data set, whose key is its name and digest. It is there when asked again.
            if error.error_code != "BAD_REQUEST":
                raise
            self.ask(request)

    def score(
        self, run_id: str, scores: Sequence[Score], tags: Mapping[str, str] | None = None
    ) -> None:
        """Write metrics, as few requests as the store takes, and tags with the last of them."""
        told = [RunTag(name, _storable(value)) for name, value in (tags or {}).items()]
        batches = list(_batches(scores, METRICS_A_REQUEST - len(told))) or [[]]
        for i, batch in enumerate(batches):
            metrics = [Metric(s.key, s.value, s.at_ms, s.step) for s in batch]
            last = told if i == len(batches) - 1 else []
            self.ask(partial(self.client.log_batch, run_id, metrics=metrics, tags=last))

    def write_text(self, run_id: str, text: str, path: str) -> None:
        """Keep a text as an artifact of the run.

        :raises Unwritable: the artifact store does not take it.
        """
        self._write(lambda: self.client.log_text(run_id, _storable(text), path))

    def write_file(self, run_id: str, file: str, folder: str) -> None:
        """Keep a file as an artifact of the run.

        :raises Unwritable: the artifact store does not take it.
        """
        self._write(lambda: self.client.log_artifact(run_id, file, folder))

    def tags(self, run_id: str) -> dict[str, str]:
        """Return the tags of a run."""
        return dict(self.ask(lambda: self.client.get_run(run_id)).data.tags)

    def end(self, run_id: str, status: str, at_ms: int) -> None:
        """End the run: FINISHED, FAILED or KILLED."""
        self.ask(lambda: self.client.set_terminated(run_id, status, at_ms))

    def delete(self, run_id: str) -> None:
        """Take the run out of sight; MLflow keeps it among the deleted.

        Who may write to somebody else's experiment may not delete there: such a run stays, but
        no search's.
        """
        try:
            self.ask(lambda: self.client.delete_run(run_id))
        except MlflowException as error:
            if error.error_code != "PERMISSION_DENIED":
                raise
            self.describe(run_id, tags={ROLE: "deleted"})
            self.end(run_id, "KILLED", now_ms())

    @contextlib.contextmanager
    def closing(self, run_id: str, unbroken: Callable[[], Unbroken]) -> Iterator[None]:
        """End a run with the status that it really had, whatever happens inside.

        Signals wait while ``unbroken`` is entered. A search that another driver took over
        leaves its runs alone.
        """
        try:
            yield
        except TakenOver:
            raise
        except BaseException as error:
            killed = isinstance(error, Interrupted | KeyboardInterrupt)
            try:
                with unbroken():
                    self.patient(self._say, LAST_PATIENCE_S).end(
                        run_id, "KILLED" if killed else "FAILED", now_ms()
                    )
            except MlflowException as failure:  # must not hide why the search leaves
                self._say(f"run {run_id} could not be ended: {first_line(failure)}")
            raise
        with unbroken():
            self.end(run_id, "FINISHED", now_ms())

    def ask(self, request: Callable[[], T]) -> T:
        """Return the answer of a request; ask again while the server is away, if patient."""
        give_up_at = time.monotonic() + self._patience_s
        for wait_s in itertools.chain(RETRY_AFTER_S, itertools.repeat(RETRY_AFTER_S[-1])):
            try:
                return request()
            except MlflowException as error:
                if not is_outage(error) or time.monotonic() + wait_s > give_up_at:
                    raise
                if wait_s == RETRY_AFTER_S[1]:
                    self._say(f"waiting for the tracking server: {first_line(error)}")
            time.sleep(wait_s)
        raise AssertionError("the waits never end")

    def _write(self, write: Callable[[], None]) -> None:
        # Whatever an artifact store may raise: a disk's error, an HTTP client's, a cloud's.
        for wait_s in (*RETRY_ARTIFACT_AFTER_S, None):
            try:
                return write()
            except Exception as error:
                if wait_s is None or not self._patience_s:
                    reason = getattr(error, "strerror", None) or first_line(error)
                    raise Unwritable(f"artifacts cannot be written: {reason}") from error
            time.sleep(wait_s)
        raise AssertionError("the last try returns or raises")

    def _created(self, name: str, at_ms: int) -> str | None:
        found = self.client.search_runs([self.experiment_id], f"attributes.start_time = {at_ms}")
        return next((str(run.info.run_id) for run in found if run.info.run_name == name), None)


class Unwritable(SearchError):
    """The artifact store does not take what is to be kept."""


@contextlib.contextmanager
def client_retries() -> Iterator[None]:
    """Have MLflow's client try again by itself while inside, some two minutes long.

    For its model functions, whose requests are many; a request of theirs that arrives twice makes
    no second run.
    """
    os.environ[CLIENT_RETRIES] = "6"
    try:
        yield
    finally:
        os.environ[CLIENT_RETRIES] = "0"


@contextlib.contextmanager
def _requests_of(seconds: int) -> Iterator[None]:
    """Give each request so long while inside, where the user has not said how long."""
    if REQUEST_TIMEOUT in os.environ:
        yield
        return
    os.environ[REQUEST_TIMEOUT] = str(seconds)
    try:
        yield
    finally:
        del os.environ[REQUEST_TIMEOUT]


def is_outage(error: Exception) -> bool:
    """Tell whether the same request may be taken later."""
    if not isinstance(error, MlflowException):
        return isinstance(error, OSError)  # the HTTP client's errors are, too
    code: int = error.get_http_status_code()  # type: ignore[no-untyped-call]
    return code >= 500 or code in (408, 429)


def long_tag(name: str, text: str) -> dict[str, str]:
    """Return a text of any length as tags: ``name``, ``name.2``, ...

    The last is never full: one that is left of a longer text is not taken for a part of this.
    """
    parts = [text[i : i + LONGEST_TAG] for i in range(0, len(text) + 1, LONGEST_TAG)]
    return {f"{name}.{i}" if i > 1 else name: part for i, part in enumerate(parts, 1)}


def read_long_tag(tags: Mapping[str, str], name: str) -> str:
    """Return the text that :func:`long_tag` cut; an empty one where there is none."""
    parts = [tags.get(name, "")]
    while len(parts[-1]) == LONGEST_TAG:
        parts.append(tags.get(f"{name}.{len(parts) + 1}", ""))
    return "".join(parts)


def now_ms() -> int:
    """Return the time as MLflow counts it: milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def first_line(error: Exception) -> str:
    """Return what an error says, on one line of at most 300 characters, without credentials."""
    # before what a database said SQLAlchemy puts a line on when it asked
    lines = [line for line in str(error).strip().splitlines() if not line.startswith("(raised as")]
    return scrubbed((lines or [type(error).__name__])[0])[:300]


def see_answers(uri: str) -> bool:
    """See that the store answers, and knows us; make nothing. Return whether there is one yet.

    :raises InputError: it cannot be reached in time, or refuses.
    """
    uri = _client_prepared(uri)

    def answers() -> bool:
        if not database.see_usable(uri):
            return False
        with database.alone(uri) as has_tables:
            if has_tables:
                MlflowClient(uri).search_experiments(max_results=1)
            return has_tables

    with _requests_of(REQUEST_TIMEOUT_S):
        return within(_timeout_s(uri), answers, uri)


def _client_prepared(uri: str) -> str:
    """Set how MLflow's client asks; return the URI without credentials: it has them elsewhere."""
    # The client would try an absent server for minutes, and a POST whose answer was lost
    # would make a second run: who may wait, here, knows what to look for first.
    os.environ[CLIENT_RETRIES] = "0"
    os.environ.setdefault("PGCONNECT_TIMEOUT", str(REQUEST_TIMEOUT_S))
    # the client would read each run that it ends, to print where it is
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    uri, credentials = credentials_apart(uri)
    os.environ.update(credentials)
    return uri


def _reached(uri: str, name: str, create: bool) -> str:
    """Return the experiment's id, also where another process makes the same database just now.

    A file of ours is made aside, into PostgreSQL one search is let after the other. What
    `mlflow ui` has under way is waited for.
    """
    if not database.see_usable(uri) and not create:
        raise InputError(
            f"tracking store {uri}: it is not there, so there is no search to go on with; "
            "is --tracking-uri right?"
        )
    database.make_whole(uri)
    with database.alone(uri):
        for wait_s in RETRY_AFTER_S if uri.startswith("sqlite:") else ():
            try:
                return _experiment_id(uri, name, create)
            except Exception as error:  # of whichever layer the migration had come to
                # a table is read back without the column that it was about to get
                misses_a_column = isinstance(error, AttributeError | KeyError)
                if not (misses_a_column or any(said in str(error) for said in MADE_TWICE)):
                    raise
            time.sleep(wait_s)
        return _experiment_id(uri, name, create)


def _timeout_s(uri: str) -> float:
    if uri.startswith(("sqlite:", *database.POSTGRESQL)):
        return CREATE_TIMEOUT_S
    return CONNECT_TIMEOUT_S if uri.startswith("http") else DATABASE_TIMEOUT_S


def _experiment_id(uri: str, name: str, create: bool) -> str:
    client = MlflowClient(uri, registry_uri=uri)
    found = client.get_experiment_by_name(name)
    if found is None and not create:
        raise InputError(
            f"--experiment-name {name!r}: there is no such experiment; is --tracking-uri right?"
        )
    if found is None:
        try:
            return str(client.create_experiment(name, tags=EXPERIMENT_TAGS))
        except MlflowException as error:
            # two searches may start at once: the other one made it
            if (found := client.get_experiment_by_name(name)) is None:
                raise InputError(f"--experiment-name {name!r}: {first_line(error)}") from error
    if found.lifecycle_stage != "active":
        raise InputError(
            f"experiment {name!r} was deleted: restore it with "
            f"`mlflow experiments restore -x {found.experiment_id}`, or use another "
            "--experiment-name"
        )
    return str(found.experiment_id)


def within(seconds: float, ask: Callable[[], T], uri: str) -> T:
    """Return what ``ask`` returns, in a thread of its own: a hanging server hangs only that.

    :raises InputError: there is no answer in time, or it is a refusal.
    """
    answers: list[T] = []
    failures: list[Exception] = []

    def run() -> None:
        try:
            answers.append(ask())
        except Exception as error:  # noqa: BLE001 - carried over to the asking thread
            failures.append(error)

    thread = threading.Thread(target=run, name="connect", daemon=True)
    thread.start()
    thread.join(seconds)
    if answers:
        return answers[0]
    if not failures:
        raise unusable(uri, f"no answer within {seconds:.0f} s")
    raise refusal(uri, failures[0])


def refusal(uri: str, error: Exception) -> InputError:
    """Return the error that a store refused what every search asks first, with what to do."""
    if isinstance(error, InputError):
        return error
    if isinstance(error, ModuleNotFoundError):
        return InputError(
            f"tracking store {without_credentials(uri)}: the package {error.name} is missing; "
            "the extra `server` has what PostgreSQL needs"
        )
    status = None
    if isinstance(error, MlflowException):
        status = error.get_http_status_code()  # type: ignore[no-untyped-call]
    reason = "it lets in only whom it knows" if status == 401 else first_line(error)
    return unusable(uri, reason, status)


def _param(value: Any) -> str:
    text = _storable(json.dumps(value) if isinstance(value, dict | list) else str(value))
    return text if len(text) <= LONGEST_PARAM else f"{text[: LONGEST_PARAM - 3]}..."


def _storable(text: str) -> str:
    """Return a text as UTF-8 and every database can hold it; anyone's exception may say more."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


def _batches(entities: Sequence[T], at_once: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(entities), at_once):
        yield entities[start : start + at_once]
