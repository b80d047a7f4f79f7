"""What is kept of a search that is ended before its last trial.

The trials use a trainable of the user, which is in the folder where the command runs: two trials
that end at once, then two that would take 15 minutes.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from command import (
    Command,
    Result,
    Screen,
    few_trips,
    processes,
    start_search,
    wait_until,
    write_trips,
)

pytestmark = pytest.mark.slow

NAME = "waiting for long"
BUDGET_S = 60  # enough for the two short trials, also on a busy machine
LONG_S = 900.0
WAITING = """
import time
from typing import Any, ClassVar

from hyperopt import hp
from trainables.linear import LINEAR


class Waiting:
    name = "waiting"
    flavor = "sklearn"
    artifact = "models/model.bin"
    settings: ClassVar[dict[str, Any]] = {}
    search_space = {"seconds": hp.uniform("seconds", 0, 900)}

    def rounds(self, settings):
        return None

    def train(self, params, data, settings, on_round):
        time.sleep(params["seconds"])
        return LINEAR.train({}, data, settings, on_round)

    def refit(self, params, data, settings, rounds):
        return LINEAR.refit({}, data, settings, rounds)

    def load(self, model):
        return LINEAR.load(model)

    def predict(self, model, features):
        return LINEAR.predict(model, features)


WAITING = Waiting()
"""


def prepare_waiting(folder: Path) -> list[str]:
    """Write the files of a search of waiting trials into ``folder``; return its options."""
    (folder / "waiting.py").write_text(WAITING)
    points = [{"seconds": seconds} for seconds in (0.0, 0.0, LONG_S, LONG_S)]
    (folder / "points.json").write_text(json.dumps(points))
    trips = few_trips()
    distances = trips["trip_distance"].mask(trips.index < 2)
    write_trips(trips.assign(trip_distance=distances), folder / "train.csv")
    write_trips(trips, folder / "valid.parquet")
    data = ["--train-data", "train.csv", "--valid-data", "valid.parquet"]
    what = ["--trainable", "waiting:WAITING", "--initial-points", "points.json"]
    how = ["--num-samples", "6", "--max-concurrent", "2", "--name", NAME]
    return [*data, *what, *how]


def run_with_budget_on_terminal(folder: Path) -> tuple[Result, bytes]:
    """Run a search that its time budget ends; return its result and its terminal output."""
    options = [*prepare_waiting(folder), "--time-budget", f"{BUDGET_S}s", "--json"]
    with (
        Screen() as screen,
        start_search(options, folder, screen.environment, screen.end) as command,
    ):
        result = command.wait(240)
    return result, screen.output


def run_and_end_early(way: str, folder: Path, store: str) -> tuple[Result, bytes]:
    """Run a search and end it in one of the :data:`WAYS`."""
    if way == "budget":
        return run_with_budget_on_terminal(folder)
    with start_search([*prepare_waiting(folder), "--json"], folder) as command:
        wait_until(
            lambda: _two_done_two_running(store, command), 120, "two trials done, two running"
        )
        if way == "SIGINT":
            command.signal_group(signal.SIGINT)  # as Ctrl-C does
        else:
            command.signal_alone(signal.SIGTERM)  # as `kill` does
        return command.wait(60), b""


@pytest.fixture(scope="module")
def interrupted(ended_early: dict[str, tuple[Result, bytes]]) -> dict[str, Result]:
    return {signal_name: ended_early[signal_name][0] for signal_name in SIGNALS}


SIGNALS = ("SIGINT", "SIGTERM")
WAYS = (*SIGNALS, "budget")
each_signal = pytest.mark.parametrize("signal_name", SIGNALS)


@each_signal
def test_interrupted_search_ends_with_130(signal_name: str, interrupted: dict[str, Result]) -> None:
    """The exit code says that a signal ended the search."""
    assert interrupted[signal_name].code == 130, interrupted[signal_name].stderr


@each_signal
def test_interrupted_search_ends_with_one_line(
    signal_name: str, interrupted: dict[str, Result]
) -> None:
    """The last line names the search; no traceback, no warning, nothing on stdout."""
    result = interrupted[signal_name]
    assert "interrupted" in result.stderr_lines[-1]
    assert NAME in result.stderr_lines[-1]
    assert "Traceback" not in result.stderr
    assert "WARNING" not in result.stderr
    assert result.stdout == ""


@each_signal
def test_parent_run_of_interrupted_search_is_killed(
    signal_name: str, interrupted: dict[str, Result]
) -> None:
    """The parent run does not stay RUNNING."""
    (parent,) = _runs(interrupted[signal_name].store, "search")
    assert parent.info.status == "KILLED"
    assert parent.info.end_time >= parent.info.start_time


@each_signal
def test_finished_trials_are_kept(signal_name: str, interrupted: dict[str, Result]) -> None:
    """Trials that ended before the signal have their status and metrics."""
    first, second, *_ = _trials(interrupted[signal_name].store)
    for run in (first, second):
        assert run.info.status == "FINISHED"
        assert run.data.tags["search.status"] == "finished"
        assert set(run.data.metrics) == {"validation-rmse", "rmse", "fit_seconds"}


@each_signal
def test_running_trials_are_killed(signal_name: str, interrupted: dict[str, Result]) -> None:
    """Trials that were running are tagged as interrupted, and no other trial was started."""
    _, _, *rest = _trials(interrupted[signal_name].store)
    assert [run.data.tags["search.trial_id"] for run in rest] == ["0003", "0004"]
    for run in rest:
        assert run.info.status == "KILLED"
        assert run.data.tags["search.status"] == "interrupted"
        assert run.info.end_time >= run.info.start_time
        assert "rmse" not in run.data.metrics


@each_signal
def test_interrupted_search_makes_no_refit(
    signal_name: str, interrupted: dict[str, Result]
) -> None:
    """There is no refit run and no registered model."""
    from mlflow import MlflowClient

    store = interrupted[signal_name].store
    assert _runs(store, "refit") == []
    assert list(MlflowClient(store).search_registered_models()) == []


@each_signal
def test_no_process_survives_an_interrupt(signal_name: str, interrupted: dict[str, Result]) -> None:
    """The interrupted trials do not continue in the background."""
    mark = interrupted[signal_name].mark
    wait_until(lambda: not processes(mark), 10, f"all processes gone, left: {processes(mark)}")


def test_search_out_of_time_ends_with_0(out_of_time: tuple[Result, bytes]) -> None:
    """The end of the time budget is not an error."""
    result, screen = out_of_time
    assert result.code == 0, screen.decode()


def test_search_out_of_time_counts_every_trial(out_of_time: tuple[Result, bytes]) -> None:
    """The report counts finished and interrupted trials separately."""
    assert _report(out_of_time)["trials"] == {
        "finished": 2,
        "stopped": 0,
        "failed": 0,
        "interrupted": 2,
        "total": 4,
    }


def test_search_out_of_time_ends_running_trials(out_of_time: tuple[Result, bytes]) -> None:
    """The runs of interrupted trials are KILLED; finished trials and the parent are FINISHED."""
    store = out_of_time[0].store
    statuses = [run.info.status for run in _trials(store)]
    assert statuses == ["FINISHED", "FINISHED", "KILLED", "KILLED"]
    tags = [run.data.tags["search.status"] for run in _trials(store)]
    assert tags == ["finished", "finished", "interrupted", "interrupted"]
    assert [run.info.status for run in _runs(store, "search")] == ["FINISHED"]


def test_search_takes_as_long_as_its_budget(out_of_time: tuple[Result, bytes]) -> None:
    """The search ends with its budget and does not wait for the running trials."""
    search_s = _report(out_of_time)["seconds"]["search"]
    assert BUDGET_S <= search_s < LONG_S / 4


def test_search_out_of_time_refits_the_best(out_of_time: tuple[Result, bytes]) -> None:
    """The best of the finished trials becomes a registered model."""
    report = _report(out_of_time)
    (refit,) = _runs(out_of_time[0].store, "refit")
    assert refit.info.status == "FINISHED"
    assert report["refit"]["run_id"] == refit.info.run_id
    assert report["refit"]["alias"] == "champion"
    assert report["best"]["trial_id"] in ("0001", "0002")


def test_dropped_rows_are_counted(out_of_time: tuple[Result, bytes]) -> None:
    """The report counts the rows used, and the rows dropped because they have no distance."""
    data = _report(out_of_time)["data"]
    assert (data["train_rows"], data["valid_rows"]) == (28, 30)
    assert data["dropped"] == {"no distance": 2}


def _report(out_of_time: tuple[Result, bytes]) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(out_of_time[0].stdout)
    return report


def _two_done_two_running(uri: str, command: Command) -> bool:
    assert command.running, f"the search ended too early:\n{command.stderr}"
    states = sorted(run.info.status for run in _runs(uri, "trial"))
    return states == ["FINISHED", "FINISHED", "RUNNING", "RUNNING"]


def _trials(uri: str) -> list[Any]:
    return sorted(_runs(uri, "trial"), key=lambda run: str(run.data.tags["search.trial_id"]))


def _runs(uri: str, role: str) -> Sequence[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiments = [each.experiment_id for each in client.search_experiments()]
    return list(client.search_runs(experiments, f"tags.`search.role` = '{role}'"))
