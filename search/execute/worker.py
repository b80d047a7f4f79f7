"""All code that runs inside a worker, beside the task's own trial and fit.

A worker's first trial waits for what this module imports, so it imports neither Ray Tune nor MLflow
nor hyperopt.
"""

from __future__ import annotations

import contextlib
import queue
import signal
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from search.values.metric import Metric
from search.values.model import Fitted
from search.values.report import (
    BEST_ITERATION,
    CURVE,
    CURVE_START,
    FAILURE,
    FINAL,
    FIT_SECONDS,
    ROUND,
    SCORE,
    TRACEBACK,
)
from search.values.trial import Point

END_S = 10.0  # for a fit that waits at a rung to end
LONGEST_FAILURE = 500  # characters

Report = dict[str, Any]
Fit = Callable[[Point, int, Any], Fitted]  # (point, rounds, shared data)

_KEPT: dict[str, Any] = {}  # in this worker: key -> data; one at a time


@dataclass(frozen=True)
class Job:
    """What all trials of a search have in common."""

    trial: Callable[[Point, Any, Callable[[list[float]], None]], list[float]]  # the task's
    metric: Metric
    rungs: tuple[int, ...]  # rounds after which a trial reports, ascending


@dataclass(frozen=True)
class Shared:
    """What all trials work on, in Ray's object store; fetched when used, not with every trial."""

    key: str  # different for different data
    reference: Any  # ray.ObjectRef

    def fetched(self) -> Any:
        """Return the data as this worker already has it, with all that was derived from it."""
        if self.key not in _KEPT:
            import ray

            _KEPT.clear()
            _KEPT[self.key] = ray.get(self.reference)
        return _KEPT[self.key]


class Worker:
    """A process that runs one trial after another; Ray makes an actor of it.

    Each call returns the trial's next report. Tune's own trainable takes more calls a trial, and
    imports all of Tune (docs/decisions/0006-slots.md).
    """

    def __init__(self, job: Job, shared: Shared) -> None:
        self._job, self._shared = job, shared
        self._fit: _FitThread | None = None
        _unblock_sigterm()

    def begin(self, config: dict[str, Any]) -> Report:
        """Begin a trial; one that waits at a rung is over."""
        self.stop()
        self._fit = _FitThread(lambda report: run_trial(config, self._job, self._shared, report))
        return self._fit.next_report()

    def go_on(self) -> Report:
        """Let the trial that reported last go on."""
        assert self._fit is not None, "a trial was begun"
        self._fit.go_on()
        return self._fit.next_report()

    def stop(self) -> None:
        """End the trial that waits at a rung, if one does.

        :raises Unresponsive: it does not end.
        """
        if self._fit is not None:
            self._fit.end()
        self._fit = None


class StoppedAtRung(BaseException):
    """Raised out of a report to end the trial. Not a failure, and not for a trial to catch."""


class Unresponsive(Exception):
    """A fit goes on after its trial's end, so its worker cannot be used again."""


class _FitThread:
    """A fit on a thread, so that it can wait at a rung until it is judged."""

    def __init__(self, run: Callable[[Callable[[Report], None]], None]) -> None:
        self._run = run
        self._reports: queue.SimpleQueue[Report | BaseException] = queue.SimpleQueue()
        self._goes_on: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run_all, name="fit", daemon=True)
        self._thread.start()

    def next_report(self) -> Report:
        report = self._reports.get()
        if isinstance(report, BaseException):
            raise report
        return report

    def go_on(self) -> None:
        self._goes_on.put(True)

    def end(self) -> None:
        self._goes_on.put(False)
        self._thread.join(END_S)
        if self._thread.is_alive():
            raise Unresponsive(f"a fit did not end within {END_S:.0f} s of its trial's end")

    def _run_all(self) -> None:
        try:
            self._run(self._report)
        except StoppedAtRung:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again by next_report
            self._reports.put(error)

    def _report(self, report: Report) -> None:
        self._reports.put(report)
        if not report.get(FINAL) and not self._goes_on.get():
            raise StoppedAtRung


def run_trial(
    config: dict[str, Any], job: Job, shared: Shared, hand_over: Callable[[Report], None]
) -> None:
    """Run one trial, and report its curve at each rung and at its end.

    A failure is an outcome and is reported as one, so the worker stays usable for the next trial.
    Only a trial whose worker dies is tried again.
    """
    started = time.perf_counter()
    curve: list[float] = []
    reported = 0

    def report(**more: Any) -> None:
        nonlocal reported
        news = {CURVE: curve[reported:], CURVE_START: reported, ROUND: len(curve)}
        reported = len(curve)
        hand_over({**news, FIT_SECONDS: time.perf_counter() - started, **more})

    def after_round(so_far: list[float]) -> None:
        # numpy's numbers are not JSON; what is not a number is the trial's failure
        curve.extend(float(score) for score in so_far[len(curve) :])
        if len(curve) in job.rungs:
            report(**_best(curve, job.metric))

    try:
        returned = job.trial(config["params"], shared.fetched(), after_round)
        curve[:] = [float(score) for score in returned]
        outcome = _best(curve, job.metric)
        if not outcome:
            outcome = {FAILURE: f"no finite score in {len(curve)} rounds", TRACEBACK: ""}
    except StoppedAtRung:
        raise
    except BaseException as error:  # noqa: BLE001 - whatever a user's trial raises is its outcome; no signal arrives on this thread
        outcome = {FAILURE: _last_line(error), TRACEBACK: traceback.format_exc()}
    report(**outcome, **{FINAL: True, "done": True})


def run_fit(fit: Fit, point: Point, rounds: int, shared: Shared) -> Fitted:
    """Fit the best configuration again."""
    return fit(point, rounds, shared.fetched())


def _unblock_sigterm() -> None:
    """Let processes that a trial starts be terminated: they inherit what this process blocks.

    This process itself goes on: the driver ends it.
    """
    with contextlib.suppress(ValueError):  # not on the main thread
        signal.signal(signal.SIGTERM, lambda _number, _frame: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _best(curve: list[float], metric: Metric) -> dict[str, Any]:
    """Return the best score so far and its round; nothing while no score is finite."""
    best = metric.best_index(curve)
    return {} if best is None else {SCORE: curve[best], BEST_ITERATION: best}


def _last_line(error: BaseException) -> str:
    """Return the exception as Python names it, on one line."""
    message = str(error).strip().splitlines()
    name = type(error).__name__
    return (f"{name}: {message[0]}" if message else name)[:LONGEST_FAILURE]
