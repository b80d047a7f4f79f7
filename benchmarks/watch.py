"""Runs a command and measures what all of its processes use: time, CPU, memory, files, disk.

The processes are found by a mark in their environment, so that daemons outside the command's
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
PACKAGES = ("ray", "mlflow", "hyperopt", "xgboost", "scikit-learn", "numpy", "numba", "optuna")


@dataclass(frozen=True)
class Sample:
    """What the command's driver, and all of its processes, use at one moment.

    The driver is the command's first process. In a search, that one only supervises its own copy,
    so there the driver is the copy.
    """

    at_s: float  # since the command's start
    cpu_s: float  # of the driver, so far
    rss_bytes: int  # of the driver
    files: int  # open in the driver
    all_rss_bytes: int
    disk_bytes: int  # of the watched folder
    workers: int  # processes that run trials
    workers_cpu_s: float  # of all workers so far, each from its first trial on
    worker_bytes: int  # the most private memory of one worker


@dataclass(frozen=True)
class _Driver:
    """What the driver used when it was last seen."""

    cpu_s: float = 0.0
    rss_bytes: int = 0
    files: int = 0


@dataclass
class Usage:
    """The result of a command, and what it used."""

    code: int  # exit code
    wall_s: float
    cpu_s: float  # of all its processes
    stdout: str
    stderr: str
    samples: list[Sample] = field(default_factory=list)

    def peak(self, of: Callable[[Sample], float]) -> float:
        """Return the highest value of ``of`` over all samples."""
        return max(map(of, self.samples), default=0.0)


def run_watched(
    argv: Sequence[str],
    folder: Path,
    *,
    every_s: float = 0.5,
    timeout_s: float = 3600.0,
    environment: Mapping[str, str] | None = None,
    disk: Path | None = None,
) -> Usage:
    """Run ``argv`` in ``folder`` to its end, and take a sample ``every_s`` seconds.

    :raises TimeoutError: it did not end within ``timeout_s``; it was killed.
    """
    mark = uuid.uuid4().hex
    variables = {**os.environ, **(environment or {}), MARK: mark}
    samples: list[Sample] = []
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        started = time.monotonic()
        process = subprocess.Popen(argv, cwd=folder, env=variables, stdout=out, stderr=err)
        sampler = _Sampler(process.pid, mark, disk)
        while process.poll() is None:
            samples.append(sampler.sample(time.monotonic() - started))
            if time.monotonic() - started > timeout_s:
                process.kill()
                raise TimeoutError(f"{argv[0]} did not end within {timeout_s:.0f} s")
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(every_s)
        wall_s = time.monotonic() - started
        out.seek(0)
        err.seek(0)
        return Usage(
            code=process.returncode,
            wall_s=wall_s,
            # the CPU of a child that no sample has seen is not in it
            cpu_s=sum(sampler.cpu.values()),
            stdout=out.read(),
            stderr=err.read(),
            samples=samples,
        )


def run_checked(argv: Sequence[str], folder: Path, **more: Any) -> Usage:
    """Run a command as :func:`run_watched`, with this checkout's packages; exit if it fails."""
    usage = run_watched(argv, folder, environment={"PYTHONPATH": str(TOP)}, **more)
    if usage.code:
        raise SystemExit(f"{argv[1:4]} ended with {usage.code}: {usage.stderr[-1500:]}")
    return usage


def run_search(options: Sequence[str], folder: Path, **more: Any) -> tuple[dict[str, Any], Usage]:
    """Run a search with these options; return its report, and what it used."""
    argv = [sys.executable, "-m", "search.run", *options, "--json"]
    usage = run_checked(argv, folder, **more)
    report: dict[str, Any] = json.loads(usage.stdout)
    return report, usage


def machine() -> dict[str, Any]:
    """Return the machine and the versions that the figures are measured with."""
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "versions": versions,
    }


class _Sampler:
    """Samples all processes of one command; uses little CPU, because it shares the machine."""

    def __init__(self, first: int, mark: str, disk: Path | None) -> None:
        self._first, self._disk = first, disk
        self._driver, self._is_supervised = _Driver(), False
        self._mark = f"{MARK}={mark}".encode()
        self._others: set[str] = set()  # processes of other commands
        self.cpu: dict[tuple[int, str], float] = {}  # (pid, start) -> CPU seconds last seen
        self._idle_cpu: dict[tuple[int, str], float] = {}  # of Ray's processes before a first trial
        self._workers: set[tuple[int, str]] = set()  # processes that have run a trial

    def sample(self, at_s: float) -> Sample:
        rss = workers = own = 0
        command = b""
        with contextlib.suppress(OSError):  # it has ended
            command = Path("/proc", str(self._first), "cmdline").read_bytes()
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
                        self._others |= {pid} if environ else set()  # empty: it is starting
                        continue
                used = (int(fields[11]) + int(fields[12])) / TICKS
                self.cpu[key] = used
                pages = (entry / "statm").read_text().split()
                resident = int(pages[1]) * PAGE
                rss += resident
                title = (entry / "cmdline").read_bytes()
                if title.startswith(b"ray::IDLE"):
                    self._idle_cpu[key] = used
                elif title.startswith(b"ray::Worker"):
                    workers += 1
                    self._idle_cpu.setdefault(key, used)
                    self._workers.add(key)
                    own = max(own, resident - int(pages[2]) * PAGE)
                is_copy = int(fields[1]) == self._first and title == command != b""
                self._is_supervised |= is_copy
                if is_copy or (int(pid) == self._first and not self._is_supervised):
                    self._driver = _Driver(used, resident, len(os.listdir(entry / "fd")))
        return Sample(
            at_s=at_s,
            cpu_s=self._driver.cpu_s,
            rss_bytes=self._driver.rss_bytes,
            files=self._driver.files,
            all_rss_bytes=rss,
            disk_bytes=0 if self._disk is None else folder_bytes(self._disk),
            workers=workers,
            workers_cpu_s=sum(self.cpu[key] - self._idle_cpu[key] for key in self._workers),
            worker_bytes=own,
        )


def folder_bytes(folder: Path) -> int:
    """Return the disk space that the files of a folder take; sockets and links take none."""
    total = 0
    for top, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                found = os.lstat(os.path.join(top, name))
                total += found.st_blocks * 512
    return total
