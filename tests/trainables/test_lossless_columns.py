"""Grown on codes, on fewer columns or bundled ones: the model is that of the whole matrix."""

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
    """Made rows: what is fitted, and rows that no fit has seen."""

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
    """Make a one-hot block of ``codes`` columns beside ``dense`` ones.

    Codes are skewed, as zone pairs are: a few are common, most are rare, some only ever appear
    outside training. A tenth of the rows outside training has no code, and of training's all but
    ``train_coded``. Of the dense values some are absent, some are zeros that are written down,
    and some are ones.
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
        first = (0, codes) if ones_first else (dense, 0)  # where codes and others begin
        entries = (
            np.concatenate([np.ones(int(coded.sum())), features[row, column]]),
            (
                np.concatenate([np.flatnonzero(coded), row]),
                np.concatenate([code[coded] + first[0], column + first[1]]),
            ),
        )
        # built from coordinates, a zero that is written down stays written down
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


def fitted_plainly(
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


def plainly(
    params: dict[str, Any], given: Made, tree_method: str
) -> tuple[list[NDArray[np.float32]], float]:
    """Return plain XGBoost's predictions on the whole matrix, and its last validation RMSE."""
    booster, scores = fitted_plainly(params, given, tree_method)
    outside = (given.data.valid.features, given.unseen)
    return [booster.predict(xgboost.DMatrix(each)) for each in outside], scores[-1]


def assert_as_plain(params: dict[str, Any], given: Made, tree_method: str) -> None:
    """The refit answers as plain XGBoost does, on rows seen and unseen, to the last bit."""
    expected, _ = plainly(params, given, tree_method)
    model = XGBOOST.load(
        XGBOOST.refit(params, given.data, fit_settings(tree_method), rounds=ROUNDS)
    )
    assert model.num_features() == given.data.train.features.shape[1]
    for features, wanted in zip((given.data.valid.features, given.unseen), expected, strict=True):
        assert np.array_equal(XGBOOST.predict(model, features), wanted.astype(np.float64))


# The whole space of the notes, drawn as it is drawn in a search.
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
    """XGBoost fits, and where bundling is possible it is done."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trees, "KNOWN_RELEASE", "none")
        patch.setattr(columns, "PRUNED_SHARE", 0.0)
        yield


@pytest.fixture(scope="module")
def prefer_pruned() -> Any:
    """XGBoost fits, and where bundling is possible it is not done."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trees, "KNOWN_RELEASE", "none")
        patch.setattr(columns, "PRUNED_SHARE", 1.0)
        yield


