"""Which of two scores is better, for metrics of both directions."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from search.values.metric import Metric

no_deadline = settings(deadline=None, database=None)  # the machine may be busy
MINIMIZED = Metric("rmse", "minimize")
MAXIMIZED = Metric("roc-auc", "maximize")

any_metric = st.sampled_from([MINIMIZED, MAXIMIZED])
any_score = st.floats()  # NaN and both infinities among them
number = st.floats(allow_nan=False)
finite = st.floats(allow_nan=False, allow_infinity=False)
# a few values, so that equal scores occur often
few = st.sampled_from([0.0, -0.0, 1.0, 2.0, -1.0, math.inf, -math.inf, math.nan])
any_scores = st.lists(any_score | few, max_size=20)


class TestBetter:
    @no_deadline
    @given(number, number)
    def test_lower_score_is_better_if_minimized(self, score: float, than: float) -> None:
        assert MINIMIZED.better(score, than) == (score < than)

    @no_deadline
    @given(number, number)
    def test_higher_score_is_better_if_maximized(self, score: float, than: float) -> None:
        assert MAXIMIZED.better(score, than) == (score > than)

    @no_deadline
    @given(any_metric, any_score)
    @example(MINIMIZED, math.nan)
    @example(MAXIMIZED, math.inf)
    def test_no_score_is_better_than_itself(self, metric: Metric, score: float) -> None:
        assert not metric.better(score, score)

    @no_deadline
    @given(any_metric, any_score, any_score)
    @example(MINIMIZED, math.nan, 1.0)
    @example(MAXIMIZED, math.nan, -math.inf)
    def test_of_two_scores_at_most_one_is_better(
        self, metric: Metric, one: float, other: float
    ) -> None:
        assert not (metric.better(one, other) and metric.better(other, one))

    @no_deadline
    @given(any_metric, any_score, any_score, any_score)
    def test_better_is_transitive(self, metric: Metric, a: float, b: float, c: float) -> None:
        if metric.better(a, b) and metric.better(b, c):
            assert metric.better(a, c)

    @no_deadline
    @given(any_metric, any_score)
    @example(MINIMIZED, math.inf)
    @example(MAXIMIZED, -math.inf)
    def test_nan_is_never_better(self, metric: Metric, than: float) -> None:
        assert not metric.better(math.nan, than)

    @no_deadline
    @given(any_metric, number)
    @example(MINIMIZED, math.inf)
    @example(MAXIMIZED, -math.inf)
    def test_every_number_is_better_than_nan(self, metric: Metric, score: float) -> None:
        """Even the worst possible score is."""
        assert metric.better(score, math.nan)


class TestWorst:
    def test_worst_score_is_the_infinity_of_the_direction(self) -> None:
        assert (MINIMIZED.worst, MAXIMIZED.worst) == (math.inf, -math.inf)

    @no_deadline
    @given(any_metric, number)
    def test_worst_score_is_better_than_no_number(self, metric: Metric, score: float) -> None:
        assert not metric.better(metric.worst, score)

    @no_deadline
    @given(any_metric, finite)
    def test_every_finite_score_is_better_than_the_worst(
        self, metric: Metric, score: float
    ) -> None:
        assert metric.better(score, metric.worst)


class TestBest:
    @no_deadline
    @given(any_metric, any_scores)
    def test_no_score_is_better_than_the_best(self, metric: Metric, scores: list[float]) -> None:
        best = metric.best(scores)
        assert not any(metric.better(score, best) for score in scores)

    @no_deadline
    @given(any_metric, any_scores)
    def test_best_is_one_of_the_scores(self, metric: Metric, scores: list[float]) -> None:
        assume(any(not math.isnan(score) for score in scores))
        assert metric.best(scores) in scores

    @no_deadline
    @given(any_metric, st.lists(st.just(math.nan), max_size=3))
    def test_best_without_a_number_is_the_worst_score(
        self, metric: Metric, scores: list[float]
    ) -> None:
        assert metric.best(scores) == metric.worst

    @no_deadline
    @given(any_metric, any_scores)
    def test_nan_does_not_change_the_best(self, metric: Metric, scores: list[float]) -> None:
        numbers = [score for score in scores if not math.isnan(score)]
        assert metric.best(scores) == metric.best(numbers)

    def test_infinities_are_scores(self) -> None:
        scores = [math.inf, 3.0, -math.inf, math.nan]
        assert (MINIMIZED.best(scores), MAXIMIZED.best(scores)) == (-math.inf, math.inf)

    def test_scores_may_come_from_a_generator(self) -> None:
        assert MAXIMIZED.best(score for score in (1.0, 3.0, 2.0)) == 3.0


class TestBestIndex:
    @no_deadline
    @given(any_metric, any_scores)
    def test_index_is_of_the_first_best_finite_score(
        self, metric: Metric, scores: list[float]
    ) -> None:
        assume(any(map(math.isfinite, scores)))
        best = metric.best(filter(math.isfinite, scores))
        assert metric.best_index(scores) == scores.index(best)

    @no_deadline
    @given(any_metric, st.lists(st.sampled_from([math.nan, math.inf, -math.inf]), max_size=4))
    def test_there_is_none_without_a_finite_score(
        self, metric: Metric, scores: list[float]
    ) -> None:
        """An infinite score is no result, not even if it is in the better direction."""
        assert metric.best_index(scores) is None

    @pytest.mark.parametrize(("metric", "index"), [(MINIMIZED, 3), (MAXIMIZED, 1)])
    def test_infinite_scores_and_nan_are_skipped(self, metric: Metric, index: int) -> None:
        assert metric.best_index([math.nan, 7.0, math.inf, 3.0, -math.inf, 3.0, 7.0]) == index


class TestLoss:
    @no_deadline
    @given(number, number)
    def test_lower_loss_is_the_better_score(self, score: float, than: float) -> None:
        for metric in (MINIMIZED, MAXIMIZED):
            assert metric.better(score, than) == (metric.loss(score) < metric.loss(than))

    @no_deadline
    @given(any_metric, number)
    def test_loss_is_its_own_inverse(self, metric: Metric, score: float) -> None:
        restored = metric.loss(metric.loss(score))
        assert restored == score
        assert math.copysign(1.0, restored) == math.copysign(1.0, score)

    @no_deadline
    @given(any_metric)
    def test_loss_of_nan_is_nan(self, metric: Metric) -> None:
        assert math.isnan(metric.loss(math.nan))

    @no_deadline
    @given(any_metric)
    def test_worst_score_has_the_highest_loss(self, metric: Metric) -> None:
        assert metric.loss(metric.worst) == math.inf


class TestMirror:
    """A maximized metric treats scores as a minimized one treats the negated scores."""

    @no_deadline
    @given(any_score, any_score)
    def test_better(self, score: float, than: float) -> None:
        assert MAXIMIZED.better(score, than) == MINIMIZED.better(-score, -than)

    @no_deadline
    @given(any_scores)
    def test_best(self, scores: list[float]) -> None:
        assert MAXIMIZED.best(scores) == -MINIMIZED.best([-score for score in scores])

    @no_deadline
    @given(any_scores)
    def test_best_index(self, scores: list[float]) -> None:
        negated = [-score for score in scores]
        assert MAXIMIZED.best_index(scores) == MINIMIZED.best_index(negated)


def test_learning_curve_has_its_own_key() -> None:
    assert MAXIMIZED.curve == "validation-roc-auc"


@pytest.mark.parametrize(
    ("metric", "text"),
    [
        (Metric("rmse", "minimize", label="RMSE"), "RMSE 6.2957"),
        (Metric("roc-auc", "maximize"), "roc-auc 6.2957"),
    ],
)
def test_score_is_shown_with_its_label_or_name(metric: Metric, text: str) -> None:
    assert metric.shown(6.29567) == text
