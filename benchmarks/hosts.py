"""Virtual hosts on one machine: each has its own address, disks, processes and sshd.

A host is a network, mount, PID, UTS and IPC namespace whose first process is an sshd. A bridge
connects them, and the machine has the first address of their network. This needs root, and no
container engine. If the process that uses the hosts is killed, a guard process removes them.
"""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# Folders of which each host has its own, empty at first, with these modes. The rest of the file
# system is that of the machine, and read-only.
PRIVATE = {
    "/tmp": "1777",
    "/var/tmp": "1777",
    "/dev/shm": "1777",
    "/root": "700",
    "/home": "755",
    "/run": "755",
    "/mnt": "755",
}
TOOLS = ("ip", "unshare", "nsenter", "sshd", "ssh", "ssh-keygen", "rsync")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NAMESPACES = Path("/run/netns")  # the folder of ip-netns(8)
ENVIRONMENT = {"HOME": "/root", "USER": "root", "PATH": PATH, "LANG": "C.UTF-8", "TERM": "dumb"}

START_S = 20.0  # for a host to answer on its ssh port; takes 0.2 s on an idle machine
END_S = 20.0  # for everything to be removed


def unusable() -> str | None:
    """Return why this machine cannot have virtual hosts; None if it can."""
    if sys.platform != "linux":
        return "virtual hosts need Linux"
    if os.geteuid() != 0:
        return "virtual hosts need root"
    if missing := [tool for tool in TOOLS if shutil.which(tool, path=PATH) is None]:
        return f"virtual hosts need {', '.join(missing)} (iproute2, openssh-server, rsync)"
    command = ["unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "true"]
    result = subprocess.run(command, capture_output=True, text=True)
    return f"root may not make namespaces: {result.stderr.strip()}" if result.returncode else None


def wait_until(
    ready: Callable[[], bool], timeout_s: float, what: str, every_s: float = 0.05
) -> None:
    """Wait until ``ready`` returns true.

    :raises RuntimeError: it does not in time; the message has ``what``.
    """
    deadline = time.monotonic() + timeout_s
    while not ready():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {timeout_s:.0f} s: {what}")
        time.sleep(every_s)


@dataclass(frozen=True)
class Disk:
    """A directory of this machine that is mounted at ``at`` in hosts that have this disk."""

    directory: Path
    at: str  # below one of PRIVATE


class Host:
    """One running host."""

    def __init__(self, name: str, address: str, namespace: str, link: str, log: Path) -> None:
        self.name, self.address, self.log = name, address, log
        self._namespace, self._link = namespace, link
        self._process: subprocess.Popen[bytes] | None = None
        self._first_pid = 0

    def run(
        self,
        command: str | Sequence[str],
        timeout_s: float = 60,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command, or a text for bash, as root of this host, in /root.

        It does not use ssh, so it does not depend on the host's sshd or bashrc.
        """
        return subprocess.run(
            self._inside(command, environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def start(
        self,
        command: str | Sequence[str],
        output: Path,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a command that ends with the host at the latest. ``output``: for its output."""
        with output.open("ab") as file:
            return subprocess.Popen(
                self._inside(command, environment),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def received_bytes(self) -> int:
        """Return the number of bytes received from the network."""
        return self._byte_count("rx")

    def sent_bytes(self) -> int:
        """Return the number of bytes sent to the network."""
        return self._byte_count("tx")

    @property
    def is_on(self) -> bool:
        """Tell whether the host runs."""
        return self._process is not None and self._process.poll() is None

    def power_off(self) -> None:
        """End the host at once, with its private disks. Others see its connections as open."""
        # the link first, because the kernel closes the connections of killed processes
        _remove_link(self._link)
        _remove_namespace(self._namespace)
        if self._process is not None:
            self._process.wait(END_S)

    def _boot(self, script: str) -> None:
        """Start the first process, and wait for its sshd.

        :raises RuntimeError: it does not start; the message has its output.
        """
        spaces = ["--mount", "--pid", "--uts", "--ipc", "--mount-proc"]
        fork = ["--fork", "--kill-child=KILL"]
        inside = ["ip", "netns", "exec", self._namespace, "unshare", *spaces, *fork]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [*inside, "sh", "-c", script],
                env=ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        wait_until(lambda: not self.is_on or _has_ssh(self.address), START_S, f"{self.name}'s sshd")
        if not self.is_on:
            raise RuntimeError(f"the host {self.name} ended, its output: {self.log.read_text()}")
        pid = self._process.pid
        self._first_pid = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])

    def _inside(
        self, command: str | Sequence[str], environment: Mapping[str, str] | None
    ) -> list[str]:
        argv = ["bash", "-c", command] if isinstance(command, str) else list(command)
        spaces = ["--mount", "--uts", "--ipc", "--net", "--pid"]
        variables = [f"{k}={v}" for k, v in {**ENVIRONMENT, **(environment or {})}.items()]
        in_home = ["sh", "-c", 'cd && exec "$@"', "sh"]
        enter = ["nsenter", f"--target={self._first_pid}", *spaces, "--"]
        # SIGINT is handled even if the test was started with it ignored (nohup, &)
        clean = ["env", "-i", "--default-signal=INT", *variables]
        return [*enter, *clean, *in_home, *argv]

    def _byte_count(self, direction: str) -> int:
        shown = _ip("-n", self._namespace, "-json", "-stats", "link", "show", "eth0")
        return int(json.loads(shown)[0]["stats64"][direction]["bytes"])


class Hosts:
    """A network of hosts; leaving the ``with`` block removes it, also after an error."""

    def __init__(
        self,
        folder: Path,
        *,
        prefix: str = "vh",
        network: str = "10.88.0.0/24",
        keep: Sequence[Path] = (),
    ) -> None:
        """``folder``: for the key and the hosts' logs.

        ``prefix``: of the names of all links and namespaces; only one process at a time uses it.
        ``keep``: folders that every host has at the same path, read-only.
        """
        if not re.fullmatch(r"[a-z][a-z0-9]{0,5}", prefix):  # names of links end at 15 characters
            raise ValueError(f"prefix {prefix!r}: a letter and up to five more or digits")
        self._folder, self._prefix = folder, prefix
        self.network = ipaddress.IPv4Network(network)
        self.gateway = str(self.network[1])  # this machine's address in the network
        self.key = folder / "id_ed25519"  # for ssh to root of every host
        self._keep = _hidden(keep)
        self._bridge = f"{prefix}br"
        self._numbers = itertools.count(1)
        self._making = threading.Lock()
        self._guard: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Hosts:
        with _lock(self._prefix) as lock:
            _remove_all(self._prefix)
            # The guard holds the lock until it has removed everything.
            self._guard = subprocess.Popen(
                [sys.executable, __file__, self._prefix],
                stdin=subprocess.PIPE,
                pass_fds=[lock.fileno()],
                start_new_session=True,
            )
        try:
            self.key.unlink(missing_ok=True)
            make_key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key)]
            subprocess.run(make_key, check=True, capture_output=True)
            # Without a fixed address it has the lowest of its ports' addresses. If that port is
            # removed, the other hosts would still send to the old address for up to a minute.
            hardware = ["address", _hardware(self.gateway)]
            _ip("link", "add", self._bridge, *hardware, "type", "bridge")
            address = f"{self.gateway}/{self.network.prefixlen}"
            _ip("address", "add", address, "dev", self._bridge)
            _ip("link", "set", self._bridge, "up")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._end()

    def add(
        self,
        name: str,
        address: str,
        *,
        disks: Sequence[Disk] = (),
        authorized: Sequence[str] = (),
    ) -> Host:
        """Start a host at a free address of the network; any thread may call this.

        ``authorized``: public keys for ssh to root, besides :attr:`key`. Name and address are free
        again once the host is powered off.

        :raises RuntimeError: it does not start.
        """
        if ipaddress.IPv4Address(address) not in self.network or address == self.gateway:
            raise ValueError(f"{address} is no free address of {self.network}")
        if outside := [disk.at for disk in disks if not _is_private(Path(disk.at))]:
            raise ValueError(f"{outside}: a host can have a disk below {', '.join(PRIVATE)} only")
        namespace = f"{self._prefix}-{name}"
        with self._making:
            link = f"{self._prefix}v{next(self._numbers)}"
            _ip("netns", "add", namespace)
        host = Host(name, address, namespace, link, self._folder / f"{name}.log")
        try:
            self._connect(namespace, link, address)
            keys = [self.key.with_suffix(".pub").read_text().strip(), *authorized]
            host._boot(_boot_script(name, address, self._keep, disks, keys))
        except BaseException:
            host.power_off()
            raise
        return host

    def _connect(self, namespace: str, link: str, address: str) -> None:
        # A new host at the same address has the same hardware address, so others reach it at once.
        peer = ["peer", "name", "eth0", "address", _hardware(address), "netns", namespace]
        _ip("link", "add", link, "type", "veth", *peer)
        _ip("link", "set", link, "master", self._bridge, "up")
        within = f"{address}/{self.network.prefixlen}"
        _ip("-n", namespace, "address", "add", within, "dev", "eth0")
        _ip("-n", namespace, "link", "set", "lo", "up")
        _ip("-n", namespace, "link", "set", "eth0", "up")

    def _end(self) -> None:
        assert self._guard is not None, "the guard was started"
        assert self._guard.stdin is not None, "its stdin is a pipe"
        self._guard.stdin.close()
        if self._guard.wait(2 * END_S):
            raise RuntimeError(f"virtual hosts {self._prefix!r} were not removed, see above")


