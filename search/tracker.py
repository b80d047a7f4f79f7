"""Every trial, from Tune's events to its run in MLflow, without making Tune wait.

Tune calls :class:`TrialTracker` on its loop; that only notes what happened. A thread beside the
loop (:class:`Writer`) sends it. Each note says all it has to say, and sending one again changes
nothing, so a server that was away is told later what it missed.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ray.air.integrations.mlflow import MLflowLoggerCallback

from search.errors import SearchError
from search.searcher import Proposal
from search.store import ROLE, STATUS, TRIAL_ID, Data, Score, Store, now_ms
from search.trial import SCORE

CURVE = "validation-rmse"
RETRY_AFTER_S = (0.2, 0.5, 1.0, 2.0, 5.0)  # then the last, again and again
GIVE_UP_AFTER_S = 120.0  # at the end of a search, with a server that does not answer


@dataclass(frozen=True)
class Started:
    """A trial began."""

    trial_id: str
    params: Mapping[str, Any]
    at_ms: int


@dataclass(frozen=True)
class Progressed:
    """A trial has a further piece of its curve."""

    trial_id: str
    start: int  # the round, from 0, of the first value
    curve: tuple[float, ...]
    at_ms: int


@dataclass(frozen=True)
class Ended:
    """A trial has its outcome."""

    trial_id: str
    status: str  # finished, stopped, failed or interrupted
    at_ms: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    failure: str = ""
    traceback: str = ""


Note = Started | Progressed | Ended

RUN_STATUS = {
    "finished": "FINISHED",
    "stopped": "FINISHED",
    "failed": "FAILED",
    "interrupted": "KILLED",
}


@dataclass(frozen=True)
class Outcome:
    """What became of a trial."""

    trial_id: str
    params: Mapping[str, Any]
    status: str
    rmse: float | None
    best_iteration: int | None
    failure: str


class TrialTracker(MLflowLoggerCallback):  # type: ignore[misc]
    """Notes what Tune says of each trial; hands each note on at once."""

    def __init__(self, note: Callable[[Note], None], *, has_rounds: bool) -> None:
        super().__init__()
        self._note = note
        self._has_rounds = has_rounds
        self._running: dict[str, Mapping[str, Any]] = {}  # trial id -> its last report
        self._rounds: dict[str, int] = {}  # trial id -> rounds noted, each once
        self._params: dict[str, Mapping[str, Any]] = {}
        self.outcomes: list[Outcome] = []

    @property
    def running(self) -> int:
        """How many trials have started and not ended."""
        return len(self._running)

    @property
    def best(self) -> Outcome | None:
        """The trial with the lowest score, the first of equals."""
        scored = [outcome for outcome in self.outcomes if outcome.rmse is not None]
        return min(scored, key=lambda outcome: outcome.rmse or 0.0, default=None)

    def setup(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the fluent API that the parent class sets up is not used."""

    def log_trial_start(self, trial: Any) -> None:
        """Note a start. A trial that Tune starts again is the same trial."""
        proposal = Proposal(**trial.config)
        if proposal.trial_id not in self._params:
            self._params[proposal.trial_id] = proposal.params
            self._rounds[proposal.trial_id] = 0
            self._note(Started(proposal.trial_id, proposal.params, now_ms()))
        self._running[proposal.trial_id] = {}

    def log_trial_result(self, iteration: int, trial: Any, result: Mapping[str, Any]) -> None:
        """Note what is new of the curve."""
        trial_id = trial.config["trial_id"]
        self._running[trial_id] = result
        known, start = self._rounds[trial_id], int(result["curve_start"])
        fresh = tuple(result["curve"][max(0, known - start) :])
        if fresh:
            self._rounds[trial_id] = known + len(fresh)
            self._note(Progressed(trial_id, known, fresh, now_ms()))

    def log_trial_end(self, trial: Any, failed: bool = False) -> None:
        """Note the outcome. Tune calls it failed only when the worker died, again and again."""
        trial_id = trial.config["trial_id"]
        report = self._running.get(trial_id, {})
        if failed:
            died = f"the worker process died {trial.num_failures} times"
            self._end(trial_id, "failed", {"failure": died})
        elif "failure" in report:
            self._end(trial_id, "failed", report)
        elif SCORE not in report:
            self._end(trial_id, "failed", {**report, "failure": "it ended without a score"})
        else:
            self._end(trial_id, "finished" if report.get("final") else "stopped", report)

    def interrupt(self) -> None:
        """Note that every trial still running was ended from outside."""
        for trial_id in list(self._running):
            self._end(trial_id, "interrupted", self._running[trial_id])

    def _end(self, trial_id: str, status: str, report: Mapping[str, Any]) -> None:
        self._running.pop(trial_id, None)
        kept = (SCORE, "best_iteration", "fit_seconds")
        metrics = {key: float(report[key]) for key in kept if key in report}
        if not self._has_rounds:
            metrics.pop("best_iteration", None)
        scored = status in ("finished", "stopped")
        self.outcomes.append(
            Outcome(
                trial_id,
                self._params[trial_id],
                status,
                float(report[SCORE]) if scored else None,
                int(report["best_iteration"]) if scored else None,
                str(report.get("failure", "")),
            )
        )
        self._note(
            Ended(
                *(trial_id, status, now_ms(), metrics),
                failure=str(report.get("failure", "")),
                traceback=str(report.get("traceback", "")),
            )
        )


