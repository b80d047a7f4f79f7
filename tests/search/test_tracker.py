"""From Tune's events to runs in MLflow: each trial once, whole, and with its true outcome."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import DatasetInput, Run
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST

from search import tracker
from search.errors import SearchError
from search.store import Data, Store
from search.tracker import Ended, Note, Progressed, Started, TrialRuns, TrialTracker, Writer

PARAMS = {"max_depth": 7, "learning_rate": 0.125}


@dataclass(frozen=True)
class Trial:
    """As much of Tune's trial as is looked at."""

    config: dict[str, Any]
    num_failures: int = 0


def trial(number: int = 1, failures: int = 0) -> Trial:
    return Trial({"trial_id": f"{number:04d}", "params": PARAMS}, failures)


def report(start: int, *curve: float, **more: Any) -> dict[str, Any]:
    """Return what a worker reports after a piece of its curve."""
    score = {"rmse": min(curve), "best_iteration": start + len(curve) - 1} if curve else {}
    news = {"curve": list(curve), "curve_start": start, "round": start + len(curve)}
    return {**news, **score, "fit_seconds": 1.5, **more}


class TestNotes:
    @pytest.fixture
    def notes(self) -> list[Note]:
        return []

    @pytest.fixture
    def tracked(self, notes: list[Note]) -> TrialTracker:
        return TrialTracker(notes.append, has_rounds=True)

    def test_finished(self, tracked: TrialTracker, notes: list[Note]) -> None:
        """A trial that reached its end is noted as start, pieces and outcome."""
        tracked.log_trial_start(trial())
        tracked.log_trial_result(1, trial(), report(0, 9.0, 8.0))
        tracked.log_trial_result(2, trial(), report(2, 7.0, final=True))
        tracked.log_trial_end(trial())
        started, first, second, ended = notes
        assert isinstance(started, Started)
        assert (started.trial_id, started.params) == ("0001", PARAMS)
        assert isinstance(first, Progressed)
        assert isinstance(second, Progressed)
        assert [(n.start, n.curve) for n in (first, second)] == [(0, (9.0, 8.0)), (2, (7.0,))]
        assert isinstance(ended, Ended)
        assert (ended.status, ended.failure) == ("finished", "")
        assert ended.metrics == {"rmse": 7.0, "best_iteration": 2.0, "fit_seconds": 1.5}

    def test_stopped(self, tracked: TrialTracker) -> None:
        """What the scheduler ended at a rung is stopped, and keeps its score."""
        tracked.log_trial_start(trial())
        tracked.log_trial_result(1, trial(), report(0, 9.0, 8.0))
        tracked.log_trial_end(trial())
        (outcome,) = tracked.outcomes
        assert (outcome.status, outcome.rmse, outcome.best_iteration) == ("stopped", 8.0, 1)

    def test_failed(self, tracked: TrialTracker, notes: list[Note]) -> None:
        """What the trial reported as its failure is noted, with the traceback and no score."""
        tracked.log_trial_start(trial())
        tracked.log_trial_result(1, trial(), report(0, failure="E: x", traceback="T", final=True))
        tracked.log_trial_end(trial())
        ended = notes[-1]
        assert isinstance(ended, Ended)
        assert (ended.status, ended.failure, ended.traceback) == ("failed", "E: x", "T")
        assert (tracked.outcomes[0].rmse, tracked.outcomes[0].failure) == (None, "E: x")

    def test_end_without_a_report(self, tracked: TrialTracker) -> None:
        """A trial that ends and never said anything failed."""
        tracked.log_trial_start(trial())
        tracked.log_trial_end(trial())
        assert tracked.outcomes[0].status == "failed"
        assert tracked.outcomes[0].failure == "it ended without a score"

    def test_dead_worker(self, tracked: TrialTracker) -> None:
        """A trial whose worker died once too often failed, whatever it had reported before."""
        tracked.log_trial_start(trial())
        tracked.log_trial_result(1, trial(), report(0, 9.0))
        tracked.log_trial_end(trial(failures=3), failed=True)
        (outcome,) = tracked.outcomes
        assert (outcome.status, outcome.rmse) == ("failed", None)
        assert outcome.failure == "the worker process died 3 times"

    def test_retried(self, tracked: TrialTracker, notes: list[Note]) -> None:
        """A trial that Tune starts again is one trial; each round of its curve is noted once."""
        tracked.log_trial_start(trial())
        tracked.log_trial_result(1, trial(), report(0, 9.0, 8.0))
        tracked.log_trial_start(trial(failures=1))
        tracked.log_trial_result(1, trial(), report(0, 9.0, 8.0))
        tracked.log_trial_result(2, trial(), report(2, 7.0, 6.0, final=True))
        tracked.log_trial_end(trial())
        pieces = [(note.start, note.curve) for note in notes if isinstance(note, Progressed)]
        assert pieces == [(0, (9.0, 8.0)), (2, (7.0, 6.0))]
        assert sum(isinstance(note, Started) for note in notes) == 1

    def test_piece_that_is_partly_known(self, tracked: TrialTracker, notes: list[Note]) -> None:
        """Of a longer piece only the new rounds are noted."""
        tracked.log_trial_start(trial())
        tracked.log_trial_result(1, trial(), report(0, 9.0, 8.0))
        tracked.log_trial_start(trial(failures=1))
        tracked.log_trial_result(1, trial(), report(0, 9.0, 8.0, 7.0, final=True))
        pieces = [(note.start, note.curve) for note in notes if isinstance(note, Progressed)]
        assert pieces == [(0, (9.0, 8.0)), (2, (7.0,))]

    def test_interrupted(self, tracked: TrialTracker) -> None:
        """What still ran is interrupted, with a report or without; what had ended stays."""
        for number in (1, 2, 3):
            tracked.log_trial_start(trial(number))
        tracked.log_trial_result(1, trial(1), report(0, 9.0, final=True))
        tracked.log_trial_end(trial(1))
        tracked.log_trial_result(1, trial(2), report(0, 5.0))
        tracked.interrupt()
        found = [(o.trial_id, o.status, o.rmse) for o in tracked.outcomes]
        assert found == [
            ("0001", "finished", 9.0),
            ("0002", "interrupted", None),
            ("0003", "interrupted", None),
        ]
        assert tracked.running == 0

    def test_running_counts_starts_without_end(self, tracked: TrialTracker) -> None:
        """The progress line counts what runs."""
        tracked.log_trial_start(trial(1))
        tracked.log_trial_start(trial(2))
        tracked.log_trial_result(1, trial(1), report(0, 9.0, final=True))
        tracked.log_trial_end(trial(1))
        assert tracked.running == 1

    def test_best_is_the_first_of_the_lowest(self, tracked: TrialTracker) -> None:
        """Finished and stopped trials compete; of equals the first wins."""
        for number, score in ((1, 8.0), (2, 7.0), (3, 7.0)):
            tracked.log_trial_start(trial(number))
            tracked.log_trial_result(1, trial(number), report(0, score))
            tracked.log_trial_end(trial(number))
        assert tracked.best is not None
        assert tracked.best.trial_id == "0002"

    def test_no_best_of_failures(self, tracked: TrialTracker) -> None:
        """Without a score there is no best."""
        tracked.log_trial_start(trial())
        tracked.log_trial_end(trial(failures=3), failed=True)
        assert tracked.best is None

    def test_model_without_rounds_has_no_best_round(self, notes: list[Note]) -> None:
        """`best_iteration` is a metric only where there are rounds."""
        tracked = TrialTracker(notes.append, has_rounds=False)
        tracked.log_trial_start(trial())
        tracked.log_trial_result(1, trial(), report(0, 9.0, final=True))
        tracked.log_trial_end(trial())
        ended = notes[-1]
        assert isinstance(ended, Ended)
        assert ended.metrics == {"rmse": 9.0, "fit_seconds": 1.5}


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store: MLflow's migrations take seconds, so they run once and the file is copied."""
    file = tmp_path_factory.mktemp("store") / "migrated.db"
    Store.connect(f"sqlite:///{file}", "unused")
    return file


