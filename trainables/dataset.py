"""The rows that every fit works on: plain arrays, and a digest that identifies them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Made = TypeVar("Made")


@dataclass(frozen=True)
class Rows:
    """Feature rows and their targets."""

    features: Any  # scipy csr_matrix [rows, columns] float64
    target: NDArray[np.float64]  # [rows], in the unit the score is given in


@dataclass(frozen=True)
class Dataset:
    """What a search trains on and what it validates on.

    A worker keeps its dataset from one trial to the next, with whatever a trainable has derived
    from it (:meth:`derived`).
    """

    train: Rows
    valid: Rows
    digest: str  # 32 hex digits; two datasets with the same rows have the same digest
    _derived: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def derived(self, name: str, make: Callable[[], Made]) -> Made:
        """Return what ``make`` returns, made once per process and kept under ``name``."""
        if name not in self._derived:
            self._derived[name] = make()
        made: Made = self._derived[name]
        return made

    def keep(self, name: str, made: Any) -> None:
        """Make :meth:`derived` return this from now on."""
        self._derived[name] = made

    def __getstate__(self) -> dict[str, Any]:
        # What was derived belongs to this process and is not pickled.
        return {**self.__dict__, "_derived": {}}
