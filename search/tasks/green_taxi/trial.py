"""Worker code of the taxi task: one trial, and the refit. Every worker waits for these imports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import trainables
from search.values.model import Fitted, checked
from search.values.trial import Point
from trainables.dataset import Dataset


@dataclass(frozen=True)
class TaxiTrial:
    """One fit of a trainable, scored on the validation month after each round."""

    trainable: str
    settings: dict[str, Any]  # the trainable's, with "seed" and "threads"

    def __call__(
        self, point: Point, shared: Dataset, report: Callable[[list[float]], None]
    ) -> list[float]:
        """Return the RMSE in minutes after each round."""
        trainable = trainables.get(self.trainable)
        return trainable.train(point, shared, self.settings, report)


@dataclass(frozen=True)
class TaxiFit:
    """The same fit again, for a known number of rounds."""

    trainable: str
    settings: dict[str, Any]

    def __call__(self, point: Point, rounds: int, shared: Dataset) -> Fitted:
        """Fit on the training month, and predict some validation trips."""
        trainable = trainables.get(self.trainable)
        model = trainable.refit(point, shared, self.settings, rounds)
        features = shared.valid.features[checked(shared.valid.features.shape[0])]
        return Fitted(model, trainable.predict(trainable.load(model), features))
