"""When a search ends early: signals, the time budget and failures."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest

from search.errors import SearchError
from search.execute.stop_signal import SIGNALS, StopSignal


def send(number: signal.Signals) -> None:
    """Send a signal to this process, and wait until it has been handled."""
    os.kill(os.getpid(), number)
    time.sleep(0.01)


def handlers() -> list[Any]:
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.mark.parametrize("number", SIGNALS)
class TestSignals:
    def test_signal_raises_at_once_outside_graceful(self, number: signal.Signals) -> None:
        """Before the trials and after them, a signal ends what is being done."""
        with StopSignal() as stop:
            with pytest.raises(KeyboardInterrupt):
                send(number)
            assert stop.interrupted

    def test_first_signal_is_only_noted_inside_graceful(self, number: signal.Signals) -> None:
        """While trials run, a signal asks for an orderly end."""
        with StopSignal() as stop, stop.graceful():
            send(number)
            assert (stop(), stop.interrupted, stop.out_of_time) == (True, True, False)

    def test_second_signal_raises_inside_graceful(self, number: signal.Signals) -> None:
        """The user does not want to wait for the orderly end."""
        with StopSignal() as stop, stop.graceful():
            send(number)
            with pytest.raises(KeyboardInterrupt):
                send(number)

    def test_signal_raises_at_once_again_after_graceful(self, number: signal.Signals) -> None:
        with StopSignal() as stop:
            with stop.graceful():
                pass
            with pytest.raises(KeyboardInterrupt):
                send(number)

    def test_exception_ends_graceful_too(self, number: signal.Signals) -> None:
        """Signals after an error in the block raise at once."""
        with StopSignal() as stop:
            with pytest.raises(ZeroDivisionError), stop.graceful():
                raise ZeroDivisionError
            with pytest.raises(KeyboardInterrupt):
                send(number)


def test_sigterm_after_sigint_is_a_second_signal() -> None:
    with StopSignal() as stop, stop.graceful():
        send(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGTERM)


def test_former_handlers_are_restored() -> None:
    before = handlers()
    with StopSignal():
        assert handlers() != before
    assert handlers() == before


def test_former_handlers_are_restored_after_an_interrupt() -> None:
    before = handlers()
    with pytest.raises(KeyboardInterrupt), StopSignal():
        send(signal.SIGTERM)
    assert handlers() == before


class TestTimeBudget:
    def test_search_without_a_budget_does_not_end(self) -> None:
        stop = StopSignal()
        stop.after(None)
        assert not stop()

    def test_search_goes_on_before_the_deadline(self) -> None:
        stop = StopSignal()
        stop.after(3600.0)
        assert not stop()

    def test_search_ends_after_the_deadline(self) -> None:
        """That is no interrupt."""
        stop = StopSignal()
        stop.after(0.02)
        time.sleep(0.03)
        assert (stop(), stop.out_of_time, stop.interrupted) == (True, True, False)


def send_twice_deferred(number: signal.Signals, stop: StopSignal, finished: list[bool]) -> None:
    with stop.deferred():
        send(number)
        send(number)
        finished.append(True)


def send_deferred_in_deferred(
    number: signal.Signals, stop: StopSignal, finished: list[bool]
) -> None:
    with stop.deferred():
        with stop.deferred():
            send(number)
        finished.append(True)


@pytest.mark.parametrize("number", SIGNALS)
class TestDeferred:
    def test_signals_raise_at_the_end_of_the_block(self, number: signal.Signals) -> None:
        """Work that must not be interrupted is finished first."""
        finished: list[bool] = []
        with StopSignal() as stop:
            with pytest.raises(KeyboardInterrupt):
                send_twice_deferred(number, stop, finished)
            assert finished
            assert stop.hurried

    def test_only_the_outermost_block_raises(self, number: signal.Signals) -> None:
        finished: list[bool] = []
        with StopSignal() as stop:
            with pytest.raises(KeyboardInterrupt):
                send_deferred_in_deferred(number, stop, finished)
            assert finished

    def test_first_signal_does_not_raise_inside_graceful(self, number: signal.Signals) -> None:
        with StopSignal() as stop, stop.graceful():
            with stop.deferred():
                send(number)
            assert stop.interrupted


def test_first_failure_ends_the_search() -> None:
    """Later ones follow from it."""
    stop = StopSignal()
    first = SearchError("the disk is full")
    stop.fail(first)
    stop.fail(SearchError("the journal cannot be written"))
    assert stop()
    assert stop.failure is first
    assert not stop.interrupted
