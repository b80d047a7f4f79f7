"""When a search ends early: signals and the time budget."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest

from search.stopping import SIGNALS, Stop


def send(number: signal.Signals) -> None:
    """Send a signal to this very process, and wait until it has been heard."""
    os.kill(os.getpid(), number)
    time.sleep(0.01)


def handlers() -> list[Any]:
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.mark.parametrize("number", SIGNALS)
class TestSignals:
    def test_ends_at_once_outside_gently(self, number: signal.Signals) -> None:
        """Before the trials and after them, a signal ends what is being done."""
        with Stop() as stop:
            with pytest.raises(KeyboardInterrupt):
                send(number)
            assert stop.interrupted

    def test_is_only_noted_inside_gently(self, number: signal.Signals) -> None:
        """While trials run, a signal asks for an orderly end."""
        with Stop() as stop, stop.gently():
            send(number)
            assert (stop(), stop.interrupted, stop.out_of_time) == (True, True, False)

    def test_second_raises_inside_gently(self, number: signal.Signals) -> None:
        """Who cannot wait for the orderly end signals again."""
        with Stop() as stop, stop.gently():
            send(number)
            with pytest.raises(KeyboardInterrupt):
                send(number)

    def test_after_gently_a_signal_ends_at_once_again(self, number: signal.Signals) -> None:
        """Gentleness ends with its block."""
        with Stop() as stop:
            with stop.gently():
                pass
            with pytest.raises(KeyboardInterrupt):
                send(number)

    def test_gently_ends_with_an_exception_too(self, number: signal.Signals) -> None:
        """An error in the block does not leave signals unheard."""
        with Stop() as stop:
            with pytest.raises(ZeroDivisionError), stop.gently():
                raise ZeroDivisionError
            with pytest.raises(KeyboardInterrupt):
                send(number)


def test_sigterm_after_sigint_is_a_second_signal() -> None:
    """Any two signals are two."""
    with Stop() as stop, stop.gently():
        send(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGTERM)


def test_handlers_are_restored() -> None:
    """Afterwards signals mean what they meant before."""
    before = handlers()
    with Stop():
        assert handlers() != before
    assert handlers() == before


def test_handlers_are_restored_after_an_interrupt() -> None:
    """Being interrupted is no reason to leave handlers behind."""
    before = handlers()
    with pytest.raises(KeyboardInterrupt), Stop():
        send(signal.SIGTERM)
    assert handlers() == before


class TestTimeBudget:
    def test_without_one_time_never_runs_out(self) -> None:
        """No budget, no end."""
        stop = Stop()
        stop.after(None)
        assert not stop()

    def test_before_the_deadline_trials_may_start(self) -> None:
        """A budget that is not used up stops nothing."""
        stop = Stop()
        stop.after(3600.0)
        assert not stop()

    def test_after_the_deadline_they_may_not(self) -> None:
        """A used-up budget stops the search, and is no interrupt."""
        stop = Stop()
        stop.after(0.02)
        time.sleep(0.03)
        assert (stop(), stop.out_of_time, stop.interrupted) == (True, True, False)
