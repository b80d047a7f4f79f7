"""HyperOptSearch, mended: TPE that hears of failures and starts from any point.

Why each part differs from Ray's: docs/decisions/0002-searcher.md.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hyperopt import Domain
from ray.tune.search.hyperopt import HyperOptSearch

from search.space import Point, Space
from search.tpe import History, Sampler

RANDOM_POINTS = 20  # finished trials before TPE models anything; hyperopt's own number


@dataclass(frozen=True)
class Proposal:
    """One trial to run. Tune's config is this, as a dictionary."""

    trial_id: str  # ours: it stays through retries and resumes
    params: Point

    def config(self) -> dict[str, Any]:
        """Return what Tune hands to the worker."""
        return {"trial_id": self.trial_id, "params": self.params}


@dataclass(frozen=True)
class Past:
    """A trial that ended before this searcher was made."""

    params: Point
    score: float | None  # nothing: it failed
    number: int | None = None  # in this search, from 1; nothing: it was another search's


def trial_id(number: int) -> str:
    """Return the id of a search's ``number``-th trial, from 1."""
    return f"{number:04d}"


class TPESearch(HyperOptSearch):  # type: ignore[misc]
    """Suggests points of a space by the tree-structured Parzen estimator.

    Bergstra, Bardenet, Bengio, Kégl 2011, section 4, as hyperopt's ``tpe.suggest`` has it.

    - A trial that failed, or whose score is NaN, counts as the worst score seen.
    - The random phase ends after :data:`RANDOM_POINTS` *finished* trials; running ones
      enter the model as bad, so that slots do not crowd one spot.
    - The same history and seed give the same suggestions, whatever ran before, and whether it
      ran in this process or is told as ``past``.
    """

    def __init__(
        self,
        space: Space,
        *,
        seed: int,
        score: str,
        first: Sequence[Point] = (),
        past: Iterable[Past] = (),
        again: Iterable[Proposal] = (),
    ) -> None:
        """Search ``space``, with the points ``first`` as its trials 1, 2, ...

        ``past`` is what is known already; ``again`` are trials of this search that were in
        flight: they are proposed before any other, under the ids they have.

        :raises InputError: a point does not lie in the space.
        """
        super().__init__(metric=score, mode="min", random_state_seed=seed)
        self._ours = space
        self._seed = seed
        self._space = space.root
        self._first = [space.labels_of(point) for point in first]
        self._again = deque((int(each.trial_id), space.labels_of(each.params)) for each in again)
        self._number_of: dict[str, int] = {}  # Tune's trial id -> ours
        self._lowest = 1  # no lower number is free
        self.domain = Domain(lambda point: point, space.root)
        self._sampler = Sampler(self.domain)
        self._history = History(self.domain.params)
        self._remember(list(past))
        self._taken = {*self._history.numbers, *(number for number, _ in self._again)}

    def suggest(self, trial_id_of_tune: str) -> dict[str, Any] | None:
        """Return the next :class:`Proposal`, as Tune's config."""
        number, labels = self._again.popleft() if self._again else (self._free_number(), None)
        self._number_of[trial_id_of_tune] = number
        if labels is None and number <= len(self._first):
            labels = self._first[number - 1]
        if labels is None:
            labels = self._drawn(number)
        self._history.add(number, labels)
        return Proposal(trial_id(number), self._ours.point(labels)).config()

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Learn nothing from a rung: only a trial's end tells its score."""

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Learn a trial's score; an error or a score that is no number is a failure."""
        if (number := self._number_of.get(trial_id)) is None:
            return
        score = math.nan if error or not result else result.get(self.metric, math.nan)
        self._history.end(number, score)

    def _free_number(self) -> int:
        """Take the lowest number that no trial has."""
        number = next(each for each in itertools.count(self._lowest) if each not in self._taken)
        self._lowest = number + 1
        return number

    def _remember(self, past: Sequence[Past]) -> None:
        """Take over what ended before: other searches' trials first, then ours in their order."""
        others = [each for each in past if each.number is None]
        ours = sorted((each.number, each) for each in past if each.number is not None)
        # numbered 0, -1, ... so that no number of ours is taken
        for number, each in [*zip(range(1 - len(others), 1), others, strict=True), *ours]:
            self._history.add(number, self._ours.labels_of(each.params))
            self._history.end(number, math.nan if each.score is None else each.score)

    def _drawn(self, number: int) -> dict[str, Any]:
        """Draw a point, by TPE once enough trials have finished, else at random."""
        # A seed for each suggestion, not a running generator: a search that goes on
        # elsewhere draws what this one would have drawn.
        seed = int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0] >> 1)
        if self._history.finished < RANDOM_POINTS:
            return self._sampler.random(number, seed)
        return self._sampler.suggest(number, seed, self._history)
