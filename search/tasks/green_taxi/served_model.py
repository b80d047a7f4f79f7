"""Raw trips to features, and the served model; replaces a private part of MLflow 3.9 to 3.17.

The part is how a schema describes columns to the scoring server's CSV parser. MLflow of any other
version is left alone: then the served model takes JSON but not CSV, and says so when it is loaded.

MLflow stores this file inside the logged model and runs it in the serving environment ("models
from code"), where ``search`` is not installed: it may import nothing of ours. Training takes the
feature functions from here, so training and serving cannot differ.
"""

from __future__ import annotations

import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import mlflow
import mlflow.pyfunc
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.pyfunc.model import PythonModel
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import AnyType

PICKUP_ZONE = "PULocationID"
DROPOFF_ZONE = "DOLocationID"
DISTANCE = "trip_distance"  # miles, as TLC publishes it
COLUMNS = (PICKUP_ZONE, DROPOFF_ZONE, DISTANCE)

PROVEN = ((3, 9), (3, 17))  # the first and the last minor version of MLflow
NO_CSV = (
    "this version of MLflow ({version}) is not known here, so the served model takes JSON requests "
    "but not text/csv"
)


def is_proven() -> bool:
    """Tell whether the replaced part is known to be in this version of MLflow."""
    first, last = PROVEN
    numbers = tuple(int(number) for number in re.findall(r"\d+", mlflow.__version__)[:2])
    return first <= numbers <= last


def no_csv() -> str | None:
    """Return that CSV requests are not answered, if so."""
    return None if is_proven() else NO_CSV.format(version=mlflow.__version__)


def zone_names(zones: pd.Series) -> pd.Series:
    """Return each zone id as the same text whatever its type: 74, 74.0 and " 74 " are "74".

    Missing values, blank text and "nan" stay missing; any other text is stripped.
    """
    codes, known = pd.factorize(zones)  # a missing id has the code -1: the last name
    names = np.array([*(_zone_name(zone) for zone in known), None], dtype=object)
    return pd.Series(names[codes], index=zones.index, name=zones.name, dtype="str")


def feature_rows(trips: pd.DataFrame) -> list[dict[str, str | float]]:
    """Return one ``{"PU_DO": "74_75", "trip_distance": 3.0}`` a row."""
    pickups = zone_names(trips[PICKUP_ZONE]).tolist()
    dropoffs = zone_names(trips[DROPOFF_ZONE]).tolist()
    distances = distances_of(trips[DISTANCE]).tolist()
    return [
        {"PU_DO": f"{pickup}_{dropoff}", "trip_distance": distance}
        for pickup, dropoff, distance in zip(pickups, dropoffs, distances, strict=True)
    ]


