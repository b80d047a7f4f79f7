"""What an objective logged ends in its trial's run, once, whatever the store refuses."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import ENDPOINT_NOT_FOUND, INVALID_PARAMETER_VALUE

from search.errors import InputError
from search.record import writer as writer_module
from search.record.connection import connect
from search.record.journal import Journal
from search.record.logged_folder import load, save
from search.record.run_metadata import RunMetadata
from search.record.store import Store
from search.record.store_errors import Unwritable
from search.record.template_store import template
from search.record.trial_runs import SearchRuns, TrialRuns
from search.record.writer import Hooks, Writer
from search.values.events import Ended, Started, from_json, to_json
from search.values.logged import Logged, LoggedModel, Measured

MLMODEL = """
artifact_path: /private/model
flavors:
  sklearn: {pickled_model: model.pkl, sklearn_version: 1.9.0, serialization_format: cloudpickle}
model_id: m-private
model_uuid: m-private
run_id: private
"""


def tar(files: Mapping[str, str]) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as opened:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            opened.addfile(entry, io.BytesIO(text.encode()))
    return archive.getvalue()


LOGGED = Logged(
    params={"depth": "3", "note": "a\nb"},
    metrics=(Measured("auc", 0.5, 1_000, 0), Measured("auc", 0.75, 1_001, 1)),
    tags={"team": "a"},
    artifacts=tar({"a.txt": "1", "plots/b.txt": "2"}),
    models=(LoggedModel("ridge", ("sklearn",), "1/ridge", "", 10, {"alpha": "2"}),),
    models_archive=tar({"1/ridge/MLmodel": MLMODEL, "1/ridge/model.pkl": "x"}),
    notes=("models of 300 MB are not kept",),
)
REGISTERED = replace(LOGGED, models=(replace(LOGGED.models[0], registered_as="mine"),))


@pytest.fixture
def store(
    new_store: Callable[[Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Store:
    (tmp_path / "store").mkdir()
    (tmp_path / "work").mkdir()
    # artifacts go to ./mlruns; the store is not the one that MLflow takes by default
    monkeypatch.chdir(tmp_path / "work")
    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    return connect(new_store(tmp_path / "store"), "mine")


@pytest.fixture
def reader(store: Store) -> MlflowClient:
    """A second client, which reads what the store wrote."""
    return MlflowClient(store.uri)


@pytest.fixture
def runs(store: Store) -> TrialRuns:
    metadata = RunMetadata({}, {"developer": "me"}, None)
    return TrialRuns(store, SearchRuns("s1", "parent", metadata, "validation-loss"))


@pytest.fixture
def run_id(runs: TrialRuns) -> str:
    return runs.create(Started("0001", {"x": 1.0}, 1_000))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "logged" / "0001"


def models_of(reader: MlflowClient, store: Store, run_id: str) -> list[Any]:
    return list(reader.search_logged_models([store.experiment_id], f"source_run_id = '{run_id}'"))


def fails(error: Exception) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:  # noqa: ARG001
        raise error

    return call


def test_folder_holds_all_of_it(folder: Path) -> None:
    """What is saved is loaded again as it was, and saving again replaces it."""
    save(REGISTERED, folder)
    save(LOGGED, folder)
    assert load(folder) == LOGGED
    assert [each.name for each in folder.parent.iterdir()] == ["0001"]


def test_event_with_what_was_logged_goes_through_the_journal() -> None:
    """The event names the folder, so the journal's line stays short."""
    ended = Ended("0001", "finished", 1_000, logged="/state/0001", keep_models=True)
    assert from_json(json.loads(json.dumps(to_json(ended)))) == ended


