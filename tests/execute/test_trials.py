"""With which scheduler Ray Tune runs the trials."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from search.execute.halving import Halving, InOrder, rungs
from search.execute.node_probe import Node
from search.execute.nodes import Nodes
from search.execute.trials import TrialRun
from search.execute.worker import Job, Shared
from search.values.metric import Metric


def trial_run(
    monkeypatch: pytest.MonkeyPatch,
    trial_rungs: tuple[int, ...],
    rungs_before: Mapping[str, Mapping[int, float]],
) -> TrialRun:
    monkeypatch.setattr("search.execute.nodes.alive", lambda: [Node("a", "10.0.0.1", 2)])
    return TrialRun(
        job=Job(lambda *_: [], Metric("rmse", "minimize"), trial_rungs),
        shared=Shared("data", None),
        nodes=Nodes(1, None, grows=False),
        cpus_each=1,
        wanted=5,
        searcher=None,
        rungs_before=rungs_before,
    )


def test_trials_without_rungs_run_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """They have nothing to be judged by."""
    scheduler = trial_run(monkeypatch, (), {})._scheduler()
    assert type(scheduler) is InOrder


def test_trials_with_rungs_are_judged_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """By their own scores, and by those of earlier trials."""
    scheduler = trial_run(monkeypatch, rungs(35), {"0001": {10: 9.0, 20: 8.0}})._scheduler()
    assert isinstance(scheduler, Halving)
    found = {rung: list(rewards.values()) for rung, rewards in scheduler._rungs.items()}
    assert found == {10: [-9.0], 20: [-8.0]}
