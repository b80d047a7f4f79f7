"""Why a search ends before its last trial: a signal, or its time budget."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

from search.errors import SearchError

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Hears SIGINT and SIGTERM, watches the clock, and is told what makes a search pointless.

    A signal raises KeyboardInterrupt at once, but for two places. Inside :meth:`gently` the
    first one is only noted, so that Tune can end its trials in order; a second raises. Inside
    :meth:`unbroken` all of them wait for the end of the block.
    """

    def __init__(self) -> None:
        self.signals = 0
        self.failure: SearchError | None = None  # what makes going on pointless
        self._deadline: float | None = None  # monotonic seconds
        self._gentle = False
        self._unbroken = False
        self._former: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Stop:
        self._former = {number: signal.getsignal(number) for number in SIGNALS}
        self.listen()
        return self

    def listen(self) -> None:
        """Take the signals; again after a library took them for itself, as `ray.init` does."""
        for number in SIGNALS:
            signal.signal(number, self._heard)

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def __call__(self) -> bool:
        """Tell whether no further trial may start, and the running ones are to end."""
        return self.interrupted or self.out_of_time or self.failure is not None

    @property
    def interrupted(self) -> bool:
        """Tell whether the user ended the search."""
        return self.signals > 0

    @property
    def hurried(self) -> bool:
        """Tell whether the user does not want to wait even for an orderly end."""
        return self.signals > 1

    @property
    def out_of_time(self) -> bool:
        """Tell whether the time budget is used up."""
        return self._deadline is not None and time.monotonic() >= self._deadline

    def after(self, budget_s: float | None) -> None:
        """Start the clock of the time budget, if there is one."""
        self._deadline = None if budget_s is None else time.monotonic() + budget_s

    def fail(self, error: SearchError) -> None:
        """End the search because of ``error``; the first one counts. Any thread may say so."""
        self.failure = self.failure or error

    @contextlib.contextmanager
    def gently(self) -> Iterator[None]:
        """Only note the first signal while inside."""
        self._gentle = True
        try:
            yield
        finally:
            self._gentle = False

    @contextlib.contextmanager
    def unbroken(self) -> Iterator[None]:
        """Only note signals while inside; what came is raised at the end, if it is news."""
        before, outer = self.signals, self._unbroken
        self._unbroken = True
        try:
            yield
        finally:
            self._unbroken = outer
        if self.signals > before and not (outer or self._gentle):
            raise KeyboardInterrupt

    def _heard(self, number: int, frame: FrameType | None) -> None:
        self.signals += 1
        if not self._unbroken and (self.hurried or not self._gentle):
            raise KeyboardInterrupt