def test_all_of_it_is_in_the_run(
    runs: TrialRuns, run_id: str, folder: Path, store: Store, reader: MlflowClient, tmp_path: Path
) -> None:
    """Params, metrics with their steps, tags, artifacts and models; the notes are returned."""
    save(LOGGED, folder)
    assert runs.keep_logged(run_id, str(folder), True) == LOGGED.notes
    run = reader.get_run(run_id)
    assert run.data.params == LOGGED.params
    assert run.data.tags["team"] == "a"
    assert run.data.tags["search.not_kept"] == LOGGED.notes[0]
    history = reader.get_metric_history(run_id, "auc")
    assert [(each.step, each.value, each.timestamp) for each in history] == [
        (0, 0.5, 1_000),
        (1, 0.75, 1_001),
    ]
    kept = Path(reader.download_artifacts(run_id, "", str(tmp_path)))
    assert (kept / "plots" / "b.txt").read_text() == "2"
    (model,) = models_of(reader, store, run_id)
    assert (model.name, str(model.status), model.params) == ("ridge", "READY", {"alpha": "2"})
    assert run.outputs is not None
    assert [each.model_id for each in run.outputs.model_outputs] == [model.model_id]
    description = (Path(model.artifact_location.removeprefix("file://")) / "MLmodel").read_text()
    assert f"model_id: {model.model_id}" in description
    assert f"run_id: {run_id}" in description
    assert "private" not in description


def test_keeping_it_twice_doubles_nothing(
    runs: TrialRuns, run_id: str, folder: Path, store: Store, reader: MlflowClient
) -> None:
    """The journal may send an event again: the run and the registry are as after once."""
    save(REGISTERED, folder)
    for _ in range(2):
        runs.keep_logged(run_id, str(folder), True)
    run = reader.get_run(run_id)
    assert len(reader.get_metric_history(run_id, "auc")) == 2
    assert len(reader.list_artifacts(run_id)) == 2
    assert len(models_of(reader, store, run_id)) == 1
    assert run.outputs is not None
    assert len(run.outputs.model_outputs) == 1
    (version,) = reader.search_model_versions("name = 'mine'")
    assert version.run_id == run_id


