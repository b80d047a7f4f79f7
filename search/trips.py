"""Green-taxi trips: read, cut to what can be learned from, made into a dataset.

With raw_trips (what the served model needs of it), months (where the files come from) and
sample (made trips) this is all that knows taxis; the rest of the program sees a ``Dataset``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray
from sklearn.feature_extraction import DictVectorizer

from search.errors import InputError
from search.raw_trips import (
    DISTANCE,
    DROPOFF_ZONE,
    PICKUP_ZONE,
    feature_rows,
    vectorize,
    zone_names,
)
from trainables.dataset import Dataset, Rows

PICKUP_TIME = "lpep_pickup_datetime"
DROPOFF_TIME = "lpep_dropoff_datetime"
COLUMNS = (PICKUP_TIME, DROPOFF_TIME, PICKUP_ZONE, DROPOFF_ZONE, DISTANCE)


@dataclass(frozen=True)
class Trips:
    """Trips of one role (training, validation or test), cut and cleaned."""

    frame: pd.DataFrame  # [rows] PULocationID (str), DOLocationID (str), trip_distance (float64)
    minutes: NDArray[np.float64]  # [rows] how long each trip took, 1 to 60
    dropped: dict[str, int]  # rows left out, by reason; only reasons that happened
    path: str  # where they came from: the paths joined by ", "


@dataclass(frozen=True)
class Prepared:
    """What a search works on, and what its report and its served model need beside it."""

    dataset: Dataset
    vectorizer: DictVectorizer  # fitted on the training rows only
    train: Trips
    valid: Trips
    test: Trips | None
    test_rows: Rows | None

    @property
    def by_role(self) -> dict[str, Trips]:
        """The trips of each role there is: train, valid and, where given, test."""
        roles = {"train": self.train, "valid": self.valid, "test": self.test}
        return {role: trips for role, trips in roles.items() if trips is not None}

    @property
    def dropped(self) -> dict[str, int]:
        """How many rows were left out of all files, by reason."""
        total: dict[str, int] = {}
        for trips in self.by_role.values():
            for reason, count in trips.dropped.items():
                total[reason] = total.get(reason, 0) + count
        return total


def read(paths: Sequence[Path]) -> Trips:
    """Read parquet or CSV files as one role, rows in the order of the files."""
    if not paths:
        raise InputError("no file of trips named; name at least one parquet or CSV file")
    return _cut([_columns(path) for path in paths], ", ".join(map(str, paths)))


def from_frame(frame: pd.DataFrame, path: str) -> Trips:
    """Take trips that are in memory, in TLC's columns; ``path`` says what they are."""
    return _cut([_typed(pa.Table.from_pandas(frame[list(COLUMNS)]), path)], path)


def prepare(train: Trips, valid: Trips, test: Trips | None = None) -> Prepared:
    """Make the feature matrices; the vectorizer learns its columns from the training rows."""
    vectorizer = DictVectorizer()
    train_features = feature_rows(train.frame)
    vectorizer.fit(train_features)
    dataset = Dataset(
        train=Rows(vectorize(vectorizer, train_features), train.minutes),
        valid=_rows(vectorizer, valid, "validation"),
        digest=digest(train, valid),
    )
    test_rows = None if test is None else _rows(vectorizer, test, "test")
    return Prepared(dataset, vectorizer, train, valid, test, test_rows)


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


_MICROSECONDS_A_MINUTE = 60_000_000


@dataclass(frozen=True)
class _Columns:
    """One file's rows before the cut, each column in its one type."""

    microseconds: NDArray[np.int64]  # [rows] drop-off minus pickup
    timed: NDArray[np.bool_]  # [rows] both times are there
    pickup: pd.Series  # [rows] str, missing where there is none
    dropoff: pd.Series  # [rows] str, missing where there is none
    distance: NDArray[np.float64]  # [rows] miles, NaN where there is none


