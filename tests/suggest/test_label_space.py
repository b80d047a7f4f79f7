"""A search space of any form that hyperopt takes: what the objective gets, what people see."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
from hyperopt import Domain, Trials, fmin, hp, rand, space_eval
from hyperopt.pyll import scope
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from sklearn.svm import SVC

from search.errors import InputError
from search.suggest.labels import LabelSpace
from search.suggest.searcher import TPESearch
from search.suggest.space import SearchSpace, Space
from search.values.metric import Metric

LEAVES_NUMPY = metadata.version("hyperopt").startswith("0.2.")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}  # of other processes


def double(x: float) -> float:
    return 2 * x


def courses() -> dict[str, Any]:
    """The space that courses teach: constants beside what is searched, labels unlike keys."""
    return {
        "max_depth": scope.int(hp.quniform("max_depth", 1, 20, 1)),
        "eta": hp.loguniform("lr", -5, 0),
        "trees": hp.uniformint("trees", 10, 50),
        "random_state": 42,
        "objective": "reg:squarederror",
    }


def nested() -> Any:
    return hp.choice(
        "model",
        [
            {
                "kind": "svm",
                "C": hp.lognormal("C", 0, 1),
                "kernel": hp.choice(
                    "kernel", ["linear", {"name": "rbf", "width": hp.uniform("w", 0, 1)}]
                ),
            },
            ("forest", hp.randint("depth", 2, 9), [1, 2]),
            None,
        ],
    )


def options() -> dict[str, Any]:
    """Options of every kind that people write."""
    return {
        "depth": hp.choice("depth", np.arange(1, 14, dtype=int)),
        "trees": hp.choice("trees", range(100, 120)),
        "layers": hp.choice("layers", [[200, 300], [100]]),
        "features": hp.choice("features", ["sqrt", None, 0.5, True]),
        "function": hp.choice("function", [double, math.sqrt, np.log1p]),
        "model": hp.choice("model", [Ridge(alpha=2.0), SVC(C=3)]),
        "scaled": hp.pchoice("scaled", [(0.1, {"a": 1}), (0.9, {"b": [2, 3]})]),
        "weights": np.array([0.5, 0.25]),
        "names": {"x", "y"},
    }


def shared() -> dict[str, Any]:
    """One hyperparameter in three places."""
    x = hp.uniform("x", 0, 1)
    return {"a": x, "b": [x, hp.choice("c", [x, 7])]}


SPACES: dict[str, Callable[[], Any]] = {
    "courses": courses,
    "nested": nested,
    "options": options,
    "bare": lambda: hp.uniform("x", -10, 10),
    "list": lambda: [hp.normal("a", 0, 1), hp.qnormal("b", 0, 5, 2), "constant"],
    "tuple": lambda: (hp.qloguniform("c", 0, 4, 2), hp.qlognormal("d", 0, 1, 0.5)),
    "keys that are no text": lambda: {1: hp.randint("n", 5), 2: "two"},
    "arithmetic": lambda: {"x": hp.uniform("x", 0, 1) * 2 + 1, "n": hp.randint("n", 3) + 1},
    "shared": shared,
}


def drawn(space: LabelSpace, seed: int) -> dict[str, Any]:
    """Return the labels of a point that hyperopt draws."""
    domain = Domain(lambda point: point, space.root)
    (document,) = rand.suggest([0], domain, Trials(), seed)
    return {label: found[0] for label, found in document["misc"]["vals"].items() if found}


def refusal(space: LabelSpace, point: Any) -> str:
    with pytest.raises(InputError) as error:
        space.labels_of(point)
    assert "\n" not in str(error.value)
    return str(error.value)


def same(left: Any, right: Any) -> bool:
    """Tell whether two arguments are the same, types included.

    hyperopt before 0.3 leaves some of numpy's numbers as they are; ours are Python's.
    """
    if type(left) is not type(right) and not (LEAVES_NUMPY and np.isscalar(left)):
        return False
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, Ridge | SVC):
        return bool(left.get_params() == right.get_params())
    return bool(np.all(left == right))


@pytest.mark.parametrize("name", SPACES)
class TestAnySpace:
    @settings(max_examples=40, deadline=None, database=None)
    @given(seed=st.integers(0, 2**31))
    def test_point_that_hyperopt_draws_lies_in_it(self, name: str, seed: int) -> None:
        """Also after it was JSON, with the same values and types."""
        space = LabelSpace(SPACES[name]())
        labels = drawn(space, seed)
        point = json.loads(json.dumps(space.point(labels)))
        found = space.labels_of(point)
        assert found == labels
        assert space.point(found) == point
        assert {type(value) for value in found.values()} <= {int, float}

    @settings(max_examples=30, deadline=None, database=None)
    @given(seed=st.integers(0, 2**31))
    def test_argument_is_what_fmin_passes(self, name: str, seed: int) -> None:
        """Value by value and type by type, for the point as fmin returns it."""
        expression = SPACES[name]()
        space, passed = LabelSpace(expression), []

        def objective(argument: Any) -> float:
            passed.append(argument)
            return 0.0

        best = fmin(
            objective,
            expression,
            algo=rand.suggest,
            max_evals=1,
            rstate=np.random.default_rng(seed),
            show_progressbar=False,
        )
        argument = space.argument(space.labels_of(best))
        assert same(argument, passed[0])
        assert same(argument, space_eval(expression, best))

    def test_searcher_takes_it(self, name: str) -> None:
        """TPE suggests points of it beyond its random phase, and learns from earlier ones."""
        space: SearchSpace = LabelSpace(SPACES[name]())
        search = TPESearch(space, Metric("loss", "minimize"), seed=1)
        for number in range(25):
            config = search.suggest(f"t{number}")
            assert config is not None
            space.labels_of(config["params"])
            search.on_trial_complete(f"t{number}", {"score": float(number)})


class TestAnotherProcess:
    def test_evaluates_points_alike(self, tmp_path: Path) -> None:
        """A worker needs the pickle alone, and imports no driver code for it."""
        spaces = {name: LabelSpace(make()) for name, make in SPACES.items()}
        points = {name: space.point(drawn(space, 3)) for name, space in spaces.items()}
        asked, answered = tmp_path / "asked", tmp_path / "answered"
        cloudpickle.register_pickle_by_value(sys.modules[__name__])
        try:
            pairs = [(spaces[name].evaluation, points[name]) for name in spaces]
            asked.write_bytes(cloudpickle.dumps(pairs))
        finally:
            cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
        code = (
            "import cloudpickle, sys, pathlib\n"
            f"asked = cloudpickle.loads(pathlib.Path({str(asked)!r}).read_bytes())\n"
            "found = [evaluation(point) for evaluation, point in asked]\n"
            "assert 'search.suggest.labels' not in sys.modules\n"
            "assert 'search.suggest.space' not in sys.modules\n"
            f"pathlib.Path({str(answered)!r}).write_bytes(cloudpickle.dumps(found))\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True, env=ENVIRONMENT)
        for name, found in zip(spaces, cloudpickle.loads(answered.read_bytes()), strict=True):
            expected = spaces[name].argument(points[name])
            if name == "options":  # its function is another one in another process
                del found["function"], expected["function"]
            assert same(found, expected)

    def test_finds_the_same_digests(self) -> None:
        """Hash seeds, addresses and module names do not matter."""
        code = (
            "import runpy\n"
            f"found = runpy.run_path({__file__!r}, run_name='__main__')\n"
            "for make in found['SPACES'].values():\n"
            "    print(found['LabelSpace'](make()).digest)"
        )
        ran = subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            capture_output=True,
            text=True,
            env=ENVIRONMENT,
        )
        assert ran.stdout.split() == [LabelSpace(make()).digest for make in SPACES.values()]


class TestArgument:
    def test_trial_may_change_what_it_is_given(self) -> None:
        """The next trial with the same point gets what the first one got."""
        space = LabelSpace(
            {
                "params": {"depth": hp.randint("depth", 5), "fixed": [1, 2]},
                "model": hp.choice("model", [Ridge(alpha=2.0)]),
                "array": np.zeros(3),
                "names": {"a"},
            }
        )
        first = space.argument({"depth": 3, "model": 0})
        del first["params"]["fixed"]
        first["params"]["depth"] = 9
        first["model"].alpha = 5.0
        first["array"][0] = 1.0
        first["names"].add("b")
        second = space.argument({"depth": 3, "model": 0})
        assert second["params"] == {"depth": 3, "fixed": (1, 2)}
        assert second["model"].alpha == 2.0
        assert second["array"].tolist() == [0.0, 0.0, 0.0]
        assert second["names"] == {"a"}

    def test_what_cannot_be_copied_is_passed_as_it_is(self) -> None:
        lock = threading.Lock()
        space = LabelSpace({"x": hp.uniform("x", 0, 1), "lock": lock})
        assert space.argument({"x": 0.5}) == {"x": 0.5, "lock": lock}

    def test_symbol_of_the_users_own_travels(self, tmp_path: Path) -> None:
        """`scope.define` in the script is not lost on the way to a worker."""
        script = tmp_path / "defining.py"
        script.write_text(
            "import cloudpickle, pathlib, sys\n"
            "from hyperopt import hp\n"
            "from hyperopt.pyll import scope\n"
            "from search.suggest.labels import LabelSpace\n"
            "@scope.define\n"
            "def thrice(x):\n"
            "    return 3 * x\n"
            "space = LabelSpace({'x': scope.thrice(hp.randint('x', 5))})\n"
            "sys.stdout.buffer.write(cloudpickle.dumps(space.evaluation))\n"
        )
        made = subprocess.run(
            [sys.executable, str(script)], check=True, capture_output=True, env=ENVIRONMENT
        )
        assert cloudpickle.loads(made.stdout)({"x": 2}) == {"x": 6}

    def test_space_without_hyperparameters_has_one_point(self) -> None:
        for expression, expected in ((5, 5), ({}, {}), ({"a": [1]}, {"a": (1,)}), (None, None)):
            space = LabelSpace(expression)
            assert space.labels == []
            assert space.labels_of({}) == {}
            assert space.argument(space.point({})) == expected


class TestRefusals:
    def test_unknown_label(self) -> None:
        """The key is not the label: the labels are listed."""
        said = refusal(LabelSpace(courses()), {"eta": 0.1})
        assert said == "eta: no label of the search space; labels: lr, max_depth, trees"

    def test_missing_label(self) -> None:
        """Of an active part; those of other branches are not asked for."""
        assert "C: missing" in refusal(LabelSpace(nested()), {"model": 0, "kernel": 0})
        assert LabelSpace(nested()).labels_of({"model": 2}) == {"model": 2}

    def test_inactive_label_is_dropped(self) -> None:
        """As hyperopt does, which returns and takes such points."""
        point = {"model": 1, "depth": 4, "C": 2.0, "w": 0.5}
        assert LabelSpace(nested()).labels_of(point) == {"model": 1, "depth": 4}

    @pytest.mark.parametrize("value", [-0.1, 1.1, math.inf, math.nan, "0.5", None, True, [0.5]])
    def test_number_outside_its_range(self, value: Any) -> None:
        assert refusal(LabelSpace(hp.uniform("x", 0, 1)), {"x": value}).startswith("x: ")

    @pytest.mark.parametrize("value", [1, 9, 2.5, "3"])
    def test_whole_number_outside_its_range(self, value: Any) -> None:
        assert refusal(LabelSpace(hp.randint("n", 2, 9)), {"n": value}).startswith("n: ")

    @pytest.mark.parametrize("value", [-1, 3, 0.5, "svm", None, True])
    def test_choice_that_is_no_index(self, value: Any) -> None:
        assert "0 to 2" in refusal(LabelSpace(hp.choice("m", ["a", "b", "c"])), {"m": value})

    def test_choice_given_by_its_value(self) -> None:
        """The most frequent mistake: the line says which index is meant."""
        said = refusal(LabelSpace(hp.choice("m", ["a", "b", "c"])), {"m": "c"})
        assert said.endswith("0 to 2, found 'c'; write 2 for 'c'")

    def test_point_that_is_no_object(self) -> None:
        assert "found [1]" in refusal(LabelSpace(hp.uniform("x", 0, 1)), [1])

    def test_value_between_the_steps_is_taken(self) -> None:
        """As hyperopt does."""
        assert LabelSpace(hp.quniform("q", 0, 10, 2)).labels_of({"q": 3}) == {"q": 3.0}

    def test_numbers_of_numpy_are_taken(self) -> None:
        """`fmin` returns them."""
        space = LabelSpace({"n": hp.randint("n", 9), "x": hp.uniform("x", 0, 1)})
        found = space.labels_of({"n": np.int64(3), "x": np.float32(0.5)})
        assert [type(value) for value in found.values()] == [int, float]

    def test_same_label_twice(self) -> None:
        with pytest.raises(InputError, match="two hyperparameters have the label 'x'"):
            LabelSpace([hp.uniform("x", 0, 1), hp.uniform("x", 0, 2)])

    def test_space_that_hyperopt_cannot_read(self) -> None:
        with pytest.raises(InputError, match="the search space: TypeError"):
            LabelSpace({1: hp.uniform("x", 0, 1), "a": 2})


class TestParams:
    def test_choice_is_shown_by_its_value_where_that_is_plain(self) -> None:
        """Functions, estimators and parts that are searched are shown by their index."""
        point = dict.fromkeys(LabelSpace(options()).labels, 1)
        assert LabelSpace(options()).params(point) == {
            "depth": 2,
            "trees": 101,
            "layers": [100],
            "features": None,
            "function": 1,
            "model": 1,
            "scaled": {"b": [2, 3]},
        }
        assert LabelSpace(nested()).params({"model": 0, "kernel": 0}) == {
            "model": 0,
            "kernel": "linear",
        }

    def test_long_option_is_shown_by_its_index(self) -> None:
        space = LabelSpace(hp.choice("long", [list(range(500)), [1]]))
        assert space.params({"long": 0}) == {"long": 0}

    def test_whole_numbers_are_shown_as_such(self) -> None:
        """Where the objective gets them as such."""
        shown = LabelSpace(courses()).params({"max_depth": 7.0, "trees": 20.0, "lr": 1.0})
        assert json.dumps(shown) == '{"lr": 1.0, "max_depth": 7, "trees": 20}'

    def test_keys_are_what_mlflow_takes(self) -> None:
        """Other signs are `_`; a second equal key gets `_2`, whichever labels are active."""
        labels = ["a:b", "a;b", "a,b", "é-1", "x/y.z w", "/top", "a//b", "..", ""]
        space = LabelSpace([hp.uniform(label, 0, 1) for label in labels])
        shown = {label: key for label in labels for key in space.params({label: 0.5})}
        assert shown == {
            "a,b": "a_b",
            "a:b": "a_b_2",
            "a;b": "a_b_3",
            "é-1": "é-1",
            "x/y.z w": "x/y.z w",
            "/top": "_top",
            "a//b": "a__b",
            "..": "_.",
            "": "_",
        }

    def test_those_of_a_plain_space_are_the_point(self) -> None:
        assert Space({"x": hp.uniform("x", 0, 1)}).params({"x": 0.5}) == {"x": 0.5}


class TestDigest:
    @pytest.mark.parametrize(
        ("left", "right"),
        [
            (hp.uniform("x", 0, 1), hp.uniform("x", low=0.0, high=1.0)),
            ([hp.uniform("x", 0, 1), 1], (hp.uniform("x", 0, 1), 1)),
            ({"a": 1, "b": hp.randint("n", 5)}, {"b": hp.randint("n", 5), "a": 1}),
            (hp.choice("c", range(3)), hp.choice("c", np.arange(3))),
            (hp.choice("c", [lambda x: x]), hp.choice("c", [lambda x: x])),
            ({"s": {"a", "b", "c"}}, {"s": {"c", "b", "a"}}),
        ],
    )
    def test_is_equal_for_equal_spaces(self, left: Any, right: Any) -> None:
        assert LabelSpace(left).digest == LabelSpace(right).digest
        assert len(LabelSpace(left).digest) == 32

    @pytest.mark.parametrize(
        ("left", "right"),
        [
            (hp.uniform("x", 0, 1), hp.uniform("x", 0, 2)),
            (hp.uniform("x", 0, 1), hp.uniform("y", 0, 1)),
            (hp.uniform("x", 0, 1), hp.normal("x", 0, 1)),
            (hp.quniform("x", 0, 9, 1), scope.int(hp.quniform("x", 0, 9, 1))),
            (hp.choice("c", [1, 2]), hp.choice("c", [1, 2, 3])),
            (hp.choice("c", [1, 2]), hp.pchoice("c", [(0.5, 1), (0.5, 2)])),
            (hp.choice("c", [double, 1]), hp.choice("c", [same, 1])),
            ({"a": np.array(["x"])}, {"a": np.array(["y"])}),
            ({"a": Ridge(alpha=1)}, {"a": Ridge(alpha=2)}),
        ],
    )
    def test_differs_for_different_spaces(self, left: Any, right: Any) -> None:
        assert LabelSpace(left).digest != LabelSpace(right).digest
