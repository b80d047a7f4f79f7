"""What may be fixed in a search space, and which points lie in it."""

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
from search.space import Space, fixed
from trainables.base import Setting

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


def refused_set(**overrides: str) -> str:
    with pytest.raises(InputError) as error:
        fixed(XGBOOST.search_space, XGBOOST.settings, overrides)
    assert "\n" not in str(error.value)
    return str(error.value)


class TestFixed:
    def test_nothing_fixed_is_the_whole_space_and_the_defaults(self) -> None:
        """Without --set, all is searched and each setting has its default."""
        space, values = fixed(XGBOOST.search_space, XGBOOST.settings, {})
        assert space.labels == sorted(XGBOOST.search_space)
        assert values == {
            "num_boost_round": 1000,
            "early_stopping_rounds": 50,
            "tree_method": "hist",
        }

    def test_fixed_parameter_is_searched_no_more(self) -> None:
        """A fixed parameter is a constant of each point."""
        space, _ = fixed(XGBOOST.search_space, XGBOOST.settings, {"max_depth": "7"})
        assert "max_depth" not in space.labels
        drawn = sample(space.root, rng=np.random.default_rng(0))
        assert drawn["max_depth"] == 7

    @pytest.mark.parametrize(("text", "value"), [("2", 2), ("5000", 5000), ("6.0", 6)])
    def test_whole_number_may_lie_outside_its_range(self, text: str, value: int) -> None:
        """A user may fix what the search would never draw; a whole number stays an int."""
        space, _ = fixed(XGBOOST.search_space, {}, {"max_depth": text})
        depth = sample(space.root, rng=np.random.default_rng(0))["max_depth"]
        assert (depth, type(depth)) == (value, int)

    def test_choice_is_fixed_by_its_value(self) -> None:
        """A choice is fixed at one of its options, nested ones as JSON."""
        overrides = {"loss": "absolute", "model": '{"kind": "linear", "alpha": 0.5}'}
        space, _ = fixed(nested(), {}, overrides)
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
    def test_setting_is_changed(self, name: str, text: str, value: int | str) -> None:
        """A setting of the trainable has the given value, in its own type."""
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
    def test_bad_value_is_refused(self, name: str, text: str, why: str) -> None:
        """A value that cannot be meant is refused by its name, with the reason."""
        said = refused_set(**{name: text})
        assert said.startswith(f"--set {name}={text}: ")
        assert why in said

    def test_bad_choice_names_the_options(self) -> None:
        """A choice cannot be fixed at what it does not hold."""
        with pytest.raises(InputError, match=r"loss.*'squared', 'absolute', 3, None.*'cubed'"):
            fixed(nested(), {}, {"loss": "cubed"})

    def test_float_setting_refuses_what_is_no_number(self) -> None:
        """A setting with a float default takes numbers only."""
        with pytest.raises(InputError, match=r"rate=fast.*not a number"):
            fixed({}, {"rate": Setting(0.5, at_least=0.0)}, {"rate": "fast"})

    @pytest.mark.parametrize("text", ["nan", "inf", "-inf"])
    def test_float_setting_refuses_what_is_not_finite(self, text: str) -> None:
        """No setting is NaN or without end, whether or not it has a least value."""
        with pytest.raises(InputError, match=f"rate={text}.*not a finite number"):
            fixed({}, {"rate": Setting(0.5)}, {"rate": text})

    def test_float_setting_below_its_least_is_refused(self) -> None:
        """What is below the least is refused with the least."""
        with pytest.raises(InputError, match=r"rate=-1.*give 0\.0 or more"):
            fixed({}, {"rate": Setting(0.5, at_least=0.0)}, {"rate": "-1"})

    def test_integer_of_hundreds_of_digits_is_refused(self) -> None:
        """An integer that no float can hold is refused like any other value."""
        with pytest.raises(InputError, match="not a number"):
            fixed(XGBOOST.search_space, {}, {"max_depth": "1" + "0" * 400})

    def test_choice_among_digits_may_be_text(self) -> None:
        """`--set size=1` fixes the option "1" where that is what there is."""
        space, _ = fixed({"size": hp.choice("size", ["1", "2"])}, {}, {"size": "1"})
        assert space.point({}) == {"size": "1"}


