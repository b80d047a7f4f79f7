"""What reading, cutting and preparing trips promises."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Lasso, LinearRegression

from search import trips
from search.errors import InputError

REAL = Path(__file__).parents[2].parent / "shared" / "data"
any_input = settings(
    max_examples=60,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def published(
    minutes: list[float] | None = None, distances: list[float] | None = None, **changed: Any
) -> pd.DataFrame:
    """Trips in TLC's columns, three good ones unless told otherwise."""
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
    frame.to_parquet(path, index=False)
    return path


def csv(frame: pd.DataFrame, path: Path) -> Path:
    frame.to_csv(path, index=False)
    return path


def one_line(error: pytest.ExceptionInfo[InputError], *parts: str) -> None:
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


# Reading and cutting


def test_a_trip_of_1_to_60_minutes_is_kept_and_the_rest_is_counted_by_reason(
    tmp_path: Path,
) -> None:
    """Both ends are inclusive, to the microsecond, and a row is counted for its first reason."""
    tick = 1 / 60_000_000
    frame = published([1.0, 60.0, 1 - tick, 60 + tick, 0.0, 10.0, 10.0, 10.0, 10.0])
    frame["PULocationID"] = frame["PULocationID"].astype("Int64")
    frame.loc[4, "PULocationID"] = pd.NA  # too short first
    frame.loc[5, "PULocationID"] = pd.NA
    frame.loc[6, "trip_distance"] = np.nan
    frame.loc[7, "trip_distance"] = np.inf
    frame.loc[8, "lpep_dropoff_datetime"] = pd.NaT

    read = trips.read([parquet(frame, tmp_path / "a.parquet")])

    assert read.minutes.tolist() == [1.0, 60.0]
    assert read.dropped == {
        "no pickup or drop-off time": 1,
        "shorter than 1 minute": 2,
        "longer than 60 minutes": 1,
        "no zone": 1,
        "no distance": 2,
    }
    assert list(read.frame) == ["PULocationID", "DOLocationID", "trip_distance"]


def test_a_duration_column_is_not_believed(tmp_path: Path) -> None:
    """The duration is always computed from the two timestamps."""
    frame = published(duration=999.0, __index_level_0__=1)
    read = trips.read([parquet(frame, tmp_path / "a.parquet")])
    assert read.minutes.tolist() == [10.0, 20.5, 7.25]
    assert read.dropped == {}


def test_files_are_read_in_the_order_given(tmp_path: Path) -> None:
    """Rows follow the files as named, and the path names them all."""
    a = parquet(published([5.0]), tmp_path / "a.parquet")
    b = csv(published([6.0]), tmp_path / "b.csv")
    read = trips.read([b, a])
    assert read.minutes.tolist() == [6.0, 5.0]
    assert read.path == f"{b}, {a}"


def forms(frame: pd.DataFrame, folder: Path) -> list[Path]:
    """The same rows in every form a user may hand in."""
    text = frame.astype({"PULocationID": "str", "DOLocationID": "str"})
    zoned = frame.assign(
        lpep_pickup_datetime=frame["lpep_pickup_datetime"].dt.tz_localize("UTC"),
        lpep_dropoff_datetime=frame["lpep_dropoff_datetime"].dt.tz_localize("UTC"),
    )
    nano = frame.astype(dict.fromkeys(list(frame.columns[1:3]), "datetime64[ns]"))
    time_text = frame.astype(dict.fromkeys(list(frame.columns[1:3]), "str"))
    no_suffix = csv(frame, folder / "from_somewhere")
    packed = folder / "e.csv.gz"
    packed.write_bytes(gzip.compress(no_suffix.read_bytes()))
    category = frame.astype({"PULocationID": "str"}).astype({"PULocationID": "category"})
    paths = [
        parquet(frame, folder / "int.parquet"),
        parquet(text, folder / "text.parquet"),
        parquet(frame.astype({"PULocationID": "float64"}), folder / "float.parquet"),
        parquet(category, folder / "category.parquet"),
        parquet(zoned, folder / "zoned.parquet"),
        parquet(nano, folder / "nano.parquet"),
        parquet(time_text, folder / "time_text.parquet"),
        csv(frame, folder / "d.csv"),
        csv(frame.astype({"PULocationID": "float64"}), folder / "float.csv"),
        no_suffix,
        packed,
    ]
    bare = folder / "parquet_without_suffix"
    bare.write_bytes(paths[0].read_bytes())
    return [*paths, bare]


