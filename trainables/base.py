"""The protocol between a model family and a search, in one screen.

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
Curve = list[float]  # [rounds] validation score after each round; lower is better
# called with the curve so far after each round; may end the fit by raising
OnRound = Callable[[Curve], None]


@dataclass(frozen=True)
class Setting:
    """What ``--set`` may change besides the searched parameters."""

    default: int | float | str
    at_least: float | None = None
    one_of: tuple[str, ...] = ()


class Trainable(Protocol):
    """A model family: what is searched, and how one point of it is fitted."""

    name: str  # the tag `model` of its runs
    flavor: str  # the module of MLflow that saves its models: "xgboost", "sklearn", ...
    artifact: str  # the artifact path of a model's plain bytes in a run
    settings: Mapping[str, Setting]

    @property
    def search_space(self) -> Mapping[str, Any]:
        """The search space in hyperopt's terms, each label equal to its key."""

    def rounds(self, settings: Settings) -> int | None:
        """Return the most rounds that a fit may take; None if it has no rounds."""

    # May have two more methods. `made_once(settings) -> str | None`: a module to run on a machine
    # while the search starts, for which the first fit would wait otherwise. `note(settings) ->
    # str | None`: what the user should know, in one line, before the first fit.

    def train(self, params: Params, data: Dataset, settings: Settings, on_round: OnRound) -> Curve:
        """Fit on ``data.train``, score on ``data.valid`` after each round; return the curve."""

    def refit(self, params: Params, data: Dataset, settings: Settings, rounds: int) -> bytes:
        """Fit again for exactly ``rounds`` rounds; return the model's bytes."""

    def load(self, model: bytes) -> Any:
        """Return what :meth:`refit` made, as the object that its flavour saves."""

    def predict(self, model: Any, features: Any) -> NDArray[np.float64]:
        """Return predictions [rows] for ``features`` (csr [rows, columns])."""


def rmse(predicted: NDArray[np.float64], target: NDArray[np.float64]) -> float:
    """Return the root of the mean squared error, in the target's unit."""
    return float(np.sqrt(np.mean(np.square(predicted - target))))


def best_round(curve: Sequence[float]) -> int:
    """Return the 0-based round with the lowest score, the first of equals."""
    return int(np.argmin(curve))
