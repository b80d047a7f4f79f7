"""The state folder: a folder for each search, and what killed searches left there."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

from search.errors import InputError
from search.values.folder_lock import locked, locked_leftover

TRANSIENT = ("ray", "tune")  # what a search needs only while it runs


@contextlib.contextmanager
def own_folder(state_dir: Path, name: str) -> Iterator[Path]:
    """Make a search's own folder, for this user only; yield it, locked against other searches.

    When the search ends, only its log stays there. What a killed search left is removed when the
    next one starts.

    :raises InputError: it cannot be made.
    """
    try:
        # A folder that exists keeps its mode: it may hold other files.
        state_dir.parent.mkdir(parents=True, exist_ok=True)
        state_dir.mkdir(mode=0o700, exist_ok=True)
        folder, lock = _locked_folder(state_dir, _file_name(name))
    except OSError as error:
        raise InputError(
            f"--state-dir {state_dir}: {error.strerror}; give a folder that can be written"
        ) from error
    try:
        _remove_transient(folder)  # of a killed search of this name
        _sweep(state_dir)
        yield folder
    finally:
        _remove_transient(folder)
        os.close(lock)


def _locked_folder(state_dir: Path, name: str) -> tuple[Path, int]:
    """Return the first free one of NAME, NAME-2, ...: another store may have the same name."""
    for number in itertools.count(1):
        folder = state_dir / (name if number == 1 else f"{name}-{number}")
        folder.mkdir(mode=0o700, exist_ok=True)
        if (lock := locked(folder)) is not None:
            return folder, lock
    raise AssertionError("there is always a next number")


def _sweep(state_dir: Path) -> None:
    """Remove what killed searches left."""
    for folder in state_dir.iterdir():
        with contextlib.suppress(OSError):  # another user's
            left = any((folder / each).exists() for each in TRANSIENT)
            if left and (lock := locked_leftover(folder)) is not None:
                _remove_transient(folder)
                os.close(lock)


def _remove_transient(folder: Path) -> None:
    for each in TRANSIENT:
        shutil.rmtree(folder / each, ignore_errors=True)


def _file_name(name: str) -> str:
    """Return the name itself if it is a plain file name, else one that is unique to it."""
    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name):
        return name
    return f"{quote(name, safe='')[:80]}-{sha256(name.encode()).hexdigest()[:8]}"
