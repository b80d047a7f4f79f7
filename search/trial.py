"""What an objective may call while it runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

Listener = Callable[[float, int], None]

_listener: Listener | None = None  # of the trial that this process runs
_last_step = -1


def report(loss: float, step: int | None = None) -> None:
    """Tell how good the objective is so far, after ``step`` epochs, rounds or the like.

    The values are the trial's learning curve. The scheduler may stop a weak trial here: then this
    function does not return. Outside a search it does nothing.

    :param step: a whole number, larger at each call. Without it the calls are counted, from 0.
    :raises ValueError: the step is not larger than the one before.
    """
    global _last_step
    if _listener is None:
        return
    now = _last_step + 1 if step is None else int(step)
    if now <= _last_step:
        raise ValueError(f"report(step={now}): give steps that grow; the last was {_last_step}")
    _last_step = now
    _listener(float(loss), now)


@contextlib.contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Have ``listener`` hear what is reported inside: one trial's reports."""
    global _listener, _last_step
    _listener, _last_step = listener, -1
    try:
        yield
    finally:
        _listener = None
