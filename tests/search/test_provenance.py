"""Where a run says it came from."""

from __future__ import annotations

import re
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

from search import provenance


@pytest.fixture
def baked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Installed from a wheel: no checkout around, nothing handed over."""
    module = tmp_path / "site-packages" / "search" / "provenance.py"
    module.parent.mkdir(parents=True)
    monkeypatch.setattr(provenance, "__file__", str(module))
    monkeypatch.setattr(provenance, "BAKED_COMMIT", module.with_name("_commit.txt"))
    monkeypatch.delenv(provenance.COMMIT_VARIABLE, raising=False)
    return module.with_name("_commit.txt")


def test_commit_of_a_checkout() -> None:
    """In a checkout it is the checked-out commit."""
    top = Path(provenance.__file__).parent.parent
    if not (top / ".git").exists():
        pytest.skip("the tests run outside a checkout")
    asked = ["git", "-C", str(top), "rev-parse", "HEAD"]
    head = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    assert provenance.git_commit() == head


def test_commit_of_a_wheel(baked: Path) -> None:
    """Outside a checkout it is the commit that the wheel was built from."""
    baked.write_text("abc123\n")
    assert provenance.git_commit() == "abc123"


@pytest.mark.usefixtures("baked")
def test_commit_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without either it is what the submitting command handed over."""
    monkeypatch.setenv(provenance.COMMIT_VARIABLE, "def456")
    assert provenance.git_commit() == "def456"


@pytest.mark.usefixtures("baked")
def test_commit_unknown() -> None:
    """Without any of them it is said to be unknown, never guessed."""
    assert provenance.git_commit() == "unknown"


def test_missing_git_is_survived(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without git runs searches all the same."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv(provenance.COMMIT_VARIABLE, "def456")
    assert re.fullmatch(r"[0-9a-z]+", provenance.git_commit())


def test_requirements_pin_what_is_installed() -> None:
    """Every line is an exact version; what the search needs is among them."""
    lines = provenance.requirements().splitlines()
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==\S+", line) for line in lines)
    assert {f"{name}=={metadata.version(name)}" for name in ("xgboost", "mlflow")} <= set(lines)


def test_machine_is_named() -> None:
    """Python and platform are tags, as strings."""
    assert all(provenance.machine()[name] for name in ("python", "platform"))
