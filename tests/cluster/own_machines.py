"""A cluster of own machines on virtual hosts, set up as docs/own-machines.md says."""

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
from command import REPOSITORY, wait_until, write_months
from document import Commands, Terminal, User
from mlflow import MlflowClient
from mlflow.entities import Run

from benchmarks.hosts import PATH, Disk, Host, Hosts

VENV = Path(sys.prefix)
KEEP = (VENV, Path(sys.base_prefix), REPOSITORY)

HEAD, WORKERS = "10.88.0.10", ("10.88.0.21", "10.88.0.22")
LAPTOP, STRANGER = "10.88.0.100", "10.88.0.200"

DOCUMENT = REPOSITORY / "docs" / "own-machines.md"
CONFIG = "/root/cluster-local.yaml"
CERTIFICATES = "(umask 077; mkdir -p ~/.ray/tls"  # the start of their block
KEY = "~/.ssh/search_cluster"
TOKEN = "~/.ray/auth_token"
DISK = "/mnt/search"  # as cluster-local.yaml names it
TRIPS = "/root/trips"  # on the head only; workers cannot read them
COMMIT = "c0ffee" * 6 + "c0ff"  # `git rev-parse HEAD` on the laptop


def adapted(head: str, *, tls: bool = False) -> str:
    """Return cluster-local.yaml for these hosts. ``tls``: with its lines for TLS.

    All hosts use the environment of this test, because they have no package index. They share the
    cores of one machine, so each worker is started with one CPU.
    """
    text = (REPOSITORY / "cluster-local.yaml").read_text()
    if tls:
        text, lines = re.subn(r"# (~/.ray/tls: |export RAY_USE_TLS=1 )", r"\1", text)
        assert lines == 2, "the file has one mount and one setting for TLS"
    config: dict[str, Any] = yaml.safe_load(text)
    config["provider"] |= {"head_ip": head, "worker_ips": list(WORKERS)}
    config["auth"] = {"ssh_user": "root", "ssh_private_key": KEY}
    setup = config["setup_commands"]
    (installing,) = (number for number, line in enumerate(setup) if "pip install" in line)
    setup[installing] = f"ln -sfn {shlex.quote(str(VENV))} ~/venv"
    config["worker_start_ray_commands"][-1] += " --num-cpus=1"
    adapted: str = yaml.safe_dump(config, width=10_000)
    return adapted


class Laptop(User):
    """The machine of the user."""

    @property
    def public_key(self) -> str:
        return self.run(f"cat {KEY}.pub").strip()

    @property
    def token(self) -> str:
        return self.run(f"cat {TOKEN}").strip()

    def write(self, text: str, file: str) -> None:
        self.host.run(["sh", "-c", 'printf %s "$1" > "$2"', "sh", text, file]).check_returncode()

    def bring_up(self) -> None:
        """Start the cluster, and open tunnels to it.

        Tunnels to a lost head keep the ports for 15 s more, so they are closed first.
        """
        self.run_block("ray up")
        self.host.run("pkill -x ssh; while pgrep -x ssh; do sleep 0.1; done")
        self.open(f"tail -f /dev/null | ray attach {CONFIG} -p 8265 -p 5000", "attach")
        url = "http://127.0.0.1:8265/api/version"
        code = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", url]
        wait_until(lambda: self.host.run(code).stdout == "401", 60, "the dashboard", every_s=0.5)

    def submit(self, name: str, options: Sequence[str]) -> Terminal:
        """Submit a search; the command ends with the search."""
        command = ["python", "-m", "search.run", "--address", "auto", *options]
        where = ["--state-dir", f"{DISK}/state"]
        job = ["--working-dir", ".", "--", f"SEARCH_GIT_COMMIT={COMMIT}", *command, *where]
        return self.open(shlex.join(["ray", "job", "submit", *job]), name)


@dataclass(frozen=True)
class Machines:
    """The hosts of a cluster, and the disk that stays when its head is lost."""

    hosts: Hosts
    laptop: Laptop
    disk: Path
    trips: Path

    def head(self, name: str, address: str) -> Host:
        """Start a machine that can be the head, with the disk and the trips."""
        disks = [Disk(self.disk, DISK), Disk(self.trips, TRIPS)]
        return self.hosts.add(name, address, disks=disks, authorized=[self.laptop.public_key])

    @property
    def runs(self) -> Runs:
        return Runs(self.disk)

    def worker(self, number: int) -> Host:
        """Start a machine for worker 1 or 2, without disk and trips."""
        keys = [self.laptop.public_key]
        return self.hosts.add(f"w{number}", WORKERS[number - 1], authorized=keys)


@dataclass(frozen=True)
class Runs:
    """The runs in MLflow, read from the server's database on the disk."""

    disk: Path

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(f"sqlite:///{self.disk / 'mlflow' / 'mlflow.db'}")

    def of_role(self, role: str) -> list[Run]:
        """Return the runs of a role, in the order of their start."""
        client = self.client
        experiments = [each.experiment_id for each in client.search_experiments()]
        found = client.search_runs(experiments, f"tags.`search.role` = '{role}'", max_results=1_000)
        return sorted(found, key=lambda run: int(run.info.start_time))

    def running(self) -> list[Run]:
        """Return the running trials."""
        return [run for run in self.of_role("trial") if run.info.status == "RUNNING"]

    def ended(self) -> list[Run]:
        """Return the ended trials."""
        return [run for run in self.of_role("trial") if run.info.status != "RUNNING"]


@contextlib.contextmanager
def machines(folder: Path, prefix: str) -> Iterator[Machines]:
    """Yield what exists before a cluster: a laptop with key and token, a disk, trips."""
    disk = folder / "disk"
    disk.mkdir()
    with Hosts(folder, prefix=prefix, keep=KEEP) as network:
        commands = Commands(DOCUMENT, {"cluster-local.yaml": CONFIG})
        host = network.add("laptop", LAPTOP)
        laptop = Laptop(host, REPOSITORY, commands, venv_environment(), folder)
        laptop.run_block("ssh-keygen")
        yield Machines(network, laptop, disk, write_months(folder / "trips"))


def alive(head: Host) -> set[str]:
    """Return the addresses of the nodes that are alive for Ray."""
    answer = head.run(
        f'curl -fs -H "Authorization: Bearer $(cat {TOKEN})" '
        "http://127.0.0.1:8265/nodes?view=summary"
    )
    if answer.returncode:
        return set()
    nodes = json.loads(answer.stdout)["data"]["summary"]
    return {node.get("ip") for node in nodes if node["raylet"].get("state") == "ALIVE"}


def wait_for_nodes(head: Host) -> None:
    """Wait until the head and all workers are alive."""
    expected = {head.address, *WORKERS}
    wait_until(lambda: alive(head) == expected, 90, "all nodes", every_s=0.5)


def listening(host: Host) -> list[str]:
    """Return the ports at which other hosts can reach this one, without its sshd."""
    addresses = host.run("ss -Hltn | awk '{print $4}'").stdout.split()
    ports = {each.rpartition(":")[2] for each in addresses if "127.0.0.1" not in each}
    return [f"{host.address}:{port}" for port in sorted(ports - {"22"}, key=int)]


def venv_environment() -> Mapping[str, str]:
    """Return the variables of the user's shell."""
    return {"PATH": f"{VENV / 'bin'}:{PATH}"}
