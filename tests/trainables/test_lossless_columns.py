"""Fits on codes, on fewer columns or on bundled columns give the model of the whole matrix."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from typing import Any

import numpy as np
import pytest
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from trainables import booster, columns, growth, trees, xgboost_
from trainables.base import Curve, rmse
from trainables.dataset import Dataset, Rows

ROUNDS = 4
XGBOOST = xgboost_.XGBOOST


@dataclass(frozen=True)
class Made:
    """Generated rows: those for the fit, and rows that are not in the fit."""

    data: Dataset
    unseen: Any  # csr [rows, columns]


def made(
    seed: int,
    *,
    rows: int = 600,
    codes: int = 80,
    dense: int = 1,
    ones_first: bool = True,
    dense_present: float = 0.8,
    train_coded: float = 1.0,
) -> Made:
    """Generate rows with a one-hot block of ``codes`` columns and ``dense`` other columns.

    Codes are skewed, as zone pairs are: a few are common, most are rare, some are not in the
    training rows. A tenth of the other rows has no code; of the training rows, the share
    ``train_coded`` has one. Of the dense values some are missing, some are explicit zeros, and some
    are ones.
    """
    random = np.random.default_rng(seed)
    effect = random.normal(0.0, 4.0, codes)

    def part(rows: int, codes_used: int, share_coded: float) -> Rows:
        features = np.full((rows, dense), np.nan)
        present = random.random((rows, dense)) < dense_present
        values = np.round(random.gamma(2.0, 2.0, (rows, dense)), 2)
        values[random.random((rows, dense)) < 0.1] = 0.0
        values[random.random((rows, dense)) < 0.05] = 1.0
        features[present] = values[present]
        code = np.minimum(random.geometric(min(1.0, 4.0 / codes), rows) - 1, codes_used - 1)
        coded = random.random(rows) < share_coded
        target = 5.0 + 2.0 * np.nan_to_num(features).sum(axis=1) + np.where(coded, effect[code], 0)
        target += random.normal(0.0, 1.0, rows)
        row, column = np.nonzero(present)
        first = (0, codes) if ones_first else (dense, 0)  # columns: of codes, of dense values
        entries = (
            np.concatenate([np.ones(int(coded.sum())), features[row, column]]),
            (
                np.concatenate([np.flatnonzero(coded), row]),
                np.concatenate([code[coded] + first[0], column + first[1]]),
            ),
        )
        # in a matrix from coordinates, explicit zeros stay explicit
        return Rows(csr_matrix(entries, shape=(rows, codes + dense)), target)

    train = part(rows, codes - codes // 10, train_coded)
    valid, unseen = (part(rows // 3, codes, 0.9) for _ in range(2))
    return Made(Dataset(train, valid, digest=f"{seed:032x}"), unseen.features)


def fit_settings(tree_method: str) -> dict[str, Any]:
    return {
        "num_boost_round": ROUNDS,
        "early_stopping_rounds": ROUNDS,
        "tree_method": tree_method,
        "seed": 42,
        "threads": 1,
    }


def plain_fit(
    params: dict[str, Any], given: Made, tree_method: str
) -> tuple[xgboost.Booster, list[float]]:
    """Return plain XGBoost's model on the whole matrix, and its validation RMSE by round."""
    train, valid = given.data.train, given.data.valid
    scores: dict[str, Any] = {}
    booster = xgboost.train(
        {
            **params,
            "objective": "reg:squarederror",
            "tree_method": tree_method,
            "seed": 42,
            "nthread": 1,
        },
        xgboost.DMatrix(train.features, train.target),
        num_boost_round=ROUNDS,
        evals=[(xgboost.DMatrix(valid.features, valid.target), "valid")],
        evals_result=scores,
        verbose_eval=False,
    )
    return booster, list(map(float, scores["valid"]["rmse"]))


def plain_predictions(
    params: dict[str, Any], given: Made, tree_method: str
) -> tuple[list[NDArray[np.float32]], float]:
    """Return plain XGBoost's predictions on the whole matrix, and its last validation RMSE."""
    booster, scores = plain_fit(params, given, tree_method)
    matrices = (given.data.valid.features, given.unseen)
    return [booster.predict(xgboost.DMatrix(each)) for each in matrices], scores[-1]


