"""A driver is identified, known to be alive or dead, and shown by its heartbeat."""

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

from search.record import driver as driver_module
from search.record.driver import Driver, Heartbeat

WAIT_S = 10.0
OTHER = Driver(
    host="elsewhere",
    machine="m",
    boot="b",
    processes="pid:[1]",
    pid=7,
    started="99",
    claim="0123456789abcdef",
)


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module, "_machine", lambda: "this")


class TestIsAlive:
    def test_this_process_is_alive(self) -> None:
        """The calling process is alive."""
        assert Driver.this().is_alive() is True

    def test_other_process_is_alive_until_it_ends(self) -> None:
        """A process that has ended is dead, also before its parent reads its exit code."""
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
            other = replace(Driver.this(), pid=process.pid, started=start_of(process.pid))
            assert other.is_alive() is True
            process.kill()
            wait_until(lambda: other.is_alive() is False)
        assert other.is_alive() is False

    def test_process_that_has_the_pid_now_is_another(self) -> None:
        """The system reuses process ids; the start time differs."""
        assert replace(Driver.this(), started="1").is_alive() is False

    def test_process_of_an_earlier_boot_is_dead(self) -> None:
        """A restart of the machine ends all processes."""
        assert replace(Driver.this(), boot="another").is_alive() is False

    def test_process_on_another_host_is_unknown(self) -> None:
        """Only its heartbeat shows whether it is alive."""
        assert replace(Driver.this(), host="elsewhere").is_alive() is None

    def test_process_in_another_container_is_unknown(self) -> None:
        """Its process id has another meaning here."""
        assert replace(Driver.this(), processes="pid:[1]").is_alive() is None

    def test_container_of_an_earlier_boot_is_dead(self) -> None:
        """A restart of the machine ends all containers."""
        assert replace(Driver.this(), processes="pid:[1]", boot="another").is_alive() is False

    def test_process_is_unknown_without_proc(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """On a machine without boot id and process namespaces, only the heartbeat counts."""
        monkeypatch.setattr(driver_module, "_boot", lambda: ("", ""))
        assert Driver.this().is_alive() is None

    def test_process_on_another_machine_of_the_same_name_is_unknown(self) -> None:
        """Many machines are called localhost; the boot of another machine says nothing."""
        assert replace(Driver.this(), machine="that", boot="another").is_alive() is None

    def test_machines_without_ids_are_not_the_same(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without a machine id, another boot may be that of another machine."""
        monkeypatch.setattr(driver_module, "_machine", lambda: "")
        assert replace(Driver.this(), boot="another").is_alive() is None
        assert Driver.this().is_alive() is True

    def test_process_with_any_name_is_recognised(self) -> None:
        """A process name may have spaces and brackets; the start time is still read."""
        code = (
            "import ctypes\n"
            "ctypes.CDLL(None).prctl(15, b') Z (1 2 3', 0, 0, 0)\n"
            "print(flush=True)\ninput()\n"
        )
        command = [sys.executable, "-c", code]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            before = start_of(process.pid)
            process.stdout.readline()
            other = replace(Driver.this(), pid=process.pid, started=before)
            assert other.is_alive() is True
            process.kill()


class TestText:
    def test_driver_is_read_back(self) -> None:
        """The text has all fields."""
        this = Driver.this()
        assert Driver.read(this.written()) == this

    @given(st.builds(Driver, *[st.text()] * 3, st.integers(), st.text(), st.text()))
    def test_driver_with_any_name_is_read_back(self, driver: Driver) -> None:
        """A host may have any name."""
        assert Driver.read(driver.written()) == driver

    @pytest.mark.parametrize(
        "text",
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
    def test_other_text_is_no_driver(self, text: str) -> None:
        """If the tag holds anything else, there is no driver, and no error."""
        assert Driver.read(text) is None

    def test_two_searches_of_one_process_have_different_claims(self) -> None:
        """The claim alone shows that another search has taken over, also in one process."""
        first, second = asdict(Driver.this()), asdict(Driver.this())
        assert first.pop("claim") != second.pop("claim")
        assert first == second

    def test_message_names_process_and_host(self) -> None:
        """A user needs both to stop the process."""
        assert str(OTHER) == "process 7 on elsewhere"


class TestHeartbeat:
    @pytest.fixture(autouse=True)
    def _short_interval(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(driver_module, "BEAT_S", 0.01)

    def test_heartbeats_stop_at_the_end(self) -> None:
        """There are heartbeats while the search runs, and none afterwards."""
        this, beats = Driver.this(), Beats()
        beats.answer = this.written
        with Heartbeat(this, beats, beats.lost.append):
            wait_until(lambda: beats.count >= 3)
        count = beats.count
        time.sleep(0.05)
        assert beats.count == count
        assert beats.lost == []

    def test_claim_of_another_driver_is_reported_once(self) -> None:
        """A driver that finds another claim sends no more heartbeats."""
        this, beats = Driver.this(), Beats()
        other = replace(this, claim="another")
        beats.answer = other.written
        with Heartbeat(this, beats, beats.lost.append):
            wait_until(lambda: bool(beats.lost))
            time.sleep(0.05)
        assert beats.lost == [other]
        assert beats.count == 1

    @pytest.mark.parametrize("text", ["", "nobody"])
    def test_tag_without_a_driver_is_ignored(self, text: str) -> None:
        """A user may delete the tag; that is no takeover."""
        beats = Beats()
        beats.answer = lambda: text
        with Heartbeat(Driver.this(), beats, beats.lost.append):
            wait_until(lambda: beats.count >= 3)
        assert beats.lost == []

    def test_failed_heartbeat_is_followed_by_the_next(self) -> None:
        """After an outage the heartbeats go on, and find the claim of another driver."""
        beats = Beats()

        def answer() -> str:
            if beats.count < 3:
                raise ConnectionError("no route to host")
            return OTHER.written()

        beats.answer = answer
        with Heartbeat(Driver.this(), beats, beats.lost.append):
            wait_until(lambda: bool(beats.lost))
        assert beats.lost == [OTHER]

    def test_heartbeat_that_hangs_does_not_block_the_end(self) -> None:
        """A search that is complete does not wait for a server that never answers."""
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
    """Counts heartbeats, and answers them as the store would."""

    def __init__(self) -> None:
        self.count = 0
        self.lost: list[Driver] = []
        self.answer: Callable[[], str] = str

    def __call__(self) -> str:
        self.count += 1
        return self.answer()


def start_of(pid: int) -> str:
    """Return when a process started, in the form that a driver has."""
    found = driver_module._started(pid)
    assert found is not None
    return found


def wait_until(ready: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + WAIT_S
    while not ready():
        assert time.monotonic() < give_up_at
        time.sleep(0.005)
