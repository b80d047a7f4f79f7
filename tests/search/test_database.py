"""A database that MLflow opens by itself: what cannot be used is told, and one process makes it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from search import database
from search.errors import InputError
from search.store import Store, see_answers

NewStore = Callable[[Path], str]


def _stamp(place: Path, revision: str | None) -> None:
    """Write which revision of the schema a database has, or that it says none yet."""
    with contextlib.closing(sqlite3.connect(place)) as opened, opened:
        opened.execute("DELETE FROM alembic_version")
        if revision:
            opened.execute("INSERT INTO alembic_version VALUES (?)", [revision])


def test_mlflow_may_be_making_the_database(new_store: NewStore, tmp_path: Path) -> None:
    """Whoever opened it a moment before goes through the migrations, and nobody else does."""
    see_answers(new_store(tmp_path))  # imports what would take longer than the other's work
    place = tmp_path / "new.db"
    opened = "import sys; from mlflow import MlflowClient as Client; Client(sys.argv[1])"
    opens = [sys.executable, "-c", f"{opened}.search_experiments()", f"sqlite:///{place}"]
    with subprocess.Popen(opens, stderr=subprocess.PIPE, text=True) as other:
        while not place.exists():
            assert other.poll() is None
        assert Store.connect(f"sqlite:///{place}", "taxis").experiment_id
        said = other.communicate(timeout=60)[1]
        assert other.returncode == 0, said


@pytest.mark.parametrize("revision", [None, "451aebb31d03"])
def test_a_database_that_is_being_made_is_left_alone_until_it_is_made(
    revision: str | None,
    new_store: NewStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By `mlflow ui`, say: it has no schema yet, or that of a migration in between."""
    uri, place = new_store(tmp_path), tmp_path / "mlflow.db"
    latest = database._revision(place)
    _stamp(place, revision)
    waits: list[float] = []

    def go_on(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            _stamp(place, latest)

    monkeypatch.setattr(time, "sleep", go_on)
    assert Store.connect(uri, "taxis").experiment_id
    assert len(waits) == 3


@pytest.mark.parametrize("written_s", [1.0, time.time() + 86_400])
def test_one_that_nobody_writes_is_not_waited_for(
    written_s: float, new_store: NewStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was made by an MLflow of another version: MLflow's own words say what to do."""
    uri, place = new_store(tmp_path), tmp_path / "mlflow.db"
    _stamp(place, "451aebb31d03")
    os.utime(place, (written_s, written_s))
    monkeypatch.setattr(time, "sleep", pytest.fail)
    with pytest.raises(InputError, match="mlflow db upgrade"):
        Store.connect(uri, "taxis")


def test_one_that_another_version_keeps_writing_is_not_waited_for_long(
    new_store: NewStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server of last year, say: it never comes to this MLflow's schema."""
    uri, place = new_store(tmp_path), tmp_path / "mlflow.db"
    _stamp(place, "451aebb31d03")
    monkeypatch.setattr(database, "LONGEST_S", 0.1)
    with pytest.raises(InputError, match="mlflow db upgrade"):
        Store.connect(uri, "taxis")


@pytest.mark.parametrize("create", [True, False])
@pytest.mark.parametrize(
    ("there", "said"),
    [
        ("folder", "is a folder"),
        ("file/mlflow.db", "file is no folder"),
        ("file", "not a database"),
    ],
)
def test_what_cannot_be_a_database_is_told_at_once(
    there: str, said: str, *, create: bool, tmp_path: Path
) -> None:
    """MLflow would try for two minutes."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("a text, and no database")
    uri = f"sqlite:///{tmp_path / there}"
    for ask in (lambda: Store.connect(uri, "taxis", create=create), lambda: see_answers(uri)):
        with pytest.raises(InputError, match=f"tracking store {uri}: .*{said}"):
            ask()


def test_a_folder_that_cannot_be_written_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(InputError, match=f"the folder {tmp_path} cannot be written"):
        Store.connect(f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}", "taxis")


def test_a_file_that_cannot_be_written_is_told_at_once(
    new_store: NewStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, real = new_store(tmp_path), database._opened
    monkeypatch.setattr(database, "_opened", lambda place, _: real(place, "ro"))
    with pytest.raises(InputError, match="attempt to write a readonly database"):
        Store.connect(uri, "taxis")


def test_one_that_somebody_writes_just_now_can_be_used(
    new_store: NewStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of eight searches in one file has to wait now and then."""
    uri = new_store(tmp_path)
    monkeypatch.setattr(database, "LOCKED_S", 0.01)
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert database.see_usable(uri)


def test_to_see_that_it_can_be_written_leaves_it_as_it_was(
    new_store: NewStore, tmp_path: Path
) -> None:
    uri, place = new_store(tmp_path), tmp_path / "mlflow.db"
    before = place.read_bytes()
    assert database.see_usable(uri)
    assert place.read_bytes() == before
    assert list(tmp_path.iterdir()) == [place]


@pytest.mark.parametrize("is_empty", [True, False])
def test_to_look_makes_nothing(*, is_empty: bool, tmp_path: Path) -> None:
    """Neither the look before a search nor a search that is to be gone on with."""
    place = tmp_path / "mlflow.db"
    if is_empty:
        place.touch()
    before = list(tmp_path.iterdir())
    assert not see_answers(f"sqlite:///{place}")
    with pytest.raises(InputError, match="it is not there, so there is no search to go on with"):
        Store.connect(f"sqlite:///{place}", "taxis", create=False)
    assert list(tmp_path.iterdir()) == before
    assert not is_empty or not place.stat().st_size


def test_it_is_made_where_a_link_leads_and_in_a_folder_that_is_not_there(tmp_path: Path) -> None:
    place, link = tmp_path / "new" / "mlflow.db", tmp_path / "link.db"
    link.symlink_to(place)
    assert Store.connect(f"sqlite:///{link}", "taxis").experiment_id
    assert link.is_symlink()
    assert list(place.parent.iterdir()) == [place]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "ask", [see_answers, lambda uri: Store.connect(uri, "taxis")], ids=["look", "search"]
)
def test_a_postgresql_that_is_not_there_is_told_at_once(ask: Callable[[str], object]) -> None:
    with pytest.raises(InputError, match=r"127\.0\.0\.1\S* cannot be used") as error:
        ask("postgresql://me:secret@127.0.0.1:1/mlflow")
    assert "secret" not in str(error.value)
