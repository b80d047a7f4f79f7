"""The writer process makes the calls, returns their errors, and ends with the driver."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException, RestException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from search.record.connection import connect
from search.record.run_metadata import RunMetadata
from search.record.store import Store
from search.record.store_errors import is_outage
from search.record.trial_runs import SearchRuns, TrialRuns
from search.record.writer_process import WriterProcess, _portable
from search.values.data import DataDescription
from search.values.events import Ended, Started
from search.values.metric import Metric

STARTED = Started("0001", {"depth": 7}, 1_000)
ENDED = Ended("0001", "finished", 2_000, {"rmse": 7.0}, curve=(9.0, 7.0))
RMSE = Metric("rmse", "minimize", label="RMSE")


@pytest.fixture
def runs(tmp_path: Path) -> TrialRuns:
    return runs_of(connect(f"sqlite:///{tmp_path / 'mlflow.db'}", "e"))


def runs_of(store: Store) -> TrialRuns:
    data = DataDescription("trips", "ab" * 16, {"train": "a"}, {})
    metadata = RunMetadata(params={}, tags={}, data=data)
    return TrialRuns(store, SearchRuns("s1", "parent", metadata, RMSE.curve))


def write(process: WriterProcess, runs: TrialRuns) -> str:
    """Write a complete trial; return its run."""
    run_id = str(process.ask(runs, "create", STARTED))
    process.ask(runs, "describe", run_id, STARTED)
    process.ask(runs, "score", run_id, ENDED)
    process.ask(runs, "end", run_id, ENDED)
    return run_id


def test_trial_is_written_by_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process makes all calls, with the environment at the time of the call."""
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "early")
    with WriterProcess() as process:
        runs = runs_of(connect(f"sqlite:///{tmp_path / 'mlflow.db'}", "e"))
        monkeypatch.setattr(MlflowClient, "log_batch", None)  # does not work in this process
        run_id = write(process, runs)
    run = runs.store.client.get_run(run_id)
    assert (run.info.status, run.data.params) == ("FINISHED", {"depth": "7"})
    assert run.data.metrics["rmse"] == 7.0
    curve = runs.store.client.get_metric_history(run_id, "validation-rmse")
    assert sorted((point.step, point.value) for point in curve) == [(0, 9.0), (1, 7.0)]


def test_error_keeps_its_code(runs: TrialRuns) -> None:
    """The code decides whether an event is sent again."""
    with WriterProcess() as process, pytest.raises(MlflowException) as error:
        process.ask(runs, "end", "0" * 32, ENDED)
    assert error.value.error_code == "RESOURCE_DOES_NOT_EXIST"
    assert not is_outage(error.value)


def test_absent_server_is_an_outage() -> None:
    """The error is the same as in this process: the event waits."""
    with WriterProcess() as process, pytest.raises(MlflowException) as error:
        process.ask(runs_of(Store("http://127.0.0.1:1", "0")), "create", STARTED)
    assert is_outage(error.value)


@pytest.mark.parametrize(
    "error",
    [
        MlflowException("a", error_code=INVALID_PARAMETER_VALUE),
        RestException({"error_code": "RESOURCE_DOES_NOT_EXIST"}),  # type: ignore[no-untyped-call]
        ConnectionError("a"),
    ],
)
def test_error_can_be_sent(error: Exception) -> None:
    """Type and code, by which the writer decides, are kept."""
    received = pickle.loads(pickle.dumps(_portable(error)))
    assert type(received) is type(error)
    assert getattr(received, "error_code", "") == getattr(error, "error_code", "")
    assert is_outage(received) == is_outage(error)


def test_error_that_cannot_be_sent_keeps_its_message() -> None:
    """The constructor of an exception may have any arguments."""

    class OddError(Exception):
        def __init__(self, one: int, two: int) -> None:
            super().__init__(f"{one} and {two}")

    assert "1 and 2" in str(_portable(OddError(1, 2)))


def test_calls_are_made_here_if_the_process_was_killed(runs: TrialRuns) -> None:
    """The system may kill the process to free memory; no event is lost, and the search goes on."""
    with WriterProcess() as process:
        run_id = str(process.ask(runs, "create", STARTED))
        assert process._process.pid is not None
        os.kill(process._process.pid, signal.SIGKILL)
        process._process.join(10)
        process.ask(runs, "describe", run_id, STARTED)
        process.ask(runs, "end", run_id, ENDED)
    assert runs.store.client.get_run(run_id).info.status == "FINISHED"


def test_kill_during_a_call_is_an_outage(runs: TrialRuns, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run may have been made, so the writer looks it up before it makes another."""

    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(TrialRuns, "create", die)
    with WriterProcess() as process, pytest.raises(ConnectionError) as error:
        process.ask(runs, "create", STARTED)
    assert is_outage(error.value)
    assert list(runs.store.client.search_runs([runs.store.experiment_id])) == []


def test_failed_call_is_not_repeated_here(runs: TrialRuns, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a broken pipe moves a call to this process; an error of the call is raised."""

    def fail(*_: object) -> None:
        raise ValueError("there")

    monkeypatch.setattr(TrialRuns, "create", fail)
    with WriterProcess() as process, pytest.raises(ValueError, match="there"):
        process.ask(runs, "create", STARTED)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_ignored(number: signal.Signals, runs: TrialRuns) -> None:
    """Ctrl-C reaches the whole process group; events are still written."""
    with WriterProcess() as process:
        process.ask(runs, "find", "0001")
        assert process._process.pid is not None
        os.kill(process._process.pid, number)
        write(process, runs)
        assert process._process.is_alive()


def test_process_ends_with_the_driver() -> None:
    """A driver that is killed leaves no process behind."""
    code = (
        "from search.record.writer_process import WriterProcess\n"
        "with WriterProcess() as process:\n"
        "    print(process._process.pid, flush=True)\n"
        "    input()\n"
    )
    command = [sys.executable, "-c", code]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as driver:  # type: ignore[call-overload]
        stat = Path(f"/proc/{driver.stdout.readline().strip()}/stat")
        assert stat.exists()
        driver.kill()
        give_up_at = time.monotonic() + 10
        while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
            assert time.monotonic() < give_up_at, "the process is still alive"
            time.sleep(0.05)
