"""The one door through which runs are written to MLflow.

All calls go through :class:`mlflow.MlflowClient`, never the fluent API, which keeps its active run
in module globals.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from search.errors import Interrupted, TakenOver
from search.record.request_retries import Patience
from search.record.store_errors import Unwritable, first_line
from search.record.tags import ROLE
from search.values.data import DataDescription

PATIENCE_S = 120.0  # for a server that is away while nothing else can go on
LAST_PATIENCE_S = 10.0  # for one that is away when the search ends anyway
RETRY_ARTIFACT_AFTER_S = (0.5, 2.0, 8.0)

# what the store takes at once (mlflow.utils.validation); lengths in characters
METRICS_A_REQUEST = 1_000
DESCRIBED_A_REQUEST = 100
LONGEST_PARAM = 6_000

CLIENT_RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"

T = TypeVar("T")
Deferred = contextlib.AbstractContextManager[None]


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
    that tries again.
    """

    def __init__(
        self,
        uri: str,
        experiment_id: str,
        patience: Patience | None = None,
    ) -> None:
        self.uri = uri
        self.experiment_id = experiment_id
        self.client = MlflowClient(uri, registry_uri=uri)
        self._patience = patience or Patience()

    def patient(self, say: Callable[[str], None], patience_s: float = PATIENCE_S) -> Store:
        """Return the same store, which waits ``patience_s`` for a server that is away."""
        return Store(self.uri, self.experiment_id, Patience(patience_s, say))

    def create(self, name: str, tags: Mapping[str, str], at_ms: int) -> str:
        """Create a run; return its id.

        The answer may be lost after the run was made, so it is looked up before a second try.
        """
        tries = 0

        def create() -> str:
            nonlocal tries
            tries += 1
            found = self._created(name, at_ms) if tries > 1 else None
            if found is not None:
                return found
            kept = {key: _storable(text) for key, text in tags.items()}
            run = self.client.create_run(self.experiment_id, at_ms, kept, name)
            return str(run.info.run_id)

        return self.ask(create)

    def reopen(self, run_id: str) -> None:
        """Set an ended run RUNNING again; its start stays."""
        self.ask(lambda: self.client.update_run(run_id, status="RUNNING"))

    def describe(
        self,
        run_id: str,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        data: DataDescription | None = None,
    ) -> None:
        """Write params and tags in one request, and the data that the run uses in another."""
        entities: list[Param | RunTag] = [
            *(Param(name, _param(value)) for name, value in (params or {}).items()),
            *(RunTag(name, _storable(value)) for name, value in (tags or {}).items()),
        ]
        for batch in _batches(entities, DESCRIBED_A_REQUEST):
            batch_params = [each for each in batch if isinstance(each, Param)]
            batch_tags = [each for each in batch if isinstance(each, RunTag)]
            self.ask(partial(self.client.log_batch, run_id, params=batch_params, tags=batch_tags))
        if data is not None:
            self._describe_data(run_id, data)

    def _describe_data(self, run_id: str, data: DataDescription) -> None:
        request = partial(self.client.log_inputs, run_id, [_dataset_input(data)])
        try:
            self.ask(request)
        except MlflowException as error:
            # If two runs are the first with these rows, both make the data set, whose key is its
            # name and digest, and one is refused. The data set exists when asked again.
            if error.error_code != "BAD_REQUEST":
                raise
            self.ask(request)

    def score(
        self, run_id: str, scores: Sequence[Score], tags: Mapping[str, str] | None = None
    ) -> None:
        """Write metrics in as few requests as the store takes, and tags with the last of them."""
        last_tags = [RunTag(name, _storable(value)) for name, value in (tags or {}).items()]
        batches = list(_batches(scores, METRICS_A_REQUEST - len(last_tags))) or [[]]
        for i, batch in enumerate(batches):
            metrics = [Metric(s.key, s.value, s.at_ms, s.step) for s in batch]
            batch_tags = last_tags if i == len(batches) - 1 else []
            self.ask(partial(self.client.log_batch, run_id, metrics=metrics, tags=batch_tags))

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
        """End the run as FINISHED, FAILED or KILLED."""
        self.ask(lambda: self.client.set_terminated(run_id, status, at_ms))

    def delete(self, run_id: str) -> None:
        """Delete the run; MLflow keeps it among the deleted ones.

        A user who may write to another's experiment may not delete there. Then the run stays, but
        belongs to no search.
        """
        try:
            self.ask(lambda: self.client.delete_run(run_id))
        except MlflowException as error:
            if error.error_code != "PERMISSION_DENIED":
                raise
            self.describe(run_id, tags={ROLE: "deleted"})
            self.end(run_id, "KILLED", now_ms())

    @contextlib.contextmanager
    def closing(self, run_id: str, deferred: Callable[[], Deferred]) -> Iterator[None]:
        """End a run with its true status, whatever happens inside.

        Signals are deferred while ``deferred`` is entered. A search that another driver has taken
        over leaves its runs alone.
        """
        try:
            yield
        except TakenOver:
            raise
        except BaseException as error:
            killed = isinstance(error, Interrupted | KeyboardInterrupt)
            try:
                with deferred():
                    self.patient(self._patience.say, LAST_PATIENCE_S).end(
                        run_id, "KILLED" if killed else "FAILED", now_ms()
                    )
            except MlflowException as failure:  # must not hide why the search ends
                self._patience.say(f"run {run_id} could not be ended: {first_line(failure)}")
            raise
        with deferred():
            self.end(run_id, "FINISHED", now_ms())

    def ask(self, request: Callable[[], T]) -> T:
        """Return the answer to a request; if patient, ask again while the server is away."""
        return self._patience.ask(request)

    def _write(self, write: Callable[[], None]) -> None:
        # An artifact store may raise anything: a disk's error, an HTTP client's, a cloud's.
        for wait_s in (*RETRY_ARTIFACT_AFTER_S, None):
            try:
                return write()
            except Exception as error:
                if wait_s is None or not self._patience.seconds:
                    reason = getattr(error, "strerror", None) or first_line(error)
                    raise Unwritable(f"artifacts cannot be written: {reason}") from error
            time.sleep(wait_s)
        raise AssertionError("the last try returns or raises")

    def _created(self, name: str, at_ms: int) -> str | None:
        found = self.client.search_runs([self.experiment_id], f"attributes.start_time = {at_ms}")
        return next((str(run.info.run_id) for run in found if run.info.run_name == name), None)


@contextlib.contextmanager
def client_retries() -> Iterator[None]:
    """While inside, let MLflow's client try again by itself, for about 120 s.

    For its model functions, which make many requests, none of which makes a second run.
    """
    os.environ[CLIENT_RETRIES] = "6"
    try:
        yield
    finally:
        os.environ[CLIENT_RETRIES] = "0"


def now_ms() -> int:
    """Return the time as MLflow counts it: milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def _dataset_input(data: DataDescription) -> DatasetInput:
    dataset = Dataset(
        name=data.name,
        digest=data.digest,
        source_type="local",
        source=json.dumps({"uri": ", ".join(data.source.values()), **data.source}),
        profile=json.dumps(dict(data.profile)),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


def _param(value: Any) -> str:
    text = _storable(json.dumps(value) if isinstance(value, dict | list) else str(value))
    return text if len(text) <= LONGEST_PARAM else f"{text[: LONGEST_PARAM - 3]}..."


def _storable(text: str) -> str:
    """Return a text that UTF-8 and every database can hold; a user's exception may have others."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


def _batches(entities: Sequence[T], at_once: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(entities), at_once):
        yield entities[start : start + at_once]
