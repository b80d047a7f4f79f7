"""Trips in TLC's columns, and the files that tests make of them."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, settings

from search.errors import InputError

REAL = Path(__file__).parents[4] / "shared" / "data"  # real trips, beside the repository
any_input = settings(
    max_examples=60,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def published(
    minutes: list[float] | None = None, distances: list[float] | None = None, **changed: Any
) -> pd.DataFrame:
    """Return trips of these minutes and distances, by default three good ones."""
    minutes = [10.0, 20.5, 7.25] if minutes is None else minutes
    start = pd.Series([datetime(2021, 1, 1, 0, 15, 56)] * len(minutes)).astype("datetime64[us]")
    frame = pd.DataFrame(
        {
            "VendorID": 2,
            "lpep_pickup_datetime": start,
            "lpep_dropoff_datetime": start + pd.to_timedelta(minutes, unit="min").as_unit("us"),
            "PULocationID": [74 + i % 3 for i in range(len(minutes))],
            "DOLocationID": [41 + i % 2 for i in range(len(minutes))],
            "trip_distance": distances or [1.1 + i for i in range(len(minutes))],
        }
    )
    return frame.assign(**changed)


def parquet(frame: pd.DataFrame, path: Path) -> Path:
    """Write a parquet file; return its path."""
    frame.to_parquet(path, index=False)
    return path


def csv(frame: pd.DataFrame, path: Path) -> Path:
    """Write a CSV file; return its path."""
    frame.to_csv(path, index=False)
    return path


def check_message(error: pytest.ExceptionInfo[InputError], *parts: str) -> None:
    """Check that an error is one line with these parts."""
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message
