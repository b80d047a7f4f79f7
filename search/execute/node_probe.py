"""What a node is asked before it gets a trial. Runs on every node, so it imports little."""

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

# with another version of one of these, a trial may get another score
FITTED_WITH = ("ray", "numpy", "scipy", "scikit-learn", "xgboost", "numba")
# what else the driver uses
BESIDE = ("mlflow", "hyperopt", "pandas", "pyarrow")
NONE = "none"


@dataclass(frozen=True)
class Node:
    """A machine of the cluster."""

    id: str
    address: str
    cpus: int

    def room(self, cpus_each: int) -> int:
        """Return how many trials of ``cpus_each`` CPUs fit on it."""
        return self.cpus // cpus_each


@dataclass(frozen=True)
class NodeInfo:
    """What a node has."""

    python: str
    packages: dict[str, str]  # name -> version
    code: str  # digest of the packages `search` and `trainables` as that node has them
    cpus: int
    free_bytes: int  # where Ray keeps its session and spills

    @classmethod
    def here(cls, folder: str | None = None) -> NodeInfo:
        """Return what this process sees. ``folder``: where Ray's session is, if not in /tmp."""
        return cls(
            python=platform.python_version(),
            packages={name: _version(name) for name in (*FITTED_WITH, *BESIDE)},
            code=code_digest(),
            cpus=_cpus(),
            free_bytes=shutil.disk_usage(folder or tempfile.gettempdir()).free,
        )


@dataclass(frozen=True)
class Answer:
    """What a node answered."""

    info: NodeInfo
    clock_off_s: float  # how far its clock is from ours, at least


@dataclass(frozen=True)
class Unloadable:
    """A node cannot import the code that would run there."""

    reason: str


class NodeProbe:
    """Answers on a node; Ray makes an actor of it."""

    def info(self) -> NodeInfo:
        """Return what the node has."""
        return NodeInfo.here()

    def clock_s(self) -> float:
        """Return the time, in seconds since the epoch."""
        return time.time()


def code_digest() -> str:
    """Return the first 12 hex digits of a sha256 over the source of both packages."""
    top = Path(__file__).parents[2]
    digest = sha256()
    for package in ("search", "trainables"):
        for file in sorted((top / package).rglob("*.py")):
            digest.update(f"{file.relative_to(top)}\0".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def _cpus() -> int:
    """Return how many CPUs this process may use; all there are if the system does not say."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return NONE
