"""What a machine's first fit would wait for, done while the search starts."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from search import beforehand as module
from search.beforehand import beforehand


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of modules that a process started here finds."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_is_waited_for(folder: Path) -> None:
    (folder / "slow.py").write_text("import time\ntime.sleep(0.5)\nopen('done', 'w').close()\n")
    with beforehand("slow") as wait:
        assert not (folder / "done").exists()
        wait()
        assert (folder / "done").exists()


def test_one_that_takes_too_long_is_not(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fits do it themselves then; nothing of it is left."""
    monkeypatch.setattr(module, "LONGEST_S", 0.1)
    (folder / "slow.py").write_text("import time\ntime.sleep(60)\n")
    started = time.monotonic()
    with beforehand("slow") as wait:
        wait()
    assert time.monotonic() - started < 30


def test_nothing_to_do_is_nothing() -> None:
    with beforehand(None) as wait:
        wait()
