"""``python -m search.doctor``: is every node what the driver is, and does the server answer?

A search on a cluster looks by itself, before its first trial and when a node joins.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path

from search.errors import InputError, Interrupted, SearchError
from search.server import check, disable_telemetry, without_credentials
from search.settings import ADDRESS_HELP, TRACKING_HELP, Parser, tracking_uri
from search.terminal import libraries_silenced, open_streams, told
from search.witness import FITTED_WITH, NONE, Answer, Node, Said, Unloadable

LEAST_FREE_BYTES = 2 * 2**30  # Ray spills objects there, and refuses below 5 %
CLOCK_OFF_S = 1.0
SAME_CODE = "submit with --working-dir, or install the same version there"
HEADS = ["node", "CPUs", "Python", "Ray", "packages", "code", "free disk", "clock"]


@dataclass(frozen=True)
class Difference:
    """What is other than here, and what to do."""

    node: str
    line: str
    is_grave: bool  # trials of that node would not be those of another


@dataclass(frozen=True)
class Examined:
    """The nodes, and what they answered."""

    here: Said
    nodes: Sequence[Node]
    answers: Mapping[str, Answer | Unloadable | None]  # by the node's id

    @property
    def differences(self) -> list[Difference]:
        """What is to be said of them."""
        return [
            Difference(node.address, line, grave)
            for node in self.nodes
            for line, grave in _differences(self.here, node, self.answers[node.id])
        ]

    def table(self) -> list[str]:
        """Return the lines of a table, one row a node."""
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

    def told(self) -> list[str]:
        """Return the table and what to do; nothing where all is the same."""
        return [*self.table(), *self.verdict()] if self.differences else []

    def see_the_same(self) -> None:
        """See that a trial is the same wherever it runs.

        :raises InputError: a node has other code, or another version of what trials are made of.
        """
        if grave := sorted({each.node for each in self.differences if each.is_grave}):
            raise InputError(
                f"trials on {', '.join(grave)} would not be those of other nodes, see the lines "
                "above: mend these nodes or take them out of the cluster"
            )


def examine(nodes: Sequence[Node]) -> Examined:
    """Ask all of them."""
    from search.nodes import asked

    return Examined(Said.here(), nodes, asked(nodes))


def main(argv: Sequence[str]) -> int:
    """Look; return the exit code: 0 all the same, 1 something differs, 2 nothing to look at."""
    open_streams()
    try:
        return _looked(_parser().parse_args(argv))
    except KeyboardInterrupt:
        return told(Interrupted("interrupted"))
    except SearchError as error:
        return told(error)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m search.doctor",
        description="See that every node of a cluster, or this machine alone, has the driver's "
        "Python, packages and code, a clock and a disk to work with, and that the tracking server "
        "answers.",
    )
    parser.add_argument(
        "--address", default="local", metavar="local|auto|HOST:PORT", help=ADDRESS_HELP
    )
    parser.add_argument("--tracking-uri", metavar="URI", help=TRACKING_HELP)
    return parser


def _looked(given: argparse.Namespace) -> int:
    uri = tracking_uri(given.tracking_uri)
    check(uri)
    disable_telemetry()
    with (
        tempfile.TemporaryDirectory(prefix="search-") as name,
        libraries_silenced(Path(name) / "log.txt") as terminal,
    ):
        say = partial(print, file=terminal.result)
        is_alone = given.address == "local"
        examined = _alone() if is_alone else _examined(given.address, Path(name))
        say(*examined.table(), sep="\n")
        if examined.differences or not is_alone:  # that it is what it is need not be said
            say(*examined.verdict(), sep="\n")
        say(_served(uri))
    return 1 if examined.differences else 0


def _alone() -> Examined:
    """Look at this machine, where a search has a Ray of its own."""
    here = Said.here(".")  # where a search has its state folder
    return Examined(here, [Node("here", "here", here.cpus)], {"here": Answer(here, 0.0)})


def _examined(address: str, folder: Path) -> Examined:
    """Join the cluster, ask its nodes, and leave it."""
    from search.engine import Cluster
    from search.nodes import alive

    with Cluster(address, folder) as cluster:
        cluster.join()
        return examine(alive())


def _served(uri: str) -> str:
    """See that the tracking store answers; return what to say of it."""
    from search.store import see_answers

    said = "answers" if see_answers(uri) else "is not there yet, the first search makes it"
    return f"tracking store {without_credentials(uri)} {said}"


def _cells(here: Said, answer: Answer | Unloadable | None) -> list[str]:
    if not isinstance(answer, Answer):
        return ["no answer" if answer is None else "no code"]
    said = answer.said
    others = len(_other_packages(here, said))
    return [
        said.python,
        said.packages.get("ray", NONE),
        f"{others} differ" if others else "same",
        "same" if said.code == here.code else "differs",
        f"{said.free_bytes / 2**30:.1f} GiB",
        f"{answer.clock_off_s:+.1f} s" if answer.clock_off_s else "same",
    ]


def _differences(
    here: Said, node: Node, answer: Answer | Unloadable | None
) -> list[tuple[str, bool]]:
    """Return lines, and whether each is grave."""
    if answer is None:
        return [("does not answer: is it about to leave, or out of memory or disk?", False)]
    if isinstance(answer, Unloadable):
        return [(f"cannot load the code ({answer.reason}): {SAME_CODE}", True)]
    said, found = answer.said, []
    if said.python != here.python:
        line = f"Python {said.python}, here {here.python}: make its environment with the same"
        found.append((line, True))
    if others := _other_packages(here, said):
        told = ", ".join(f"{name} {said.packages.get(name, NONE)}" for name in others)
        ours = ", ".join(here.packages[name] for name in others)
        line = f"{told}, here {ours}: install there with `-c requirements.lock`"
        found.append((line, bool(set(others) & set(FITTED_WITH))))
    if said.code != here.code:
        found.append((f"other code ({said.code}, here {here.code}): {SAME_CODE}", True))
    if node.cpus > said.cpus:
        line = f"Ray counts on {node.cpus} CPUs, it has {said.cpus}: its trials share them"
        found.append((line, False))
    if said.free_bytes < LEAST_FREE_BYTES:
        free, least = said.free_bytes / 2**30, LEAST_FREE_BYTES / 2**30
        line = f"{free:.1f} GiB of disk free, {least:.0f} wanted for Ray's session: make room"
        found.append((line, False))
    if abs(answer.clock_off_s) > CLOCK_OFF_S:
        line = f"its clock is {answer.clock_off_s:+.1f} s off ours: let it keep time (chrony, NTP)"
        found.append((line, False))
    return found


def _other_packages(here: Said, said: Said) -> list[str]:
    """Return the packages of another version there; what is nowhere here is not asked for."""
    return [
        name
        for name, version in here.packages.items()
        if version != NONE and said.packages.get(name, NONE) != version
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
