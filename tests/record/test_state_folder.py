"""Each search has its own folder, and removes what killed searches left."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from search.errors import InputError
from search.record.state_folder import own_folder

STRANGE_NAMES = [
    "..",
    ".",
    ".hidden",
    "-rf",
    "a/b",
    "../elsewhere",
    "/absolute",
    "two words",
    "somebody's",
    "ünïcode",
    "検索" * 50,
    "%2e%2e",
    "x" * 100,
]


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path / ".search"


def fill(folder: Path) -> Path:
    """Put into a folder what a running search has there."""
    for name in ("ray", "tune"):
        (folder / name / "session").mkdir(parents=True)
        (folder / name / "session" / "file").write_text("x")
    (folder / "log.txt").write_text("x")
    return folder


def content(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"lock"}


def test_only_the_user_can_read_the_folder(state_dir: Path) -> None:
    """Logs and results are private, at any umask."""
    with own_folder(state_dir, "s1") as folder:
        assert folder == state_dir / "s1"
        assert [path.stat().st_mode & 0o777 for path in (state_dir, folder)] == [0o700, 0o700]


def test_parent_folders_are_made(tmp_path: Path) -> None:
    """The path of the state folder may be new."""
    with own_folder(tmp_path / "a" / "b" / "c", "s1") as folder:
        assert folder.is_dir()


def test_existing_state_folder_keeps_its_mode(tmp_path: Path) -> None:
    """The folder may hold other files of the user."""
    tmp_path.chmod(0o755)
    with own_folder(tmp_path, "s1"):
        assert tmp_path.stat().st_mode & 0o777 == 0o755


def test_name_in_use_gets_a_number(state_dir: Path) -> None:
    """Two searches of one name, in two experiments, do not share a folder."""
    with ExitStack() as stack:
        names = [stack.enter_context(own_folder(state_dir, "s1")).name for _ in range(3)]
        assert names == ["s1", "s1-2", "s1-3"]
    with own_folder(state_dir, "s1") as folder:
        assert folder.name == "s1"


def test_only_the_log_stays_after_a_search(state_dir: Path) -> None:
    """The files of Ray and Tune are removed at the end."""
    with own_folder(state_dir, "s1") as folder:
        fill(folder)
    assert content(folder) == {"log.txt"}


def test_only_the_log_stays_after_a_failed_search(state_dir: Path) -> None:
    """The files are removed however a search ends, and its error is raised."""
    with pytest.raises(ZeroDivisionError), own_folder(state_dir, "s1") as folder:
        _ = 1 / len(content(fill(folder)) - {"ray", "tune", "log.txt"})
    assert content(state_dir / "s1") == {"log.txt"}


@pytest.mark.parametrize("name", ["s1", "s2"])
def test_next_search_removes_the_files_of_a_killed_one(name: str, state_dir: Path) -> None:
    """The next search may have any name; only the log of the killed search stays."""
    code = (
        "import os, sys\nfrom pathlib import Path\n"
        "from search.record.state_folder import own_folder\n"
        "with own_folder(Path(sys.argv[1]), 's1') as folder:\n"
        "    (folder / 'ray' / 'session').mkdir(parents=True)\n"
        "    (folder / 'tune').mkdir()\n"
        "    (folder / 'log.txt').touch()\n"
        "    os._exit(9)\n"
    )
    assert run(code, str(state_dir)) == 9
    assert content(state_dir / "s1") == {"ray", "tune", "log.txt"}
    with own_folder(state_dir, name):
        assert content(state_dir / "s1") == {"log.txt"}


def test_files_of_a_running_search_stay(state_dir: Path) -> None:
    """Start and end of another search remove nothing of a running one."""
    with own_folder(state_dir, "s1") as folder:
        before = content(fill(folder))
        with own_folder(state_dir, "s1"), own_folder(state_dir, "s2"):
            assert content(folder) == before
        assert content(folder) == before


def test_other_files_stay(state_dir: Path) -> None:
    """A folder without our lock file, and a file, do not belong to a search."""
    other = fill(state_dir / "theirs")
    (state_dir / "s1.journal").write_text("x")
    before = content(other)
    with own_folder(state_dir, "s1"):
        pass
    assert content(other) == before
    assert (state_dir / "s1.journal").read_text() == "x"


def test_unreadable_folder_of_another_user_is_no_error(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state folder may be shared: mode 0700 hides even whether a file exists."""
    real = Path.exists

    def exists(path: Path) -> bool:
        if "theirs" in path.parts:
            raise PermissionError(13, "Permission denied")
        return real(path)

    (state_dir / "theirs").mkdir(parents=True)
    monkeypatch.setattr(Path, "exists", exists)
    with own_folder(state_dir, "mine") as folder:
        assert folder.name == "mine"


