"""When trials are judged."""

from __future__ import annotations

from itertools import pairwise

import pytest
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

from search import engine
from search.engine import rungs

ROUNDS = [11, 16, 39, 40, 41, 159, 160, 161, 500, 639, 640, 641, 1000, 2560, 10_000]


@pytest.mark.parametrize("rounds", ROUNDS)
def test_rungs_ascend_below_the_cap(rounds: int) -> None:
    """A trial is judged later and later, and never at its last round."""
    found = rungs(rounds)
    assert all(earlier < later for earlier, later in pairwise(found))
    assert 0 < found[0] <= found[-1] < rounds


@pytest.mark.parametrize("rounds", [1, 2, 9, 10])
def test_short_fits_are_not_judged(rounds: int) -> None:
    """Where no trial outlasts the grace, none is stopped."""
    assert rungs(rounds) == ()


@pytest.mark.parametrize("rounds", ROUNDS)
def test_scheduler_judges_at_the_rungs(rounds: int) -> None:
    """Trials report at exactly the milestones that Ray's ASHA computes below the cap."""
    scheduler = engine._scheduler(rungs(rounds), rounds, {})
    assert isinstance(scheduler, ASHAScheduler)
    milestones = [milestone for milestone, _ in scheduler._brackets[0]._rungs]
    assert sorted(m for m in milestones if m < rounds) == list(rungs(rounds))


def test_without_rungs_trials_run_in_turn() -> None:
    """With nothing to judge by there is no halving."""
    assert isinstance(engine._scheduler((), 1000, {}), FIFOScheduler)


def test_earlier_trials_are_on_the_rungs() -> None:
    """ASHA told of earlier trials judges as the one that saw them."""
    scores = {"0001": {10: 9.0, 40: 8.0}, "0002": {10: 7.0}, "0003": {10: 8.5, 40: 6.0}}
    scheduler = engine._scheduler((10, 40), 60, scores)
    recorded = {m: sorted(rewards.values()) for m, rewards in scheduler._brackets[0]._rungs}
    assert recorded == {10: [-9.0, -8.5, -7.0], 40: [-8.0, -6.0]}
