"""The fault campaign's short form: each kind of fault once, at moments that are always the same."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import faults
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

Campaign = dict[str, Future[list[str]]]


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """All faults, some at a time; the first test to ask waits for the undisturbed search."""
    top = tmp_path_factory.mktemp("faults")
    undisturbed = faults.undisturbed_trials(top / "undisturbed")
    pool = ThreadPoolExecutor(faults.AT_ONCE)
    return {
        kind: pool.submit(faults.suffered, kind, top / f"{number}", number, undisturbed)
        for number, kind in enumerate(faults.kinds())
    }


@pytest.mark.parametrize("kind", faults.FAULTS)
def test_nothing_is_lost(kind: str, campaign: Campaign) -> None:
    """As many trials as asked, one run each, none RUNNING, the undisturbed search's results."""
    if kind not in campaign:
        pytest.skip("only root may mount a small disk")
    assert campaign[kind].result() == []