@settings(any_input, max_examples=15)
@given(
    st.lists(
        st.tuples(
            st.integers(60_000_000, 3_600_000_000),
            st.floats(0, 1e6, allow_nan=False),
            st.integers(1, 265),
        ),
        min_size=2,
        max_size=6,
    )
)
def test_the_digest_is_the_same_for_every_form_of_the_same_rows(
    tmp_path: Path, rows: list[tuple[int, float, int]]
) -> None:
    """Parquet or CSV, zone ids as numbers or text, one file or two: one digest, to the last bit."""
    frame = published([1.0] * len(rows), [distance for _, distance, _ in rows])
    frame["lpep_dropoff_datetime"] = frame["lpep_pickup_datetime"] + pd.to_timedelta(
        [microseconds for microseconds, _, _ in rows], unit="us"
    ).as_unit("us")
    frame["DOLocationID"] = [zone for _, _, zone in rows]
    parts = [
        parquet(frame.iloc[:1], tmp_path / "part1.parquet"),
        csv(frame.iloc[1:], tmp_path / "part2.csv"),
    ]
    found = [trips.read([path]) for path in forms(frame, tmp_path)] + [trips.read(parts)]
    assert {trips.digest(each, each) for each in found} == {trips.digest(found[0], found[0])}


def test_the_digest_differs_when_anything_used_differs(tmp_path: Path) -> None:
    """Another value, order, role or border between zones is another dataset."""
    base = trips.read([parquet(published(), tmp_path / "a.parquet")])

    def changed(column: str, value: str | float) -> trips.Trips:
        frame = base.frame.copy()
        frame.loc[1, column] = value
        return replace(base, frame=frame)

    later = base.minutes.copy()
    later[2] = np.nextafter(later[2], 60)
    backwards = trips.Trips(base.frame[::-1], base.minutes[::-1], {}, "")
    moved = [
        trips.Trips(
            pd.concat([base.frame, base.frame.head(1)]), np.append(base.minutes, 10.0), {}, ""
        ),
        trips.Trips(base.frame.iloc[1:], base.minutes[1:], {}, ""),
    ]
    digests = [
        trips.digest(base, base),
        trips.digest(changed("PULocationID", "7"), base),
        trips.digest(changed("PULocationID", "7542"), base),
        trips.digest(changed("DOLocationID", "43"), base),
        trips.digest(changed("trip_distance", np.nextafter(2.1, 3)), base),
        trips.digest(base, changed("trip_distance", 2.0)),
        trips.digest(replace(base, minutes=later), base),
        trips.digest(backwards, base),
        trips.digest(*moved),
    ]
    assert len(set(digests)) == len(digests)
    assert all(len(digest) == 32 and int(digest, 16) >= 0 for digest in digests)


def test_the_digest_keeps_zone_names_apart() -> None:
    """("1", "23") and ("12", "3") in consecutive rows are different rows."""
    one = published([5.0, 5.0], [1.0, 1.0], PULocationID=[1, 23], DOLocationID=5)
    two = published([5.0, 5.0], [1.0, 1.0], PULocationID=[12, 3], DOLocationID=5)
    a, b = (trips.from_frame(frame, "") for frame in (one, two))
    assert trips.digest(a, a) != trips.digest(b, b)


