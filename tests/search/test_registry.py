"""Which version of the registered model is the champion."""

from __future__ import annotations

import math

import pytest

from search.registry import standing


@pytest.mark.parametrize(
    ("rmse", "champion", "made_up", "alias"),
    [
        (6.5, None, False, "champion"),  # the first version
        (6.4, 6.5, False, "champion"),  # a better one
        (6.5, 6.5, False, "challenger"),  # as good is not better
        (6.6, 6.5, False, "challenger"),
        (6.4, math.nan, False, "challenger"),  # nothing is better than what cannot be compared
        (math.nan, 6.5, False, "challenger"),
        (1.0, None, True, "challenger"),  # a made sample makes no champion, not even the first
        (1.0, 6.5, True, "challenger"),
    ],
)
def test_alias(rmse: float, champion: float | None, made_up: bool, alias: str) -> None:
    """The first version and each better one is champion, any other challenger."""
    assert standing(rmse, champion, made_up_data=made_up).alias == alias


def test_reason_gives_both_scores() -> None:
    """Who reads the reason sees what was compared."""
    reason = standing(6.4321, 6.5432, made_up_data=False).reason
    assert "6.4321" in reason
    assert "6.5432" in reason


def test_reason_names_the_sample() -> None:
    """A version made from the sample says so."""
    assert "sample" in standing(6.4, 6.5, made_up_data=True).reason
