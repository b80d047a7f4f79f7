"""What is replaced of Tune while trials run, and that it is put back."""

from __future__ import annotations

import importlib

import pytest

from search.actors import kept
from search.nodes import Nodes
from search.trial import Worker
from search.witness import Node

CONTROLLER = importlib.import_module("ray.tune.tune")
TRIAL = importlib.import_module("ray.tune.experiment.trial")


def names() -> tuple[object, ...]:
    return CONTROLLER.TuneController, TRIAL.validate_trainable, TRIAL.get_trainable_cls


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Nodes:
    monkeypatch.setattr("search.nodes.alive", lambda: [Node("a", "10.0.0.1", 2)])
    return Nodes(1, None, grows=False)


def fail_inside(nodes: Nodes, before: tuple[object, ...]) -> None:
    with kept(Worker, nodes, data=None, job=None):
        assert not set(names()) & set(before)
        raise ValueError("bad luck")


def test_tune_is_as_it_was_afterwards(nodes: Nodes) -> None:
    """Whatever else uses Tune in this process finds Ray's own, also after an error."""
    before = names()
    with pytest.raises(ValueError, match="bad luck"):
        fail_inside(nodes, before)
    assert names() == before


def test_overrides_what_is_there(nodes: Nodes) -> None:
    """A method that Ray renames would be an addition of ours that nobody calls."""
    stock = CONTROLLER.TuneController
    with kept(Worker, nodes, data=None, job=None):
        ours = CONTROLLER.TuneController
    added = {name for name in vars(ours) if not name.startswith("__") and not hasattr(stock, name)}
    assert added == {"_give", "_ask"}
