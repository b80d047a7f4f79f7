"""A Ray cluster of several nodes on this machine, in a separate process.

As a program it reads commands from stdin, and prints a line after each: ``add CPUS [PYTHONPATH]``
adds a node, ``remove`` kills the oldest one without a message to the head.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from command import MARK, REPOSITORY, kill_all

HERE = Path(__file__)
# a lost node is noticed after three seconds, not after a minute
HEALTH = {
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}


class Nodes:
    """A running cluster; its head has no CPUs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.address = self._next_answer()

    def add(self, cpus: int, code: Path = REPOSITORY) -> None:
        """Add a node whose workers find the packages in the folder ``code``."""
        self._send(f"add {cpus} {code}")

    def remove(self) -> None:
        """Kill the oldest node."""
        self._send("remove")

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        print(line, file=self._process.stdin, flush=True)
        assert self._next_answer() == "done"

    def _next_answer(self) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("> "):
                return line.removeprefix("> ").strip()
        raise AssertionError("the cluster has ended")


@contextlib.contextmanager
def several_nodes() -> Iterator[Nodes]:
    """Start a cluster; kill all of its processes at the end."""
    mark = uuid.uuid4().hex
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    path = f"{REPOSITORY}{os.pathsep}{HERE.parent}"
    # a short name, because Ray's sockets are in this folder
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            [sys.executable, str(HERE)],
            env={**environment, **HEALTH, MARK: mark, "RAY_TMPDIR": folder, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        try:
            yield Nodes(process)
        finally:
            kill_all(mark)
            process.communicate(timeout=30)


def serve() -> None:
    """Add and remove nodes as stdin says."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    nodes = []
    print(f"> {cluster.address}", flush=True)
    for line in sys.stdin:
        match line.split():
            case ["add", cpus, code]:
                path = os.pathsep.join([code, str(HERE.parent)])
                node = cluster.add_node(num_cpus=int(cpus), env_vars={"PYTHONPATH": path})
                nodes.append(node)
            case ["remove"]:
                kill_workers(nodes[0])
                cluster.remove_node(nodes.pop(0), allow_graceful=False)
        print("> done", flush=True)


def kill_workers(node: Any) -> None:
    """Kill a node's workers; the node is stopped first, so that it cannot report their end.

    If the workers stayed alive, they would still finish their trials.
    """
    (raylet,) = (each.process.pid for each in node.all_processes["raylet"])
    os.kill(raylet, signal.SIGSTOP)
    for child in Path(f"/proc/{raylet}/task/{raylet}/children").read_text().split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(child), signal.SIGKILL)


if __name__ == "__main__":
    serve()
