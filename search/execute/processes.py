"""The processes that this process has started, as Linux's proc(5) shows them."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

LOOK_EVERY_S = 0.02


def children() -> list[int]:
    """Return the ids of this process's children; none where there is no /proc."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            # the second field of `stat` may hold spaces and brackets
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == os.getpid():
                found.append(int(entry.name))
    return found


@contextlib.contextmanager
def killed_once_terminated() -> Iterator[None]:
    """Kill a child that receives SIGTERM but blocks it: it would not end by itself."""
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(LOOK_EVERY_S):
            for pid in children():
                if _ignores_a_sigterm(pid):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)

    watcher = threading.Thread(target=watch, name="killer", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        is_over.set()
        watcher.join()


def _ignores_a_sigterm(pid: int) -> bool:
    """Tell whether a SIGTERM waits for a process to unblock it."""
    try:
        lines = (Path("/proc") / str(pid) / "status").read_text().splitlines()
    except OSError:  # it has ended meanwhile
        return False
    pending = dict(line.split(":", 1) for line in lines if ":" in line).get("ShdPnd", "0")
    return bool(int(pending, 16) >> (signal.SIGTERM - 1) & 1)
