"""The preflight check: does every node have the driver's Python, packages and code?

A search on a cluster runs it before its first trial and for nodes that join later;
``python -m search.doctor`` runs it alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from search.errors import InputError
from search.execute.node_probe import COMMON, NONE, Answer, Node, NodeInfo, Unloadable
from search.values.fitted_with import FittedWith

LEAST_FREE_BYTES = 2 * 2**30  # Ray spills objects there, and refuses below 5 %
CLOCK_OFF_S = 1.0
SAME_CODE = "submit with --working-dir, or install the same version there"
HEADS = ["node", "CPUs", "Python", "Ray", "packages", "code", "free disk", "clock"]


@dataclass(frozen=True)
class Difference:
    """What differs on a node from here, and what to do."""

    node: str
    line: str
    changes_trials: bool  # a trial there may get another score


@dataclass(frozen=True)
class Preflight:
    """The nodes, and what they answered."""

    here: NodeInfo
    nodes: Sequence[Node]
    answers: Mapping[str, Answer | Unloadable | None]  # by the node's id
    fitted_with: FittedWith = COMMON

    @property
    def differences(self) -> list[Difference]:
        """What differs, node by node."""
        return [
            Difference(node.address, line, changes_trials)
            for node in self.nodes
            for line, changes_trials in self._differences(node, self.answers[node.id])
        ]

    def table(self) -> list[str]:
        """Return the lines of a table, a row a node."""
        rows = [HEADS]
        for node in self.nodes:
            rows.append([node.address, str(node.cpus), *_cells(self.here, self.answers[node.id])])
        widths = [max(map(len, column)) for column in zip_longest(*rows, fillvalue="")]
        return [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip()
            for row in rows
        ]

    def verdict(self) -> list[str]:
        """Return what to do about each difference, or that there is none."""
        if not self.differences:
            count = "the node" if len(self.nodes) == 1 else f"{len(self.nodes)} nodes"
            return [f"checked {count}: Python, packages and code are the driver's"]
        return [f"node {each.node}: {each.line}" for each in self.differences]

    def lines(self) -> list[str]:
        """Return the table and what to do; nothing if there is no difference."""
        return [*self.table(), *self.verdict()] if self.differences else []

    def check(self) -> None:
        """Check that a trial is the same on each node.

        :raises InputError: a node has other code, or another version of what trials use.
        """
        if wrong := sorted({each.node for each in self.differences if each.changes_trials}):
            raise InputError(
                f"trials on {', '.join(wrong)} would differ from those on other nodes, see the "
                "lines above: fix these nodes or take them out of the cluster"
            )

    def _differences(
        self, node: Node, answer: Answer | Unloadable | None
    ) -> list[tuple[str, bool]]:
        """Return lines, and whether trials may differ for each."""
        if answer is None:
            return [("does not answer: is it about to leave, or out of memory or disk?", False)]
        if isinstance(answer, Unloadable):
            return [(f"cannot load the code ({answer.reason}): {SAME_CODE}", True)]
        here, there, found = self.here, answer.info, []
        if there.python != here.python:
            line = f"Python {there.python}, here {here.python}: make its environment with the same"
            found.append((line, True))
        if others := _other_packages(here, there):
            theirs = ", ".join(f"{name} {there.packages.get(name, NONE)}" for name in others)
            ours = ", ".join(here.packages[name] for name in others)
            line = f"{theirs}, here {ours}: install there with `-c requirements.lock`"
            found.append((line, bool(set(others) & set(self.fitted_with.packages))))
        if there.code != here.code:
            found.append((f"other code ({there.code}, here {here.code}): {SAME_CODE}", True))
        if node.cpus > there.cpus:
            line = f"Ray counts on {node.cpus} CPUs, it has {there.cpus}: its trials share them"
            found.append((line, False))
        if there.free_bytes < LEAST_FREE_BYTES:
            free, least = there.free_bytes / 2**30, LEAST_FREE_BYTES / 2**30
            line = f"{free:.1f} GiB of disk free, {least:.0f} wanted for Ray's session: make room"
            found.append((line, False))
        if abs(answer.clock_off_s) > CLOCK_OFF_S:
            line = (
                f"its clock is {answer.clock_off_s:+.1f} s off ours: synchronise it (chrony, NTP)"
            )
            found.append((line, False))
        return found


def preflight(nodes: Sequence[Node], fitted_with: FittedWith) -> Preflight:
    """Check these nodes of the running cluster."""
    from search.execute.nodes import probe

    here = NodeInfo.here(fitted_with)
    return Preflight(here, nodes, probe(nodes, fitted_with), COMMON | fitted_with)


def this_machine(fitted_with: FittedWith) -> Preflight:
    """Check this machine, where a search has a Ray of its own."""
    info = NodeInfo.here(fitted_with, ".")  # where a search has its state folder
    return Preflight(info, [Node("here", "here", info.cpus)], {"here": Answer(info, 0.0)})


def _cells(here: NodeInfo, answer: Answer | Unloadable | None) -> list[str]:
    if not isinstance(answer, Answer):
        return ["no answer" if answer is None else "no code"]
    there = answer.info
    others = len(_other_packages(here, there))
    return [
        there.python,
        there.packages.get("ray", NONE),
        f"{others} differ" if others else "same",
        "same" if there.code == here.code else "differs",
        f"{there.free_bytes / 2**30:.1f} GiB",
        f"{answer.clock_off_s:+.1f} s" if answer.clock_off_s else "same",
    ]


def _other_packages(here: NodeInfo, there: NodeInfo) -> list[str]:
    """Return the packages of another version there, of those that are installed here."""
    return [
        name
        for name, version in here.packages.items()
        if version != NONE and there.packages.get(name, NONE) != version
    ]
