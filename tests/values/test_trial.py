"""Which trial of a search is the best."""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.values.metric import Metric
from search.values.trial import Outcome, Proposal, ScoredOutcome, best, trial_id

no_deadline = settings(deadline=None, database=None)  # the machine may be busy
MINIMIZED = Metric("rmse", "minimize")
MAXIMIZED = Metric("roc-auc", "maximize")
METRICS = [MINIMIZED, MAXIMIZED]
any_scores = st.lists(
    # NaN and both infinities among them
    st.none() | st.floats() | st.sampled_from([1.0, 2.0, 3.0, math.nan, math.inf]),
    max_size=20,
)


def outcome(number: int, score: float | None) -> Outcome:
    return Outcome(
        trial_id=trial_id(number),
        params={"x": number},
        status="failed" if score is None else "finished",
        score=score,
        best_iteration=None if score is None else 0,
        failure="" if score is not None else "ValueError",
    )


def outcomes(scores: list[float | None]) -> list[Outcome]:
    return [outcome(number, score) for number, score in enumerate(scores, 1)]


def scored(outcome: Outcome) -> ScoredOutcome:
    """Return the outcome as one that has a score."""
    assert outcome.score is not None
    return ScoredOutcome(**vars(outcome))


@no_deadline
@given(st.sampled_from(METRICS), any_scores)
def test_no_trial_has_a_better_score_than_the_best(
    metric: Metric, scores: list[float | None]
) -> None:
    found = best(outcomes(scores), metric)
    numbers = [score for score in scores if score is not None and math.isfinite(score)]
    assert (found is None) == (not numbers)
    if found is not None:
        assert found.score == (min if metric is MINIMIZED else max)(numbers)


@no_deadline
@given(st.sampled_from(METRICS), any_scores, st.randoms(use_true_random=False))
def test_first_of_equal_trials_is_the_best(
    metric: Metric, scores: list[float | None], random: Random
) -> None:
    """The order in which trials ended does not matter."""
    in_order = outcomes(scores)
    shuffled = list(in_order)
    random.shuffle(shuffled)
    found = best(shuffled, metric)
    assert found == best(in_order, metric)
    if found is not None:
        first = next(each for each in in_order if each.score == found.score)
        assert found == scored(first)


@pytest.mark.parametrize(("metric", "number"), [(MINIMIZED, 2), (MAXIMIZED, 3)])
def test_direction_decides(metric: Metric, number: int) -> None:
    trials = outcomes([5.0, 1.0, 9.0, None, 1.0, 9.0])
    assert best(trials, metric) == scored(trials[number - 1])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_score_that_is_no_finite_number_never_wins(metric: Metric, score: float) -> None:
    """Wherever it stands."""
    for scores in ([score, 1.0], [1.0, score]):
        found = best(outcomes([*scores]), metric)
        assert found is not None
        assert found.score == 1.0
    assert best(outcomes([score]), metric) is None


@pytest.mark.parametrize("metric", METRICS)
def test_score_of_zero_is_a_score(metric: Metric) -> None:
    trials = outcomes([None, 0.0])
    assert best(trials, metric) == scored(trials[1])


@pytest.mark.parametrize("metric", METRICS)
def test_there_is_none_without_a_score(metric: Metric) -> None:
    assert best([], metric) is None
    assert best(outcomes([None, None]), metric) is None


def test_trial_ids_count_from_one() -> None:
    assert [trial_id(number) for number in (1, 42, 9999)] == ["0001", "0042", "9999"]


def test_proposal_is_the_config_that_tune_carries() -> None:
    config = Proposal("0007", {"x": 1.5}).config()
    assert config == {"trial_id": "0007", "params": {"x": 1.5}}
    assert Proposal(**config) == Proposal("0007", {"x": 1.5})
