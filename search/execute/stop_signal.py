"""What ends a search before its last trial: a signal, the time budget, or a failure."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

from search.errors import SearchError

# How search/conduct/supervisor.py forwards SIGINT and SIGTERM. A batch system sends those to all
# processes at once; one that came both ways must not count twice.
RELAYED = signal.SIGUSR2
SIGNALS = (signal.SIGINT, signal.SIGTERM, RELAYED)


class StopSignal:
    """Receives SIGINT and SIGTERM, watches the clock, and keeps the failure that ends the search.

    A signal raises KeyboardInterrupt at once, with two exceptions. Inside :meth:`graceful` the
    first signal is only noted, so that Tune can end its trials in order; a second one raises.
    Inside :meth:`deferred` all signals wait for the end of the block.
    """

    def __init__(self) -> None:
        self._direct = self._relayed = 0  # how many signals came each way
        self.failure: SearchError | None = None  # why going on is pointless
        self._deadline: float | None = None  # monotonic seconds
        self._enough_at: float | None = None  # monotonic seconds
        self._is_graceful = False
        self._is_deferred = False
        self._former: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignal:
        self._former = {number: signal.getsignal(number) for number in SIGNALS}
        self.listen()
        return self

    def listen(self) -> None:
        """Handle the signals; again after a library has taken them over, as `ray.init` does."""
        if threading.current_thread() is not threading.main_thread():
            return  # the main thread has the signals, and does something else
        for number in SIGNALS:
            signal.signal(number, self._handle)

    def __exit__(self, *exception: object) -> None:
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._former.items():
                signal.signal(number, handler)

    def __call__(self) -> bool:
        """Tell whether no further trial may start, and the running ones must end."""
        return self.interrupted or self.out_of_time or self.failure is not None

    @property
    def signals(self) -> int:
        """How often the user asked the search to end."""
        return max(self._direct, self._relayed)

    @property
    def interrupted(self) -> bool:
        """Tell whether the user ended the search."""
        return self.signals > 0

    @property
    def hurried(self) -> bool:
        """Tell whether the user does not want to wait for an orderly end."""
        return self.signals > 1

    @property
    def out_of_time(self) -> bool:
        """Tell whether the time budget is used up."""
        return self._deadline is not None and time.monotonic() >= self._deadline

    @property
    def is_enough(self) -> bool:
        """Tell whether no further trial may start; those that run go on."""
        return self._enough_at is not None and time.monotonic() >= self._enough_at

    def after(self, budget_s: float | None) -> None:
        """Start the clock of the time budget, if there is one."""
        self._deadline = None if budget_s is None else time.monotonic() + budget_s

    def enough(self, within_s: float = 0.0) -> None:
        """Have no further trial start once ``within_s`` have passed. Any thread may call this."""
        self._enough_at = time.monotonic() + within_s

    def fail(self, error: SearchError) -> None:
        """End the search because of ``error``; the first one counts. Any thread may call this."""
        self.failure = self.failure or error

    @contextlib.contextmanager
    def graceful(self) -> Iterator[None]:
        """Only note the first signal while inside."""
        self._is_graceful = True
        try:
            yield
        finally:
            self._is_graceful = False

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Only note signals while inside; raise at the end if one came."""
        before, outer = self.signals, self._is_deferred
        self._is_deferred = True
        try:
            yield
        finally:
            self._is_deferred = outer
        if self.signals > before and not (outer or self._is_graceful):
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: FrameType | None) -> None:
        before = self.signals
        if number == RELAYED:
            self._relayed += 1
        else:
            self._direct += 1
        if self.signals == before:
            return  # the same signal, which came both ways
        if not self._is_deferred and (self.hurried or not self._is_graceful):
            raise KeyboardInterrupt
