"""What the preflight check reports of nodes that differ from the driver."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from search.errors import InputError
from search.execute import node_preflight
from search.execute.node_preflight import Preflight
from search.execute.node_probe import NONE, Answer, Node, NodeInfo, Unloadable
from search.values.fitted_with import FittedWith

HERE = NodeInfo(
    python="3.12.1",
    packages={"ray": "2.60.0", "numpy": "2.4.6", "pandas": "3.0.1"},
    code="abc",
    cpus=8,
    free_bytes=9 << 30,
)
NODES = [Node("a", "10.0.0.1", 4), Node("b", "10.0.0.2", 8)]


def checked(clock_off_s: float = 0.0, **changed: Any) -> Preflight:
    """Return the check of two nodes: the first is as here, the second has these differences."""
    odd = Answer(dataclasses.replace(HERE, **changed), clock_off_s)
    return Preflight(HERE, NODES, {"a": Answer(HERE, 0.0), "b": odd})


def test_equal_nodes_are_reported_in_one_line() -> None:
    result = checked()
    assert result.verdict() == ["checked 2 nodes: Python, packages and code are the driver's"]
    assert result.lines() == []
    result.check()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"python": "3.12.2"}, ["Python 3.12.2, here 3.12.1"]),
        ({"packages": {**HERE.packages, "numpy": "2.4.5"}}, ["numpy 2.4.5", "requirements.lock"]),
        ({"packages": {}}, ["numpy none", "requirements.lock"]),
        ({"code": "xyz"}, ["other code (xyz, here abc)", "--working-dir"]),
    ],
)
def test_difference_that_changes_trials_is_refused(
    changed: dict[str, Any], words: list[str]
) -> None:
    """The line has the node, what it has, what is here, and what to do."""
    result = checked(**{"packages": HERE.packages, **changed})
    (line,) = result.verdict()
    assert line.startswith("node 10.0.0.2: ")
    assert all(word in line for word in words)
    with pytest.raises(InputError, match=r"10\.0\.0\.2 would differ"):
        result.check()


def test_package_that_the_task_is_fitted_with_is_refused() -> None:
    """Of another package a difference is reported only."""
    here = dataclasses.replace(HERE, packages={**HERE.packages, "xgboost": "3.2.0"})
    there = dataclasses.replace(HERE, packages={**HERE.packages, "xgboost": "3.1.0"})
    answers = {"a": Answer(here, 0.0), "b": Answer(there, 0.0)}
    Preflight(here, NODES, answers).check()
    with pytest.raises(InputError, match=r"10\.0\.0\.2 would differ"):
        Preflight(here, NODES, answers, FittedWith(packages=("xgboost",))).check()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"packages": {**HERE.packages, "pandas": "3.0.2"}}, "pandas 3.0.2, here 3.0.1"),
        ({"cpus": 2}, "Ray counts on 8 CPUs, it has 2"),
        ({"free_bytes": 1 << 30}, "1.0 GiB of disk free"),
        ({"clock_off_s": -30.0}, "its clock is -30.0 s off"),
    ],
)
def test_difference_that_changes_no_trial_is_reported(changed: dict[str, Any], words: str) -> None:
    result = checked(**changed)
    (line,) = result.verdict()
    assert words in line
    assert result.lines() == [*result.table(), line]
    result.check()


def test_node_without_an_answer_is_reported() -> None:
    result = Preflight(HERE, NODES, {"a": None, "b": Answer(HERE, 0.0)})
    assert result.verdict()[0].startswith("node 10.0.0.1: does not answer")
    result.check()


def test_node_that_cannot_load_the_code_is_refused() -> None:
    reason = "ModuleNotFoundError: No module named 'search.execute.node_probe'"
    result = Preflight(HERE, NODES, {"a": Unloadable(reason), "b": Answer(HERE, 0.0)})
    (line,) = result.verdict()
    assert line.startswith(f"node 10.0.0.1: cannot load the code ({reason}): submit with")
    assert "no code" in result.table()[1]
    with pytest.raises(InputError, match=r"10\.0\.0\.1 would differ"):
        result.check()


def test_package_that_is_not_installed_here_may_be_there() -> None:
    here = dataclasses.replace(HERE, packages={**HERE.packages, "pyarrow": NONE})
    there = dataclasses.replace(HERE, packages={**HERE.packages, "pyarrow": "25.0.0"})
    assert node_preflight._other_packages(here, there) == []


def test_table_has_a_row_for_each_node_under_aligned_headings() -> None:
    header, first, second = checked(code="xyz").table()
    assert " ".join(header.split()) == "node CPUs Python Ray packages code free disk clock"
    assert " ".join(first.split()) == "10.0.0.1 4 3.12.1 2.60.0 same same 9.0 GiB same"
    assert second.index("differs") == header.index("code")