def assert_same_as_plain(params: dict[str, Any], given: Made, tree_method: str) -> None:
    """The refit predicts exactly what plain XGBoost predicts, on validation and unseen rows."""
    expected, _ = plain_predictions(params, given, tree_method)
    model = XGBOOST.load(
        XGBOOST.refit(params, given.data, fit_settings(tree_method), rounds=ROUNDS)
    )
    assert model.num_features() == given.data.train.features.shape[1]
    for features, wanted in zip((given.data.valid.features, given.unseen), expected, strict=True):
        assert np.array_equal(XGBOOST.predict(model, features), wanted.astype(np.float64))


# The search space of the notes, with the distributions of a search.
whole_space = st.fixed_dictionaries(
    {
        "max_depth": st.integers(4, 100),
        "learning_rate": st.floats(-3.0, 0.0).map(np.exp).map(float),
        "reg_alpha": st.floats(-5.0, -1.0).map(np.exp).map(float),
        "reg_lambda": st.floats(-6.0, -1.0).map(np.exp).map(float),
        "min_child_weight": st.floats(-1.0, 3.0).map(np.exp).map(float),
    }
)
rows_of_any_kind = st.builds(
    made,
    st.integers(0, 2**16),
    rows=st.sampled_from((200, 500, 1_000)),
    codes=st.sampled_from((2, 20, 80, 300)),
    dense=st.sampled_from((0, 1, 1, 3)),
    dense_present=st.sampled_from((0.7, 1.0)),
    train_coded=st.sampled_from((1.0, 1.0, 0.9)),
)
some = settings(max_examples=12, deadline=None, derandomize=True)


@pytest.fixture(scope="module")
def prefer_bundled() -> Any:
    """Fits are XGBoost's, on bundled columns if possible."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trees, "PROVEN", ("none",))
        patch.setattr(columns, "PRUNED_SHARE", 0.0)
        yield


@pytest.fixture(scope="module")
def prefer_pruned() -> Any:
    """Fits are XGBoost's, never on bundled columns."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trees, "PROVEN", ("none",))
        patch.setattr(columns, "PRUNED_SHARE", 1.0)
        yield


