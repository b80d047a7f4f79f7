"""Writes the results of the benchmarks into the documents.

``python -m benchmarks.tables`` rewrites the text between a document's marks, such as
``<!-- peers -->`` and ``<!-- end -->``, from ``benchmarks/results``. A test checks that both agree.
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
BENCHMARKS = "docs/benchmarks.md"
FITS = "docs/decisions/0003-lossless-columns.md"
HALVING = "docs/decisions/0007-halving.md"

Found = dict[str, Any]

# mark -> document, result file, function that makes the table
TABLES: dict[str, tuple[str, str, Callable[[Found], str]]] = {
    "speed": (README, "peers", peers.short_table),
    "appetite": (BENCHMARKS, "appetite", appetite.table),
    "peers": (BENCHMARKS, "peers", peers.table),
    "utilisation": (BENCHMARKS, "utilisation", utilisation.table),
    "overhead": (BENCHMARKS, "overhead", lambda found: overhead.table(found["rows"])),
    "scale": (BENCHMARKS, "scale", lambda found: scale.table(found["rows"])),
    "slots": (BENCHMARKS, "slots", lambda found: scale.efficiency_table(found["rows"])),
    "nodes": (BENCHMARKS, "nodes", nodes.table),
    "suggestions": ("docs/decisions/0006-slots.md", "suggestions", suggestions.table),
    "quality": (BENCHMARKS, "quality", quality.table),
    "columns": (FITS, "columns", lambda found: columns.table(found["points"])),
    "methods": (FITS, "columns", columns.methods_table),
    "kept": (FITS, "columns", columns.kept_table),
    "halving": (HALVING, "halving", halving.table),
    "told": (HALVING, "halving", halving.reported_table),
}


def main() -> None:
    """Rewrite every document."""
    for document in {document for document, _, _ in TABLES.values()}:
        path = TOP / document
        text = path.read_text()
        for mark, section in sections_of(document):
            text = re.sub(_between(mark), lambda _, new=section: new, text, flags=re.DOTALL)  # type: ignore[misc]
        path.write_text(text)


def sections_of(document: str) -> Iterator[tuple[str, str]]:
    """Yield each mark of a document and the text for it, with both marks."""
    for mark, (where, result, table) in TABLES.items():
        if where == document:
            found = json.loads((RESULTS / f"{result}.json").read_text())
            yield (
                mark,
                f"<!-- {mark} -->\n{table(found).strip()}\n\n{_machine(found)}\n<!-- end -->",
            )


def _between(mark: str) -> str:
    return f"<!-- {mark} -->.*?<!-- end -->"


def _machine(found: Found) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return f"({found['cores']} cores, {found['machine']}, Python {found['python']}; {versions})"


if __name__ == "__main__":
    main()