def _columns(path: Path) -> _Columns:
    head = _head(path)
    kind, read_table = ("parquet", _parquet) if _is_parquet(path, head) else ("CSV", _csv)
    try:
        table = read_table(path)
    except _UNREADABLE as error:
        raise InputError(
            f"{path}: cannot be read as {kind}: {_short(error)}; give a whole, readable file"
        ) from error
    return _typed(table, path)


def _head(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise InputError(
                f"{path}: this is a directory; name the files in it, as {path}/*.parquet"
            )
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: not a regular file; name a parquet or CSV file")
        with path.open("rb") as file:
            head = file.read(4)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be opened: {reason}; check the path") from error
    if not head:
        raise InputError(f"{path}: the file is empty; name a parquet or CSV file with trips")
    return head


# All that pyarrow and pandas were seen to raise for a bad file; ArrowInvalid is a ValueError.
_UNREADABLE = (pa.ArrowException, OSError, ValueError, TypeError, KeyError, OverflowError)


def _is_parquet(path: Path, head: bytes) -> bool:
    name = path.name.lower()
    if name.endswith((".parquet", ".pq")):
        return True
    return head == b"PAR1" and not name.endswith((".csv", ".csv.gz"))


def _parquet(path: Path) -> Any:
    # Not read_table: it takes "year=2021" in a folder's name for a column.
    with pa.parquet.ParquetFile(path) as file:
        _check_columns(path, file.schema_arrow.names)
        return file.read(columns=list(COLUMNS))


def _csv(path: Path) -> Any:
    compression = "gzip" if _head(path).startswith(b"\x1f\x8b") else None
    with (
        pa.input_stream(str(path), compression=compression) as stream,
        pa.csv.open_csv(stream) as rows,
    ):
        _check_columns(path, rows.schema.names)
    # Everything as text: one converter, exact to the last bit, serves both kinds of file.
    convert = pa.csv.ConvertOptions(
        include_columns=list(COLUMNS),
        column_types=dict.fromkeys(COLUMNS, pa.string()),
        strings_can_be_null=True,
    )
    with pa.input_stream(str(path), compression=compression) as stream:
        return pa.csv.read_csv(stream, convert_options=convert)


def _check_columns(path: Path, found: Sequence[str]) -> None:
    shown = _short(", ".join(found))
    for column in COLUMNS:
        if column not in found:
            raise InputError(
                f"{path}: no column {column!r}; is this a green-taxi file? Found: {shown}"
            )
        if found.count(column) > 1:
            raise InputError(f"{path}: column {column!r} is there twice; keep one. Found: {shown}")


def _typed(table: Any, path: Path | str) -> _Columns:
    columns = {}
    for name in COLUMNS:
        convert = {PICKUP_ZONE: _zones, DROPOFF_ZONE: _zones, DISTANCE: _distances}.get(
            name, _times
        )
        try:
            columns[name] = convert(table.column(name))
        except _UNREADABLE as error:
            raise InputError(
                f"{path}: column {name!r} of type {table.schema.field(name).type} cannot be used: "
                f"{_short(error)}; give {_WANTED[convert]}"
            ) from error
    pickup, dropoff = columns[PICKUP_TIME], columns[DROPOFF_TIME]
    return _Columns(
        microseconds=dropoff.astype(np.int64) - pickup.astype(np.int64),
        timed=~(np.isnat(pickup) | np.isnat(dropoff)),
        pickup=columns[PICKUP_ZONE],
        dropoff=columns[DROPOFF_ZONE],
        distance=columns[DISTANCE],
    )


def _times(column: Any) -> Any:
    """Return datetime64[us]; naive times are taken as they stand, as TLC publishes them."""
    column = _plain(column)
    if pa.types.is_timestamp(column.type):
        # Nanoseconds may be cut off, but a time too far away must not wrap around.
        options = pc.CastOptions(pa.timestamp("us"), allow_time_truncate=True)
        return pc.cast(column, options=options).to_numpy()
    if pa.types.is_null(column.type):
        return np.full(len(column), "NaT", dtype="datetime64[us]")
    if not _is_text(column.type):
        raise TypeError("it holds no times")
    texts = _trimmed(column).to_pandas()
    try:
        times = pd.to_datetime(texts, format="ISO8601")
    except ValueError:
        if not _OPEN_DATA_TIME.match(next(iter(texts.dropna()), "")):
            raise
        times = pd.to_datetime(texts, format="%m/%d/%Y %I:%M:%S %p")
    if times.dt.tz is not None:
        times = times.dt.tz_convert(None)
    return times.to_numpy().astype("datetime64[us]")


# 01/31/2021 12:15:56 AM, as New York's open-data site exports the same trips.
_OPEN_DATA_TIME = re.compile(r"\d\d/\d\d/\d{4} \d\d:\d\d:\d\d [AP]M")


def _zones(column: Any) -> pd.Series:
    column = _plain(column)
    if not (_is_number(column.type) or _is_text(column.type) or pa.types.is_null(column.type)):
        raise TypeError("it holds no zone ids")
    return zone_names(column.to_pandas())


def _distances(column: Any) -> Any:
    column = _plain(column)
    if _is_text(column.type):
        column = _trimmed(column)
    elif not (_is_number(column.type) or pa.types.is_null(column.type)):
        raise TypeError("it holds no numbers")
    distances = pc.cast(column, pa.float64(), safe=False).to_numpy()
    return np.where(np.isfinite(distances), distances, np.nan)


_WANTED: dict[Any, str] = {
    _times: "timestamps, or text as 2021-01-31 12:15:56",
    _zones: "zone ids as whole numbers or text",
    _distances: "distances in miles as numbers",
}


def _plain(column: Any) -> Any:
    if pa.types.is_dictionary(column.type):
        column = pc.cast(column, column.type.value_type)
    if pa.types.is_string_view(column.type):
        column = pc.cast(column, pa.string())
    return column


def _trimmed(column: Any) -> Any:
    text = pc.utf8_trim_whitespace(column)
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, text.type), text)


