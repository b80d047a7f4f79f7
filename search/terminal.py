"""What reaches the user's terminal: our own lines, and nothing that a library prints."""

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
    """A text stream that goes on, silent, when nobody reads it any more or its disk is full.

    A search of hours does not end because its viewer did.
    """

    def __init__(self, descriptor: int) -> None:
        """Write to ``descriptor``, line by line, and own it."""
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
        """Send on what is buffered, or drop it."""
        try:
            super().flush()
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        self.lost = error
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, self.fileno())  # takes what is still buffered, too
        os.close(nothing)


@dataclass(frozen=True)
class Terminal:
    """The user's own stdout (results) and stderr (the story)."""

    result: Stream
    story: Stream


def open_streams() -> None:
    """Send to nowhere what the caller closed: else the next file opened would be "stdout"."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            # open() takes the lowest descriptor that is free, and this is it
            setattr(sys, name, open(os.devnull, "w" if descriptor else "r"))  # noqa: SIM115


def told(error: SearchError) -> int:
    """Say in one line why the command ends; return its exit code."""
    print(f"search: {error}", file=sys.stderr, flush=True)
    return error.exit_code


@contextlib.contextmanager
def libraries_silenced(log: Path) -> Iterator[Terminal]:
    """Send what this process and its children print to ``log``; yield the real streams.

    By file descriptor, because Ray's processes and C++ libraries write past ``sys.stderr``. An
    exception that leaves finds the streams as they were.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    with contextlib.ExitStack() as stack:
        kept = [os.dup(1), os.dup(2)]
        result, story = (stack.enter_context(Stream(descriptor)) for descriptor in kept)
        sink = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        os.close(sink)
        try:
            yield Terminal(result, story)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(kept[0], 1)
            os.dup2(kept[1], 2)
