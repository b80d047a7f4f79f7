"""How many trials have room, as nodes come and go."""

from __future__ import annotations

import pytest

from search import nodes as module
from search.errors import InputError
from search.nodes import Nodes
from search.witness import Node

A, B, HEAD = Node("a", "10.0.0.1", 4), Node("b", "10.0.0.2", 2), Node("h", "10.0.0.9", 0)


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> list[Node]:
    """The nodes of a cluster that is not there; a test changes them."""
    found = [A, B, HEAD]
    monkeypatch.setattr(module, "alive", lambda: list(found))
    return found


@pytest.mark.usefixtures("there")
class TestWidth:
    def test_is_what_the_nodes_hold(self) -> None:
        assert Nodes(1, None, grows=False).width == 6

    def test_no_trial_lies_across_two_nodes(self) -> None:
        assert Nodes(3, None, grows=False).width == 1

    def test_is_no_more_than_asked_for(self) -> None:
        assert Nodes(1, 4, grows=True).width == 4

    def test_of_one_machine_is_no_more_than_it_holds(self) -> None:
        assert Nodes(1, 100, grows=False).width == 6

    def test_of_a_cluster_may_be_twice_of_what_it_holds(self) -> None:
        """Trials that wait for room are what an autoscaler looks at; more would be drawn early."""
        assert Nodes(1, 10, grows=True).width == 10
        assert Nodes(1, 100, grows=True).width == 12


def test_more_cpus_than_any_node_has_are_refused(there: list[Node]) -> None:
    with pytest.raises(InputError, match=r"--cpus-per-trial 5.*the largest has 4"):
        Nodes(5, None, grows=True)
    there[:] = [HEAD]
    with pytest.raises(InputError, match="the largest has 0"):
        Nodes(1, None, grows=False)


def test_a_cluster_without_workers_is_waited_for(there: list[Node]) -> None:
    """One trial waits, so that a cluster that grows on demand grows."""
    there[:] = [HEAD]
    said: list[str] = []
    nodes = Nodes(8, None, grows=True, say=said.append)
    assert nodes.width == 1
    assert said == ["no node of the cluster has CPUs for trials yet: waiting for one to join"]


def test_follows_who_comes_and_goes(there: list[Node]) -> None:
    said: list[str] = []
    joined: list[Node] = []
    nodes = Nodes(1, None, grows=True, say=said.append, joined=joined.extend)
    there.remove(A)
    nodes._look()
    assert nodes.width == 2
    there.append(A)
    nodes._look()
    assert nodes.width == 6
    assert joined == [A]
    assert said == [
        "node 10.0.0.1 is gone; room for 2 trials at once",
        "node 10.0.0.1 has joined; room for 6 trials at once",
    ]


def test_a_head_without_cpus_is_not_worth_a_word(there: list[Node]) -> None:
    said: list[str] = []
    nodes = Nodes(1, None, grows=True, say=said.append)
    there.remove(HEAD)
    nodes._look()
    assert said == []


@pytest.mark.parametrize(("theirs", "off"), [(10.5, 0.0), (10.0, 0.0), (9.0, -1.0), (13.0, 2.0)])
def test_a_clock_is_off_by_what_the_way_does_not_explain(theirs: float, off: float) -> None:
    """Between the two readings of ours, at 10 and 11, theirs may have been taken at any time."""
    assert module._off(10.0, theirs, 11.0) == off
