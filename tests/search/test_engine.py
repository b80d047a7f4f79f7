"""When trials are judged, and how Ray is started."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

from search import engine
from search.engine import rungs
from search.errors import SearchError

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
    scores = {"0001": {10: 9.0, 20: 8.0}, "0002": {10: 7.0}, "0003": {10: 8.5, 20: 6.0}}
    scheduler = engine._scheduler((10, 20), 35, scores)
    recorded = {m: sorted(rewards.values()) for m, rewards in scheduler._brackets[0]._rungs}
    assert recorded == {10: [-9.0, -8.5, -7.0], 20: [-8.0, -6.0]}


class TestStartOfRay:
    def test_a_busy_machine_gets_a_second_try(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Ray gives its node 30 s to start; other work on the machine may take them."""
        tries = []

        def init(*_: object, **__: object) -> None:
            tries.append(1)
            if len(tries) == 1:
                raise Exception("The current node timed out during startup.")

        monkeypatch.setattr("ray.init", init)
        with engine.Cluster("local", tmp_path) as cluster:
            cluster.join()
            assert len(tries) == 2

    def test_one_that_never_starts_is_one_line(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What Ray raises is no more special than Exception, and no traceback for the user."""

        def init(*_: object, **__: object) -> None:
            raise Exception("timed out during startup.\nmore")

        monkeypatch.setattr("ray.init", init)
        with (
            pytest.raises(SearchError, match=r"Ray does not start .*: timed out during startup"),
            engine.Cluster("local", tmp_path) as cluster,
        ):
            cluster.join()
