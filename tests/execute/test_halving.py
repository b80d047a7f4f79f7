"""Asynchronous successive halving: when trials are judged, and that Ray's ASHA decides the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.tune.schedulers import ASHAScheduler

from search.execute.halving import REDUCTION, Halving, InOrder, rungs
from search.values.metric import Metric
from search.values.report import FINAL, ROUND, SCORE

ROUNDS = [11, 16, 39, 40, 41, 159, 160, 161, 500, 639, 640, 641, 1000, 2560, 10_000]
METRICS = [Metric("rmse", "minimize"), Metric("roc-auc", "maximize")]
MODES = {"minimize": "min", "maximize": "max"}

no_deadline = settings(max_examples=60, deadline=None, database=None)
# a few values, so that equal scores occur often; and any others
a_score = st.sampled_from([0.0, 1.0, 2.0, 3.0]) | st.floats(-1e300, 1e300)
# of a trial: the scores at up to four rungs and at its end
trial_scores = st.lists(a_score, min_size=5, max_size=5)


def asha(metric: Metric, rounds: int) -> Any:
    """Return Ray's scheduler for fits of at most ``rounds`` rounds."""
    return ASHAScheduler(
        time_attr=ROUND,
        metric=SCORE,
        mode=MODES[metric.direction],
        max_t=rounds,
        grace_period=rungs(rounds)[0],
        reduction_factor=REDUCTION,
        stop_last_trials=False,
    )


def milestones_of(scheduler: Any) -> list[int]:
    """Return the rounds at which Ray's scheduler judges, ascending."""
    (bracket,) = scheduler._brackets
    return sorted(milestone for milestone, _ in bracket._rungs)


def recorded_in(scheduler: Any) -> dict[int, list[float]]:
    """Return the rewards that Ray's scheduler has recorded, by milestone."""
    (bracket,) = scheduler._brackets
    return {milestone: sorted(rewards.values()) for milestone, rewards in bracket._rungs}


@dataclass
class Tune:
    """Gives a scheduler the reports of trials as Ray Tune does."""

    scheduler: Any
    _running: set[str] = field(default_factory=set)

    def report(self, trial_id: str, report: Mapping[str, Any]) -> str:
        """Return the scheduler's decision, or "ended" if the trial ended by itself.

        The scheduler also gets the end of a trial that it has stopped.
        """
        trial = SimpleNamespace(trial_id=trial_id)
        if trial_id not in self._running:
            self._running.add(trial_id)
            self.scheduler.on_trial_add(None, trial)
        decision = "ended"
        if not report.get(FINAL):
            decision = self.scheduler.on_trial_result(None, trial, dict(report))
        if decision != "CONTINUE":
            self._running.discard(trial_id)
            self.scheduler.on_trial_complete(None, trial, dict(report))
        return decision


def reports_of(trial_rungs: Sequence[int], scores: Sequence[float], rounds: int) -> list[Any]:
    """Return what a worker reports of a trial that ends after ``rounds`` rounds.

    At each rung and at the end; of one round there is one score.
    """
    at_rungs = dict(zip(trial_rungs, scores, strict=False))
    reports = [{ROUND: rung, SCORE: at_rungs[rung]} for rung in trial_rungs if rung <= rounds]
    at_end = at_rungs.get(rounds, scores[-1])
    return [*reports, {ROUND: rounds, SCORE: at_end, FINAL: True}]


