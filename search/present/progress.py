"""What the user sees while a search runs: messages, and one line of progress, on stderr."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

LINE_EVERY_S = 15.0  # where stderr is no terminal
REDRAWN_PER_S = 4


@dataclass(frozen=True)
class Progress:
    """Where a search stands."""

    done: int
    wanted: int
    running: int
    failed: int
    best: str  # the best score, for people; empty: there is none yet
    elapsed_s: float
    ended_before: int = 0  # of those done, in an earlier start
    waiting: int = 0  # events that the tracking server has not taken
    obstacle: str = ""  # why
    workers: int | None = None  # processes for trials, if they are counted

    def line(self) -> str:
        """Return the line that is shown."""
        running = f"{self.running} running"
        if self.workers is not None:
            running += f" on {self.workers} worker{'' if self.workers == 1 else 's'}"
        parts = [f"{self.done} of {self.wanted} trials done", running]
        if self.failed:
            parts.append(f"{self.failed} failed")
        if self.best:
            parts.append(f"best {self.best}")
        if self.obstacle:
            parts.append(f"{self.waiting} events wait for the tracking server ({self.obstacle})")
        fresh = self.done - self.ended_before
        if fresh > 0 and self.done < self.wanted:
            left_s = self.elapsed_s / fresh * (self.wanted - self.done)
            parts.append(f"about {duration(left_s)} left")
        return ", ".join(parts)


class Display:
    """Prints messages on stderr. stdout is for results only."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.console = Console(
            file=stream or sys.stderr, highlight=False, markup=False, emoji=False, soft_wrap=True
        )

    def say(self, line: str) -> None:
        """Print one line."""
        self.console.print(line)

    def say_all(self, lines: Iterable[str]) -> None:
        """Print lines."""
        for line in lines:
            self.say(line)

    @contextlib.contextmanager
    def downloading(
        self, url: str, name: str, total_bytes: int | None
    ) -> Iterator[Callable[[int], object]]:
        """Show a download; yields what is called with the size of each piece, in bytes."""
        if not self.console.is_terminal:
            self.say(f"downloading {url}")
            yield lambda _: None
            return
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(f"downloading {name}", total=total_bytes)
            yield lambda count: progress.advance(task, count)

    def watch(self, progress: Callable[[], Progress]) -> Watch:
        """Return a display of ``progress``, to be entered while the search runs."""
        return Watch(self.console, progress)


class Watch:
    """Redraws one line on a terminal; elsewhere prints one every few seconds if it changed."""

    def __init__(self, console: Console, progress: Callable[[], Progress]) -> None:
        self._console = console
        self._progress = progress
        self._over = threading.Event()
        self._live = Live(
            get_renderable=lambda: Text(progress().line(), overflow="ellipsis", no_wrap=True),
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
        printed = ""
        while not self._over.wait(LINE_EVERY_S):
            if (line := self._progress().line()) != printed:
                self._console.print(line)
            printed = line


def duration(seconds: float) -> str:
    """Return "45 s", "12 min", "3 h 20 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    whole = round(seconds / 60)
    return f"{whole} min" if whole < 90 else f"{whole // 60} h {whole % 60} min"
