"""Runs a command as a user would: as a separate process in its own folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pandas as pd

REPOSITORY = Path(__file__).parents[2]
REAL_DATA = REPOSITORY.parent / "shared" / "data"
REAL_TRAIN = REAL_DATA / "green_tripdata_2021-01.parquet"
REAL_VALID = REAL_DATA / "green_tripdata_2021-02.parquet"
HAS_REAL_DATA = REAL_TRAIN.exists() and REAL_VALID.exists()
NO_REAL_DATA = f"the real months are not in {REAL_DATA}"

# above the ports of Ray's workers, below those that Linux assigns by itself
UNASSIGNED_PORTS = range(22_000, 32_000)
MARK = "SEARCH_TEST_MARK"  # variable that every process of a command inherits


@dataclass(frozen=True)
class Result:
    """The result of a command."""

    folder: Path
    mark: str
    code: int  # exit code; -9: it did not end in time
    stdout: str
    stderr: str
    started_s: float  # seconds since the epoch
    ended_s: float

    @property
    def stderr_lines(self) -> list[str]:
        """The lines on stderr."""
        return self.stderr.splitlines()

    @property
    def store(self) -> str:
        """The URI of the default store in this folder."""
        return f"sqlite:///{self.folder / 'mlflow.db'}"


class Command:
    """A running command; leaving the ``with`` block kills all of its processes."""

    def __init__(
        self,
        argv: Sequence[str],
        folder: Path,
        environment: Mapping[str, str] | None = None,
        stderr: int | None = None,
    ) -> None:
        """Start ``argv`` in ``folder``. ``stderr``: a file descriptor instead of a file."""
        self.folder, self.mark = folder, uuid.uuid4().hex
        self._stderr = folder / f"stderr-{self.mark[:8]}.txt"
        self._stdout = folder / f"stdout-{self.mark[:8]}.txt"
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("MLFLOW_", "RAY_", "PYTHONPATH", "COLUMNS", "SEARCH_"))
        }
        self.started_s = time.time()
        with self._stderr.open("wb") as stderr_file, self._stdout.open("wb") as stdout_file:
            self._process = subprocess.Popen(
                # SIGINT is handled even if the tests were started with it ignored (nohup, &)
                ["env", "--default-signal=INT", *argv],
                cwd=folder,
                env={**kept, **(environment or {}), MARK: self.mark},
                stdin=subprocess.DEVNULL,
                stdout=stdout_file,
                stderr=stderr_file if stderr is None else stderr,
                start_new_session=True,
            )

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *exception: object) -> None:
        kill_all(self.mark)
        self._process.wait(30)

    @property
    def running(self) -> bool:
        """Tell whether it is still running."""
        return self._process.poll() is None

    @property
    def stderr(self) -> str:
        """Its stderr so far."""
        return self._stderr.read_text(errors="replace")

    def signal_alone(self, number: signal.Signals) -> None:
        """Send a signal to the process alone, as ``kill`` does."""
        os.kill(self._process.pid, number)

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to the whole process group, as Ctrl-C in a terminal does."""
        os.killpg(self._process.pid, number)

    def wait(self, timeout_s: float) -> Result:
        """Wait until it ends; kill it after ``timeout_s``."""
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            kill_all(self.mark)
            code = self._process.wait(30)
        return Result(
            folder=self.folder,
            mark=self.mark,
            code=code,
            stdout=self._stdout.read_text(),
            stderr=self.stderr,
            started_s=self.started_s,
            ended_s=time.time(),
        )


class Screen:
    """A terminal of 24 lines and 80 columns, for a command's stderr."""

    environment: ClassVar[Mapping[str, str]] = {"TERM": "xterm-256color"}

    def __enter__(self) -> Screen:
        self._master, self.end = pty.openpty()
        fcntl.ioctl(self.end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self._blocks: list[bytes] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self.end)
        self._reader.join(10)
        os.close(self._master)

    @property
    def output(self) -> bytes:
        """All output so far; a line that is redrawn is in it each time."""
        return b"".join(self._blocks)

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # the other end is closed
            while block := os.read(self._master, 4096):
                self._blocks.append(block)


