"""The process beside the driver: it does the same, it says the same, and it outlives nobody."""

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

from search.notes import Ended, Started
from search.sender import Sender, _portable
from search.store import Data, Store, is_outage
from search.writer import TrialRuns

STARTED = Started("0001", {"depth": 7}, 1_000)
ENDED = Ended("0001", "finished", 2_000, {"rmse": 7.0}, curve=(9.0, 7.0))


@pytest.fixture
def runs(tmp_path: Path) -> TrialRuns:
    return runs_of(Store.connect(f"sqlite:///{tmp_path / 'mlflow.db'}", "e"))


def runs_of(store: Store) -> TrialRuns:
    return TrialRuns(store, "s1", "parent", {}, {}, Data("trips", "ab" * 16, {"train": "a"}, {}))


def write(sender: Sender, runs: TrialRuns) -> str:
    """Write a whole trial; return its run."""
    run_id = str(sender.ask(runs, "create", STARTED))
    sender.ask(runs, "describe", run_id, STARTED)
    sender.ask(runs, "score", run_id, ENDED)
    sender.ask(runs, "end", run_id, ENDED)
    return run_id


def test_a_trial_is_written_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of a run is made by another process, with what the environment says by then."""
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "early")
    with Sender() as sender:
        runs = runs_of(Store.connect(f"sqlite:///{tmp_path / 'mlflow.db'}", "e"))
        monkeypatch.setattr(MlflowClient, "log_batch", None)  # here nobody can
        run_id = write(sender, runs)
    run = runs.store.client.get_run(run_id)
    assert (run.info.status, run.data.params) == ("FINISHED", {"depth": "7"})
    assert run.data.metrics["rmse"] == 7.0


def test_an_error_is_the_one_it_was(runs: TrialRuns) -> None:
    """Whether a note is tried again hangs on the error's code."""
    with Sender() as sender, pytest.raises(MlflowException) as caught:
        sender.ask(runs, "end", "0" * 32, ENDED)
    assert caught.value.error_code == "RESOURCE_DOES_NOT_EXIST"
    assert not is_outage(caught.value)


def test_a_server_that_is_away_is_an_outage() -> None:
    """It is told as here: the note waits."""
    with Sender() as sender, pytest.raises(MlflowException) as caught:
        sender.ask(runs_of(Store("http://127.0.0.1:1", "0")), "create", STARTED)
    assert is_outage(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        MlflowException("a", error_code=INVALID_PARAMETER_VALUE),
        RestException({"error_code": "RESOURCE_DOES_NOT_EXIST"}),  # type: ignore[no-untyped-call]
        ConnectionError("a"),
    ],
)
def test_errors_travel(error: Exception) -> None:
    """What decides about them is not lost on the way."""
    there = pickle.loads(pickle.dumps(_portable(error)))
    assert type(there) is type(error)
    assert getattr(there, "error_code", "") == getattr(error, "error_code", "")
    assert is_outage(there) == is_outage(error)


def test_an_error_that_cannot_travel_is_told() -> None:
    """Its words arrive, whatever its constructor wants."""

    class Odd(Exception):
        def __init__(self, one: int, two: int) -> None:
            super().__init__(f"{one} and {two}")

    assert "1 and 2" in str(_portable(Odd(1, 2)))


def test_where_it_was_killed_the_work_is_done_here(runs: TrialRuns) -> None:
    """It may be taken for what eats the memory; nothing is lost, and nothing stops."""
    with Sender() as sender:
        run_id = str(sender.ask(runs, "create", STARTED))
        assert sender._process.pid is not None
        os.kill(sender._process.pid, signal.SIGKILL)
        sender._process.join(10)
        sender.ask(runs, "describe", run_id, STARTED)
        sender.ask(runs, "end", run_id, ENDED)
    assert runs.store.client.get_run(run_id).info.status == "FINISHED"


def test_killed_in_the_middle_is_an_outage(
    runs: TrialRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether a run was made is not known, so it is looked up, and never made twice on a guess."""

    def dies(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(TrialRuns, "create", dies)
    with Sender() as sender, pytest.raises(ConnectionError) as caught:
        sender.ask(runs, "create", STARTED)
    assert is_outage(caught.value)
    assert list(runs.store.client.search_runs([runs.store.experiment_id])) == []


def test_an_error_of_the_call_is_not_one_of_the_pipe(
    runs: TrialRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that failed is not made a second time, whatever it raised."""

    def fails(*_: object) -> None:
        raise ValueError("there")

    monkeypatch.setattr(TrialRuns, "create", fails)
    with Sender() as sender, pytest.raises(ValueError, match="there"):
        sender.ask(runs, "create", STARTED)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_the_drivers(number: signal.Signals, runs: TrialRuns) -> None:
    """Ctrl-C reaches the whole group; what is known is still written."""
    with Sender() as sender:
        sender.ask(runs, "find", "0001")
        assert sender._process.pid is not None
        os.kill(sender._process.pid, number)
        write(sender, runs)
        assert sender._process.is_alive()


def test_it_ends_with_the_driver() -> None:
    """A driver that is killed leaves no process behind."""
    code = (
        "from search.sender import Sender\n"
        "with Sender() as sender:\n"
        "    print(sender._process.pid, flush=True)\n"
        "    input()\n"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as it:
        assert it.stdout is not None
        there = Path(f"/proc/{it.stdout.readline().strip()}/stat")
        assert there.exists()
        it.kill()
        give_up_at = time.monotonic() + 10
        while there.exists() and there.read_text().rpartition(")")[2].split()[0] != "Z":
            assert time.monotonic() < give_up_at, "it is still there"
            time.sleep(0.05)