def _boot_script(
    name: str, address: str, keep: Sequence[Path], disks: Sequence[Disk], keys: Sequence[str]
) -> str:
    """Return the shell script of a host's first process; it ends by starting the sshd."""
    quoted = shlex.quote
    mounts = [(directory, str(directory), "ro") for directory in keep]
    mounts += [(disk.directory, disk.at, "rw") for disk in disks]
    stage = [f"/mnt/stage-{number}" for number in range(len(mounts))]
    lines = ["set -eu", f"hostname {quoted(name)}", "mount -t tmpfs none /mnt"]
    # Moved to a stage first, because the private folders cover them.
    for staged, (directory, _, _) in zip(stage, mounts, strict=True):
        lines += [f"mkdir {staged}", f"mount --bind {quoted(str(directory))} {staged}"]
    lines += ["mount -o remount,bind,ro /"]
    for top, mode in PRIVATE.items():
        if top != "/mnt":
            lines += [f"[ ! -d {top} ] || mount -t tmpfs -o mode={mode} none {top}"]
    for staged, (_, at, access) in zip(stage, mounts, strict=True):
        lines += [
            f"mkdir -p {quoted(at)}",
            f"mount --move {staged} {quoted(at)}",
            f"rmdir {staged}",
        ]
        if access == "ro":
            lines += [f"mount -o remount,bind,ro {quoted(at)}"]
    lines += [
        f"printf '127.0.0.1 localhost\\n%s %s\\n' {address} {quoted(name)} > /run/hosts",
        "mount --bind /run/hosts /etc/hosts",
        "tr -d - < /proc/sys/kernel/random/uuid > /run/machine-id",
        "[ ! -e /etc/machine-id ] || mount --bind /run/machine-id /etc/machine-id",
        "cp -r /etc/skel/. /root/",
        "mkdir -p -m 700 /root/.ssh /run/sshd",
        f"printf '%s\\n' {shlex.join(keys)} > /root/.ssh/authorized_keys",
        "ssh-keygen -q -t ed25519 -N '' -f /run/sshd/key",
    ]
    options = {
        "ListenAddress": address,
        "PermitRootLogin": "prohibit-password",
        "PasswordAuthentication": "no",
        "UsePAM": "no",
        "PidFile": "none",
        "MaxStartups": "100",
        "Subsystem": "sftp internal-sftp",
    }
    words = [word for option, value in options.items() for word in ("-o", f"{option}={value}")]
    sshd = shutil.which("sshd", path=PATH) or "sshd"  # it must be started by its absolute path
    command = ["exec", sshd, "-D", "-e", "-f", "/dev/null", "-h", "/run/sshd/key", *words]
    lines += [shlex.join(command)]
    return "\n".join(lines)


