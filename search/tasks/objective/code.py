"""A user's function on its way to other processes and nodes. Worker code.

Imports the standard library only; unpickling a function imports cloudpickle.

**Arrays.** What the function closes over is pickled once, its arrays beside the pickle, so that
Ray's object store holds each of them once a node. An array of :data:`SHARED_BYTES` and more stays
there: all workers of a node read the same memory, and none may write to it (numpy raises a
ValueError; :func:`hint` says what to do). A smaller one is copied for each worker process and may
be written to, as in a script.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import os
import pickle
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SHARED_BYTES = 16_000_000  # arrays from this size on are shared, read-only
LARGEST_DATA_FILE_BYTES = 1_000_000  # larger files that are no code stay behind
LEFT_OUT_FOLDERS = ("__pycache__", "mlruns", "mlartifacts", "node_modules", "site-packages")
LEFT_OUT_FILES = (".db", ".db-journal", ".db-wal", ".db-shm", ".sqlite", ".pyc")
MOST_FILES = 20_000  # looked at in a folder


@dataclass(frozen=True)
class Folder:
    """The folder that a function's imports come from."""

    path: str  # where it is on the driver's machine
    digest: str  # of the files in the archive
    archive: bytes = field(repr=False)  # a zip


@dataclass(frozen=True)
class Code:
    """A function, or several, in the form that travels; best put into Ray's object store."""

    pickled: bytes = field(repr=False)
    buffers: Sequence[Any] = field(
        default=(), repr=False
    )  # uint8 arrays [bytes], not in the pickle
    folder: Folder | None = None

    def load(self) -> Any:
        """Return what travelled, its folder importable."""
        self.arrive()
        held = [b if len(b) >= SHARED_BYTES else bytearray(b) for b in self.buffers]
        return pickle.loads(self.pickled, buffers=held)

    def arrive(self) -> None:
        """Make the folder the first place where imports are looked for in this process."""
        global _arrived
        place = None if self.folder is None else _place(self.folder)
        if _arrived is not None and _arrived != place:
            _leave(_arrived)
        if place is not None and _arrived != place:
            sys.path.insert(0, place)
            importlib.invalidate_caches()
        _arrived = place


_arrived: str | None = None  # the folder that is first on this process's path


def matrix_of(content: bytes, names: Any, types: Any) -> Any:
    """Return XGBoost's ``DMatrix`` of what its ``save_binary`` wrote."""
    import xgboost

    with tempfile.TemporaryDirectory(prefix="search-") as folder:
        file = Path(folder) / "matrix"
        file.write_bytes(content)
        matrix = xgboost.DMatrix(str(file))
    matrix.feature_names, matrix.feature_types = names, types
    return matrix


def files_of(folder: Path) -> Iterator[Path]:
    """Yield the files that travel with a folder: its code, and its small data files.

    :raises OverflowError: it has more than :data:`MOST_FILES`.
    """
    seen = 0
    for at, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not _is_left_out(Path(at, name)))
        for name in sorted(names):
            if (seen := seen + 1) > MOST_FILES:
                raise OverflowError(f"more than {MOST_FILES:,} files")
            path = Path(at, name)
            if name.startswith(".") or name.endswith(LEFT_OUT_FILES) or not path.is_file():
                continue
            if path.suffix == ".py" or path.stat().st_size <= LARGEST_DATA_FILE_BYTES:
                yield path


def digest_of(contents: Mapping[str, bytes]) -> str:
    """Return a digest of files by their paths in the folder."""
    digest = hashlib.sha256()
    for name in sorted(contents):
        digest.update(f"{name}\0{len(contents[name])}\0".encode())
        digest.update(contents[name])
    return digest.hexdigest()[:32]


def contents_of(folder: Path) -> dict[str, bytes]:
    """Return the files that travel with a folder, by their paths in it."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files_of(folder)}


def hint(error: BaseException) -> str | None:
    """Say what to do about an error that came of how the function travelled."""
    if isinstance(error, ValueError) and "read-only" in str(error):
        return (
            f"arrays of {SHARED_BYTES // 1_000_000} MB and more that the objective finds outside "
            "itself are shared by all trials of a node and cannot be written to; "
            "copy what you change: x = x.copy()"
        )
    return None


def _is_left_out(folder: Path) -> bool:
    is_environment = (folder / "pyvenv.cfg").exists() or (folder / "conda-meta").exists()
    return folder.name.startswith(".") or folder.name in LEFT_OUT_FOLDERS or is_environment


def _place(folder: Folder) -> str:
    """Return where the folder is on this machine; extract it if it is not there yet."""
    if _holds(Path(folder.path), folder.digest):
        return folder.path
    user = os.getuid() if hasattr(os, "getuid") else "user"
    place = Path(tempfile.gettempdir(), f"search-code-{user}-{folder.digest}")
    if is_own(place) and _holds(place, folder.digest):
        return str(place)
    fresh = tempfile.mkdtemp(prefix="search-code-")  # mode 0700
    with zipfile.ZipFile(io.BytesIO(folder.archive)) as archive:
        archive.extractall(fresh)
    try:
        os.rename(fresh, place)  # whole under its name, or not there
    except OSError:  # another process was faster, or what is there is not as it should be
        if not (is_own(place) and _holds(place, folder.digest)):
            return fresh
        shutil.rmtree(fresh, ignore_errors=True)
    return str(place)


def _holds(folder: Path, digest: str) -> bool:
    """Tell whether a folder has the files of this digest."""
    try:
        return folder.is_dir() and digest_of(contents_of(folder)) == digest
    except (OSError, OverflowError):
        return False


def is_own(place: Path) -> bool:
    """Tell whether nobody else can have made or changed a folder."""
    try:
        found = place.lstat()
    except OSError:
        return False
    is_the_users = not hasattr(os, "getuid") or found.st_uid == os.getuid()
    return is_the_users and not place.is_symlink() and not found.st_mode & 0o022


def _leave(place: str) -> None:
    """Forget a folder and the modules that came from it: the next search may have others."""
    if place in sys.path:
        sys.path.remove(place)
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and Path(place) in Path(file).parents:
            del sys.modules[name]
