"""A database that MLflow opens by itself: checked, made by one process, and then left to MLflow.

MLflow runs all migrations of its schema in a database that it opens, and two processes that do so
at once break it. It retries a database that it cannot write for 120 s. What must be known of
MLflow's schema is in ``mlflow_schema``; without it, MLflow alone makes the database.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from search.errors import InputError
from search.record import mlflow_schema
from search.record.server import unusable

if TYPE_CHECKING:
    from sqlalchemy import Connection

POSTGRESQL = ("postgresql:", "postgresql+")  # how its URIs begin
# the advisory lock under which searches set up one PostgreSQL database in turn: "search"
SETTING_UP = int.from_bytes(b"search", "big")

LOCKED_S = 1.0  # for another process to finish writing
STILL_S = 10.0  # a file that was not written for so long is not being made
LONGEST_S = 60.0  # for others to finish: making a database takes seconds
LOOK_EVERY_S = 0.2


def check_usable(uri: str) -> bool:
    """Check, at once, that a sqlite database can be written; return whether it exists.

    Other databases are checked by :func:`alone`.

    :raises InputError: it cannot be written, or is not a database.
    """
    if (place := _file(uri)) is None:
        return True
    folder = next(above for above in place.parents if above.exists())
    if place.is_dir():
        raise unusable(uri, f"{place} is a folder")
    if not folder.is_dir():
        raise unusable(uri, f"{folder} is no folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise unusable(uri, f"the folder {folder} cannot be written")
    if not place.exists() or not place.stat().st_size:
        return False
    try:
        with contextlib.closing(_opened(place, "rw")) as database:
            (version,) = database.execute("PRAGMA user_version").fetchone()
            # a write that is rolled back needs what every write needs, such as a journal
            database.execute("BEGIN IMMEDIATE")
            database.execute(f"PRAGMA user_version = {version + 1}")
            database.execute("ROLLBACK")
    except sqlite3.Error as error:
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise unusable(uri, str(error)) from error
    return True


def note(uri: str) -> str | None:
    """Return what the user should know of this database and the installed version of MLflow."""
    return mlflow_schema.note() if uri.startswith(("sqlite:", *POSTGRESQL)) else None


@contextlib.contextmanager
def alone(uri: str) -> Iterator[bool]:
    """While inside, keep other searches out of a PostgreSQL database; yield whether it has tables.

    One that refuses the connection raises here; MLflow would try it for 120 s. With a version of
    MLflow whose schema is not known, tables are taken to exist.
    """
    if not uri.startswith(POSTGRESQL):
        yield True
        return
    from sqlalchemy import NullPool, create_engine, text

    with create_engine(uri, poolclass=NullPool).begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": SETTING_UP})
        yield not mlflow_schema.is_proven() or _has_tables(connection)


def _has_tables(connection: Connection) -> bool:
    from sqlalchemy import text

    asked = text("SELECT to_regclass(:table)")
    found = connection.execute(asked, {"table": mlflow_schema.REVISION_TABLE}).scalar()
    return found is not None


def make_whole(uri: str) -> None:
    """Make a sqlite database if it does not exist; wait if another process is making it.

    With a version of MLflow whose schema is not known, only its folder is made: MLflow does the
    rest when it opens the database.

    :raises InputError: its folder cannot be made or written.
    """
    if (place := _file(uri)) is None:
        return
    if not place.exists():
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            if mlflow_schema.is_proven():
                _make(place)
        except OSError as error:
            raise unusable(uri, f"{error.filename}: {error.strerror}") from error
    if mlflow_schema.is_proven() and _written_just_now(place):
        _let_others_finish(place)


def _make(place: Path) -> None:
    """Make a database aside, then put it in its place as a whole."""
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".mlflow-") as folder:
        aside = Path(folder) / place.name
        mlflow_schema.make(aside)
        # A link never replaces a file that exists by now. On a disk without links, MLflow makes it.
        with contextlib.suppress(OSError):
            os.link(aside, place)


def _let_others_finish(place: Path) -> None:
    """Wait while another process makes it, or migrates it to MLflow's latest schema.

    A process that opens it meanwhile is told that it is out of date, or runs the same migrations.
    """
    latest = mlflow_schema.latest_revision()
    until = time.monotonic() + LONGEST_S
    while _written_just_now(place) and _revision(place) != latest and time.monotonic() < until:
        time.sleep(LOOK_EVERY_S)


def _file(uri: str) -> Path | None:
    """Return the file of a sqlite database; None if it is not in a file."""
    if not uri.startswith("sqlite:"):
        return None
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        database = make_url(uri).database
    except ArgumentError as error:
        raise InputError(f"--tracking-uri {uri}: {error}; write sqlite:///FILE") from error
    if not database or database == ":memory:" or database.startswith("file:"):
        return None
    return Path(database).absolute().resolve()


def _opened(place: Path, mode: str) -> sqlite3.Connection:
    asked = f"{place.as_uri()}?mode={mode}"
    return sqlite3.connect(asked, uri=True, timeout=LOCKED_S, isolation_level=None)


def _written_just_now(place: Path) -> bool:
    written = 0.0
    for file in (place, place.with_name(f"{place.name}-journal")):  # sqlite writes there first
        with contextlib.suppress(OSError):  # not there, or not any more
            written = max(written, file.stat().st_mtime)
    return 0 <= time.time() - written < STILL_S


def _revision(place: Path) -> str | None:
    with (
        contextlib.suppress(sqlite3.Error),  # it cannot be opened at this moment
        contextlib.closing(_opened(place, "ro")) as database,
    ):
        return mlflow_schema.revision(database)
    return None
