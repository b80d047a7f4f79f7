"""Predictions of the registered model when MLflow serves it."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from command import HAS_REAL_DATA, REAL_VALID, Command, Result, server, venv_environment
from numpy.typing import NDArray
from test_main_job import flavour_model

pytestmark = pytest.mark.slow

COLUMNS = ["PULocationID", "DOLocationID", "trip_distance"]
TOLERANCE = 1e-5  # minutes
CLEAN_ENVIRONMENT = "SEARCH_TEST_CLEAN_ENV"
Report = dict[str, Any]


@pytest.fixture(scope="module")
def target(main_report: Report) -> str:
    """The model's URI, by alias, as in the README."""
    return f"models:/nyc-taxi-duration@{main_report['refit']['alias']}"


@pytest.fixture(scope="module")
def served(
    main_job: Result, target: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of a server of the model, started in a folder without our code."""
    argv = [sys.executable, "-m", "mlflow", "models", "serve", "-m", target]
    folder = tmp_path_factory.mktemp("serve")
    environment = {"MLFLOW_TRACKING_URI": main_job.store}
    with server([*argv, "--env-manager", "local"], folder, environment) as address:
        yield address


@pytest.fixture(scope="module")
def trips() -> pd.DataFrame:
    """Two hundred validation trips: zone ids as text, distances as numbers."""
    if HAS_REAL_DATA:
        found = pd.read_parquet(REAL_VALID, columns=COLUMNS)
    else:
        from search.tasks.green_taxi.sample import made_month

        found = made_month("2021-02")[COLUMNS]
    zones = dict.fromkeys(COLUMNS[:2], str)
    return found.dropna().head(200).astype(zones).reset_index(drop=True)


@pytest.fixture(scope="module")
def expected(
    main_job: Result, main_report: Report, trips: pd.DataFrame, tmp_path_factory: Any
) -> NDArray[np.float64]:
    """The predictions for these trips by the refit's booster and vectorizer, without the server."""
    import xgboost
    from mlflow import MlflowClient

    client = MlflowClient(main_job.store)
    refit = client.get_run(main_report["refit"]["run_id"])
    folder = tmp_path_factory.mktemp("preprocessor")
    path = "preprocessor/preprocessor.bin"
    file = client.download_artifacts(refit.info.run_id, path, str(folder))
    vectorizer = pickle.loads(Path(file).read_bytes())
    features = vectorizer.transform(
        [
            {"PU_DO": f"{pickup}_{dropoff}", "trip_distance": distance}
            for pickup, dropoff, distance in trips.itertuples(index=False)
        ]
    )
    predicted = flavour_model(main_job.store, refit).predict(xgboost.DMatrix(features))
    return np.asarray(predicted, dtype=np.float64)


def test_dataframe_split_is_predicted(
    served: str, trips: pd.DataFrame, expected: NDArray[np.float64]
) -> None:
    """`dataframe_split` gives the refit's predictions."""
    assert _split(served, trips) == pytest.approx(list(expected), abs=TOLERANCE)


def test_dataframe_records_are_predicted(
    served: str, trips: pd.DataFrame, expected: NDArray[np.float64]
) -> None:
    """`dataframe_records` gives the refit's predictions."""
    predicted = _records(served, trips.to_dict(orient="records"))
    assert predicted == pytest.approx(list(expected), abs=TOLERANCE)


def test_csv_is_predicted(served: str, trips: pd.DataFrame, expected: NDArray[np.float64]) -> None:
    """A body of text/csv gives the refit's predictions."""
    predicted = _predictions(served, trips.to_csv(index=False), "text/csv")
    assert predicted == pytest.approx(list(expected), abs=TOLERANCE)


def test_answer_is_a_flat_list_of_floats(served: str, trips: pd.DataFrame) -> None:
    """The answer has one number for each trip, in minutes."""
    predicted = _split(served, trips.head(3))
    assert [type(minutes) for minutes in predicted] == [float] * 3


def test_types_of_zone_ids_and_distances_do_not_matter(served: str) -> None:
    """74 equals "74" and 3 equals 3.0, in separate requests and mixed in one request."""
    same = [
        {"PULocationID": 74, "DOLocationID": 75, "trip_distance": 3.0},
        {"PULocationID": "74", "DOLocationID": "75", "trip_distance": 3.0},
        {"PULocationID": "74", "DOLocationID": 75, "trip_distance": 3},
        {"PULocationID": 74.0, "DOLocationID": "75", "trip_distance": 3},
    ]
    separate = [_records(served, [trip])[0] for trip in same]
    mixed = _records(served, same)
    csv = _predictions(served, "PULocationID,DOLocationID,trip_distance\n74,75,3\n", "text/csv")
    assert len({*separate, *mixed, *csv}) == 1


def test_numeric_zone_ids_are_predicted(
    served: str, trips: pd.DataFrame, expected: NDArray[np.float64]
) -> None:
    """Zone ids as whole numbers, as TLC publishes them, give the same predictions as text."""
    numbers = trips.astype(dict.fromkeys(COLUMNS[:2], int))
    assert _split(served, numbers) == pytest.approx(list(expected), abs=TOLERANCE)


def test_unseen_zone_pair_is_predicted(served: str) -> None:
    """The prediction for a pair that was not in the training data depends on the distance only."""
    near, far, unknown = _records(
        served,
        [
            {"PULocationID": 9001, "DOLocationID": 9002, "trip_distance": 1.0},
            {"PULocationID": 9001, "DOLocationID": 9002, "trip_distance": 9.0},
            {"PULocationID": "nowhere", "DOLocationID": "else", "trip_distance": 1.0},
        ],
    )
    assert 0 < near < far < 120
    assert near == unknown


@pytest.mark.parametrize("column", COLUMNS)
def test_missing_column_is_refused_with_400(served: str, trips: pd.DataFrame, column: str) -> None:
    """The error is the client's, and the answer names the column."""
    with pytest.raises(urllib.error.HTTPError) as refused:
        _split(served, trips.drop(columns=column).head(2))
    assert refused.value.code == 400
    assert column in refused.value.read().decode()


def test_mlflow_predicts_a_csv_file(
    main_job: Result,
    target: str,
    trips: pd.DataFrame,
    expected: NDArray[np.float64],
    tmp_path: Path,
) -> None:
    """`mlflow models predict` on a file of trips gives the refit's predictions."""
    trips.to_csv(tmp_path / "trips.csv", index=False)
    argv = [sys.executable, "-m", "mlflow", "models", "predict", "-m", target, "-t", "csv"]
    with Command(
        [*argv, "--env-manager", "local", "-i", "trips.csv"],
        tmp_path,
        {**venv_environment(), "MLFLOW_TRACKING_URI": main_job.store},
    ) as command:
        result = command.wait(120)
    assert result.code == 0, result.stderr
    predicted = json.loads(result.stdout)["predictions"]
    assert predicted == pytest.approx(list(expected), abs=TOLERANCE)


@pytest.mark.skipif(
    os.environ.get(CLEAN_ENVIRONMENT) != "1",
    reason=f"installs packages from the network: set {CLEAN_ENVIRONMENT}=1",
)
@pytest.mark.timeout(1200)
def test_requirements_of_the_model_are_enough_to_serve_it(
    main_job: Result,
    target: str,
    trips: pd.DataFrame,
    expected: NDArray[np.float64],
    tmp_path: Path,
) -> None:
    """A server in an environment with only the model's requirements gives the same predictions."""
    import mlflow

    mlflow.set_tracking_uri(main_job.store)
    requirements = mlflow.pyfunc.get_model_dependencies(target)
    home = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True, timeout=120)
    install = [str(home / "bin" / "pip"), "install", "--quiet", "-r", requirements]
    subprocess.run(install, check=True, timeout=900)
    argv = [str(home / "bin" / "mlflow"), "models", "serve", "-m", target, "--env-manager", "local"]
    environment = {
        "MLFLOW_TRACKING_URI": main_job.store,
        "PATH": f"{home / 'bin'}:{os.environ['PATH']}",
    }
    with server(argv, tmp_path, environment) as address:
        assert _split(address, trips) == pytest.approx(list(expected), abs=TOLERANCE)


def _split(address: str, trips: pd.DataFrame) -> list[float]:
    table = {"columns": list(trips.columns), "data": trips.to_numpy(dtype=object).tolist()}
    return _predictions(address, json.dumps({"dataframe_split": table}))


def _records(address: str, records: Any) -> list[float]:
    return _predictions(address, json.dumps({"dataframe_records": records}))


def _predictions(address: str, body: str, kind: str = "application/json") -> list[float]:
    request = urllib.request.Request(
        f"{address}/invocations", body.encode(), {"Content-Type": kind}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        predictions: list[float] = json.load(answer)["predictions"]
    return predictions
