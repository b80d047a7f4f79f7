"""Trip files are read, each column in its one type, or refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_trips import any_input, check_message, csv, parquet, published

from search.errors import InputError
from search.tasks.green_taxi import typed_columns, usable_trips


@pytest.mark.parametrize("write", [parquet, csv])
def test_each_column_has_its_type_before_any_row_is_left_out(
    tmp_path: Path, write: Callable[[pd.DataFrame, Path], Path]
) -> None:
    """A missing value is marked, and its row stays."""
    frame = published([0.5, 90.0, 10.0, 10.0])
    frame["PULocationID"] = frame["PULocationID"].astype("Int64")
    frame.loc[1, "PULocationID"] = pd.NA
    frame.loc[2, "trip_distance"] = np.nan
    frame.loc[3, "lpep_dropoff_datetime"] = pd.NaT
    columns = typed_columns.from_file(write(frame, tmp_path / "trips"))
    assert columns.microseconds[:3].tolist() == [30_000_000, 5_400_000_000, 600_000_000]
    assert columns.timed.tolist() == [True, True, True, False]
    assert columns.pickup.isna().tolist() == [False, True, False, False]
    assert columns.pickup[[0, 2, 3]].tolist() == ["74", "76", "74"]
    assert columns.dropoff.tolist() == ["41", "42", "41", "42"]
    assert np.isnan(columns.distance).tolist() == [False, False, True, False]
    assert columns.distance[[0, 1, 3]].tolist() == [1.1, 2.1, 4.1]


def test_rows_in_memory_are_read_as_those_of_a_file(tmp_path: Path) -> None:
    from_file = typed_columns.from_file(parquet(published(), tmp_path / "a.parquet"))
    from_frame = typed_columns.from_frame(published(), "made")
    for name in ("microseconds", "timed", "pickup", "dropoff", "distance"):
        assert getattr(from_frame, name).tolist() == getattr(from_file, name).tolist()


def test_times_of_the_open_data_site_are_read(tmp_path: Path) -> None:
    """New York's open-data site writes them as 01/31/2021 12:15:56 AM."""
    frame = published()
    for column in ("lpep_pickup_datetime", "lpep_dropoff_datetime"):
        frame[column] = frame[column].dt.strftime("%m/%d/%Y %I:%M:%S %p")
    read = usable_trips.read([csv(frame, tmp_path / "a.csv")])
    assert read.minutes.tolist() == [10.0, 20.5, 7.25]


def without_distance(path: Path) -> Path:
    return parquet(published().rename(columns={"trip_distance": "miles"}), path)


