"""An empty database of the installed MLflow, as the bytes that a worker begins its own with."""

from __future__ import annotations

from pathlib import Path

from mlflow.version import VERSION

from search.record import database


def template(state_folder: Path) -> bytes:
    """Return the database; the first call makes it, which takes seconds, and keeps it.

    :raises InputError: the folder cannot be made or written.
    """
    file = state_folder.absolute() / f"store-{VERSION}.db"
    database.make_whole(f"sqlite:///{file}")
    return file.read_bytes()
