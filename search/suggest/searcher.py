"""The searcher: ``HyperOptSearch`` that learns from failures and starts from any history.

``docs/decisions/0002-searcher.md`` says why each part differs from Ray's.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from hyperopt import Domain
from ray.tune.search import Searcher
from ray.tune.search.hyperopt import HyperOptSearch

from search.suggest.algorithms import MakeAlgorithm, named
from search.suggest.history import History
from search.suggest.seeds import OwnSeeds, Seeds
from search.suggest.space import SearchSpace
from search.values.metric import Metric
from search.values.report import SCORE
from search.values.trial import PastTrial, Point, Proposal, trial_id


class TPESearch(HyperOptSearch):  # type: ignore[misc]
    """Suggests points, by default by the tree-structured Parzen estimator.

    Bergstra, Bardenet, Bengio, Kégl 2011, section 4, as hyperopt's ``tpe.suggest`` has it.

    - A trial that failed, or whose score is NaN, counts as the worst score seen.
    - TPE's random phase ends after :data:`~search.suggest.algorithms.RANDOM_POINTS` *finished*
      trials; running ones enter the model as bad, so that slots do not crowd one spot.
    - The same history and seed give the same suggestions, whether the history happened in
      this process or is given as ``past``.
    """

    def __init__(
        self,
        space: SearchSpace,
        metric: Metric,
        *,
        seed: int,
        seeds: Seeds | None = None,
        algorithm: MakeAlgorithm | None = None,
        first: Sequence[Point] = (),
        past: Iterable[PastTrial] = (),
        again: Iterable[Proposal] = (),
        enough: Callable[[], bool] = lambda: False,
    ) -> None:
        """Search ``space``, with the points ``first`` as its trials 1, 2, ...

        ``past``: trials that have ended. ``again``: trials of this search that were interrupted;
        they are proposed first, under the ids they have. ``seeds``: by default one made of ``seed``
        and the trial's number. ``algorithm``: by default the one named "hyperopt". ``enough``:
        tells when to propose no more.

        :raises InputError: a point is not in the space.
        """
        super().__init__(metric=SCORE, mode=metric.mode, random_state_seed=seed)
        self._search_space, self._loss = space, metric.loss
        self._seeds, self._enough = seeds or OwnSeeds(seed), enough
        self._first = [space.labels_of(point) for point in first]
        self._again = deque((int(each.trial_id), space.labels_of(each.params)) for each in again)
        self._id_of: dict[str, int] = {}  # Tune's trial id -> hyperopt's
        self._lowest = 1  # no lower number is free
        domain = Domain(lambda point: point, space.root)
        self._algorithm = (algorithm or named("hyperopt"))(domain)
        self._history = History(domain.params)  # by hyperopt's ids
        past = list(past)
        self._remember(past)
        self._taken = {each.number for each in past} | {number for number, _ in self._again}

    def set_search_properties(
        self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any
    ) -> bool:
        """Refuse another space or metric: both are given when the searcher is made."""
        return False

    def suggest(self, tune_trial_id: str) -> dict[str, Any] | None:
        """Return the next :class:`Proposal`, as Tune's config; ``FINISHED`` if there is none."""
        finished: Any = Searcher.FINISHED  # a text, which Tune knows
        if self._enough():
            return finished  # type: ignore[no-any-return]
        number, labels = self._again.popleft() if self._again else (self._free_number(), None)
        if labels is None and number <= len(self._first):
            labels = self._first[number - 1]
        hyperopt_id, seed = self._seeds.of(number)
        if labels is None:
            labels = self._algorithm.suggest(hyperopt_id, seed, self._history)
        if labels is None:
            return finished  # type: ignore[no-any-return]
        self._id_of[tune_trial_id] = hyperopt_id
        self._history.add(hyperopt_id, labels)
        return Proposal(trial_id(number), self._search_space.point(labels)).config()

    def save(self, checkpoint_path: str) -> None:
        """Write an empty file: Tune wants one, and a search goes on from MLflow."""
        Path(checkpoint_path).touch()

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Learn nothing from a rung: only a trial's end tells its score."""

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Learn a trial's score. An error, or a score that is not a number, is a failure."""
        if (hyperopt_id := self._id_of.get(trial_id)) is None:
            return
        score = math.nan if error or not result else result.get(self.metric, math.nan)
        self._history.end(hyperopt_id, self._loss(score))

    def _free_number(self) -> int:
        """Return the lowest number that no trial has."""
        number = next(each for each in itertools.count(self._lowest) if each not in self._taken)
        self._lowest = number + 1
        return number

    def _remember(self, past: Sequence[PastTrial]) -> None:
        """Add what ended before: other searches' trials first, then ours in their order."""
        others = [each for each in past if each.number is None]
        ours = sorted((each.number, each) for each in past if each.number is not None)
        # the last one before our first trial, so that no id of ours is taken
        first, _ = self._seeds.of(1)
        placed = [*zip(range(first - len(others), first), others, strict=True)]
        placed += [(self._seeds.of(number)[0], each) for number, each in ours]
        for hyperopt_id, each in placed:
            self._history.add(hyperopt_id, self._search_space.labels_of(each.params))
            loss = math.nan if each.score is None else self._loss(each.score)
            self._history.end(hyperopt_id, loss)
