"""Private parts of MLflow 3.9 to 3.17: how it makes a database, and the revision of its schema.

MLflow has no public function that makes its database in advance, or that tells whether another
process is making it. With any other version nothing here is used: MLflow makes and checks the
database when it opens it, and an error of two processes that do so at once is MLflow's own.
"""

from __future__ import annotations

import contextlib
import sqlite3
from importlib import metadata
from pathlib import Path

from search.values.versions import is_between

PROVEN = ((3, 9), (3, 17))  # the first and the last minor version of MLflow
NOTE = (
    "note: this version of MLflow ({version}) is not known here, so MLflow makes and checks its "
    "database by itself: let one search make it before you start several at once"
)

REVISION_TABLE = "alembic_version"  # where its migrations keep the schema's revision


def is_proven() -> bool:
    """Tell whether the parts used here are known to be in the installed version of MLflow."""
    return is_between(metadata.version("mlflow"), *PROVEN)


def note() -> str | None:
    """Return what to tell the user if the installed version is not proven."""
    return None if is_proven() else NOTE.format(version=metadata.version("mlflow"))


def make(file: Path) -> None:
    """Make a sqlite database with all of MLflow's tables."""
    from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH as ARTIFACTS
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    made = SqlAlchemyStore(f"sqlite:///{file}", ARTIFACTS)  # type: ignore[no-untyped-call]
    made.engine.dispose()


def latest_revision() -> str:
    """Return the revision to which MLflow migrates a database."""
    from mlflow.store.db.utils import _get_latest_schema_revision

    return str(_get_latest_schema_revision())  # type: ignore[no-untyped-call]


def revision(database: sqlite3.Connection) -> str | None:
    """Return the revision of a database's schema; None if it has none yet, or is locked."""
    with contextlib.suppress(sqlite3.Error):  # no such table, or it is locked
        found = database.execute(f"SELECT version_num FROM {REVISION_TABLE}").fetchone()
        return str(found[0]) if found else None
    return None
