"""What the program writes, when nobody takes it."""

from __future__ import annotations

import os
import subprocess
import sys

from search.terminal import Stream


def test_what_is_written_arrives_line_by_line() -> None:
    """A reader does not wait for a buffer to fill."""
    reader, writer = os.pipe()
    with Stream(writer) as stream:
        stream.write("süß\n")
        assert os.read(reader, 100) == "süß\n".encode()
        assert stream.lost is None
    os.close(reader)


def test_a_reader_that_left_is_no_error() -> None:
    """Who watches a search may stop watching; the stream knows."""
    reader, writer = os.pipe()
    os.close(reader)
    with Stream(writer) as stream:
        stream.write("one\n")
        stream.write("two\n")
    assert isinstance(stream.lost, BrokenPipeError)


def test_a_full_disk_is_no_error() -> None:
    """The story of a search is less than the search."""
    with Stream(os.open("/dev/full", os.O_WRONLY)) as stream:
        stream.write("one\n")
    assert stream.lost is not None
    assert stream.lost.strerror == "No space left on device"


def test_closed_streams_are_opened_to_nowhere() -> None:
    """With all three closed, an error still ends in its exit code, and no file is written to."""
    command = f"{sys.executable} -m search.run --num-samples 0 <&- >&- 2>&-"
    assert subprocess.run(["sh", "-c", command], timeout=60, check=False).returncode == 2
