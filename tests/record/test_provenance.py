"""A run says where it came from: commit, packages, machine, user."""

from __future__ import annotations

import os
import re
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

from search.record import provenance


@pytest.fixture
def baked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pretend that a wheel is installed: no checkout, and no variable; return its commit file."""
    package = tmp_path / "site-packages" / "search"
    (package / "record").mkdir(parents=True)
    monkeypatch.setattr(provenance, "__file__", str(package / "record" / "provenance.py"))
    monkeypatch.setattr(provenance, "BAKED_COMMIT", package / "_commit.txt")
    monkeypatch.delenv(provenance.COMMIT_VARIABLE, raising=False)
    return package / "_commit.txt"


def test_commit_file_is_beside_the_package() -> None:
    """A wheel has the commit in search/_commit.txt, where setup.py writes it."""
    import search

    assert Path(search.__file__).with_name("_commit.txt") == provenance.BAKED_COMMIT


def test_commit_of_a_checkout() -> None:
    """In a checkout it is the checked-out commit."""
    top = Path(provenance.__file__).parents[2]
    if not (top / ".git").exists():
        pytest.skip("the tests run outside a checkout")
    command = ["git", "-C", str(top), "rev-parse", "HEAD"]
    head = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert provenance.git_commit() == head


def test_commit_of_a_wheel(baked: Path) -> None:
    """Outside a checkout it is the commit that the wheel was built from."""
    baked.write_text("abc123\n")
    assert provenance.git_commit() == "abc123"


@pytest.mark.usefixtures("baked")
def test_commit_of_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without checkout and wheel it is the commit in the environment variable."""
    monkeypatch.setenv(provenance.COMMIT_VARIABLE, "def456")
    assert provenance.git_commit() == "def456"


@pytest.mark.usefixtures("baked")
def test_commit_is_unknown_without_a_source() -> None:
    """The commit is never guessed."""
    assert provenance.git_commit() == "unknown"


def test_missing_git_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without git can run searches."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv(provenance.COMMIT_VARIABLE, "def456")
    assert re.fullmatch(r"[0-9a-z]+", provenance.git_commit())


def test_requirements_pin_the_installed_versions() -> None:
    """Every line is an exact version; the search's own dependencies are among them."""
    lines = provenance.requirements().splitlines()
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==\S+", line) for line in lines)
    assert {f"{name}=={metadata.version(name)}" for name in ("xgboost", "mlflow")} <= set(lines)


def test_machine_has_python_and_platform() -> None:
    """Both are tags, so they are texts."""
    assert all(provenance.machine()[name] for name in ("python", "platform"))


def test_user_without_a_name_is_the_user_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container, the user may be missing in the password file."""

    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr("getpass.getuser", nameless)
    assert provenance.os_user() == str(os.getuid())
