"""Which parts of Ray Tune are replaced while trials run, and that they are restored."""

from __future__ import annotations

import importlib

import pytest

from search.execute import stock_tune
from search.execute.controller import KeepsWorkers, kept
from search.execute.node_probe import Node
from search.execute.nodes import Nodes
from search.execute.worker import Worker

CONTROLLER = importlib.import_module("ray.tune.tune")
TRIAL = importlib.import_module("ray.tune.experiment.trial")


def replaced_parts() -> tuple[object, ...]:
    return CONTROLLER.TuneController, TRIAL.validate_trainable, TRIAL.get_trainable_cls


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Nodes:
    monkeypatch.setattr("search.execute.nodes.alive", lambda: [Node("a", "10.0.0.1", 2)])
    return Nodes(1, None, grows=False)


def fail_inside(nodes: Nodes, before: tuple[object, ...]) -> None:
    with kept(Worker, nodes, shared=None, job=None):
        assert not set(replaced_parts()) & set(before)
        raise ValueError("bad luck")


def test_tune_is_restored_afterwards(nodes: Nodes) -> None:
    """Other users of Tune in this process get Ray's own parts, also after an error."""
    before = replaced_parts()
    with pytest.raises(ValueError, match="bad luck"):
        fail_inside(nodes, before)
    assert replaced_parts() == before


def test_every_method_overrides_one_of_tunes() -> None:
    """If Ray renamed a method, nobody would call ours."""
    stock = CONTROLLER.TuneController
    ours = {name for name in vars(KeepsWorkers) if not name.startswith("__")}
    assert {name for name in ours if not hasattr(stock, name)} == {"_assign", "_ask"}


def test_installed_release_of_ray_is_a_proven_one() -> None:
    """All tests that run trials prove it."""
    assert not stock_tune.is_needed()


@pytest.mark.parametrize(
    ("version", "is_needed"),
    [
        ("2.39.0", True),
        ("2.40.0", False),
        ("2.52.1", False),
        ("2.60.3", False),
        ("2.61.0", True),
        ("3.0.0.dev0", True),
        ("2.60.0rc1", False),
    ],
)
def test_stock_tune_is_used_with_other_releases(
    version: str, is_needed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Private parts of another release may have changed."""
    monkeypatch.setattr("importlib.metadata.version", lambda _: version)
    assert stock_tune.is_needed() is is_needed
