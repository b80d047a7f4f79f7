"""The figures in the documents are those that the benchmarks wrote."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import appetite, columns

TOP = Path(__file__).parent.parent


def test_lossless_columns() -> None:
    """The table of decision 3 is made from its JSON, and every point gave the same model."""
    points = json.loads((TOP / "benchmarks/results/columns.json").read_text())["points"]
    decision = (TOP / "docs/decisions/0003-lossless-columns.md").read_text()
    assert columns.table(points) in decision
    assert all(point["same_rmse"] for point in points)


def test_appetite() -> None:
    """The README's table of what a search takes is made from its JSON."""
    found = json.loads((TOP / "benchmarks/results/appetite.json").read_text())
    assert appetite.table(found) in (TOP / "README.md").read_text()
