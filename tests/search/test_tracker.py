"""From Tune's events to notes: each trial once, whole, and with its true outcome."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from search.notes import Ended, Note, Outcome, Progressed, Started
from search.tracker import TrialTracker

PARAMS = {"max_depth": 7, "learning_rate": 0.125}


@dataclass(frozen=True)
class Trial:
    """As much of Tune's trial as is looked at."""

    config: dict[str, Any]
    num_failures: int = 0


def trial(number: int = 1, failures: int = 0) -> Trial:
    return Trial({"trial_id": f"{number:04d}", "params": PARAMS}, failures)


def report(start: int, *curve: float, **more: Any) -> dict[str, Any]:
    """Return what a worker reports after a piece of its curve."""
    score = {"rmse": min(curve), "best_iteration": start + len(curve) - 1} if curve else {}
    news = {"curve": list(curve), "curve_start": start, "round": start + len(curve)}
    return {**news, **score, "fit_seconds": 1.5, **more}


def pieces_of(notes: list[Note]) -> list[tuple[int, tuple[float, ...]]]:
    """Return the pieces of the curve that were noted, each with its first round."""
    told = [note for note in notes if not isinstance(note, Started)]
    return [(note.start, note.curve) for note in told if note.curve]


class TestNotes:
    @pytest.fixture
    def notes(self) -> list[Note]:
        return []

    @pytest.fixture
    def tracked(self, notes: list[Note]) -> TrialTracker:
        return TrialTracker(notes.append, has_rounds=True)

    def test_finished(self, tracked: TrialTracker, notes: list[Note]) -> None:
        """A trial that reached its end is noted as start, pieces and outcome."""
        tracked.log_trial_start(trial())
        tracked.log_trial_result(1, trial(), report(0, 9.0, 8.0))
        tracked.on_step_end(1, [])
        tracked.log_trial_result(2, trial(), report(2, 7.0, final=True))
        tracked.on_step_end(2, [])
        tracked.log_trial_end(trial())
        started, first, ended = notes
        assert isinstance(started, Started)
        assert (started.trial_id, started.params) == ("0001", PARAMS)
        assert isinstance(first, Progressed)
        assert isinstance(ended, Ended)
        assert [(n.start, n.curve) for n in (first, ended)] == [(0, (9.0, 8.0)), (2, (7.0,))]
        assert (ended.status, ended.failure) == ("finished", "")
        assert ended.metrics == {"rmse": 7.0, "best_iteration": 2.0, "fit_seconds": 1.5}

    def test_stopped(self, tracked: TrialTracker) -> None:
        """What the scheduler ended at a rung is stopped, and keeps its score."""
        tracked.log_trial_start(trial())
        tracked.log_trial_result(1, trial(), report(0, 9.0, 8.0))
        tracked.log_trial_end(trial())
        (outcome,) = tracked.outcomes
        assert (outcome.status, outcome.rmse, outcome.best_iteration) == ("stopped", 8.0, 1)

    def test_failed(self, tracked: TrialTracker, notes: list[Note]) -> None:
        """What the trial reported as its failure is noted, with the traceback and no score."""
        tracked.log_trial_start(trial())
        tracked.log_trial_result(1, trial(), report(0, failure="E: x", traceback="T", final=True))
        tracked.log_trial_end(trial())
        ended = notes[-1]
        assert isinstance(ended, Ended)
        assert (ended.status, ended.failure, ended.traceback) == ("failed", "E: x", "T")
        assert (tracked.outcomes[0].rmse, tracked.outcomes[0].failure) == (None, "E: x")

    def test_end_without_a_report(self, tracked: TrialTracker) -> None:
        """A trial that ends and never said anything failed."""
        tracked.log_trial_start(trial())
        tracked.log_trial_end(trial())
        assert tracked.outcomes[0].status == "failed"
        assert tracked.outcomes[0].failure == "it ended without a score"

    def test_dead_worker(self, tracked: TrialTracker) -> None:
        """A trial whose worker died once too often failed, whatever it had reported before."""
        tracked.log_trial_start(trial())
        tracked.log_trial_result(1, trial(), report(0, 9.0))
        tracked.log_trial_end(trial(failures=3), failed=True)
        (outcome,) = tracked.outcomes
        assert (outcome.status, outcome.rmse) == ("failed", None)
        assert outcome.failure == "the worker process died 3 times"

    def test_worker_that_never_began(self, tracked: TrialTracker, notes: list[Note]) -> None:
        """It has its run, too: it was drawn, and the searcher hears of it."""
        tracked.log_trial_end(trial(failures=3), failed=True)
        assert [type(note) for note in notes] == [Started, Ended]
        (outcome,) = tracked.outcomes
        assert outcome.status == "failed"
        assert "before it could begin" in outcome.failure

    def test_retried(self, tracked: TrialTracker, notes: list[Note]) -> None:
        """A trial that Tune starts again is one trial; each round of its curve is noted once."""
        tracked.log_trial_start(trial())
        tracked.log_trial_result(1, trial(), report(0, 9.0, 8.0))
        tracked.on_step_end(1, [])
        tracked.log_trial_start(trial(failures=1))
        tracked.log_trial_result(1, trial(), report(0, 9.0, 8.0))
        tracked.log_trial_result(2, trial(), report(2, 7.0, 6.0, final=True))
        tracked.log_trial_end(trial())
        pieces = pieces_of(notes)
        assert pieces == [(0, (9.0, 8.0)), (2, (7.0, 6.0))]
        assert sum(isinstance(note, Started) for note in notes) == 1

    def test_piece_that_is_partly_known(self, tracked: TrialTracker, notes: list[Note]) -> None:
        """Of a longer piece only the new rounds are noted."""
        tracked.log_trial_start(trial())
        tracked.log_trial_result(1, trial(), report(0, 9.0, 8.0))
        tracked.on_step_end(1, [])
        tracked.log_trial_start(trial(failures=1))
        tracked.log_trial_result(1, trial(), report(0, 9.0, 8.0, 7.0, final=True))
        tracked.log_trial_end(trial())
        pieces = pieces_of(notes)
        assert pieces == [(0, (9.0, 8.0)), (2, (7.0,))]

    def test_interrupted(self, tracked: TrialTracker) -> None:
        """What still ran is interrupted, with a report or without; what had ended stays."""
        for number in (1, 2, 3):
            tracked.log_trial_start(trial(number))
        tracked.log_trial_result(1, trial(1), report(0, 9.0, final=True))
        tracked.log_trial_end(trial(1))
        tracked.log_trial_result(1, trial(2), report(0, 5.0))
        tracked.interrupt()
        found = [(o.trial_id, o.status, o.rmse) for o in tracked.outcomes]
        assert found == [
            ("0001", "finished", 9.0),
            ("0002", "interrupted", None),
            ("0003", "interrupted", None),
        ]
        assert tracked.running == 0

    def test_running_counts_starts_without_end(self, tracked: TrialTracker) -> None:
        """The progress line counts what runs."""
        tracked.log_trial_start(trial(1))
        tracked.log_trial_start(trial(2))
        tracked.log_trial_result(1, trial(1), report(0, 9.0, final=True))
        tracked.log_trial_end(trial(1))
        assert tracked.running == 1

    def test_best_is_the_first_of_the_lowest(self, tracked: TrialTracker) -> None:
        """Finished and stopped trials compete; of equals the first wins."""
        for number, score in ((1, 8.0), (2, 7.0), (3, 7.0)):
            tracked.log_trial_start(trial(number))
            tracked.log_trial_result(1, trial(number), report(0, score))
            tracked.log_trial_end(trial(number))
        assert tracked.best is not None
        assert tracked.best.trial_id == "0002"

    def test_no_best_of_failures(self, tracked: TrialTracker) -> None:
        """Without a score there is no best."""
        tracked.log_trial_start(trial())
        tracked.log_trial_end(trial(failures=3), failed=True)
        assert tracked.best is None

    def test_model_without_rounds_has_no_best_round(self, notes: list[Note]) -> None:
        """`best_iteration` is a metric only where there are rounds."""
        tracked = TrialTracker(notes.append, has_rounds=False)
        tracked.log_trial_start(trial())
        tracked.log_trial_result(1, trial(), report(0, 9.0, final=True))
        tracked.log_trial_end(trial())
        ended = notes[-1]
        assert isinstance(ended, Ended)
        assert ended.metrics == {"rmse": 9.0, "fit_seconds": 1.5}

    def test_rungs_are_noted_with_the_outcome(self, notes: list[Note]) -> None:
        """The lowest score at each rung is kept, for a scheduler that hears of it later."""
        tracked = TrialTracker(notes.append, has_rounds=True, rungs=(2, 3))
        tracked.log_trial_start(trial())
        tracked.log_trial_result(1, trial(), report(0, 9.0, 8.0))
        tracked.log_trial_result(2, trial(), report(2, 8.5))
        tracked.log_trial_end(trial())
        assert isinstance(notes[-1], Ended)
        assert notes[-1].rungs == {"2": 8.0, "3": 8.5}

    def test_interrupted_trial_has_no_figures(
        self, tracked: TrialTracker, notes: list[Note]
    ) -> None:
        """It runs again, and has its score then, once."""
        tracked.log_trial_start(trial())
        tracked.log_trial_result(1, trial(), report(0, 9.0))
        tracked.interrupt()
        assert isinstance(notes[-1], Ended)
        assert notes[-1].metrics == {}


class TestGoingOn:
    def test_rounds_that_a_run_has_are_not_noted_again(self) -> None:
        """A trial that ran before, in an earlier start, adds only what is new of its curve."""
        notes: list[Note] = []
        tracked = TrialTracker(notes.append, has_rounds=True, rounds={"0001": 2})
        tracked.log_trial_start(trial())
        tracked.log_trial_result(1, trial(), report(0, 9.0, 8.0, 7.0, final=True))
        tracked.log_trial_end(trial())
        pieces = pieces_of(notes)
        assert pieces == [(2, (7.0,))]

    def test_what_ended_before_counts(self) -> None:
        """Earlier trials compete, and are told apart from those of this start."""
        before = [Outcome("0001", PARAMS, "finished", 5.0, 3, "")]
        tracked = TrialTracker(lambda _: None, has_rounds=True, before=before)
        tracked.log_trial_start(trial(2))
        tracked.log_trial_result(1, trial(2), report(0, 9.0, final=True))
        tracked.log_trial_end(trial(2))
        assert tracked.best == before[0]
        assert [outcome.trial_id for outcome in tracked.outcomes] == ["0001", "0002"]
        assert [outcome.trial_id for outcome in tracked.fresh] == ["0002"]
