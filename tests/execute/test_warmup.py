"""The work that a machine's first fit needs is done while the search starts."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from search.execute import warmup as module
from search.execute.warmup import warmup


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose modules a process that is started here can run."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_wait_returns_when_the_module_has_run(folder: Path) -> None:
    (folder / "slow.py").write_text("import time\ntime.sleep(0.5)\nopen('done', 'w').close()\n")
    with warmup("slow") as wait:
        assert not (folder / "done").exists()
        wait()
        assert (folder / "done").exists()


def test_module_that_takes_too_long_is_killed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first fits do its work then."""
    monkeypatch.setattr(module, "LONGEST_S", 0.1)
    (folder / "slow.py").write_text("import time\ntime.sleep(60)\n")
    started = time.monotonic()
    with warmup("slow") as wait:
        wait()
    assert time.monotonic() - started < 30


def test_wait_returns_at_once_without_a_module() -> None:
    with warmup(None) as wait:
        wait()
