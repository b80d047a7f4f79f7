"""Runs a command and watches what all of its processes use: time, CPU, memory, files, disk.

The processes are found by a mark in their environment, so that daemons which leave the command's
session are counted too. Needs /proc.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

TOP = Path(__file__).parent.parent
MARK = "BENCHMARK_MARK"
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
NAMED = ("ray", "mlflow", "hyperopt", "xgboost", "scikit-learn", "numpy", "numba", "optuna")


@dataclass(frozen=True)
class Sample:
    """What the command's first process used at one moment, and what all of them together."""

    at_s: float  # since the command's start
    cpu_s: float  # of the first process, so far
    rss_bytes: int  # of the first process
    files: int  # open in the first process
    all_rss_bytes: int
    disk_bytes: int  # of the watched folder
    workers: int  # processes that Ray gave to a trial
    workers_cpu_s: float  # of all that had one so far, from their first on
    worker_bytes: int  # the most that one of them has for itself, shared memory not counted


@dataclass
class Watched:
    """One command that has ended."""

    code: int
    wall_s: float
    cpu_s: float  # of all its processes
    stdout: str
    stderr: str
    samples: list[Sample] = field(default_factory=list)

    def peak(self, of: Callable[[Sample], float]) -> float:
        """Return the highest value of something that was sampled."""
        return max(map(of, self.samples), default=0.0)


def watched(
    argv: Sequence[str],
    folder: Path,
    *,
    every_s: float = 0.5,
    timeout_s: float = 3600.0,
    environment: Mapping[str, str] | None = None,
    disk: Path | None = None,
) -> Watched:
    """Run ``argv`` in ``folder`` to its end, looking at it ``every_s`` seconds.

    :raises TimeoutError: it did not end within ``timeout_s``; it was killed.
    """
    mark = uuid.uuid4().hex
    around = {**os.environ, **(environment or {}), MARK: mark}
    samples: list[Sample] = []
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        started = time.monotonic()
        process = subprocess.Popen(argv, cwd=folder, env=around, stdout=out, stderr=err)
        look = _Look(process.pid, mark, disk)
        while process.poll() is None:
            samples.append(look.sample(time.monotonic() - started))
            if time.monotonic() - started > timeout_s:
                process.kill()
                raise TimeoutError(f"{argv[0]} did not end within {timeout_s:.0f} s")
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(every_s)
        wall_s = time.monotonic() - started
        out.seek(0)
        err.seek(0)
        # what the command waited for and nobody sampled is in its own account
        return Watched(
            process.returncode, wall_s, sum(look.cpu.values()), out.read(), err.read(), samples
        )


def succeeded(argv: Sequence[str], folder: Path, **more: Any) -> Watched:
    """Run a command on this checkout's packages, as :func:`watched` does; leave if it fails."""
    seen = watched(argv, folder, environment={"PYTHONPATH": str(TOP)}, **more)
    if seen.code:
        raise SystemExit(f"{argv[1:4]} ended with {seen.code}: {seen.stderr[-1500:]}")
    return seen


def searched(options: Sequence[str], folder: Path, **more: Any) -> tuple[dict[str, Any], Watched]:
    """Run a search with these options; return its report, and what it used."""
    argv = [sys.executable, "-m", "search.run", *options, "--json"]
    seen = succeeded(argv, folder, **more)
    report: dict[str, Any] = json.loads(seen.stdout)
    return report, seen


def machine() -> dict[str, Any]:
    """Return where and with what the figures were made."""
    versions = {}
    for name in NAMED:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "versions": versions,
    }


class _Look:
    """Looks at all processes of one command, as cheaply as can be: it shares the machine."""

    def __init__(self, first: int, mark: str, disk: Path | None) -> None:
        self._first, self._disk = first, disk
        self._mark = f"{MARK}={mark}".encode()
        self._others: set[str] = set()  # processes that are none of the command's
        self.cpu: dict[tuple[int, str], float] = {}  # (pid, start) -> CPU seconds last seen
        self._idle: dict[tuple[int, str], float] = {}  # of Ray's, before their first trial
        self._at_work: set[tuple[int, str]] = set()  # those that had one

    def sample(self, at_s: float) -> Sample:
        rss = workers = own = first_rss = first_files = 0
        first_cpu = 0.0
        for pid in os.listdir("/proc"):
            if not pid.isdigit() or pid in self._others:
                continue
            entry = Path("/proc", pid)
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                key = int(pid), fields[19]
                if key not in self.cpu:
                    environ = (entry / "environ").read_bytes()
                    if self._mark not in environ:
                        self._others |= {pid} if environ else set()  # none yet: it is starting
                        continue
                used = (int(fields[11]) + int(fields[12])) / TICKS
                self.cpu[key] = used
                pages = (entry / "statm").read_text().split()
                resident = int(pages[1]) * PAGE
                rss += resident
                title = (entry / "cmdline").read_bytes()
                if title.startswith(b"ray::IDLE"):
                    self._idle[key] = used
                elif title.startswith(b"ray::Worker"):
                    workers += 1
                    self._idle.setdefault(key, used)
                    self._at_work.add(key)
                    own = max(own, resident - int(pages[2]) * PAGE)
                if int(pid) == self._first:
                    first_rss, first_cpu = resident, used
                    first_files = len(os.listdir(entry / "fd"))
        return Sample(
            at_s,
            *(first_cpu, first_rss, first_files, rss),
            0 if self._disk is None else folder_bytes(self._disk),
            workers,
            sum(self.cpu[key] - self._idle[key] for key in self._at_work),
            own,
        )


def folder_bytes(folder: Path) -> int:
    """Return how much disk the files of a folder take; sockets and links take none."""
    total = 0
    for top, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                found = os.lstat(os.path.join(top, name))
                total += found.st_blocks * 512
    return total
