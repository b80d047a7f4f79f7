"""The metric of a search: its name, its direction, and what "better" and "worst" mean.

Scores are kept as people read them: an AUC grows, a log loss is positive. Whoever compares two
scores asks here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Direction = Literal["minimize", "maximize"]


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
    def worst(self) -> float:
        """The score that no other is worse than."""
        return math.inf if self.direction == "minimize" else -math.inf

    def loss(self, score: float) -> float:
        """Return the score as a loss, for algorithms that minimise; its own inverse."""
        return score if self.direction == "minimize" else -score

    def better(self, score: float, than: float) -> bool:
        """Tell whether ``score`` is better; a NaN never is, and anything is better than a NaN."""
        if math.isnan(than):
            return not math.isnan(score)
        return self.loss(score) < self.loss(than)

    def best(self, scores: Iterable[float]) -> float:
        """Return the best score; the worst possible one if there is no number among them."""
        numbers = [score for score in scores if not math.isnan(score)]
        return min(numbers, key=self.loss, default=self.worst)

    def best_index(self, scores: Sequence[float]) -> int | None:
        """Return the place of the best finite score, the first of equals; None if there is none."""
        finite = [place for place, score in enumerate(scores) if math.isfinite(score)]
        return min(finite, key=lambda place: self.loss(scores[place]), default=None)

    def shown(self, score: float) -> str:
        """Return the score for people: "ROC AUC 0.8777"."""
        return f"{self.label or self.name} {score:.4f}"
