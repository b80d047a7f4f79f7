"""The trials that an algorithm learns from: their order, their losses, their labels' values."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from search.suggest.history import Column, History


@settings(deadline=None, database=None)
@given(
    st.lists(st.tuples(st.integers(0, 300), st.integers(-9, 9) | st.floats(-1, 1)), max_size=200)
)
def test_column_inserts_as_a_list_does(inserts: list[tuple[int, float]]) -> None:
    column, expected = Column(), list[float]()
    for where, value in inserts:
        place = min(where, len(expected))
        column.insert(place, value)
        expected.insert(place, value)
    assert column.values.tolist() == expected


def test_column_of_whole_numbers_becomes_one_of_floats() -> None:
    """No value is cut to a whole number."""
    column = Column()
    column.insert(0, 3)
    assert column.values.dtype == np.int64
    column.insert(1, 0.5)
    assert column.values.tolist() == [3.0, 0.5]


class TestLosses:
    def test_running_trial_is_infinitely_bad(self) -> None:
        history = History(["x"])
        history.add(1, {"x": 0.5})
        assert history.losses.tolist() == [math.inf]
        assert history.finished == 0

    def test_failed_trial_has_the_worst_loss_seen(self) -> None:
        """Also a loss that is seen later than the failure."""
        history = History(["x"])
        for number in (1, 2, 3, 4):
            history.add(number, {"x": 0.5})
        history.end(1, 2.0)
        history.end(2, math.nan)
        assert history.losses.tolist() == [2.0, 2.0, math.inf, math.inf]
        history.end(3, 7.0)
        history.end(4, math.inf)
        assert history.losses.tolist() == [2.0, 7.0, 7.0, 7.0]
        assert history.finished == 4

    def test_failures_are_equal_before_any_loss(self) -> None:
        history = History(["x"])
        for number, loss in ((1, math.nan), (2, math.inf), (3, -math.inf)):
            history.add(number, {"x": 0.5})
            history.end(number, loss)
        losses = history.losses.tolist()
        assert all(map(math.isfinite, losses))
        assert len(set(losses)) == 1


def test_trials_are_in_the_order_of_their_numbers() -> None:
    """They may be added in any order; other searches' trials have numbers below 1."""
    history = History(["x"])
    for number in (3, -1, 0, 2):
        history.add(number, {"x": number / 10})
    history.end(2, 2.0)
    history.end(-1, -1.0)
    assert history.numbers.tolist() == [-1, 0, 2, 3]
    assert history.losses.tolist() == [-1.0, math.inf, 2.0, math.inf]
    numbers, values = history.values["x"]
    assert numbers.tolist() == [-1, 0, 2, 3]
    assert values.tolist() == [-0.1, 0.0, 0.2, 0.3]


def test_label_has_values_of_the_trials_in_which_it_is_active() -> None:
    history = History(["model", "x", "n"])
    history.add(1, {"model": 0, "x": 0.5})
    history.add(2, {"model": 1, "n": 3})
    found = {label: (n.tolist(), v.tolist()) for label, (n, v) in history.values.items()}
    assert found == {"model": ([1, 2], [0, 1]), "x": ([1], [0.5]), "n": ([2], [3])}
