"""A cluster of machines one owns on virtual hosts, used as docs/own-machines.md says."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from command import REPOSITORY, put_months, wait_until
from document import Commands, Reader, Terminal
from mlflow import MlflowClient
from mlflow.entities import Run

from benchmarks.hosts import PATH, Disk, Host, Hosts

VENV = Path(sys.prefix)
KEEP = (VENV, Path(sys.base_prefix), REPOSITORY)

HEAD, WORKERS = "10.88.0.10", ("10.88.0.21", "10.88.0.22")
LAPTOP, STRANGER = "10.88.0.100", "10.88.0.200"

DOCUMENT = REPOSITORY / "docs" / "own-machines.md"
CONFIG = "/root/cluster-local.yaml"
CERTIFICATES = "(umask 077; mkdir -p ~/.ray/tls"  # how their block begins
KEY = "~/.ssh/search_cluster"
TOKEN = "~/.ray/auth_token"
DISK = "/mnt/search"  # as cluster-local.yaml names it
TRIPS = "/root/trips"  # on a head only: no worker can read them
COMMIT = "c0ffee" * 6 + "c0ff"  # `git rev-parse HEAD` on the laptop


def adapted(head: str, *, tls: bool = False) -> str:
    """Return cluster-local.yaml for these hosts, on request with its lines for TLS.

    The environment is the one of this test, which every host sees: there is no index to install
    from. All hosts share the cores of one machine, so each worker is told that it has one.
    """
    text = (REPOSITORY / "cluster-local.yaml").read_text()
    if tls:
        text, lines = re.subn(r"# (~/.ray/tls: |export RAY_USE_TLS=1 )", r"\1", text)
        assert lines == 2, "a mount and a setting"
    config: dict[str, Any] = yaml.safe_load(text)
    config["provider"] |= {"head_ip": head, "worker_ips": list(WORKERS)}
    config["auth"] = {"ssh_user": "root", "ssh_private_key": KEY}
    setup = config["setup_commands"]
    (installing,) = (number for number, line in enumerate(setup) if "pip install" in line)
    setup[installing] = f"ln -sfn {shlex.quote(str(VENV))} ~/venv"
    config["worker_start_ray_commands"][-1] += " --num-cpus=1"
    adapted: str = yaml.safe_dump(config, width=10_000)
    return adapted


class Laptop(Reader):
    """The machine of whoever uses the cluster."""

    @property
    def public_key(self) -> str:
        return self.run(f"cat {KEY}.pub").strip()

    @property
    def token(self) -> str:
        return self.run(f"cat {TOKEN}").strip()

    def write(self, text: str, file: str) -> None:
        self.host.run(["sh", "-c", 'printf %s "$1" > "$2"', "sh", text, file]).check_returncode()

    def bring_up(self) -> None:
        """Start the cluster, and look at it.

        A tunnel to a lost head holds the ports for 15 s more: it is closed first.
        """
        self.types("ray up")
        self.host.run("pkill -x ssh; while pgrep -x ssh; do sleep 0.1; done")
        self.open(f"tail -f /dev/null | ray attach {CONFIG} -p 8265 -p 5000", "attach")
        url = "http://127.0.0.1:8265/api/version"
        code = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", url]
        wait_until(lambda: self.host.run(code).stdout == "401", 60, "the dashboard", every_s=0.5)

    def submit(self, name: str, options: Sequence[str]) -> Terminal:
        """Submit a search; the command ends when the search has."""
        command = ["python", "-m", "search.run", "--address", "auto", *options]
        where = ["--state-dir", f"{DISK}/state"]
        job = ["--working-dir", ".", "--", f"SEARCH_GIT_COMMIT={COMMIT}", *command, *where]
        return self.open(shlex.join(["ray", "job", "submit", *job]), name)


@dataclass(frozen=True)
class Machines:
    """The hosts of a cluster, and the disk that outlives its head."""

    hosts: Hosts
    laptop: Laptop
    disk: Path
    trips: Path

    def head(self, name: str, address: str) -> Host:
        """Start a machine that can be the head: it has the disk and the trips."""
        disks = [Disk(self.disk, DISK), Disk(self.trips, TRIPS)]
        return self.hosts.add(name, address, disks=disks, authorized=[self.laptop.public_key])

    @property
    def books(self) -> Books:
        return Books(self.disk)

    def worker(self, number: int) -> Host:
        """Start a machine that has nothing but its address."""
        opened = [self.laptop.public_key]
        return self.hosts.add(f"w{number}", WORKERS[number - 1], authorized=opened)


@dataclass(frozen=True)
class Books:
    """What MLflow holds, read from the disk beside the server."""

    disk: Path

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(f"sqlite:///{self.disk / 'mlflow' / 'mlflow.db'}")

    def runs(self, role: str) -> list[Run]:
        """Return the runs of a role, in the order of their start."""
        client = self.client
        experiments = [each.experiment_id for each in client.search_experiments()]
        found = client.search_runs(experiments, f"tags.`search.role` = '{role}'", max_results=1_000)
        return sorted(found, key=lambda run: int(run.info.start_time))

    def running(self) -> list[Run]:
        """Return the trials that are under way."""
        return [run for run in self.runs("trial") if run.info.status == "RUNNING"]

    def ended(self) -> list[Run]:
        """Return the trials that have ended."""
        return [run for run in self.runs("trial") if run.info.status != "RUNNING"]


@contextlib.contextmanager
def machines_at_hand(folder: Path, prefix: str) -> Iterator[Machines]:
    """Have what there is before a cluster: a laptop with its key and token, a disk, trips."""
    disk = folder / "disk"
    disk.mkdir()
    with Hosts(folder, prefix=prefix, keep=KEEP) as network:
        commands = Commands(DOCUMENT, {"cluster-local.yaml": CONFIG})
        host = network.add("laptop", LAPTOP)
        laptop = Laptop(host, REPOSITORY, commands, activated(), folder)
        laptop.types("ssh-keygen")
        yield Machines(network, laptop, disk, put_months(folder / "trips"))


def alive(head: Host) -> set[str]:
    """Return the addresses of the nodes that Ray has for alive."""
    asked = head.run(
        f'curl -fs -H "Authorization: Bearer $(cat {TOKEN})" '
        "http://127.0.0.1:8265/nodes?view=summary"
    )
    if asked.returncode:
        return set()
    nodes = json.loads(asked.stdout)["data"]["summary"]
    return {node.get("ip") for node in nodes if node["raylet"].get("state") == "ALIVE"}


def wait_for_nodes(head: Host) -> None:
    """Wait until the head and all workers are alive."""
    expected = {head.address, *WORKERS}
    wait_until(lambda: alive(head) == expected, 90, "all nodes", every_s=0.5)


def listening(host: Host) -> list[str]:
    """Return where a host can be reached from others, its sshd left out."""
    asked = host.run("ss -Hltn | awk '{print $4}'").stdout.split()
    ports = {at.rpartition(":")[2] for at in asked if "127.0.0.1" not in at}
    return [f"{host.address}:{port}" for port in sorted(ports - {"22"}, key=int)]


def activated() -> Mapping[str, str]:
    """Return what the user's shell has."""
    return {"PATH": f"{VENV / 'bin'}:{PATH}"}
