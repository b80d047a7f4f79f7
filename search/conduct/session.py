"""What a running command uses from start to end: its folder, display, stop signal and clock."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from search.execute.stop_signal import StopSignal
from search.present.progress import Display

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


@dataclass(frozen=True)
class Session:
    """One run of a command."""

    folder: Path  # the search's own, below the state directory
    display: Display
    stop: StopSignal
    clock: Clock = field(default_factory=Clock)

    def say(self, line: str) -> None:
        """Print one line."""
        self.display.say(line)
