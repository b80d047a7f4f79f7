"""A trial's events become its run in MLflow, with all that the trial reported."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import DatasetInput, Run

from search.record.connection import connect
from search.record.run_metadata import RunMetadata
from search.record.store import Store
from search.record.trial_runs import LONGEST_TRACEBACK_TAG, SearchRuns, TrialRuns
from search.values.data import DataDescription
from search.values.events import Ended, Event, Progressed, Started
from search.values.metric import Metric

PARAMS = {"max_depth": 7, "learning_rate": 0.125}
RMSE = Metric("rmse", "minimize", label="RMSE")
AUC = Metric("auc", "maximize")
NewStore = Callable[[Path], str]

STARTED = Started("0001", PARAMS, 1_000)
FINISHED: tuple[Event, ...] = (
    Progressed("0001", 0, (9.0, 8.0), 2_000),
    Progressed("0001", 2, (7.0,), 3_000),
    Ended("0001", "finished", 4_000, {"rmse": 7.0, "best_iteration": 2.0, "fit_seconds": 1.5}),
)


@pytest.fixture
def store(new_store: NewStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)  # artifacts go to ./mlruns
    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    return connect(new_store(tmp_path), "taxis")


@pytest.fixture
def reader(store: Store) -> MlflowClient:
    """A second client, which reads what the store wrote."""
    return MlflowClient(store.uri)


@pytest.fixture
def runs(store: Store) -> TrialRuns:
    return runs_of(store, RMSE)


def runs_of(store: Store, metric: Metric) -> TrialRuns:
    metadata = RunMetadata(
        params={"train-data-path": "a.parquet", "valid-data-path": "b.parquet"},
        tags={"developer": "me", "model": "xgboost"},
        data=DataDescription(
            name="trips",
            digest="ab" * 16,
            source={"train": "a.parquet", "valid": "b.parquet"},
            profile={"rows": 3},
        ),
    )
    return TrialRuns(store, SearchRuns("s1", "parent", metadata, metric.curve))


def write(runs: TrialRuns, *events: Event) -> str:
    """Write a trial that starts and has these events; return its run."""
    run_id = runs.create(STARTED)
    runs.describe(run_id, STARTED)
    add(runs, run_id, *events)
    return run_id


def add(runs: TrialRuns, run_id: str, *events: Event) -> None:
    for event in events:
        if isinstance(event, Progressed):
            runs.progress(run_id, event)
        elif isinstance(event, Ended):
            runs.score(run_id, event)
            runs.end(run_id, event)


def curve_of(reader: MlflowClient, run_id: str, metric: Metric = RMSE) -> list[tuple[int, float]]:
    history = reader.get_metric_history(run_id, metric.curve)
    return sorted((point.step, point.value) for point in history)


def inputs_of(run: Run) -> list[DatasetInput]:
    assert run.inputs is not None
    return list(run.inputs.dataset_inputs)


class TestFinishedTrial:
    @pytest.fixture
    def run(self, runs: TrialRuns, reader: MlflowClient) -> Run:
        return reader.get_run(write(runs, *FINISHED))

    def test_status_and_times(self, run: Run) -> None:
        """The run has the trial's status, start and end."""
        info = run.info
        assert (info.status, info.start_time, info.end_time) == ("FINISHED", 1_000, 4_000)

    def test_params(self, run: Run) -> None:
        """Hyperparameters have their own names; the paths are params too; there is no other."""
        assert run.data.params == {
            "max_depth": "7",
            "learning_rate": "0.125",
            "train-data-path": "a.parquet",
            "valid-data-path": "b.parquet",
        }

    def test_tags(self, run: Run) -> None:
        """Role, id, status, parent and the search's tags; there is no other."""
        assert run.data.tags == {
            "developer": "me",
            "model": "xgboost",
            "mlflow.parentRunId": "parent",
            "mlflow.runName": "s1-0001",
            "search.role": "trial",
            "search.trial_id": "0001",
            "search.status": "finished",
            "search.point": '{"max_depth": 7, "learning_rate": 0.125}',
        }

    def test_metrics(self, run: Run) -> None:
        """The last of the curve, the best score, its round and the time; there is no other."""
        assert run.data.metrics == {
            "validation-rmse": 7.0,
            "rmse": 7.0,
            "best_iteration": 2.0,
            "fit_seconds": 1.5,
        }

    def test_curve_has_each_step_once(self, run: Run, reader: MlflowClient) -> None:
        """A step is a round, counted from 0 as in `best_iteration`."""
        assert curve_of(reader, run.info.run_id) == [(0, 9.0), (1, 8.0), (2, 7.0)]

    def test_dataset(self, run: Run) -> None:
        """The run has one input: the data, with its digest."""
        (used,) = inputs_of(run)
        assert (used.dataset.name, used.dataset.digest) == ("trips", "ab" * 16)

    def test_no_artifacts(self, run: Run, reader: MlflowClient) -> None:
        """A trial without a failure has no files."""
        assert reader.list_artifacts(run.info.run_id) == []


