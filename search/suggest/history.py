"""The trials that an algorithm learns from, in arrays that grow."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.values.metric import worst_loss

Labels = Mapping[str, Any]  # a value for each label that is active in a point


class Column:
    """A growing array of numbers."""

    def __init__(self, kind: Any = np.int64) -> None:
        self._held = np.empty(64, dtype=kind)
        self._length = 0

    @property
    def values(self) -> NDArray[Any]:
        """All values; not a copy."""
        return self._held[: self._length]

    def insert(self, place: int, value: Any) -> None:
        """Insert a value before the one at ``place``; the dtype widens where it must."""
        kind = np.promote_types(self._held.dtype, np.asarray(value).dtype)
        if kind != self._held.dtype or self._length == len(self._held):
            held = np.empty(2 * len(self._held), dtype=kind)
            held[: self._length] = self.values
            self._held = held
        self._held[place + 1 : self._length + 1] = self._held[place : self._length].copy()
        self._held[place] = value
        self._length += 1


class History:
    """Trials by number: their labels' values, and their losses as TPE sees them.

    A running trial counts as infinitely bad, so that slots do not crowd one spot; a failed one
    counts as the worst loss seen.
    """

    def __init__(self, labels: Iterable[str]) -> None:
        self._numbers = Column()  # ascending
        self._losses = Column(np.float64)  # of failures: NaN
        self._values = {label: (Column(), Column()) for label in labels}  # numbers, values
        self._worst: float | None = None  # of the finite losses
        self.finished = 0  # failures among them

    @property
    def numbers(self) -> NDArray[np.int64]:
        """The trials' numbers, ascending."""
        return self._numbers.values

    def add(self, number: int, labels: Labels) -> None:
        """Add a running trial."""
        place = int(np.searchsorted(self.numbers, number))
        self._numbers.insert(place, number)
        self._losses.insert(place, math.inf)
        for label, value in labels.items():
            numbers, values = self._values[label]
            place = int(np.searchsorted(numbers.values, number))
            numbers.insert(place, number)
            values.insert(place, value)

    def end(self, number: int, loss: float) -> None:
        """Add a trial's loss; one that is not a finite number is a failure."""
        self.finished += 1
        self._worst = worst_loss([loss] if self._worst is None else [loss, self._worst])
        place = np.searchsorted(self.numbers, number)
        self._losses.values[place] = loss if math.isfinite(loss) else math.nan

    @property
    def losses(self) -> NDArray[np.float64]:
        """Each trial's loss, by number: infinite while it runs, the worst seen if it failed."""
        losses = self._losses.values
        # without any loss yet all failures are equal, so any number will do
        worst = 0.0 if self._worst is None else self._worst
        return np.where(np.isnan(losses), worst, losses)

    @property
    def values(self) -> Mapping[str, tuple[NDArray[np.int64], NDArray[Any]]]:
        """The numbers of the trials that have a label, ascending, and their values of it."""
        return {label: (n.values, v.values) for label, (n, v) in self._values.items()}
