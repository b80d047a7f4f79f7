"""The time that the parts of a search take."""

from __future__ import annotations

import time

PARTS = ("start_up", "search", "refit")


class Clock:
    """Measures the parts of a search, in seconds, from when it is made."""

    def __init__(self) -> None:
        self._started = self._lap = time.monotonic()
        self._parts = dict.fromkeys(PARTS, 0.0)

    def lap(self, part: str) -> None:
        """Count the time since the last lap as this part."""
        now = time.monotonic()
        self._parts[part] = now - self._lap
        self._lap = now

    @property
    def seconds(self) -> dict[str, float]:
        """The seconds of each part, and in total until now."""
        parts = {**self._parts, "total": time.monotonic() - self._started}
        return {part: round(seconds, 3) for part, seconds in parts.items()}