def _is_number(kind: Any) -> bool:
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    )


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _cut(files: Sequence[_Columns], path: str) -> Trips:
    microseconds = np.concatenate([file.microseconds for file in files])
    pickup = pd.concat([file.pickup for file in files], ignore_index=True)
    dropoff = pd.concat([file.dropoff for file in files], ignore_index=True)
    distance = np.concatenate([file.distance for file in files])
    keep = np.ones(len(microseconds), dtype=bool)
    dropped = {}
    for reason, wrong in (
        ("no pickup or drop-off time", ~np.concatenate([file.timed for file in files])),
        ("shorter than 1 minute", microseconds < _MICROSECONDS_A_MINUTE),
        ("longer than 60 minutes", microseconds > 60 * _MICROSECONDS_A_MINUTE),
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
        minutes=microseconds[keep] / _MICROSECONDS_A_MINUTE,
        dropped=dropped,
        path=path,
    )


def _rows(vectorizer: DictVectorizer, trips: Trips, role: str) -> Rows:
    matrix = vectorize(vectorizer, feature_rows(trips.frame))
    # Every row has its distance; a second entry is its zone pair, where training had it.
    if (np.diff(matrix.indptr) < 2).all():
        pairs = feature_rows(trips.frame.head(1))[0]["PU_DO"]
        raise InputError(
            f"{trips.path}: none of the {len(trips.minutes)} {role} trips has a zone pair known "
            f"from training (found {pairs}, ...); give {role} and training trips of the same city"
        )
    return Rows(matrix, trips.minutes)


def _short(what: object, length: int = 200) -> str:
    line = " ".join(str(what).split())
    return line if len(line) <= length else f"{line[:length]}..."
