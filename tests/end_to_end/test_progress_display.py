"""The progress display on a terminal while a search runs."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from command import Result

pytestmark = pytest.mark.slow

CONTROL = re.compile(r"\x1b\[(\?25[lh]|[0-9;]*[A-Za-z])")
STATUS = re.compile(r"\d+ of \d+ trials done")


def test_display_is_one_line(out_of_time: tuple[Result, bytes]) -> None:
    """At every moment the screen has at most one line with the progress of the search."""
    counts = [sum(bool(STATUS.search(line)) for line in screen) for screen in _screens(out_of_time)]
    assert max(counts) == 1


def test_display_is_redrawn(out_of_time: tuple[Result, bytes]) -> None:
    """The same line is redrawn as trials end."""
    lines = {line for screen in _screens(out_of_time) for line in screen if STATUS.search(line)}
    assert any("0 of 6 trials done" in line for line in lines)
    assert any("2 of 6 trials done, 2 running, best RMSE " in line for line in lines)


def test_display_is_removed_at_the_end(out_of_time: tuple[Result, bytes]) -> None:
    """Only the messages stay on the screen, without empty lines between them."""
    *_, last = _screens(out_of_time)
    assert [line for line in last if STATUS.search(line)] == []
    assert [line.partition(":")[0] for line in last if line and not line.startswith(" ")][:2] == [
        "train",
        "valid",
    ]
    text = "\n".join(last).rstrip("\n")
    assert "4 trials: 2 finished, 2 interrupted (the time budget is used up)" in text
    assert "\n\n" not in text


def test_cursor_is_visible_at_the_end(out_of_time: tuple[Result, bytes]) -> None:
    """The cursor is shown again after it was last hidden."""
    written = out_of_time[1].decode()
    assert written.rfind("\x1b[?25h") >= written.rfind("\x1b[?25l")


def test_libraries_print_nothing_on_the_terminal(out_of_time: tuple[Result, bytes]) -> None:
    """Messages of Ray and MLflow do not reach the terminal."""
    assert not re.search("INFO|WARNING|Warning|Traceback|ERROR|raylet", out_of_time[1].decode())


def _screens(out_of_time: tuple[Result, bytes]) -> Iterator[list[str]]:
    """Yield the lines on the screen after each piece of output, as a simple terminal emulator."""
    lines, row = [""], 0
    column = 0
    written = out_of_time[1].decode()
    for piece in re.split(r"(\x1b\[\?25[lh]|\x1b\[[0-9;]*[A-Za-z]|\r|\n)", written):
        control = CONTROL.fullmatch(piece)
        if piece == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif piece == "\r":
            column = 0
        elif control is None:
            lines[row] = (
                lines[row][:column].ljust(column) + piece + lines[row][column + len(piece) :]
            )
            column += len(piece)
        elif piece.endswith("K"):
            lines[row] = "" if piece == "\x1b[2K" else lines[row][:column]
        elif piece.endswith("A"):
            row = max(0, row - int(piece[2:-1] or 1))
        yield list(lines)
