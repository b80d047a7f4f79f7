"""The cluster's nodes: who is there, what each says of itself, how many trials have room."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from search.errors import InputError
from search.witness import Answer, Node, Unloadable, Witness

LOOK_EVERY_S = 1.0
LEAVE_S = 5.0  # for a look that is under way, at the end; what it would find serves nobody
ANSWER_S = 30.0  # for a node that starts a process, on a slow disk


def alive() -> list[Node]:
    """Return the nodes that there are, by address."""
    found = [
        Node(node["NodeID"], node["NodeManagerAddress"], int(node["Resources"].get("CPU", 0)))
        for node in ray.nodes()
        if node["Alive"]
    ]
    return sorted(found, key=lambda node: (node.address, node.id))


def asked(
    nodes: Sequence[Node], within_s: float = ANSWER_S
) -> dict[str, Answer | Unloadable | None]:
    """Ask each node what it is, all at once; nothing where one does not answer in time."""
    witness = ray.remote(num_cpus=0)(Witness)
    standing = {
        node.id: witness.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)
        ).remote()
        for node in nodes
    }
    answers: dict[str, Answer | Unloadable | None] = dict.fromkeys(standing)
    until = time.monotonic() + within_s
    said = {name: each.said.remote() for name, each in standing.items()}
    for name, each in standing.items():
        try:
            answer = ray.get(said[name], timeout=max(0.0, until - time.monotonic()))
            before = time.time()
            theirs = ray.get(each.clock_s.remote(), timeout=max(1.0, until - time.monotonic()))
            answers[name] = Answer(answer, _off(before, theirs, time.time()))
        except ray.exceptions.RayError as error:
            # Ray tells why in words only; all others died meanwhile, or are slow
            if "failed to import" in (told := str(error).strip()):
                answers[name] = Unloadable(told.splitlines()[-1])
        ray.kill(each)
    return answers


def _off(before: float, theirs: float, after: float) -> float:
    """Return how far a clock is off that was read between two readings of ours, at the least."""
    return min(0.0, theirs - before) + max(0.0, theirs - after)


class Nodes:
    """A thread that looks who is there, and how many trials may run at once now."""

    def __init__(
        self,
        cpus_each: int,
        at_most: int | None,
        *,
        grows: bool,
        say: Callable[[str], None] = lambda _: None,
        joined: Callable[[Sequence[Node]], None] = lambda _: None,
    ) -> None:
        """Look, and see that a trial of ``cpus_each`` CPUs has room.

        ``grows``: nodes may come later, so ``at_most`` may ask for room that is not there yet.

        :raises InputError: no node has ``cpus_each`` CPUs, and some have fewer.
        """
        self._cpus_each, self._at_most, self.grows = cpus_each, at_most, grows
        self._say, self._joined = say, joined
        self.workers = 0  # processes that run trials or wait for one; the controller counts them
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look_on, name="nodes", daemon=True)
        self._there = {node.id: node for node in alive()}
        largest = max((node.cpus for node in self._there.values()), default=0)
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
    def there(self) -> list[Node]:
        """The nodes that there are."""
        return list(self._there.values())

    @property
    def room(self) -> int:
        """How many trials have room on them."""
        return sum(node.room(self._cpus_each) for node in self.there)

    @property
    def width(self) -> int:
        """How many trials to have at once."""
        room = max(1, self.room)
        if self._at_most is None:
            return room
        # what waits for room makes a cluster grow; twice, as Ray's autoscaler grows at most
        return min(self._at_most, 2 * room if self.grows else room)

    def _look_on(self) -> None:
        while not self._over.wait(LOOK_EVERY_S):
            # a head that does not answer now is asked again
            with contextlib.suppress(ray.exceptions.RayError):
                self._look()

    def _look(self) -> None:
        before, self._there = self._there, {node.id: node for node in alive()}
        for node in before.values():
            if node.cpus and node.id not in self._there:
                self._say(f"node {node.address} is gone; {self._room_left()}")
        new = [node for node in self.there if node.cpus and node.id not in before]
        for node in new:
            self._say(f"node {node.address} has joined; {self._room_left()}")
        if new:
            self._joined(new)

    def _room_left(self) -> str:
        return f"room for {self.room} trial{'' if self.room == 1 else 's'} at once"
