"""Which rows of the files are used: trips of 1 to 60 minutes with zones and a distance."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from search.errors import InputError
from search.tasks.green_taxi import typed_columns
from search.tasks.green_taxi.served_model import DISTANCE, DROPOFF_ZONE, PICKUP_ZONE

MICROSECONDS_A_MINUTE = 60_000_000


@dataclass(frozen=True)
class Trips:
    """Trips of one role (training, validation or test)."""

    frame: pd.DataFrame  # [rows] PULocationID (str), DOLocationID (str), trip_distance (float64)
    minutes: NDArray[np.float64]  # [rows] how long each trip took, 1 to 60
    dropped: dict[str, int]  # rows left out, by reason; only reasons that happened
    path: str  # where they came from: the paths joined by ", "


def read(paths: Sequence[Path]) -> Trips:
    """Read files as one role, rows in the order of the files.

    :raises InputError: a file cannot be used, or no trip is left.
    """
    if not paths:
        raise InputError("no file of trips named; name at least one parquet or CSV file")
    return _cut([typed_columns.from_file(path) for path in paths], ", ".join(map(str, paths)))


def from_frame(frame: pd.DataFrame, path: str) -> Trips:
    """Take trips that are in memory, in TLC's columns. ``path``: where they came from."""
    return _cut([typed_columns.from_frame(frame, path)], path)


def digest(train: Trips, valid: Trips) -> str:
    """Return 32 hex digits that name the rows as used: role, order and every value of each."""
    sha = hashlib.sha256()
    for role, trips in (("train", train), ("valid", valid)):
        sha.update(f"{role} {len(trips.minutes)}\n".encode())
        for zone in (PICKUP_ZONE, DROPOFF_ZONE):
            names = [name.encode() for name in trips.frame[zone].tolist()]
            # The lengths keep ("1", "23") and ("12", "3") apart.
            sha.update(np.array([len(name) for name in names], dtype="<u4").tobytes())
            sha.update(b"".join(names))
        sha.update(trips.frame[DISTANCE].to_numpy().astype("<f8").tobytes())
        sha.update(trips.minutes.astype("<f8").tobytes())
    return sha.hexdigest()[:32]


def _cut(files: Sequence[typed_columns.Columns], path: str) -> Trips:
    microseconds = np.concatenate([file.microseconds for file in files])
    pickup = pd.concat([file.pickup for file in files], ignore_index=True)
    dropoff = pd.concat([file.dropoff for file in files], ignore_index=True)
    distance = np.concatenate([file.distance for file in files])
    keep = np.ones(len(microseconds), dtype=bool)
    dropped = {}
    for reason, wrong in (
        ("no pickup or drop-off time", ~np.concatenate([file.timed for file in files])),
        ("shorter than 1 minute", microseconds < MICROSECONDS_A_MINUTE),
        ("longer than 60 minutes", microseconds > 60 * MICROSECONDS_A_MINUTE),
        ("no zone", (pickup.isna() | dropoff.isna()).to_numpy()),
        ("no distance", np.isnan(distance)),
    ):
        count = int(np.count_nonzero(keep & wrong))
        if count:
            dropped[reason] = count
        keep &= ~wrong
    if not keep.any():
        reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
        raise InputError(
            f"{path}: no trip of 1 to 60 minutes is left of {len(keep)} rows"
            f"{f' ({reasons})' if reasons else ''}; give another file"
        )
    frame = pd.DataFrame({PICKUP_ZONE: pickup, DROPOFF_ZONE: dropoff, DISTANCE: distance})
    return Trips(
        frame=frame[keep].reset_index(drop=True),
        minutes=microseconds[keep] / MICROSECONDS_A_MINUTE,
        dropped=dropped,
        path=path,
    )
