"""The clock of a search."""

from __future__ import annotations

import time

import pytest

from search.conduct.clock import PARTS, Clock


def test_parts_add_up_to_the_total() -> None:
    clock = Clock()
    for part in PARTS:
        time.sleep(0.01)
        clock.lap(part)
    seconds = clock.seconds
    parts = [seconds[part] for part in PARTS]
    assert min(parts) >= 0.009
    assert seconds["total"] == pytest.approx(sum(parts), abs=0.05)


def test_part_that_did_not_happen_took_no_time() -> None:
    """A search that is complete has no trials and no refit."""
    clock = Clock()
    clock.lap("start_up")
    assert (clock.seconds["search"], clock.seconds["refit"]) == (0.0, 0.0)
