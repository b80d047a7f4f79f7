"""The models that a trial logged, in its run: sent, registered and removed.

Each is one of MLflow's logged models, or on a server that has none (MLflow 2) a folder of the
run's artifacts.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import mlflow
from mlflow.entities import LoggedModel as ServerModel
from mlflow.entities import LoggedModelOutput, LoggedModelStatus
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.models.model import MLMODEL_FILE_NAME
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from search.record.store import Store
from search.record.tags import LOGGED_MODEL, MODEL_FOLDERS
from search.values.logged import LoggedModel


class TrialModels:
    """The models of one trial's run. Sending one twice changes nothing."""

    def __init__(self, store: Store, run_id: str) -> None:
        self._store, self._client, self._run_id = store, store.client, run_id

    def keep(self, model: LoggedModel, folder: Path) -> None:
        """Send a model, whose files are in ``folder``, and register it if it asks for that.

        :raises Unwritable: the artifact store does not take it.
        :raises MlflowException: the server does not.
        """
        kept = self._kept()
        if kept is None:
            source, model_id = self._keep_as_artifacts(model, folder), None
        else:
            same = (each for each in kept if each.tags.get(LOGGED_MODEL) == model.folder)
            model_id = self._keep_as_model(model, folder, next(same, None))
            source = f"models:/{model_id}"
        if model.registered_as:
            self._register(model.registered_as, source, model_id)

    @property
    def are_kept(self) -> bool:
        """Tell whether all of the run's models are in the store, at least one."""
        kept = self._kept()
        if kept is None:
            return bool(self._folders())
        return bool(kept) and all(each.status == LoggedModelStatus.READY for each in kept)

    def drop(self) -> None:
        """Remove the models that are not registered."""
        registered = {source for each in self._versions() for source in _sources(each)}
        for model in self._kept() or ():
            if f"models:/{model.model_id}" not in registered:
                self._delete_files(model.artifact_location)
                self._store.ask(partial(self._client.delete_logged_model, model.model_id))
        for location in self._folders():
            if location not in registered:
                self._delete_files(location)

    def _keep_as_model(self, model: LoggedModel, folder: Path, kept: ServerModel | None) -> str:
        """Return the id of the model on the server."""
        if kept is None:
            kept = self._store.ask(lambda: self._create(model))
        if kept.status != LoggedModelStatus.READY:  # it is new, or the upload was broken off
            self._link(kept.model_id)
            _make_its_own(folder, self._run_id, kept.artifact_location, kept.model_id)
            self._store.write_model(kept.model_id, str(folder))
            self._store.ask(partial(self._client.finalize_logged_model, kept.model_id, "READY"))
        return str(kept.model_id)

    def _create(self, model: LoggedModel) -> ServerModel:
        return self._client.create_logged_model(
            self._store.experiment_id,
            name=model.name,
            source_run_id=self._run_id,
            tags={LOGGED_MODEL: model.folder},
            params=dict(model.params),
        )

    def _link(self, model_id: str) -> None:
        """Have the run's page show the model."""
        run = self._store.ask(lambda: self._client.get_run(self._run_id))
        linked = run.outputs.model_outputs if run.outputs is not None else []
        if all(each.model_id != model_id for each in linked):
            output = LoggedModelOutput(model_id, step=0)
            self._store.ask(lambda: self._client.log_outputs(self._run_id, [output]))

    def _keep_as_artifacts(self, model: LoggedModel, folder: Path) -> str:
        """Return where the model is among the run's artifacts."""
        run = self._store.ask(lambda: self._client.get_run(self._run_id))
        path = f"models/{model.folder.replace('/', '-')}"
        known = set(json.loads(run.data.tags.get(MODEL_FOLDERS, "[]")))
        self._store.describe(self._run_id, tags={MODEL_FOLDERS: json.dumps(sorted({*known, path}))})
        _make_its_own(folder, self._run_id, path, None)
        self._store.write_folder(self._run_id, str(folder), path)
        return f"{run.info.artifact_uri}/{path}"

    def _folders(self) -> list[str]:
        """Return where the models among the run's artifacts are."""
        run = self._store.ask(lambda: self._client.get_run(self._run_id))
        paths = json.loads(run.data.tags.get(MODEL_FOLDERS, "[]"))
        return [f"{run.info.artifact_uri}/{path}" for path in paths]

    def _register(self, name: str, source: str, model_id: str | None) -> None:
        """Make a version of the registered model, unless it was made before."""
        try:
            self._store.ask(lambda: self._client.create_registered_model(name))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        if not any(each.name == name and source in _sources(each) for each in self._versions()):
            create = partial(
                self._client.create_model_version,
                name,
                source,
                self._run_id,
                model_id=model_id,
                await_creation_for=0,  # other trials' events wait
            )
            with _tracking_uri(self._store.uri):
                self._store.ask(create)

    def _versions(self) -> list[ModelVersion]:
        wanted = f"run_id = '{self._run_id}'"
        return list(self._store.ask(lambda: self._client.search_model_versions(wanted)))

    def _kept(self) -> list[ServerModel] | None:
        """Return the run's logged models; None if the server has no such thing."""
        try:
            return list(self._search())
        except MlflowException as error:
            if error.error_code not in ("ENDPOINT_NOT_FOUND", "NOT_IMPLEMENTED"):
                raise
            return None

    def _search(self) -> Iterator[ServerModel]:
        token: str | None = None
        while True:
            search = partial(
                self._client.search_logged_models,
                [self._store.experiment_id],
                f"source_run_id = '{self._run_id}'",
                page_token=token,
            )
            page = self._store.ask(search)
            yield from page
            if not (token := page.token):
                return

    def _delete_files(self, location: str) -> None:
        repository = get_artifact_repository(location, tracking_uri=self._store.uri)
        # Not every artifact store can delete, and one may raise anything. `mlflow gc` removes
        # the files of deleted models, too.
        with contextlib.suppress(Exception):
            repository.delete_artifacts()  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def _tracking_uri(uri: str) -> Iterator[None]:
    """Set the fluent API's store while inside.

    A registry in a database looks there for the model of a version, whatever its client's store.
    """
    is_set = mlflow.is_tracking_uri_set()  # type: ignore[no-untyped-call]
    former = mlflow.get_tracking_uri() if is_set else None
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(former)  # type: ignore[arg-type] # None: as if never set


def _sources(version: ModelVersion) -> tuple[str, ...]:
    """Return the names under which a version knows its model."""
    return (str(version.source), f"models:/{version.model_id}")


def _make_its_own(folder: Path, run_id: str, place: str, model_id: str | None) -> None:
    """Have a model's description name the run and the model that it is now."""
    description = Model.load(str(folder))
    description.run_id, description.artifact_path = run_id, place
    description.model_id = model_id
    if model_id is not None:
        description.model_uuid = model_id
    description.save(str(folder / MLMODEL_FILE_NAME))
