"""What a refit leaves in MLflow: logged, loaded again, and compared with what was fitted."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from numpy.typing import NDArray

from search.errors import SearchError
from search.model.scoring_process import ScoringProcess
from search.record.store import Store, client_retries
from search.values.model import Fitted, Judgement, Package, checked

# how far a loaded model may be from the refit: this share of the largest prediction, at least this
SAME_PREDICTION = 1e-6


@dataclass(frozen=True)
class Logged:
    """The models of a refit run, as MLflow finds them."""

    flavor_uri: str
    served_uri: str  # the one to register
    judgement: Judgement  # of the first, loaded again


def log(
    store: Store,
    run_id: str,
    package: Package,
    judge: Callable[[Any], Judgement],
) -> Logged:
    """Log all of a package, and judge its model, loaded again by its flavour."""
    flavor = importlib.import_module(f"mlflow.{package.flavor}")
    others = () if package.served is None else package.served.requirements
    requirements = _pinned(flavor, others)
    with tempfile.TemporaryDirectory(prefix="search-models-") as name, _run(store, run_id):
        folder = Path(name)
        for path, content in package.files.items():
            file = _written(folder / path, content)
            store.write_file(run_id, str(file), str(Path(path).parent))
        logged = flavor.log_model(package.model, name="model", pip_requirements=requirements)
        served_uri = str(logged.model_uri)
        if package.served is not None:
            served_uri = _log_served(package, flavor, folder, requirements)
    loaded = flavor.load_model(logged.model_uri)
    return Logged(str(logged.model_uri), served_uri, judge(loaded))


def check(logged: Logged, fitted: Fitted, process: ScoringProcess) -> None:
    """Check that the logged models predict what was fitted. ``process`` has the checked rows.

    :raises SearchError: one cannot be loaded, or predicts something else.
    """
    in_flavor = logged.judgement.predicted[checked(len(logged.judgement.predicted))]
    try:
        served = process.predictions(logged.served_uri)
    except RuntimeError as error:
        raise SearchError(f"the logged model cannot be loaded again: {error}") from error
    for name, answer in (("flavour", in_flavor), ("served", served)):
        furthest = float(np.max(np.abs(answer - fitted.answers)))
        if not furthest <= tolerance(fitted.answers):
            raise SearchError(
                f"the logged {name} model predicts up to {furthest:.2g} away from the refit; "
                "it was not registered"
            )


def tolerance(predictions: NDArray[np.float64]) -> float:
    """Return how far apart two predictions of one model may be, for predictions of this size."""
    return SAME_PREDICTION * max(1.0, float(np.max(np.abs(predictions), initial=0.0)))


def _log_served(package: Package, flavor: Any, folder: Path, requirements: Sequence[str]) -> str:
    served = package.served
    assert served is not None, "the package has a served model"
    in_flavor = folder / "flavor"
    flavor.save_model(package.model, str(in_flavor), pip_requirements=requirements)
    files = {name: str(folder / path) for name, path in served.files.items()}
    logged = mlflow.pyfunc.log_model(
        name=served.name,
        python_model=served.code,
        artifacts={"model": str(in_flavor), **files},
        signature=served.signature,
        input_example=served.input_example,
        pip_requirements=requirements,
    )
    return str(logged.model_uri)


@contextmanager
def _run(store: Store, run_id: str) -> Iterator[None]:
    """Have MLflow's model functions log to this run: they know the fluent API's run only."""
    mlflow.set_tracking_uri(store.uri)
    mlflow.set_registry_uri(store.uri)
    with client_retries(), mlflow.start_run(run_id=run_id):
        yield


def _pinned(flavor: Any, others: Sequence[str]) -> list[str]:
    """Return requirements that name published packages only, at the installed versions."""
    flavors: list[str] = flavor.get_default_pip_requirements()
    named = {requirement.partition("==")[0] for requirement in flavors}
    pinned = [f"{name}=={metadata.version(name)}" for name in others if name not in named]
    return [*pinned, *flavors]


def _written(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
