"""The terminal's streams, also if nobody reads them."""

from __future__ import annotations

import os
import subprocess
import sys

from search.present.terminal import Stream


def test_text_arrives_line_by_line() -> None:
    """A reader does not wait until a buffer is full."""
    reader, writer = os.pipe()
    with Stream(writer) as stream:
        stream.write("süß\n")
        assert os.read(reader, 100) == "süß\n".encode()
        assert stream.lost is None
    os.close(reader)


def test_closed_pipe_is_no_error() -> None:
    """A user may stop watching a search. The stream keeps the reason."""
    reader, writer = os.pipe()
    os.close(reader)
    with Stream(writer) as stream:
        stream.write("one\n")
        stream.write("two\n")
    assert isinstance(stream.lost, BrokenPipeError)


def test_full_disk_is_no_error() -> None:
    """The search matters more than its messages."""
    with Stream(os.open("/dev/full", os.O_WRONLY)) as stream:
        stream.write("one\n")
    assert stream.lost is not None
    assert stream.lost.strerror == "No space left on device"


def test_command_runs_with_all_streams_closed() -> None:
    """An error has its exit code, and no other file gets the text."""
    command = f"{sys.executable} -m search.run --num-samples 0 <&- >&- 2>&-"
    assert subprocess.run(["sh", "-c", command], timeout=60, check=False).returncode == 2
