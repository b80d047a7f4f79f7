"""Tune's callbacks become events: each trial once, complete, and with its true outcome."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from search.record.tracker import TrialTracker
from search.values.events import Ended, Event, Progressed, Started
from search.values.metric import Metric
from search.values.trial import Outcome

PARAMS = {"max_depth": 7, "learning_rate": 0.125}
RMSE = Metric("rmse", "minimize", label="RMSE")
AUC = Metric("auc", "maximize")


@dataclass(frozen=True)
class FakeTrial:
    """The part of Tune's trial that the tracker reads."""

    config: dict[str, Any]
    num_failures: int = 0


def trial(number: int = 1, failures: int = 0) -> FakeTrial:
    return FakeTrial({"trial_id": f"{number:04d}", "params": PARAMS}, failures)


def report(start: int, *curve: float, **more: Any) -> dict[str, Any]:
    """Return what a worker reports after a piece of its curve, whose last score is the best."""
    score = {"score": curve[-1], "best_iteration": start + len(curve) - 1} if curve else {}
    news = {"curve": list(curve), "curve_start": start, "round": start + len(curve)}
    return {**news, **score, "fit_seconds": 1.5, **more}


def pieces_of(events: list[Event]) -> list[tuple[int, tuple[float, ...]]]:
    """Return the pieces of the curve that are in events, each with its first round."""
    with_curve = [event for event in events if not isinstance(event, Started)]
    return [(event.start, event.curve) for event in with_curve if event.curve]


def run_trials(tracker: TrialTracker, *scores: float) -> None:
    """Let trials run one after another, each to its score."""
    for number, score in enumerate(scores, 1):
        tracker.log_trial_start(trial(number))
        tracker.log_trial_result(1, trial(number), report(0, score))
        tracker.log_trial_end(trial(number))


