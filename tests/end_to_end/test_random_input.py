"""Any user input is either used or refused with one line of error.

These tests do in this process what the command does before it starts anything.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command import few_trips, write_trips
from hypothesis import HealthCheck, assume, event, example, given, settings
from hypothesis import strategies as st

from search.conduct.plan import planned
from search.errors import InputError
from search.options.command_line import parse
from search.options.settings import Settings
from search.present.progress import Display
from search.suggest.searcher import TPESearch
from search.tasks.green_taxi import features, months
from search.tasks.green_taxi.typed_columns import COLUMNS

any_input = settings(
    max_examples=200,
    deadline=None,
    database=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.filter_too_much,
        HealthCheck.data_too_large,
    ],
)
GOOD = few_trips()
INT64 = st.integers(-(2**63), 2**63 - 1)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    write_trips(GOOD, tmp_path / "good.parquet")


def outcome(*argv: str, data: bool = False) -> str:
    """Return whether the command would use these arguments: "used", or "refused".

    ``data``: also read the data and make the feature matrices.
    """
    try:
        settings = parse(argv)
        plan = planned(settings)
        json.dumps([settings.kept, dict(plan.params)], allow_nan=False)
        if plan.task.space.labels:
            searcher = TPESearch(plan.task.space, plan.task.metric, seed=1, first=plan.first)
            for number in range(len(plan.first) + 1):
                config = searcher.suggest(str(number))
                json.dumps(config, allow_nan=False)
        if data:
            check_data(settings)
    except InputError as refusal:
        return "refused" if len(str(refusal).splitlines()) == 1 else "refused in many lines"
    return "used"


def check_data(settings: Settings) -> None:
    """Read the trips and make the matrices; check that all values are usable.

    :raises InputError: the data is refused.
    """
    located = months.locate(
        train=settings.task["train_data"],
        valid=settings.task["valid_data"],
        test=settings.task["test_data"],
        source=months.Source(settings.task["data_dir"], Display(io.StringIO())),
    )
    prepared = features.prepare(located.train, located.valid, located.test)
    matrix = prepared.dataset.train.features
    assert matrix.shape[0] == len(prepared.train.minutes)
    assert all(math.isfinite(value) for value in matrix.data)
    assert all(1 <= minutes <= 60 for minutes in prepared.train.minutes)
    assert len(prepared.dataset.digest) == 32


# Trips

odd_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ["", " ", "nan", "74", " 74 ", "74.0", "0074", "-0", "1e3", "inf", "NaT", "null", "1,5", "\0"]
)
time_texts = st.one_of(
    odd_texts,
    st.datetimes().map(str),
    st.datetimes().map(lambda time: time.isoformat() + "Z"),
    st.dates().map(str),
    st.sampled_from(
        [
            "01/31/2021 12:15:56 AM",
            "13/31/2021 12:15:56 AM",
            "2021-01-31 12:15:56+05:00",
            "2021-02-30",
            "9999-12-31T23:59:59.999999",
            "0000-01-01",
            "2021-01-31T24:00:00",
            "now",
            "2021",
            "202101",
            "1e9",
            "20210131T121556.123456789123",
        ]
    ),
)
floats = st.floats() | st.floats(0.1, 30)
TYPES: Mapping[Any, st.SearchStrategy[Any]] = {
    pa.null(): st.none(),
    pa.bool_(): st.booleans(),
    pa.int8(): st.integers(-128, 127),
    pa.uint64(): st.integers(0, 2**64 - 1),
    pa.int64(): INT64 | st.integers(1, 265),
    pa.float32(): st.floats(width=32),
    pa.float64(): floats,
    pa.decimal128(38, 9): st.decimals(-(10**20), 10**20, places=9),
    pa.string(): odd_texts | time_texts,
    pa.large_string(): odd_texts | time_texts,
    pa.string_view(): odd_texts,
    pa.binary(): st.binary(max_size=8),
    pa.date32(): st.dates(),
    pa.date64(): st.dates(),
    pa.time64("us"): st.times(),
    pa.duration("s"): st.integers(-(2**40), 2**40),
    pa.list_(pa.int64()): st.lists(INT64, max_size=2),
    pa.struct([("x", pa.int64())]): st.fixed_dictionaries({"x": INT64}),
    pa.map_(pa.string(), pa.int64()): st.just([("x", 1)]),
    **{pa.timestamp(unit): INT64 for unit in ("s", "ms", "us", "ns")},
    pa.timestamp("us", "UTC"): INT64,
    pa.timestamp("ns", "America/New_York"): INT64,
}


@st.composite
def any_columns(draw: st.DrawFn, rows: int) -> Any:
    """Draw a column of any type, with or without nulls."""
    kind = draw(st.sampled_from(list(TYPES)))
    values = TYPES[kind] | st.none() if draw(st.booleans()) else TYPES[kind]
    column = pa.array(draw(st.lists(values, min_size=rows, max_size=rows)), kind)
    dense = pa.types.is_string(kind) or pa.types.is_integer(kind)
    return column.dictionary_encode() if dense and draw(st.booleans()) else column


def plausible_columns(name: str, rows: int) -> st.SearchStrategy[Any]:
    """Return columns of the right type, some of them with wrong values."""
    start = 1_609_488_000_000_000
    values, kind = {
        "lpep_pickup_datetime": (st.integers(start, start + 600_000_000), pa.timestamp("us")),
        "lpep_dropoff_datetime": (
            st.integers(start + 600_000_000, start + 4_000_000_000),
            pa.timestamp("us"),
        ),
        "PULocationID": (st.integers(41, 43), pa.int64()),
        "DOLocationID": (st.integers(51, 52), pa.int64()),
        "trip_distance": (floats, pa.float64()),
    }[name]
    with_wrong_values = values | st.none() | (st.floats() if kind == pa.float64() else INT64)
    return st.sampled_from([values, with_wrong_values]).flatmap(
        lambda chosen: st.lists(chosen, min_size=rows, max_size=rows).map(
            lambda drawn: pa.array(drawn, kind)
        )
    )


@st.composite
def tables(draw: st.DrawFn) -> Any:
    """Draw a table that may be usable as trips."""
    rows = draw(st.integers(0, 6))
    odd = draw(st.sets(st.sampled_from(COLUMNS), max_size=2))
    columns = {
        name: draw(any_columns(rows) if name in odd else plausible_columns(name, rows))
        for name in COLUMNS
    }
    for name in draw(st.sets(st.sampled_from(COLUMNS), max_size=draw(st.sampled_from([0, 0, 2])))):
        del columns[name]
    names, values = list(columns), list(columns.values())
    if draw(st.booleans()):
        names.append(draw(odd_texts | st.sampled_from(COLUMNS)))
        values.append(draw(any_columns(rows)))
    return pa.table(values, names=names)


def csv_of(odd: Sequence[Sequence[str]]) -> bytes:
    """Return CSV with good rows, and these rows, whose empty cells are filled from good rows."""
    good = GOOD.astype(str)[list(COLUMNS)].to_numpy().tolist()
    mixed = [
        [text or good_text for text, good_text in zip(row, good_row, strict=True)]
        for row, good_row in zip(odd, good, strict=False)
    ]
    return "\n".join(",".join(row) for row in [list(COLUMNS), *good, *mixed]).encode()


def write_parquet(table: Any, file: Path) -> Path:
    try:
        pq.write_table(table, file)
    except (pa.ArrowException, ValueError):  # parquet cannot hold it
        assume(False)
    return file


def check(found: str) -> None:
    """Check an outcome, and count it in hypothesis' statistics."""
    assert found in ("used", "refused")
    event(found)


