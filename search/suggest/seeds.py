"""The seed of each trial's suggestion, whichever trials are asked for and in whatever order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

HIGHEST = 2**31 - 1  # hyperopt draws each seed below it
BIT_GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")
LEGACY = "RandomState"


class Seeds(Protocol):
    """What an algorithm is given to suggest a trial's point."""

    def of(self, number: int) -> tuple[int, int]:
        """Return hyperopt's id and the seed of our trial ``number``, from 1."""


class OwnSeeds:
    """A seed for each trial's number: what is drawn does not depend on what was drawn before."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def of(self, number: int) -> tuple[int, int]:
        """Return hyperopt's id and the seed of our trial ``number``, from 1."""
        drawn = np.random.SeedSequence([self._seed, number]).generate_state(1)[0]
        return number, int(drawn >> 1)


class HyperoptSeeds:
    """The seeds and ids that ``hyperopt.fmin`` gives its suggestions.

    The generator given is drawn from, as ``fmin`` draws from it: a second search with the same
    generator goes on where the first one ended.
    """

    def __init__(
        self,
        rstate: int | np.random.Generator | np.random.RandomState,
        *,
        first_id: int = 0,
        points: int = 0,
    ) -> None:
        """``first_id``: how many trials hyperopt's ``Trials`` has. ``points``: how many initial
        points there are; they take ids, but no seeds.
        """
        is_seed = isinstance(rstate, int | np.integer)
        self._generator = np.random.default_rng(rstate) if is_seed else rstate
        self._first_id, self._points = first_id, points
        self._state = _state(self._generator)  # before the first draw
        self._drawn: list[int] = []

    def of(self, number: int) -> tuple[int, int]:
        """Return hyperopt's id and the seed of our trial ``number``, from 1.

        The seed of an initial point is 0; nothing is drawn for it.
        """
        place = number - self._points
        while len(self._drawn) < place:  # one by one: a generator may draw many another way
            self._drawn.append(_draw(self._generator))
        return self._first_id + number - 1, self._drawn[place - 1] if place > 0 else 0

    def as_json(self) -> dict[str, Any]:
        """Return what :meth:`from_json` takes."""
        return {"state": self._state, "first_id": self._first_id, "points": self._points}

    @classmethod
    def from_json(cls, written: Mapping[str, Any]) -> HyperoptSeeds:
        """Return seeds that draw what those that were written draw, from the first on."""
        generator = _generator(written["state"])
        return cls(generator, first_id=written["first_id"], points=written["points"])


def _draw(generator: Any) -> int:
    if isinstance(generator, np.random.RandomState):
        return int(generator.randint(HIGHEST))
    return int(generator.integers(HIGHEST))


def _state(generator: Any) -> dict[str, Any]:
    """Return a generator's state as JSON holds it."""
    if isinstance(generator, np.random.RandomState):
        state: dict[str, Any] = {**generator.get_state(legacy=False), "class": LEGACY}
    else:
        state = {**generator.bit_generator.state, "class": "Generator"}
    plain: dict[str, Any] = _listed(state)
    return plain


def _generator(written: Mapping[str, Any]) -> np.random.Generator | np.random.RandomState:
    """Return a generator in a state that was written."""
    state = {name: part for name, part in written.items() if name != "class"}
    if written["class"] == LEGACY:
        legacy = np.random.RandomState()
        legacy.set_state(state)
        return legacy
    if state["bit_generator"] not in BIT_GENERATORS:
        raise ValueError(f"unknown bit generator {state['bit_generator']!r}")
    bits = getattr(np.random, state["bit_generator"])()
    bits.state = _arrays(state, bits.state)
    return np.random.Generator(bits)


def _listed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _listed(part) for name, part in value.items()}
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _arrays(value: Any, like: Any) -> Any:
    """Return the value with arrays where ``like`` has them."""
    if isinstance(like, Mapping):
        return {name: _arrays(part, like.get(name)) for name, part in value.items()}
    return np.asarray(value, dtype=like.dtype) if isinstance(like, np.ndarray) else value
