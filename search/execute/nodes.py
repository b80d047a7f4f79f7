"""The cluster's nodes: which there are, what each has, how many trials fit on them."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from search.errors import InputError
from search.execute.node_probe import Answer, Node, NodeProbe, Unloadable
from search.values.fitted_with import FittedWith

LOOK_EVERY_S = 1.0
LEAVE_S = 5.0  # at the end, for a look that is under way; its result is not needed
ANSWER_S = 30.0  # for a node on a slow disk to start a process


def alive() -> list[Node]:
    """Return the nodes that are alive, by address."""
    found = [
        Node(node["NodeID"], node["NodeManagerAddress"], int(node["Resources"].get("CPU", 0)))
        for node in ray.nodes()
        if node["Alive"]
    ]
    return sorted(found, key=lambda node: (node.address, node.id))


def probe(
    nodes: Sequence[Node], fitted_with: FittedWith, within_s: float = ANSWER_S
) -> dict[str, Answer | Unloadable | None]:
    """Ask all nodes at once what they have; None for one that does not answer in time."""
    actor = ray.remote(num_cpus=0)(NodeProbe)
    probes = {
        node.id: actor.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)
        ).remote()
        for node in nodes
    }
    answers: dict[str, Answer | Unloadable | None] = dict.fromkeys(probes)
    until = time.monotonic() + within_s
    infos = {name: each.info.remote(fitted_with) for name, each in probes.items()}
    for name, each in probes.items():
        try:
            info = ray.get(infos[name], timeout=max(0.0, until - time.monotonic()))
            before = time.time()
            theirs = ray.get(each.clock_s.remote(), timeout=max(1.0, until - time.monotonic()))
            answers[name] = Answer(info, _clock_off(before, theirs, time.time()))
        except ray.exceptions.RayTaskError as error:  # of another version of this module, say
            answers[name] = Unloadable(str(error).strip().splitlines()[-1])
        except ray.exceptions.RayError as error:
            # Ray gives the reason in words only; all other nodes died meanwhile, or are slow
            if "failed to import" in (message := str(error).strip()):
                answers[name] = Unloadable(message.splitlines()[-1])
        ray.kill(each)
    return answers


def _clock_off(before: float, theirs: float, after: float) -> float:
    """Return how far a clock is off, at least, that was read between two readings of ours."""
    return min(0.0, theirs - before) + max(0.0, theirs - after)


class Nodes:
    """A thread that watches which nodes there are, and how many trials may run at once now."""

    def __init__(
        self,
        cpus_each: int,
        at_most: int | None,
        *,
        grows: bool,
        say: Callable[[str], None] = lambda _: None,
        joined: Callable[[Sequence[Node]], None] = lambda _: None,
    ) -> None:
        """Check that a trial of ``cpus_each`` CPUs fits on a node.

        ``grows``: nodes may join later, so ``at_most`` may ask for room that is not there yet.
        ``joined`` is called with nodes that did.

        :raises InputError: no node has ``cpus_each`` CPUs, and some have fewer.
        """
        self._cpus_each, self._at_most, self.grows = cpus_each, at_most, grows
        self._say, self._joined = say, joined
        self.workers = 0  # processes that run trials or wait for one; set by the controller
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="nodes", daemon=True)
        self._alive = {node.id: node for node in alive()}
        largest = max((node.cpus for node in self._alive.values()), default=0)
        if cpus_each > largest and (largest or not grows):
            raise InputError(
                f"--cpus-per-trial {cpus_each}: no node has that many CPUs; "
                f"the largest has {largest}, give {largest} or fewer"
            )
        if not self.room:
            say("no node of the cluster has CPUs for trials yet: waiting for one to join")

    def __enter__(self) -> Nodes:
        if self.grows:
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        if self.grows:
            self._thread.join(LEAVE_S)

    @property
    def alive(self) -> list[Node]:
        """The nodes that are alive."""
        return list(self._alive.values())

    @property
    def room(self) -> int:
        """How many trials fit on them."""
        return sum(node.room(self._cpus_each) for node in self.alive)

    @property
    def width(self) -> int:
        """How many trials to have at once now."""
        room = max(1, self.room)
        if self._at_most is None:
            return room
        # trials that wait make a cluster grow; Ray's autoscaler at most doubles it
        return min(self._at_most, 2 * room if self.grows else room)

    def _watch(self) -> None:
        while not self._over.wait(LOOK_EVERY_S):
            # a head that does not answer is asked again
            with contextlib.suppress(ray.exceptions.RayError):
                self._look()

    def _look(self) -> None:
        before, self._alive = self._alive, {node.id: node for node in alive()}
        for node in before.values():
            if node.cpus and node.id not in self._alive:
                self._say(f"node {node.address} is gone; {self._room_left()}")
        new = [node for node in self.alive if node.cpus and node.id not in before]
        for node in new:
            self._say(f"node {node.address} has joined; {self._room_left()}")
        if new:
            self._joined(new)

    def _room_left(self) -> str:
        return f"room for {self.room} trial{'' if self.room == 1 else 's'} at once"
