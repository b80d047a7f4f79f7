"""What an objective may call."""

from __future__ import annotations

from functools import partial

import pytest

from search.trial import listening, report


def test_report_outside_a_search_does_nothing() -> None:
    """A script still runs by itself."""
    report(1.0)
    report(0.5, step=0)


def test_reports_are_heard_with_their_steps() -> None:
    """Steps are as given; without one the reports are counted, from 0 or from the last."""
    heard: list[tuple[float, int]] = []
    with listening(lambda loss, step: heard.append((loss, step))):
        report(3.0)
        report(2, step=5)
        report(1.0)
    report(0.0)
    assert heard == [(3.0, 0), (2.0, 5), (1.0, 6)]


def test_steps_must_grow() -> None:
    """A step that is not larger than the last one is the caller's mistake."""
    with listening(lambda _loss, _step: None):
        report(1.0, step=3)
        with pytest.raises(ValueError, match="the last was 3"):
            report(1.0, step=3)


def test_each_trial_counts_anew() -> None:
    """One worker runs one trial after another."""
    for _ in range(2):
        heard: list[int] = []
        with listening(partial(_note, heard)):
            report(1.0)
            report(1.0)
        assert heard == [0, 1]


def _note(heard: list[int], _loss: float, step: int) -> None:
    heard.append(step)
