"""Who drives a search, whether it lives, and its sign of life.

MLflow has no compare-and-swap: two drivers that claim a search within the same few milliseconds
both believe that they have it, until the beat of one finds the name of the other.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

BEAT_S = 10.0
SILENCE_S = 60.0  # without a beat for so long, a driver on another host is dead


@dataclass(frozen=True)
class Driver:
    """One process on one machine, as nothing else is named."""

    host: str
    machine: str  # two machines may have one host name; nothing where it has no id
    boot: str  # of the machine; nothing where it has no such id
    processes: str  # the namespace in which ``pid`` counts
    pid: int
    started: str  # in clock ticks since the boot
    claim: str  # drawn anew by each search

    @classmethod
    def this(cls) -> Driver:
        """Return this process."""
        pid = os.getpid()
        return cls(
            *(socket.gethostname(), _machine(), *_boot()),
            *(pid, _started(pid) or "", os.urandom(8).hex()),
        )

    @classmethod
    def read(cls, said: str) -> Driver | None:
        """Return the driver that :meth:`written` wrote; nothing where it is none."""
        try:
            return cls(**json.loads(said))
        except (TypeError, ValueError):
            return None

    def written(self) -> str:
        """Return the driver as text."""
        return json.dumps(asdict(self))

    def lives(self) -> bool | None:
        """Tell whether the process still runs; nothing where that cannot be seen from here."""
        boot, processes = _boot()
        if not boot or (self.host, self.machine) != (socket.gethostname(), _machine()):
            return None
        if self.boot != boot:
            # the machine has started anew since, if it is this one
            return False if self.machine else None
        if self.processes != processes:
            return None  # a container's process is not to be seen from another
        return _started(self.pid) == self.started

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class Heartbeat:
    """A thread that shows, every few seconds, that this driver lives, and looks who drives."""

    def __init__(
        self, driver: Driver, beat: Callable[[], str], lost: Callable[[Driver], None]
    ) -> None:
        """``beat`` writes a sign of life and returns the driver as the store has it."""
        self._driver, self._beat, self._lost = driver, beat, lost
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join(BEAT_S)

    def _run(self) -> None:
        while not self._over.wait(BEAT_S):
            # a server that is away hears the next one
            with contextlib.suppress(Exception):
                other = Driver.read(self._beat())
                if other is not None and other.claim != self._driver.claim:
                    self._lost(other)
                    return


def _machine() -> str:
    """Return what names the machine, as systemd has it (machine-id(5))."""
    with contextlib.suppress(OSError):
        return Path("/etc/machine-id").read_text().strip()
    return ""


def _boot() -> tuple[str, str]:
    """Return what names this start of the machine, and the namespace of its processes."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return boot, os.readlink("/proc/self/ns/pid")
    except OSError:  # no Linux
        return "", ""


def _started(pid: int) -> str | None:
    """Return when a process started, in clock ticks since the boot; nothing for none."""
    try:
        # field 22 of proc(5)'s stat; the second field may hold spaces and brackets
        rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if rest[0] == "Z" else rest[19]
