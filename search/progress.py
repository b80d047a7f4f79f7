"""What the user sees while a search runs: one calm line on stderr."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

LINE_EVERY_S = 15.0  # where stderr is no terminal
REDRAWN_PER_S = 4


@dataclass(frozen=True)
class State:
    """Where a search stands."""

    done: int
    wanted: int
    running: int
    failed: int
    best: float | None
    elapsed_s: float
    ended_before: int = 0  # of those done, in an earlier start
    waiting: int = 0  # notes that the tracking server has not taken
    obstacle: str = ""  # why
    workers: int | None = None  # processes for trials, where they are counted

    def line(self) -> str:
        """Return the state as one line of words."""
        running = f"{self.running} running"
        if self.workers is not None:
            running += f" on {self.workers} worker{'' if self.workers == 1 else 's'}"
        parts = [f"{self.done} of {self.wanted} trials done", running]
        if self.failed:
            parts.append(f"{self.failed} failed")
        if self.best is not None:
            parts.append(f"best RMSE {self.best:.4f}")
        if self.obstacle:
            parts.append(f"{self.waiting} notes wait for the tracking server ({self.obstacle})")
        fresh = self.done - self.ended_before
        if fresh > 0 and self.done < self.wanted:
            left_s = self.elapsed_s / fresh * (self.wanted - self.done)
            parts.append(f"about {duration(left_s)} left")
        return ", ".join(parts)


class Teller:
    """Says things on stderr. stdout is for results only."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.console = Console(
            file=stream or sys.stderr, highlight=False, markup=False, emoji=False, soft_wrap=True
        )

    def say(self, line: str) -> None:
        """Say one line."""
        self.console.print(line)

    def say_all(self, lines: Iterable[str]) -> None:
        """Say one line after the other."""
        for line in lines:
            self.say(line)

    @contextlib.contextmanager
    def downloading(
        self, url: str, name: str, total_bytes: int | None
    ) -> Iterator[Callable[[int], object]]:
        """Show a download; yields what is to be told of each piece, in bytes."""
        if not self.console.is_terminal:
            self.say(f"downloading {url}")
            yield lambda _: None
            return
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(f"downloading {name}", total=total_bytes)
            yield lambda count: progress.advance(task, count)

    def watch(self, state: Callable[[], State]) -> Watch:
        """Return a display of ``state``, to be entered while the search runs."""
        return Watch(self.console, state)


class Watch:
    """Redraws one line on a terminal; elsewhere prints one every so often, when it changed."""

    def __init__(self, console: Console, state: Callable[[], State]) -> None:
        self._console = console
        self._state = state
        self._over = threading.Event()
        self._live = Live(
            get_renderable=lambda: Text(state().line(), overflow="ellipsis", no_wrap=True),
            console=console,
            refresh_per_second=REDRAWN_PER_S,
            transient=True,
        )
        self._thread = threading.Thread(target=self._print_lines, name="progress", daemon=True)

    def __enter__(self) -> Watch:
        if self._console.is_terminal:
            self._live.start()
        else:
            self._thread.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._over.set()
        if self._console.is_terminal:
            self._live.stop()
        else:
            self._thread.join()

    def _print_lines(self) -> None:
        said = ""
        while not self._over.wait(LINE_EVERY_S):
            if (line := self._state().line()) != said:
                self._console.print(line)
            said = line


class Clock:
    """Measures the parts of a search, in seconds."""

    def __init__(self) -> None:
        self._started = self._lap = time.monotonic()

    def lap(self) -> float:
        """Return the seconds since the last lap."""
        now, before = time.monotonic(), self._lap
        self._lap = now
        return now - before

    @property
    def total(self) -> float:
        """The seconds since the start."""
        return time.monotonic() - self._started


def duration(seconds: float) -> str:
    """Return "45 s", "12 min", "3 h 20 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
