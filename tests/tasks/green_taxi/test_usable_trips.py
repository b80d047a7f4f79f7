"""Which trips are kept, and the digest that names them."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_trips import REAL, any_input, check_message, csv, parquet, published

from search.errors import InputError
from search.tasks.green_taxi import usable_trips


def test_trips_of_1_to_60_minutes_are_kept_and_others_counted_by_reason(
    tmp_path: Path,
) -> None:
    """Both limits are inclusive, to the microsecond. A row is counted for its first reason."""
    tick = 1 / 60_000_000
    frame = published([1.0, 60.0, 1 - tick, 60 + tick, 0.0, 10.0, 10.0, 10.0, 10.0])
    frame["PULocationID"] = frame["PULocationID"].astype("Int64")
    frame.loc[4, "PULocationID"] = pd.NA  # also too short, which is the first reason
    frame.loc[5, "PULocationID"] = pd.NA
    frame.loc[6, "trip_distance"] = np.nan
    frame.loc[7, "trip_distance"] = np.inf
    frame.loc[8, "lpep_dropoff_datetime"] = pd.NaT

    read = usable_trips.read([parquet(frame, tmp_path / "a.parquet")])

    assert read.minutes.tolist() == [1.0, 60.0]
    assert read.dropped == {
        "no pickup or drop-off time": 1,
        "shorter than 1 minute": 2,
        "longer than 60 minutes": 1,
        "no zone": 1,
        "no distance": 2,
    }
    assert list(read.frame) == ["PULocationID", "DOLocationID", "trip_distance"]


def test_duration_column_is_not_used(tmp_path: Path) -> None:
    """The duration is always computed from the two times."""
    frame = published(duration=999.0, __index_level_0__=1)
    read = usable_trips.read([parquet(frame, tmp_path / "a.parquet")])
    assert read.minutes.tolist() == [10.0, 20.5, 7.25]
    assert read.dropped == {}


def test_files_are_read_in_the_order_given(tmp_path: Path) -> None:
    """The rows have the order of the files, and the path names all files."""
    a = parquet(published([5.0]), tmp_path / "a.parquet")
    b = csv(published([6.0]), tmp_path / "b.csv")
    read = usable_trips.read([b, a])
    assert read.minutes.tolist() == [6.0, 5.0]
    assert read.path == f"{b}, {a}"


@pytest.mark.parametrize(
    ("frame", "parts"),
    [
        (
            published([0.5, 90.0, 70.0]),
            ["3 rows", "1 shorter than 1 minute", "2 longer than 60 minutes"],
        ),
        (published().head(0), ["0 rows"]),
    ],
    ids=["none kept", "no row"],
)
def test_file_without_a_trip_to_keep_is_refused(
    tmp_path: Path, frame: pd.DataFrame, parts: list[str]
) -> None:
    """The message has the file and the counts."""
    for path in (parquet(frame, tmp_path / "a.parquet"), csv(frame, tmp_path / "a.csv")):
        with pytest.raises(InputError) as error:
            usable_trips.read([path])
        check_message(error, str(path), *parts)


def test_no_file_is_refused() -> None:
    with pytest.raises(InputError, match="no file of trips named"):
        usable_trips.read([])


def forms(frame: pd.DataFrame, folder: Path) -> list[Path]:
    """Return files with the same rows in every form that a user may give."""
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
def test_digest_is_the_same_for_every_form_of_the_same_rows(
    tmp_path: Path, rows: list[tuple[int, float, int]]
) -> None:
    """Parquet or CSV, zone ids as numbers or text, one file or two: every bit is the same."""
    frame = published([1.0] * len(rows), [distance for _, distance, _ in rows])
    frame["lpep_dropoff_datetime"] = frame["lpep_pickup_datetime"] + pd.to_timedelta(
        [microseconds for microseconds, _, _ in rows], unit="us"
    ).as_unit("us")
    frame["DOLocationID"] = [zone for _, _, zone in rows]
    parts = [
        parquet(frame.iloc[:1], tmp_path / "part1.parquet"),
        csv(frame.iloc[1:], tmp_path / "part2.csv"),
    ]
    found = [usable_trips.read([path]) for path in forms(frame, tmp_path)] + [
        usable_trips.read(parts)
    ]
    assert {usable_trips.digest(each, each) for each in found} == {
        usable_trips.digest(found[0], found[0])
    }


def test_digest_differs_if_anything_used_differs(tmp_path: Path) -> None:
    """A value, the order or the role of rows."""
    base = usable_trips.read([parquet(published(), tmp_path / "a.parquet")])

    def changed(column: str, value: str | float) -> usable_trips.Trips:
        frame = base.frame.copy()
        frame.loc[1, column] = value
        return replace(base, frame=frame)

    later = base.minutes.copy()
    later[2] = np.nextafter(later[2], 60)
    backwards = usable_trips.Trips(base.frame[::-1], base.minutes[::-1], {}, "")
    moved = [
        usable_trips.Trips(
            pd.concat([base.frame, base.frame.head(1)]), np.append(base.minutes, 10.0), {}, ""
        ),
        usable_trips.Trips(base.frame.iloc[1:], base.minutes[1:], {}, ""),
    ]
    digests = [
        usable_trips.digest(base, base),
        usable_trips.digest(changed("PULocationID", "7"), base),
        usable_trips.digest(changed("PULocationID", "7542"), base),
        usable_trips.digest(changed("DOLocationID", "43"), base),
        usable_trips.digest(changed("trip_distance", np.nextafter(2.1, 3)), base),
        usable_trips.digest(base, changed("trip_distance", 2.0)),
        usable_trips.digest(replace(base, minutes=later), base),
        usable_trips.digest(backwards, base),
        usable_trips.digest(*moved),
    ]
    assert len(set(digests)) == len(digests)
    assert all(len(digest) == 32 and int(digest, 16) >= 0 for digest in digests)


def test_digest_keeps_zone_names_apart() -> None:
    """The zones 1 and 23 of two rows are not the zones 12 and 3."""
    one = published([5.0, 5.0], [1.0, 1.0], PULocationID=[1, 23], DOLocationID=5)
    two = published([5.0, 5.0], [1.0, 1.0], PULocationID=[12, 3], DOLocationID=5)
    a, b = (usable_trips.from_frame(frame, "") for frame in (one, two))
    assert usable_trips.digest(a, a) != usable_trips.digest(b, b)


def test_digest_does_not_depend_on_the_path_or_dropped_rows(tmp_path: Path) -> None:
    """It is pinned: no release may change it."""
    with_dirt = published([10.0, 20.5, 0.2, 7.25], [1.1, 2.1, 9.0, 3.1])
    with_dirt["PULocationID"] = [74, 75, 1, 76]
    with_dirt["DOLocationID"] = [41, 42, 1, 41]
    a = usable_trips.read([parquet(published(), tmp_path / "a.parquet")])
    b = usable_trips.read([parquet(with_dirt, tmp_path / "b.parquet")])
    assert (
        usable_trips.digest(a, a) == usable_trips.digest(b, b) == "24e1bc9a04f3b1b687d045cffebe40dd"
    )


@pytest.mark.skipif(not REAL.is_dir(), reason="no real trips beside the repository")
def test_month_as_published_is_cut() -> None:
    """2023-01 has integer zone ids and trips from 0 to 1,440 minutes."""
    read = usable_trips.read([REAL / "green_tripdata_2023-01.parquet"])
    assert len(read.minutes) == 65_946
    assert sum(read.dropped.values()) == 68_211 - 65_946
