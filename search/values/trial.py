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


def trial_id(number: int) -> str:
    """Return the id of a search's ``number``-th trial, from 1."""
    return f"{number:04d}"


def best(outcomes: Sequence[Outcome], metric: Metric) -> Outcome | None:
    """Return the trial with the best score, of equals that with the lowest number.

    None if no trial has a finite score.
    """
    scored = sorted((o for o in outcomes if o.score is not None), key=lambda o: int(o.trial_id))
    place = metric.best_index([math.nan if o.score is None else o.score for o in scored])
    return None if place is None else scored[place]