def test_registering_leaves_the_script_s_own_store_set(
    runs: TrialRuns, run_id: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script that calls ``fmin`` goes on with the store that it had."""
    save(REGISTERED, folder)
    runs.keep_logged(run_id, str(folder), True)
    assert not mlflow.is_tracking_uri_set()  # type: ignore[no-untyped-call]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///own.db")
    runs.drop_models(run_id)
    save(replace(REGISTERED, models=(replace(REGISTERED.models[0], registered_as="b"),)), folder)
    runs.keep_logged(run_id, str(folder), True)
    assert mlflow.get_tracking_uri() == "sqlite:///own.db"
    mlflow.set_tracking_uri(None)  # type: ignore[arg-type]


def test_broken_upload_of_a_model_is_made_good(
    runs: TrialRuns,
    run_id: str,
    folder: Path,
    store: Store,
    reader: MlflowClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A model whose files did not arrive is sent again, as the same model."""
    save(replace(LOGGED, notes=()), folder)
    with monkeypatch.context() as broken:
        broken.setattr(store.client, "log_model_artifacts", fails(OSError(5, "I/O error")))
        with pytest.raises(Unwritable):
            runs.keep_logged(run_id, str(folder), True)
    assert runs.keep_logged(run_id, str(folder), True) == ()
    (model,) = models_of(reader, store, run_id)
    assert str(model.status) == "READY"


class TestModels:
    def test_models_stay_behind_unless_they_are_registered(
        self, runs: TrialRuns, run_id: str, folder: Path, store: Store, reader: MlflowClient
    ) -> None:
        """``--keep-models none`` sends no model that nobody registers."""
        save(LOGGED, folder)
        runs.keep_logged(run_id, str(folder), False)
        assert models_of(reader, store, run_id) == []
        save(REGISTERED, folder)
        runs.keep_logged(run_id, str(folder), False)
        assert len(models_of(reader, store, run_id)) == 1

    def test_former_best_s_models_are_removed(
        self, runs: TrialRuns, run_id: str, folder: Path, store: Store, reader: MlflowClient
    ) -> None:
        """Neither the model nor its files are left; removing them again changes nothing."""
        save(LOGGED, folder)
        runs.keep_logged(run_id, str(folder), True)
        (model,) = models_of(reader, store, run_id)
        for _ in range(2):
            runs.drop_models(run_id)
        assert models_of(reader, store, run_id) == []
        assert not Path(model.artifact_location.removeprefix("file://")).exists()

    def test_registered_models_are_not_removed(
        self, runs: TrialRuns, run_id: str, folder: Path, store: Store, reader: MlflowClient
    ) -> None:
        """A version in the registry keeps its model."""
        save(REGISTERED, folder)
        runs.keep_logged(run_id, str(folder), True)
        runs.drop_models(run_id)
        assert len(models_of(reader, store, run_id)) == 1

    def test_server_without_logged_models_has_them_as_artifacts(
        self,
        runs: TrialRuns,
        run_id: str,
        folder: Path,
        store: Store,
        reader: MlflowClient,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """On MLflow 2 a model is a folder of the run, can be registered, and can be removed."""
        unknown = MlflowException("not found", error_code=ENDPOINT_NOT_FOUND)
        for name in ("search_logged_models", "create_logged_model"):
            monkeypatch.setattr(store.client, name, fails(unknown))
        other = replace(LOGGED.models[0], folder="2/ridge")
        files = {f"{number}/ridge/MLmodel": MLMODEL for number in (1, 2)}
        models = (REGISTERED.models[0], other)
        save(replace(LOGGED, models=models, models_archive=tar(files)), folder)
        for _ in range(2):
            runs.keep_logged(run_id, str(folder), True)
        assert len(reader.list_artifacts(run_id, "models")) == 2
        runs.drop_models(run_id)
        assert [each.path for each in reader.list_artifacts(run_id, "models")] == ["models/1-ridge"]
        assert len(reader.search_model_versions("name = 'mine'")) == 1


class TestRefused:
    def test_refused_param_stops_no_other(
        self, runs: TrialRuns, run_id: str, folder: Path, reader: MlflowClient
    ) -> None:
        """A key that MLflow does not take is named; all others are in the run."""
        params = {f"p{number}": "1" for number in range(5)} | {"bad?key": "1"}
        save(replace(LOGGED, params=params, notes=()), folder)
        (reason,) = runs.keep_logged(run_id, str(folder), True)
        assert "bad?key" in reason
        assert len(reader.get_run(run_id).data.params) == 5

    def test_refused_artifact_stops_no_other(
        self,
        runs: TrialRuns,
        run_id: str,
        folder: Path,
        store: Store,
        reader: MlflowClient,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """On the last try each file is sent by itself, and the refused one is named."""
        real = store.client.log_artifact

        def refuses_one(run_id: str, file: str, place: str | None) -> None:
            if file.endswith("a.txt"):
                raise OSError(27, "File too large")
            real(run_id, file, place)

        refused = fails(OSError(27, "File too large"))
        monkeypatch.setattr(store.client, "log_artifacts", refused)
        monkeypatch.setattr(store.client, "log_artifact", refuses_one)
        save(replace(LOGGED, notes=()), folder)
        with pytest.raises(Unwritable):
            runs.keep_logged(run_id, str(folder), True)
        (reason,) = runs.keep_logged(run_id, str(folder), True, True)
        assert "a.txt" in reason
        assert "File too large" in reason
        assert [each.path for each in reader.list_artifacts(run_id)] == ["plots"]

    def test_refused_registration_is_named(
        self,
        runs: TrialRuns,
        run_id: str,
        folder: Path,
        store: Store,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A registry that refuses the name does not keep the model out of the run."""
        refusal = MlflowException("no such name", error_code=INVALID_PARAMETER_VALUE)
        monkeypatch.setattr(store.client, "create_registered_model", fails(refusal))
        save(replace(REGISTERED, notes=()), folder)
        assert "no such name" in runs.keep_logged(run_id, str(folder), True)[0]

    def test_removed_folder_is_named(self, runs: TrialRuns, run_id: str, folder: Path) -> None:
        """Somebody has emptied the state folder: the trial ends all the same."""
        assert str(folder) in runs.keep_logged(run_id, str(folder), True)[0]


class TestWriter:
    @pytest.fixture(autouse=True)
    def _short_waits(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(writer_module, "RETRY_AFTER_S", (0.01,))

    def write(self, runs: TrialRuns, *events: Started | Ended) -> list[str]:
        """Write events through a journal; return what the search is told."""
        messages: list[str] = []

        def ask(name: str, *args: Any) -> Any:
            return getattr(runs, name)(*args)

        with (
            Journal(Path("s1.journal")) as journal,
            Writer(ask, journal, hooks=Hooks(say=messages.append)) as writer,
        ):
            for event in events:
                writer.put(event)
        return messages

    def test_ended_trial_s_run_has_it_and_the_folder_is_gone(
        self, runs: TrialRuns, folder: Path, store: Store, reader: MlflowClient
    ) -> None:
        """What was logged is sent with the end; what is not kept is said in one line."""
        save(LOGGED, folder)
        messages = self.write(
            runs,
            Started("0001", {"x": 1.0}, 1_000),
            Ended("0001", "finished", 2_000, logged=str(folder), keep_models=True),
        )
        (run,) = reader.search_runs([store.experiment_id])
        assert (run.info.status, run.data.params["depth"]) == ("FINISHED", "3")
        assert messages == [f"warning: trial 0001: {LOGGED.notes[0]}"]
        assert not folder.exists()

    def test_better_trial_removes_the_former_best_s_models(
        self, runs: TrialRuns, tmp_path: Path, store: Store, reader: MlflowClient
    ) -> None:
        """After both have ended, the better one's model is the only one."""
        events: list[Started | Ended] = []
        for trial_id, former in (("0001", ""), ("0002", "0001")):
            save(LOGGED, tmp_path / trial_id)
            events += [
                Started(trial_id, {"x": 1.0}, 1_000),
                Ended(
                    trial_id,
                    "finished",
                    2_000,
                    logged=str(tmp_path / trial_id),
                    keep_models=True,
                    supersedes=former,
                ),
            ]
        self.write(runs, *events)
        (model,) = reader.search_logged_models([store.experiment_id])
        best = runs.find("0002")
        assert model.source_run_id == best

    def test_former_best_s_models_stay_while_the_better_one_s_are_refused(
        self,
        runs: TrialRuns,
        tmp_path: Path,
        store: Store,
        reader: MlflowClient,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Better an older model than none, whatever else is refused before it."""
        for trial_id, former in (("0001", ""), ("0002", "0001")):
            folder = tmp_path / trial_id
            save(LOGGED, folder)
            ended = Ended(trial_id, "finished", 2_000, logged=str(folder), keep_models=True)
            self.write(
                runs,
                Started(trial_id, {"x": 1.0}, 1_000),
                replace(ended, supersedes=former),
            )
            for name in ("log_artifact", "log_artifacts", "log_model_artifacts"):
                monkeypatch.setattr(store.client, name, fails(PermissionError(13, "denied")))
        first = runs.find("0001")
        assert first is not None
        assert len(models_of(reader, store, first)) == 1

    def test_artifact_store_that_takes_nothing_does_not_hold_up_the_trial(
        self,
        runs: TrialRuns,
        folder: Path,
        store: Store,
        reader: MlflowClient,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The run ends with all that is no file, and a tag says what is missing."""
        for name in ("log_artifact", "log_artifacts", "log_model_artifacts"):
            monkeypatch.setattr(store.client, name, fails(PermissionError(13, "denied")))
        save(replace(LOGGED, notes=()), folder)
        self.write(
            runs,
            Started("0001", {"x": 1.0}, 1_000),
            Ended("0001", "finished", 2_000, logged=str(folder), keep_models=True),
        )
        (run,) = reader.search_runs([store.experiment_id])
        assert (run.info.status, run.data.params["depth"]) == ("FINISHED", "3")
        assert "denied" in run.data.tags["search.not_kept"]


def test_template_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Later searches find the database that the first one has made."""
    first = template(tmp_path / "state")
    monkeypatch.setattr("search.record.mlflow_schema.make", fails(AssertionError("made again")))
    assert template(tmp_path / "state") == first
    (file,) = (tmp_path / "state").iterdir()
    assert file.name.startswith("store-")


def test_template_is_made_with_any_version_of_mlflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Making it needs no part of MLflow that is known for some versions only."""
    monkeypatch.setattr("search.record.mlflow_schema.PROVEN", ((0, 0), (0, 0)))
    monkeypatch.setattr("os.link", fails(PermissionError(1, "no links")))
    assert template(tmp_path).startswith(b"SQLite format 3")


def test_template_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    """A state folder that is a file."""
    (tmp_path / "state").touch()
    with pytest.raises(InputError, match="--state-dir"):
        template(tmp_path / "state")
