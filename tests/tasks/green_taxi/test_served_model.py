"""The features, and the model that is served."""

from __future__ import annotations

import ast
import json
import pickle
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import mlflow.sklearn
import mlflow.xgboost
import numpy as np
import pandas as pd
import pytest
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import scoring_server
from mlflow.types import Schema
from sklearn.feature_extraction import DictVectorizer
from sklearn.linear_model import Lasso

from search.tasks.green_taxi import served_model

TRIPS = {"PULocationID": [74, 43], "DOLocationID": [75, 151], "trip_distance": [3, 1.01]}


@pytest.fixture(scope="module", params=["xgboost", "lasso"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small model of each flavour, saved as a search saves it."""
    folder = tmp_path_factory.mktemp("model")
    random = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "PULocationID": random.choice([74, 43, 10], 300),
            "DOLocationID": random.choice([75, 151, 10], 300),
            "trip_distance": 9 * random.random(300),
        }
    )
    minutes = 5 + 3 * frame["trip_distance"] + (frame["PULocationID"] == 74)
    rows = served_model.feature_rows(frame)
    vectorizer = DictVectorizer().fit(rows)
    matrix = served_model.vectorize(vectorizer, rows)
    flavour, preprocessor = folder / "flavour", folder / "preprocessor.bin"
    if request.param == "xgboost":
        booster = xgboost.train({"max_depth": 3}, xgboost.DMatrix(matrix, minutes), 20)
        mlflow.xgboost.save_model(booster, flavour, pip_requirements=[])
    else:
        lasso = Lasso(alpha=0.01).fit(matrix, minutes)
        mlflow.sklearn.save_model(lasso, flavour, pip_requirements=[])
    preprocessor.write_bytes(pickle.dumps(vectorizer))
    mlflow.pyfunc.save_model(
        folder / "raw",
        python_model=served_model.__file__,
        artifacts={"model": str(flavour), "preprocessor": str(preprocessor)},
        signature=served_model.signature(),
        pip_requirements=[],
    )
    return str(folder / "raw")


@pytest.fixture(scope="module")
def model(saved: str) -> Any:
    return mlflow.pyfunc.load_model(saved)


@pytest.fixture(scope="module")
def minutes(model: Any) -> list[float]:
    answer: list[float] = model.predict(pd.DataFrame(TRIPS))
    return answer


def answer_to(model: Any, body: str, content_type: str = "application/json") -> Any:
    """Return the answer of MLflow's scoring server to a request, without the socket."""
    schema = model.metadata.get_input_schema()
    answer = scoring_server.invocations(body, content_type, model, schema)  # type: ignore[no-untyped-call]
    assert answer.status == 200, answer.response
    return json.loads(answer.response)


# Features


@settings(deadline=None, database=None)
@given(st.integers(-999, 10**6), st.sampled_from(["", " ", "\t"]))
def test_zone_id_has_one_name_whatever_its_type(zone: int, space: str) -> None:
    """An int, a float and their text, also with blanks, are one category."""
    forms = [zone, float(zone), f"{zone}", f"{space}{zone}.0{space}", np.int32(zone)]
    assert set(served_model.zone_names(pd.Series(forms, dtype=object))) == {str(zone)}
    for kind in ("int64", "float64", "Int64", "str", "category"):
        assert (
            served_model.zone_names(pd.Series([zone, zone]).astype(kind)).tolist()
            == [str(zone)] * 2
        )


def test_missing_zone_stays_missing_and_other_text_is_kept() -> None:
    """Text that is no number is only stripped."""
    zones = pd.Series([None, np.nan, pd.NA, "", " nan ", " EWR ", "74.5", "1e2"], dtype=object)
    named = served_model.zone_names(zones)
    assert named.isna().tolist() == [True] * 5 + [False] * 3
    assert named.tolist()[5:] == ["EWR", "74.5", "1e2"]


def test_names_keep_the_index_of_their_rows() -> None:
    """The frame may have lost rows."""
    zones = pd.Series([1.0, None], index=[7, 3], name="zone")
    assert served_model.zone_names(zones).index.tolist() == [7, 3]


def test_row_has_the_zone_pair_and_the_distance() -> None:
    """The two features of the notes, whatever types the columns have."""
    for trips in (
        pd.DataFrame(TRIPS),
        pd.DataFrame(TRIPS).astype("str"),
        pd.DataFrame(TRIPS).astype("float64"),
    ):
        assert served_model.feature_rows(trips) == [
            {"PU_DO": "74_75", "trip_distance": 3.0},
            {"PU_DO": "43_151", "trip_distance": 1.01},
        ]


# The served model


def test_file_imports_nothing_of_ours() -> None:
    """MLflow runs it where ``search`` is not installed."""
    tree = ast.parse(Path(served_model.__file__).read_text())
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported == {
        "__future__",
        "mlflow",
        "numpy",
        "pandas",
        "pathlib",
        "pickle",
        "re",
        "typing",
        "warnings",
    }


def test_file_says_first_that_it_replaces_a_part_of_mlflow() -> None:
    """So that whoever upgrades MLflow finds it."""
    first_line = (served_model.__doc__ or "").splitlines()[0]
    (first, last) = (".".join(map(str, version)) for version in served_model.PROVEN)
    assert f"a private part of MLflow {first} to {last}" in first_line


def test_installed_version_of_mlflow_is_a_proven_one() -> None:
    """The tests of CSV requests below prove it."""
    assert served_model.no_csv() is None


@pytest.mark.parametrize("version", ["3.8.1", "3.18.0", "4.0.0"])
def test_mlflow_of_another_version_is_left_alone(
    version: str, saved: str, minutes: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What does not work then is said; all else works."""
    stock = getattr(Schema.pandas_types, "stock", Schema.pandas_types)
    monkeypatch.setattr(Schema, "pandas_types", stock)
    monkeypatch.setattr("mlflow.__version__", version)
    with pytest.warns(UserWarning, match=f"{version}.* takes JSON requests but not text/csv"):
        model = mlflow.pyfunc.load_model(saved)
    assert Schema.pandas_types is stock
    assert answer_to(model, json.dumps(BODIES["split"])) == {"predictions": minutes}


def test_answer_is_a_flat_list_of_floats(model: Any, minutes: list[float]) -> None:
    """A Python float for each row, near the trips' true minutes; none without rows."""
    assert [type(each) for each in minutes] == [float, float]
    assert minutes == pytest.approx([15, 8], abs=1.0)
    assert model.predict(pd.DataFrame(TRIPS).head(0)) == []


@pytest.mark.parametrize(
    "trips",
    [
        served_model.input_example(),
        pd.DataFrame(TRIPS).astype("str"),
        pd.DataFrame(TRIPS).astype("float64"),
        pd.DataFrame({**TRIPS, "PULocationID": [74, "43"], "trip_distance": ["3", 1.01]}),
        pd.DataFrame({**TRIPS, "VendorID": 2}, index=[5, 5]),
        TRIPS,
        pd.DataFrame(TRIPS).to_dict("records"),
    ],
)
def test_answer_in_python_is_the_same_for_every_type(
    model: Any, minutes: list[float], trips: Any
) -> None:
    """74 or "74", 3 or 3.0, also mixed in one column, as a frame or as plain values."""
    assert model.predict(trips) == minutes


BODIES = {
    "split": {"dataframe_split": pd.DataFrame(TRIPS).to_dict("split")},
    "split, text": {"dataframe_split": pd.DataFrame(TRIPS).astype("str").to_dict("split")},
    "records": {"dataframe_records": pd.DataFrame(TRIPS).to_dict("records")},
    "mixed": {
        "dataframe_split": {"columns": list(TRIPS), "data": [[74, "75", 3], ["43", 151, 1.01]]}
    },
    "inputs": {"inputs": TRIPS},
    "inputs, mixed": {"inputs": {**TRIPS, "PULocationID": [74, "43"]}},
    "inputs, text": {"inputs": pd.DataFrame(TRIPS).astype("str").to_dict("list")},
    "instances": {"instances": pd.DataFrame(TRIPS).to_dict("records")},
}


@pytest.mark.parametrize("body", BODIES)
def test_answer_of_the_server_is_the_same_for_every_type_and_form(
    model: Any, minutes: list[float], body: str
) -> None:
    """In every JSON form that MLflow's scoring server knows."""
    assert answer_to(model, json.dumps(BODIES[body])) == {"predictions": minutes}


@pytest.mark.parametrize("kind", ["as they are", "floats"])
def test_answer_to_csv_is_the_same(
    saved: str, model: Any, minutes: list[float], kind: str, tmp_path: Path
) -> None:
    """As a request, and as a file for `mlflow models predict -t csv`."""
    trips = pd.DataFrame(TRIPS)
    if kind == "floats":
        trips = trips.astype("float64")
    text = trips.to_csv(index=False)
    assert answer_to(model, text, "text/csv") == {"predictions": minutes}
    (tmp_path / "trips.csv").write_text(text)
    out = tmp_path / "out.json"
    scoring_server._predict(  # type: ignore[no-untyped-call]
        saved, str(tmp_path / "trips.csv"), str(out), "csv"
    )
    assert json.loads(out.read_text()) == {"predictions": minutes}


@pytest.mark.parametrize(
    ("changed", "part"),
    [
        ({"PULocationID": [74, None]}, "PULocationID in 1"),
        ({"trip_distance": [None, float("nan")]}, "trip_distance in 2"),
        ({"trip_distance": [1.0, float("inf")]}, "trip_distance in 1"),
        ({"trip_distance": [1.0, "far"]}, "'far'"),
        ({"DOLocationID": [[75], 151]}, "cannot be read"),
    ],
)
def test_trip_with_a_missing_value_is_refused(
    model: Any, changed: dict[str, Any], part: str
) -> None:
    """The message has the column and the number of rows."""
    with pytest.raises(MlflowException, match=part) as error:
        model.predict(pd.DataFrame({**TRIPS, **changed}))
    assert "\n" not in str(error.value)


def test_missing_column_is_named(model: Any) -> None:
    """Also by a model without a signature."""
    unsigned = model.unwrap_python_model()
    with pytest.raises(MlflowException, match=r"no column DOLocationID .*found PULocationID"):
        unsigned.predict(None, pd.DataFrame(TRIPS).drop(columns="DOLocationID"))
    with pytest.raises(MlflowException, match="the input is a list"):
        unsigned.predict(None, [1])
    with pytest.raises(MlflowException, match="DOLocationID"):
        model.predict(pd.DataFrame(TRIPS).drop(columns="DOLocationID"))


def test_bad_request_is_http_400(model: Any) -> None:
    """It is the client's mistake."""
    body = {"dataframe_records": [{"PULocationID": 74, "DOLocationID": None, "trip_distance": 3}]}
    with pytest.raises(MlflowException, match="DOLocationID in 1") as error:
        answer_to(model, json.dumps(body))
    assert error.value.get_http_status_code() == 400  # type: ignore[no-untyped-call]