class TestGrown:
    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(whole_space, rows_of_any_kind)
    def test_model_is_plain_xgboosts(self, params: dict[str, Any], given: Made) -> None:
        """Anywhere in the space, trees grown on codes are XGBoost's on the whole matrix."""
        assert_as_plain(params, given, "hist")

    @settings(max_examples=30, deadline=None, derandomize=True)
    @given(
        st.fixed_dictionaries(
            {},
            optional={
                "max_depth": st.sampled_from((0, 1, 2, 6)),
                # XGBoost reads what is above 1, or needs an exponent, in its own way
                "learning_rate": st.just(0.0) | st.floats(1.0, 2.0) | st.floats(1e-7, 1e-4),
                "reg_alpha": st.just(0.0) | st.floats(1.0, 50.0) | st.floats(1e-7, 1e-4),
                "reg_lambda": st.just(0.0) | st.floats(1.0, 50.0) | st.floats(1e-7, 1e-4),
                "min_child_weight": st.sampled_from((0.0, 1.0, 3.0, 100.0)) | st.floats(1, 9),
            },
        ),
        rows_of_any_kind,
    )
    def test_corners_and_defaults_too(self, params: dict[str, Any], given: Made) -> None:
        """Outside the notes' ranges, and where XGBoost's defaults count, the same holds."""
        assert_as_plain(params, given, "hist")

    def test_curve_and_trees_are_xgboosts(self) -> None:
        """The curve is that of the plain fit, and so are the splits, gains, covers and leaves."""
        given, params = made(8, rows=1_000), {"max_depth": 20, "min_child_weight": 2.0}
        coded = trees.coded(given.data)
        assert coded is not None
        boosted = islice(trees.boosted(params, coded), ROUNDS)
        grown = [(score, trees.copy(tree)) for score, tree in boosted]
        plain, scores = fitted_plainly(params, given, "hist")
        assert [score for score, _ in grown] == pytest.approx(scores, rel=1e-14)
        ours = XGBOOST.load(booster.model(coded.model, [tree for _, tree in grown]))
        for kind in ("weight", "gain", "cover", "total_gain", "total_cover"):
            assert ours.get_score(importance_type=kind) == pytest.approx(
                plain.get_score(importance_type=kind), rel=1e-6
            )

    def test_stops_early_where_xgboost_does(self) -> None:
        """A fit that gets no better ends after the same round."""
        given, params = made(9, rows=300), {"max_depth": 12, "learning_rate": 0.9}
        asked = {**fit_settings("hist"), "num_boost_round": 100, "early_stopping_rounds": 5}
        ours = XGBOOST.train(params, given.data, asked, lambda _: None)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trees, "KNOWN_RELEASE", "none")
            alone = Made(Dataset(given.data.train, given.data.valid, "again"), given.unseen)
            theirs = XGBOOST.train(params, alone.data, asked, lambda _: None)
        assert len(ours) == len(theirs) < 100
        assert ours == pytest.approx(theirs, rel=1e-14)

    def test_sums_that_would_be_rounded_are_left_to_xgboost(self) -> None:
        """Targets of very different size: the sums depend on their order, and XGBoost has its."""
        given = made(10)
        target = np.resize([1e9, 1e-9, -1e9, -1e-9], 600) * given.data.train.target[0]
        data = Dataset(Rows(given.data.train.features, target), given.data.valid, "wide")
        coded = trees.coded(data)
        assert coded is not None
        with pytest.raises(trees.Inexact):
            next(trees.boosted({}, coded))
        assert_as_plain({"max_depth": 6, "min_child_weight": 1.0}, Made(data, given.unseen), "hist")

    def test_a_fit_that_begins_again_says_no_round_twice(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Sums that are exact for two rounds only: XGBoost fits from the start, in one curve."""
        checked = 0

        def twice(_: Any) -> bool:
            nonlocal checked
            checked += 1
            return checked <= 2

        monkeypatch.setattr(growth, "sums_are_exact", twice)
        heard: list[int] = []
        data = made(11).data
        data.keep(xgboost_.CODED, trees.coded(data))
        checked = 0  # whether a tree can be grown was tried, too
        curve = XGBOOST.train(
            {"max_depth": 6}, data, fit_settings("hist"), lambda c: heard.append(len(c))
        )
        assert heard == list(range(1, ROUNDS + 1))
        assert len(curve) == ROUNDS
        assert data.derived(xgboost_.CODED, lambda: "asked again") is None

    def test_numbers_are_read_as_xgboost_reads_them(self) -> None:
        """A rate that its parser makes another than the nearest float gives its leaves."""
        rate = 1.4799879238078322
        assert np.float32(rate) != trees._as_xgboost_reads({"learning_rate": rate}).learning_rate
        assert_as_plain({"learning_rate": rate, "reg_lambda": 0.0}, made(15), "hist")

    @pytest.mark.parametrize("value", [-1, -0.5])
    def test_what_xgboost_refuses_is_refused(self, value: float) -> None:
        """A value out of XGBoost's range fails with its words."""
        with pytest.raises(xgboost.core.XGBoostError, match="reg_lambda"):
            XGBOOST.train({"reg_lambda": value}, made(16).data, fit_settings("hist"), print)

    def test_where_nothing_can_be_compiled_xgboost_fits(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A full disk under numba's cache, or a damaged one, costs speed and no trial."""

        def full(*_: Any) -> bool:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(growth, "grow", full)
        given, params = made(17), {"max_depth": 6}
        with pytest.warns(UserWarning, match="No space left"):
            curve = XGBOOST.train(params, given.data, fit_settings("hist"), lambda _: None)
        assert curve[-1] == plainly(params, given, "hist")[1]

    def test_another_release_fits_for_itself(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Gains and ties are one release's: with another, XGBoost fits."""
        monkeypatch.setattr(xgboost, "__version__", "9.0.0")
        assert trees.coded(made(12).data) is None

    def test_the_release_that_is_installed_is_the_known_one(self) -> None:
        """These tests compare with the release that the trees are grown after."""
        assert xgboost.__version__.startswith(trees.KNOWN_RELEASE)


class TestSumsAreExact:
    @settings(max_examples=200, deadline=None, derandomize=True)
    @given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=60), st.randoms())
    def test_where_it_says_so_no_order_changes_a_sum(
        self, values: list[float], random: Any
    ) -> None:
        """Every order of the values has the same sum, to the last bit, and it is the true one."""
        array = np.array(values, dtype=np.float32)
        if growth.sums_are_exact(array):
            true = float(sum(map(Fraction, array.tolist())))
            for _ in range(5):
                random.shuffle(values)
                assert sum(values) == true

    def test_minutes_are(self) -> None:
        """Differences of predicted and whole seconds' minutes add up exactly, a month of them."""
        random = np.random.default_rng(0)
        minutes = (random.integers(60, 3600, 80_000) / 60).astype(np.float32)
        predicted = random.gamma(4.0, 4.0, 80_000).astype(np.float32)
        assert growth.sums_are_exact(predicted - minutes)

    @pytest.mark.parametrize("value", [np.nan, np.inf, 1e-30])
    def test_what_is_no_number_or_too_fine_is_not(self, value: float) -> None:
        """One value that the others' sum would swallow is enough."""
        assert not growth.sums_are_exact(np.array([1e6, value], dtype=np.float32))


class TestBundled:
    @pytest.fixture(autouse=True, scope="class")
    def _form(self, prefer_bundled: None) -> None:
        """Bundle."""

    @some
    @given(whole_space, rows_of_any_kind)
    def test_model_is_plain_xgboosts(self, params: dict[str, Any], given: Made) -> None:
        """Anywhere in the space, hist on bundled columns is hist on the whole matrix."""
        assert_as_plain(params, given, "hist")

    def test_bundles(self) -> None:
        """The made rows are of the kind that is bundled: this class tests what it says."""
        form = columns.cheapest(
            {"max_depth": 6}, made(1).data, fit_settings("hist"), xgboost_.OBJECTIVE
        )
        assert form.train.num_col() == 2

    def test_columns_of_ones_that_come_last_are_not_bundled(self) -> None:
        """Ties between columns are broken by place, so a later block stays as it is."""
        given = made(2, ones_first=False)
        assert columns.bundled(given.data) is None
        assert_as_plain({"max_depth": 8, "min_child_weight": 1.0}, given, "hist")

    def test_codes_that_share_a_row_are_not_bundled(self) -> None:
        """Two ones in a row are two codes, which one column cannot hold."""
        given = made(3)
        both = given.data.train.features.tolil()
        both[0, 0] = both[0, 1] = 1.0
        data = Dataset(Rows(both.tocsr(), given.data.train.target), given.data.valid, "both")
        assert columns.bundled(data) is None
        assert_as_plain({"max_depth": 8, "min_child_weight": 1.0}, Made(data, given.unseen), "hist")

    def test_training_rows_without_a_code_are_not_bundled(self) -> None:
        """Such a row's code would be one that a tree can split on."""
        given = made(8, train_coded=0.9)
        assert columns.bundled(given.data) is None
        assert_as_plain({"max_depth": 20, "min_child_weight": 2.0}, given, "hist")

    def test_many_dense_columns_are_not_bundled(self) -> None:
        """What would take too much memory as dense columns stays sparse."""
        given = made(4, codes=5, dense=columns.MOST_DENSE + 1, rows=200)
        assert columns.bundled(given.data) is None


class TestPruned:
    @pytest.fixture(autouse=True, scope="class")
    def _form(self, prefer_pruned: None) -> None:
        """Prune."""

    @some
    @given(whole_space, rows_of_any_kind, st.sampled_from(("hist", "exact", "approx")))
    def test_model_is_plain_xgboosts(
        self, params: dict[str, Any], given: Made, tree_method: str
    ) -> None:
        """Anywhere in the space, by any method, fewer columns give the whole matrix's model."""
        assert_as_plain(params, given, tree_method)

    def test_leaves_columns_out(self) -> None:
        """The made rows are of the kind that is pruned: this class tests what it says."""
        data = made(1).data
        form = columns.cheapest(
            {"min_child_weight": 10.0}, data, fit_settings("hist"), xgboost_.OBJECTIVE
        )
        assert 1 < form.train.num_col() < data.train.features.shape[1]

    @pytest.mark.parametrize("tree_method", ["hist", "exact"])
    def test_columns_of_ones_may_come_last(self, tree_method: str) -> None:
        """The order of the columns is the user's."""
        params = {"max_depth": 12, "min_child_weight": 3.0, "learning_rate": 0.3}
        assert_as_plain(params, made(5, ones_first=False, dense=2), tree_method)

    def test_nothing_left_to_split(self) -> None:
        """A least weight above the number of rows gives the plain model: one leaf a tree."""
        assert_as_plain({"min_child_weight": 1e6}, made(6, rows=300), "hist")

    def test_what_would_change_the_model_leaves_nothing_out(self) -> None:
        """A parameter that the proof does not cover is fitted on the whole matrix."""
        data, params = made(7).data, {"colsample_bytree": 0.5, "min_child_weight": 10.0}
        form = columns.cheapest(params, data, fit_settings("hist"), xgboost_.OBJECTIVE)
        assert form.train.num_col() == data.train.features.shape[1]

    @pytest.mark.parametrize("tree_method", ["hist", "exact"])
    def test_a_sample_of_the_rows_leaves_a_column_fewer_still(self, tree_method: str) -> None:
        """The bound holds under `subsample`, and the same rows are drawn."""
        assert_as_plain({"subsample": 0.5, "min_child_weight": 3.0}, made(13), tree_method)

    def test_the_bound_is_the_objectives(self) -> None:
        """A hessian of at most a quarter leaves out more; an unknown one leaves out nothing."""
        data, asked = made(7).data, fit_settings("hist")
        width = {
            objective: columns.cheapest(
                {"min_child_weight": 3.0}, data, asked, objective
            ).train.num_col()
            for objective in ("reg:squarederror", "reg:logistic", "count:poisson")
        }
        assert width["reg:logistic"] < width["reg:squarederror"] < width["count:poisson"]
        assert width["count:poisson"] == data.train.features.shape[1]

    def test_the_weight_counts_in_single_precision(self) -> None:
        """3.00000001 is 3 to XGBoost, and a column of three values may be split."""
        assert_as_plain({"min_child_weight": 3.00000001, "max_depth": 40}, made(14), "hist")


@pytest.mark.parametrize("share", [0.0, 1.0], ids=["bundled", "pruned"])
def test_curve_is_plain_xgboosts(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The score a trial reports is the score of the plain fit."""
    monkeypatch.setattr(trees, "KNOWN_RELEASE", "none")
    monkeypatch.setattr(columns, "PRUNED_SHARE", share)
    given, params = made(8), {"max_depth": 20, "min_child_weight": 2.0, "learning_rate": 0.3}
    curve: Curve = XGBOOST.train(params, given.data, fit_settings("hist"), lambda _: None)
    expected, last = plainly(params, given, "hist")
    assert curve[-1] == last
    assert last == pytest.approx(
        rmse(expected[0].astype(np.float64), given.data.valid.target), abs=1e-5
    )
