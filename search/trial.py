"""All code that runs inside a worker: a trial, and the final refit.

What a worker imports before its first trial is what everybody waits for, so this module
imports neither Ray Tune nor MLflow nor hyperopt, and the trainable only when a trial starts.
"""

from __future__ import annotations

import math
import queue
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import trainables
from trainables.base import Curve, Trainable, best_round
from trainables.dataset import Dataset

SCORE = "rmse"  # the key of a report that Tune, the scheduler and the searcher look at
ROUND = "round"

CHECKED_ROWS = 10_000  # XGBoost takes 145 ns a row and tree, three times over
END_S = 10.0  # for a fit that stands at a rung to end

_KEPT: dict[str, Dataset] = {}  # in this worker: digest -> data; one at a time


@dataclass(frozen=True)
class Job:
    """What all trials of a search have in common."""

    trainable: str
    settings: dict[str, Any]  # the trainable's, with "seed" and "threads"
    rungs: tuple[int, ...]  # rounds after which a trial reports, ascending


@dataclass(frozen=True)
class Shared:
    """The dataset in Ray's object store. Fetched when it is used, not with every trial."""

    digest: str
    reference: Any  # ray.ObjectRef of a Dataset

    def fetched(self) -> Dataset:
        """Return the dataset as this worker already has it, with all that was derived from it."""
        if self.digest not in _KEPT:
            import ray

            _KEPT.clear()
            _KEPT[self.digest] = ray.get(self.reference)
        return _KEPT[self.digest]


@dataclass(frozen=True)
class Refitted:
    """The refitted model, and what it says of some rows where it was fitted."""

    model: bytes
    answers: NDArray[np.float64]  # [checked rows] of the validation rows, in the target's unit


Report = dict[str, Any]


class Worker:
    """A process that runs one trial after another: what Ray makes an actor of.

    Each call returns the trial's next report. Tune's own trainable needs more calls for a trial
    (docs/decisions/0006-slots.md), and imports all of Tune.
    """

    def __init__(self, data: Shared, job: Job) -> None:
        """Start without a trial."""
        self._data, self._job = data, job
        self._fit: _Fit | None = None

    def begin(self, config: dict[str, Any]) -> Report:
        """Begin a trial; one that stands at a rung is over."""
        self.stop()
        self._fit = _Fit(lambda report: run_trial(config, self._data, self._job, report))
        return self._fit.report()

    def go_on(self) -> Report:
        """Have the trial go on that reported last."""
        assert self._fit is not None, "a trial was begun"
        self._fit.go_on()
        return self._fit.report()

    def stop(self) -> None:
        """End the trial that stands at a rung, if one does."""
        if self._fit is not None:
            self._fit.end()
        self._fit = None


class _Fit:
    """A fit on a thread of its own, so that it can stand still while it is judged."""

    def __init__(self, run: Callable[[Callable[[Report], None]], None]) -> None:
        self._run = run
        self._reports: queue.SimpleQueue[Report | BaseException] = queue.SimpleQueue()
        self._goes_on: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._report_all, name="fit", daemon=True)
        self._thread.start()

    def report(self) -> Report:
        """Wait for the next report."""
        report = self._reports.get()
        if isinstance(report, BaseException):
            raise report
        return report

    def go_on(self) -> None:
        self._goes_on.put(True)

    def end(self) -> None:
        """End it where it stands.

        :raises Deaf: the trainable does not end; the next trial needs another process.
        """
        self._goes_on.put(False)
        self._thread.join(END_S)
        if self._thread.is_alive():
            raise Deaf(f"a fit did not end within {END_S:.0f} s of its trial's end")

    def _report_all(self) -> None:
        try:
            self._run(self._hand_over)
        except EndedAtRung:
            pass
        except BaseException as error:  # noqa: BLE001 - carried over
            self._reports.put(error)

    def _hand_over(self, report: Report) -> None:
        self._reports.put(report)
        if not report.get("final") and not self._goes_on.get():
            raise EndedAtRung


def run_trial(
    config: dict[str, Any], data: Shared, job: Job, hand_over: Callable[[Report], None]
) -> None:
    """Run one trial and report its curve at each rung and at its end.

    A failure is an outcome and is reported as one: the worker stays whole for the next trial,
    and only a worker that dies is for Tune to try again.
    """
    started = time.perf_counter()
    reported = 0

    def report(curve: Curve, **more: Any) -> None:
        nonlocal reported
        news = {"curve": curve[reported:], "curve_start": reported, ROUND: len(curve)}
        reported = len(curve)
        hand_over({**news, "fit_seconds": time.perf_counter() - started, **more})

    curve: Curve = []  # what a failure later on leaves of it

    def at_rung(so_far: Curve) -> None:
        # numpy's numbers are no JSON, and what is no number is the trainable's failure
        curve.extend(float(score) for score in so_far[len(curve) :])
        if len(curve) in job.rungs:
            report(curve, **_score(curve))

    try:
        trainable = trainables.get(job.trainable)
        returned = trainable.train(config["params"], data.fetched(), job.settings, at_rung)
        curve[:] = [float(score) for score in returned]
        outcome: dict[str, Any] = _score(curve)
        if not outcome:
            outcome = {"failure": f"no finite score in {len(curve)} rounds", "traceback": ""}
    except EndedAtRung:
        raise
    except BaseException as error:  # noqa: BLE001 - the trainable may be anyone's, and on a fit's thread no signal arrives; what it raises is an outcome
        outcome = {"failure": _last_line(error), "traceback": traceback.format_exc()}
    report(curve, **outcome, final=True, done=True)


def refit(params: dict[str, Any], rounds: int, job: Job, data: Shared) -> Refitted:
    """Fit the best configuration again, on all training rows, and predict some others."""
    trainable: Trainable = trainables.get(job.trainable)
    rows = data.fetched()
    model = trainable.refit(params, rows, job.settings, rounds)
    features = rows.valid.features[checked(rows.valid.features.shape[0])]
    return Refitted(model, trainable.predict(trainable.load(model), features))


def checked(rows: int) -> slice:
    """Return which of so many rows a model is asked again wherever it was brought to."""
    return slice(None, None, max(1, rows // CHECKED_ROWS))


class EndedAtRung(BaseException):
    """Raised out of a report to end the trial: no failure, and no business of a trainable's."""


class Deaf(Exception):
    """A fit goes on after its trial's end: its worker is of no use any more, no other's fault."""


def _score(curve: Curve) -> dict[str, Any]:
    """Return the lowest score so far and its round; nothing while no score is a number."""
    numbers = [score if math.isfinite(score) else math.inf for score in curve]
    best = best_round(numbers) if numbers else 0
    if not numbers or math.isinf(numbers[best]):
        return {}
    return {SCORE: numbers[best], "best_iteration": best}


def _last_line(error: BaseException) -> str:
    """Return the exception as Python would name it, on one line of at most 500 characters."""
    said = str(error).strip().splitlines()
    return (f"{type(error).__name__}: {said[0]}" if said else type(error).__name__)[:500]