def _hidden(keep: Sequence[Path]) -> list[Path]:
    """Return the folders that a private one would cover, without those inside another of them."""
    wanted = {each.resolve() for each in keep}
    tops = [each for each in wanted if not any(other in each.parents for other in wanted)]
    return sorted(each for each in tops if _is_private(each))


def _is_private(directory: Path) -> bool:
    return any(Path(top) in directory.parents for top in PRIVATE)


@contextlib.contextmanager
def _lock(prefix: str) -> Iterator[socket.socket]:
    """Wait until no other process has hosts of this prefix, and lock the prefix.

    The lock is an abstract socket: the kernel frees its name when all processes that hold it end.
    """
    with socket.socket(socket.AF_UNIX) as lock:

        def is_ours() -> bool:
            with contextlib.suppress(OSError):
                lock.bind(f"\0virtual-hosts-{prefix}")
                return True
            return False

        wait_until(is_ours, 2 * END_S, f"the end of another test with hosts {prefix!r}")
        yield lock


def _remove_all(prefix: str) -> None:
    """Remove all links and namespaces with this prefix."""
    for link in links():
        if re.fullmatch(rf"{prefix}(br|v\d+)", link):
            _remove_link(link)
    for namespace in list(NAMESPACES.glob(f"{prefix}-*")):
        _remove_namespace(namespace.name)


def _remove_link(link: str) -> None:
    if link in links():
        _ip("link", "delete", link)


def links() -> list[str]:
    """Return the names of this machine's network links."""
    return [name for _, name in socket.if_nameindex()]


def _remove_namespace(namespace: str) -> None:
    """Kill all processes in a network namespace, then remove it."""

    def is_empty() -> bool:
        pids = [int(pid) for pid in _ip("netns", "pids", namespace).split()]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not pids

    if (NAMESPACES / namespace).exists():
        wait_until(is_empty, END_S, f"the end of the processes in {namespace}")
        _ip("netns", "delete", namespace)


def _ip(*arguments: str) -> str:
    result = subprocess.run(["ip", *arguments], env=ENVIRONMENT, capture_output=True, text=True)
    if result.returncode:
        raise OSError(f"ip {shlex.join(arguments)}: {result.stderr.strip()}")
    return result.stdout


def _has_ssh(address: str) -> bool:
    """Tell whether an sshd answers."""
    with contextlib.suppress(OSError), socket.create_connection((address, 22), timeout=1) as line:
        return line.recv(4) == b"SSH-"
    return False


def _hardware(address: str) -> str:
    """Return the hardware address for an IP address."""
    return "02:00:" + ipaddress.IPv4Address(address).packed.hex(":")


def _guard(prefix: str) -> None:
    """Wait until the process that started this one closes the pipe or ends; remove its hosts."""
    sys.stdin.buffer.read()
    _remove_all(prefix)


if __name__ == "__main__":
    _guard(sys.argv[1])