@pytest.mark.locked  # grown trees are one release's
class TestGrown:
    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(whole_space, rows_of_any_kind)
    def test_model_is_that_of_plain_xgboost(self, params: dict[str, Any], given: Made) -> None:
        """For any point of the space, trees grown on codes are XGBoost's on the whole matrix."""
        assert_same_as_plain(params, given, "hist")

    @settings(max_examples=30, deadline=None, derandomize=True)
    @given(
        st.fixed_dictionaries(
            {},
            optional={
                "max_depth": st.sampled_from((0, 1, 2, 6)),
                # XGBoost parses numbers above 1, and with an exponent, in its own way
                "learning_rate": st.just(0.0) | st.floats(1.0, 2.0) | st.floats(1e-7, 1e-4),
                "reg_alpha": st.just(0.0) | st.floats(1.0, 50.0) | st.floats(1e-7, 1e-4),
                "reg_lambda": st.just(0.0) | st.floats(1.0, 50.0) | st.floats(1e-7, 1e-4),
                "min_child_weight": st.sampled_from((0.0, 1.0, 3.0, 100.0)) | st.floats(1, 9),
            },
        ),
        rows_of_any_kind,
    )
    def test_model_is_that_of_plain_xgboost_outside_the_space(
        self, params: dict[str, Any], given: Made
    ) -> None:
        """The same is true outside the notes' ranges, and with XGBoost's defaults."""
        assert_same_as_plain(params, given, "hist")

    def test_curve_and_trees_are_those_of_plain_xgboost(self) -> None:
        """The curve, the splits, the gains and the covers are those of the plain fit."""
        given, params = made(8, rows=1_000), {"max_depth": 20, "min_child_weight": 2.0}
        coded = trees.coded(given.data)
        assert coded is not None
        boosted = islice(trees.boosted(params, coded), ROUNDS)
        grown = [(score, trees.copy(tree)) for score, tree in boosted]
        plain, scores = plain_fit(params, given, "hist")
        assert [score for score, _ in grown] == pytest.approx(scores, rel=1e-14)
        ours = XGBOOST.load(booster.model(coded.model, [tree for _, tree in grown]))
        for kind in ("weight", "gain", "cover", "total_gain", "total_cover"):
            assert ours.get_score(importance_type=kind) == pytest.approx(
                plain.get_score(importance_type=kind), rel=1e-6
            )

    def test_early_stopping_is_that_of_plain_xgboost(self) -> None:
        """A fit that does not improve ends after the same round."""
        given, params = made(9, rows=300), {"max_depth": 12, "learning_rate": 0.9}
        fitting = {**fit_settings("hist"), "num_boost_round": 100, "early_stopping_rounds": 5}
        ours = XGBOOST.train(params, given.data, fitting, lambda _: None)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trees, "PROVEN", ("none",))
            fresh = Dataset(given.data.train, given.data.valid, "again")
            theirs = XGBOOST.train(params, fresh, fitting, lambda _: None)
        assert len(ours) == len(theirs) < 100
        assert ours == pytest.approx(theirs, rel=1e-14)

    def test_xgboost_fits_if_sums_would_be_rounded(self) -> None:
        """With targets of very different size, a sum depends on the order of its terms."""
        given = made(10)
        target = np.resize([1e9, 1e-9, -1e9, -1e-9], 600) * given.data.train.target[0]
        data = Dataset(Rows(given.data.train.features, target), given.data.valid, "wide")
        coded = trees.coded(data)
        assert coded is not None
        with pytest.raises(trees.Inexact):
            next(trees.boosted({}, coded))
        assert_same_as_plain(
            {"max_depth": 6, "min_child_weight": 1.0}, Made(data, given.unseen), "hist"
        )

    def test_fit_that_starts_again_reports_no_round_twice(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """If sums are exact for two rounds only, XGBoost fits from the start, in one curve."""
        checked = 0

        def exact_twice(_: Any) -> bool:
            nonlocal checked
            checked += 1
            return checked <= 2

        monkeypatch.setattr(growth, "sums_are_exact", exact_twice)
        reported: list[int] = []
        data = made(11).data
        data.keep(xgboost_.CODED, trees.coded(data))
        checked = 0  # `coded` has grown a tree of its own
        curve = XGBOOST.train(
            {"max_depth": 6}, data, fit_settings("hist"), lambda c: reported.append(len(c))
        )
        assert reported == list(range(1, ROUNDS + 1))
        assert len(curve) == ROUNDS
        assert data.derived(xgboost_.CODED, lambda: "made again") is None

    def test_numbers_are_parsed_as_by_xgboost(self) -> None:
        """XGBoost's parser does not return the nearest float for this learning rate."""
        rate = 1.4799879238078322
        assert np.float32(rate) != trees._as_xgboost_reads({"learning_rate": rate}).learning_rate
        assert_same_as_plain({"learning_rate": rate, "reg_lambda": 0.0}, made(15), "hist")

    @pytest.mark.parametrize("value", [-1, -0.5])
    def test_invalid_value_fails_with_the_error_of_xgboost(self, value: float) -> None:
        """A value outside XGBoost's range raises XGBoost's own error."""
        with pytest.raises(xgboost.core.XGBoostError, match="reg_lambda"):
            XGBOOST.train({"reg_lambda": value}, made(16).data, fit_settings("hist"), print)

    def test_xgboost_fits_if_the_kernel_cannot_be_compiled(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """If numba's cache is on a full or damaged disk, fits are slower but do not fail."""

        def full(*_: Any) -> bool:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(growth, "grow", full)
        given, params = made(17), {"max_depth": 6}
        with pytest.warns(UserWarning, match="No space left"):
            curve = XGBOOST.train(params, given.data, fit_settings("hist"), lambda _: None)
        assert curve[-1] == plain_predictions(params, given, "hist")[1]

    def test_other_release_of_xgboost_fits_itself(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Gains and ties are proven for some releases only; with any other, XGBoost fits."""
        monkeypatch.setattr(xgboost, "__version__", "9.0.0")
        assert trees.coded(made(12).data) is None

    def test_installed_release_of_xgboost_is_proven(self) -> None:
        """These tests are the proof for the installed release."""
        assert xgboost.__version__.startswith(trees.PROVEN)


class TestSumsAreExact:
    @settings(max_examples=200, deadline=None, derandomize=True)
    @given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=60), st.randoms())
    def test_order_of_exact_sums_does_not_matter(self, values: list[float], random: Any) -> None:
        """The sum of the values is the true one, to the last bit, in every order."""
        array = np.array(values, dtype=np.float32)
        if growth.sums_are_exact(array):
            true = float(sum(map(Fraction, array.tolist())))
            for _ in range(5):
                random.shuffle(values)
                assert sum(values) == true

    def test_sums_of_minutes_are_exact(self) -> None:
        """The gradients of a month of trips, whose durations are whole seconds, have exact sums."""
        random = np.random.default_rng(0)
        minutes = (random.integers(60, 3600, 80_000) / 60).astype(np.float32)
        predicted = random.gamma(4.0, 4.0, 80_000).astype(np.float32)
        assert growth.sums_are_exact(predicted - minutes)

    @pytest.mark.parametrize("value", [np.nan, np.inf, 1e-30])
    def test_sums_with_nan_infinity_or_tiny_values_are_not_exact(self, value: float) -> None:
        """One such value beside a large one is enough."""
        assert not growth.sums_are_exact(np.array([1e6, value], dtype=np.float32))


class TestBundled:
    @pytest.fixture(autouse=True, scope="class")
    def _form(self, prefer_bundled: None) -> None:
        """All fits of this class are on bundled columns."""

    @some
    @given(whole_space, rows_of_any_kind)
    def test_model_is_that_of_plain_xgboost(self, params: dict[str, Any], given: Made) -> None:
        """For any point of the space, bundled columns give the model of the whole matrix."""
        assert_same_as_plain(params, given, "hist")

    def test_generated_rows_are_bundled(self) -> None:
        """The other tests of this class really fit on bundled columns."""
        form = columns.cheapest(
            {"max_depth": 6}, made(1).data, fit_settings("hist"), xgboost_.OBJECTIVE
        )
        assert form.train.num_col() == 2

    def test_one_hot_columns_at_the_end_are_not_bundled(self) -> None:
        """XGBoost breaks ties by the order of the columns, so only a leading block is bundled."""
        given = made(2, ones_first=False)
        assert columns.bundled(given.data) is None
        assert_same_as_plain({"max_depth": 8, "min_child_weight": 1.0}, given, "hist")

    def test_rows_with_two_codes_are_not_bundled(self) -> None:
        """One column cannot hold two codes of a row."""
        given = made(3)
        both = given.data.train.features.tolil()
        both[0, 0] = both[0, 1] = 1.0
        data = Dataset(Rows(both.tocsr(), given.data.train.target), given.data.valid, "both")
        assert columns.bundled(data) is None
        assert_same_as_plain(
            {"max_depth": 8, "min_child_weight": 1.0}, Made(data, given.unseen), "hist"
        )

    def test_training_rows_without_a_code_are_not_bundled(self) -> None:
        """A tree could split on the value for a row without a code."""
        given = made(8, train_coded=0.9)
        assert columns.bundled(given.data) is None
        assert_same_as_plain({"max_depth": 20, "min_child_weight": 2.0}, given, "hist")

    def test_many_dense_columns_are_not_bundled(self) -> None:
        """Many dense columns stay sparse, because they would take too much memory."""
        given = made(4, codes=5, dense=columns.MOST_DENSE + 1, rows=200)
        assert columns.bundled(given.data) is None


class TestPruned:
    @pytest.fixture(autouse=True, scope="class")
    def _form(self, prefer_pruned: None) -> None:
        """All fits of this class are on pruned columns."""

    @some
    @given(whole_space, rows_of_any_kind, st.sampled_from(("hist", "exact", "approx")))
    def test_model_is_that_of_plain_xgboost(
        self, params: dict[str, Any], given: Made, tree_method: str
    ) -> None:
        """For any point and tree method, fewer columns give the model of the whole matrix."""
        assert_same_as_plain(params, given, tree_method)

    def test_generated_rows_are_pruned(self) -> None:
        """The other tests of this class really fit on fewer columns."""
        data = made(1).data
        form = columns.cheapest(
            {"min_child_weight": 10.0}, data, fit_settings("hist"), xgboost_.OBJECTIVE
        )
        assert 1 < form.train.num_col() < data.train.features.shape[1]

    @pytest.mark.parametrize("tree_method", ["hist", "exact"])
    def test_one_hot_columns_may_be_at_the_end(self, tree_method: str) -> None:
        """Pruning works for any order of the columns."""
        params = {"max_depth": 12, "min_child_weight": 3.0, "learning_rate": 0.3}
        assert_same_as_plain(params, made(5, ones_first=False, dense=2), tree_method)

    def test_no_column_to_split_on_gives_the_plain_model(self) -> None:
        """With a minimum weight above the number of rows, each tree is one leaf."""
        assert_same_as_plain({"min_child_weight": 1e6}, made(6, rows=300), "hist")

    def test_unknown_parameter_is_fitted_on_the_whole_matrix(self) -> None:
        """No column is left out with a parameter that the proof does not cover."""
        data, params = made(7).data, {"colsample_bytree": 0.5, "min_child_weight": 10.0}
        form = columns.cheapest(params, data, fit_settings("hist"), xgboost_.OBJECTIVE)
        assert form.train.num_col() == data.train.features.shape[1]

    @pytest.mark.parametrize("tree_method", ["hist", "exact"])
    def test_pruning_keeps_the_model_with_subsample(self, tree_method: str) -> None:
        """The bound is also right for a sample of the rows, and the same rows are drawn."""
        assert_same_as_plain({"subsample": 0.5, "min_child_weight": 3.0}, made(13), tree_method)

    def test_bound_depends_on_the_objective(self) -> None:
        """A smaller largest hessian leaves out more columns; an unknown one leaves out none."""
        data, fitting = made(7).data, fit_settings("hist")
        width = {
            objective: columns.cheapest(
                {"min_child_weight": 3.0}, data, fitting, objective
            ).train.num_col()
            for objective in ("reg:squarederror", "reg:logistic", "count:poisson")
        }
        assert width["reg:logistic"] < width["reg:squarederror"] < width["count:poisson"]
        assert width["count:poisson"] == data.train.features.shape[1]

    def test_minimum_weight_is_used_in_single_precision(self) -> None:
        """3.00000001 is 3 for XGBoost, so a column of three values may be split."""
        assert_same_as_plain({"min_child_weight": 3.00000001, "max_depth": 40}, made(14), "hist")


@pytest.mark.parametrize("share", [0.0, 1.0], ids=["bundled", "pruned"])
def test_curve_is_that_of_plain_xgboost(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial reports the score of the plain fit."""
    monkeypatch.setattr(trees, "PROVEN", ("none",))
    monkeypatch.setattr(columns, "PRUNED_SHARE", share)
    given, params = made(8), {"max_depth": 20, "min_child_weight": 2.0, "learning_rate": 0.3}
    curve: Curve = XGBOOST.train(params, given.data, fit_settings("hist"), lambda _: None)
    expected, last = plain_predictions(params, given, "hist")
    assert curve[-1] == last
    assert last == pytest.approx(
        rmse(expected[0].astype(np.float64), given.data.valid.target), abs=1e-5
    )


class TestUnknownRelease:
    @pytest.fixture(autouse=True)
    def _unknown(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """XGBoost has a version that nobody has tested."""
        monkeypatch.setattr(xgboost, "__version__", "9.0.0")

    def test_whole_matrix_is_used(self) -> None:
        """Its model may have another form, which could not be rewritten to other columns."""
        data = made(12).data
        form = columns.cheapest(
            {"min_child_weight": 20.0}, data, fit_settings("hist"), xgboost_.OBJECTIVE
        )
        assert form is columns.plain(data)

    @pytest.mark.parametrize(("tree_method", "is_slow"), [("hist", True), ("exact", False)])
    def test_user_is_told_that_fits_are_slow(self, tree_method: str, is_slow: bool) -> None:
        """One line, only for the method that would be faster otherwise."""
        note = XGBOOST.note(fit_settings(tree_method))
        assert (note is not None) == is_slow
        assert note is None or ("9.0.0" in note and "\n" not in note)
