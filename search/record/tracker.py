"""From Tune's callbacks to events, without making Tune wait."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray.air.integrations.mlflow import MLflowLoggerCallback

from search.record import tags
from search.record.logged_folder import save
from search.record.store import now_ms
from search.values.events import Ended, Event, Progressed, Started
from search.values.failure import last_line
from search.values.kept import Kept
from search.values.metric import Metric
from search.values.report import (
    BEST_ITERATION,
    CURVE,
    CURVE_START,
    EXTRA,
    FAILURE,
    FINAL,
    FIT_SECONDS,
    ROUND,
    SCORE,
    STEPS,
    TRACEBACK,
)
from search.values.trial import SCORED, Outcome, Point, Proposal, best


@dataclass(frozen=True)
class Hooks:
    """What the task has to say of a trial."""

    params: Callable[[Point], Mapping[str, Any]] = field(default=dict)  # a point's, for MLflow
    ended: Callable[[Outcome, bytes], Kept] = field(default=lambda _outcome, _extra: Kept())
    folder: Path = field(default=Path())  # for what trials logged, until the server has it
    fail: Callable[[str], None] = field(default=lambda _: None)  # going on is pointless


class TrialTracker(MLflowLoggerCallback):  # type: ignore[misc]
    """Makes events of what Tune tells about each trial; at most one a trial and Tune step.

    Each event is a request to the server, so what a trial reports in the step that ends it goes
    with its end.
    """

    def __init__(
        self,
        put: Callable[[Event], None],
        metric: Metric,
        *,
        has_rounds: bool,
        rungs: Sequence[int] = (),
        before: Sequence[Outcome] = (),
        rounds: Mapping[str, int] | None = None,
        task: Hooks | None = None,
    ) -> None:
        """``put`` takes the events.

        ``before``: trials that have ended earlier. ``rounds``: of those that run again, how many
        rounds of the curve their runs have.
        """
        super().__init__()
        self._put, self._metric = put, metric
        self._has_rounds = has_rounds
        self._task = task or Hooks()
        self._rungs = frozenset(rungs)
        self._before = len(before)
        self._running: dict[str, Mapping[str, Any]] = {}  # trial id -> its last report
        self._rounds = dict(rounds or {})  # trial id -> rounds that are in events, each once
        self._news: dict[str, Progressed] = {}  # trial id -> what was not put yet
        self._passed: dict[str, dict[str, float]] = {}  # trial id -> rung -> score
        self._params: dict[str, Mapping[str, Any]] = {}
        self.outcomes: list[Outcome] = list(before)

    @property
    def running(self) -> int:
        """How many trials have started and not ended."""
        return len(self._running)

    @property
    def best(self) -> Outcome | None:
        """The trial with the best score, the first of equals."""
        return best(self.outcomes, self._metric)

    @property
    def fresh(self) -> Sequence[Outcome]:
        """What ended since this tracker was made."""
        return self.outcomes[self._before :]

    def setup(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the fluent API that the parent class sets up is not used."""

    def log_trial_start(self, trial: Any) -> None:
        """Record a start. A trial that Tune starts again is the same trial."""
        proposal = Proposal(**trial.config)
        if proposal.trial_id not in self._params:
            self._params[proposal.trial_id] = proposal.params
            self._rounds.setdefault(proposal.trial_id, 0)
            self._passed[proposal.trial_id] = {}
            shown = self._task.params(proposal.params)
            self._put(Started(proposal.trial_id, proposal.params, now_ms(), shown))
        self._running[proposal.trial_id] = {}

    def log_trial_result(self, iteration: int, trial: Any, result: Mapping[str, Any]) -> None:
        """Record what is new of the curve."""
        trial_id = trial.config["trial_id"]
        self._running[trial_id] = result
        passed = [rung for rung in self._rungs if rung <= result[ROUND]]
        is_judged = not result.get(FINAL) or result[ROUND] in self._rungs
        if passed and SCORE in result and is_judged:
            self._passed[trial_id][str(max(passed))] = float(result[SCORE])
        known, curve = self._rounds[trial_id], result[CURVE]
        steps = result.get(STEPS) or range(start := int(result[CURVE_START]), start + len(curve))
        fresh = {step: value for step, value in zip(steps, curve, strict=True) if step >= known}
        if fresh:
            self._rounds[trial_id] = max(fresh) + 1
            former = self._news.get(trial_id, Progressed(trial_id, min(fresh), (), 0))
            self._news[trial_id] = Progressed(
                trial_id,
                former.start,
                former.curve + tuple(fresh.values()),
                now_ms(),
                former.steps + tuple(fresh) if STEPS in result else (),
            )

    def on_step_end(self, iteration: int, trials: Sequence[Any], **info: Any) -> None:
        """Put what is new of the trials that go on."""
        for trial_id, news in list(self._news.items()):
            if not self._running.get(trial_id, {}).get(FINAL):
                del self._news[trial_id]
                self._put(news)

    def log_trial_end(self, trial: Any, failed: bool = False) -> None:
        """Record the outcome. ``failed``: the worker died, more often than it is replaced."""
        trial_id = trial.config["trial_id"]
        report = self._running.get(trial_id, {})
        if failed:
            died = f"the worker process died {trial.num_failures} times"
            if trial_id not in self._params:
                self.log_trial_start(trial)
                died += " before it could begin; is the code on every node? see search.doctor"
            self._end(trial_id, "failed", {FAILURE: died})
        elif FAILURE in report:
            self._end(trial_id, "failed", report)
        elif SCORE not in report:
            self._end(trial_id, "failed", {**report, FAILURE: "it ended without a score"})
        else:
            self._end(trial_id, "finished" if report.get(FINAL) else "stopped", report)
        (getattr(trial, "last_result", None) or {}).pop(EXTRA, None)  # Tune keeps all results

    def interrupt(self) -> None:
        """Record that every trial still running was ended from outside."""
        for trial_id in list(self._running):
            self._end(trial_id, "interrupted", self._running[trial_id])

    def _end(self, trial_id: str, status: str, report: Mapping[str, Any]) -> None:
        self._running.pop(trial_id, None)
        rest = self._news.pop(trial_id, Progressed(trial_id, 0, (), 0))
        has_score = status in SCORED
        failure = str(report.get(FAILURE, ""))
        outcome = Outcome(
            trial_id=trial_id,
            params=self._params[trial_id],
            status=status,
            score=float(report[SCORE]) if has_score else None,
            best_iteration=int(report.get(BEST_ITERATION, 0)) if has_score else None,
            failure=failure,
        )
        self.outcomes.append(outcome)
        kept = Kept() if status == "interrupted" else self._kept(outcome, report)
        self._put(
            Ended(
                trial_id=trial_id,
                status=status,
                at_ms=now_ms(),
                # an interrupted trial runs again, and has its figures then
                metrics={} if status == "interrupted" else self._figures(report),
                rungs=self._passed[trial_id],
                failure=failure,
                traceback=str(report.get(TRACEBACK, "")),
                start=rest.start,
                curve=rest.curve,
                steps=rest.steps,
                result=kept.result,
                logged="" if kept.logged is None else str(self._task.folder / trial_id),
                keep_models=kept.keep_models,
                supersedes=kept.supersedes,
            )
        )

    def _kept(self, outcome: Outcome, report: Mapping[str, Any]) -> Kept:
        """Write what a trial logged to the disk, so that its event can name it."""
        try:
            kept = self._task.ended(outcome, report.get(EXTRA, b""))
            if kept.logged is not None:
                save(kept.logged, self._task.folder / outcome.trial_id)
        except Exception as error:  # noqa: BLE001 - Tune would run the trial again
            self._task.fail(f"trial {outcome.trial_id} cannot be kept: {last_line(error)}")
            return Kept()
        return kept

    def _figures(self, report: Mapping[str, Any]) -> dict[str, float]:
        """Return the metrics of a trial's run, by their names in MLflow."""
        names = {SCORE: self._metric.name, FIT_SECONDS: tags.FIT_SECONDS}
        if self._has_rounds:
            names[BEST_ITERATION] = tags.BEST_ITERATION
        return {name: float(report[key]) for key, name in names.items() if key in report}
