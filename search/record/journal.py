"""The write-ahead log: events that the tracking server has not acknowledged yet.

Append-only, a line for each event and a line for each acknowledgement. What is on disk and not
acknowledged is sent again, by this process or by the next. Each line begins with its CRC-32, so a
line that a crash cut short is recognised, and nothing else is lost with it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import threading
import zlib
from pathlib import Path
from types import TracebackType
from typing import Any

from search.errors import InputError
from search.values.events import Event, from_json, to_json

RESERVE_BYTES = 1 << 20  # kept free for the last events of a search whose disk is full
COMPACT_BYTES = 4 << 20  # a journal that is longer and all acknowledged starts again
FULL = (errno.ENOSPC, errno.EDQUOT)


class Journal:
    """The events of one search on disk. One process holds it at a time."""

    def __init__(self, file: Path) -> None:
        """Open ``file``, or make it.

        :raises InputError: another process holds it, or it cannot be written.
        """
        self._file, self._reserve = file, file.with_suffix(".reserve")
        self._lock = threading.Lock()
        self._synced = 0  # the last event that is surely on the disk
        self._before = b""  # a newline where the last line was cut short
        try:
            self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            self._hold()
            self._read()
            self._keep_in_reserve()
        except OSError as error:
            raise InputError(
                f"--state-dir {file.parent}: {file.name}: {error.strerror}; "
                "give a folder that can be written"
            ) from error

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file; remove it if all of it is acknowledged."""
        with self._lock:
            with contextlib.suppress(OSError):
                self._reserve.unlink(missing_ok=True)
                if not self.waiting:
                    self._file.unlink(missing_ok=True)
            os.close(self._descriptor)
            # a thread that was not waited for must not write into the next file that is opened
            self._descriptor = -1

    def append(self, event: Event) -> int:
        """Write an event; return its number.

        :raises OSError: it cannot be written.
        """
        with self._lock:
            self._last += 1
            self.waiting[self._last] = event
            number = self._last
            self._write({"n": number, **to_json(event)})
        return number

    def acknowledge(self, number: int) -> None:
        """Record that the server has taken the event of this number."""
        with self._lock:
            del self.waiting[number]
            # If this line cannot be written the event is sent twice, which changes nothing.
            with contextlib.suppress(OSError):
                if not self.waiting and os.fstat(self._descriptor).st_size > COMPACT_BYTES:
                    os.ftruncate(self._descriptor, 0)
                else:
                    self._write({"sent": number})

    def sync(self, number: int) -> None:
        """Make the event of this number, and all before it, survive a power cut."""
        if number > self._synced:
            written = self._last
            with contextlib.suppress(OSError, ValueError):  # ValueError: it is closed
                os.fdatasync(self._descriptor)
                self._synced = written

    def _hold(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise InputError(
                f"--resume: another process on this machine drives the search ({self._file} is "
                "held); wait for its end, or stop it"
            ) from None

    def _read(self) -> None:
        """Find what waits: written, and not acknowledged."""
        self.waiting: dict[int, Event] = {}
        self.damaged = 0  # lines that are not as they were written
        self._last: int = 0
        content = self._file.read_bytes()
        for line in content.splitlines():
            if (entry := _checked(line)) is None:
                self.damaged += bool(line)
            elif "sent" in entry:
                self.waiting.pop(entry["sent"], None)
            else:
                self._last = max(self._last, number := entry.pop("n"))
                try:
                    self.waiting[number] = from_json(entry)
                except (KeyError, TypeError):  # another version's
                    self.damaged += 1
        if content and not content.endswith(b"\n"):
            os.write(self._descriptor, b"\n")

    def _keep_in_reserve(self) -> None:
        # a file system without this call has no reserve
        with contextlib.suppress(OSError), self._reserve.open("wb") as reserve:
            os.posix_fallocate(reserve.fileno(), 0, RESERVE_BYTES)

    def _write(self, entry: dict[str, Any]) -> None:
        text = json.dumps(entry).encode()
        rest = b"%s%08x %s\n" % (self._before, zlib.crc32(text), text)
        self._before = b"\n"
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except OSError as error:
                if error.errno not in FULL or not self._reserve.exists():
                    raise
                self._reserve.unlink()
        self._before = b""


def _checked(line: bytes) -> dict[str, Any] | None:
    """Return a line's content; None if it is not as it was written."""
    crc, _, text = line.partition(b" ")
    if crc != b"%08x" % zlib.crc32(text):
        return None
    entry: dict[str, Any] = json.loads(text)
    return entry