BAD: dict[str, tuple[Callable[[Path], Path], list[str]]] = {
    "absent": (lambda at: at / "none.parquet", ["No such file"]),
    "directory": (lambda at: at, ["directory", "*.parquet"]),
    "too long a name": (lambda at: at / ("n" * 400), ["cannot be opened"]),
    "no column": (
        lambda at: without_distance(at / "a.parquet"),
        ["trip_distance", "Found: VendorID", "miles"],
    ),
    "text for a distance": (
        lambda at: parquet(published(trip_distance="far"), at / "a.parquet"),
        ["trip_distance", "'far'"],
    ),
    "text for a distance in a CSV": (
        lambda at: csv(published(trip_distance="far"), at / "a.csv"),
        ["trip_distance", "'far'"],
    ),
    "numbers for a time": (
        lambda at: parquet(published(lpep_pickup_datetime=5), at / "a.parquet"),
        ["lpep_pickup_datetime", "int64", "timestamps"],
    ),
    "text for a time": (
        lambda at: csv(published(lpep_pickup_datetime="noon"), at / "a.csv"),
        ["lpep_pickup_datetime", "noon"],
    ),
    "times for a zone": (
        lambda at: parquet(published(PULocationID=datetime(2021, 1, 1)), at / "a.parquet"),
        ["PULocationID", "zone ids"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_file_is_refused_in_one_line(tmp_path: Path, case: str) -> None:
    """The line has the file, the column and what was found."""
    make, parts = BAD[case]
    path = make(tmp_path)
    with pytest.raises(InputError) as error:
        typed_columns.from_file(path)
    check_message(error, str(path), *parts)


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("a.parquet", b"", "empty"),
        ("a.parquet", b"no parquet at all", "cannot be read as parquet"),
        ("a.csv", b"a,b\n1,2\n", "no column"),
        ("a.csv", b"\xff\xfe\x00,\x81\n1,2\n", "a.csv"),
        ("a.csv.gz", b"\x1f\x8bbroken", "cannot be read as CSV"),
    ],
)
def test_file_that_cannot_be_read_is_refused_in_one_line(
    tmp_path: Path, name: str, content: bytes, part: str
) -> None:
    """Empty files, other files and broken files have different messages."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as error:
        typed_columns.from_file(tmp_path / name)
    check_message(error, name, part)


def read_or_refused(path: Path) -> None:
    try:
        read = usable_trips.read([path])
    except InputError as error:
        lines = str(error).splitlines()
    else:
        lines = ["read"]
        check_whole(read)
    assert len(lines) == 1


def check_whole(read: usable_trips.Trips) -> None:
    assert len(read.minutes) == len(read.frame) > 0
    assert not read.frame.isna().any().any()
    assert ((read.minutes >= 1) & (read.minutes <= 60)).all()


@any_input
@given(st.binary(max_size=300), st.sampled_from(["a.parquet", "a.csv", "a.csv.gz", "a"]))
def test_random_bytes_are_refused(tmp_path: Path, content: bytes, name: str) -> None:
    """With an InputError, whatever the name of the file."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError):
        typed_columns.from_file(tmp_path / name)


@any_input
@given(st.data())
def test_damaged_parquet_file_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    """A shortened or overwritten file raises no other error than InputError."""
    whole = bytearray(parquet(published(), tmp_path / "a.parquet").read_bytes())
    at = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        del whole[at:]
    else:
        whole[at] = data.draw(st.integers(0, 255))
    (tmp_path / "a.parquet").write_bytes(whole)
    read_or_refused(tmp_path / "a.parquet")


CELLS = st.one_of(
    st.none(),
    st.sampled_from(["74", "74.0", " 3 ", "nan", "inf", "", "x", '"', ",", "1e400", "\n"]),
    st.sampled_from(["2021-01-01 00:00:00", "2021-01-01T00:05:00Z", "2021", "9999999-01-01"]),
    st.text(max_size=5),
    st.integers(-(2**65), 2**65).map(str),
)


@any_input
@given(st.lists(st.tuples(*[CELLS] * 5), max_size=4), st.sampled_from(["\n", "\r\n"]))
def test_csv_with_any_cells_is_read_or_refused(
    tmp_path: Path, rows: list[tuple[str | None, ...]], newline: str
) -> None:
    """Whatever is in the five columns, no other error than InputError is raised."""
    lines = [
        ",".join(typed_columns.COLUMNS),
        *(",".join(cell or "" for cell in row) for row in rows),
    ]
    text = newline.join(lines)
    (tmp_path / "a.csv").write_bytes(text.encode("utf-8", "surrogatepass"))
    read_or_refused(tmp_path / "a.csv")


COLUMNS_OF_ANY_KIND = st.one_of(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=2, max_size=2),
    st.lists(st.floats(), min_size=2, max_size=2),
    st.lists(st.one_of(st.none(), st.text(max_size=6)), min_size=2, max_size=2),
    st.lists(st.booleans(), min_size=2, max_size=2),
    st.lists(st.binary(max_size=4), min_size=2, max_size=2),
    st.lists(st.lists(st.integers(0, 9), max_size=2), min_size=2, max_size=2),
    st.lists(st.fixed_dictionaries({"a": st.integers(0, 9)}), min_size=2, max_size=2),
    st.lists(st.datetimes(), min_size=2, max_size=2),
    st.lists(st.dates(), min_size=2, max_size=2),
    st.lists(st.decimals(-1000, 1000, places=2), min_size=2, max_size=2),
    st.lists(st.timedeltas(timedelta(-9), timedelta(9)), min_size=2, max_size=2),
    st.just([None, None]),
)


@any_input
@given(st.sampled_from(typed_columns.COLUMNS), COLUMNS_OF_ANY_KIND, st.booleans())
def test_parquet_column_of_any_type_is_read_or_refused(
    tmp_path: Path, name: str, values: list[Any], encoded: bool
) -> None:
    """A column of any of Arrow's types is used, or refused in one line."""
    table = pa.Table.from_pandas(published([5.0, 6.0]), preserve_index=False)
    column = pa.array(values)
    if encoded and (pa.types.is_string(column.type) or pa.types.is_integer(column.type)):
        column = column.dictionary_encode()
    table = table.set_column(table.schema.get_field_index(name), name, column)
    pq.write_table(table, tmp_path / "a.parquet")
    read_or_refused(tmp_path / "a.parquet")


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_time_out_of_range_is_refused(tmp_path: Path, unit: str) -> None:
    """A time that does not fit in microseconds does not wrap around."""
    table = pa.Table.from_pandas(published([5.0]), preserve_index=False)
    for value in (-(2**62), 0, 2**62):
        far = pa.array([value], pa.timestamp(unit))
        at = table.schema.get_field_index("lpep_pickup_datetime")
        pq.write_table(table.set_column(at, "lpep_pickup_datetime", far), tmp_path / "a.parquet")
        with pytest.raises(InputError):
            usable_trips.read([tmp_path / "a.parquet"])
