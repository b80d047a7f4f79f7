"""A store is reached in time, and its experiment is made once."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos import databricks_pb2 as codes

from search.errors import InputError
from search.record.connection import connect, within
from search.record.store import CLIENT_RETRIES, client_retries

NOWHERE = "http://127.0.0.1:1"
NewStore = Callable[[Path], str]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (CLIENT_RETRIES, "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))


class TestConnect:
    def test_experiment_is_made_once(self, new_store: NewStore, tmp_path: Path) -> None:
        """A second search finds the experiment of the first."""
        uri = new_store(tmp_path)
        first, second = connect(uri, "taxis"), connect(uri, "taxis")
        assert first.experiment_id == second.experiment_id
        assert connect(uri, "taxis", create=False).experiment_id == first.experiment_id

    def test_missing_experiment_is_not_made_for_reading(
        self, new_store: NewStore, tmp_path: Path
    ) -> None:
        """Resuming with a mistyped experiment is an error, and makes no experiment."""
        uri = new_store(tmp_path)
        with pytest.raises(InputError, match="no such experiment"):
            connect(uri, "taxes", create=False)
        assert MlflowClient(uri).get_experiment_by_name("taxes") is None

    @pytest.mark.parametrize("create", [True, False])
    def test_deleted_experiment_is_refused(
        self, *, create: bool, new_store: NewStore, tmp_path: Path
    ) -> None:
        """The message says how to restore the experiment."""
        uri = new_store(tmp_path)
        client = MlflowClient(uri)
        client.delete_experiment(client.create_experiment("taxis"))
        with pytest.raises(InputError, match="mlflow experiments restore"):
            connect(uri, "taxis", create=create)

    def test_several_processes_can_make_one_database(self, tmp_path: Path) -> None:
        """Several searches may start in the same new folder at once."""
        code = (
            "import sys\n"
            "from search.record.connection import connect\n"
            "input()\n"
            "print(connect(sys.argv[1], 'e').experiment_id)\n"
        )
        command = [sys.executable, "-c", code, f"sqlite:///{tmp_path / 'new.db'}"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started = [subprocess.Popen(command, text=True, **pipes) for _ in range(3)]  # type: ignore[call-overload]
        for each in started:
            each.stdin.write("\n")
            each.stdin.flush()
        ended = [each.communicate(timeout=120) for each in started]
        assert {out.strip() for out, _ in ended} == {"1"}, [err[-300:] for _, err in ended]

    def test_experiment_that_another_search_makes_meanwhile_is_used(
        self, new_store: NewStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Two searches may start at once in a new store."""
        uri, real = new_store(tmp_path), MlflowClient.create_experiment

        def made_twice(client: MlflowClient, name: str, **named: Any) -> str:
            real(client, name, **named)
            return real(client, name, **named)

        monkeypatch.setattr(MlflowClient, "create_experiment", made_twice)
        store = connect(uri, "taxis")
        made = MlflowClient(uri).get_experiment_by_name("taxis")
        assert made is not None
        assert store.experiment_id == made.experiment_id

    @pytest.mark.parametrize(
        "error", [AttributeError("dimension_attributes"), RuntimeError("table runs already exists")]
    )
    def test_migration_by_another_process_is_waited_for(
        self,
        error: Exception,
        new_store: NewStore,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """`mlflow ui`, for example, may have opened the database a moment before."""
        uri, real = new_store(tmp_path), MlflowClient.get_experiment_by_name
        errors = [error, error]

        def during_migration(client: MlflowClient, name: str) -> Any:
            if errors:
                raise errors.pop()
            return real(client, name)

        monkeypatch.setattr(MlflowClient, "get_experiment_by_name", during_migration)
        assert connect(uri, "taxis").experiment_id
        assert errors == []

    def test_client_does_not_retry_by_itself(self, new_store: NewStore, tmp_path: Path) -> None:
        """A repeated POST whose first answer was lost would make a second run."""
        store = connect(new_store(tmp_path), "taxis")
        assert os.environ[CLIENT_RETRIES] == "0"
        with client_retries():
            assert int(os.environ[CLIENT_RETRIES]) > 0
        assert os.environ[CLIENT_RETRIES] == "0"
        assert store.experiment_id


class TestWithin:
    def test_answer_in_time_is_returned(self) -> None:
        """Also if the answer is None."""
        assert within(5, lambda: None, NOWHERE) is None

    def test_missing_answer_is_an_error(self) -> None:
        """A server that hangs is not waited for; the message does not show the password."""
        release = threading.Event()
        with pytest.raises(InputError) as error:
            within(0.05, release.wait, "http://me:secret@host:5000")
        release.set()
        assert "http://host:5000 cannot be used: no answer within 0 s" in str(error.value)
        assert "secret" not in str(error.value)

    def test_refusal_is_an_error_of_one_line(self) -> None:
        """The user sees no page of HTML and no traceback."""

        def refuse() -> None:
            code = codes.TEMPORARILY_UNAVAILABLE
            raise MlflowException("no route\nto host", error_code=code)

        with pytest.raises(InputError, match=r"cannot be used: no route; is it running"):
            within(5, refuse, NOWHERE)

    def test_bad_input_keeps_its_error(self) -> None:
        """An error that already has its message is passed on."""
        known = InputError("--experiment-name: no")

        def refuse() -> None:
            raise known

        with pytest.raises(InputError) as error:
            within(5, refuse, NOWHERE)
        assert error.value is known
