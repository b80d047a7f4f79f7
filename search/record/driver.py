"""Which process drives a search, whether it is alive, and its heartbeat.

MLflow has no compare-and-swap: two drivers that claim a search within the same few milliseconds
both believe that they have it, until the heartbeat of one finds the other's name.
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
SILENCE_S = 60.0  # a driver on another host without a heartbeat for so long is dead


@dataclass(frozen=True)
class Driver:
    """One process on one machine, and no other."""

    host: str
    machine: str  # its id, since two machines may have one host name; empty if it has none
    boot: str  # the id of its last start; empty if it has none
    processes: str  # the namespace of ``pid``
    pid: int
    started: str  # in clock ticks since the boot
    claim: str  # drawn anew by each search

    @classmethod
    def this(cls) -> Driver:
        """Return this process."""
        pid = os.getpid()
        boot, processes = _boot()
        return cls(
            host=socket.gethostname(),
            machine=_machine(),
            boot=boot,
            processes=processes,
            pid=pid,
            started=_started(pid) or "",
            claim=os.urandom(8).hex(),
        )

    @classmethod
    def read(cls, text: str) -> Driver | None:
        """Return the driver that :meth:`written` wrote; None if the text is none."""
        try:
            return cls(**json.loads(text))
        except (TypeError, ValueError):
            return None

    def written(self) -> str:
        """Return the driver as text."""
        return json.dumps(asdict(self))

    def is_alive(self) -> bool | None:
        """Tell whether the process still runs; None if that cannot be seen from here."""
        boot, processes = _boot()
        if not boot or (self.host, self.machine) != (socket.gethostname(), _machine()):
            return None
        if self.boot != boot:
            # if it is this machine, it has restarted since
            return False if self.machine else None
        if self.processes != processes:
            return None  # a container's process cannot be seen from another one
        return _started(self.pid) == self.started

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class Heartbeat:
    """A thread that shows every few seconds that this driver is alive, and checks who drives."""

    def __init__(
        self, driver: Driver, beat: Callable[[], str], lost: Callable[[Driver], None]
    ) -> None:
        """``beat`` writes a heartbeat and returns the driver that the store names."""
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
            # a server that is away gets the next one
            with contextlib.suppress(Exception):
                other = Driver.read(self._beat())
                if other is not None and other.claim != self._driver.claim:
                    self._lost(other)
                    return


def _machine() -> str:
    """Return the machine's id (machine-id(5)); empty if it has none."""
    with contextlib.suppress(OSError):
        return Path("/etc/machine-id").read_text().strip()
    return ""


def _boot() -> tuple[str, str]:
    """Return the id of this start of the machine, and the namespace of its processes."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return boot, os.readlink("/proc/self/ns/pid")
    except OSError:  # not Linux
        return "", ""


def _started(pid: int) -> str | None:
    """Return when a process started, in clock ticks since the boot; None if it does not run."""
    try:
        # field 22 of proc(5)'s stat; the second field may hold spaces and brackets
        rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if rest[0] == "Z" else rest[19]