def check_training_file(file: Path) -> None:
    check(outcome("--train-data", str(file), "--valid-data", "good.parquet", data=True))


class TestTrips:
    @any_input
    @given(table=tables())
    def test_any_training_table(self, table: Any, tmp_path: Path) -> None:
        """Wrong columns, wrong types, nulls, no rows, infinities, years of any length."""
        check_training_file(write_parquet(table, tmp_path / "any.parquet"))

    @any_input
    @given(table=tables(), role=st.sampled_from(["train", "valid", "test"]))
    def test_any_table_in_any_role(self, table: Any, role: str, tmp_path: Path) -> None:
        """A table that does not match the other files, as one of them or in addition to them."""
        file = str(write_parquet(table, tmp_path / "any.parquet"))
        files = {"train": ["good.parquet"], "valid": ["good.parquet"], "test": ["good.parquet"]}
        files[role] = [file] if role != "train" else ["good.parquet", file]
        words = [word for name in files for word in (f"--{name}-data", *files[name])]
        check(outcome(*words, data=True))

    @any_input
    @given(
        texts=st.lists(st.tuples(odd_texts, odd_texts), min_size=1, max_size=6),
        valid=st.lists(st.tuples(odd_texts, odd_texts), min_size=1, max_size=6),
    )
    def test_any_zones(
        self, texts: list[tuple[str, str]], valid: list[tuple[str, str]], tmp_path: Path
    ) -> None:
        """Any text may be a zone."""
        for name, pairs in (("train", texts), ("valid", valid)):
            frame = few_trips(len(pairs))
            frame["PULocationID"], frame["DOLocationID"] = zip(*pairs, strict=True)
            write_trips(frame, tmp_path / f"{name}.parquet")
        check(outcome("--train-data", "train.parquet", "--valid-data", "valid.parquet", data=True))

    @any_input
    @given(
        form=st.sampled_from(["%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%SZ", "%m/%d/%Y %I:%M:%S %p"]),
        odd=st.dictionaries(st.integers(0, 29), time_texts, max_size=2),
    )
    def test_any_times(self, form: str, odd: dict[int, str], tmp_path: Path) -> None:
        """Times in any format, also in several formats in one file."""
        frame = few_trips()
        for name in ("lpep_pickup_datetime", "lpep_dropoff_datetime"):
            texts = frame[name].dt.strftime(form).tolist()
            frame[name] = [odd.get(row, text) for row, text in enumerate(texts)]
        check_training_file(write_trips(frame, tmp_path / "any.parquet"))

    @any_input
    @given(data=st.data())
    def test_truncated_file(self, data: st.DataObject, tmp_path: Path) -> None:
        """A file that ends after any number of bytes is refused."""
        content = (tmp_path / "good.parquet").read_bytes()
        length = data.draw(st.integers(0, len(content) - 1))
        file = tmp_path / "cut.parquet"
        file.write_bytes(content[:length])
        assert outcome("--train-data", str(file), "--valid-data", str(file), data=True) == "refused"

    @any_input
    @given(data=st.data())
    def test_file_with_changed_bytes(self, data: st.DataObject, tmp_path: Path) -> None:
        """A damaged file is read or refused."""
        changed = bytearray((tmp_path / "good.parquet").read_bytes())
        for _ in range(data.draw(st.integers(1, 3))):
            changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
        file = tmp_path / "changed.parquet"
        file.write_bytes(changed)
        check_training_file(file)

    @any_input
    @given(
        content=st.binary(max_size=200)
        | st.text(max_size=200).map(str.encode)
        | st.lists(st.lists(odd_texts, min_size=5, max_size=5), max_size=3).map(csv_of),
        name=st.sampled_from(["any.csv", "any.csv.gz", "any.parquet", "any"]),
    )
    @example(content=b"PAR1PAR1", name="any.parquet")
    @example(content=b"PAR1", name="any")
    @example(content=b"\x1f\x8b\x08\x00", name="any.csv.gz")
    def test_any_bytes(self, content: bytes, name: str, tmp_path: Path) -> None:
        """Any content, with any suffix of the file name."""
        (tmp_path / name).write_bytes(content)
        check_training_file(tmp_path / name)

    @any_input
    @given(name=st.text(st.characters(exclude_characters="\0"), min_size=1, max_size=20))
    def test_any_file_name(self, name: str) -> None:
        """A name that is no file, no pattern, no URL and no month is refused."""
        assume("://" not in name and not name.startswith(("green:", "-")))
        assume(name not in ("sample", "good.parquet"))
        check(outcome(f"--train-data={name}", "--valid-data", "good.parquet", data=True))


