"""How many trials have room while nodes join and leave."""

from __future__ import annotations

import pytest

from search.errors import InputError
from search.execute import nodes as module
from search.execute.node_probe import Node
from search.execute.nodes import Nodes

A, B, HEAD = Node("a", "10.0.0.1", 4), Node("b", "10.0.0.2", 2), Node("h", "10.0.0.9", 0)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> list[Node]:
    """The nodes of a pretended cluster; a test changes them."""
    found = [A, B, HEAD]
    monkeypatch.setattr(module, "alive", lambda: list(found))
    return found


@pytest.mark.usefixtures("cluster")
class TestWidth:
    def test_width_is_the_room_on_all_nodes(self) -> None:
        assert Nodes(1, None, grows=False).width == 6

    def test_trial_does_not_span_two_nodes(self) -> None:
        assert Nodes(3, None, grows=False).width == 1

    def test_width_is_at_most_what_is_asked_for(self) -> None:
        assert Nodes(1, 4, grows=True).width == 4

    def test_width_of_one_machine_is_at_most_its_room(self) -> None:
        assert Nodes(1, 100, grows=False).width == 6

    def test_width_of_a_cluster_may_be_twice_its_room(self) -> None:
        """An autoscaler needs trials that wait for room; more would get their points too early."""
        assert Nodes(1, 10, grows=True).width == 10
        assert Nodes(1, 100, grows=True).width == 12


def test_more_cpus_than_any_node_has_are_refused(cluster: list[Node]) -> None:
    with pytest.raises(InputError, match=r"--cpus-per-trial 5.*the largest has 4"):
        Nodes(5, None, grows=True)
    cluster[:] = [HEAD]
    with pytest.raises(InputError, match="the largest has 0"):
        Nodes(1, None, grows=False)


def test_one_trial_waits_for_a_cluster_without_worker_nodes(cluster: list[Node]) -> None:
    """So a cluster that grows on demand grows."""
    cluster[:] = [HEAD]
    messages: list[str] = []
    nodes = Nodes(8, None, grows=True, say=messages.append)
    assert nodes.width == 1
    assert messages == ["no node of the cluster has CPUs for trials yet: waiting for one to join"]


def test_room_follows_nodes_that_leave_and_join(cluster: list[Node]) -> None:
    messages: list[str] = []
    joined: list[Node] = []
    nodes = Nodes(1, None, grows=True, say=messages.append, joined=joined.extend)
    cluster.remove(A)
    nodes._look()
    assert nodes.width == 2
    cluster.append(A)
    nodes._look()
    assert nodes.width == 6
    assert joined == [A]
    assert messages == [
        "node 10.0.0.1 is gone; room for 2 trials at once",
        "node 10.0.0.1 has joined; room for 6 trials at once",
    ]


def test_loss_of_a_head_without_cpus_is_not_reported(cluster: list[Node]) -> None:
    messages: list[str] = []
    nodes = Nodes(1, None, grows=True, say=messages.append)
    cluster.remove(HEAD)
    nodes._look()
    assert messages == []


@pytest.mark.parametrize(("theirs", "off"), [(10.5, 0.0), (10.0, 0.0), (9.0, -1.0), (13.0, 2.0)])
def test_clock_is_off_by_what_the_request_time_does_not_explain(theirs: float, off: float) -> None:
    """Their clock is read at any time between our two readings, at 10 and 11."""
    assert module._clock_off(10.0, theirs, 11.0) == off
