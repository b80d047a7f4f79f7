"""The messages and the progress line that a user sees while a search runs."""

from __future__ import annotations

import io
import time
from typing import Any

import pytest

from search.present import progress
from search.present.progress import Display, Progress, duration


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
def test_duration_has_a_suitable_unit(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def progress_of(done: int, wanted: int = 10, **more: Any) -> Progress:
    values = {"running": 2, "failed": 0, "best": "", "elapsed_s": 5.0, **more}
    return Progress(done=done, wanted=wanted, **values)


class TestLine:
    def test_line_at_the_start_has_counts_only(self) -> None:
        """Before a trial has ended there is no best score and no estimate of the time."""
        assert progress_of(0).line() == "0 of 10 trials done, 2 running"

    def test_line_has_counts_the_best_score_and_the_time_left(self) -> None:
        line = progress_of(5, failed=1, best="RMSE 6.5123", elapsed_s=60.0).line()
        assert line == (
            "5 of 10 trials done, 2 running, 1 failed, best RMSE 6.5123, about 60 s left"
        )

    def test_time_left_is_estimated_from_trials_of_this_start(self) -> None:
        """Trials that ended in an earlier start took none of its time."""
        assert progress_of(6, elapsed_s=60.0, ended_before=4).line().endswith("about 2 min left")
        assert "left" not in progress_of(4, elapsed_s=60.0, ended_before=4).line()

    @pytest.mark.parametrize(("workers", "words"), [(0, "0 workers"), (1, "1 worker")])
    def test_line_has_the_number_of_workers(self, workers: int, words: str) -> None:
        """So a user sees that nodes were lost."""
        line = progress_of(0, running=0, workers=workers).line()
        assert line == f"0 of 10 trials done, 0 running on {words}"

    def test_line_has_the_events_that_wait_and_why(self) -> None:
        line = progress_of(0, waiting=7, obstacle="connection refused").line()
        assert line.endswith("7 events wait for the tracking server (connection refused)")

    def test_line_at_the_end_has_no_time_left(self) -> None:
        assert "left" not in progress_of(10, running=0, best="RMSE 6.5", elapsed_s=60.0).line()


def test_messages_are_printed_unchanged() -> None:
    """Markup is not interpreted, and a long line is not wrapped."""
    stream = io.StringIO()
    line = "[bold]file[/bold].parquet :smile: " + "x" * 300
    Display(stream).say(line)
    assert stream.getvalue() == line + "\n"


def test_messages_go_to_stderr_only(capsys: pytest.CaptureFixture[str]) -> None:
    """stdout is for results."""
    Display().say("hello")
    assert capsys.readouterr() == ("", "hello\n")


def test_download_is_one_line_without_a_terminal() -> None:
    stream = io.StringIO()
    with Display(stream).downloading("http://host/a.csv", "a.csv", 100) as advance:
        advance(60)
        advance(40)
    assert stream.getvalue() == "downloading http://host/a.csv\n"


def test_watch_prints_a_line_when_it_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """If stderr is no terminal. No line is printed twice in a row."""
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.01)
    stream, done = io.StringIO(), [0]
    with Display(stream).watch(lambda: progress_of(done[0], wanted=2, running=1)):
        time.sleep(0.1)
        done[0] = 2
        time.sleep(0.1)
    assert stream.getvalue().splitlines() == [
        "0 of 2 trials done, 1 running",
        "2 of 2 trials done, 1 running",
    ]
