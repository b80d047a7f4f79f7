"""The published RMSEs of the notes, on the notes' months, 2021-01 and 2021-02."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xgboost
from hyperopt.pyll import as_apply
from hyperopt.pyll.stochastic import sample

import trainables
from search.tasks.green_taxi import features, usable_trips
from trainables import columns
from trainables.dataset import Dataset
from trainables.xgboost_ import OBJECTIVE

REAL = Path(__file__).parents[2].parent / "shared" / "data"
MONTHS = [REAL / f"green_tripdata_2021-{month}.parquet" for month in ("01", "02")]
PUBLISHED = {
    "learning_rate": 0.0959,
    "min_child_weight": 1.06,
    "reg_alpha": 0.018,
    "reg_lambda": 0.0117,
}


@pytest.fixture(scope="module")
def data() -> Dataset:
    if not all(month.is_file() for month in MONTHS):
        pytest.skip(f"needs the real trips in {REAL}")
    train, valid = (usable_trips.read([month]) for month in MONTHS)
    return features.prepare(train, valid).dataset


def test_real_trips_have_13221_columns(data: Dataset) -> None:
    """The columns are the zone pairs and the distance."""
    assert data.train.features.shape[1] == 13_221


@pytest.mark.parametrize(
    ("name", "params", "score"),
    [("linear", {}, 7.7587), ("lasso", {"alpha": 0.01}, 11.1673)],
)
def test_linear_models_have_the_published_rmse(
    name: str, params: dict[str, float], score: float, data: Dataset
) -> None:
    """Linear regression and lasso have the RMSE of the notes."""
    settings = {"seed": 42, "threads": 1}
    curve = trainables.get(name).train(params, data, settings, lambda _: None)
    assert curve == [pytest.approx(score, abs=5e-5)]


def both_curves(data: Dataset, depth: int, rounds: int) -> tuple[list[float], list[float]]:
    """Return the curves of the trainable and of plain XGBoost on the same matrix."""
    params = {"max_depth": depth, **PUBLISHED}
    settings = {
        "num_boost_round": rounds,
        "early_stopping_rounds": 50,
        "tree_method": "hist",
        "seed": 42,
        "threads": 2,
    }
    curve = trainables.get("xgboost").train(params, data, settings, lambda _: None)
    scores: dict[str, Any] = {}
    valid = xgboost.DMatrix(data.valid.features, data.valid.target)
    xgboost.train(
        {**params, "objective": "reg:squarederror", "seed": 42, "nthread": 2},
        xgboost.DMatrix(data.train.features, data.train.target),
        num_boost_round=rounds,
        evals=[(valid, "valid")],
        evals_result=scores,
        verbose_eval=False,
    )
    return curve, scores["valid"]["rmse"]


def test_shallow_trees_have_the_curve_of_plain_xgboost(data: Dataset) -> None:
    """Trees of depth 8 on real trips have the RMSE of plain XGBoost in each round."""
    ours, plain = both_curves(data, depth=8, rounds=5)
    assert ours == pytest.approx(plain, abs=1e-6)


@pytest.mark.slow
def test_published_point_has_the_curve_of_plain_xgboost(data: Dataset) -> None:
    """The best point of the notes has the RMSE of plain XGBoost in each round."""
    ours, plain = both_curves(data, depth=30, rounds=20)
    assert ours == pytest.approx(plain, abs=1e-6)


def test_real_trips_are_bundled_and_pruned(data: Dataset) -> None:
    """Real trips are bundled with a small weight, and pruned with a large one."""
    settings = {"tree_method": "hist"}
    light = columns.cheapest({"min_child_weight": 1.06}, data, settings, OBJECTIVE)
    heavy = columns.cheapest({"min_child_weight": 15.0}, data, settings, OBJECTIVE)
    assert light.train.num_col() == 2
    assert 2 < heavy.train.num_col() < columns.PRUNED_SHARE * data.train.features.shape[1]


def test_every_depth_is_equally_likely() -> None:
    """4,850 draws of max_depth are uniform from 4 to 100, including both ends."""
    random = np.random.default_rng(2021)
    node = as_apply(trainables.get("xgboost").search_space["max_depth"])
    drawn = [sample(node, rng=random) for _ in range(4_850)]
    assert all(type(depth) is int for depth in drawn)
    counts = np.bincount(drawn, minlength=101)
    assert (counts[:4].sum(), len(counts)) == (0, 101)
    assert counts[4] > 0
    assert counts[100] > 0
    # chi-squared: 50 expected of each, 96 degrees of freedom; above 163 once in 25,000 cases
    assert float(np.sum((counts[4:] - 50.0) ** 2) / 50.0) < 163.0
