"""Files of trips, parquet or CSV, as typed columns: before any row is left out."""

from __future__ import annotations

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

from search.errors import InputError
from search.tasks.green_taxi.served_model import DISTANCE, DROPOFF_ZONE, PICKUP_ZONE, zone_names

PICKUP_TIME = "lpep_pickup_datetime"
DROPOFF_TIME = "lpep_dropoff_datetime"
COLUMNS = (PICKUP_TIME, DROPOFF_TIME, PICKUP_ZONE, DROPOFF_ZONE, DISTANCE)


@dataclass(frozen=True)
class Columns:
    """One file's rows, each column in its one type."""

    microseconds: NDArray[np.int64]  # [rows] drop-off minus pickup
    timed: NDArray[np.bool_]  # [rows] both times are there
    pickup: pd.Series  # [rows] str, missing where there is none
    dropoff: pd.Series  # [rows] str, missing where there is none
    distance: NDArray[np.float64]  # [rows] miles, NaN where there is none


def from_file(path: Path) -> Columns:
    """Read a parquet or CSV file.

    :raises InputError: it cannot be read, or is not a file of trips.
    """
    head = _head(path)
    kind, read_table = ("parquet", _parquet) if _is_parquet(path, head) else ("CSV", _csv)
    try:
        table = read_table(path)
    except _UNREADABLE as error:
        raise InputError(
            f"{path}: cannot be read as {kind}: {shortened(error)}; give a whole, readable file"
        ) from error
    return _typed(table, path)


def from_frame(frame: pd.DataFrame, name: str) -> Columns:
    """Take rows that are in memory, in TLC's columns. ``name``: what errors call them."""
    return _typed(pa.Table.from_pandas(frame[list(COLUMNS)]), name)


def shortened(what: object, length: int = 200) -> str:
    """Return a text on one line, cut where it is too long to be read."""
    line = " ".join(str(what).split())
    return line if len(line) <= length else f"{line[:length]}..."


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


# What pyarrow and pandas raise for a bad file; ArrowInvalid is a ValueError.
_UNREADABLE = (pa.ArrowException, OSError, ValueError, TypeError, KeyError, OverflowError)


def _is_parquet(path: Path, head: bytes) -> bool:
    name = path.name.lower()
    if name.endswith((".parquet", ".pq")):
        return True
    return head == b"PAR1" and not name.endswith((".csv", ".csv.gz"))


def _parquet(path: Path) -> Any:
    # Not read_table, which takes "year=2021" in a folder's name for a column.
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
    # All as text: the same converters, exact to the last bit, serve both kinds of file.
    convert = pa.csv.ConvertOptions(
        include_columns=list(COLUMNS),
        column_types=dict.fromkeys(COLUMNS, pa.string()),
        strings_can_be_null=True,
    )
    with pa.input_stream(str(path), compression=compression) as stream:
        return pa.csv.read_csv(stream, convert_options=convert)


def _check_columns(path: Path, found: Sequence[str]) -> None:
    shown = shortened(", ".join(found))
    for column in COLUMNS:
        if column not in found:
            raise InputError(
                f"{path}: no column {column!r}; is this a green-taxi file? Found: {shown}"
            )
        if found.count(column) > 1:
            raise InputError(f"{path}: column {column!r} is there twice; keep one. Found: {shown}")


def _typed(table: Any, path: Path | str) -> Columns:
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
                f"{shortened(error)}; give {_WANTED[convert]}"
            ) from error
    pickup, dropoff = columns[PICKUP_TIME], columns[DROPOFF_TIME]
    return Columns(
        microseconds=dropoff.astype(np.int64) - pickup.astype(np.int64),
        timed=~(np.isnat(pickup) | np.isnat(dropoff)),
        pickup=columns[PICKUP_ZONE],
        dropoff=columns[DROPOFF_ZONE],
        distance=columns[DISTANCE],
    )


def _times(column: Any) -> Any:
    """Return datetime64[us]. Naive times are kept as they are, as TLC publishes them."""
    column = _plain(column)
    if pa.types.is_timestamp(column.type):
        # Nanoseconds may be cut off, but a time out of range must not wrap around.
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
    if times.dtype == object:  # pandas 2 returns them as they are, pandas 3 raises
        raise ValueError("some times have a time zone and some have none")
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
