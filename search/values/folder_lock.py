"""A folder that one process holds while it lives."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def locked(folder: Path) -> int | None:
    """Lock a folder; return the handle that holds it, or None if another process does.

    :raises OSError: its lock file cannot be made.
    """
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def locked_leftover(folder: Path) -> int | None:
    """Lock a folder whose process has ended; None if it lives, or is just making the folder.

    :raises OSError: it is another user's.
    """
    return locked(folder) if (folder / "lock").is_file() else None