def test_curve_has_the_name_of_the_metric(store: Store, reader: MlflowClient) -> None:
    """Scores of a maximised metric are written under its name, with their own sign."""
    ended = Ended("0001", "finished", 4_000, {"auc": 0.8}, {"1": 0.7}, start=1, curve=(0.8,))
    run_id = write(runs_of(store, AUC), Progressed("0001", 0, (0.7,), 2_000), ended)
    run = reader.get_run(run_id)
    assert run.data.metrics == {"validation-auc": 0.8, "auc": 0.8}
    assert run.data.tags["search.rungs"] == '{"1": 0.7}'
    assert curve_of(reader, run_id, AUC) == [(0, 0.7), (1, 0.8)]


@pytest.mark.parametrize(
    ("status", "run_status"),
    [
        ("finished", "FINISHED"),
        ("stopped", "FINISHED"),
        ("failed", "FAILED"),
        ("interrupted", "KILLED"),
    ],
)
def test_outcome_is_the_status_of_the_run(
    status: str, run_status: str, runs: TrialRuns, reader: MlflowClient
) -> None:
    """Each outcome has its tag and its status in MLflow."""
    run = reader.get_run(write(runs, FINISHED[0], Ended("0001", status, 4_000)))
    assert (run.info.status, run.data.tags["search.status"]) == (run_status, status)


def test_events_can_be_written_twice(runs: TrialRuns, reader: MlflowClient) -> None:
    """After an outage an event is sent again; the run does not change."""
    run_id = write(runs, *FINISHED)
    before = reader.get_run(run_id)
    runs.reopen(run_id)
    runs.describe(run_id, STARTED)
    add(runs, run_id, *FINISHED)
    after = reader.get_run(run_id)
    assert after.data.to_dictionary() == before.data.to_dictionary()
    assert (after.info.status, after.info.end_time) == ("FINISHED", 4_000)
    assert curve_of(reader, run_id) == [(0, 9.0), (1, 8.0), (2, 7.0)]
    assert len(inputs_of(after)) == 1


def test_long_curve_is_complete(runs: TrialRuns, reader: MlflowClient) -> None:
    """A curve that is longer than one request may be takes several."""
    curve = tuple(float(value) for value in range(2_500, 0, -1))
    run_id = write(runs, Progressed("0001", 0, curve, 2_000))
    assert [value for _, value in curve_of(reader, run_id)] == list(curve)


class TestFailedTrial:
    ENDED = Ended("0001", "failed", 4_000, failure="E: x", traceback="Traceback: x")

    def test_traceback_is_an_artifact(
        self, runs: TrialRuns, reader: MlflowClient, tmp_path: Path
    ) -> None:
        """The last line of the error is a tag, the traceback a file."""
        run_id = write(runs, self.ENDED)
        runs.keep_traceback(run_id, self.ENDED, as_tag=False)
        assert reader.get_run(run_id).data.tags["search.failure"] == "E: x"
        (artifact,) = reader.list_artifacts(run_id)
        kept = Path(reader.download_artifacts(run_id, artifact.path, str(tmp_path)))
        assert kept.read_text() == "Traceback: x"

    def test_traceback_as_a_tag_is_cut_at_its_start(
        self, runs: TrialRuns, reader: MlflowClient
    ) -> None:
        """Without an artifact store, the end of the traceback is kept."""
        text = "x" * LONGEST_TRACEBACK_TAG + "the end"
        run_id = write(runs, self.ENDED)
        ended = Ended("0001", "failed", 4_000, failure="E: x", traceback=text)
        runs.keep_traceback(run_id, ended, as_tag=True)
        assert reader.list_artifacts(run_id) == []
        kept = reader.get_run(run_id).data.tags["search.traceback"]
        assert kept == text[-LONGEST_TRACEBACK_TAG:]


def test_second_run_of_a_trial_is_deleted(runs: TrialRuns, reader: MlflowClient) -> None:
    """Only runs of the named trials are deleted, and of each trial the named run stays."""
    first, second, other = write(runs), write(runs), runs.create(Started("0002", PARAMS, 1_000))
    runs.remove_doubles({"0001": first})
    stages = [reader.get_run(each).info.lifecycle_stage for each in (first, second, other)]
    assert stages == ["active", "deleted", "active"]
