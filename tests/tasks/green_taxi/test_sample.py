"""The generated sample: its rows, and how well models learn from it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xgboost
from numpy.typing import NDArray
from sklearn.linear_model import LinearRegression

from search.tasks.green_taxi import features, sample, typed_columns, usable_trips
from search.tasks.green_taxi.features import TaxiData


@pytest.fixture(scope="module")
def data() -> TaxiData:
    train, valid = (
        usable_trips.from_frame(sample.made_month(month), "sample")
        for month in ("2021-01", "2021-02")
    )
    return features.prepare(train, valid)


def rmse(target: NDArray[np.float64], predicted: NDArray[np.float64] | float) -> float:
    return float(np.sqrt(np.mean((target - predicted) ** 2)))


def test_sample_is_the_same_on_every_machine_and_day(data: TaxiData) -> None:
    """Its digest is pinned: all users without a network search on the same rows."""
    assert data.dataset.digest == "f744d3a95da8a12125650edfb06327cf"


def test_seed_and_month_determine_the_rows() -> None:
    month = sample.made_month("2021-01", 1)
    pd.testing.assert_frame_equal(month, sample.made_month("2021-01", 1))
    assert not month["trip_distance"].equals(sample.made_month("2021-01", 2)["trip_distance"])
    other = sample.made_month("2021-02", 1)["trip_distance"]
    assert not month["trip_distance"].head(99).equals(other.head(99))


def test_sample_has_the_published_form() -> None:
    """TLC's columns, integer zone ids, and pickups within the month."""
    month = sample.made_month("2021-02")
    assert len(month) == sample.ROWS["2021-02"]
    assert set(typed_columns.COLUMNS) <= set(month)
    assert month["PULocationID"].dtype == month["DOLocationID"].dtype == np.int64
    assert month["PULocationID"].between(1, 263).all()
    assert (month["lpep_pickup_datetime"].dt.strftime("%Y-%m") == "2021-02").all()


def test_sample_is_as_uneven_and_dirty_as_real_trips(data: TaxiData) -> None:
    """A few thousand zone pairs, few of them popular; rows to drop; impossible distances."""
    train = data.train
    pairs = (train.frame["PULocationID"] + "_" + train.frame["DOLocationID"]).value_counts()
    assert 2_000 <= len(pairs) <= 8_000
    assert pairs.head(len(pairs) // 20).sum() > len(train.minutes) / 3
    assert set(train.dropped) == {
        "shorter than 1 minute",
        "longer than 60 minutes",
        "no distance",
    }
    assert (train.frame["trip_distance"] > 10_000).sum() > 10


def test_better_models_have_much_better_scores(data: TaxiData) -> None:
    """The mean, a straight line and trees differ by 8 % and more, so that tuning has an effect."""
    train, valid = data.dataset.train, data.dataset.valid
    mean = rmse(valid.target, float(train.target.mean()))
    line = LinearRegression().fit(train.features, train.target)
    linear = rmse(valid.target, line.predict(valid.features))
    trees = xgboost.train(
        {"max_depth": 8, "learning_rate": 0.2, "nthread": 1},
        xgboost.DMatrix(train.features, train.target),
        num_boost_round=100,
    )
    boosted = rmse(valid.target, trees.predict(xgboost.DMatrix(valid.features)))
    assert linear < 0.92 * mean
    assert boosted < 0.92 * linear