@pytest.fixture
def store(migrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)  # artifacts go to ./mlruns
    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    shutil.copy(migrated, tmp_path / "mlflow.db")
    return Store.connect(f"sqlite:///{tmp_path}/mlflow.db", "taxis")


@pytest.fixture
def reader(store: Store) -> MlflowClient:
    """Reads back what was written, by a client of its own."""
    return MlflowClient(store.uri)


class Flaky:
    """The store's client; counts calls, and fails as ``fails`` says before each one."""

    def __init__(self, client: Any, fails: Callable[[str], None] = lambda _: None) -> None:
        self.calls: list[str] = []
        self._client, self._fails = client, fails

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            self._fails(name)
            return getattr(self._client, name)(*args, **kwargs)

        return call


def wrap(store: Store, fails: Callable[[str], None] = lambda _: None) -> Flaky:
    flaky = Flaky(store._client, fails)
    store._client = flaky  # type: ignore[assignment]
    return flaky


def runs_of(store: Store) -> TrialRuns:
    data = Data("trips", "ab" * 16, {"train": "a.parquet", "valid": "b.parquet"}, {"rows": 3})
    paths = {"train-data-path": "a.parquet", "valid-data-path": "b.parquet"}
    return TrialRuns(store, "s1", "parent", paths, {"developer": "me", "model": "xgboost"}, data)