@dataclass(frozen=True)
class TrialRuns:
    """How a trial's notes become its run: what all trials of the search share."""

    store: Store
    search: str  # the search's name
    parent_run_id: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    data: Data

    def create(self, note: Started) -> str:
        """Create the trial's run, named by the trial's id in the creating call."""
        named = {"mlflow.parentRunId": self.parent_run_id, ROLE: "trial", TRIAL_ID: note.trial_id}
        return self.store.create(f"{self.search}-{note.trial_id}", named, note.at_ms)

    def find(self, note: Started) -> str | None:
        """Return the trial's run, if it has been created."""
        return self.store.find_trial(self.parent_run_id, note.trial_id)

    def describe(self, run_id: str, note: Started) -> None:
        """Write what the trial is."""
        self.store.describe(run_id, {**note.params, **self.params}, self.tags, self.data)

    def progress(self, run_id: str, note: Progressed) -> None:
        """Write a piece of the curve; step = round, from 0 as `best_iteration` counts them."""
        steps = enumerate(note.curve, start=note.start)
        self.store.score(run_id, [Score(CURVE, value, note.at_ms, step) for step, value in steps])

    def end(self, run_id: str, note: Ended) -> None:
        """Write the outcome, then end the run."""
        tags = {STATUS: note.status}
        if note.failure:
            tags["search.failure"] = note.failure
        if note.status == "failed":
            self.store.write_text(run_id, note.traceback or note.failure, "traceback.txt")
        scores = [Score(key, value, note.at_ms) for key, value in note.metrics.items()]
        self.store.score(run_id, scores, tags)
        self.store.end(run_id, RUN_STATUS[note.status], note.at_ms)


class Writer:
    """A thread that sends notes to MLflow in order, and waits for a server that is away."""

    def __init__(self, runs: TrialRuns) -> None:
        self._runs = runs
        self._notes: queue.SimpleQueue[Note | None] = queue.SimpleQueue()
        self.run_ids: dict[str, str] = {}  # trial id -> run id
        self._failure: Exception | None = None
        self._give_up_at: float | None = None  # monotonic seconds; set once there is an end
        self._hurry = threading.Event()
        self._thread = threading.Thread(target=self._send_all, name="tracker", daemon=True)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Send what is left.

        :raises SearchError: the server did not take it in time, or refused it.
        """
        self._give_up_at = time.monotonic() + GIVE_UP_AFTER_S
        self._notes.put(None)
        self._thread.join()
        if self._failure is not None:
            raise SearchError(
                f"the tracking server did not take all trials: {self._failure}"
            ) from self._failure

    def put(self, note: Note) -> None:
        """Take a note to be sent; never waits."""
        self._notes.put(note)

    def _send_all(self) -> None:
        while (note := self._notes.get()) is not None:
            if self._failure is None:
                self._send_until_taken(note)

    def _send_until_taken(self, note: Note) -> None:
        for attempt in range(1_000_000):
            try:
                self._send(note, again=attempt > 0)
            except Exception as error:  # noqa: BLE001 - whatever a server may answer
                if self._must_give_up(error):
                    self._failure = error
                    return
                self._hurry.wait(RETRY_AFTER_S[min(attempt, len(RETRY_AFTER_S) - 1)])
            else:
                return

    def _send(self, note: Note, *, again: bool) -> None:
        runs = self._runs
        match note:
            case Started():
                if note.trial_id not in self.run_ids:
                    # the answer may have been lost after the run was made
                    made = runs.find(note) if again else None
                    self.run_ids[note.trial_id] = made or runs.create(note)
                runs.describe(self.run_ids[note.trial_id], note)
            case Progressed():
                runs.progress(self.run_ids[note.trial_id], note)
            case Ended():
                runs.end(self.run_ids[note.trial_id], note)

    def _must_give_up(self, error: Exception) -> bool:
        from mlflow.exceptions import MlflowException

        late = self._give_up_at is not None and time.monotonic() > self._give_up_at
        code: int = 0
        if isinstance(error, MlflowException):
            code = error.get_http_status_code()  # type: ignore[no-untyped-call]
        refused = 400 <= code < 500 and code not in (408, 429)
        return late or refused