def start_search(
    arguments: Sequence[str],
    folder: Path,
    environment: Mapping[str, str] | None = None,
    stderr: int | None = None,
) -> Command:
    """Start ``python -m search.run``."""
    return Command(
        [sys.executable, "-m", "search.run", *arguments],
        folder,
        {"PYTHONPATH": str(REPOSITORY), **(environment or {})},
        stderr,
    )


def run_search(
    arguments: Sequence[str],
    folder: Path,
    environment: Mapping[str, str] | None = None,
    timeout_s: float = 240,
) -> Result:
    """Run ``python -m search.run`` to its end."""
    with start_search(arguments, folder, environment) as command:
        return command.wait(timeout_s)


def processes(mark: str) -> list[tuple[int, str]]:
    """Return id and command line of every living process of a command."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # it has ended meanwhile, or belongs to another user
            if f"{MARK}={mark}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                found.append((int(entry.name), line))
    return found


def kill_all(mark: str) -> None:
    """Kill every process of a command, also those outside its session."""
    for _ in range(20):
        if not (left := processes(mark)):
            return
        for pid, _line in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


def wait_until(
    ready: Callable[[], bool], timeout_s: float, what: str, every_s: float = 0.2
) -> None:
    """Wait until ``ready`` returns true. ``what`` describes it in the error."""
    deadline = time.monotonic() + timeout_s
    while not ready():
        assert time.monotonic() < deadline, f"not within {timeout_s:.0f} s: {what}"
        time.sleep(every_s)


def free_port(host: str = "127.0.0.1") -> int:
    """Return a free port of this machine's address ``host``.

    The port is none that the system assigns by itself, because another process could get such a
    port before the server has started.
    """
    while True:
        port = random.SystemRandom().choice(UNASSIGNED_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((host, port))
            return port


@contextlib.contextmanager
def server(argv: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """Start a scoring server by ``argv`` and a port; yield its address once it answers."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command_line = [*argv, "--host", "127.0.0.1", "-p", str(port)]
    with Command(command_line, folder, {**venv_environment(), **environment}) as command:

        def answers() -> bool:
            assert command.running, f"the server ended, its stderr:\n{command.stderr}"
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/ping", timeout=5):
                return True
            return False

        wait_until(answers, 120, f"an answer from {' '.join(command_line)}")
        yield address


def venv_environment() -> dict[str, str]:
    """Return the variables of an activated virtual environment: `mlflow models` needs uvicorn."""
    return {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def write_months(folder: Path) -> Path:
    """Write two months into a new folder: the real ones, or generated ones if those are missing."""
    from search.tasks.green_taxi.sample import made_month

    folder.mkdir()
    train, valid = folder / "train.parquet", folder / "valid.parquet"
    if HAS_REAL_DATA:
        shutil.copy(REAL_TRAIN, train)
        shutil.copy(REAL_VALID, valid)
    else:
        made_month("2021-01").to_parquet(train)
        made_month("2021-02").to_parquet(valid)
    return folder


def few_trips(rows: int = 30, first_zone: int = 41) -> pd.DataFrame:
    """Return trips in TLC's columns, 5 to 34 minutes long."""
    number = pd.Series(range(rows))
    start = pd.Timestamp("2021-01-01 08:00:00") + pd.to_timedelta(number, unit="min")
    duration = number % 30 + 5.0
    return pd.DataFrame(
        {
            "lpep_pickup_datetime": start,
            "lpep_dropoff_datetime": start + pd.to_timedelta(duration, unit="min"),
            "PULocationID": first_zone + number % 3,
            "DOLocationID": first_zone + 10 + number % 2,
            "trip_distance": 0.5 + duration / 5,
        }
    )


def write_trips(trips: pd.DataFrame, file: Path) -> Path:
    """Write trips as parquet or CSV, as the suffix says; return the file."""
    if file.suffix == ".csv":
        trips.to_csv(file, index=False)
    else:
        trips.to_parquet(file, index=False)
    return file