# Points

POINT = {
    "max_depth": 10,
    "learning_rate": 0.1,
    "reg_alpha": 0.1,
    "reg_lambda": 0.1,
    "min_child_weight": 1.0,
}
numbers = st.one_of(
    st.integers(),
    st.floats(),
    st.booleans(),
    st.integers(300, 5_000).map(lambda digits: 10**digits),
    st.sampled_from([10, 10.0, 0.1, 1, 4, 100, 101, 1.5, -0.0, 1e308]),
)
anything: st.SearchStrategy[Any] = st.recursive(
    st.none() | numbers | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(list(POINT)) | st.text(max_size=10), inner, max_size=3)
    ),
    max_leaves=8,
)
plausible_points = st.builds(
    lambda changed, missing: {
        name: value for name, value in {**POINT, **changed}.items() if name not in missing
    },
    st.dictionaries(st.sampled_from(list(POINT)) | st.text(max_size=5), anything, max_size=2),
    st.sets(st.sampled_from(list(POINT)), max_size=1),
)


def as_json(value: Any) -> str:
    """Return a value as JSON, also with integers of thousands of digits."""
    match value:
        case dict():
            parts = (f"{json.dumps(name)}: {as_json(part)}" for name, part in value.items())
            return f"{{{', '.join(parts)}}}"
        case list():
            return f"[{', '.join(map(as_json, value))}]"
        case int() if abs(value) >= 10**300:
            return "-" * (value < 0) + "1" + "0" * int(math.log10(abs(value)))
    return json.dumps(value)