def distances_of(column: pd.Series) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return distances as float64, from numbers or text; missing and infinite ones are NaN."""
    objects = column.to_numpy(dtype=object, na_value=np.nan)
    distances = np.asarray(objects, dtype=np.float64)
    return np.where(np.isfinite(distances), distances, np.nan)


def vectorize(vectorizer: Any, rows: list[dict[str, str | float]]) -> Any:
    """Return the csr matrix [rows, columns] float64 of a fitted DictVectorizer, 32-bit indices."""
    matrix = vectorizer.transform(rows)
    # scikit-learn 1.9 makes 64-bit indices here, and its own Lasso refuses them.
    matrix.indices = matrix.indices.astype(np.int32)
    matrix.indptr = matrix.indptr.astype(np.int32)
    return matrix


def signature() -> ModelSignature:
    """Return what the served model takes and answers.

    Each of MLflow's data types refuses either 74 or "74", and doubles refuse an int64 column; a
    column of ``AnyType`` takes all of them.
    """
    anything = AnyType()  # type: ignore[no-untyped-call]
    return ModelSignature(
        inputs=Schema([ColSpec(anything, name=name) for name in COLUMNS]),
        outputs=Schema([ColSpec(DataType.double)]),
    )


def input_example() -> pd.DataFrame:
    """Return two trips as a request may hold them."""
    return pd.DataFrame(
        {PICKUP_ZONE: ["74", "43"], DROPOFF_ZONE: ["75", "151"], DISTANCE: [3.0, 1.01]}
    )


class RawTripModel(PythonModel):
    """Raw trips in, minutes out: the preprocessor and the model of one refit together."""

    def load_context(self, context: Any) -> None:
        """Load the artifacts ``preprocessor`` (a pickle) and ``model`` (any flavour's folder)."""
        self._vectorizer = pickle.loads(Path(context.artifacts["preprocessor"]).read_bytes())
        self._model = mlflow.pyfunc.load_model(context.artifacts["model"])
        if (note := no_csv()) is None:
            _let_csv_requests_through()
        else:
            warnings.warn(note, stacklevel=2)

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> list[float]:
        """Return the minutes of each trip."""
        del context, params
        trips = _checked(model_input)
        if trips.empty:
            return []
        matrix = vectorize(self._vectorizer, feature_rows(trips))
        minutes = np.asarray(self._model.predict(matrix), dtype=np.float64)
        return [float(minute) for minute in minutes.ravel()]


def _let_csv_requests_through() -> None:
    # Before it parses text/csv, MLflow's scoring server asks the schema for pandas types, and the
    # schema raises if a column is of AnyType. As objects, all values stay text.
    typed = Schema.pandas_types
    if hasattr(typed, "stock"):
        return  # each load of a model runs this file anew

    def pandas_types(self: Schema) -> list[Any]:
        if any(isinstance(column.type, AnyType) for column in self.inputs):
            return [np.dtype(object)] * len(self.inputs)
        return typed(self)

    pandas_types.stock = typed  # type: ignore[attr-defined]
    Schema.pandas_types = pandas_types  # type: ignore[method-assign]


_WHOLE_NUMBER = re.compile(r"([+-]?)0*([0-9]+)(?:\.0*)?")
_MISSING = frozenset({"", "nan", "none", "null", "na", "n/a", "<na>", "nat"})


def _zone_name(zone: object) -> str | None:
    if isinstance(zone, bool | np.bool_ | float | np.floating) and float(zone).is_integer():
        zone = int(zone)
    name = str(zone).strip()
    if name.lower() in _MISSING:
        return None
    number = _WHOLE_NUMBER.fullmatch(name)
    if number is None:
        return name
    sign, digits = number.groups()
    return f"-{digits}" if sign == "-" and digits != "0" else digits


def _checked(model_input: Any) -> pd.DataFrame:
    if not isinstance(model_input, pd.DataFrame):
        raise _refused(
            f"the input is a {type(model_input).__name__}; send rows with {', '.join(COLUMNS)}"
        )
    absent = [name for name in COLUMNS if name not in model_input.columns]
    if absent:
        found = ", ".join(map(str, model_input.columns[:10])) or "no column"
        raise _refused(f"no column {', '.join(absent)} in the input; found {found}; add it")
    try:
        if len(model_input) == 1 and all(isinstance(model_input[n].iloc[0], list) for n in COLUMNS):
            # MLflow takes {"inputs": {name: ["74", ...], ...}}, when all is text, for one row.
            model_input = model_input[list(COLUMNS)].explode(list(COLUMNS))
        trips = pd.DataFrame(
            {
                PICKUP_ZONE: zone_names(model_input[PICKUP_ZONE]),
                DROPOFF_ZONE: zone_names(model_input[DROPOFF_ZONE]),
                DISTANCE: distances_of(model_input[DISTANCE]),
            }
        )
    except (TypeError, ValueError, OverflowError) as error:
        raise _refused(
            f"a trip cannot be read: {error}; send a zone id as 74 or "
            '"74" and a distance in miles as 3 or 3.0'
        ) from error
    missing = {name: int(count) for name, count in trips.isna().sum().items() if count}
    if missing:
        counts = ", ".join(f"{name} in {count}" for name, count in missing.items())
        raise _refused(f"missing in the input of {len(trips)} rows: {counts}; send every value")
    return trips


def _refused(message: str) -> MlflowException:
    # The scoring server answers HTTP 400 to this one, and 500 to any other.
    refused: MlflowException = MlflowException.invalid_parameter_value(message)
    return refused


# MLflow takes the model from here when it runs this file; any other import is not affected.
mlflow.models.set_model(RawTripModel())
