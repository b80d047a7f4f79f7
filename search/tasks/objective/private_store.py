"""The database of a worker process in which MLflow keeps what an objective logs.

It writes one column of MLflow's own table: where the default experiment keeps its artifacts.

One file for all attempts: each begins with the template's content, written over the former's.
MLflow's own connections and caches stay valid that way, and no handle is opened anew.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import sqlite3
import tempfile
from pathlib import Path

from search.values.folder_lock import locked, locked_leftover

PREFIX = "mlflow-"
BUSY_S = 10.0  # for a thread of the former attempt to finish writing
CHANGES = slice(24, 28)  # of sqlite's file header: a counter of the transactions (fileformat2.html)
DEFAULT_EXPERIMENT = "0"


class PrivateStore:
    """A sqlite store, with its artifacts beside it, in a folder of this process."""

    def __init__(self, template: bytes, folder: Path) -> None:
        """Make the store below ``folder``; remove those that killed processes left there.

        :raises OSError: it cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        own = Path(tempfile.mkdtemp(prefix=PREFIX, dir=folder.resolve()))
        self._lock = locked(own)  # held while this process lives
        self._template, self._owner = template, os.getpid()
        self._file = own / "store.db"
        self.artifacts = own / "artifacts"
        self.uri = f"sqlite:///{self._file}"
        self.clear()
        atexit.register(self._remove)

    @property
    def changed(self) -> bool:
        """Whether anything was written since it was cleared, by whatever process."""
        return self._changes() != self._clean

    def may_have(self, table: str) -> bool:
        """Tell whether a table of MLflow's has rows; one that is not known here may have some.

        MLflow's client takes some 5 ms to say so.
        """
        try:
            with contextlib.closing(sqlite3.connect(self._file, timeout=BUSY_S)) as store:
                (found,) = store.execute(f"SELECT EXISTS (SELECT 1 FROM {table})").fetchone()
        except sqlite3.Error:
            return True
        return bool(found)

    def clear(self) -> None:
        """Make it as empty as its template.

        :raises sqlite3.Error, OSError: it cannot be written.
        """
        with (
            contextlib.closing(sqlite3.connect(":memory:")) as empty,
            contextlib.closing(sqlite3.connect(self._file, timeout=BUSY_S)) as store,
        ):
            empty.deserialize(self._template)
            with empty:
                empty.execute(
                    "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?",
                    (str(self.artifacts), DEFAULT_EXPERIMENT),
                )
            store.execute("PRAGMA synchronous = OFF")  # nobody reads it after a power cut
            empty.backup(store)
        shutil.rmtree(self.artifacts, ignore_errors=True)
        self._clean = self._changes()

    def _changes(self) -> bytes:
        with self._file.open("rb") as file:
            return file.read(CHANGES.stop)[CHANGES]

    def _remove(self) -> None:
        if os.getpid() == self._owner:  # a fork has the handler, too
            shutil.rmtree(self._file.parent, ignore_errors=True)


def _sweep(folder: Path) -> None:
    for left in folder.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if (lock := locked_leftover(left)) is not None:
                shutil.rmtree(left, ignore_errors=True)
                os.close(lock)
