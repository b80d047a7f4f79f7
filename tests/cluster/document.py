"""A document's commands, and whoever types them, for tests that do what it tells its reader."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from command import wait_until

from benchmarks.hosts import Host

BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.DOTALL | re.MULTILINE)


class Commands:
    """The blocks of shell commands in a Markdown file, each to be taken at least once."""

    def __init__(self, file: Path, instead: Mapping[str, str]) -> None:
        """Read the file. ``instead``: what is typed here for what its reader types."""
        self._blocks: list[str] = BLOCK.findall(file.read_text())
        for theirs, ours in instead.items():
            assert any(theirs in block for block in self._blocks), theirs
            self._blocks = [block.replace(theirs, ours) for block in self._blocks]
        self._taken: set[str] = set()

    def take(self, beginning: str) -> str:
        """Return the one block that begins so."""
        (block,) = [each for each in self._blocks if each.startswith(beginning)]
        self._taken.add(block)
        return block

    def take_up_to(self, beginning: str) -> str:
        """Return all blocks down to the one that begins so, as one script."""
        (last,) = [n for n, each in enumerate(self._blocks) if each.startswith(beginning)]
        taken = self._blocks[: last + 1]
        self._taken.update(taken)
        return "\n".join(taken)

    @property
    def left(self) -> list[str]:
        """The blocks that nobody has taken."""
        return [block for block in self._blocks if block not in self._taken]


@dataclass(frozen=True)
class Terminal:
    """A command under way."""

    process: subprocess.Popen[bytes]
    output: Path

    @property
    def said(self) -> str:
        return self.output.read_text(errors="replace")

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        os.killpg(self.process.pid, signal.SIGINT)
        self.process.wait(30)

    def wait_until(self, ready: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Wait for something that the command brings about."""

        def happened() -> bool:
            is_ready = ready()
            assert is_ready or self.process.poll() is None, f"it ended, saying: {self.said}"
            return is_ready

        wait_until(happened, timeout_s, f"{what}; it says: {self.output}", every_s=0.3)

    def ended(self, timeout_s: float) -> int:
        """Wait for its end; return its exit code."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"no end, saying: {self.said}") from None


class Reader:
    """Who follows a document, on a host that has the checkout: each block in a new shell."""

    def __init__(
        self,
        host: Host,
        checkout: Path | str,
        commands: Commands,
        environment: Mapping[str, str],
        folder: Path,
    ) -> None:
        """``folder``: for what is said in terminals of their own."""
        self.host, self.commands = host, commands
        self._first = f"set -e; cd {shlex.quote(str(checkout))}\n{commands.take('export ')}"
        self._environment, self._folder = environment, folder

    def types(self, beginning: str, timeout_s: float = 150) -> str:
        """Run the block of the document that begins so; return what it said."""
        return self.run(self.commands.take(beginning), timeout_s)

    def run(self, commands: str, timeout_s: float = 150) -> str:
        """Run commands to their end; return what they said."""
        ended = self.host.run(f"{self._first}\n{commands}", timeout_s, self._environment)
        assert ended.returncode == 0, f"{commands}\n{ended.stdout}\n{ended.stderr}"
        return ended.stdout + ended.stderr

    def open(self, command: str, name: str) -> Terminal:
        """Start a command in a terminal of its own."""
        output = self._folder / f"{name}.txt"
        process = self.host.start(f"{self._first}\n{command}", output, self._environment)
        return Terminal(process, output)
