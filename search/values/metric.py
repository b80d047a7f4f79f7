"""The metric of a search: its name, its direction, and every comparison of scores.

Scores are kept as people read them: an AUC grows, a log loss is positive. An algorithm that knows
one direction only takes a loss (lower is better) or a reward (higher is better).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Direction = Literal["minimize", "maximize"]

# how far apart two scores of one model may be: whichever is larger
SAME_SCORE = 1e-4
SAME_SCORE_SHARE = 1e-5  # of the larger magnitude


@dataclass(frozen=True)
class Metric:
    """What trials are scored by."""

    name: str  # the key in MLflow and in JSON: "roc-auc", "log-loss"
    direction: Direction
    label: str = ""  # for people, if the name is not enough: "ROC AUC"

    @property
    def curve(self) -> str:
        """The key of the learning curve in MLflow."""
        return f"validation-{self.name}"

    @property
    def test(self) -> str:
        """The key of a score on the test data in MLflow."""
        return f"test-{self.name}"

    @property
    def mode(self) -> Literal["min", "max"]:
        """The direction in Ray Tune's words."""
        return "min" if self.direction == "minimize" else "max"

    def loss(self, score: float) -> float:
        """Return the score as a loss, for algorithms that minimise; its own inverse."""
        return score if self.direction == "minimize" else -score

    def reward(self, score: float) -> float:
        """Return the score as a reward, for algorithms that maximise."""
        return -self.loss(score)

    def better(self, score: float, than: float) -> bool:
        """Tell whether ``score`` is better; a NaN never is, and anything is better than a NaN."""
        if math.isnan(than):
            return not math.isnan(score)
        return self.loss(score) < self.loss(than)

    def beats(self, score: float, champion: float) -> bool:
        """Tell whether ``score`` may replace a champion's on the same rows.

        A champion with NaN stays: it was made for other rows, so nothing is known about it here.
        """
        return not math.isnan(champion) and self.better(score, than=champion)

    def same(self, score: float, other: float) -> bool:
        """Tell whether two scores can be those of one model, scored twice; a NaN is like none."""
        magnitude = max(abs(score), abs(other))
        return score == other or abs(score - other) <= max(SAME_SCORE, SAME_SCORE_SHARE * magnitude)

    def best_index(self, scores: Sequence[float]) -> int | None:
        """Return the place of the best finite score, the first of equals; None if there is none."""
        finite = [place for place, score in enumerate(scores) if math.isfinite(score)]
        return min(finite, key=lambda place: self.loss(scores[place]), default=None)

    def shown(self, score: float) -> str:
        """Return the score for people: "ROC AUC 0.8777"."""
        return f"{self.label or self.name} {score:.4f}"


def is_among_best(reward: float, rewards: Sequence[float], share: float) -> bool:
    """Tell whether a reward belongs to the best ``share`` (0 to 1) of ``rewards``.

    It does if it is at or above their percentile, if it is NaN, or if there are none. A NaN among
    ``rewards`` does not count.
    """
    import numpy as np

    return not rewards or not reward < np.nanpercentile(rewards, 100 * (1 - share))


def worst_loss(losses: Iterable[float]) -> float | None:
    """Return the greatest finite loss; None if there is none."""
    return max(filter(math.isfinite, losses), default=None)