class TestPoints:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        return tmp_path / "points.json"

    @any_input
    @given(
        points=anything | st.lists(anything, max_size=3) | st.lists(plausible_points, max_size=3)
    )
    @example(points=[POINT])
    @example(points=[{**POINT, "max_depth": 10**4_000}])
    @example(points=[{**POINT, "max_depth": math.nan}])
    @example(points=[{**POINT, "max_depth": True}])
    @example(points=[{**POINT, "max_depth": [10]}])
    def test_any_json(self, points: Any, file: Path) -> None:
        """Wrong names, values out of range, lists for numbers, numbers of any size."""
        file.write_text(as_json(points))
        check(outcome("--initial-points", str(file)))

    @any_input
    @given(
        points=st.lists(
            st.fixed_dictionaries({"alpha": numbers}) | st.dictionaries(st.text(), numbers),
            max_size=3,
        )
    )
    def test_any_points_of_a_small_space(self, points: Any, file: Path) -> None:
        """A number in the space is used, any other is refused."""
        file.write_text(as_json(points))
        check(outcome("--trainable", "lasso", "--initial-points", str(file)))

    @any_input
    @given(content=st.binary(max_size=50) | st.text(max_size=50).map(str.encode))
    def test_any_bytes(self, content: bytes, file: Path) -> None:
        """A file that is not JSON."""
        file.write_bytes(content)
        check(outcome("--initial-points", str(file)))

    @pytest.mark.parametrize("depth", [100, 900, 930, 960, 990, 100_000])
    @pytest.mark.parametrize("around", ["{}", "[{}]", '[{{"max_depth": {}}}]', '[{{"x": {}}}]'])
    @pytest.mark.parametrize("nested", ["[]", '{"a":}'])
    def test_any_depth(self, nested: str, around: str, depth: int, file: Path) -> None:
        """Nested lists and objects are refused at any depth."""
        opening, closing = nested[:-1], nested[-1]
        file.write_text(around.format(opening * depth + "1" + closing * depth))
        assert outcome("--initial-points", str(file)) == "refused"

    def test_good_points_are_used(self, file: Path) -> None:
        """Points in the space are used."""
        file.write_text(json.dumps([POINT, {**POINT, "max_depth": 11.0}]))
        assert outcome("--initial-points", str(file)) == "used"


class TestSet:
    @any_input
    @given(
        name=st.sampled_from(
            [*POINT, "num_boost_round", "early_stopping_rounds", "tree_method", "nonesuch"]
        ),
        value=odd_texts | st.text() | anything.map(as_json),
    )
    @example(name="max_depth", value="[" * 2_000)
    @example(name="num_boost_round", value="9" * 290)
    def test_any_value(self, name: str, value: str) -> None:
        """A value of --set is read as its parameter's type, or refused."""
        check(outcome(f"--set={name}={value}"))
