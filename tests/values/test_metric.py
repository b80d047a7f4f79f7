"""Which of two scores is better, for metrics of both directions."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from search.values.metric import Metric, is_among_best, worst_loss

no_deadline = settings(deadline=None, database=None)  # the machine may be busy
MINIMIZED = Metric("rmse", "minimize")
MAXIMIZED = Metric("roc-auc", "maximize")

any_metric = st.sampled_from([MINIMIZED, MAXIMIZED])
any_score = st.floats()  # NaN and both infinities among them
number = st.floats(allow_nan=False)
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


class TestBeats:
    @no_deadline
    @given(any_metric, any_score, number)
    def test_better_score_beats_a_champion(
        self, metric: Metric, score: float, champion: float
    ) -> None:
        assert metric.beats(score, champion) == metric.better(score, champion)

    @no_deadline
    @given(any_metric, any_score)
    def test_champion_without_a_number_stays(self, metric: Metric, score: float) -> None:
        """It was made for other rows."""
        assert not metric.beats(score, math.nan)


class TestSame:
    @no_deadline
    @given(any_metric, number)
    def test_score_is_the_same_as_itself(self, metric: Metric, score: float) -> None:
        """Whatever its size."""
        assert metric.same(score, score)

    @no_deadline
    @given(any_metric, any_score, any_score)
    def test_order_does_not_matter(self, metric: Metric, one: float, other: float) -> None:
        assert metric.same(one, other) == metric.same(other, one)

    @no_deadline
    @given(any_metric, any_score)
    def test_nan_is_not_the_same_as_anything(self, metric: Metric, score: float) -> None:
        assert not metric.same(score, math.nan)

    @pytest.mark.parametrize(
        ("one", "other", "is_same"),
        [
            (6.3000, 6.30009, True),
            (6.3000, 6.30011, False),
            (0.0, 0.00009, True),
            (1_000_000.0, 1_000_009.0, True),  # the last digits of a sum depend on its order
            (1_000_000.0, 1_000_011.0, False),
            (-1_000_000.0, -1_000_009.0, True),
            (5.0, -5.0, False),
        ],
    )
    def test_tolerance_fits_any_magnitude(self, one: float, other: float, *, is_same: bool) -> None:
        """1e-4, or 1e-5 of the score, whichever is larger."""
        assert MINIMIZED.same(one, other) is is_same


class TestBestIndex:
    @no_deadline
    @given(any_metric, any_scores)
    def test_index_is_of_the_first_best_finite_score(
        self, metric: Metric, scores: list[float]
    ) -> None:
        assume(any(map(math.isfinite, scores)))
        best = (min if metric is MINIMIZED else max)(filter(math.isfinite, scores))
        assert metric.best_index(scores) == scores.index(best)

    @no_deadline
    @given(any_metric, any_scores)
    def test_no_finite_score_is_better_than_the_best(
        self, metric: Metric, scores: list[float]
    ) -> None:
        best = metric.best_index(scores)
        assume(best is not None)
        assert best is not None
        assert not any(metric.better(s, scores[best]) for s in filter(math.isfinite, scores))

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
    @given(any_metric, number)
    def test_reward_is_the_negated_loss(self, metric: Metric, score: float) -> None:
        assert metric.reward(score) == -metric.loss(score)

    @pytest.mark.parametrize(
        ("losses", "worst"),
        [
            ([], None),
            ([math.nan, math.inf, -math.inf], None),
            ([2.0, math.nan, 7.0, math.inf, -1.0], 7.0),
        ],
    )
    def test_worst_loss_is_the_greatest_finite_one(
        self, losses: list[float], worst: float | None
    ) -> None:
        assert worst_loss(losses) == worst


class TestAmongBest:
    @pytest.mark.parametrize(
        ("reward", "rewards", "is_among"),
        [
            (3.0, [1.0, 2.0, 3.0, 4.0], True),
            (2.5, [1.0, 2.0, 3.0, 4.0], True),
            (2.4, [1.0, 2.0, 3.0, 4.0], False),
            (0.0, [], True),
            (1.0, [math.nan, 2.0], False),
            (math.nan, [2.0], True),
        ],
    )
    def test_best_half_is_at_or_above_the_median(
        self, reward: float, rewards: list[float], *, is_among: bool
    ) -> None:
        """A NaN counts neither for nor against a trial: a scheduler must not stop it."""
        assert is_among_best(reward, rewards, 1 / 2) == is_among


class TestMirror:
    """A maximized metric treats scores as a minimized one treats the negated scores."""

    @no_deadline
    @given(any_score, any_score)
    def test_better(self, score: float, than: float) -> None:
        assert MAXIMIZED.better(score, than) == MINIMIZED.better(-score, -than)

    @no_deadline
    @given(any_scores)
    def test_best_index(self, scores: list[float]) -> None:
        negated = [-score for score in scores]
        assert MAXIMIZED.best_index(scores) == MINIMIZED.best_index(negated)


@pytest.mark.parametrize(("metric", "mode"), [(MINIMIZED, "min"), (MAXIMIZED, "max")])
def test_mode_is_the_direction_in_tunes_words(metric: Metric, mode: str) -> None:
    assert metric.mode == mode


def test_learning_curve_has_its_own_key() -> None:
    assert MAXIMIZED.curve == "validation-roc-auc"


def test_score_on_the_test_data_has_its_own_key() -> None:
    assert MAXIMIZED.test == "test-roc-auc"


@pytest.mark.parametrize(
    ("metric", "text"),
    [
        (Metric("rmse", "minimize", label="RMSE"), "RMSE 6.2957"),
        (Metric("roc-auc", "maximize"), "roc-auc 6.2957"),
    ],
)
def test_score_is_shown_with_its_label_or_name(metric: Metric, text: str) -> None:
    assert metric.shown(6.29567) == text
