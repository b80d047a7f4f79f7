"""Private parts of MLflow 3.9 to 3.17: its fluent API writes to one store, whatever is asked.

Works on MLflow's functions, so it waits until somebody imports MLflow, and imports it for nobody.
With any other version only its public functions are replaced: what an objective logs to a run or an
experiment of another store, by its id, is then an error of the trial.
"""

from __future__ import annotations

import functools
import importlib.machinery
import os
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from search.tasks.objective.private_store import DEFAULT_EXPERIMENT, PrivateStore
from search.values.versions import is_between

PROVEN = ((3, 9), (3, 17))  # the first and the last minor version of MLflow

# what names a run or an experiment of another store
FOREIGN = (
    "MLFLOW_RUN_ID",
    "MLFLOW_EXPERIMENT_ID",
    "MLFLOW_EXPERIMENT_NAME",
    "MLFLOW_ACTIVE_MODEL_ID",
)

UNKNOWN = "RESOURCE_DOES_NOT_EXIST"  # MLflow's code for it
NOT_THIS_TRIAL = (
    "run {} is not one of this trial's, which are all that mlflow knows inside an objective; "
    "read another from its server by mlflow.MlflowClient(URI)"
)

_noted: dict[str, str] = {}


def noted() -> dict[str, str]:
    """Return what was asked for and not done: the last ``tracking_uri``, ``registry_uri``, ..."""
    return dict(_noted)


def redirect(store: PrivateStore) -> None:
    """Have the fluent API write to ``store``, in this process and in those that it starts."""
    set_environment(store)
    if "mlflow" in sys.modules:
        _patch(sys.modules["mlflow"], store)
    # even then: a failed import, or a reload, runs the module again
    sys.meta_path.insert(0, _AfterImport("mlflow", lambda module: _patch(module, store)))


def set_environment(store: PrivateStore) -> None:
    """Set the variables by which MLflow finds a store; an objective may have changed them."""
    for name in FOREIGN:
        os.environ.pop(name, None)
    os.environ["MLFLOW_TRACKING_URI"] = os.environ["MLFLOW_REGISTRY_URI"] = store.uri
    # where MLflow puts the artifacts of experiments that an objective makes; else ./mlruns
    os.environ["_MLFLOW_SERVER_ARTIFACT_ROOT"] = str(store.artifacts)


class _AfterImport(MetaPathFinder):
    """Calls a function with a module once it has been imported."""

    def __init__(self, name: str, call: Callable[[ModuleType], None]) -> None:
        self._name, self._call = name, call

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        finders = (finder for finder in sys.meta_path if finder is not self)
        specs = (finder.find_spec(fullname, path, target) for finder in finders)
        spec = next((found for found in specs if found is not None), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                self._call(module)

            # on this one loader: another class would not have what tools look for in a loader
            vars(spec.loader)["exec_module"] = exec_module
        return spec


def is_proven(mlflow: Any) -> bool:
    """Tell whether the parts used here are known to be in this version of MLflow."""
    return is_between(mlflow.__version__, *PROVEN)


def _patch(mlflow: Any, store: PrivateStore) -> None:
    if is_proven(mlflow):
        _take_over(mlflow, store)
    else:
        mlflow.set_tracking_uri(store.uri)
        mlflow.set_registry_uri(store.uri)
    _note_only(mlflow, store)


def _take_over(mlflow: Any, store: PrivateStore) -> None:
    tracking: Any = sys.modules["mlflow.tracking._tracking_service.utils"]
    registry: Any = sys.modules["mlflow.tracking._model_registry.utils"]
    # with these set, MLflow does not look at what an objective writes to os.environ
    tracking._tracking_uri = registry._registry_uri = store.uri
    set_environment(store)  # which may have been changed since
    _replace(mlflow.start_run, _without_foreign_parent(mlflow, mlflow.start_run))
    build = tracking._tracking_store_registry.get_store_builder(store.uri)
    tracking._register("sqlite", _admitting(mlflow, build, store.uri))


def _note_only(mlflow: Any, store: PrivateStore) -> None:
    """Have MLflow's functions that choose a store only note what they are asked."""

    def set_tracking_uri(uri: str | Path) -> None:
        """Note the URI: what an objective logs goes to its trial's run."""
        _noted["tracking_uri"] = str(uri)

    def set_registry_uri(uri: str) -> None:
        """Note the URI: the driver registers an objective's models."""
        _noted["registry_uri"] = str(uri)

    def set_experiment(
        experiment_name: str | None = None, experiment_id: str | None = None, **_: Any
    ) -> Any:
        """Note the experiment; return that of the private store."""
        if experiment_name is not None:
            _noted["experiment_name"] = str(experiment_name)
        if experiment_id is not None:
            _noted["experiment_id"] = str(experiment_id)
        return mlflow.MlflowClient(store.uri).get_experiment(DEFAULT_EXPERIMENT)

    for function in (set_tracking_uri, set_registry_uri, set_experiment):
        _replace(getattr(mlflow, function.__name__), function)


def _without_foreign_parent(mlflow: Any, start_run: Callable[..., Any]) -> Callable[..., Any]:
    """Have a run whose parent is the script's start all the same: it ends in the trial's run."""

    @functools.wraps(start_run)
    def start(*args: Any, **kwargs: Any) -> Any:
        if (parent := kwargs.get("parent_run_id")) is not None:
            try:
                mlflow.MlflowClient().get_run(parent)
            except mlflow.MlflowException:
                del kwargs["parent_run_id"]
        return start_run(*args, **kwargs)

    return start


def _admitting(mlflow: Any, build: Callable[..., Any], uri: str) -> Callable[..., Any]:
    """Return a builder of stores whose one at ``uri`` takes ids that the script has from another.

    Runs and models of an experiment that it does not have are made in its own; a run that it does
    not have is one clear error.
    """

    def in_own_experiment(create: Callable[..., Any]) -> Callable[..., Any]:
        def call(experiment_id: str, *args: Any, **kwargs: Any) -> Any:
            try:
                return create(experiment_id, *args, **kwargs)
            except mlflow.MlflowException as error:
                if error.error_code != UNKNOWN:
                    raise
            return create(DEFAULT_EXPERIMENT, *args, **kwargs)

        return call

    def explained(get_run: Callable[..., Any]) -> Callable[..., Any]:
        def call(run_id: str) -> Any:
            try:
                return get_run(run_id)
            except mlflow.MlflowException as error:
                if error.error_code == UNKNOWN:
                    error.message = NOT_THIS_TRIAL.format(run_id)
                    error.args = (error.message,)
                raise

        return call

    def admitting(store_uri: str, artifact_uri: str | None = None) -> Any:
        made = build(store_uri=store_uri, artifact_uri=artifact_uri)
        if store_uri == uri:
            made.create_run = in_own_experiment(made.create_run)
            made.create_logged_model = in_own_experiment(made.create_logged_model)
            made.get_run = explained(made.get_run)
            _do_not_sync(made.engine)
        return made

    return admitting


def _do_not_sync(engine: Any) -> None:
    """Let commits return before the disk has them: nobody reads this store after a power cut."""
    from sqlalchemy import event

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA synchronous = OFF")

    engine.dispose()  # the connection that it has was made before


def _replace(original: Callable[..., Any], function: Callable[..., Any]) -> None:
    """Put ``function`` in the place of ``original`` in every module of MLflow's that has it."""
    name = function.__name__
    for module_name, module in list(sys.modules.items()):
        if module_name.partition(".")[0] == "mlflow" and vars(module).get(name) is original:
            setattr(module, name, function)
