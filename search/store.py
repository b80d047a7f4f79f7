"""The one door through which runs are written to MLflow.

Every call goes by :class:`mlflow.MlflowClient`, never by the fluent API: that keeps its active
run in module globals. No call is made before :meth:`Store.connect`.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset as LoggedDataset
from mlflow.entities import DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from search.errors import InputError, Interrupted
from search.server import unusable

CONNECT_TIMEOUT_S = 12.0
CREATE_TIMEOUT_S = 120.0  # a database made anew goes through all its migrations, here
METRICS_A_REQUEST = 1_000  # what the store takes at once (mlflow.utils.validation)

LONGEST_PARAM = 6_000  # characters (mlflow.utils.validation)

# has `mlflow ui` open the experiment as model training, not as generative AI
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}

ROLE = "search.role"
TRIAL_ID = "search.trial_id"
STATUS = "search.status"


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
    """The runs of one experiment."""

    def __init__(self, uri: str, experiment_id: str) -> None:
        self.uri = uri
        self.experiment_id = experiment_id
        self._client = MlflowClient(uri, registry_uri=uri)

    @classmethod
    def connect(cls, uri: str, experiment_name: str) -> Store:
        """Reach the store, and find the experiment or make it.

        :raises InputError: the store cannot be reached in time, refuses, or the experiment
            was deleted.
        """
        # The client would try an absent server for minutes. From here on a lost request is
        # an error at once; who may wait for a server waits in the tracker.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        patience_s = CONNECT_TIMEOUT_S if uri.startswith("http") else CREATE_TIMEOUT_S
        found = _within(patience_s, lambda: _experiment_id(uri, experiment_name), uri)
        return cls(uri, found)

    def has_search(self, name: str) -> bool:
        """Tell whether a search of this name was started in the experiment."""
        # Compared here: a name with a quote in it cannot be written in MLflow's filters.
        page = None
        while page is None or page.token:
            page = self._client.search_runs(
                [self.experiment_id],
                f"tags.`{ROLE}` = 'search'",
                page_token=page.token if page else None,
            )
            if any(run.info.run_name == name for run in page):
                return True
        return False

    def find_trial(self, parent_run_id: str, trial_id: str) -> str | None:
        """Return the run of a trial, if there is one."""
        found = self._client.search_runs(
            [self.experiment_id],
            f"tags.mlflow.parentRunId = '{parent_run_id}' and tags.`{TRIAL_ID}` = '{trial_id}'",
            max_results=1,
        )
        return str(found[0].info.run_id) if found else None

    @contextlib.contextmanager
    def run(self, name: str, tags: Mapping[str, str], say: Callable[[str], None]) -> Iterator[str]:
        """Create a run, yield its id, and end it with the status that it really had."""
        run_id = self.create(name, tags, now_ms())
        status = "FAILED"
        try:
            yield run_id
            status = "FINISHED"
        except (Interrupted, KeyboardInterrupt):
            status = "KILLED"
            raise
        finally:
            try:
                self.end(run_id, status, now_ms())
            except MlflowException as error:  # must not hide why the search leaves
                say(f"run {run_id} could not be ended: {first_line(error)}")

    def create(self, name: str, tags: Mapping[str, str], at_ms: int) -> str:
        """Create a run; return its id."""
        run = self._client.create_run(self.experiment_id, at_ms, dict(tags), name)
        return str(run.info.run_id)

    def describe(
        self,
        run_id: str,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        data: Data | None = None,
    ) -> None:
        """Write params and tags in one request, and the data the run uses in another."""
        self._client.log_batch(
            run_id,
            params=[Param(name, _param(value)) for name, value in (params or {}).items()],
            tags=[RunTag(name, value) for name, value in (tags or {}).items()],
        )
        if data is not None:
            self._client.log_inputs(run_id, [data.logged()])

    def score(
        self, run_id: str, scores: Sequence[Score], tags: Mapping[str, str] | None = None
    ) -> None:
        """Write metrics, as few requests as the store takes, and tags with the last of them."""
        batches = list(_batches(scores)) or [[]]
        for i, batch in enumerate(batches):
            last = i == len(batches) - 1
            self._client.log_batch(
                run_id,
                metrics=[Metric(s.key, s.value, s.at_ms, s.step) for s in batch],
                tags=[RunTag(name, value) for name, value in (tags or {}).items()] if last else [],
            )

    def write_text(self, run_id: str, text: str, path: str) -> None:
        """Keep a text as an artifact of the run."""
        self._client.log_text(run_id, text, path)

    def write_file(self, run_id: str, file: str, folder: str) -> None:
        """Keep a file as an artifact of the run."""
        self._client.log_artifact(run_id, file, folder)

    def end(self, run_id: str, status: str, at_ms: int) -> None:
        """End the run: FINISHED, FAILED or KILLED."""
        self._client.set_terminated(run_id, status, at_ms)


def now_ms() -> int:
    """Return the time as MLflow counts it: milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def first_line(error: Exception) -> str:
    """Return what an error says, on one line of at most 300 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _experiment_id(uri: str, name: str) -> str:
    client = MlflowClient(uri, registry_uri=uri)
    found = client.get_experiment_by_name(name)
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


def _within(seconds: float, ask: Any, uri: str) -> str:
    """Return what ``ask`` returns, in a thread of its own: a hanging server hangs only that."""
    answers: list[str] = []
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
    if failures and isinstance(failures[0], InputError):
        raise failures[0]
    reason = first_line(failures[0]) if failures else f"no answer within {seconds:.0f} s"
    raise unusable(uri, reason)


def _param(value: Any) -> str:
    text = json.dumps(value) if isinstance(value, dict | list) else str(value)
    return text if len(text) <= LONGEST_PARAM else f"{text[: LONGEST_PARAM - 3]}..."


def _batches(scores: Sequence[Score]) -> Iterator[Sequence[Score]]:
    for start in range(0, len(scores), METRICS_A_REQUEST):
        yield scores[start : start + METRICS_A_REQUEST]