class TestEvents:
    @pytest.fixture
    def events(self) -> list[Event]:
        return []

    @pytest.fixture
    def tracker(self, events: list[Event]) -> TrialTracker:
        return TrialTracker(events.append, RMSE, has_rounds=True)

    def test_finished_trial(self, tracker: TrialTracker, events: list[Event]) -> None:
        """A trial that reached its end has a start, pieces of the curve and an outcome."""
        tracker.log_trial_start(trial())
        tracker.log_trial_result(1, trial(), report(0, 9.0, 8.0))
        tracker.on_step_end(1, [])
        tracker.log_trial_result(2, trial(), report(2, 7.0, final=True))
        tracker.on_step_end(2, [])
        tracker.log_trial_end(trial())
        started, first, ended = events
        assert isinstance(started, Started)
        assert (started.trial_id, started.params) == ("0001", PARAMS)
        assert isinstance(first, Progressed)
        assert isinstance(ended, Ended)
        assert [(e.start, e.curve) for e in (first, ended)] == [(0, (9.0, 8.0)), (2, (7.0,))]
        assert (ended.status, ended.failure) == ("finished", "")
        assert ended.metrics == {"rmse": 7.0, "best_iteration": 2.0, "fit_seconds": 1.5}

    def test_stopped_trial(self, tracker: TrialTracker) -> None:
        """A trial that the scheduler ended at a rung is stopped, and keeps its score."""
        tracker.log_trial_start(trial())
        tracker.log_trial_result(1, trial(), report(0, 9.0, 8.0))
        tracker.log_trial_end(trial())
        (outcome,) = tracker.outcomes
        assert (outcome.status, outcome.score, outcome.best_iteration) == ("stopped", 8.0, 1)

    def test_failed_trial(self, tracker: TrialTracker, events: list[Event]) -> None:
        """A failure that the worker reported has its traceback, and no score."""
        tracker.log_trial_start(trial())
        tracker.log_trial_result(1, trial(), report(0, failure="E: x", traceback="T", final=True))
        tracker.log_trial_end(trial())
        ended = events[-1]
        assert isinstance(ended, Ended)
        assert (ended.status, ended.failure, ended.traceback) == ("failed", "E: x", "T")
        assert (tracker.outcomes[0].score, tracker.outcomes[0].failure) == (None, "E: x")

    def test_trial_without_a_report_has_failed(self, tracker: TrialTracker) -> None:
        """A trial that ended and never reported has no score."""
        tracker.log_trial_start(trial())
        tracker.log_trial_end(trial())
        assert tracker.outcomes[0].status == "failed"
        assert tracker.outcomes[0].failure == "it ended without a score"

    def test_trial_whose_worker_died_has_failed(self, tracker: TrialTracker) -> None:
        """If the worker died too often, earlier reports do not count."""
        tracker.log_trial_start(trial())
        tracker.log_trial_result(1, trial(), report(0, 9.0))
        tracker.log_trial_end(trial(failures=3), failed=True)
        (outcome,) = tracker.outcomes
        assert (outcome.status, outcome.score) == ("failed", None)
        assert outcome.failure == "the worker process died 3 times"

    def test_trial_that_never_began_has_failed(
        self, tracker: TrialTracker, events: list[Event]
    ) -> None:
        """It has a run too: its point was proposed, and the searcher is told of the failure."""
        tracker.log_trial_end(trial(failures=3), failed=True)
        assert [type(event) for event in events] == [Started, Ended]
        (outcome,) = tracker.outcomes
        assert outcome.status == "failed"
        assert "before it could begin" in outcome.failure

    def test_retried_trial_is_one_trial(self, tracker: TrialTracker, events: list[Event]) -> None:
        """A trial that Tune starts again has one start, and each round of its curve once."""
        tracker.log_trial_start(trial())
        tracker.log_trial_result(1, trial(), report(0, 9.0, 8.0))
        tracker.on_step_end(1, [])
        tracker.log_trial_start(trial(failures=1))
        tracker.log_trial_result(1, trial(), report(0, 9.0, 8.0))
        tracker.log_trial_result(2, trial(), report(2, 7.0, 6.0, final=True))
        tracker.log_trial_end(trial())
        assert pieces_of(events) == [(0, (9.0, 8.0)), (2, (7.0, 6.0))]
        assert sum(isinstance(event, Started) for event in events) == 1

    def test_known_rounds_of_a_piece_are_left_out(
        self, tracker: TrialTracker, events: list[Event]
    ) -> None:
        """If a piece begins with known rounds, only the new ones become an event."""
        tracker.log_trial_start(trial())
        tracker.log_trial_result(1, trial(), report(0, 9.0, 8.0))
        tracker.on_step_end(1, [])
        tracker.log_trial_start(trial(failures=1))
        tracker.log_trial_result(1, trial(), report(0, 9.0, 8.0, 7.0, final=True))
        tracker.log_trial_end(trial())
        assert pieces_of(events) == [(0, (9.0, 8.0)), (2, (7.0,))]

    def test_interrupted_trials(self, tracker: TrialTracker) -> None:
        """Running trials become interrupted, with and without a report; ended ones stay."""
        for number in (1, 2, 3):
            tracker.log_trial_start(trial(number))
        tracker.log_trial_result(1, trial(1), report(0, 9.0, final=True))
        tracker.log_trial_end(trial(1))
        tracker.log_trial_result(1, trial(2), report(0, 5.0))
        tracker.interrupt()
        assert [(o.trial_id, o.status, o.score) for o in tracker.outcomes] == [
            ("0001", "finished", 9.0),
            ("0002", "interrupted", None),
            ("0003", "interrupted", None),
        ]
        assert tracker.running == 0

    def test_running_counts_trials_that_have_not_ended(self, tracker: TrialTracker) -> None:
        """The progress line shows this number."""
        tracker.log_trial_start(trial(1))
        tracker.log_trial_start(trial(2))
        tracker.log_trial_result(1, trial(1), report(0, 9.0, final=True))
        tracker.log_trial_end(trial(1))
        assert tracker.running == 1

    def test_model_without_rounds_has_no_best_round(self, events: list[Event]) -> None:
        """`best_iteration` is a metric only if there are rounds."""
        tracker = TrialTracker(events.append, RMSE, has_rounds=False)
        tracker.log_trial_start(trial())
        tracker.log_trial_result(1, trial(), report(0, 9.0, final=True))
        tracker.log_trial_end(trial())
        ended = events[-1]
        assert isinstance(ended, Ended)
        assert ended.metrics == {"rmse": 9.0, "fit_seconds": 1.5}

    def test_outcome_has_the_score_at_each_rung(self, events: list[Event]) -> None:
        """A resumed search tells its scheduler the best score by each rung."""
        tracker = TrialTracker(events.append, RMSE, has_rounds=True, rungs=(2, 3))
        tracker.log_trial_start(trial())
        tracker.log_trial_result(1, trial(), report(0, 9.0, 8.0))
        tracker.log_trial_result(2, trial(), report(2, 8.5))
        tracker.log_trial_end(trial())
        assert isinstance(events[-1], Ended)
        assert events[-1].rungs == {"2": 8.0, "3": 8.5}

    def test_interrupted_trial_has_no_metrics(
        self, tracker: TrialTracker, events: list[Event]
    ) -> None:
        """It runs again, and has its score then, once."""
        tracker.log_trial_start(trial())
        tracker.log_trial_result(1, trial(), report(0, 9.0))
        tracker.interrupt()
        assert isinstance(events[-1], Ended)
        assert events[-1].metrics == {}


