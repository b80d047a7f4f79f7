"""Errors, and the exit code of the command that ends with each.

::

    SearchError            1    the search failed
    ├── InputError         2    bad usage or bad input, found before the first trial
    ├── TakenOver          1    another process drives the search now
    └── Interrupted      130    SIGINT or SIGTERM

A message is one line: what was wrong, what was found, what to do. Any other exception is a bug of
ours and shows its traceback.
"""

from __future__ import annotations


class SearchError(Exception):
    """No trial finished, the refit failed, or the tracking server was unreachable."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))


class TakenOver(SearchError):
    """Another driver has taken over the search; its runs are no longer ours to write."""


class InputError(SearchError):
    """An option, file, point or server that cannot be used, found before the first trial."""

    exit_code = 2


class Interrupted(SearchError):
    """The user ended the search."""

    exit_code = 130
