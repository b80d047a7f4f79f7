"""The parent run of a search: made or taken over by one driver, and ended with its true status."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos import databricks_pb2 as codes

from search.errors import InputError, SearchError
from search.record.connection import connect
from search.record.ledger import Ledger, LoggedSearch
from search.record.run_metadata import RunMetadata
from search.record.search_run import (
    ParentRun,
    SearchDescription,
    journal_file,
    state_dir_of,
)
from search.record.store import Store
from search.record.store_errors import Unwritable
from search.values.data import DataDescription
from search.values.events import Started
from search.values.metric import Metric

AUC = Metric("auc", "maximize")
NewStore = Callable[[Path], str]


@pytest.fixture
def store(new_store: NewStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)  # artifacts go to ./mlruns
    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    return connect(new_store(tmp_path), "taxis")


@pytest.fixture
def description(tmp_path: Path) -> SearchDescription:
    return SearchDescription(
        name="s1",
        task="table",
        metric=AUC,
        options={"num_samples": 5},
        params={"space.digest": "ab"},
        metadata=RunMetadata(
            params={"train-data-path": "a.parquet"},
            tags={"developer": "me"},
            data=DataDescription("rows", "cd" * 16, {"train": "a.parquet"}, {"rows": 3}),
        ),
        state_dir=tmp_path,
    )


@pytest.fixture
def parent(store: Store, description: SearchDescription) -> ParentRun:
    return ParentRun(store, description, contextlib.nullcontext)


def read_search(store: Store) -> LoggedSearch:
    search = Ledger(store).search("s1")
    assert search is not None
    return search


def fail(error: SearchError) -> None:
    raise error


class TestNewSearch:
    def test_run_has_what_a_resume_needs(self, parent: ParentRun, store: Store) -> None:
        """Metric, options, driver and state folder are tags; the run is open meanwhile."""
        with parent.driven(None, fail) as drive:
            search = read_search(store)
            assert (search.run_id, search.status) == (drive.run_id, "RUNNING")
            assert (search.metric, search.direction) == ("auc", "maximize")
            assert search.options == {"num_samples": 5}
            assert search.params == {"train-data-path": "a.parquet", "space.digest": "ab"}
            assert search.driver is not None
            assert search.driver.is_alive()
            assert search.beat
            assert search.state_dir == str(parent.description.state_dir)
        assert read_search(store).status == "FINISHED"

    def test_run_has_task_data_and_packages(self, parent: ParentRun, store: Store) -> None:
        """A reader of the run finds what was searched, on which rows, with which packages."""
        with parent.driven(None, fail) as drive:
            pass
        run = store.client.get_run(drive.run_id)
        assert (run.data.tags["search.task"], run.data.tags["developer"]) == ("table", "me")
        assert run.data.tags["python"]
        assert run.inputs is not None
        assert [each.dataset.name for each in run.inputs.dataset_inputs] == ["rows"]
        (artifact,) = store.client.list_artifacts(drive.run_id, "environment")
        assert artifact.path == "environment/requirements.txt"

    def test_error_ends_the_run_as_failed(self, parent: ParentRun, store: Store) -> None:
        """The error is passed on."""
        with pytest.raises(ZeroDivisionError), parent.driven(None, fail):
            raise ZeroDivisionError
        assert read_search(store).status == "FAILED"

    def test_refused_run_is_bad_input(
        self, parent: ParentRun, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A server that lets a user read but not write says so when the run is made."""
        refused = MlflowException("Permission denied", error_code=codes.PERMISSION_DENIED)
        monkeypatch.setattr(MlflowClient, "create_run", raises(refused))
        with (
            pytest.raises(InputError, match="Permission denied"),
            parent.driven(None, fail),
        ):
            pass

    def test_outage_is_no_bad_input(
        self, parent: ParentRun, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The user need not change anything if the server is away."""
        away = MlflowException("no route", error_code=codes.TEMPORARILY_UNAVAILABLE)
        monkeypatch.setattr(MlflowClient, "create_run", raises(away))
        with pytest.raises(MlflowException, match="no route"), parent.driven(None, fail):
            pass

    def test_artifact_store_that_cannot_be_written_is_bad_input(
        self, parent: ParentRun, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The search does not begin; its run has failed."""
        monkeypatch.setattr(Store, "write_text", raises(Unwritable("artifacts: no")))
        with pytest.raises(InputError, match="artifact folder"), parent.driven(None, fail):
            pass
        assert read_search(store).status == "FAILED"

    def test_server_that_goes_before_the_first_artifact_is_an_outage(
        self, parent: ParentRun, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The search has begun, so it can be resumed; its options are not to blame."""
        gone = Unwritable("artifacts: no answer")
        gone.__cause__ = MlflowException("no answer")
        monkeypatch.setattr(Store, "write_text", raises(gone))
        with pytest.raises(SearchError) as error, parent.driven(None, fail):
            pass
        assert error.value.exit_code == 1


class TestTakenOver:
    def test_run_and_journal_are_taken_over(self, parent: ParentRun, store: Store) -> None:
        """The run is open again, names the new driver and its options, and keeps its journal."""
        event = Started("0001", {}, 1_000)
        with parent.driven(None, fail) as drive:
            drive.journal.append(event)
        former = read_search(store)
        options = {"num_samples": 9}
        again = replace(parent, description=replace(parent.description, options=options))
        with again.driven(former, fail) as drive:
            search = read_search(store)
            assert (drive.run_id, search.run_id) == (former.run_id, former.run_id)
            assert (search.status, search.started_ms) == ("RUNNING", former.started_ms)
            assert search.options == options
            assert (search.metric, search.direction) == ("auc", "maximize")
            assert former.driver is not None
            assert search.driver is not None
            assert search.driver.claim != former.driver.claim
            assert list(drive.journal.waiting.values()) == [event]
        assert read_search(store).status == "FINISHED"

    def test_former_state_folder_is_used(
        self, parent: ParentRun, store: Store, tmp_path: Path
    ) -> None:
        """If the journal is in the former folder, the search stays there."""
        with parent.driven(None, fail) as drive:
            drive.journal.append(Started("0001", {}, 1_000))
        elsewhere = replace(parent.description, state_dir=tmp_path / "elsewhere")
        with replace(parent, description=elsewhere).driven(read_search(store), fail):
            assert read_search(store).state_dir == str(tmp_path)

    def test_search_whose_journal_is_locked_is_refused(
        self, parent: ParentRun, store: Store
    ) -> None:
        """Another process drives it: its claim stays."""
        with parent.driven(None, fail):
            before = read_search(store)
            with (
                pytest.raises(InputError, match="another process"),
                parent.driven(before, fail),
            ):
                pass
            assert read_search(store) == replace(before, beat=read_search(store).beat)


class TestStateDir:
    def search(self, state_dir: str) -> LoggedSearch:
        return LoggedSearch(
            run_id="r1",
            name="s1",
            status="FAILED",
            started_ms=1_000,
            params={},
            options={},
            metric="rmse",
            direction="minimize",
            driver=None,
            beat="",
            state_dir=state_dir,
        )

    def test_former_folder_is_used_if_it_has_the_journal(self, tmp_path: Path) -> None:
        """Events that an earlier start could not send are sent from there."""
        journal_file(tmp_path, "r1").touch()
        default = Path("/elsewhere")
        assert state_dir_of(self.search(str(tmp_path)), default) == tmp_path

    @pytest.mark.parametrize("former", ["{tmp}", "{tmp}/gone", "", "{tmp}/plain/below"])
    def test_default_folder_is_used_without_a_journal(self, former: str, tmp_path: Path) -> None:
        """A folder may be empty, or exist on another machine only."""
        (tmp_path / "plain").touch()
        default = Path("/elsewhere")
        search = self.search(former.format(tmp=tmp_path))
        assert state_dir_of(search, default) == default


def raises(error: Exception) -> Callable[..., Any]:
    """Return a function that raises ``error``."""

    def call(*args: object, **named: object) -> None:
        del args, named
        raise error

    return call