class TestBest:
    @pytest.mark.parametrize(
        ("metric", "scores"), [(RMSE, (8.0, 7.0, 7.0)), (AUC, (0.7, 0.8, 0.8))]
    )
    def test_best_is_the_first_of_equals(self, metric: Metric, scores: tuple[float, ...]) -> None:
        """The lowest RMSE is the best, and the highest AUC."""
        tracker = TrialTracker(lambda _: None, metric, has_rounds=True)
        run_trials(tracker, *scores)
        assert tracker.best is not None
        assert (tracker.best.trial_id, tracker.best.score) == ("0002", scores[1])

    @pytest.mark.parametrize("metric", [RMSE, AUC])
    def test_failed_trials_have_no_best(self, metric: Metric) -> None:
        """Without a score there is no best trial."""
        tracker = TrialTracker(lambda _: None, metric, has_rounds=True)
        tracker.log_trial_start(trial())
        tracker.log_trial_end(trial(failures=3), failed=True)
        assert tracker.best is None

    def test_score_keeps_its_sign_under_the_name_of_the_metric(self) -> None:
        """A maximised score is written as people read it, never negated."""
        events: list[Event] = []
        tracker = TrialTracker(events.append, AUC, has_rounds=True, rungs=(2,))
        tracker.log_trial_start(trial())
        tracker.log_trial_result(1, trial(), report(0, 0.7, 0.8, final=True))
        tracker.log_trial_end(trial())
        ended = events[-1]
        assert isinstance(ended, Ended)
        assert ended.metrics == {"auc": 0.8, "best_iteration": 1.0, "fit_seconds": 1.5}
        assert (ended.curve, ended.rungs) == ((0.7, 0.8), {"2": 0.8})


class TestResumed:
    def test_rounds_of_an_earlier_start_are_left_out(self) -> None:
        """A trial that runs again adds only the new rounds to its run's curve."""
        events: list[Event] = []
        tracker = TrialTracker(events.append, RMSE, has_rounds=True, rounds={"0001": 2})
        tracker.log_trial_start(trial())
        tracker.log_trial_result(1, trial(), report(0, 9.0, 8.0, 7.0, final=True))
        tracker.log_trial_end(trial())
        assert pieces_of(events) == [(2, (7.0,))]

    @pytest.mark.parametrize(
        ("metric", "earlier", "fresh"), [(RMSE, 5.0, 9.0), (AUC, 0.9, 0.5)], ids=["rmse", "auc"]
    )
    def test_earlier_trials_compete(self, metric: Metric, earlier: float, fresh: float) -> None:
        """The best trial may be an earlier one; `fresh` has those of this start only."""
        before = [Outcome("0001", PARAMS, "finished", earlier, 3, "")]
        tracker = TrialTracker(lambda _: None, metric, has_rounds=True, before=before)
        tracker.log_trial_start(trial(2))
        tracker.log_trial_result(1, trial(2), report(0, fresh, final=True))
        tracker.log_trial_end(trial(2))
        assert tracker.best is not None
        assert vars(tracker.best) == vars(before[0])
        assert [outcome.trial_id for outcome in tracker.outcomes] == ["0001", "0002"]
        assert [outcome.trial_id for outcome in tracker.fresh] == ["0002"]