FINISHED: tuple[Note, ...] = (
    Started("0001", PARAMS, 1_000),
    Progressed("0001", 0, (9.0, 8.0), 2_000),
    Progressed("0001", 2, (7.0,), 3_000),
    Ended("0001", "finished", 4_000, {"rmse": 7.0, "best_iteration": 2.0, "fit_seconds": 1.5}),
)


def write(store: Store, *notes: Note) -> Writer:
    with Writer(runs_of(store)) as writer:
        for note in notes:
            writer.put(note)
    return writer


def only_run(store: Store, reader: MlflowClient) -> Run:
    (run,) = reader.search_runs([store.experiment_id])
    return run


def curve_of(reader: MlflowClient, run: Run) -> list[tuple[int, float]]:
    history = reader.get_metric_history(run.info.run_id, "validation-rmse")
    return sorted((metric.step, metric.value) for metric in history)


def inputs_of(run: Run) -> list[DatasetInput]:
    assert run.inputs is not None
    return list(run.inputs.dataset_inputs)


CURVE = [(0, 9.0), (1, 8.0), (2, 7.0)]


class TestWritten:
    @pytest.fixture
    def run(self, store: Store, reader: MlflowClient) -> Run:
        writer = write(store, *FINISHED)
        run = only_run(store, reader)
        assert writer.run_ids == {"0001": run.info.run_id}
        return run

    def test_status_and_times(self, run: Run) -> None:
        """The run ended as the trial did, when it did."""
        info = run.info
        assert (info.status, info.start_time, info.end_time) == ("FINISHED", 1_000, 4_000)

    def test_params(self, run: Run) -> None:
        """Hyperparameters under their own names, and the paths; nothing else."""
        assert run.data.params == {
            "max_depth": "7",
            "learning_rate": "0.125",
            "train-data-path": "a.parquet",
            "valid-data-path": "b.parquet",
        }

    def test_tags(self, run: Run) -> None:
        """Role, id, status, parent and what all runs are tagged with; nothing else."""
        assert run.data.tags == {
            "developer": "me",
            "model": "xgboost",
            "mlflow.parentRunId": "parent",
            "mlflow.runName": "s1-0001",
            "search.role": "trial",
            "search.trial_id": "0001",
            "search.status": "finished",
        }

    def test_metrics(self, run: Run) -> None:
        """The last of the curve, the best score, its round and the time; nothing else."""
        assert run.data.metrics == {
            "validation-rmse": 7.0,
            "rmse": 7.0,
            "best_iteration": 2.0,
            "fit_seconds": 1.5,
        }

    def test_curve_has_each_step_once(self, run: Run, reader: MlflowClient) -> None:
        """A step is a round, counted as `best_iteration` counts them."""
        assert curve_of(reader, run) == CURVE

    def test_dataset(self, run: Run) -> None:
        """The data is the run's one input, by its digest."""
        (used,) = inputs_of(run)
        assert (used.dataset.name, used.dataset.digest) == ("trips", "ab" * 16)

    def test_no_artifacts(self, run: Run, reader: MlflowClient) -> None:
        """A trial that worked leaves no files."""
        assert reader.list_artifacts(run.info.run_id) == []


