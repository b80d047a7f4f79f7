"""What a trial's score depends on, beside its point and its data: packages and code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class FittedWith:
    """What every node must have as the driver has it, or a trial there may get another score."""

    packages: Sequence[str] = ()  # distributions, whose versions are compared
    modules: Sequence[str] = ()  # importable names, whose source is compared

    def __or__(self, other: FittedWith) -> FittedWith:
        """Return both together, each name once."""
        return FittedWith(
            packages=tuple(dict.fromkeys([*self.packages, *other.packages])),
            modules=tuple(dict.fromkeys([*self.modules, *other.modules])),
        )


NOTHING = FittedWith()
