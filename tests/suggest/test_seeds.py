"""Each trial's seed, whichever trials are asked for, before and after a resume."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from search.suggest.seeds import HyperoptSeeds, OwnSeeds

BELOW = 2**31 - 1
GENERATORS: dict[str, Callable[[], Any]] = {
    "seed": lambda: 7,
    "PCG64": lambda: np.random.default_rng(7),
    "PCG64DXSM": lambda: np.random.Generator(np.random.PCG64DXSM(7)),
    "MT19937": lambda: np.random.Generator(np.random.MT19937(7)),
    "Philox": lambda: np.random.Generator(np.random.Philox(7)),
    "SFC64": lambda: np.random.Generator(np.random.SFC64(7)),
    "RandomState": lambda: np.random.RandomState(7),
}


def drawn(generator: Any, count: int) -> list[int]:
    """Return the seeds that fmin draws."""
    if isinstance(generator, int):
        generator = np.random.default_rng(generator)
    draw = generator.randint if isinstance(generator, np.random.RandomState) else generator.integers
    return [int(draw(BELOW)) for _ in range(count)]


@pytest.mark.parametrize("name", GENERATORS)
class TestHyperoptSeeds:
    def test_are_the_draws_of_fmin_in_any_order(self, name: str) -> None:
        """Asking for one seed does not change another."""
        expected = drawn(GENERATORS[name](), 60)
        seeds = HyperoptSeeds(GENERATORS[name]())
        order = np.random.default_rng(1).permutation(60)
        for place in [*order, *order]:
            assert seeds.of(int(place) + 1) == (place, expected[place])

    def test_are_the_same_once_they_were_json(self, name: str) -> None:
        """Written before, between and after draws; from a generator that has drawn before."""
        generator = GENERATORS[name]()
        if not isinstance(generator, int):
            drawn(generator, 3)
        seeds = HyperoptSeeds(generator, first_id=4, points=2)
        expected = [seeds.of(number) for number in range(1, 40)]
        read = HyperoptSeeds.from_json(json.loads(json.dumps(seeds.as_json())))
        assert [read.of(number) for number in range(1, 40)] == expected
        again = HyperoptSeeds.from_json(json.loads(json.dumps(read.as_json())))
        assert [again.of(number) for number in range(1, 40)] == expected


@pytest.mark.parametrize("name", [name for name in GENERATORS if name != "seed"])
def test_second_search_with_the_same_generator_goes_on(name: str) -> None:
    """Ten searches in one process with one `rstate` do not try the same points."""
    generator = GENERATORS[name]()
    HyperoptSeeds(generator).of(5)
    assert HyperoptSeeds(generator).of(1) == (0, drawn(GENERATORS[name](), 6)[5])


def test_hyperopts_ids_begin_after_the_trials_there_are() -> None:
    assert HyperoptSeeds(7, first_id=12).of(3)[0] == 14


def test_initial_points_take_ids_and_no_seeds() -> None:
    """The first seed is that of the first suggestion."""
    seeds = HyperoptSeeds(7, points=2)
    assert [seeds.of(number) for number in (1, 2)] == [(0, 0), (1, 0)]
    assert seeds.of(3) == (2, drawn(7, 1)[0])


def test_own_seeds_depend_on_seed_and_number_alone() -> None:
    """They are those of earlier versions, so that a search begun with one can go on."""
    drawn = np.random.SeedSequence([42, 5]).generate_state(1)[0]
    assert OwnSeeds(42).of(5) == (5, int(drawn >> 1))
    assert OwnSeeds(42).of(5) != OwnSeeds(43).of(5)