class TestRungs:
    @pytest.mark.parametrize("rounds", ROUNDS)
    def test_rungs_ascend_and_end_before_the_last_round(self, rounds: int) -> None:
        found = rungs(rounds)
        assert all(earlier < later for earlier, later in pairwise(found))
        assert 0 < found[0] <= found[-1] < rounds

    @pytest.mark.parametrize("rounds", [1, 2, 9, 10])
    def test_short_fits_have_none(self, rounds: int) -> None:
        """No trial is stopped before the grace period is over."""
        assert rungs(rounds) == ()

    @pytest.mark.parametrize("rounds", ROUNDS)
    def test_rungs_are_the_milestones_of_ray(self, rounds: int) -> None:
        """Trials report at exactly the rounds below the last at which Ray's ASHA judges."""
        milestones = milestones_of(asha(METRICS[0], rounds))
        assert [each for each in milestones if each < rounds] == list(rungs(rounds))


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: str(metric.direction))
class TestDecisionsAreRays:
    @pytest.mark.parametrize("rounds", [11, 80, 161, 1000])
    @no_deadline
    @given(
        reports=st.lists(
            st.tuples(
                st.sampled_from("abcdefgh"),  # the trial
                st.sampled_from(["before", "at", "after"]),
                st.integers(0, 9),  # which milestone
                st.none() | a_score,
                st.sampled_from([False] * 9 + [True]),  # whether it is the trial's last report
            ),
            max_size=60,
        )
    )
    def test_for_any_reports(
        self, metric: Metric, rounds: int, reports: list[tuple[str, str, int, Any, bool]]
    ) -> None:
        """In any order, with and without a score, also of trials that begin again."""
        rays = asha(metric, rounds)
        milestones = milestones_of(rays)
        ours, theirs = Tune(Halving(metric, milestones, {})), Tune(rays)
        for trial_id, where, which, score, is_last in reports:
            milestone = milestones[which % len(milestones)]
            reached = milestone + {"before": -1, "at": 0, "after": 1}[where]
            report: dict[str, Any] = {ROUND: reached, FINAL: is_last}
            if score is not None:
                report[SCORE] = score
            assert ours.report(trial_id, report) == theirs.report(trial_id, report)

    @pytest.mark.parametrize("rounds", [80, 161, 500, 1000])
    @no_deadline
    @given(
        random=st.randoms(use_true_random=False),
        scores=st.lists(trial_scores, min_size=1, max_size=20),
    )
    def test_for_trials_that_run_side_by_side(
        self, metric: Metric, rounds: int, random: Random, scores: list[list[float]]
    ) -> None:
        """Each reports at the rungs that it reaches and at its end, and is stopped or not."""
        trial_rungs = rungs(rounds)
        ours = Tune(Halving(metric, trial_rungs, {}))
        theirs = Tune(asha(metric, rounds))
        left = {
            f"trial-{number}": reports_of(trial_rungs, each, random.randint(1, rounds))
            for number, each in enumerate(scores)
        }
        while left:
            trial_id = random.choice(sorted(left)[:6])  # so many run at once
            report = left[trial_id].pop(0)
            decision = ours.report(trial_id, report)
            assert decision == theirs.report(trial_id, report)
            if decision != "CONTINUE":
                del left[trial_id]

    @pytest.mark.parametrize("rounds", [80, 161, 1000])
    @no_deadline
    @given(
        random=st.randoms(use_true_random=False),
        earlier=st.lists(trial_scores, max_size=12),
        later=st.lists(trial_scores, max_size=12),
    )
    def test_after_earlier_trials(
        self,
        metric: Metric,
        rounds: int,
        random: Random,
        earlier: list[list[float]],
        later: list[list[float]],
    ) -> None:
        """A scheduler that is given the earlier scores decides as the one that saw the trials."""
        trial_rungs = rungs(rounds)
        theirs = Tune(asha(metric, rounds))
        before: dict[str, dict[int, float]] = {}
        for number, scores in enumerate(earlier, 1):
            before[f"{number:04d}"] = {}
            for report in reports_of(trial_rungs, scores, random.randint(1, rounds)):
                decision = theirs.report(f"earlier-{number}", report)
                if report[ROUND] in trial_rungs:
                    before[f"{number:04d}"][report[ROUND]] = report[SCORE]
                if decision != "CONTINUE":
                    break
        shuffled = random.sample(sorted(before), len(before))
        ours = Tune(Halving(metric, trial_rungs, {each: before[each] for each in shuffled}))
        for number, scores in enumerate(later):
            for report in reports_of(trial_rungs, scores, random.randint(1, rounds)):
                decision = ours.report(f"later-{number}", report)
                assert decision == theirs.report(f"later-{number}", report)
                if decision != "CONTINUE":
                    break


