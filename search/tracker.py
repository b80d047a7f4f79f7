"""Every trial, from Tune's events to notes, without making Tune wait."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray.air.integrations.mlflow import MLflowLoggerCallback

from search.notes import Ended, Note, Outcome, Progressed, Started, best
from search.searcher import Proposal
from search.store import now_ms
from search.trial import ROUND, SCORE


class TrialTracker(MLflowLoggerCallback):  # type: ignore[misc]
    """Notes what Tune says of each trial; hands on one note of a trial at each of Tune's steps.

    Each note is a request to the server, so what a trial reports in the step that ends it goes
    with its end.
    """

    def __init__(
        self,
        note: Callable[[Note], None],
        *,
        has_rounds: bool,
        rungs: Sequence[int] = (),
        before: Sequence[Outcome] = (),
        rounds: Mapping[str, int] | None = None,
    ) -> None:
        """Note what is news.

        ``before``: trials that had ended already; ``rounds``: of those that run again, how many
        rounds of the curve their runs have.
        """
        super().__init__()
        self._note = note
        self._has_rounds = has_rounds
        self._rungs = frozenset(rungs)
        self._before = len(before)
        self._running: dict[str, Mapping[str, Any]] = {}  # trial id -> its last report
        self._rounds = dict(rounds or {})  # trial id -> rounds noted, each once
        self._news: dict[str, Progressed] = {}  # trial id -> what was not handed on yet
        self._passed: dict[str, dict[str, float]] = {}  # trial id -> rung -> score
        self._params: dict[str, Mapping[str, Any]] = {}
        self.outcomes: list[Outcome] = list(before)

    @property
    def running(self) -> int:
        """How many trials have started and not ended."""
        return len(self._running)

    @property
    def best(self) -> Outcome | None:
        """The trial with the lowest score, the first of equals."""
        return best(self.outcomes)

    @property
    def fresh(self) -> Sequence[Outcome]:
        """What ended since this tracker was made."""
        return self.outcomes[self._before :]

    def setup(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the fluent API that the parent class sets up is not used."""

    def log_trial_start(self, trial: Any) -> None:
        """Note a start. A trial that Tune starts again is the same trial."""
        proposal = Proposal(**trial.config)
        if proposal.trial_id not in self._params:
            self._params[proposal.trial_id] = proposal.params
            self._rounds.setdefault(proposal.trial_id, 0)
            self._passed[proposal.trial_id] = {}
            self._note(Started(proposal.trial_id, proposal.params, now_ms()))
        self._running[proposal.trial_id] = {}

    def log_trial_result(self, iteration: int, trial: Any, result: Mapping[str, Any]) -> None:
        """Note what is new of the curve."""
        trial_id = trial.config["trial_id"]
        self._running[trial_id] = result
        if result[ROUND] in self._rungs and SCORE in result:
            self._passed[trial_id][str(result[ROUND])] = float(result[SCORE])
        known, start = self._rounds[trial_id], int(result["curve_start"])
        fresh = tuple(result["curve"][max(0, known - start) :])
        if fresh:
            self._rounds[trial_id] = known + len(fresh)
            former = self._news.get(trial_id, Progressed(trial_id, known, (), 0))
            curve = former.curve + fresh
            self._news[trial_id] = Progressed(trial_id, former.start, curve, now_ms())

    def on_step_end(self, iteration: int, trials: Sequence[Any], **info: Any) -> None:
        """Hand on what is new of the trials that go on."""
        for trial_id, news in list(self._news.items()):
            if not self._running.get(trial_id, {}).get("final"):
                del self._news[trial_id]
                self._note(news)

    def log_trial_end(self, trial: Any, failed: bool = False) -> None:
        """Note the outcome. Tune calls it failed only when the worker died, again and again."""
        trial_id = trial.config["trial_id"]
        report = self._running.get(trial_id, {})
        if failed:
            died = f"the worker process died {trial.num_failures} times"
            if trial_id not in self._params:
                self.log_trial_start(trial)
                died += " before it could begin; is the code on every node? see search.doctor"
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
        kept: Sequence[str] = (SCORE, "best_iteration", "fit_seconds")
        # an interrupted trial runs again, and has its figures then
        kept = kept if status != "interrupted" else ()
        metrics = {key: float(report[key]) for key in kept if key in report}
        if not self._has_rounds:
            metrics.pop("best_iteration", None)
        rest = self._news.pop(trial_id, Progressed(trial_id, 0, (), 0))
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
                *(trial_id, status, now_ms(), metrics, self._passed[trial_id]),
                failure=str(report.get("failure", "")),
                traceback=str(report.get("traceback", "")),
                start=rest.start,
                curve=rest.curve,
            )
        )