class TestRoundTrip:
    @pytest.mark.parametrize(
        "expressions", [XGBOOST.search_space, nested()], ids=["xgboost", "all"]
    )
    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(seed=st.integers(0, 2**32 - 1))
    def test_labels_of_a_point_give_it_back(self, expressions: Any, seed: int) -> None:
        """Any point that hyperopt can draw goes to labels and back unchanged, through JSON too."""
        space = Space(expressions)
        drawn = space.point(space.labels_of(sample(space.root, rng=np.random.default_rng(seed))))
        assert space.point(space.labels_of(json.loads(json.dumps(drawn)))) == drawn

    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(seed=st.integers(0, 2**32 - 1))
    def test_point_is_what_hyperopt_evaluates(self, seed: int) -> None:
        """A drawn configuration is not changed by becoming a point."""
        space = Space(XGBOOST.search_space)
        drawn = sample(space.root, rng=np.random.default_rng(seed))
        assert space.point(space.labels_of(drawn)) == drawn

    def test_only_active_labels_have_values(self) -> None:
        """What belongs to a choice not taken has no value."""
        labels = Space(nested()).labels_of({**ONE_OF_EACH, "model": {"kind": "none"}})
        assert set(labels) == {"model", "w0", "w1", "tries", "loss"}

    def test_choice_is_labelled_by_its_index(self) -> None:
        """hyperopt counts options; a point names them."""
        labels = Space(nested()).labels_of({**ONE_OF_EACH, "loss": 3})
        assert labels["loss"] == 2

    def test_constant_need_not_be_given(self) -> None:
        """A point may leave out what is the same in every point."""
        space = Space(nested())
        short = {name: part for name, part in ONE_OF_EACH.items() if name != "constant"}
        assert space.point(space.labels_of(short)) == ONE_OF_EACH

    def test_labels_evaluate_in_hyperopt_itself(self) -> None:
        """The labels are hyperopt's, not only ours."""
        labels = Space(nested()).labels_of(ONE_OF_EACH)
        assert space_eval(nested(), labels)["model"] == ONE_OF_EACH["model"]

    @pytest.mark.parametrize("depth", [4, 100])
    def test_both_ends_lie_in_the_space(self, depth: int) -> None:
        """A range holds its ends."""
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
    def test_says_where_and_why(self, change: dict[str, Any], name: str, why: str) -> None:
        """A point outside the space is refused with the name at which it leaves it."""
        said = refusal(Space(nested()), {**ONE_OF_EACH, **change})
        assert name in said
        assert why in said

    @pytest.mark.parametrize("name", ["tries", "loss", "model", "weights"])
    def test_missing_name_is_named(self, name: str) -> None:
        """A point gives every parameter."""
        point = {key: part for key, part in ONE_OF_EACH.items() if key != name}
        assert refusal(Space(nested()), point).startswith(f"{name}: missing")

    @pytest.mark.parametrize("point", [[], 3, "a", None])
    def test_what_is_no_object_is_refused(self, point: Any) -> None:
        """A point is an object of names and values."""
        assert "an object wanted" in refusal(Space(nested()), point)


class TestDigest:
    def test_equal_for_equal_spaces(self) -> None:
        """Two spaces that draw the same have the same name."""
        assert Space(nested()).digest == Space(nested()).digest

    def test_order_of_names_does_not_matter(self) -> None:
        """A dictionary has no order worth a new name."""
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
        """A changed range, kind, name or constant is another space."""
        assert Space(changed).digest != Space({"x": hp.uniform("x", 0, 1)}).digest

    def test_is_32_hex_digits(self) -> None:
        """The name has the form of every digest here."""
        assert len(bytes.fromhex(Space(nested()).digest)) == 16
