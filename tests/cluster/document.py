"""The shell commands of a document, and a user that runs them, for tests of the document."""

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
    """The blocks of shell commands in a Markdown file; a test uses each at least once."""

    def __init__(self, file: Path, replacements: Mapping[str, str]) -> None:
        """Read the file. ``replacements``: text of the document -> text of this test."""
        self._blocks: list[str] = BLOCK.findall(file.read_text())
        for original, replacement in replacements.items():
            assert any(original in block for block in self._blocks), original
            self._blocks = [block.replace(original, replacement) for block in self._blocks]
        self._used: set[str] = set()

    def block(self, start: str) -> str:
        """Return the one block that starts with this text."""
        (block,) = [each for each in self._blocks if each.startswith(start)]
        self._used.add(block)
        return block

    def blocks_until(self, start: str) -> str:
        """Return all blocks up to the one that starts with this text, as one script."""
        (last,) = [n for n, each in enumerate(self._blocks) if each.startswith(start)]
        blocks = self._blocks[: last + 1]
        self._used.update(blocks)
        return "\n".join(blocks)

    @property
    def unused(self) -> list[str]:
        """The blocks that no test has used."""
        return [block for block in self._blocks if block not in self._used]


@dataclass(frozen=True)
class Terminal:
    """A command that runs in its own terminal."""

    process: subprocess.Popen[bytes]
    file: Path  # of its output

    @property
    def output(self) -> str:
        return self.file.read_text(errors="replace")

    def interrupt(self) -> None:
        """Press Ctrl-C, and wait for the end."""
        os.killpg(self.process.pid, signal.SIGINT)
        self.process.wait(30)

    def wait_until(self, ready: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Wait until ``ready`` returns true while the command runs."""

        def is_ready() -> bool:
            result = ready()
            assert result or self.process.poll() is None, f"it ended, its output: {self.output}"
            return result

        wait_until(is_ready, timeout_s, f"{what}; its output is in {self.file}", every_s=0.3)

    def wait(self, timeout_s: float) -> int:
        """Wait until it ends; return its exit code."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end, its output: {self.output}") from None


class User:
    """A user of the document, on a host that has the checkout; each block runs in a new shell."""

    def __init__(
        self,
        host: Host,
        checkout: Path | str,
        commands: Commands,
        environment: Mapping[str, str],
        folder: Path,
    ) -> None:
        """``folder``: for the output of commands in their own terminals."""
        self.host, self.commands = host, commands
        self._first = f"set -e; cd {shlex.quote(str(checkout))}\n{commands.block('export ')}"
        self._environment, self._folder = environment, folder

    def run_block(self, start: str, timeout_s: float = 150) -> str:
        """Run the block of the document that starts with this text; return its output."""
        return self.run(self.commands.block(start), timeout_s)

    def run(self, commands: str, timeout_s: float = 150) -> str:
        """Run commands to their end; return their output."""
        result = self.host.run(f"{self._first}\n{commands}", timeout_s, self._environment)
        assert result.returncode == 0, f"{commands}\n{result.stdout}\n{result.stderr}"
        return result.stdout + result.stderr

    def open(self, command: str, name: str) -> Terminal:
        """Start a command in its own terminal."""
        file = self._folder / f"{name}.txt"
        process = self.host.start(f"{self._first}\n{command}", file, self._environment)
        return Terminal(process, file)