def test_folder_of_another_user_stays(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files in a folder that cannot be locked are not removed."""
    other = fill(state_dir / "theirs")
    (other / "lock").touch()
    real = os.open

    def refuses(path: Path, *more: Any, **named: Any) -> int:
        if path == other / "lock":
            raise PermissionError(13, "Permission denied")
        return real(path, *more, **named)

    monkeypatch.setattr(os, "open", refuses)
    with own_folder(state_dir, "s1") as folder:
        assert folder.name == "s1"
    assert "ray" in content(other)


class TestNames:
    @pytest.mark.parametrize("name", STRANGE_NAMES)
    def test_folder_is_in_the_state_folder(self, name: str, state_dir: Path) -> None:
        """No name leads to another folder, or to a path that is too long."""
        with own_folder(state_dir, name) as folder:
            assert folder.parent == state_dir
            assert folder.resolve().parent == state_dir.resolve()
            assert len(folder.name) <= 100

    def test_strange_names_do_not_share_a_folder(self, state_dir: Path) -> None:
        """Different names have different folders, also if the searches run one by one."""
        assert len({folder_name(state_dir, name) for name in STRANGE_NAMES}) == len(STRANGE_NAMES)

    @pytest.mark.parametrize("name", ["s1", "xgboost-20210101-000000-ab12", "A.b_c-1"])
    def test_plain_name_is_the_name_of_the_folder(self, name: str, state_dir: Path) -> None:
        """A user finds the log of a search by the name."""
        assert folder_name(state_dir, name) == name

    @settings(
        max_examples=30,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(name=st.text(st.characters(codec="utf-8"), min_size=1, max_size=100))
    def test_any_name_has_a_folder(self, name: str, state_dir: Path) -> None:
        """A name may have up to 100 characters of any kind."""
        with own_folder(state_dir, name) as folder:
            assert folder.parent == state_dir
            assert folder.is_dir()


@pytest.mark.parametrize("path", ["{file}", "{file}/below", "{file}/far/below"])
def test_folder_that_cannot_be_made_is_an_error_of_one_line(path: str, tmp_path: Path) -> None:
    """The message names the option and its value."""
    (tmp_path / "plain").touch()
    state_dir = Path(path.format(file=tmp_path / "plain"))
    with pytest.raises(InputError) as error, own_folder(state_dir, "s1"):
        pass
    assert str(error.value).startswith(f"--state-dir {state_dir}: ")
    assert "\n" not in str(error.value)


def test_file_with_the_name_of_the_search_is_an_error(state_dir: Path) -> None:
    """The file is not removed."""
    state_dir.mkdir()
    (state_dir / "s1").write_text("mine")
    with pytest.raises(InputError, match="--state-dir"), own_folder(state_dir, "s1"):
        pass
    assert (state_dir / "s1").read_text() == "mine"


def folder_name(state_dir: Path, name: str) -> str:
    with own_folder(state_dir, name) as folder:
        return folder.name


def run(code: str, *arguments: str) -> int:
    """Run code in another process; return its exit code."""
    command: Sequence[str] = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, timeout=60, check=False).returncode
