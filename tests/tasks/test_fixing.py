"""``--set``: which parameters and settings a user may fix, and at which values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hyperopt import hp
from hyperopt.pyll.stochastic import sample

import trainables
from search.errors import InputError
from search.tasks.fixing import fixed
from trainables.base import Setting

XGBOOST = trainables.get("xgboost")
CHOICES: dict[str, Any] = {
    "model": hp.choice(
        "model",
        [
            {"kind": "tree", "depth": hp.randint("depth", 2, 9)},
            {"kind": "linear", "alpha": hp.loguniform("alpha", -5, 1)},
        ],
    ),
    "loss": hp.choice("loss", ["squared", "absolute", 3, None]),
}


def refusal(name: str, text: str) -> str:
    with pytest.raises(InputError) as error:
        fixed(XGBOOST.search_space, XGBOOST.settings, {name: text})
    assert "\n" not in str(error.value)
    return str(error.value)


def test_without_overrides_all_is_searched_and_settings_have_their_defaults() -> None:
    space, values = fixed(XGBOOST.search_space, XGBOOST.settings, {})
    assert space.labels == sorted(XGBOOST.search_space)
    assert values == {
        "num_boost_round": 1000,
        "early_stopping_rounds": 50,
        "tree_method": "hist",
    }


def test_fixed_parameter_is_not_searched() -> None:
    """It is a constant of each point."""
    space, _ = fixed(XGBOOST.search_space, XGBOOST.settings, {"max_depth": "7"})
    assert "max_depth" not in space.labels
    drawn = sample(space.root, rng=np.random.default_rng(0))
    assert drawn["max_depth"] == 7


@pytest.mark.parametrize(("text", "value"), [("2", 2), ("5000", 5000), ("6.0", 6)])
def test_whole_number_may_lie_outside_its_range(text: str, value: int) -> None:
    """A user may fix a value that the search never draws; a whole number stays an int."""
    space, _ = fixed(XGBOOST.search_space, {}, {"max_depth": text})
    depth = sample(space.root, rng=np.random.default_rng(0))["max_depth"]
    assert (depth, type(depth)) == (value, int)


def test_choice_is_fixed_by_its_value() -> None:
    """At one of its options; a nested one is given as JSON."""
    overrides = {"loss": "absolute", "model": '{"kind": "linear", "alpha": 0.5}'}
    space, _ = fixed(CHOICES, {}, overrides)
    drawn = sample(space.root, rng=np.random.default_rng(0))
    assert (drawn["loss"], drawn["model"]) == ("absolute", {"kind": "linear", "alpha": 0.5})


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("num_boost_round", "1", 1),
        ("early_stopping_rounds", "7", 7),
        ("tree_method", "exact", "exact"),
    ],
)
def test_setting_is_changed(name: str, text: str, value: int | str) -> None:
    """It has the given value, in its own type."""
    space, values = fixed(XGBOOST.search_space, XGBOOST.settings, {name: text})
    assert (values[name], type(values[name])) == (value, type(value))
    assert space.labels == sorted(XGBOOST.search_space)


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("nonesuch", "1", "unknown name; may be set: max_depth, learning_rate"),
        ("max_depth", "deep", "'deep' is not a number"),
        ("max_depth", "7.5", "whole number"),
        ("max_depth", "true", "not a number"),
        ("max_depth", "null", "not a number"),
        ("max_depth", "[7]", "not a number"),
        ("learning_rate", "NaN", "not a number"),
        ("learning_rate", "1e999", "not a number"),
        ("learning_rate", "-Infinity", "not a number"),
        ("num_boost_round", "many", "'many' is not a whole number"),
        ("num_boost_round", "10.5", "not a whole number"),
        ("num_boost_round", "0", "give 1 or more"),
        ("early_stopping_rounds", "-1", "give 1 or more"),
        ("tree_method", "gpu_hist", "use one of hist, exact, approx"),
    ],
)
def test_bad_value_is_refused(name: str, text: str, why: str) -> None:
    """The message has the name and the reason, on one line."""
    message = refusal(name, text)
    assert message.startswith(f"--set {name}={text}: ")
    assert why in message


def test_bad_choice_names_the_options() -> None:
    """A choice cannot be fixed at a value that is not one of its options."""
    with pytest.raises(InputError, match=r"loss.*'squared', 'absolute', 3, None.*'cubed'"):
        fixed(CHOICES, {}, {"loss": "cubed"})


def test_float_setting_refuses_text() -> None:
    """A setting with a float default takes numbers only."""
    with pytest.raises(InputError, match=r"rate=fast.*not a number"):
        fixed({}, {"rate": Setting(0.5, at_least=0.0)}, {"rate": "fast"})


@pytest.mark.parametrize("text", ["nan", "inf", "-inf"])
def test_float_setting_refuses_nan_and_infinity(text: str) -> None:
    """Also a setting without a least value."""
    with pytest.raises(InputError, match=f"rate={text}.*not a finite number"):
        fixed({}, {"rate": Setting(0.5)}, {"rate": text})


def test_float_setting_below_its_least_value_is_refused() -> None:
    """The message has the least value."""
    with pytest.raises(InputError, match=r"rate=-1.*give 0\.0 or more"):
        fixed({}, {"rate": Setting(0.5, at_least=0.0)}, {"rate": "-1"})


def test_integer_of_hundreds_of_digits_is_refused() -> None:
    """No float can hold it."""
    with pytest.raises(InputError, match="not a number"):
        fixed(XGBOOST.search_space, {}, {"max_depth": "1" + "0" * 400})


def test_choice_among_digits_may_be_text() -> None:
    """`--set size=1` fixes the option "1" if there is no option 1."""
    space, _ = fixed({"size": hp.choice("size", ["1", "2"])}, {}, {"size": "1"})
    assert space.point({}) == {"size": "1"}
