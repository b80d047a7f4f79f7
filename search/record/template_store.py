"""An empty database of the installed MLflow, as the bytes that a worker begins its own with."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from mlflow.version import VERSION

from search.errors import InputError
from search.record import mlflow_schema


def template(state_folder: Path) -> bytes:
    """Return the database; the first call makes it, which takes seconds, and keeps it.

    :raises InputError: the folder cannot be made or written.
    """
    file = state_folder.absolute() / f"store-{VERSION}.db"
    try:
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=file.parent, prefix=".store-") as folder:
                aside = Path(folder) / file.name
                mlflow_schema.make(aside)
                os.replace(aside, file)  # it is whole under its name
        return file.read_bytes()
    except OSError as error:
        raise InputError(
            f"--state-dir {state_folder}: {error.strerror}; give a folder that can be written"
        ) from error
