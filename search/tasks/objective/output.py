"""Captures what a trial prints, in a file. Worker code."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

LONGEST_OUTPUT = 1_000_000  # bytes, of its end


class Output:
    """A file that takes what is printed."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def text(self) -> str:
        """Return what was printed so far, or the end of it."""
        _flush()
        size = os.fstat(self._file.fileno()).st_size
        start = max(0, size - LONGEST_OUTPUT)
        text = os.pread(self._file.fileno(), LONGEST_OUTPUT, start).decode("utf-8", "replace")
        return f"[{start:,} bytes before are left out]\n{text}" if start else text


@contextlib.contextmanager
def output_kept(folder: Path) -> Iterator[Output]:
    """Keep what this process and its children print.

    By file descriptor, because C++ libraries and subprocesses bypass ``sys.stdout``; and by
    ``sys.stdout``, which need not write to the descriptor.
    """
    with tempfile.TemporaryFile(dir=folder) as file, contextlib.ExitStack() as stack:
        _flush()
        for descriptor in (1, 2):
            stack.enter_context(_redirected(descriptor, file.fileno()))
        stack.enter_context(contextlib.redirect_stdout(_stream(1)))
        stack.enter_context(contextlib.redirect_stderr(_stream(2)))
        try:
            yield Output(file)
        finally:
            _flush()  # while the descriptors are redirected


@functools.cache
def _stream(descriptor: int) -> IO[str]:
    """Return a stream to a descriptor, the same for all trials: a logger may keep it."""
    return open(descriptor, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False)


@contextlib.contextmanager
def _redirected(descriptor: int, to: int) -> Iterator[None]:
    former = os.dup(descriptor)
    os.dup2(to, descriptor)
    try:
        yield
    finally:
        os.dup2(former, descriptor)
        os.close(former)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # closed by the user's code
            stream.flush()
