"""All code that runs inside a worker: a trial, and the final refit.

What a worker imports before its first trial is what everybody waits for, so this module
imports neither MLflow nor hyperopt, and the trainable only when a trial starts.
"""

from __future__ import annotations

import math
import time
import traceback
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import trainables
from trainables.base import Curve, Trainable, best_round
from trainables.dataset import Dataset

SCORE = "rmse"  # the key of a report that Tune, the scheduler and the searcher look at
ROUND = "round"

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
    """The refitted model, and what it says of the rows it did not see."""

    model: bytes
    valid: NDArray[np.float64]  # [rows] predictions, in the target's unit
    test: NDArray[np.float64] | None  # [rows]


def run_trial(config: dict[str, Any], *, data: Shared, job: Job) -> None:
    """Run one trial and report its curve at each rung and at its end.

    A failure is an outcome and is reported as one: the worker stays whole for the next trial,
    and only a worker that dies is for Tune to try again.
    """
    from ray import tune

    started = time.perf_counter()
    reported = 0

    def report(curve: Curve, **more: Any) -> None:
        nonlocal reported
        news = {"curve": curve[reported:], "curve_start": reported, ROUND: len(curve)}
        reported = len(curve)
        tune.report({**news, "fit_seconds": time.perf_counter() - started, **more})

    curve: Curve = []

    def at_rung(so_far: Curve) -> None:
        nonlocal curve
        curve = so_far  # what a failure later on leaves of it
        if len(so_far) in job.rungs:
            try:
                report(so_far, **_score(so_far))
            except SystemExit as end:
                raise _EndedByTune from end

    try:
        trainable = trainables.get(job.trainable)
        curve = list(trainable.train(config["params"], data.fetched(), job.settings, at_rung))
        outcome: dict[str, Any] = _score(curve)
        if not outcome:
            outcome = {"failure": f"no finite score in {len(curve)} rounds", "traceback": ""}
    except _EndedByTune:
        raise SystemExit(0) from None
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the trainable may be anyone's; what it raises is an outcome
        outcome = {"failure": _last_line(error), "traceback": traceback.format_exc()}
    # without the last word Tune looks for the function's end five times a second
    report(curve, **outcome, final=True, done=True)


def refit(
    params: dict[str, Any], rounds: int, job: Job, data: Shared, test_features: Any
) -> Refitted:
    """Fit the best configuration again, on all training rows, and predict."""
    trainable: Trainable = trainables.get(job.trainable)
    rows = data.fetched()
    model = trainable.refit(params, rows, job.settings, rounds)
    loaded = trainable.load(model)
    return Refitted(
        model,
        trainable.predict(loaded, rows.valid.features),
        None if test_features is None else trainable.predict(loaded, test_features),
    )


class _EndedByTune(BaseException):
    """Tune ends a trial by SystemExit out of its report; a trainable that exits is a failure."""


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
