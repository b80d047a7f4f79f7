"""The protocol between a model and the search, in one screen.

A new trainable is one module with one object of this shape, and one line in
:data:`trainables.BUILT_IN`; from outside, ``--trainable package.module:attribute`` takes one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trainables.dataset import Dataset

Params = Mapping[str, Any]  # one point of the search space
Settings = Mapping[str, Any]  # the trainable's own settings, and always "seed" and "threads"
Curve = list[float]  # [rounds] validation score after each round, lower is better
OnRound = Callable[
    [Curve], None
]  # told the curve so far after each round; may end the fit by raising


@dataclass(frozen=True)
class Setting:
    """What ``--set`` may change besides the searched parameters."""

    default: int | float | str
    at_least: float | None = None
    one_of: tuple[str, ...] = ()


class Trainable(Protocol):
    """A model family: what is searched, and how one point of it is fitted."""

    name: str  # the tag `model` of its runs
    flavor: str  # the module of MLflow that saves its model: "xgboost", "sklearn", ...
    artifact: str  # where the plain bytes of its model are kept in a run
    settings: Mapping[str, Setting]

    @property
    def search_space(self) -> Mapping[str, Any]:
        """The search space in hyperopt's terms, each label equal to its key."""

    def rounds(self, settings: Settings) -> int | None:
        """Return the most rounds a fit may take; nothing where there are no rounds."""

    # May have `made_once(settings) -> str | None` beside: a module to run on a machine before its
    # first fit, which would do the same and be waited for.

    def train(self, params: Params, data: Dataset, settings: Settings, on_round: OnRound) -> Curve:
        """Fit on ``data.train``, score on ``data.valid`` after each round; return the curve."""

    def refit(self, params: Params, data: Dataset, settings: Settings, rounds: int) -> bytes:
        """Fit again for exactly ``rounds`` rounds; return the model's bytes."""

    def load(self, model: bytes) -> Any:
        """Return what :meth:`refit` made, as the object its flavour saves."""

    def predict(self, model: Any, features: Any) -> NDArray[np.float64]:
        """Return predictions [rows] for ``features`` (csr [rows, columns])."""


def rmse(predicted: NDArray[np.float64], target: NDArray[np.float64]) -> float:
    """Return the root of the mean squared error, in the target's unit."""
    return float(np.sqrt(np.mean(np.square(predicted - target))))


def best_round(curve: Sequence[float]) -> int:
    """Return the 0-based round with the lowest score, the first of equals."""
    return int(np.argmin(curve))
