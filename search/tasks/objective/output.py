"""What a trial prints, kept in a file. Worker code."""

from __future__ import annotations

import contextlib
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
        self.kept = ""  # all of it, once nothing more comes

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

    By file descriptor, because C++ libraries and subprocesses bypass ``sys.stdout``.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        output = Output(file)
        _flush()
        former = [os.dup(descriptor) for descriptor in (1, 2)]
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield output
        finally:
            output.kept = output.text()
            for descriptor, kept in enumerate(former, 1):
                os.dup2(kept, descriptor)
                os.close(kept)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # closed by the user's code
            stream.flush()
