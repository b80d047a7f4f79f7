"""What a node tells of itself."""

from __future__ import annotations

from search.execute.node_probe import NONE, NodeInfo, code_digest


def test_this_process_has_its_packages_code_and_disk() -> None:
    info = NodeInfo.here()
    assert info.packages["xgboost"] != NONE
    assert info.code == code_digest()
    assert len(info.code) == 12
    assert info.free_bytes > 0
