"""Puts the figures that the benchmarks wrote into the documents that state them.

``python -m benchmarks.tables`` rewrites what stands between a document's marks, such as
``<!-- peers -->`` and ``<!-- end -->``, from ``benchmarks/results``; a test holds the two together.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import (
    appetite,
    columns,
    halving,
    nodes,
    overhead,
    peers,
    quality,
    scale,
    suggestions,
    utilisation,
)

TOP = Path(__file__).parent.parent
RESULTS = TOP / "benchmarks" / "results"
README = "README.md"
FITS = "docs/decisions/0003-lossless-columns.md"
HALVING = "docs/decisions/0007-halving.md"

Found = dict[str, Any]

# mark -> document, result, what is made of it
TABLES: dict[str, tuple[str, str, Callable[[Found], str]]] = {
    "appetite": (README, "appetite", appetite.table),
    "peers": (README, "peers", peers.table),
    "utilisation": (README, "utilisation", utilisation.table),
    "overhead": (README, "overhead", lambda found: overhead.table(found["rows"])),
    "scale": (README, "scale", lambda found: scale.table(found["rows"])),
    "slots": (README, "slots", lambda found: scale.efficiency_table(found["rows"])),
    "nodes": (README, "nodes", nodes.table),
    "suggestions": ("docs/decisions/0006-slots.md", "suggestions", suggestions.table),
    "quality": (README, "quality", quality.table),
    "columns": (FITS, "columns", lambda found: columns.table(found["points"])),
    "methods": (FITS, "columns", columns.methods_table),
    "kept": (FITS, "columns", columns.kept_table),
    "halving": (HALVING, "halving", halving.table),
    "told": (HALVING, "halving", halving.told_table),
}


def main() -> None:
    """Rewrite every document."""
    for document in {document for document, _, _ in TABLES.values()}:
        path = TOP / document
        text = path.read_text()
        for mark, made in made_for(document):
            text = re.sub(_between(mark), lambda _, made=made: made, text, flags=re.DOTALL)  # type: ignore[misc]
        path.write_text(text)


def made_for(document: str) -> Iterator[tuple[str, str]]:
    """Yield the marks of a document and what is to stand there, the marks included."""
    for mark, (where, result, table) in TABLES.items():
        if where == document:
            found = json.loads((RESULTS / f"{result}.json").read_text())
            yield mark, f"<!-- {mark} -->\n{table(found).strip()}\n\n{_where(found)}\n<!-- end -->"


def _between(mark: str) -> str:
    return f"<!-- {mark} -->.*?<!-- end -->"


def _where(found: Found) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return f"({found['cores']} cores, {found['machine']}, Python {found['python']}; {versions})"


if __name__ == "__main__":
    main()
