"""The user's terminal: it gets our own lines, and nothing that a library prints."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedWriter, FileIO, TextIOWrapper
from pathlib import Path

from search.errors import SearchError


class Stream(TextIOWrapper):
    """A text stream that falls silent when its reader has gone or its disk is full.

    A long search must not end because its terminal was closed.
    """

    def __init__(self, descriptor: int) -> None:
        """Write line by line to ``descriptor``, which is then the stream's to close."""
        raw = FileIO(descriptor, "w")
        super().__init__(
            BufferedWriter(raw), encoding="utf-8", errors="replace", line_buffering=True
        )
        self.lost: OSError | None = None  # why it is silent

    def write(self, text: str, /) -> int:
        """Write ``text``, or drop it."""
        try:
            return super().write(text)
        except OSError as error:
            self._lose(error)
            return len(text)

    def flush(self) -> None:
        """Flush the buffer, or drop it."""
        try:
            super().flush()
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        self.lost = error
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, self.fileno())  # also takes what is still buffered
        os.close(nothing)


@dataclass(frozen=True)
class Terminal:
    """The user's own stdout (results) and stderr (messages)."""

    result: Stream
    messages: Stream


def open_streams() -> None:
    """Redirect to /dev/null what the caller closed; else the next opened file becomes stdout."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            # open() takes the lowest free descriptor, which is this one
            setattr(sys, name, open(os.devnull, "w" if descriptor else "r"))  # noqa: SIM115


def restore_cursor() -> None:
    """Show the cursor again, which a display that was killed has left hidden."""
    if sys.stderr.isatty():
        print("\x1b[?25h", file=sys.stderr)


def report_error(error: SearchError) -> int:
    """Print in one line why the command ends; return its exit code."""
    print(f"search: {error}", file=sys.stderr, flush=True)
    return error.exit_code


@contextlib.contextmanager
def libraries_silenced(log: Path) -> Iterator[Terminal]:
    """Send what this process and its children print to ``log``; yield the real streams.

    By file descriptor, because Ray's processes and C++ libraries bypass ``sys.stderr``. The streams
    are restored at the end, also by an exception.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    with contextlib.ExitStack() as stack:
        kept = [os.dup(1), os.dup(2)]
        result, messages = (stack.enter_context(Stream(descriptor)) for descriptor in kept)
        sink = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        os.close(sink)
        try:
            yield Terminal(result, messages)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(kept[0], 1)
            os.dup2(kept[1], 2)
