"""Reads what an attempt logged back from its private store; imported only if it logged anything."""

from __future__ import annotations

import filecmp
import io
import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import LoggedModel as ServerModel
from mlflow.entities import Run, ViewType
from mlflow.models import Model
from mlflow.models.model import MLMODEL_FILE_NAME
from mlflow.store.artifact.models_artifact_repo import REGISTERED_MODEL_META_FILE_NAME
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils import name_utils
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.uri import is_local_uri

from search.tasks.objective.private_store import PrivateStore
from search.values.logged import Logged, LoggedModel, Measured, RunLog, free_name, one_run

LARGEST_BYTES = 256 << 20  # of one trial's artifacts, and of its models, that are carried

# what MLflow writes there is about runs and models of the private store
ABOUT_THE_STORE = ("mlflow.log-model.history", "mlflow.autologging")

PAGE = 1_000

Files = dict[str, Path]  # path in the archive -> file


def read(store: PrivateStore) -> Logged:
    """Return all that the store holds, as one run.

    :raises MlflowException, OSError: it cannot be read.
    """
    client = MlflowClient(store.uri, registry_uri=store.uri)
    experiments = [each.experiment_id for each in client.search_experiments(view_type=ViewType.ALL)]
    runs = list(_runs(client, experiments))
    automatic = resolve_tags()
    ids = {run.info.run_id for run in runs}
    logged = one_run([_log(client, run, automatic, ids) for run in runs])
    artifacts, notes = _within_limit(_artifacts(runs), "artifacts", "log their path instead")
    has_models = store.may_have("logged_models") or store.may_have("model_versions")
    models = list(_models(client, experiments)) if has_models else []
    files = {
        f"{model.folder}/{path}": file
        for folder, model in models
        for path, file in _files(folder)
        if path != REGISTERED_MODEL_META_FILE_NAME  # it names a version of the private store
    }
    models_archive, more = _within_limit(files, "models", "use --keep-models none")
    return replace(
        logged,
        artifacts=artifacts,
        models=() if models_archive is None else tuple(model for _, model in models),
        models_archive=models_archive,
        notes=(*notes, *more),
    )


def _runs(client: MlflowClient, experiments: list[str]) -> Iterator[Run]:
    """Yield the runs in the order of their start."""
    token: str | None = None
    while True:
        page = client.search_runs(
            experiments,
            max_results=PAGE,
            order_by=["attributes.start_time ASC"],
            page_token=token,
        )
        yield from page
        if not (token := page.token):
            return


def _log(client: MlflowClient, run: Run, automatic: Mapping[str, str], ids: set[str]) -> RunLog:
    histories = {key: client.get_metric_history(run.info.run_id, key) for key in run.data.metrics}
    return RunLog(
        params=dict(run.data.params),
        metrics={
            key: tuple(Measured(key, each.value, each.timestamp, each.step) for each in history)
            for key, history in histories.items()
        },
        tags={
            key: text
            for key, text in run.data.tags.items()
            if not _is_automatic(key, text, automatic, ids)
        },
    )


def _is_automatic(key: str, text: str, automatic: Mapping[str, str], ids: set[str]) -> bool:
    """Tell whether MLflow has set a tag by itself."""
    if key == "mlflow.runName":
        return _is_made_up(text)
    if key == "mlflow.parentRunId":
        return text in ids
    return key in ABOUT_THE_STORE or automatic.get(key) == text


def _is_made_up(name: str) -> bool:
    """Tell whether MLflow gives such names to runs that have none: "gaudy-ray-961"."""
    words: Any = name_utils
    predicate, _, rest = name.partition("-")
    noun, _, number = rest.rpartition("-")
    return (
        number.isdecimal()
        and noun in _lower(words, "_GENERATOR_NOUNS")
        and predicate in _lower(words, "_GENERATOR_PREDICATES")
    )


def _lower(words: Any, name: str) -> set[str]:
    # private to MLflow; without them a made-up name is kept as if the objective had given it
    return {each.lower() for each in getattr(words, name, ())}


def _artifacts(runs: Iterable[Run]) -> Files:
    """Return the runs' artifacts; of two under one path, the second is NAME.2.SUFFIX."""
    united: Files = {}
    for run in runs:
        for path, file in _files(_local(run.info.artifact_uri or "")):
            if path not in united:
                united[path] = file
            elif not filecmp.cmp(united[path], file, shallow=False):
                stem, suffix = os.path.splitext(path)
                united[free_name(stem, united, suffix)] = file
    return united


def _models(client: MlflowClient, experiments: list[str]) -> Iterator[tuple[Path, LoggedModel]]:
    """Yield each model that was logged or registered, with its folder; twice under two names."""
    names: dict[str, list[str]] = {}  # where the files are, or the model's id -> registered as
    for version in client.search_model_versions(max_results=PAGE):
        source = f"models:/{version.model_id}" if version.model_id else str(version.source)
        names.setdefault(source, []).append(version.name)
    found: list[tuple[str, Path, Mapping[str, str], list[str]]] = []
    for logged in _logged_models(client, experiments):
        registered = names.pop(f"models:/{logged.model_id}", [])
        found.append((logged.name, _local(logged.artifact_location), logged.params, registered))
    for source, registered in names.items():  # saved as artifacts, and registered from there
        found.append((_local(source).name, _local(source), {}, registered))
    number = 0
    for name, folder, params, registered in found:
        # without this file its author's call has failed
        for registered_as in registered or [""] if (folder / MLMODEL_FILE_NAME).is_file() else ():
            number += 1
            model = replace(_model(name, folder, number), registered_as=registered_as)
            yield folder, replace(model, params=dict(params))


def _logged_models(client: MlflowClient, experiments: list[str]) -> Iterator[ServerModel]:
    token: str | None = None
    while True:
        page = client.search_logged_models(
            experiments,
            order_by=[{"field_name": "creation_timestamp", "ascending": True}],
            page_token=token,
        )
        yield from page
        if not (token := page.token):
            return


def _model(name: str, folder: Path, number: int) -> LoggedModel:
    flavors = Model.load(str(folder)).flavors
    return LoggedModel(
        name=name,
        flavors=tuple(each for each in flavors if each != "python_function") or tuple(flavors),
        folder=f"{number}/{name}",
        size_bytes=sum(file.stat().st_size for _, file in _files(folder)),
    )


def _local(uri: str) -> Path:
    """Return the folder of a URI; one that does not exist if it is elsewhere."""
    # an experiment of the author's own may be in a bucket
    if not is_local_uri(uri):  # type: ignore[no-untyped-call]
        return Path("/nonexistent")
    return Path(local_file_uri_to_path(uri))  # type: ignore[no-untyped-call]


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            file = Path(parent, name)
            yield file.relative_to(folder).as_posix(), file


def _within_limit(files: Files, what: str, way_out: str) -> tuple[bytes | None, tuple[str, ...]]:
    """Return the files as a tar; if they are too large, a note."""
    size = sum(file.stat().st_size for file in files.values())
    if size > LARGEST_BYTES:
        return None, (
            f"{what} of {size >> 20} MB are not kept: a trial may have {LARGEST_BYTES >> 20} MB; "
            f"{way_out}",
        )
    if not files:
        return None, ()
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for path, file in files.items():
            tar.add(file.resolve(), path)
    return archive.getvalue(), ()