def test_the_digest_does_not_know_the_path_or_the_dropped_rows(tmp_path: Path) -> None:
    """The rows as used count, nothing else; it is pinned, so that no release changes it."""
    with_dirt = published([10.0, 20.5, 0.2, 7.25], [1.1, 2.1, 9.0, 3.1])
    with_dirt["PULocationID"] = [74, 75, 1, 76]
    with_dirt["DOLocationID"] = [41, 42, 1, 41]
    a = trips.read([parquet(published(), tmp_path / "a.parquet")])
    b = trips.read([parquet(with_dirt, tmp_path / "b.parquet")])
    assert trips.digest(a, a) == trips.digest(b, b) == "24e1bc9a04f3b1b687d045cffebe40dd"


def test_times_as_the_open_data_site_writes_them_are_read(tmp_path: Path) -> None:
    """01/31/2021 12:15:56 AM is New York's other form for the same column."""
    frame = published()
    for column in ("lpep_pickup_datetime", "lpep_dropoff_datetime"):
        frame[column] = frame[column].dt.strftime("%m/%d/%Y %I:%M:%S %p")
    read = trips.read([csv(frame, tmp_path / "a.csv")])
    assert read.minutes.tolist() == [10.0, 20.5, 7.25]


# Bad input


def renamed(path: Path) -> Path:
    return parquet(published().rename(columns={"trip_distance": "miles"}), path)


