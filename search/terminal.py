"""What reaches the user's terminal: our own lines, and nothing that a library prints."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO


@dataclass(frozen=True)
class Terminal:
    """The user's own stdout (results) and stderr (the story)."""

    result: TextIO
    story: TextIO


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
        result = stack.enter_context(os.fdopen(kept[0], "w", buffering=1))
        story = stack.enter_context(os.fdopen(kept[1], "w", buffering=1))
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
