"""Each search has its own folder, and clears away what dead searches left."""

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
from search.state import own_folder

STRANGE = [
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


def leave(folder: Path) -> Path:
    """Put into a folder what a search that runs has there."""
    for name in ("ray", "tune"):
        (folder / name / "session").mkdir(parents=True)
        (folder / name / "session" / "file").write_text("x")
    (folder / "log.txt").write_text("x")
    return folder


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"lock"}


def test_it_is_for_this_user_only(state_dir: Path) -> None:
    """Logs and results are nobody else's to read, whatever the umask says."""
    with own_folder(state_dir, "s1") as folder:
        assert folder == state_dir / "s1"
        assert [path.stat().st_mode & 0o777 for path in (state_dir, folder)] == [0o700, 0o700]


def test_folders_above_are_made(tmp_path: Path) -> None:
    """A state folder may lie where there is nothing yet."""
    with own_folder(tmp_path / "a" / "b" / "c", "s1") as folder:
        assert folder.is_dir()


def test_a_state_folder_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    """It may hold more than ours."""
    tmp_path.chmod(0o755)
    with own_folder(tmp_path, "s1"):
        assert tmp_path.stat().st_mode & 0o777 == 0o755


def test_a_name_that_is_held_is_numbered(state_dir: Path) -> None:
    """Two searches of one name, in two experiments, do not share a folder."""
    with ExitStack() as stack:
        made = [stack.enter_context(own_folder(state_dir, "s1")).name for _ in range(3)]
        assert made == ["s1", "s1-2", "s1-3"]
    with own_folder(state_dir, "s1") as folder:
        assert folder.name == "s1"


def test_only_its_log_outlives_a_search(state_dir: Path) -> None:
    """What Ray and Tune wrote goes at the end."""
    with own_folder(state_dir, "s1") as folder:
        leave(folder)
    assert left(folder) == {"log.txt"}


def test_only_its_log_outlives_a_search_that_failed(state_dir: Path) -> None:
    """However a search ends, it clears away, and its error is the one that is told."""
    with pytest.raises(ZeroDivisionError), own_folder(state_dir, "s1") as folder:
        _ = 1 / len(left(leave(folder)) - {"ray", "tune", "log.txt"})
    assert left(state_dir / "s1") == {"log.txt"}


@pytest.mark.parametrize("name", ["s1", "s2"])
def test_what_a_killed_search_left_goes_with_the_next(name: str, state_dir: Path) -> None:
    """Whatever the next search is called, only the killed one's log is left of it."""
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom search.state import own_folder\n"
        "with own_folder(Path(sys.argv[1]), 's1') as folder:\n"
        "    (folder / 'ray' / 'session').mkdir(parents=True)\n"
        "    (folder / 'tune').mkdir()\n"
        "    (folder / 'log.txt').touch()\n"
        "    os._exit(9)\n"
    )
    assert run(code, str(state_dir)) == 9
    assert left(state_dir / "s1") == {"ray", "tune", "log.txt"}
    with own_folder(state_dir, name):
        assert left(state_dir / "s1") == {"log.txt"}


def test_what_a_living_search_has_stays(state_dir: Path) -> None:
    """The start and the end of another search cost a running one nothing."""
    with own_folder(state_dir, "s1") as folder:
        before = left(leave(folder))
        with own_folder(state_dir, "s1"), own_folder(state_dir, "s2"):
            assert left(folder) == before
        assert left(folder) == before


def test_what_is_not_a_searchs_stays(state_dir: Path) -> None:
    """A folder without our lock is somebody else's, whatever is in it, and so is a file."""
    theirs = leave(state_dir / "theirs")
    (state_dir / "s1.journal").write_text("x")
    before = left(theirs)
    with own_folder(state_dir, "s1"):
        pass
    assert left(theirs) == before
    assert (state_dir / "s1.journal").read_text() == "x"


def test_another_users_folder_that_cannot_be_looked_into_is_no_error(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state folder may be shared: 0700 hides even whether a file is there."""
    looked = Path.exists

    def exists(path: Path) -> bool:
        if "theirs" in path.parts:
            raise PermissionError(13, "Permission denied")
        return looked(path)

    (state_dir / "theirs").mkdir(parents=True)
    monkeypatch.setattr(Path, "exists", exists)
    with own_folder(state_dir, "mine") as folder:
        assert folder.name == "mine"


def test_another_users_folder_is_no_error(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where what is left cannot be locked, it is left."""
    theirs = leave(state_dir / "theirs")
    (theirs / "lock").touch()
    real = os.open

    def refuses(path: Path, *more: Any, **named: Any) -> int:
        if path == theirs / "lock":
            raise PermissionError(13, "Permission denied")
        return real(path, *more, **named)

    monkeypatch.setattr(os, "open", refuses)
    with own_folder(state_dir, "s1") as folder:
        assert folder.name == "s1"
    assert "ray" in left(theirs)


class TestNames:
    @pytest.mark.parametrize("name", STRANGE)
    def test_whatever_a_search_is_called_its_folder_lies_in_the_state_folder(
        self, name: str, state_dir: Path
    ) -> None:
        """A name leads to no other folder, and makes none that cannot be."""
        with own_folder(state_dir, name) as folder:
            assert folder.parent == state_dir
            assert folder.resolve().parent == state_dir.resolve()
            assert len(folder.name) <= 100

    def test_strange_names_do_not_share_a_folder(self, state_dir: Path) -> None:
        """Different names have different folders, one after the other too."""
        assert len({name_of(state_dir, name) for name in STRANGE}) == len(STRANGE)

    @pytest.mark.parametrize("name", ["s1", "xgboost-20210101-000000-ab12", "A.b_c-1"])
    def test_a_plain_name_is_the_folders(self, name: str, state_dir: Path) -> None:
        """A user finds the log of a search by its name."""
        assert name_of(state_dir, name) == name

    @settings(
        max_examples=30,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(name=st.text(st.characters(codec="utf-8"), min_size=1, max_size=100))
    def test_any_name_has_a_folder(self, name: str, state_dir: Path) -> None:
        """No name is too strange or too long."""
        with own_folder(state_dir, name) as folder:
            assert folder.parent == state_dir
            assert folder.is_dir()


@pytest.mark.parametrize("place", ["{file}", "{file}/below", "{file}/far/below"])
def test_a_folder_that_cannot_be_made_is_said_in_one_line(place: str, tmp_path: Path) -> None:
    """The option is named, with what it led to."""
    (tmp_path / "plain").touch()
    state_dir = Path(place.format(file=tmp_path / "plain"))
    with pytest.raises(InputError) as error, own_folder(state_dir, "s1"):
        pass
    assert str(error.value).startswith(f"--state-dir {state_dir}: ")
    assert "\n" not in str(error.value)


def test_a_file_of_the_searchs_name_is_said(state_dir: Path) -> None:
    """What stands in the way is not removed."""
    state_dir.mkdir()
    (state_dir / "s1").write_text("mine")
    with pytest.raises(InputError, match="--state-dir"), own_folder(state_dir, "s1"):
        pass
    assert (state_dir / "s1").read_text() == "mine"


def name_of(state_dir: Path, name: str) -> str:
    with own_folder(state_dir, name) as folder:
        return folder.name


def run(code: str, *arguments: str) -> int:
    """Run code in a process of its own; return its exit code."""
    command: Sequence[str] = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, timeout=60, check=False).returncode
