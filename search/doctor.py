"""``python -m search.doctor``: are all nodes like the driver, and does the store answer?"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from functools import partial, reduce
from operator import or_
from pathlib import Path

from search.errors import Interrupted, SearchError
from search.execute import environment
from search.execute.node_preflight import Preflight, preflight, this_machine
from search.options.parsing import ADDRESS_HELP, TRACKING_HELP, Parser, tracking_uri
from search.present.terminal import libraries_silenced, open_streams, report_error
from search.record import server
from search.tasks.kinds import kinds
from search.values.fitted_with import FittedWith
from search.values.uri import without_credentials


def main(argv: Sequence[str]) -> int:
    """Check; return the exit code: 0 no difference, 1 some, 2 nothing could be checked."""
    open_streams()
    try:
        return _checked(_parser().parse_args(argv))
    except KeyboardInterrupt:
        return report_error(Interrupted("interrupted"))
    except SearchError as error:
        return report_error(error)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m search.doctor",
        description="Check that every node of a cluster, or this machine alone, has the driver's "
        "Python, packages and code, a clock and a disk to work with, and that the tracking server "
        "answers.",
    )
    parser.add_argument(
        "--address", default="local", metavar="local|auto|HOST:PORT", help=ADDRESS_HELP
    )
    parser.add_argument("--tracking-uri", metavar="URI", help=TRACKING_HELP)
    return parser


def _checked(given: argparse.Namespace) -> int:
    uri = tracking_uri(given.tracking_uri)
    server.prepare(uri)
    with (
        tempfile.TemporaryDirectory(prefix="search-") as name,
        libraries_silenced(Path(name) / "log.txt") as terminal,
    ):
        folder = Path(name) / "doctor"  # caches go beside it
        folder.mkdir()
        environment.prepare(folder)
        say = partial(print, file=terminal.result)
        is_alone = given.address == "local"
        result = this_machine(_needed()) if is_alone else _of_cluster(given.address, Path(name))
        say(*result.table(), sep="\n")
        if result.differences or not is_alone:  # a machine cannot differ from itself
            say(*result.verdict(), sep="\n")
        say(_store_line(uri))
    return 1 if result.differences else 0


def _of_cluster(address: str, folder: Path) -> Preflight:
    """Join the cluster, check its nodes, and leave it."""
    from search.execute.cluster import Cluster
    from search.execute.nodes import alive

    with Cluster(address, folder) as cluster:
        cluster.join()
        return preflight(alive(), _needed())


def _needed() -> FittedWith:
    """Return what the tasks of all kinds depend on."""
    return reduce(or_, (kind.fitted_with for kind in kinds().values()))


def _store_line(uri: str) -> str:
    """Check that the tracking store answers; return what to say of it."""
    from search.record.connection import answers

    state = "answers" if answers(uri) else "does not exist yet, the first search makes it"
    return f"tracking store {without_credentials(uri)} {state}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
