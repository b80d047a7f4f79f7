"""What an attempt logged, kept in a folder on the driver's disk until the server has it."""

from __future__ import annotations

import json
import shutil
import tarfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from search.values.logged import Logged, LoggedModel, Measured

FACTS = "logged.json"
ARTIFACTS = "artifacts.tar"
MODELS = "models.tar"


def save(logged: Logged, folder: Path) -> None:
    """Write it to ``folder``, which is whole once it has its name; what was there is replaced.

    :raises OSError: it cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = folder.with_name(f".{folder.name}.writing")
    remove(aside)  # of a killed search
    aside.mkdir(mode=0o700)
    for name, archive in ((ARTIFACTS, logged.artifacts), (MODELS, logged.models_archive)):
        if archive is not None:
            (aside / name).write_bytes(archive)
    without_archives = replace(logged, artifacts=None, models_archive=None)
    (aside / FACTS).write_text(json.dumps(asdict(without_archives)))
    remove(folder)
    aside.rename(folder)


def load(folder: Path) -> Logged:
    """Return what :func:`save` wrote.

    :raises OSError: it cannot be read.
    """
    artifacts, models = (
        file.read_bytes() if (file := folder / name).exists() else None
        for name in (ARTIFACTS, MODELS)
    )
    return replace(facts(folder), artifacts=artifacts, models_archive=models)


def facts(folder: Path) -> Logged:
    """Return the same without the archives.

    :raises OSError: it cannot be read.
    """
    values: dict[str, Any] = json.loads((folder / FACTS).read_text())
    return Logged(
        params=values["params"],
        metrics=tuple(Measured(*each) for each in values["metrics"]),
        tags=values["tags"],
        models=tuple(
            LoggedModel(**{**each, "flavors": tuple(each["flavors"])}) for each in values["models"]
        ),
        notes=tuple(values["notes"]),
    )


def unpack(archive: Path, folder: Path) -> None:
    """Extract an archive; nothing in it can be written outside ``folder``.

    :raises OSError, tarfile.TarError: it cannot be read.
    """
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")


def remove(folder: Path) -> None:
    """Remove a folder if it exists."""
    shutil.rmtree(folder, ignore_errors=True)
