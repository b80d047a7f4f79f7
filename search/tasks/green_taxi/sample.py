"""Generated trips, for a first run without files and without a network.

They resemble TLC's green months where it matters for learning: few zone pairs are popular and most
are rare, minutes level off with distance (long trips take faster roads), the speed depends on the
zones, some meters report absurd distances, and some rows are dirty. As on real trips, a straight
line can follow neither the absurd distances nor the levelling off.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

SEED = 2021

Month = Literal["2021-01", "2021-02", "2021-03"]
ROWS: dict[Month, int] = {"2021-01": 20_000, "2021-02": 16_000, "2021-03": 16_000}

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]


def made_month(month: Month, seed: int = SEED) -> pd.DataFrame:
    """Return one month in TLC's green schema; one seed gives the same rows on every machine."""
    city = _made_city(seed)
    rows = ROWS[month]
    random = np.random.default_rng([seed, int(month[-2:])])
    pickup = random.choice(_ZONES, rows, p=city.popularity)
    dropoff = _dropoffs(city, pickup, random)
    miles = _miles(city, pickup, dropoff, random)
    start = _starts(month, rows, random)
    seconds = _seconds(city, pickup, dropoff, miles, start, random)
    return _dirtied(_published(city, pickup, dropoff, miles, start, seconds), random)


_ZONES = 90  # TLC numbers 263; a month of 20,000 rows touches a few thousand pairs of these


@dataclass(frozen=True)
class _City:
    ids: NDArray[np.int64]  # [zones] as TLC numbers them
    places: Floats  # [zones, 2] miles
    popularity: Floats  # [zones] share of the pickups
    going: Floats  # [zones, zones] share of the drop-offs, by pickup
    pace: Floats  # [zones] how slow a mile is there, 1 is usual


def _made_city(seed: int) -> _City:
    random = np.random.default_rng(seed)
    ids = np.sort(random.permutation(np.arange(1, 264))[:_ZONES])
    places = random.random((_ZONES, 2)) * [9.0, 14.0]
    popularity = random.permutation(1.0 / (1.0 + np.arange(_ZONES)))  # Zipf
    popularity /= popularity.sum()
    apart = np.hypot(*np.moveaxis(places[:, None] - places[None], -1, 0))  # miles
    going = popularity**0.5 / (1.0 + apart) ** 2
    going /= going.sum(axis=1, keepdims=True)
    pace = np.clip(np.exp(0.4 * random.standard_normal(_ZONES)), 0.5, 2.2)
    return _City(ids, places, popularity, going, pace)


def _dropoffs(city: _City, pickup: Indices, random: np.random.Generator) -> Indices:
    shares = city.going.cumsum(axis=1)[pickup]
    drawn = random.random((len(pickup), 1)) * shares[:, -1:]
    chosen: Indices = np.minimum((shares < drawn).sum(axis=1), _ZONES - 1)
    return chosen


def _miles(city: _City, pickup: Indices, dropoff: Indices, random: np.random.Generator) -> Floats:
    straight = np.hypot(*(city.places[pickup] - city.places[dropoff]).T)
    detour = 1.0 + 1.5 * random.random(len(pickup)) ** 2
    miles: Floats = np.round(0.3 + 3.0 * random.random(len(pickup)) ** 2 + straight * detour, 2)
    return miles


def _starts(month: Month, rows: int, random: np.random.Generator) -> NDArray[np.datetime64]:
    first = np.datetime64(f"{month}-01", "s")
    days = (np.datetime64(month, "M") + 1 - np.datetime64(f"{month}-01", "D")).astype(int)
    return np.sort(first + random.integers(0, days * 86_400, rows).astype("timedelta64[s]"))


def _seconds(
    city: _City,
    pickup: Indices,
    dropoff: Indices,
    miles: Floats,
    start: NDArray[np.datetime64],
    random: np.random.Generator,
) -> NDArray[np.int64]:
    # The first miles are city streets, the later ones faster roads; slow zones count at both ends.
    pace = np.sqrt(city.pace[pickup] * city.pace[dropoff])
    minutes = 2.5 + pace * 42.0 * (1.0 - np.exp(-miles / 8.0))
    hour = start.astype("datetime64[h]").astype(np.int64) % 24
    rush = np.where((hour >= 7) & (hour < 19), 1.1, 0.92)
    luck = np.exp(0.16 * random.standard_normal(len(miles)))
    # Whole seconds, as published; they also hide differences between machines in exp's last bits.
    return np.round(60.0 * minutes * rush * luck).astype(np.int64)


def _published(
    city: _City,
    pickup: Indices,
    dropoff: Indices,
    miles: Floats,
    start: NDArray[np.datetime64],
    seconds: NDArray[np.int64],
) -> pd.DataFrame:
    rows = len(miles)
    start = start.astype("datetime64[us]")
    fare = np.round(2.5 + 2.5 * miles, 2)
    return pd.DataFrame(
        {
            "VendorID": np.full(rows, 2),
            "lpep_pickup_datetime": start,
            "lpep_dropoff_datetime": start + seconds.astype("timedelta64[s]"),
            "store_and_fwd_flag": "N",
            "RatecodeID": 1.0,
            "PULocationID": city.ids[pickup],
            "DOLocationID": city.ids[dropoff],
            "passenger_count": 1.0,
            "trip_distance": miles,
            "fare_amount": fare,
            "extra": 0.5,
            "mta_tax": 0.5,
            "tip_amount": 0.0,
            "tolls_amount": 0.0,
            "ehail_fee": np.nan,
            "improvement_surcharge": 0.3,
            "total_amount": fare + 1.3,
            "payment_type": 2.0,
            "trip_type": 1.0,
            "congestion_surcharge": 0.0,
        }
    )


def _dirtied(trips: pd.DataFrame, random: np.random.Generator) -> pd.DataFrame:
    rows = random.permutation(len(trips))
    no_distance, no_minute, hours, absurd = np.split(rows, np.cumsum([40, 250, 150, 40]))[:4]
    start = trips["lpep_pickup_datetime"].to_numpy()
    end = trips["lpep_dropoff_datetime"].to_numpy().copy()
    end[no_minute] = start[no_minute] + random.integers(0, 50, 250).astype("timedelta64[s]")
    end[hours] = start[hours] + random.integers(3_700, 86_000, 150).astype("timedelta64[s]")
    miles = trips["trip_distance"].to_numpy().copy()
    miles[no_distance] = np.nan
    miles[absurd] = np.round(20_000.0 + 100_000.0 * random.random(40), 2)
    return trips.assign(lpep_dropoff_datetime=end, trip_distance=miles)
