"""What the tracking server has not acknowledged is on disk, whole, until it has."""

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

from search import journal as journal_module
from search.errors import InputError
from search.journal import RESERVE_BYTES, Journal
from search.notes import Ended, Note, Progressed, Started

NOTES: tuple[Note, ...] = (
    Started("0001", {"max_depth": 7, "kernel": {"name": "rbf", "gamma": 0.1}}, 1_000),
    Progressed("0001", 0, (9.0, 8.0), 2_000),
    Ended("0001", "failed", 4_000, failure="E: ünknown", traceback='File "x"\r\nE: ünknown\n'),
    Ended("0002", "finished", 5_000, {"rmse": 7.0, "best_iteration": 2.0}, {"2": 8.0}),
)

any_notes = settings(
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
notes = st.one_of(
    st.builds(Started, texts, st.dictionaries(texts, values, max_size=3), times),
    st.builds(
        Progressed, texts, st.integers(0, 10**6), st.lists(floats, max_size=5).map(tuple), times
    ),
    st.builds(Ended, texts, texts, times, some_numbers, some_numbers, texts, texts),
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "s1.journal"


def filled(file: Path, *noted: Note, crossed_off: Sequence[int] = ()) -> bytes:
    """Return what a journal holds that was killed after it took these."""
    file.unlink(missing_ok=True)
    with Journal(file) as journal:
        numbers = [journal.append(note) for note in noted]
        for place in crossed_off:
            journal.cross_off(numbers[place])
        return file.read_bytes()


def reopened(file: Path, content: bytes) -> tuple[list[Note], int]:
    """Return what waits in a journal of this content, and how many of its lines are damaged."""
    file.write_bytes(content)
    with Journal(file) as journal:
        return list(journal.waiting.values()), journal.damaged


def line(said: object) -> bytes:
    """Return a line as it is when nothing befell it."""
    text = json.dumps(said).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def test_what_is_appended_waits_until_it_is_crossed_off(file: Path) -> None:
    """Each note has a number of its own, and goes by it."""
    with Journal(file) as journal:
        numbers = [journal.append(note) for note in NOTES]
        assert len(set(numbers)) == len(NOTES)
        assert journal.waiting == dict(zip(numbers, NOTES, strict=True))
        journal.cross_off(numbers[1])
        assert list(journal.waiting.values()) == [NOTES[0], *NOTES[2:]]


def test_numbers_go_on_after_reopening(file: Path) -> None:
    """A note of today never has the number of a crossed off one, nor of a waiting one."""
    with Journal(file) as journal:
        first, last = journal.append(NOTES[0]), journal.append(NOTES[1])
        journal.cross_off(last)
    with Journal(file) as journal:
        assert list(journal.waiting) == [first]
        assert journal.append(NOTES[2]) > last


def test_it_is_the_users_alone(file: Path) -> None:
    """Parameters and tracebacks are nobody else's to read."""
    with Journal(file):
        assert file.stat().st_mode & 0o777 == 0o600


def test_a_second_opener_is_refused(file: Path) -> None:
    """A journal has one driver at a time, and is left as it was; its end sets it free."""
    with Journal(file) as journal:
        journal.append(NOTES[0])
        with pytest.raises(InputError, match=r"another process .* drives the search"):
            Journal(file)
        journal.append(NOTES[1])
    with Journal(file) as journal:
        assert list(journal.waiting.values()) == list(NOTES[:2])


@pytest.mark.parametrize("what", ["folder", "below a file"])
def test_what_cannot_be_opened_is_said_in_one_line(what: str, tmp_path: Path) -> None:
    """The option that leads there is named."""
    if what == "folder":
        (tmp_path / "s1.journal").mkdir()
    else:
        (tmp_path / "plain").touch()
    folder = tmp_path if what == "folder" else tmp_path / "plain"
    with pytest.raises(InputError) as error:
        Journal(folder / "s1.journal")
    assert str(error.value).startswith(f"--state-dir {folder}: s1.journal: ")
    assert "\n" not in str(error.value)


@any_notes
@given(noted=st.lists(notes, max_size=6), data=st.data())
def test_reopening_gives_what_waits_in_order(
    noted: list[Note], data: st.DataObject, tmp_path: Path
) -> None:
    """Whatever was noted and crossed off, a killed process leaves all of the rest and no more."""
    places = data.draw(st.permutations(range(len(noted)))) if noted else []
    crossed_off = data.draw(st.integers(0, len(noted)).map(lambda count: places[:count]))
    content = filled(tmp_path / "s1.journal", *noted, crossed_off=crossed_off)
    expected = [note for place, note in enumerate(noted) if place not in crossed_off]
    assert reopened(tmp_path / "copy.journal", content) == (expected, 0)


@any_notes
@given(curve=st.lists(st.floats(), min_size=1, max_size=5))
@example(curve=[math.inf, -math.inf, math.nan, -0.0, 5e-324, 0.1 + 0.2])
def test_floats_are_the_same_to_the_last_bit(tmp_path: Path, curve: list[float]) -> None:
    """Also those that JSON does not know: a curve may be infinite, or no number at all."""
    ended = Ended("0001", "finished", 4_000, {"rmse": curve[-1]}, {"2": curve[0]})
    content = filled(tmp_path / "s1.journal", Progressed("0001", 0, tuple(curve), 2_000), ended)
    (progressed, read), _ = reopened(tmp_path / "copy.journal", content)
    assert isinstance(progressed, Progressed)
    assert isinstance(read, Ended)
    assert bits(progressed.curve) == bits(curve)
    assert bits([read.metrics["rmse"], read.rungs["2"]]) == bits([curve[-1], curve[0]])


def bits(numbers: Sequence[float]) -> list[bytes]:
    return [struct.pack("<d", math.nan if math.isnan(each) else each) for each in numbers]


class TestDamage:
    def test_a_cut_loses_at_most_the_last_line(self, file: Path, tmp_path: Path) -> None:
        """Wherever a crash cuts the file short, every whole line counts, and no other."""
        content = filled(file, *NOTES)
        ends = [i for i, byte in enumerate(content) if byte == ord("\n")]
        for length in range(len(content) + 1):
            whole = sum(end <= length for end in ends)
            cut_short = length > 0 and length - 1 not in ends and length not in ends
            found = reopened(tmp_path / "cut.journal", content[:length])
            assert found == (list(NOTES[:whole]), int(cut_short))

    def test_what_is_noted_after_a_cut_stands_on_a_line_of_its_own(
        self, file: Path, tmp_path: Path
    ) -> None:
        """The rest of a line that was cut short takes nothing with it, wherever the cut was."""
        content, cut = filled(file, *NOTES[:2]), tmp_path / "cut.journal"
        first = content.index(b"\n")
        for length in range(first, len(content)):
            cut.write_bytes(content[:length])
            with Journal(cut) as journal:
                known = list(journal.waiting.values())
                journal.append(NOTES[2])
            assert reopened(cut, cut.read_bytes())[0] == [*known, NOTES[2]]

    def test_a_cut_in_a_crossing_off_costs_sending_twice(self, file: Path) -> None:
        """The note that was crossed off waits again, which changes nothing."""
        content = filled(file, *NOTES, crossed_off=[1])
        assert reopened(file, content[:-2])[0] == list(NOTES)

    def test_a_flipped_bit_costs_its_own_line(self, file: Path, tmp_path: Path) -> None:
        """Whichever byte of a line in the middle it is, the others stay, and one is counted."""
        content = filled(file, *NOTES)
        lines = content.splitlines(keepends=True)
        start = len(lines[0])
        for place in range(start, start + len(lines[1]) - 1):
            flipped = bytearray(content)
            flipped[place] ^= 1
            found = reopened(tmp_path / "flipped.journal", bytes(flipped))
            assert found == ([NOTES[0], *NOTES[2:]], 1)

    @any_notes
    @given(data=st.data())
    def test_another_byte_costs_at_most_the_lines_it_touches(
        self, data: st.DataObject, tmp_path: Path
    ) -> None:
        """Any byte in the place of any other is noticed, and costs no line beside it."""
        content = filled(tmp_path / "s1.journal", *NOTES)
        place = data.draw(st.integers(0, len(content) - 1))
        byte = data.draw(st.integers(0, 255).filter(lambda each: each != content[place]))
        before = content[:place].count(b"\n")
        touched = {before, before + 1} if content[place] == ord("\n") else {before}
        changed = content[:place] + bytes([byte]) + content[place + 1 :]
        waiting, damaged = reopened(tmp_path / "changed.journal", changed)
        untouched = [note for number, note in enumerate(NOTES) if number not in touched]
        assert [note for note in waiting if note in untouched] == untouched
        assert [note for note in waiting if note not in NOTES] == []
        assert damaged or waiting == list(NOTES)

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
    def test_a_line_of_something_else_is_counted_and_left_out(
        self, strange: bytes, file: Path
    ) -> None:
        """Another version's notes, or a disk's zeros, keep nobody from what is to be read."""
        content = filled(file, NOTES[0], NOTES[1])
        first, second = content.splitlines(keepends=True)
        assert reopened(file, first + strange + second) == (list(NOTES[:2]), 1)


class TestSize:
    def test_it_starts_again_once_it_is_long_and_all_is_crossed_off(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A search of any length keeps a small file."""
        monkeypatch.setattr(journal_module, "COMPACT_BYTES", 2_000)
        sizes = []
        with Journal(file) as journal:
            for _ in range(100):
                journal.cross_off(journal.append(NOTES[1]))
                sizes.append(file.stat().st_size)
            journal.append(NOTES[2])
            content = file.read_bytes()
        assert max(sizes) < 2_300
        assert 0 in sizes
        assert reopened(file, content) == ([NOTES[2]], 0)

    def test_it_stays_long_while_something_waits(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No note goes that the server has not taken."""
        monkeypatch.setattr(journal_module, "COMPACT_BYTES", 100)
        with Journal(file) as journal:
            journal.append(NOTES[0])
            for _ in range(20):
                journal.cross_off(journal.append(NOTES[1]))
            content = file.read_bytes()
        assert reopened(file, content) == ([NOTES[0]], 0)

    def test_it_is_removed_at_the_end_when_nothing_waits(self, file: Path) -> None:
        """A search that is done leaves no journal, and nothing beside it."""
        with Journal(file) as journal:
            journal.cross_off(journal.append(NOTES[0]))
        assert list(file.parent.iterdir()) == []

    def test_after_the_end_nothing_is_written_anywhere(self, file: Path, tmp_path: Path) -> None:
        """A thread that was not waited for finds a closed file, not the next one opened."""
        with Journal(file) as journal:
            number = journal.append(Started("0001", {}, 1))
        with (tmp_path / "next").open("wb"):
            with pytest.raises(OSError, match="Bad file descriptor"):
                journal.append(Started("0001", {}, 1))
            journal.cross_off(number)
            journal.sync(number + 1)
        assert (tmp_path / "next").read_bytes() == b""

    def test_it_is_kept_at_the_end_when_something_waits(self, file: Path) -> None:
        """What the server has yet to hear stays, and nothing beside it."""
        with Journal(file) as journal:
            journal.append(NOTES[0])
        assert list(file.parent.iterdir()) == [file]


Write = Callable[[int, bytes], int]


class TestFullDisk:
    @pytest.fixture
    def reserve(self, file: Path) -> Path:
        return file.with_suffix(".reserve")

    def test_room_is_kept_in_reserve(self, file: Path, reserve: Path) -> None:
        """The blocks are the journal's before they are needed."""
        with Journal(file):
            assert reserve.stat().st_size == RESERVE_BYTES

    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
    def test_the_reserve_is_used(
        self, code: int, file: Path, reserve: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """On a disk that is full, the last notes of a search find the room kept for them."""
        real: Write = os.write

        def write(descriptor: int, text: bytes) -> int:
            if reserve.exists():
                raise OSError(code, os.strerror(code))
            return real(descriptor, text)

        with Journal(file) as journal:
            monkeypatch.setattr(os, "write", write)
            for note in NOTES:
                journal.append(note)
            monkeypatch.undo()
            content = file.read_bytes()
        assert reopened(file, content) == (list(NOTES), 0)

    def test_a_disk_without_room_is_an_error_and_forgets_nothing(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What cannot be written is known to this process all the same."""
        with Journal(file) as journal:
            monkeypatch.setattr(os, "write", fails_after(0))
            with pytest.raises(OSError, match="No space"):
                journal.append(NOTES[0])
            monkeypatch.undo()
            assert list(journal.waiting.values()) == [NOTES[0]]

    def test_another_error_leaves_the_reserve(
        self, file: Path, reserve: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Room is no help to a disk that is broken."""
        with Journal(file) as journal:
            monkeypatch.setattr(os, "write", fails_after(0, errno.EIO))
            with pytest.raises(OSError, match="Input/output"):
                journal.append(NOTES[0])
            monkeypatch.undo()
            assert reserve.exists()

    def test_crossing_off_on_a_full_disk_is_no_error(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A note sent twice changes nothing, so it is not worth a search."""
        with Journal(file) as journal:
            number = journal.append(NOTES[0])
            monkeypatch.setattr(os, "write", fails_after(0))
            journal.cross_off(number)
            monkeypatch.undo()
            assert journal.waiting == {}

    @pytest.mark.parametrize("written", [1, 8, 15])
    def test_half_a_line_takes_no_other_with_it(
        self, written: int, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What is noted once there is room again is read again, also after half a crossing off."""
        with Journal(file) as journal:
            number = journal.append(NOTES[0])
            monkeypatch.setattr(os, "write", fails_after(written))
            journal.cross_off(number)
            monkeypatch.undo()
            journal.append(NOTES[1])
            content = file.read_bytes()
        assert reopened(file, content) == ([NOTES[0], NOTES[1]], 1)

    def test_a_line_written_in_pieces_is_whole(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A call may take fewer bytes than it was given."""
        real: Write = os.write
        with Journal(file) as journal:
            monkeypatch.setattr(os, "write", lambda descriptor, text: real(descriptor, text[:7]))
            for note in NOTES:
                journal.append(note)
            monkeypatch.undo()
            content = file.read_bytes()
        assert reopened(file, content) == (list(NOTES), 0)


def test_sync_on_a_file_system_without_it_is_no_error(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the disk cannot say that it has it, the search goes on."""

    def refuses(descriptor: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument", descriptor)

    with Journal(file) as journal:
        journal.sync(1)
        monkeypatch.setattr(os, "fdatasync", refuses)
        journal.sync(2)


def test_a_file_system_without_reserve_has_a_journal(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where room cannot be kept, notes are."""

    def refuses(*args: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported", *args[:1])

    monkeypatch.setattr(os, "posix_fallocate", refuses)
    with Journal(file) as journal:
        journal.append(NOTES[0])
        content = file.read_bytes()
    assert reopened(file, content) == ([NOTES[0]], 0)


def fails_after(count: int, code: int = errno.ENOSPC) -> Write:
    """Return a write that takes so many bytes, then nothing more."""
    real, left = os.write, [count]

    def write(descriptor: int, text: bytes) -> int:
        if not left[0]:
            raise OSError(code, os.strerror(code))
        taken = real(descriptor, text[: left[0]])
        left[0] -= taken
        return taken

    return write
