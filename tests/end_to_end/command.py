"""Runs the command as a user would: a process of its own, in a folder of its own."""

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

# above Ray's workers' own, below what Linux gives away by itself
GIVEN_TO_NOBODY = range(22_000, 32_000)
MARK = "SEARCH_TEST_MARK"  # every process that a command starts inherits it


@dataclass(frozen=True)
class Ended:
    """A command that has ended, or is ending."""

    folder: Path
    mark: str
    code: int  # -9: it did not end in time
    stdout: str
    stderr: str
    started_s: float  # seconds since the epoch
    ended_s: float

    @property
    def said(self) -> list[str]:
        """The lines on stderr."""
        return self.stderr.splitlines()

    @property
    def store(self) -> str:
        """The URI of the default store of a search in this folder."""
        return f"sqlite:///{self.folder / 'mlflow.db'}"


class Command:
    """A command under way; leaving the ``with`` block kills whatever is left of it."""

    def __init__(
        self,
        argv: Sequence[str],
        folder: Path,
        environment: Mapping[str, str] | None = None,
        stderr: int | None = None,
    ) -> None:
        """Start ``argv`` in ``folder``. ``stderr``: a file descriptor, else a file is read."""
        self.folder, self.mark = folder, uuid.uuid4().hex
        self._said = folder / f"stderr-{self.mark[:8]}.txt"
        self._printed = folder / f"stdout-{self.mark[:8]}.txt"
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("MLFLOW_", "RAY_", "PYTHONPATH", "COLUMNS", "SEARCH_"))
        }
        self.started_s = time.time()
        with self._said.open("wb") as said, self._printed.open("wb") as printed:
            self._process = subprocess.Popen(
                list(argv),
                cwd=folder,
                env={**kept, **(environment or {}), MARK: self.mark},
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=said if stderr is None else stderr,
                start_new_session=True,
            )

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *exception: object) -> None:
        kill_all(self.mark)
        self._process.wait(30)

    @property
    def running(self) -> bool:
        """Tell whether it has not ended yet."""
        return self._process.poll() is None

    @property
    def stderr(self) -> str:
        """What it has said so far."""
        return self._said.read_text(errors="replace")

    def signal_alone(self, number: signal.Signals) -> None:
        """Send a signal as ``kill`` does: to the process."""
        os.kill(self._process.pid, number)

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal as a terminal's Ctrl-C does: to the whole foreground group."""
        os.killpg(self._process.pid, number)

    def ended(self, timeout_s: float) -> Ended:
        """Wait for its end; kill it where that does not come in time."""
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            kill_all(self.mark)
            code = self._process.wait(30)
        return Ended(
            *(self.folder, self.mark, code),
            *(self._printed.read_text(), self.stderr),
            *(self.started_s, time.time()),
        )


class Screen:
    """A terminal of 24 lines and 80 columns, for a command's stderr."""

    environment: ClassVar[Mapping[str, str]] = {"TERM": "xterm-256color"}

    def __enter__(self) -> Screen:
        self._master, self.end = pty.openpty()
        fcntl.ioctl(self.end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self._came: list[bytes] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self.end)
        self._reader.join(10)
        os.close(self._master)

    @property
    def shown(self) -> bytes:
        """What came so far, each line as often as it was written."""
        return b"".join(self._came)

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # nobody has the other end any more
            while block := os.read(self._master, 4096):
                self._came.append(block)


def search(
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


def searched(
    arguments: Sequence[str],
    folder: Path,
    environment: Mapping[str, str] | None = None,
    timeout_s: float = 240,
) -> Ended:
    """Run ``python -m search.run`` to its end."""
    with search(arguments, folder, environment) as command:
        return command.ended(timeout_s)


def processes(mark: str) -> list[tuple[int, str]]:
    """Return every living process that a command started: its id and its command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # it ended meanwhile, or is another user's
            if f"{MARK}={mark}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                found.append((int(entry.name), line))
    return found


def kill_all(mark: str) -> None:
    """Kill every process that a command started, its session or not."""
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
    """Wait for something to become true."""
    deadline = time.monotonic() + timeout_s
    while not ready():
        assert time.monotonic() < deadline, f"not within {timeout_s:.0f} s: {what}"
        time.sleep(every_s)


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port of this machine's address that nobody has.

    One that the system gives to whoever asks for any would be gone before a server has started.
    """
    while True:
        port = random.SystemRandom().choice(GIVEN_TO_NOBODY)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((host, port))
            return port


@contextlib.contextmanager
def server(argv: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """Start a scoring server, ``argv`` but for its port; yield its address once it answers."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    whole = [*argv, "--host", "127.0.0.1", "-p", str(port)]
    with Command(whole, folder, {**activated(), **environment}) as command:

        def answers() -> bool:
            assert command.running, f"the server ended, it said:\n{command.stderr}"
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/ping", timeout=5):
                return True
            return False

        wait_until(answers, 120, f"an answer from {' '.join(whole)}")
        yield address


def activated() -> dict[str, str]:
    """Return what an activated virtual environment sets: `mlflow models` looks for uvicorn."""
    return {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def put_months(folder: Path) -> Path:
    """Put two months into a new folder: the real ones, or made ones where they are missing."""
    from search.sample import made_month

    folder.mkdir()
    train, valid = folder / "train.parquet", folder / "valid.parquet"
    if HAS_REAL_DATA:
        shutil.copy(REAL_TRAIN, train)
        shutil.copy(REAL_VALID, valid)
    else:
        made_month("2021-01").to_parquet(train)
        made_month("2021-02").to_parquet(valid)
    return folder


def few_trips(rows: int = 30, minutes: float | None = None, first_zone: int = 41) -> pd.DataFrame:
    """Trips in TLC's columns; ``minutes`` long each, or between 5 and 34 minutes."""
    number = pd.Series(range(rows))
    start = pd.Timestamp("2021-01-01 08:00:00") + pd.to_timedelta(number, unit="min")
    long = number % 30 + 5.0 if minutes is None else number * 0 + minutes
    return pd.DataFrame(
        {
            "lpep_pickup_datetime": start,
            "lpep_dropoff_datetime": start + pd.to_timedelta(long, unit="min"),
            "PULocationID": first_zone + number % 3,
            "DOLocationID": first_zone + 10 + number % 2,
            "trip_distance": 0.5 + long / 5,
        }
    )


def written(trips: pd.DataFrame, file: Path) -> Path:
    """Write trips as parquet or CSV, by the file's ending."""
    if file.suffix == ".csv":
        trips.to_csv(file, index=False)
    else:
        trips.to_parquet(file, index=False)
    return file
