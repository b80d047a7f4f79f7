"""Why a search ends before its last trial: a signal, or its time budget."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Hears SIGINT and SIGTERM, and watches the clock.

    Outside of :meth:`gently` a signal raises KeyboardInterrupt at once. Inside, the first one
    is only noted, so that Tune can end its trials in order; a second raises.
    """

    def __init__(self) -> None:
        self.interrupted = False
        self._deadline: float | None = None  # monotonic seconds
        self._gentle = False
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
        return self.interrupted or self.out_of_time

    @property
    def out_of_time(self) -> bool:
        """Tell whether the time budget is used up."""
        return self._deadline is not None and time.monotonic() >= self._deadline

    def after(self, budget_s: float | None) -> None:
        """Start the clock of the time budget, if there is one."""
        self._deadline = None if budget_s is None else time.monotonic() + budget_s

    @contextlib.contextmanager
    def gently(self) -> Iterator[None]:
        """Only note the first signal while inside."""
        self._gentle = True
        try:
            yield
        finally:
            self._gentle = False

    def _heard(self, number: int, frame: FrameType | None) -> None:
        again, self.interrupted = self.interrupted, True
        if again or not self._gentle:
            raise KeyboardInterrupt
