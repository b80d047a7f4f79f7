"""A database that MLflow opens by itself is checked at once, and made by one process."""

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

from search.errors import InputError
from search.record import database, mlflow_schema
from search.record.connection import answers, connect

NewStore = Callable[[Path], str]


def _set_revision(place: Path, revision: str | None) -> None:
    """Set the revision of a database's schema; None: it has none yet."""
    with contextlib.closing(sqlite3.connect(place)) as opened, opened:
        opened.execute("DELETE FROM alembic_version")
        if revision:
            opened.execute("INSERT INTO alembic_version VALUES (?)", [revision])


def test_database_that_mlflow_makes_is_waited_for(new_store: NewStore, tmp_path: Path) -> None:
    """Only the process that opened the database first runs the migrations."""
    answers(new_store(tmp_path))  # imports what would take longer than the other's work
    place = tmp_path / "new.db"
    code = "import sys; from mlflow import MlflowClient as Client; Client(sys.argv[1])"
    command = [sys.executable, "-c", f"{code}.search_experiments()", f"sqlite:///{place}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as other:
        while not place.exists():
            assert other.poll() is None
        assert connect(f"sqlite:///{place}", "taxis").experiment_id
        errors = other.communicate(timeout=60)[1]
        assert other.returncode == 0, errors


@pytest.mark.parametrize("revision", [None, "451aebb31d03"])
def test_migration_of_another_process_is_waited_for(
    revision: str | None,
    new_store: NewStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """During the migration the database has no revision yet, or one in between."""
    uri, place = new_store(tmp_path), tmp_path / "mlflow.db"
    latest = database._revision(place)
    _set_revision(place, revision)
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            _set_revision(place, latest)

    monkeypatch.setattr(time, "sleep", sleep)
    assert connect(uri, "taxis").experiment_id
    assert len(waits) == 3


@pytest.mark.parametrize("written_s", [1.0, time.time() + 86_400])
def test_old_database_that_no_process_writes_is_not_waited_for(
    written_s: float, new_store: NewStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another version of MLflow made the database: MLflow's own message says what to do."""
    uri, place = new_store(tmp_path), tmp_path / "mlflow.db"
    _set_revision(place, "451aebb31d03")
    os.utime(place, (written_s, written_s))
    monkeypatch.setattr(time, "sleep", pytest.fail)
    with pytest.raises(InputError, match="mlflow db upgrade"):
        connect(uri, "taxis")


def test_wait_for_an_old_database_that_is_written_ends(
    new_store: NewStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server of an older version never migrates the database to this version's schema."""
    uri, place = new_store(tmp_path), tmp_path / "mlflow.db"
    _set_revision(place, "451aebb31d03")
    monkeypatch.setattr(database, "LONGEST_S", 0.1)
    with pytest.raises(InputError, match="mlflow db upgrade"):
        connect(uri, "taxis")


@pytest.mark.parametrize("create", [True, False])
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("folder", "is a folder"),
        ("file/mlflow.db", "file is no folder"),
        ("file", "not a database"),
    ],
)
def test_path_that_cannot_be_a_database_is_refused_at_once(
    path: str, message: str, *, create: bool, tmp_path: Path
) -> None:
    """MLflow would try for two minutes."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("a text, and no database")
    uri = f"sqlite:///{tmp_path / path}"
    for ask in (lambda: connect(uri, "taxis", create=create), lambda: answers(uri)):
        with pytest.raises(InputError, match=f"tracking store {uri}: .*{message}"):
            ask()


def test_folder_that_cannot_be_written_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(InputError, match=f"the folder {tmp_path} cannot be written"):
        connect(f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}", "taxis")


def test_file_that_cannot_be_written_is_refused_at_once(
    new_store: NewStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, real = new_store(tmp_path), database._opened
    monkeypatch.setattr(database, "_opened", lambda place, _: real(place, "ro"))
    with pytest.raises(InputError, match="attempt to write a readonly database"):
        connect(uri, "taxis")


def test_locked_database_can_be_used(
    new_store: NewStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If eight searches share one file, each of them waits for another now and then."""
    uri = new_store(tmp_path)
    monkeypatch.setattr(database, "LOCKED_S", 0.01)
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert database.check_usable(uri)


def test_check_does_not_change_the_database(new_store: NewStore, tmp_path: Path) -> None:
    uri, place = new_store(tmp_path), tmp_path / "mlflow.db"
    before = place.read_bytes()
    assert database.check_usable(uri)
    assert place.read_bytes() == before
    assert list(tmp_path.iterdir()) == [place]


@pytest.mark.parametrize("is_empty", [True, False])
def test_reading_makes_no_database(*, is_empty: bool, tmp_path: Path) -> None:
    """Neither the check before a search nor a resumed search makes one."""
    place = tmp_path / "mlflow.db"
    if is_empty:
        place.touch()
    before = list(tmp_path.iterdir())
    assert not answers(f"sqlite:///{place}")
    with pytest.raises(InputError, match="it does not exist, so there is no search to go on with"):
        connect(f"sqlite:///{place}", "taxis", create=False)
    assert list(tmp_path.iterdir()) == before
    assert not is_empty or not place.stat().st_size


def test_database_is_made_behind_a_link_and_in_a_new_folder(tmp_path: Path) -> None:
    place, link = tmp_path / "new" / "mlflow.db", tmp_path / "link.db"
    link.symlink_to(place)
    assert connect(f"sqlite:///{link}", "taxis").experiment_id
    assert link.is_symlink()
    assert list(place.parent.iterdir()) == [place]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "ask", [answers, lambda uri: connect(uri, "taxis")], ids=["check", "search"]
)
def test_absent_postgresql_is_refused_at_once(ask: Callable[[str], object]) -> None:
    """The message names the host, and does not show the password."""
    pytest.importorskip("psycopg", reason="needs the extra `server`")
    with pytest.raises(InputError, match=r"127\.0\.0\.1\S* cannot be used") as error:
        ask("postgresql://me:secret@127.0.0.1:1/mlflow")
    assert "secret" not in str(error.value)


def test_installed_version_of_mlflow_is_a_proven_one() -> None:
    """The tests above prove it, with the lowest version and with the pinned one."""
    assert mlflow_schema.is_proven()
    assert mlflow_schema.note() is None


@pytest.mark.parametrize(
    ("version", "is_proven"),
    [
        ("3.8.1", False),
        ("3.9.0", True),
        ("3.9.0rc0", True),
        ("3.17.2", True),
        ("3.18.0", False),
        ("4.0.0.dev0", False),
    ],
)
def test_private_parts_of_other_versions_are_not_used(
    version: str, is_proven: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may have changed. The user is told once."""
    monkeypatch.setattr("importlib.metadata.version", lambda _: version)
    assert mlflow_schema.is_proven() is is_proven
    assert (version in (mlflow_schema.note() or "")) is not is_proven


def test_mlflow_of_another_version_makes_the_database_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search works, and uses none of the private parts."""
    monkeypatch.setattr(mlflow_schema, "PROVEN", ((2, 0), (2, 1)))
    for name in ("make", "latest_revision", "revision"):
        monkeypatch.setattr(mlflow_schema, name, pytest.fail)
    uri = f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}"
    assert not answers(uri)
    assert connect(uri, "taxis").experiment_id
    assert answers(uri)
