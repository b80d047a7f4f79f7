"""A logged model must predict what was fitted, before it is registered."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from search.errors import SearchError
from search.model.logged_model import Logged, check
from search.values.model import Fitted, Judgement


class Served:
    """Stands in for the process that loads the served model."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def predictions(self, model_uri: str) -> Any:
        return self._answer


def checked(fitted: list[float], in_flavor: list[float], served: list[float]) -> None:
    """Check models that predict these values where the refit predicted ``fitted``."""
    judgement = Judgement(np.array(in_flavor), score=1.0, test_score=None)
    logged = Logged("models:/flavor", "models:/served", judgement)
    process: Any = Served(np.array(served))
    check(logged, Fitted(b"", np.array(fitted)), process)


@pytest.mark.parametrize("size", [0.0, 1e-9, 1.0, 3e8])
def test_last_bits_may_differ(size: float) -> None:
    """Whatever the target's unit: minutes, or a price in yen."""
    fitted = [size, -size / 2]
    near = [each * (1 + 1e-7) for each in fitted]
    checked(fitted, near, near)


@pytest.mark.parametrize("size", [1.0, 3e8])
@pytest.mark.parametrize("wrong", ["flavour", "served"])
def test_model_that_predicts_something_else_is_refused(size: float, wrong: str) -> None:
    fitted, other = [size, size / 2], [size * (1 + 1e-5), size / 2]
    models = (other, fitted) if wrong == "flavour" else (fitted, other)
    with pytest.raises(SearchError, match=f"the logged {wrong} model predicts up to"):
        checked(fitted, *models)


def test_small_predictions_have_a_tolerance_of_one_in_a_million() -> None:
    """Predictions near zero differ by more than a share of themselves."""
    checked([1e-3], [1e-3 + 9e-7], [1e-3])
    with pytest.raises(SearchError, match="was not registered"):
        checked([1e-3], [1e-3 + 2e-6], [1e-3])


def test_nan_is_refused() -> None:
    with pytest.raises(SearchError, match="was not registered"):
        checked([1.0], [1.0], [float("nan")])
