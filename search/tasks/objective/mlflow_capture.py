"""Private parts of MLflow 3.9 to 3.17: collects what an objective logs, an attempt at a time.

A worker writes to no tracking server: what an attempt logs goes to a store of the worker's own,
and from there, as plain values, to the driver. An objective that uses no MLflow has none imported.
With any other version runs that an objective's own threads leave open are not ended.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search.tasks.objective.mlflow_redirect import is_proven, redirect, set_environment
from search.tasks.objective.private_store import PrivateStore
from search.values.logged import Logged

_store: PrivateStore | None = None  # of this process


@dataclass
class Capture:
    """One attempt of a trial."""

    attempt: str
    logged: Logged | None = None  # set when the attempt is over; None: nothing was logged

    def so_far(self) -> Logged | None:
        """Return what has been logged while the attempt goes on."""
        store = _store
        assert store is not None, "install was called"
        return _read(store, self.attempt) if store.changed else None


def install(template: bytes, folder: Path) -> None:
    """Have this process log to a store of its own; call it before the user's code is imported.

    ``template``: an empty database of the installed MLflow. ``folder``: on this machine, for the
    stores of all its workers. A second call changes nothing.

    :raises OSError: the folder cannot be written.
    """
    global _store
    if _store is None:
        _store = PrivateStore(template, folder)
        redirect(_store)


@contextlib.contextmanager
def capture(attempt: str) -> Iterator[Capture]:
    """Collect what is logged inside, also where it ends by an exception.

    :raises OSError, sqlite3.Error: the store cannot be emptied.
    """
    store = _store
    assert store is not None, "install was called"
    _end_runs()
    if store.changed:  # by the attempt before, or by the user's code while it was imported
        store.clear()
    set_environment(store)
    captured = Capture(attempt)
    try:
        yield captured
    finally:
        _end_runs()
        if store.changed:
            captured.logged = _read(store, attempt)


def _read(store: PrivateStore, attempt: str) -> Logged:
    from search.tasks.objective.mlflow_readback import read

    try:
        return read(store)
    except Exception as error:  # noqa: BLE001 - must not decide what becomes of the trial
        return Logged(notes=(f"{attempt}: what it logged to MLflow cannot be read: {error}",))


def _end_runs() -> None:
    """Write out what MLflow still holds, and end the runs of all threads."""
    fluent: Any = sys.modules.get("mlflow.tracking.fluent")
    if fluent is None:  # nobody imported MLflow
        return
    mlflow: Any = sys.modules["mlflow"]
    if not is_proven(mlflow):
        while mlflow.active_run() is not None:
            mlflow.end_run()
        return
    with contextlib.suppress(Exception):  # a run that its author deleted takes nothing more
        fluent.flush_async_logging()
    repositories = sys.modules["mlflow.tracking._tracking_service.utils"]._artifact_repos_cache
    for repository in list(repositories.values()):
        with contextlib.suppress(Exception):  # as above
            repository.flush_async_logging()
    repositories.clear()  # they belong to runs of this attempt
    stack = fluent._active_run_stack.get()
    for others in fluent._active_run_stack.get_all_thread_values().values():
        if others is not stack:
            stack.extend(others)
            others.clear()
    while stack:
        with contextlib.suppress(Exception):  # as above
            fluent.end_run()
    for last in (fluent._last_active_run_id, fluent._last_logged_model_id):
        last.reset()
