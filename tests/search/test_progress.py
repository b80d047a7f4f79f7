"""What the user sees while a search runs."""

from __future__ import annotations

import io
import time

import pytest

from search import progress
from search.progress import Clock, State, Teller, duration


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 s"),
        (45, "45 s"),
        (89, "89 s"),
        (90, "2 min"),
        (720, "12 min"),
        (12_000, "3 h 20 min"),
    ],
)
def test_durations_are_words(seconds: float, words: str) -> None:
    """A duration is said in the unit one would say it in."""
    assert duration(seconds) == words


class TestLine:
    def test_at_the_start(self) -> None:
        """Before the first end there is no best and nothing to extrapolate."""
        assert State(0, 10, 2, 0, None, 5.0).line() == "0 of 10 trials done, 2 running"

    def test_under_way(self) -> None:
        """The line holds counts, the best score and the time left."""
        line = State(5, 10, 2, 1, 6.51234, 60.0).line()
        assert line == (
            "5 of 10 trials done, 2 running, 1 failed, best RMSE 6.5123, about 60 s left"
        )

    @pytest.mark.parametrize(("workers", "words"), [(0, "0 workers"), (1, "1 worker")])
    def test_says_how_many_workers_there_are(self, workers: int, words: str) -> None:
        """Who lost nodes sees it."""
        line = State(0, 10, 0, 0, None, 5.0, workers=workers).line()
        assert line == f"0 of 10 trials done, 0 running on {words}"

    def test_at_the_end(self) -> None:
        """When all is done no time is left to be told."""
        assert "left" not in State(10, 10, 0, 0, 6.5, 60.0).line()


def test_clock_measures_laps_and_the_whole() -> None:
    """Laps add up to the total."""
    clock = Clock()
    time.sleep(0.01)
    first = clock.lap()
    time.sleep(0.01)
    second = clock.lap()
    assert min(first, second) >= 0.009
    assert clock.total == pytest.approx(first + second, abs=0.05)


def test_said_lines_are_plain() -> None:
    """What looks like markup or is long goes out as it is, on one line."""
    stream = io.StringIO()
    line = "[bold]file[/bold].parquet :smile: " + "x" * 300
    Teller(stream).say(line)
    assert stream.getvalue() == line + "\n"


def test_says_on_stderr_only(capsys: pytest.CaptureFixture[str]) -> None:
    """stdout is for results."""
    Teller().say("hello")
    assert capsys.readouterr() == ("", "hello\n")


def test_watch_prints_a_line_when_it_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where stderr is no terminal, each new state is one line, and no line comes twice in a row."""
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.01)
    stream, done = io.StringIO(), [0]
    with Teller(stream).watch(lambda: State(done[0], 2, 1, 0, None, 1.0)):
        time.sleep(0.1)
        done[0] = 2
        time.sleep(0.1)
    assert stream.getvalue().splitlines() == [
        "0 of 2 trials done, 1 running",
        "2 of 2 trials done, 1 running",
    ]