class TestHalving:
    """The best half of the trials at a rung goes on; in numbers."""

    @pytest.mark.parametrize(
        ("metric", "decisions"),
        [
            (METRICS[0], ["CONTINUE", "STOP", "CONTINUE", "STOP", "CONTINUE"]),
            (METRICS[1], ["CONTINUE", "CONTINUE", "STOP", "CONTINUE", "STOP"]),
        ],
        ids=lambda value: str(value.direction) if isinstance(value, Metric) else "",
    )
    def test_trial_worse_than_the_median_is_stopped(
        self, metric: Metric, decisions: list[str]
    ) -> None:
        """The first trial at a rung has no others to be judged by."""
        tune = Tune(Halving(metric, (10,), {}))
        scores = {"a": 5.0, "b": 6.0, "c": 4.0, "d": 5.5, "e": 4.5}
        found = [tune.report(name, {ROUND: 10, SCORE: score}) for name, score in scores.items()]
        assert found == decisions

    def test_earlier_trials_are_on_the_rungs(self) -> None:
        """Scores of earlier trials count as if their trials had been seen."""
        before = {"0001": {10: 9.0, 20: 8.0}, "0002": {10: 7.0}, "0003": {10: 8.5, 20: 6.0}}
        halving = Halving(METRICS[0], (10, 20), before)
        rewards = {rung: sorted(of_trials.values()) for rung, of_trials in halving._rungs.items()}
        assert rewards == {10: [-9.0, -8.5, -7.0], 20: [-8.0, -6.0]}

    def test_earlier_trial_of_the_same_id_is_another_trial(self) -> None:
        """Tune's id of a new trial may be ours of an earlier one."""
        halving = Halving(METRICS[0], (10,), {"0001": {10: 5.0}})
        assert Tune(halving).report("0001", {ROUND: 10, SCORE: 6.0}) == "STOP"

    def test_trial_that_ends_by_itself_counts_for_others(self) -> None:
        """Its score is recorded at the last rung that it passed."""
        tune = Tune(Halving(METRICS[0], (10, 20), {}))
        tune.report("a", {ROUND: 13, SCORE: 5.0, FINAL: True})
        assert tune.report("b", {ROUND: 10, SCORE: 6.0}) == "STOP"
        assert tune.report("c", {ROUND: 20, SCORE: 7.0}) == "CONTINUE"

    @pytest.mark.parametrize("is_last", [False, True])
    def test_trial_without_a_score_is_not_judged_and_does_not_count(self, is_last: bool) -> None:
        tune = Tune(Halving(METRICS[0], (10,), {}))
        assert tune.report("a", {ROUND: 10, FINAL: is_last}) == ("ended" if is_last else "CONTINUE")
        assert tune.report("b", {ROUND: 10, SCORE: 6.0}) == "CONTINUE"

    def test_rewards_recorded_are_rays(self) -> None:
        """The two schedulers know the same, and do not only decide the same."""
        ours, theirs = Halving(METRICS[1], rungs(161), {}), asha(METRICS[1], 161)
        for name, scores in {"a": [0.5, 0.6, 0.7], "b": [0.9, 0.8], "c": [0.7, 0.9]}.items():
            for rung, score in zip(rungs(161), scores, strict=False):
                for scheduler in (ours, theirs):
                    Tune(scheduler).report(name, {ROUND: rung, SCORE: score})
        found = {rung: sorted(rewards.values()) for rung, rewards in ours._rungs.items()}
        assert found == recorded_in(theirs)
        assert found[20] == [0.5, 0.7, 0.9]


class TestOrder:
    @dataclass
    class Controller:
        """Has trials with these states."""

        states: Sequence[str]

        def get_live_trials(self) -> list[SimpleNamespace]:
            return [SimpleNamespace(number=n, status=s) for n, s in enumerate(self.states)]

    @pytest.mark.parametrize("scheduler", [InOrder(), Halving(METRICS[0], (10,), {})])
    def test_first_pending_trial_runs_next(self, scheduler: InOrder) -> None:
        chosen = scheduler.choose_trial_to_run(self.Controller(["RUNNING", "PENDING", "PENDING"]))
        assert chosen.number == 1

    @pytest.mark.parametrize("scheduler", [InOrder(), Halving(METRICS[0], (10,), {})])
    def test_none_runs_if_none_is_pending(self, scheduler: InOrder) -> None:
        assert scheduler.choose_trial_to_run(self.Controller(["RUNNING"])) is None
        assert scheduler.choose_trial_to_run(self.Controller([])) is None
