"""Which points lie in a search space, and at which values a parameter may be fixed."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hyperopt import hp, space_eval
from hyperopt.pyll.stochastic import sample
from hypothesis import given, settings
from hypothesis import strategies as st

import trainables
from search.errors import InputError
from search.suggest.space import Space, constant

XGBOOST = trainables.get("xgboost")


def nested() -> dict[str, Any]:
    """A space of every kind of part: choices of dicts, lists, whole numbers, steps, constants."""
    return {
        "model": hp.choice(
            "model",
            [
                {
                    "kind": "tree",
                    "depth": hp.randint("depth", 2, 9),
                    "q": hp.quniform("q", 0, 8, 2),
                },
                {"kind": "linear", "alpha": hp.loguniform("alpha", -5, 1)},
                {"kind": "none"},
            ],
        ),
        "weights": [hp.uniform("w0", 0, 1), hp.uniform("w1", -1, 0)],
        "tries": hp.uniformint("tries", 1, 5),
        "loss": hp.choice("loss", ["squared", "absolute", 3, None]),
        "constant": 7,
    }


ONE_OF_EACH: dict[str, Any] = {
    "model": {"kind": "tree", "depth": 4, "q": 2.0},
    "weights": [0.5, -0.5],
    "tries": 3,
    "loss": "squared",
    "constant": 7,
}


def refusal(space: Space, point: Any) -> str:
    with pytest.raises(InputError) as error:
        space.labels_of(point)
    assert "\n" not in str(error.value)
    return str(error.value)


def as_python(value: Any) -> Any:
    """Return a sampled configuration without numpy's types, which hyperopt 0.2.7 leaves in it."""
    if isinstance(value, dict):
        return {name: as_python(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [as_python(part) for part in value]
    return value.item() if hasattr(value, "item") else value


class TestRoundTrip:
    @pytest.mark.parametrize(
        "expressions", [XGBOOST.search_space, nested()], ids=["xgboost", "all"]
    )
    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(seed=st.integers(0, 2**32 - 1))
    def test_labels_of_a_point_give_it_back(self, expressions: Any, seed: int) -> None:
        """Any point that hyperopt draws becomes labels and the same point again, also as JSON."""
        space = Space(expressions)
        sampled = as_python(sample(space.root, rng=np.random.default_rng(seed)))
        drawn = space.point(space.labels_of(sampled))
        assert space.point(space.labels_of(json.loads(json.dumps(drawn)))) == drawn

    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(seed=st.integers(0, 2**32 - 1))
    def test_point_is_what_hyperopt_evaluates(self, seed: int) -> None:
        """A drawn configuration does not change when it becomes a point."""
        space = Space(XGBOOST.search_space)
        drawn = sample(space.root, rng=np.random.default_rng(seed))
        assert space.point(space.labels_of(drawn)) == drawn

    def test_only_active_labels_have_values(self) -> None:
        """A label of another branch of a choice has no value."""
        labels = Space(nested()).labels_of({**ONE_OF_EACH, "model": {"kind": "none"}})
        assert set(labels) == {"model", "w0", "w1", "tries", "loss"}

    def test_choice_is_labelled_by_its_index(self) -> None:
        """hyperopt has the option's index, a point has the option."""
        labels = Space(nested()).labels_of({**ONE_OF_EACH, "loss": 3})
        assert labels["loss"] == 2

    def test_constant_need_not_be_given(self) -> None:
        """It is the same in every point."""
        space = Space(nested())
        short = {name: part for name, part in ONE_OF_EACH.items() if name != "constant"}
        assert space.point(space.labels_of(short)) == ONE_OF_EACH

    def test_labels_evaluate_in_hyperopt_itself(self) -> None:
        """hyperopt's own ``space_eval`` takes them."""
        labels = Space(nested()).labels_of(ONE_OF_EACH)
        assert space_eval(nested(), labels)["model"] == ONE_OF_EACH["model"]

    @pytest.mark.parametrize("depth", [4, 100])
    def test_both_ends_lie_in_the_space(self, depth: int) -> None:
        """A range contains its ends."""
        point = sample(Space(XGBOOST.search_space).root, rng=np.random.default_rng(0))
        space = Space(XGBOOST.search_space)
        assert space.point(space.labels_of({**point, "max_depth": depth}))["max_depth"] == depth


class TestRefusedPoint:
    @pytest.mark.parametrize(
        ("change", "name", "why"),
        [
            ({"nonesuch": 1}, "nonesuch", "not in the search space"),
            ({"tries": 0}, "tries", "outside 1 to 5"),
            ({"tries": 6}, "tries", "outside 1 to 5"),
            ({"tries": 2.5}, "tries", "whole number wanted"),
            ({"tries": "2"}, "tries", "number wanted"),
            ({"tries": True}, "tries", "number wanted"),
            ({"tries": None}, "tries", "number wanted"),
            ({"tries": float("nan")}, "tries", "number wanted"),
            ({"constant": 8}, "constant", "is fixed at 7, found 8"),
            ({"constant": True}, "constant", "is fixed at 7"),
            ({"loss": "cubed"}, "loss", "one of 'squared', 'absolute', 3, None wanted"),
            ({"weights": [0.5]}, "weights", "a list of 2 wanted"),
            ({"weights": 0.5}, "weights", "a list of 2 wanted"),
            ({"weights": [0.5, 0.5]}, "weights[1]", "outside -1 to 0"),
            ({"weights": ["a", 0.0]}, "weights[0]", "number wanted"),
            ({"model": "tree"}, "model", "fits none of its 3 choices"),
            ({"model": {"kind": "tree", "depth": 9, "q": 2.0}}, "model.depth", "outside 2 to 8"),
            ({"model": {"kind": "tree", "depth": 3, "q": 3.0}}, "model.q", "no multiple of 2"),
            ({"model": {"kind": "tree", "depth": 3}}, "model.q", "missing"),
            ({"model": {"kind": "linear", "alpha": 0.0}}, "model.alpha", "outside"),
        ],
    )
    def test_message_has_the_name_and_the_reason(
        self, change: dict[str, Any], name: str, why: str
    ) -> None:
        """The name is that of the part which lies outside the space."""
        message = refusal(Space(nested()), {**ONE_OF_EACH, **change})
        assert name in message
        assert why in message

    @pytest.mark.parametrize("name", ["tries", "loss", "model", "weights"])
    def test_missing_parameter_is_named(self, name: str) -> None:
        """A point has every parameter."""
        point = {key: part for key, part in ONE_OF_EACH.items() if key != name}
        assert refusal(Space(nested()), point).startswith(f"{name}: missing")

    @pytest.mark.parametrize("point", [[], 3, "a", None])
    def test_point_that_is_no_object_is_refused(self, point: Any) -> None:
        """A point is an object of names and values."""
        assert "an object wanted" in refusal(Space(nested()), point)


class TestDigest:
    def test_equal_for_equal_spaces(self) -> None:
        """Two spaces that draw the same points have the same digest."""
        assert Space(nested()).digest == Space(nested()).digest

    def test_order_of_names_does_not_matter(self) -> None:
        """Neither in the space nor in its digest."""
        assert Space(nested()).digest == Space(dict(reversed(nested().items()))).digest

    @pytest.mark.parametrize(
        "changed",
        [
            {"x": hp.uniform("x", 0, 2)},
            {"x": hp.loguniform("x", 0, 1)},
            {"x": hp.quniform("x", 0, 1, 0.5)},
            {"y": hp.uniform("y", 0, 1)},
            {"x": hp.uniform("x", 0, 1), "c": 1},
            {"x": 0.5},
            {},
        ],
    )
    def test_different_for_different_spaces(self, changed: dict[str, Any]) -> None:
        """A space with another range, distribution, name or constant is another space."""
        assert Space(changed).digest != Space({"x": hp.uniform("x", 0, 1)}).digest

    def test_is_32_hex_digits(self) -> None:
        """As every digest of this program."""
        assert len(bytes.fromhex(Space(nested()).digest)) == 16


class TestConstant:
    """The value at which a parameter is fixed by a text."""

    @pytest.mark.parametrize(
        ("expression", "text", "value"),
        [
            (hp.uniform("x", 0, 1), "0.25", 0.25),
            (hp.uniform("x", 0, 1), "3", 3),
            (hp.uniformint("x", 1, 5), "4.0", 4),
            (hp.uniformint("x", 1, 5), "400", 400),
            (hp.choice("x", ["a", 2, None]), "a", "a"),
            (hp.choice("x", ["a", 2, None]), "2", 2),
            (hp.choice("x", ["a", 2, None]), "null", None),
            (hp.choice("x", ["1", "2"]), "1", "1"),
            ("was fixed", "7", "7"),
            (5, "7", 7),
        ],
    )
    def test_value_has_the_kind_of_its_parameter(
        self, expression: Any, text: str, value: Any
    ) -> None:
        """It may lie outside the range that is searched."""
        found = constant("x", text, expression)
        assert (found, type(found)) == (value, type(value))

    @pytest.mark.parametrize(
        ("expression", "text", "why"),
        [
            (hp.uniform("x", 0, 1), "low", "'low' is not a number"),
            (hp.uniform("x", 0, 1), "[" * 100_000, "not a number"),
            (hp.uniformint("x", 1, 5), "2.5", "x is a whole number"),
            (hp.choice("x", ["a", 2]), "b", "one of 'a', 2 wanted, found 'b'"),
            (5, "low", "'low' is not a number"),
        ],
        ids=["text", "deep list", "fraction", "choice", "constant"],
    )
    def test_value_of_another_kind_is_refused(self, expression: Any, text: str, why: str) -> None:
        with pytest.raises(InputError, match=why):
            constant("x", text, expression)
