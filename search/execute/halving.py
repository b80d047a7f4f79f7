"""Stopping weak trials early: asynchronous successive halving (ASHA), on Tune's public interface.

Li et al. 2018, arXiv:1810.05934. The decisions are those of Ray's ``ASHAScheduler``. This one can
also be told of earlier trials, which a resumed search needs and Ray's has no public way for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ray.tune.schedulers import FIFOScheduler

from search.values.metric import Metric, is_among_best
from search.values.report import ROUND, SCORE

# Of the trials that reach a rung the best 1 in REDUCTION go on (docs/decisions/0007-halving.md).
REDUCTION = 2
GRACE_SHARE = 8  # the first rung is at this fraction of the rounds ...
LEAST_GRACE = 10  # ... but not before this round


def rungs(rounds: int) -> tuple[int, ...]:
    """Return the rounds at which trials are judged, ascending, the last round not among them."""
    grace = max(LEAST_GRACE, rounds // GRACE_SHARE)
    found = []
    while grace < rounds:
        found.append(grace)
        grace *= REDUCTION
    return tuple(found)


class InOrder(FIFOScheduler):  # type: ignore[misc]
    """Runs every trial to its end, in the order in which they came."""

    def choose_trial_to_run(self, controller: Any) -> Any:
        """Return the next pending trial, looked for among the living and not among all."""
        return next((t for t in controller.get_live_trials() if t.status == "PENDING"), None)


class Halving(InOrder):
    """Stops a trial whose score at a rung is not among the best of those that reached it."""

    def __init__(
        self,
        metric: Metric,
        milestones: Sequence[int],
        before: Mapping[str, Mapping[int, float]],
    ) -> None:
        """``before``: scores of earlier trials, by trial and round."""
        super().__init__()
        self._reward = metric.reward
        self._rungs: dict[int, dict[str, float]] = {m: {} for m in sorted(milestones, reverse=True)}
        for trial_id, scores in before.items():
            for milestone in sorted(scores):
                self._goes_on(f"before-{trial_id}", milestone, scores[milestone])

    def on_trial_result(self, controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Judge a trial that reports at a rung."""
        if SCORE in result and not self._goes_on(trial.trial_id, result[ROUND], result[SCORE]):
            return str(FIFOScheduler.STOP)
        return str(FIFOScheduler.CONTINUE)

    def on_trial_complete(self, controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Record the score of a trial that ended by itself; others are judged by it."""
        if SCORE in result:
            self._goes_on(trial.trial_id, result[ROUND], result[SCORE])

    def _goes_on(self, trial_id: str, rounds: int, score: float) -> bool:
        """Judge a score at the highest rung that was reached, and record it: once a trial and rung.

        The best of the rewards recorded so far go on.
        """
        for milestone, rewards in self._rungs.items():  # the highest first
            if rounds < milestone:
                continue
            if trial_id in rewards:
                return True
            recorded, reward = list(rewards.values()), self._reward(score)
            rewards[trial_id] = reward
            return is_among_best(reward, recorded, 1 / REDUCTION)
        return True
