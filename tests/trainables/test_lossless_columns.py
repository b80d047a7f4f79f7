"""XGBoost on fewer columns, or on bundled ones, is XGBoost on the whole matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from trainables import columns, xgboost_
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


def plainly(
    params: dict[str, Any], given: Made, tree_method: str
) -> tuple[list[NDArray[np.float32]], float]:
    """Return plain XGBoost's predictions on the whole matrix, and its last validation RMSE."""
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
    predicted = [booster.predict(xgboost.DMatrix(x)) for x in (valid.features, given.unseen)]
    return predicted, float(scores["valid"]["rmse"][-1])


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
    """Where bundling is possible it is done."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "PRUNED_SHARE", 0.0)
        yield


@pytest.fixture(scope="module")
def prefer_pruned() -> Any:
    """Where bundling is possible it is not done."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "PRUNED_SHARE", 1.0)
        yield


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
        form = columns.cheapest({"max_depth": 6}, made(1).data, fit_settings("hist"))
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
        form = columns.cheapest({"min_child_weight": 10.0}, data, fit_settings("hist"))
        assert 1 < form.train.num_col() < data.train.features.shape[1]

    @pytest.mark.parametrize("tree_method", ["hist", "exact"])
    def test_columns_of_ones_may_come_last(self, tree_method: str) -> None:
        """The order of the columns is the user's."""
        params = {"max_depth": 12, "min_child_weight": 3.0, "learning_rate": 0.3}
        assert_as_plain(params, made(5, ones_first=False, dense=2), tree_method)

    def test_nothing_left_to_split(self) -> None:
        """A least weight above the number of rows gives the plain model: one leaf a tree."""
        assert_as_plain({"min_child_weight": 1e6}, made(6, rows=300), "hist")

    @pytest.mark.parametrize("name", ["colsample_bytree", "subsample"])
    def test_what_would_change_the_model_leaves_nothing_out(self, name: str) -> None:
        """A parameter that the proof does not cover is fitted on the whole matrix."""
        data = made(7).data
        form = columns.cheapest({name: 0.5, "min_child_weight": 10.0}, data, fit_settings("hist"))
        assert form.train.num_col() == data.train.features.shape[1]


@pytest.mark.parametrize("share", [0.0, 1.0], ids=["bundled", "pruned"])
def test_curve_is_plain_xgboosts(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The score a trial reports is the score of the plain fit."""
    monkeypatch.setattr(columns, "PRUNED_SHARE", share)
    given, params = made(8), {"max_depth": 20, "min_child_weight": 2.0, "learning_rate": 0.3}
    curve: Curve = XGBOOST.train(params, given.data, fit_settings("hist"), lambda _: None)
    expected, last = plainly(params, given, "hist")
    assert curve[-1] == last
    assert last == pytest.approx(
        rmse(expected[0].astype(np.float64), given.data.valid.target), abs=1e-5
    )
