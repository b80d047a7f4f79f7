"""Trainables whose fits take no CPU time, to measure everything else."""

from __future__ import annotations

import time
from typing import Any, ClassVar

from trainables.base import Curve, OnRound, Params, Setting, Settings
from trainables.dataset import Dataset
from trainables.linear import LINEAR

ROUNDS = 20


class Trivial:
    """A quadratic function of five numbers, with :data:`ROUNDS` rounds; its model is linear."""

    name = "trivial"
    flavor = "sklearn"
    artifact = "models/model.bin"
    settings: ClassVar[dict[str, Setting]] = {}
    seconds = 0.0

    @property
    def search_space(self) -> dict[str, Any]:
        """Five numbers between -1 and 1."""
        from hyperopt import hp

        return {name: hp.uniform(name, -1, 1) for name in "abcde"}

    def rounds(self, settings: Settings) -> int:
        """Return the number of rounds."""
        return ROUNDS

    def train(self, params: Params, data: Dataset, settings: Settings, on_round: OnRound) -> Curve:
        """Return the curve."""
        time.sleep(self.seconds)
        bowl = sum(float(value) ** 2 for value in params.values())
        curve = [bowl + 1 / number for number in range(1, ROUNDS + 1)]
        on_round(curve)
        return curve

    def refit(self, params: Params, data: Dataset, settings: Settings, rounds: int) -> bytes:
        """Fit a linear model."""
        return LINEAR.refit({}, data, settings, rounds)

    def load(self, model: bytes) -> Any:
        """Return the model."""
        return LINEAR.load(model)

    def predict(self, model: Any, features: Any) -> Any:
        """Return its predictions [rows]."""
        return LINEAR.predict(model, features)


class Sleeper(Trivial):
    """The same; a fit takes one second."""

    name = "sleeper"
    seconds = 1.0


class Nap(Trivial):
    """The same; a fit takes long enough to lose a node during it."""

    name = "nap"
    seconds = 4.0


class Blink(Trivial):
    """The same; a fit takes less time than the start of a worker."""

    name = "blink"
    seconds = 0.3


TRIVIAL, SLEEPER, NAP, BLINK = Trivial(), Sleeper(), Nap(), Blink()
