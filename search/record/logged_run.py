"""Writes what an attempt logged to its trial's run; a value that is rejected blocks no other."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from mlflow.exceptions import MlflowException

from search.record.logged_folder import ARTIFACTS, MODELS, facts, unpack
from search.record.store import METRICS_A_REQUEST, Score, Store
from search.record.store_errors import Unwritable, first_line, is_outage
from search.record.tags import LONGEST_TAG, NOT_KEPT
from search.record.trial_models import TrialModels
from search.values.logged import LoggedModel

# how servers refuse a value, but not the run that it is for
ABOUT_A_VALUE = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")

# error codes for a model that cannot be stored
ABOUT_A_MODEL = (*ABOUT_A_VALUE, "PERMISSION_DENIED", "RESOURCE_DOES_NOT_EXIST")

MOST_FAILURES = 3  # then the artifact store takes nothing

Described = tuple[str, str, str]  # "param" or "tag", key, text
Write = tuple[str, Callable[[], None]]  # what it writes, and how
T = TypeVar("T")


def keep(
    store: Store, run_id: str, folder: Path, keep_models: bool, last_try: bool
) -> tuple[str, ...]:
    """Write what ``folder`` holds to the run; return what is not kept, each with its reason.

    Writing it twice changes nothing. A registered model is kept whatever ``keep_models`` says.

    :raises Unwritable: the artifact store does not take all of it. On the last try that is one of
        the reasons, and a tag of the run.
    :raises MlflowException: the server is away, or refuses the run.
    """
    try:
        logged = facts(folder)
    except FileNotFoundError:
        return (f"what it logged is lost: {folder} was deleted",)
    lost = [*logged.notes]
    described: list[Described] = [
        *(("param", key, text) for key, text in logged.params.items()),
        *(("tag", key, text) for key, text in logged.tags.items()),
    ]
    lost += _taken(lambda items: _describe(store, run_id, items), described)
    scores = [Score(*point) for point in logged.metrics]
    for start in range(0, len(scores), METRICS_A_REQUEST):
        batch = scores[start : start + METRICS_A_REQUEST]
        lost += _taken(lambda items: store.score(run_id, items), batch)
    models = [model for model in logged.models if keep_models or model.registered_as]
    with tempfile.TemporaryDirectory(prefix="search-logged-") as name:
        unpacked = Path(name)
        writes = [
            *_artifact_writes(store, run_id, folder / ARTIFACTS, unpacked / "artifacts", last_try),
            *_model_writes(store, run_id, folder / MODELS, unpacked / "models", models),
        ]
        lost += _unwritten(writes, last_try)
    if lost:
        store.describe(run_id, tags={NOT_KEPT: "\n".join(lost)[:LONGEST_TAG]})
    return tuple(lost)


def _describe(store: Store, run_id: str, items: Sequence[Described]) -> None:
    params = {key: text for kind, key, text in items if kind == "param"}
    tags = {key: text for kind, key, text in items if kind == "tag"}
    store.describe(run_id, params, tags)


def _taken(write: Callable[[Sequence[T]], None], items: Sequence[T]) -> list[str]:
    """Write all items that the store takes; return why it refuses the others."""
    if not items:
        return []
    try:
        write(items)
    except MlflowException as error:
        if is_outage(error) or error.error_code not in ABOUT_A_VALUE:
            raise
        if len(items) == 1:
            return [f"not kept: {first_line(error)}"]
    else:
        return []
    half = len(items) // 2
    return [*_taken(write, items[:half]), *_taken(write, items[half:])]


def _artifact_writes(
    store: Store, run_id: str, archive: Path, folder: Path, one_by_one: bool
) -> Iterator[Write]:
    """Yield what writes the artifacts: all at once, or each file by itself."""
    if not archive.exists():
        return
    unpack(archive, folder)
    if not one_by_one:
        yield "artifacts", partial(store.write_folder, run_id, str(folder))
        return
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        path = file.relative_to(folder)
        place = "" if path.parent == Path() else path.parent.as_posix()
        yield f"artifact {path}", partial(store.write_file, run_id, str(file), place)


def _model_writes(
    store: Store, run_id: str, archive: Path, folder: Path, models: Sequence[LoggedModel]
) -> Iterator[Write]:
    if not models or not archive.exists():
        return
    unpack(archive, folder)
    trial = TrialModels(store, run_id)
    for model in models:
        yield f"model {model.name}", partial(trial.keep, model, folder / model.folder)


def _unwritten(writes: Sequence[Write], last_try: bool) -> list[str]:
    """Do all writes that succeed; return why the others do not.

    :raises Unwritable: the artifact store refused some, and this is not the last try.
    """
    reasons: list[str] = []
    failures: list[Unwritable] = []
    for what, write in writes:
        if len(failures) == MOST_FAILURES:
            reasons.append(f"{what} and what follows is not kept either")
            break
        try:
            write()
        except Unwritable as error:
            failures.append(error)
            reasons.append(f"{what} is not kept: {error}")
        except MlflowException as error:
            if is_outage(error) or error.error_code not in ABOUT_A_MODEL:
                raise
            reasons.append(f"{what} is not kept: {first_line(error)}")
    if failures and not last_try:
        raise failures[0]
    return reasons
