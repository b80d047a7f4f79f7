"""What a node is asked before it gets a trial. It runs on every node: no heavy imports."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from hashlib import sha256
from importlib import metadata
from pathlib import Path

# what a trial is made of: another version of one may give another score
FITTED_WITH = ("ray", "numpy", "scipy", "scikit-learn", "xgboost", "numba")
# what else the driver works with
BESIDE = ("mlflow", "hyperopt", "pandas", "pyarrow")
NONE = "none"


@dataclass(frozen=True)
class Node:
    """A machine that Ray counts on."""

    id: str
    address: str
    cpus: int

    def room(self, cpus_each: int) -> int:
        """Return how many trials of so many CPUs it holds."""
        return self.cpus // cpus_each


@dataclass(frozen=True)
class Said:
    """What a node says of itself."""

    python: str
    packages: dict[str, str]  # name -> version
    code: str  # digest of the packages `search` and `trainables` as that node has them
    cpus: int
    free_bytes: int  # where Ray keeps its session and spills

    @classmethod
    def here(cls, folder: str | None = None) -> Said:
        """Return what this process sees. ``folder``: where Ray's session is, if not as usual."""
        return cls(
            python=platform.python_version(),
            packages={name: _version(name) for name in (*FITTED_WITH, *BESIDE)},
            code=code_digest(),
            cpus=_cpus(),
            free_bytes=shutil.disk_usage(folder or tempfile.gettempdir()).free,
        )


@dataclass(frozen=True)
class Answer:
    """What a node answered, and how far its clock is from ours at the least, in seconds."""

    said: Said
    clock_off_s: float


@dataclass(frozen=True)
class Unloadable:
    """A node cannot import the code that would run there."""

    reason: str


class Witness:
    """Stands on a node and answers: what Ray makes an actor of."""

    def said(self) -> Said:
        """Say what there is."""
        return Said.here()

    def clock_s(self) -> float:
        """Say what time it is, in seconds since the epoch."""
        return time.time()


def code_digest() -> str:
    """Return the first 12 hex digits of a sha256 over the source of both packages."""
    top = Path(__file__).parent.parent
    digest = sha256()
    for package in ("search", "trainables"):
        for file in sorted((top / package).rglob("*.py")):
            digest.update(f"{file.relative_to(top)}\0".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def _cpus() -> int:
    """Return how many this process may use, where the system tells; else how many there are."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return NONE
