"""A trial before and after it runs: the point to try, and what became of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search.values.metric import Metric

Point = dict[str, Any]  # parameter names and values, nested where the space is

STATUSES = ("finished", "stopped", "failed", "interrupted")
SCORED = ("finished", "stopped")  # statuses of trials that have a score
ENDED = ("finished", "stopped", "failed")  # statuses that stay; an interrupted trial runs again


@dataclass(frozen=True)
class Proposal:
    """A trial to run. As a dictionary it is the config that Ray Tune carries to the worker."""

    trial_id: str  # ours: stable through retries and resumes
    params: Point

    def config(self) -> dict[str, Any]:
        """Return Tune's config."""
        return {"trial_id": self.trial_id, "params": self.params}


@dataclass(frozen=True)
class PastTrial:
    """A trial that ended earlier, as the searcher is told of it."""

    params: Point
    score: float | None  # None: it failed
    number: int | None = None  # its place in this search, from 1; None: another search's trial


@dataclass(frozen=True)
class Outcome:
    """What became of a trial."""

    trial_id: str
    params: Mapping[str, Any]
    status: str  # one of STATUSES
    score: float | None  # in the metric's own sign; None: it has none
    best_iteration: int | None  # 0-based round of the score
    failure: str  # the last line of the error; empty if it did not fail


@dataclass(frozen=True)
class ScoredOutcome(Outcome):
    """An outcome with a score, which is a finite number."""

    score: float


def trial_id(number: int) -> str:
    """Return the id of a search's ``number``-th trial, from 1."""
    return f"{number:04d}"


def best(outcomes: Sequence[Outcome], metric: Metric) -> ScoredOutcome | None:
    """Return the trial with the best score, of equals that with the lowest number.

    None if no trial has a finite score.
    """
    numbered = sorted(outcomes, key=lambda outcome: int(outcome.trial_id))
    scores = [math.nan if outcome.score is None else outcome.score for outcome in numbered]
    if (place := metric.best_index(scores)) is None:
        return None
    return ScoredOutcome(**{**vars(numbered[place]), "score": scores[place]})
