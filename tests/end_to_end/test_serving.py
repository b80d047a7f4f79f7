"""What the registered model answers when MLflow serves it."""

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
from command import HAS_REAL_DATA, REAL_VALID, Command, Ended, activated, server
from numpy.typing import NDArray
from test_main_job import flavour_model

pytestmark = pytest.mark.slow

COLUMNS = ["PULocationID", "DOLocationID", "trip_distance"]
CLOSE = 1e-5  # minutes
CLEAN_ENVIRONMENT = "SEARCH_TEST_CLEAN_ENV"
Report = dict[str, Any]


@pytest.fixture(scope="module")
def target(main_report: Report) -> str:
    """The model as the README names it."""
    return f"models:/nyc-taxi-duration@{main_report['refit']['alias']}"


@pytest.fixture(scope="module")
def served(main_job: Ended, target: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server of the champion, started far from our code."""
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
        from search.sample import made_month

        found = made_month("2021-02")[COLUMNS]
    zones = dict.fromkeys(COLUMNS[:2], str)
    return found.dropna().head(200).astype(zones).reset_index(drop=True)


@pytest.fixture(scope="module")
def expected(
    main_job: Ended, main_report: Report, trips: pd.DataFrame, tmp_path_factory: Any
) -> NDArray[np.float64]:
    """What the refit says of these trips: its booster and its vectorizer, put together by hand."""
    import xgboost
    from mlflow import MlflowClient

    client = MlflowClient(main_job.store)
    refit = client.get_run(main_report["refit"]["run_id"])
    kept = client.download_artifacts(
        *(refit.info.run_id, "preprocessor/preprocessor.bin"),
        str(tmp_path_factory.mktemp("preprocessor")),
    )
    vectorizer = pickle.loads(Path(kept).read_bytes())
    features = vectorizer.transform(
        [
            {"PU_DO": f"{pickup}_{dropoff}", "trip_distance": distance}
            for pickup, dropoff, distance in trips.itertuples(index=False)
        ]
    )
    answer = flavour_model(main_job.store, refit).predict(xgboost.DMatrix(features))
    return np.asarray(answer, dtype=np.float64)


def test_rows_split_from_columns_are_answered(
    served: str, trips: pd.DataFrame, expected: NDArray[np.float64]
) -> None:
    """`dataframe_split` gives the refit's predictions."""
    assert _split(served, trips) == pytest.approx(list(expected), abs=CLOSE)


def test_records_are_answered(
    served: str, trips: pd.DataFrame, expected: NDArray[np.float64]
) -> None:
    """`dataframe_records` gives the refit's predictions."""
    answer = _records(served, trips.to_dict(orient="records"))
    assert answer == pytest.approx(list(expected), abs=CLOSE)


def test_csv_is_answered(served: str, trips: pd.DataFrame, expected: NDArray[np.float64]) -> None:
    """A body of text/csv gives the refit's predictions."""
    answer = _asked(served, trips.to_csv(index=False), "text/csv")
    assert answer == pytest.approx(list(expected), abs=CLOSE)


def test_the_answer_is_a_flat_list_of_floats(served: str, trips: pd.DataFrame) -> None:
    """One number a trip, in minutes."""
    answer = _split(served, trips.head(3))
    assert [type(minutes) for minutes in answer] == [float] * 3


def test_zone_ids_and_distances_of_any_type_answer_the_same(served: str) -> None:
    """74 is "74" and 3 is 3.0, one by one and mixed in one request."""
    same = [
        {"PULocationID": 74, "DOLocationID": 75, "trip_distance": 3.0},
        {"PULocationID": "74", "DOLocationID": "75", "trip_distance": 3.0},
        {"PULocationID": "74", "DOLocationID": 75, "trip_distance": 3},
        {"PULocationID": 74.0, "DOLocationID": "75", "trip_distance": 3},
    ]
    alone = [_records(served, [trip])[0] for trip in same]
    mixed = _records(served, same)
    csv = _asked(served, "PULocationID,DOLocationID,trip_distance\n74,75,3\n", "text/csv")
    assert len({*alone, *mixed, *csv}) == 1


def test_zone_ids_as_numbers_give_the_refits_predictions(
    served: str, trips: pd.DataFrame, expected: NDArray[np.float64]
) -> None:
    """Trips as TLC publishes them, with whole numbers, are the same trips."""
    numbers = trips.astype(dict.fromkeys(COLUMNS[:2], int))
    assert _split(served, numbers) == pytest.approx(list(expected), abs=CLOSE)


def test_an_unseen_zone_pair_is_answered(served: str) -> None:
    """A pair that training did not have gets an answer by its distance alone."""
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
def test_a_missing_column_is_the_askers_mistake(
    served: str, trips: pd.DataFrame, column: str
) -> None:
    """HTTP 400, and the answer names the column."""
    with pytest.raises(urllib.error.HTTPError) as refused:
        _split(served, trips.drop(columns=column).head(2))
    assert refused.value.code == 400
    assert column in refused.value.read().decode()


def test_mlflow_predicts_a_csv_file(
    main_job: Ended,
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
        {**activated(), "MLFLOW_TRACKING_URI": main_job.store},
    ) as command:
        ended = command.ended(120)
    assert ended.code == 0, ended.stderr
    answer = json.loads(ended.stdout)["predictions"]
    assert answer == pytest.approx(list(expected), abs=CLOSE)


@pytest.mark.skipif(
    os.environ.get(CLEAN_ENVIRONMENT) != "1",
    reason=f"makes a virtual environment from the network: set {CLEAN_ENVIRONMENT}=1",
)
@pytest.mark.timeout(1200)
def test_the_models_own_requirements_are_enough_to_serve_it(
    main_job: Ended,
    target: str,
    trips: pd.DataFrame,
    expected: NDArray[np.float64],
    tmp_path: Path,
) -> None:
    """An environment of the model's requirements and nothing else answers as the refit does."""
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
        assert _split(address, trips) == pytest.approx(list(expected), abs=CLOSE)


def _split(address: str, trips: pd.DataFrame) -> list[float]:
    table = {"columns": list(trips.columns), "data": trips.to_numpy(dtype=object).tolist()}
    return _asked(address, json.dumps({"dataframe_split": table}))


def _records(address: str, records: Any) -> list[float]:
    return _asked(address, json.dumps({"dataframe_records": records}))


def _asked(address: str, body: str, kind: str = "application/json") -> list[float]:
    request = urllib.request.Request(
        f"{address}/invocations", body.encode(), {"Content-Type": kind}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        predictions: list[float] = json.load(answer)["predictions"]
    return predictions
