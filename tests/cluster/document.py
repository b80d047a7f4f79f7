"""The commands of a document, for tests that run what it tells its reader to type."""

from __future__ import annotations

import re
from pathlib import Path

BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.DOTALL | re.MULTILINE)


class Commands:
    """The blocks of shell commands in a Markdown file, each to be taken at least once."""

    def __init__(self, file: Path) -> None:
        """Read the file."""
        self._blocks: list[str] = BLOCK.findall(file.read_text())
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
