"""The feature matrices of the trips, and the figures of the notes."""

from __future__ import annotations

import numpy as np
import pytest
from made_trips import REAL, check_message, published
from sklearn.linear_model import Lasso, LinearRegression

from search.errors import InputError
from search.tasks.green_taxi import usable_trips
from search.tasks.green_taxi.features import prepare


def test_columns_come_from_the_training_rows_only() -> None:
    """A validation trip with an unknown zone pair has its distance only."""
    train = usable_trips.from_frame(published(), "train")
    valid = usable_trips.from_frame(published([5.0, 6.0], PULocationID=[74, 200]), "valid")
    data = prepare(train, valid, valid)
    assert data.vectorizer.get_feature_names_out().tolist() == [
        "PU_DO=74_41",
        "PU_DO=75_42",
        "PU_DO=76_41",
        "trip_distance",
    ]
    assert data.dataset.valid.features.toarray().tolist() == [[1, 0, 0, 1.1], [0, 0, 0, 2.1]]
    assert data.dataset.train.features.dtype == np.float64
    assert data.dataset.train.features.indices.dtype == np.int32
    assert data.test_rows is not None
    assert data.test_rows.target.tolist() == [5.0, 6.0]


def test_test_rows_are_not_part_of_the_digest() -> None:
    """With and without a test set, the dataset is the same."""
    train = usable_trips.from_frame(published(), "train")
    without = prepare(train, train)
    assert without.dataset.digest == prepare(train, train, train).dataset.digest
    assert without.test is None
    assert without.test_rows is None


def test_validation_trips_of_another_city_are_refused() -> None:
    """None of them has a known zone pair. Test trips are refused likewise."""
    train = usable_trips.from_frame(published(), "train")
    other = usable_trips.from_frame(published(PULocationID=9), "other.parquet")
    with pytest.raises(InputError) as error:
        prepare(train, other)
    check_message(error, "other.parquet", "none of the 3 validation trips", "9_41")
    with pytest.raises(InputError, match="test trips"):
        prepare(train, train, other)


@pytest.mark.skipif(not REAL.is_dir(), reason="no real trips beside the repository")
def test_real_months_give_the_published_figures() -> None:
    """13,221 columns, RMSE 7.7587 for linear regression and 11.1673 for Lasso(alpha=0.01)."""
    train, valid = (
        usable_trips.read([REAL / f"green_tripdata_2021-0{month}.parquet"]) for month in (1, 2)
    )
    data = prepare(train, valid).dataset
    assert data.train.features.shape == (73_908, 13_221)
    assert data.valid.features.shape == (61_921, 13_221)
    for model, published_rmse in ((LinearRegression(), 7.7587), (Lasso(alpha=0.01), 11.1673)):
        model.fit(data.train.features, data.train.target)
        error = model.predict(data.valid.features) - data.valid.target
        assert round(float(np.sqrt(np.mean(error**2))), 4) == published_rmse