@pytest.mark.parametrize(
    ("status", "shown"), [("stopped", "FINISHED"), ("failed", "FAILED"), ("interrupted", "KILLED")]
)
def test_outcome_is_the_runs_status(
    status: str, shown: str, store: Store, reader: MlflowClient
) -> None:
    """Each outcome has its tag and its status in MLflow."""
    write(store, *FINISHED[:2], Ended("0001", status, 4_000))
    run = only_run(store, reader)
    assert (run.info.status, run.data.tags["search.status"]) == (shown, status)


def test_failure_is_kept(store: Store, reader: MlflowClient, tmp_path: Path) -> None:
    """A failed trial's run has the last line as a tag and the traceback as an artifact."""
    ended = Ended("0001", "failed", 4_000, failure="E: x", traceback="Traceback: x")
    write(store, FINISHED[0], ended)
    run = only_run(store, reader)
    assert run.data.tags["search.failure"] == "E: x"
    (artifact,) = reader.list_artifacts(run.info.run_id)
    kept = Path(reader.download_artifacts(run.info.run_id, artifact.path, str(tmp_path)))
    assert kept.read_text() == "Traceback: x"


def test_long_curve_is_whole(store: Store, reader: MlflowClient) -> None:
    """A curve longer than one request may be is written in several."""
    curve = tuple(float(value) for value in range(2_500, 0, -1))
    write(store, FINISHED[0], Progressed("0001", 0, curve, 2_000))
    assert [value for _, value in curve_of(reader, only_run(store, reader))] == list(curve)


def test_trial_takes_few_requests(store: Store) -> None:
    """A trial with a curve in one piece costs the server at most six requests."""
    flaky = wrap(store)
    write(store, *FINISHED[:2], FINISHED[-1])
    assert len(flaky.calls) <= 6


class TestServerAway:
    @pytest.fixture(autouse=True)
    def _impatient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tracker, "RETRY_AFTER_S", (0.01,))

    @pytest.mark.parametrize("name", ["create_run", "log_batch", "log_inputs", "set_terminated"])
    def test_nothing_is_lost_or_doubled(
        self, name: str, store: Store, reader: MlflowClient
    ) -> None:
        """A request that twice does not get through is made again, and changes nothing else."""
        left = [2]

        def fails(called: str) -> None:
            if called == name and left[0]:
                left[0] -= 1
                raise ConnectionError("no route to host")

        wrap(store, fails)
        write(store, *FINISHED)
        run = only_run(store, reader)
        assert left == [0]
        assert (run.info.status, curve_of(reader, run)) == ("FINISHED", CURVE)
        assert len(inputs_of(run)) == 1

    @pytest.mark.parametrize("name", ["create_run", "log_batch", "log_inputs", "set_terminated"])
    def test_lost_answer_doubles_nothing(
        self, name: str, store: Store, reader: MlflowClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A request that was taken, but whose answer got lost, is made again without harm."""
        real, left = getattr(store._client, name), [2]

        def loses_answer(*args: Any, **kwargs: Any) -> Any:
            answer = real(*args, **kwargs)
            if left[0]:
                left[0] -= 1
                raise ConnectionError("connection reset")
            return answer

        monkeypatch.setattr(store._client, name, loses_answer)
        write(store, *FINISHED)
        run = only_run(store, reader)
        assert (run.info.status, curve_of(reader, run)) == ("FINISHED", CURVE)
        assert len(inputs_of(run)) == 1
        assert len(reader.get_metric_history(run.info.run_id, "rmse")) == 1

    def test_staying_away_is_an_error_at_the_end(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A server that does not come back fails the search, once the patience is used up."""
        monkeypatch.setattr(tracker, "GIVE_UP_AFTER_S", 0.1)

        def fails(called: str) -> None:
            raise ConnectionError(f"no route to host for {called}")

        wrap(store, fails)
        with pytest.raises(SearchError, match="did not take all trials: no route to host"):
            write(store, *FINISHED)

    def test_refusal_is_an_error_at_the_end(self, store: Store) -> None:
        """What the server refuses is not sent again, and fails the search."""

        def fails(called: str) -> None:
            if called == "log_inputs":
                raise MlflowException("not like this", error_code=BAD_REQUEST)

        flaky = wrap(store, fails)
        with pytest.raises(SearchError, match="not like this"):
            write(store, *FINISHED)
        assert flaky.calls.count("log_inputs") == 1
