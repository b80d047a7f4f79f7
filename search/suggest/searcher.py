"""The searcher: ``HyperOptSearch`` that learns from failures and starts from any history.

``docs/decisions/0002-searcher.md`` says why each part differs from Ray's.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from hyperopt import Domain
from ray.tune.search.hyperopt import HyperOptSearch

from search.suggest.algorithms import RandomPoints, tpe
from search.suggest.history import History
from search.suggest.space import Space
from search.values.metric import Metric
from search.values.report import SCORE
from search.values.trial import PastTrial, Point, Proposal, trial_id

RANDOM_POINTS = 20  # finished trials before TPE models anything; hyperopt's own number


class TPESearch(HyperOptSearch):  # type: ignore[misc]
    """Suggests points by the tree-structured Parzen estimator.

    Bergstra, Bardenet, Bengio, Kégl 2011, section 4, as hyperopt's ``tpe.suggest`` has it.

    - A trial that failed, or whose score is NaN, counts as the worst score seen.
    - The random phase ends after :data:`RANDOM_POINTS` *finished* trials; running ones
      enter the model as bad, so that slots do not crowd one spot.
    - The same history and seed give the same suggestions, whether the history happened in
      this process or is given as ``past``.
    """

    def __init__(
        self,
        space: Space,
        metric: Metric,
        *,
        seed: int,
        first: Sequence[Point] = (),
        past: Iterable[PastTrial] = (),
        again: Iterable[Proposal] = (),
    ) -> None:
        """Search ``space``, with the points ``first`` as its trials 1, 2, ...

        ``past``: trials that have ended. ``again``: trials of this search that were interrupted;
        they are proposed first, under the ids they have.

        :raises InputError: a point is not in the space.
        """
        super().__init__(metric=SCORE, mode=metric.mode, random_state_seed=seed)
        self._search_space, self._loss = space, metric.loss
        self._seed = seed
        self._first = [space.labels_of(point) for point in first]
        self._again = deque((int(each.trial_id), space.labels_of(each.params)) for each in again)
        self._number_of: dict[str, int] = {}  # Tune's trial id -> ours
        self._lowest = 1  # no lower number is free
        domain = Domain(lambda point: point, space.root)
        self._random, self._tpe = RandomPoints(domain), tpe(domain)
        self._history = History(domain.params)
        self._remember(list(past))
        self._taken = {*self._history.numbers, *(number for number, _ in self._again)}

    def set_search_properties(
        self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any
    ) -> bool:
        """Refuse another space or metric: both are given when the searcher is made."""
        return False

    def suggest(self, tune_trial_id: str) -> dict[str, Any] | None:
        """Return the next :class:`Proposal`, as Tune's config."""
        number, labels = self._again.popleft() if self._again else (self._free_number(), None)
        self._number_of[tune_trial_id] = number
        if labels is None and number <= len(self._first):
            labels = self._first[number - 1]
        if labels is None:
            labels = self._drawn(number)
        self._history.add(number, labels)
        return Proposal(trial_id(number), self._search_space.point(labels)).config()

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Learn nothing from a rung: only a trial's end tells its score."""

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Learn a trial's score. An error, or a score that is not a number, is a failure."""
        if (number := self._number_of.get(trial_id)) is None:
            return
        score = math.nan if error or not result else result.get(self.metric, math.nan)
        self._history.end(number, self._loss(score))

    def _free_number(self) -> int:
        """Return the lowest number that no trial has."""
        number = next(each for each in itertools.count(self._lowest) if each not in self._taken)
        self._lowest = number + 1
        return number

    def _remember(self, past: Sequence[PastTrial]) -> None:
        """Add what ended before: other searches' trials first, then ours in their order."""
        others = [each for each in past if each.number is None]
        ours = sorted((each.number, each) for each in past if each.number is not None)
        # numbered 0, -1, ... so that no number of ours is taken
        for number, each in [*zip(range(1 - len(others), 1), others, strict=True), *ours]:
            self._history.add(number, self._search_space.labels_of(each.params))
            loss = math.nan if each.score is None else self._loss(each.score)
            self._history.end(number, loss)

    def _drawn(self, number: int) -> dict[str, Any]:
        """Draw a point: by TPE once enough trials have finished, else at random."""
        # A seed for each suggestion, not one running generator: a search that is resumed
        # elsewhere draws what this one would have drawn.
        seed = int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0] >> 1)
        algorithm = self._random if self._history.finished < RANDOM_POINTS else self._tpe
        return algorithm.suggest(number, seed, self._history)
