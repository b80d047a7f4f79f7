"""Virtual hosts behave like machines, and nothing of them is left at the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import hosts
from benchmarks.hosts import Disk, Hosts, wait_until

UNUSABLE = hosts.unusable()
pytestmark = pytest.mark.skipif(UNUSABLE is not None, reason=str(UNUSABLE))

FIRST, SECOND = "10.89.0.10", "10.89.0.11"
PROGRAM = """
import sys
from pathlib import Path
from benchmarks.hosts import Hosts
with Hosts(Path(sys.argv[1]), prefix="dead", network="10.90.0.0/24") as network:
    host = network.add("a", "10.90.0.10")
    print(host.start("sleep 600", Path(sys.argv[1]) / "output.txt").pid, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Hosts]:
    with Hosts(tmp_path, prefix="try", network="10.89.0.0/24") as made:
        yield made


def test_hosts_have_their_own_name_address_disks_and_processes(network: Hosts) -> None:
    first, second = network.add("first", FIRST), network.add("second", SECOND)
    assert first.run("hostname; pwd").stdout.split() == ["first", "/root"]
    assert FIRST in first.run("ip address show eth0").stdout
    name = f"of-the-first-{os.getpid()}"  # that nothing on this machine has
    for top in hosts.PRIVATE:
        assert first.run(f"echo mine > {top}/{name}").returncode == 0
        assert second.run(["ls", f"{top}/{name}"]).returncode == 2
        assert not Path(top, name).exists()
    assert first.run(f"touch /etc/{name}").returncode != 0
    assert "sshd" in second.run(["cat", "/proc/1/cmdline"]).stdout
    ids = [host.run(["cat", "/etc/machine-id"]).stdout for host in (first, second)]
    assert ids[0] != ids[1]


def test_hosts_reach_each_other_by_ssh_and_count_bytes(network: Hosts) -> None:
    first, second = network.add("first", FIRST), network.add("second", SECOND)
    key = network.key.read_text()
    first.run(["sh", "-c", 'umask 077; printf %s "$1" > .ssh/id_ed25519', "sh", key])
    before = second.received_bytes()
    send = f"head -c 1000000 /dev/zero | ssh -o StrictHostKeyChecking=no {SECOND} 'cat > /tmp/it'"
    assert first.run(send).returncode == 0
    assert second.run(["stat", "-c", "%s", "/tmp/it"]).stdout.strip() == "1000000"
    assert 1_000_000 < second.received_bytes() - before < 1_200_000


def test_disk_is_mounted_on_its_host_only_and_keeps_its_files(
    network: Hosts, tmp_path: Path
) -> None:
    directory = tmp_path / "disk"
    directory.mkdir()
    disk = Disk(directory, "/mnt/disk")
    first = network.add("first", FIRST, disks=[disk])
    assert first.run("mountpoint -q /mnt/disk && echo kept > /mnt/disk/it").returncode == 0
    first.power_off()
    again = network.add("first", FIRST, disks=[disk])
    assert again.run(["cat", "/mnt/disk/it"]).stdout == "kept\n"
    assert network.add("second", SECOND).run(["ls", "/mnt/disk"]).returncode == 2
    with pytest.raises(ValueError, match="/srv"):
        network.add("third", "10.89.0.12", disks=[Disk(directory, "/srv/disk")])


def test_power_off_does_not_close_connections(network: Hosts, tmp_path: Path) -> None:
    """The other end of a connection stays open, as with a host that is slow."""
    first, second = network.add("first", FIRST), network.add("second", SECOND)
    second.start(f"exec 3<>/dev/tcp/{FIRST}/22; cat <&3", tmp_path / "second.txt")
    connected = ["ss", "-Htn", "state", "established", "dport", "=", ":22"]
    wait_until(lambda: bool(second.run(connected).stdout), 20, "a connection")
    first.power_off()
    assert not first.is_on
    assert second.run(connected).stdout
    assert second.run(f"timeout 1 bash -c 'exec 3<>/dev/tcp/{FIRST}/22'").returncode != 0


def test_hardware_address_of_the_gateway_stays_when_a_host_ends(network: Hosts) -> None:
    """If it changed, other hosts could not reach this machine for up to a minute."""
    file = Path("/sys/class/net/trybr/address")
    found = [file.read_text()]
    for name, address in (("first", FIRST), ("second", SECOND)):
        host = network.add(name, address)
        found.append(file.read_text())
        host.power_off()
        found.append(file.read_text())
    assert found == found[:1] * len(found)


def test_address_outside_the_network_is_refused(network: Hosts) -> None:
    for address in ("10.88.0.10", network.gateway):
        with pytest.raises(ValueError, match=address):
            network.add("first", address)


def test_nothing_is_left_when_the_test_is_killed(tmp_path: Path) -> None:
    """Its hosts, its network and the processes in its hosts end."""
    top = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        cwd=top,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as killed:
        assert killed.stdout is not None
        inside = Path("/proc") / killed.stdout.readline().strip()
        assert inside.exists()
        assert "deadbr" in hosts.links()
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        wait_until(lambda: not left_of_killed(), 20, "the end of its hosts and network")
        wait_until(lambda: not inside.exists(), 20, "the end of the process in its host")


def left_of_killed() -> list[str]:
    """Return the namespaces and links of the killed test."""
    namespaces = [each.name for each in hosts.NAMESPACES.glob("dead-*")]
    return namespaces + [link for link in hosts.links() if link.startswith("dead")]
