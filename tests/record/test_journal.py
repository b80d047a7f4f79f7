"""An event is on disk, complete, until the tracking server has acknowledged it."""

from __future__ import annotations

import errno
import json
import math
import os
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from search.errors import InputError
from search.record import journal as journal_module
from search.record.journal import RESERVE_BYTES, Journal
from search.values.events import Ended, Event, Progressed, Started

EVENTS: tuple[Event, ...] = (
    Started("0001", {"max_depth": 7, "kernel": {"name": "rbf", "gamma": 0.1}}, 1_000),
    Progressed("0001", 0, (9.0, 8.0), 2_000),
    Ended("0001", "failed", 4_000, failure="E: ünknown", traceback='File "x"\r\nE: ünknown\n'),
    Ended("0002", "finished", 5_000, {"rmse": 7.0, "best_iteration": 2.0}, {"2": 8.0}),
)

with_examples = settings(
    max_examples=50,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
floats = st.floats(allow_nan=False)
texts = st.text(st.characters(), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | floats | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
some_numbers = st.dictionaries(texts, floats, max_size=3)
times = st.integers(0, 2**45)
any_event = st.one_of(
    st.builds(Started, texts, st.dictionaries(texts, values, max_size=3), times),
    st.builds(
        Progressed, texts, st.integers(0, 10**6), st.lists(floats, max_size=5).map(tuple), times
    ),
    st.builds(Ended, texts, texts, times, some_numbers, some_numbers, texts, texts),
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "s1.journal"


def content_of(file: Path, *events: Event, acknowledged: Sequence[int] = ()) -> bytes:
    """Return the content of a journal whose process was killed after it wrote these events."""
    file.unlink(missing_ok=True)
    with Journal(file) as journal:
        numbers = [journal.append(event) for event in events]
        for place in acknowledged:
            journal.acknowledge(numbers[place])
        return file.read_bytes()


def reopened(file: Path, content: bytes) -> tuple[list[Event], int]:
    """Return which events wait in a journal of this content, and how many lines are damaged."""
    file.write_bytes(content)
    with Journal(file) as journal:
        return list(journal.waiting.values()), journal.damaged


def line(entry: object) -> bytes:
    """Return an undamaged line with this entry."""
    text = json.dumps(entry).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def test_event_waits_until_it_is_acknowledged(file: Path) -> None:
    """Each event has its own number, by which it is acknowledged."""
    with Journal(file) as journal:
        numbers = [journal.append(event) for event in EVENTS]
        assert len(set(numbers)) == len(EVENTS)
        assert journal.waiting == dict(zip(numbers, EVENTS, strict=True))
        journal.acknowledge(numbers[1])
        assert list(journal.waiting.values()) == [EVENTS[0], *EVENTS[2:]]


def test_numbers_continue_after_reopening(file: Path) -> None:
    """A new event never has the number of an acknowledged or a waiting one."""
    with Journal(file) as journal:
        first, last = journal.append(EVENTS[0]), journal.append(EVENTS[1])
        journal.acknowledge(last)
    with Journal(file) as journal:
        assert list(journal.waiting) == [first]
        assert journal.append(EVENTS[2]) > last


def test_only_the_user_can_read_the_file(file: Path) -> None:
    """Parameters and tracebacks are private."""
    with Journal(file):
        assert file.stat().st_mode & 0o777 == 0o600


def test_second_process_is_refused(file: Path) -> None:
    """A refused process changes nothing in the journal; closing it releases the lock."""
    with Journal(file) as journal:
        journal.append(EVENTS[0])
        with pytest.raises(InputError, match=r"another process .* drives the search"):
            Journal(file)
        journal.append(EVENTS[1])
    with Journal(file) as journal:
        assert list(journal.waiting.values()) == list(EVENTS[:2])


@pytest.mark.parametrize("obstacle", ["folder", "below a file"])
def test_file_that_cannot_be_opened_is_an_error_of_one_line(obstacle: str, tmp_path: Path) -> None:
    """The message names the option that gives the folder."""
    if obstacle == "folder":
        (tmp_path / "s1.journal").mkdir()
    else:
        (tmp_path / "plain").touch()
    folder = tmp_path if obstacle == "folder" else tmp_path / "plain"
    with pytest.raises(InputError) as error:
        Journal(folder / "s1.journal")
    assert str(error.value).startswith(f"--state-dir {folder}: s1.journal: ")
    assert "\n" not in str(error.value)


@with_examples
@given(events=st.lists(any_event, max_size=6), data=st.data())
def test_reopened_journal_has_the_waiting_events_in_order(
    events: list[Event], data: st.DataObject, tmp_path: Path
) -> None:
    """A killed process leaves exactly the events that were not acknowledged."""
    places = data.draw(st.permutations(range(len(events)))) if events else []
    acknowledged = data.draw(st.integers(0, len(events)).map(lambda count: places[:count]))
    content = content_of(tmp_path / "s1.journal", *events, acknowledged=acknowledged)
    expected = [event for place, event in enumerate(events) if place not in acknowledged]
    assert reopened(tmp_path / "copy.journal", content) == (expected, 0)


@with_examples
@given(curve=st.lists(st.floats(), min_size=1, max_size=5))
@example(curve=[math.inf, -math.inf, math.nan, -0.0, 5e-324, 0.1 + 0.2])
def test_floats_are_read_back_exactly(tmp_path: Path, curve: list[float]) -> None:
    """Also infinities and NaN, which JSON itself does not have."""
    ended = Ended("0001", "finished", 4_000, {"rmse": curve[-1]}, {"2": curve[0]})
    progressed = Progressed("0001", 0, tuple(curve), 2_000)
    content = content_of(tmp_path / "s1.journal", progressed, ended)
    (first, second), _ = reopened(tmp_path / "copy.journal", content)
    assert isinstance(first, Progressed)
    assert isinstance(second, Ended)
    assert bits(first.curve) == bits(curve)
    assert bits([second.metrics["rmse"], second.rungs["2"]]) == bits([curve[-1], curve[0]])


def bits(numbers: Sequence[float]) -> list[bytes]:
    return [struct.pack("<d", math.nan if math.isnan(each) else each) for each in numbers]


class TestDamage:
    def test_cut_file_loses_at_most_its_last_line(self, file: Path, tmp_path: Path) -> None:
        """If a crash cuts the file at any place, all complete lines count and no other."""
        content = content_of(file, *EVENTS)
        ends = [i for i, byte in enumerate(content) if byte == ord("\n")]
        for length in range(len(content) + 1):
            complete = sum(end <= length for end in ends)
            cut_short = length > 0 and length - 1 not in ends and length not in ends
            found = reopened(tmp_path / "cut.journal", content[:length])
            assert found == (list(EVENTS[:complete]), int(cut_short))

    def test_event_after_a_cut_has_its_own_line(self, file: Path, tmp_path: Path) -> None:
        """The rest of a cut line does not damage the next event, at any place of the cut."""
        content, cut = content_of(file, *EVENTS[:2]), tmp_path / "cut.journal"
        first = content.index(b"\n")
        for length in range(first, len(content)):
            cut.write_bytes(content[:length])
            with Journal(cut) as journal:
                known = list(journal.waiting.values())
                journal.append(EVENTS[2])
            assert reopened(cut, cut.read_bytes())[0] == [*known, EVENTS[2]]

    def test_event_whose_acknowledgement_is_cut_waits_again(self, file: Path) -> None:
        """The event is sent twice, which changes nothing."""
        content = content_of(file, *EVENTS, acknowledged=[1])
        assert reopened(file, content[:-2])[0] == list(EVENTS)

    def test_flipped_bit_damages_one_line(self, file: Path, tmp_path: Path) -> None:
        """At any byte of a line, the other lines stay and one damaged line is counted."""
        content = content_of(file, *EVENTS)
        lines = content.splitlines(keepends=True)
        start = len(lines[0])
        for place in range(start, start + len(lines[1]) - 1):
            flipped = bytearray(content)
            flipped[place] ^= 1
            found = reopened(tmp_path / "flipped.journal", bytes(flipped))
            assert found == ([EVENTS[0], *EVENTS[2:]], 1)

    @with_examples
    @given(data=st.data())
    def test_changed_byte_damages_at_most_the_lines_it_touches(
        self, data: st.DataObject, tmp_path: Path
    ) -> None:
        """Any change of any byte is noticed, and no other line is lost."""
        content = content_of(tmp_path / "s1.journal", *EVENTS)
        place = data.draw(st.integers(0, len(content) - 1))
        byte = data.draw(st.integers(0, 255).filter(lambda each: each != content[place]))
        before = content[:place].count(b"\n")
        touched = {before, before + 1} if content[place] == ord("\n") else {before}
        changed = content[:place] + bytes([byte]) + content[place + 1 :]
        waiting, damaged = reopened(tmp_path / "changed.journal", changed)
        untouched = [event for number, event in enumerate(EVENTS) if number not in touched]
        assert [event for event in waiting if event in untouched] == untouched
        assert [event for event in waiting if event not in EVENTS] == []
        assert damaged or waiting == list(EVENTS)

    @pytest.mark.parametrize(
        "strange",
        [
            line({"n": 1, "kind": "Paused", "trial_id": "0001"}),
            line({"n": 1, "kind": "Started", "trial_id": "0001"}),
            line({"n": 1, "kind": "Progressed", "trial_id": "0001", "colour": "red"}),
            b"\0" * 100 + b"\n",
            b"\xff\xfe\n",
        ],
        ids=["kind", "field-missing", "field-unknown", "zeros", "no-text"],
    )
    def test_unknown_line_is_counted_and_skipped(self, strange: bytes, file: Path) -> None:
        """Events of another version, or zeros from the disk, do not hide the readable events."""
        content = content_of(file, EVENTS[0], EVENTS[1])
        first, second = content.splitlines(keepends=True)
        assert reopened(file, first + strange + second) == (list(EVENTS[:2]), 1)


class TestSize:
    def test_long_journal_starts_again_once_all_is_acknowledged(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The file stays small in a search of any length."""
        monkeypatch.setattr(journal_module, "COMPACT_BYTES", 2_000)
        sizes = []
        with Journal(file) as journal:
            for _ in range(100):
                journal.acknowledge(journal.append(EVENTS[1]))
                sizes.append(file.stat().st_size)
            journal.append(EVENTS[2])
            content = file.read_bytes()
        assert max(sizes) < 2_300
        assert 0 in sizes
        assert reopened(file, content) == ([EVENTS[2]], 0)

    def test_long_journal_is_kept_while_an_event_waits(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No event is removed that the server has not taken."""
        monkeypatch.setattr(journal_module, "COMPACT_BYTES", 100)
        with Journal(file) as journal:
            journal.append(EVENTS[0])
            for _ in range(20):
                journal.acknowledge(journal.append(EVENTS[1]))
            content = file.read_bytes()
        assert reopened(file, content) == ([EVENTS[0]], 0)

    def test_file_is_removed_at_the_end_if_no_event_waits(self, file: Path) -> None:
        """A search that is complete leaves neither a journal nor its reserve."""
        with Journal(file) as journal:
            journal.acknowledge(journal.append(EVENTS[0]))
        assert list(file.parent.iterdir()) == []

    def test_closed_journal_writes_to_no_other_file(self, file: Path, tmp_path: Path) -> None:
        """The system gives the descriptor to the next file; a late thread must not write there."""
        with Journal(file) as journal:
            number = journal.append(Started("0001", {}, 1))
        with (tmp_path / "next").open("wb"):
            with pytest.raises(OSError, match="Bad file descriptor"):
                journal.append(Started("0001", {}, 1))
            journal.acknowledge(number)
            journal.sync(number + 1)
        assert (tmp_path / "next").read_bytes() == b""

    def test_file_is_kept_at_the_end_if_an_event_waits(self, file: Path) -> None:
        """Only the journal stays; its reserve is removed."""
        with Journal(file) as journal:
            journal.append(EVENTS[0])
        assert list(file.parent.iterdir()) == [file]


Write = Callable[[int, bytes], int]


class TestFullDisk:
    @pytest.fixture
    def reserve(self, file: Path) -> Path:
        return file.with_suffix(".reserve")

    def test_space_is_kept_in_reserve(self, file: Path, reserve: Path) -> None:
        """The blocks are allocated before they are needed."""
        with Journal(file):
            assert reserve.stat().st_size == RESERVE_BYTES

    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
    def test_reserve_is_used_on_a_full_disk(
        self, code: int, file: Path, reserve: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The last events of a search are written into the space of the reserve."""
        real: Write = os.write

        def write(descriptor: int, text: bytes) -> int:
            if reserve.exists():
                raise OSError(code, os.strerror(code))
            return real(descriptor, text)

        with Journal(file) as journal:
            monkeypatch.setattr(os, "write", write)
            for event in EVENTS:
                journal.append(event)
            monkeypatch.undo()
            content = file.read_bytes()
        assert reopened(file, content) == (list(EVENTS), 0)

    def test_event_that_cannot_be_written_still_waits(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Without space there is an error, but this process knows the event."""
        with Journal(file) as journal:
            monkeypatch.setattr(os, "write", fails_after(0))
            with pytest.raises(OSError, match="No space"):
                journal.append(EVENTS[0])
            monkeypatch.undo()
            assert list(journal.waiting.values()) == [EVENTS[0]]

    def test_other_errors_keep_the_reserve(
        self, file: Path, reserve: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Space does not help if the disk is broken."""
        with Journal(file) as journal:
            monkeypatch.setattr(os, "write", fails_after(0, errno.EIO))
            with pytest.raises(OSError, match="Input/output"):
                journal.append(EVENTS[0])
            monkeypatch.undo()
            assert reserve.exists()

    def test_acknowledgement_that_cannot_be_written_is_no_error(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The event is sent twice, which changes nothing, so the search goes on."""
        with Journal(file) as journal:
            number = journal.append(EVENTS[0])
            monkeypatch.setattr(os, "write", fails_after(0))
            journal.acknowledge(number)
            monkeypatch.undo()
            assert journal.waiting == {}

    @pytest.mark.parametrize("written", [1, 8, 15])
    def test_incomplete_line_does_not_damage_the_next(
        self, written: int, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An event written once there is space again is readable, also after half a line."""
        with Journal(file) as journal:
            number = journal.append(EVENTS[0])
            monkeypatch.setattr(os, "write", fails_after(written))
            journal.acknowledge(number)
            monkeypatch.undo()
            journal.append(EVENTS[1])
            content = file.read_bytes()
        assert reopened(file, content) == ([EVENTS[0], EVENTS[1]], 1)

    def test_line_written_in_pieces_is_complete(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A call of write() may take fewer bytes than it was given."""
        real: Write = os.write
        with Journal(file) as journal:
            monkeypatch.setattr(os, "write", lambda descriptor, text: real(descriptor, text[:7]))
            for event in EVENTS:
                journal.append(event)
            monkeypatch.undo()
            content = file.read_bytes()
        assert reopened(file, content) == (list(EVENTS), 0)


def test_file_system_without_sync_is_no_error(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the file system cannot sync, the search goes on."""

    def refuses(descriptor: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument", descriptor)

    with Journal(file) as journal:
        journal.sync(1)
        monkeypatch.setattr(os, "fdatasync", refuses)
        journal.sync(2)


def test_file_system_without_reserve_has_a_journal(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If space cannot be reserved, events are still written."""

    def refuses(*args: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported", *args[:1])

    monkeypatch.setattr(os, "posix_fallocate", refuses)
    with Journal(file) as journal:
        journal.append(EVENTS[0])
        content = file.read_bytes()
    assert reopened(file, content) == ([EVENTS[0]], 0)


def fails_after(count: int, code: int = errno.ENOSPC) -> Write:
    """Return a write() that takes ``count`` bytes, and then fails."""
    real, left = os.write, [count]

    def write(descriptor: int, text: bytes) -> int:
        if not left[0]:
            raise OSError(code, os.strerror(code))
        taken = real(descriptor, text[: left[0]])
        left[0] -= taken
        return taken

    return write
