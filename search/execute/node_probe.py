"""What the preflight check asks each node. It runs on the nodes, so it imports little."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from search.values.fitted_with import FittedWith

# what every trial depends on; a task adds its own
COMMON = FittedWith(packages=("ray", "numpy", "cloudpickle"), modules=("search",))
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
    code: str  # digest of the source of `search` and of the task's modules, as that node has them
    cpus: int
    free_bytes: int  # where Ray keeps its session and spills

    @classmethod
    def here(cls, fitted_with: FittedWith, folder: str | None = None) -> NodeInfo:
        """Return what this process sees. ``folder``: where Ray's session is, if not in /tmp."""
        needed = COMMON | fitted_with
        return cls(
            python=platform.python_version(),
            packages={name: _version(name) for name in (*needed.packages, *BESIDE)},
            code=code_digest(needed.modules),
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

    def info(self, fitted_with: FittedWith) -> NodeInfo:
        """Return what the node has."""
        return NodeInfo.here(fitted_with)

    def clock_s(self) -> float:
        """Return the time, in seconds since the epoch."""
        return time.time()


def code_digest(modules: Sequence[str]) -> str:
    """Return the first 12 hex digits of a sha256 over the source of these modules and packages.

    A module inside a package stands for the whole package: it may import any part of it.
    """
    digest = sha256()
    for name in sorted({module.partition(".")[0] for module in modules}):
        digest.update(f"{name}\0".encode())
        for top, file in _sources(name):
            digest.update(f"{file.relative_to(top)}\0".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def _sources(name: str) -> Iterator[tuple[Path, Path]]:
    """Yield the source files of a module or package, each with the folder it is found from.

    None if it cannot be found here: its digest is then not that of a machine where it can.
    """
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):  # ValueError: a module that was made, not imported
        return
    if spec is None:
        return
    for folder in map(Path, spec.submodule_search_locations or ()):
        for file in sorted(folder.rglob("*.py")):
            yield folder.parent, file
    if not spec.submodule_search_locations and (spec.origin or "").endswith(".py"):
        yield Path(spec.origin or "").parent, Path(spec.origin or "")


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
