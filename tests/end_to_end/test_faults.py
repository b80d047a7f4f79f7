"""The short form of the fault campaign: each kind of fault once, with fixed seeds."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import faults
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

Campaign = dict[str, Future[list[str]]]


@pytest.fixture(scope="module")
def campaign(
    tmp_path_factory: pytest.TempPathFactory, without_fault: Mapping[str, object]
) -> Campaign:
    """All faults, some in parallel."""
    top = tmp_path_factory.mktemp("faults")
    pool = ThreadPoolExecutor(faults.AT_ONCE)
    return {
        kind: pool.submit(faults.run_with_fault, kind, top / f"{number}", number, without_fault)
        for number, kind in enumerate(faults.kinds())
    }


@pytest.mark.parametrize("kind", faults.FAULTS)
def test_nothing_is_lost(kind: str, campaign: Campaign) -> None:
    """Every trial has one run, no run is RUNNING, and the outcomes are those without a fault."""
    if kind not in campaign:
        pytest.skip("only root may mount a small disk")
    assert campaign[kind].result() == []