BAD: dict[str, tuple[Callable[[Path], Path], list[str]]] = {
    "absent": (lambda at: at / "none.parquet", ["No such file"]),
    "directory": (lambda at: at, ["directory", "*.parquet"]),
    "too long a name": (lambda at: at / ("n" * 400), ["cannot be opened"]),
    "no column": (
        lambda at: renamed(at / "a.parquet"),
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
    "nothing left": (
        lambda at: parquet(published([0.5, 90.0, 70.0]), at / "a.parquet"),
        ["3 rows", "1 shorter than 1 minute", "2 longer than 60 minutes"],
    ),
    "no row": (lambda at: csv(published().head(0), at / "a.csv"), ["0 rows"]),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_one_line_that_says_what_was_found(tmp_path: Path, case: str) -> None:
    """The line names the file, the thing and what was found."""
    make, parts = BAD[case]
    path = make(tmp_path)
    with pytest.raises(InputError) as error:
        trips.read([path])
    one_line(error, str(path), *parts)


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
def test_bytes_that_are_no_trips_are_one_line(
    tmp_path: Path, name: str, content: bytes, part: str
) -> None:
    """Empty, foreign and broken files are told apart."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as error:
        trips.read([tmp_path / name])
    one_line(error, name, part)


def read_or_refused(path: Path) -> None:
    try:
        read = trips.read([path])
    except InputError as error:
        lines = str(error).splitlines()
    else:
        lines = ["read"]
        check_whole(read)
    assert len(lines) == 1


def check_whole(read: trips.Trips) -> None:
    assert len(read.minutes) == len(read.frame) > 0
    assert not read.frame.isna().any().any()
    assert ((read.minutes >= 1) & (read.minutes <= 60)).all()


@any_input
@given(st.binary(max_size=300), st.sampled_from(["a.parquet", "a.csv", "a.csv.gz", "a"]))
def test_garbage_is_refused_and_nothing_else(tmp_path: Path, content: bytes, name: str) -> None:
    """Random bytes under any name give an InputError."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError):
        trips.read([tmp_path / name])


@any_input
@given(st.data())
def test_a_damaged_parquet_file_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    """A cut or overwritten file never raises anything but InputError."""
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
def test_an_odd_csv_is_read_or_refused(
    tmp_path: Path, rows: list[tuple[str | None, ...]], newline: str
) -> None:
    """Whatever stands in the five columns, only InputError is raised."""
    lines = [",".join(trips.COLUMNS), *(",".join(cell or "" for cell in row) for row in rows)]
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
@given(st.sampled_from(trips.COLUMNS), COLUMNS_OF_ANY_KIND, st.booleans())
def test_an_odd_parquet_column_is_read_or_refused(
    tmp_path: Path, name: str, values: list[Any], encoded: bool
) -> None:
    """A column of any type arrow knows is used or refused in one line."""
    table = pa.Table.from_pandas(published([5.0, 6.0]), preserve_index=False)
    column = pa.array(values)
    if encoded and (pa.types.is_string(column.type) or pa.types.is_integer(column.type)):
        column = column.dictionary_encode()
    table = table.set_column(table.schema.get_field_index(name), name, column)
    pq.write_table(table, tmp_path / "a.parquet")
    read_or_refused(tmp_path / "a.parquet")


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_times_of_any_unit_and_age_are_read_or_refused(tmp_path: Path, unit: str) -> None:
    """A time too far away to count in microseconds does not wrap around."""
    table = pa.Table.from_pandas(published([5.0]), preserve_index=False)
    for value in (-(2**62), 0, 2**62):
        far = pa.array([value], pa.timestamp(unit))
        at = table.schema.get_field_index("lpep_pickup_datetime")
        pq.write_table(table.set_column(at, "lpep_pickup_datetime", far), tmp_path / "a.parquet")
        with pytest.raises(InputError):
            trips.read([tmp_path / "a.parquet"])


# Preparing


def test_the_columns_come_from_the_training_rows_only() -> None:
    """An unknown validation pair has its distance and no column of its own."""
    train = trips.from_frame(published(), "train")
    valid = trips.from_frame(published([5.0, 6.0], PULocationID=[74, 200]), "valid")
    prepared = trips.prepare(train, valid, valid)
    assert prepared.vectorizer.get_feature_names_out().tolist() == [
        "PU_DO=74_41",
        "PU_DO=75_42",
        "PU_DO=76_41",
        "trip_distance",
    ]
    assert prepared.dataset.valid.features.toarray().tolist() == [[1, 0, 0, 1.1], [0, 0, 0, 2.1]]
    assert prepared.dataset.train.features.dtype == np.float64
    assert prepared.dataset.train.features.indices.dtype == np.int32
    assert prepared.test_rows is not None
    assert prepared.test_rows.target.tolist() == [5.0, 6.0]


def test_the_test_rows_are_not_part_of_the_digest() -> None:
    """A search with and without a test set is a search on the same dataset."""
    train = trips.from_frame(published(), "train")
    without = trips.prepare(train, train)
    assert without.dataset.digest == trips.prepare(train, train, train).dataset.digest
    assert without.test is None
    assert without.test_rows is None


def test_validation_trips_of_another_city_are_refused() -> None:
    """Without one known zone pair there is nothing to validate."""
    train = trips.from_frame(published(), "train")
    other = trips.from_frame(published(PULocationID=9), "other.parquet")
    with pytest.raises(InputError) as error:
        trips.prepare(train, other)
    one_line(error, "other.parquet", "none of the 3 validation trips", "9_41")
    with pytest.raises(InputError, match="test trips"):
        trips.prepare(train, train, other)


@pytest.mark.skipif(not REAL.is_dir(), reason="no real trips beside the repository")
def test_the_real_months_give_the_published_figures() -> None:
    """13,221 columns, RMSE 7.7587 for linear regression and 11.1673 for Lasso(alpha=0.01)."""
    train, valid = (
        trips.read([REAL / f"green_tripdata_2021-0{month}.parquet"]) for month in (1, 2)
    )
    data = trips.prepare(train, valid).dataset
    assert data.train.features.shape == (73_908, 13_221)
    assert data.valid.features.shape == (61_921, 13_221)
    for model, published_rmse in ((LinearRegression(), 7.7587), (Lasso(alpha=0.01), 11.1673)):
        model.fit(data.train.features, data.train.target)
        error = model.predict(data.valid.features) - data.valid.target
        assert round(float(np.sqrt(np.mean(error**2))), 4) == published_rmse


@pytest.mark.skipif(not REAL.is_dir(), reason="no real trips beside the repository")
def test_a_month_as_published_is_cut() -> None:
    """2023-01 has integer zone ids and trips from 0 to 1,440 minutes."""
    read = trips.read([REAL / "green_tripdata_2023-01.parquet"])
    assert len(read.minutes) == 65_946
    assert sum(read.dropped.values()) == 68_211 - 65_946
