"""The figures in the documents are those that the benchmarks wrote."""

from __future__ import annotations

import json

import pytest

from benchmarks import tables


@pytest.mark.parametrize("mark", tables.TABLES)
def test_documents_show_what_was_measured(mark: str) -> None:
    """Each table is made from its JSON, with the machine and the versions it was measured on."""
    document = tables.TABLES[mark][0]
    assert dict(tables.made_for(document))[mark] in (tables.TOP / document).read_text()


def test_every_way_to_xgboosts_model_gave_the_same() -> None:
    """At each point of the grid, grown, pruned and bundled had one RMSE."""
    points = json.loads((tables.RESULTS / "columns.json").read_text())["points"]
    assert all(point["same_rmse"] for point in points)


def test_the_same_points_gave_the_same_best() -> None:
    """Ours and each peer found the same RMSE, to six digits."""
    assert json.loads((tables.RESULTS / "peers.json").read_text())["same_rmse"]
