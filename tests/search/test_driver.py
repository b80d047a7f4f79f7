"""Who drives a search: told apart from all others, and seen to live or not to."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search import driver as driver_module
from search.driver import Driver, Heartbeat

WAIT_S = 10.0
OTHER = Driver("elsewhere", "m", "b", "pid:[1]", 7, "99", "0123456789abcdef")


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module, "_machine", lambda: "this")


class TestLives:
    def test_this_process_does(self) -> None:
        """Who asks is there."""
        assert Driver.this().lives() is True

    def test_another_process_does_until_it_ends(self) -> None:
        """A process that ended is seen to have, also while nobody has asked for its exit code."""
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
            other = replace(Driver.this(), pid=process.pid, started=started(process.pid))
            assert other.lives() is True
            process.kill()
            wait_until(lambda: other.lives() is False)
        assert other.lives() is False

    def test_a_process_that_has_its_number_now_is_another(self) -> None:
        """Process ids come again; the time of the start tells."""
        assert replace(Driver.this(), started="1").lives() is False

    def test_a_process_of_an_earlier_boot_does_not(self) -> None:
        """Nothing outlives the start of its machine."""
        assert replace(Driver.this(), boot="another").lives() is False

    def test_a_process_on_another_host_cannot_be_seen(self) -> None:
        """It may live or not; only its beats tell."""
        assert replace(Driver.this(), host="elsewhere").lives() is None

    def test_a_process_in_another_container_cannot_be_seen(self) -> None:
        """Its number is not that of a process here."""
        assert replace(Driver.this(), processes="pid:[1]").lives() is None

    def test_a_container_of_an_earlier_boot_does_not(self) -> None:
        """A machine that started anew ended them all."""
        assert replace(Driver.this(), processes="pid:[1]", boot="another").lives() is False

    def test_where_there_is_no_proc_it_cannot_be_seen(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """On a machine that names neither its start nor its processes, only beats tell."""
        monkeypatch.setattr(driver_module, "_boot", lambda: ("", ""))
        assert Driver.this().lives() is None

    def test_another_machine_of_the_same_name_cannot_be_seen(self) -> None:
        """Many machines are called localhost; theirs is another start, and not a death."""
        assert replace(Driver.this(), machine="that", boot="another").lives() is None

    def test_machines_without_ids_are_not_taken_for_one(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where nothing names the machine, another boot may be another machine's."""
        monkeypatch.setattr(driver_module, "_machine", lambda: "")
        assert replace(Driver.this(), boot="another").lives() is None
        assert Driver.this().lives() is True

    def test_a_process_of_any_name_is_seen(self) -> None:
        """A process may call itself by spaces and brackets; its start is read all the same."""
        code = (
            "import ctypes\n"
            "ctypes.CDLL(None).prctl(15, b') Z (1 2 3', 0, 0, 0)\n"
            "print(flush=True)\ninput()\n"
        )
        command = [sys.executable, "-c", code]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            before = started(process.pid)
            process.stdout.readline()
            other = replace(Driver.this(), pid=process.pid, started=before)
            assert other.lives() is True
            process.kill()


class TestWritten:
    def test_it_is_read_again(self) -> None:
        """What a run keeps of its driver is all of it."""
        this = Driver.this()
        assert Driver.read(this.written()) == this

    @given(st.builds(Driver, *[st.text()] * 3, st.integers(), st.text(), st.text()))
    def test_whatever_it_is_called_it_is_read_again(self, driver: Driver) -> None:
        """A host may have any name."""
        assert Driver.read(driver.written()) == driver

    @pytest.mark.parametrize(
        "said",
        [
            "",
            "me",
            "{",
            "[]",
            "[1, 2, 3, 4, 5, 6]",
            "null",
            "5",
            '"host"',
            "{}",
            '{"host": "h", "pid": 5}',
            OTHER.written().replace('"host"', '"hostname"'),
            OTHER.written()[:-1] + ', "more": 1}',
        ],
    )
    def test_what_is_no_driver_is_none(self, said: str) -> None:
        """Whatever someone wrote into the tag, it is no driver, and no error."""
        assert Driver.read(said) is None

    def test_two_searches_of_one_process_have_two_claims(self) -> None:
        """A search is another's as soon as its claim is, also in the same process."""
        first, second = asdict(Driver.this()), asdict(Driver.this())
        assert first.pop("claim") != second.pop("claim")
        assert first == second

    def test_it_is_shown_as_a_user_finds_it(self) -> None:
        """Its number and its machine are what a user needs to stop it."""
        assert str(OTHER) == "process 7 on elsewhere"


class TestHeartbeat:
    @pytest.fixture(autouse=True)
    def _quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(driver_module, "BEAT_S", 0.01)

    def test_it_beats_until_its_end(self) -> None:
        """While the search runs there are beats; afterwards there are none."""
        this, beats = Driver.this(), Beats()
        beats.answer = this.written
        with Heartbeat(this, beats, beats.lost.append):
            wait_until(lambda: beats.count >= 3)
        count = beats.count
        time.sleep(0.05)
        assert beats.count == count
        assert beats.lost == []

    def test_another_claim_is_told_once(self) -> None:
        """Who finds another's name gives way, and writes no more."""
        this, beats = Driver.this(), Beats()
        other = replace(this, claim="another")
        beats.answer = other.written
        with Heartbeat(this, beats, beats.lost.append):
            wait_until(lambda: bool(beats.lost))
            time.sleep(0.05)
        assert beats.lost == [other]
        assert beats.count == 1

    @pytest.mark.parametrize("said", ["", "nobody"])
    def test_a_tag_that_names_nobody_is_no_loss(self, said: str) -> None:
        """Someone may delete the tag; that is no other driver."""
        beats = Beats()
        beats.answer = lambda: said
        with Heartbeat(Driver.this(), beats, beats.lost.append):
            wait_until(lambda: beats.count >= 3)
        assert beats.lost == []

    def test_it_survives_a_beat_that_fails(self) -> None:
        """A server that is away hears the next beat, and another's claim is found then."""
        beats = Beats()

        def answer() -> str:
            if beats.count < 3:
                raise ConnectionError("no route to host")
            return OTHER.written()

        beats.answer = answer
        with Heartbeat(Driver.this(), beats, beats.lost.append):
            wait_until(lambda: bool(beats.lost))
        assert beats.lost == [OTHER]

    def test_a_beat_that_hangs_does_not_keep_the_end(self) -> None:
        """A server that never answers does not hold a search that is over."""
        beats, release = Beats(), threading.Event()

        def answer() -> str:
            release.wait(WAIT_S)
            return OTHER.written()

        beats.answer = answer
        began = time.monotonic()
        with Heartbeat(Driver.this(), beats, beats.lost.append):
            wait_until(lambda: beats.count == 1)
        assert time.monotonic() - began < WAIT_S / 2
        release.set()


class Beats:
    """Counts beats, and answers them."""

    def __init__(self) -> None:
        self.count = 0
        self.lost: list[Driver] = []
        self.answer: Callable[[], str] = str

    def __call__(self) -> str:
        self.count += 1
        return self.answer()


def started(pid: int) -> str:
    """Return when a process started, as a driver in it says."""
    found = driver_module._started(pid)
    assert found is not None
    return found


def wait_until(ready: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + WAIT_S
    while not ready():
        assert time.monotonic() < give_up_at
        time.sleep(0.005)
