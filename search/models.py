"""What a refit leaves in MLflow: the model in its flavour and as plain bytes, its preprocessor,
and one model that takes raw trips.
"""

from __future__ import annotations

import importlib
import pickle
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from numpy.typing import NDArray

from search import raw_trips
from search.errors import SearchError
from search.score import Scoring
from search.store import Store, client_retries
from search.trial import Refitted, checked
from search.trips import Prepared
from trainables.base import Trainable

# What the model of raw trips needs beside its flavour, at the versions that made it.
SERVED_WITH = ("mlflow", "scikit-learn", "numpy", "scipy", "pandas")

SAME_MINUTES = 1e-6  # how far a loaded model may be from the refit it came from


@dataclass(frozen=True)
class Logged:
    """The models of a refit run, as MLflow finds them, and what the first says, loaded again."""

    flavor_uri: str
    raw_trips_uri: str
    valid: NDArray[np.float64]  # [rows] predictions, in the target's unit
    test: NDArray[np.float64] | None  # [rows]


def log(
    store: Store,
    run_id: str,
    trainable: Trainable,
    refitted: Refitted,
    prepared: Prepared,
    scoring: Scoring,
) -> Logged:
    """Log everything a refit made, load it again, and see that it predicts the same.

    ``scoring`` is a process that stands by for the checked ones of the validation trips.

    :raises SearchError: what was logged predicts something else.
    """
    model = trainable.load(refitted.model)
    with tempfile.TemporaryDirectory(prefix="search-models-") as folder, _run(store, run_id):
        plain = _written(Path(folder) / trainable.artifact, refitted.model)
        preprocessor = _written(
            Path(folder) / "preprocessor" / "preprocessor.bin", pickle.dumps(prepared.vectorizer)
        )
        store.write_file(run_id, str(plain), str(Path(trainable.artifact).parent))
        store.write_file(run_id, str(preprocessor), "preprocessor")
        flavor = importlib.import_module(f"mlflow.{trainable.flavor}")
        requirements = _pinned(flavor)
        in_flavor = Path(folder) / "flavor"
        flavor.save_model(model, str(in_flavor), pip_requirements=requirements)
        logged = flavor.log_model(model, name="model", pip_requirements=requirements)
        raw = mlflow.pyfunc.log_model(
            name="raw-trips",
            python_model=raw_trips.__file__,
            artifacts={"model": str(in_flavor), "preprocessor": str(preprocessor)},
            signature=raw_trips.signature(),
            input_example=raw_trips.input_example(),
            pip_requirements=requirements,
        )
    loaded = flavor.load_model(logged.model_uri)
    test_rows = prepared.test_rows
    made = Logged(
        *(logged.model_uri, raw.model_uri),
        trainable.predict(loaded, prepared.dataset.valid.features),
        None if test_rows is None else trainable.predict(loaded, test_rows.features),
    )
    _check(made, refitted, scoring)
    return made


def _check(logged: Logged, refitted: Refitted, scoring: Scoring) -> None:
    in_flavor = logged.valid[checked(len(logged.valid))]
    try:
        from_raw_trips = scoring.predictions(logged.raw_trips_uri)
    except RuntimeError as error:
        raise SearchError(f"the logged model cannot be loaded again: {error}") from error
    for name, answer in (("flavour", in_flavor), ("raw-trips", from_raw_trips)):
        furthest = float(np.max(np.abs(answer - refitted.answers)))
        if not furthest <= SAME_MINUTES:
            raise SearchError(
                f"the logged {name} model predicts {furthest:.2g} minutes away from the refit; "
                "it was not registered"
            )


@contextmanager
def _run(store: Store, run_id: str) -> Iterator[None]:
    """Have MLflow's model functions log to this run: they know the fluent API's run only."""
    mlflow.set_tracking_uri(store.uri)
    mlflow.set_registry_uri(store.uri)
    with client_retries(), mlflow.start_run(run_id=run_id):
        yield


def _pinned(flavor: Any) -> list[str]:
    """Return requirements that name published packages only, at the installed versions."""
    flavors: list[str] = flavor.get_default_pip_requirements()
    named = {requirement.partition("==")[0] for requirement in flavors}
    others = [f"{name}=={metadata.version(name)}" for name in SERVED_WITH if name not in named]
    return [*others, *flavors]


def _written(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
