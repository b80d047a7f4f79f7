"""The documents have the figures that the benchmarks measured."""

from __future__ import annotations

import json

import pytest

from benchmarks import tables


@pytest.mark.parametrize("mark", tables.TABLES)
def test_documents_show_what_was_measured(mark: str) -> None:
    """Each table in a document is the one made from its JSON, with machine and versions."""
    document = tables.TABLES[mark][0]
    assert dict(tables.sections_of(document))[mark] in (tables.TOP / document).read_text()


def test_all_ways_to_fit_had_the_same_rmse() -> None:
    """At each point of the grid, the grown, pruned and bundled fits had the same RMSE."""
    points = json.loads((tables.RESULTS / "columns.json").read_text())["points"]
    assert all(point["same_rmse"] for point in points)


def test_all_tools_had_the_same_best_rmse() -> None:
    """Our search and each other tool found the same RMSE, to six digits."""
    assert json.loads((tables.RESULTS / "peers.json").read_text())["same_rmse"]
