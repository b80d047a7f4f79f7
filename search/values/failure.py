"""An exception on one line."""

from __future__ import annotations

LONGEST = 500  # characters
RETURNED = "the objective returned "  # begins the failure of a trial that raised nothing


def last_line(error: BaseException) -> str:
    """Return the exception as Python names it, on one line."""
    message = str(error).strip().splitlines()
    name = type(error).__name__
    return (f"{name}: {message[0]}" if message else name)[:LONGEST]
