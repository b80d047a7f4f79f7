"""What a running search uses from start to end: its folder, display, stop signal and clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from search.conduct.clock import Clock
from search.execute.cluster import Cluster
from search.execute.stop_signal import StopSignal
from search.present.progress import Display
from search.record.writer_process import WriterProcess


@dataclass(frozen=True)
class Session:
    """One run of a search."""

    folder: Path  # the search's own, below the state directory
    display: Display
    stop: StopSignal
    clock: Clock = field(default_factory=Clock)
    cluster: Callable[[str, Path], Cluster] = Cluster  # (address, folder)
    writer_process: Callable[[], WriterProcess] = WriterProcess

    def say(self, line: str) -> None:
        """Print one line."""
        self.display.say(line)
