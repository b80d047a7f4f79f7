"""What can go wrong, and the exit code it ends with.

::

    SearchError            1    the search failed
    ├── InputError         2    bad usage or bad input, found before the first trial
    └── Interrupted      130    SIGINT or SIGTERM

Every message is one line that says what was wrong, what was found and what to do.
Anything else that is raised is a defect of ours and shows its traceback.
"""

from __future__ import annotations


class SearchError(Exception):
    """The search failed: no trial finished, the refit failed, the tracking server stayed away."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))


class TakenOver(SearchError):
    """Another driver goes on with the search; its runs are no longer ours to write."""


class InputError(SearchError):
    """An option, a file, a point or a server that cannot be used, found before the first trial."""

    exit_code = 2


class Interrupted(SearchError):
    """The user ended the search."""

    exit_code = 130
