"""What is kept when a search is ended before its last trial.

The trials are of a trainable of the user's own, in the folder where the command is run: two
that end at once, then two that would take a quarter of an hour.
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
    Ended,
    Screen,
    few_trips,
    processes,
    search,
    wait_until,
    written,
)

pytestmark = pytest.mark.slow

NAME = "waiting for long"
BUDGET_S = 60  # two trials that end at once must have ended, also while the machine is busy
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


def waiting(folder: Path) -> list[str]:
    """Put everything into ``folder`` that a search of waiting trials needs; return its options."""
    (folder / "waiting.py").write_text(WAITING)
    points = [{"seconds": seconds} for seconds in (0.0, 0.0, LONG_S, LONG_S)]
    (folder / "points.json").write_text(json.dumps(points))
    trips = few_trips()
    distances = trips["trip_distance"].mask(trips.index < 2)
    written(trips.assign(trip_distance=distances), folder / "train.csv")
    written(trips, folder / "valid.parquet")
    return [
        *("--train-data", "train.csv", "--valid-data", "valid.parquet"),
        *("--trainable", "waiting:WAITING", "--initial-points", "points.json"),
        *("--num-samples", "6", "--max-concurrent", "2", "--name", NAME),
    ]


def out_of_time_on_a_terminal(folder: Path) -> tuple[Ended, bytes]:
    """Run a search that its budget ends; return it, and what came to its terminal."""
    options = [*waiting(folder), "--time-budget", f"{BUDGET_S}s", "--json"]
    with Screen() as screen, search(options, folder, screen.environment, screen.end) as command:
        ended = command.ended(240)
    return ended, screen.shown


def run_ended_early(way: str, folder: Path, store: str) -> tuple[Ended, bytes]:
    """Run a search and end it in one of the :data:`WAYS`."""
    if way == "budget":
        return out_of_time_on_a_terminal(folder)
    with search([*waiting(folder), "--json"], folder) as command:
        wait_until(
            lambda: _two_done_two_running(store, command), 120, "two trials done, two running"
        )
        if way == "SIGINT":
            command.signal_group(signal.SIGINT)  # as Ctrl-C does
        else:
            command.signal_alone(signal.SIGTERM)  # as `kill` does
        return command.ended(60), b""


@pytest.fixture(scope="module")
def interrupted(ended_early: dict[str, tuple[Ended, bytes]]) -> dict[str, Ended]:
    return {signal_name: ended_early[signal_name][0] for signal_name in SIGNALS}


SIGNALS = ("SIGINT", "SIGTERM")
WAYS = (*SIGNALS, "budget")
each_signal = pytest.mark.parametrize("how", SIGNALS)


@each_signal
def test_an_interrupted_search_ends_with_130(how: str, interrupted: dict[str, Ended]) -> None:
    """A script sees that the search was ended from outside."""
    assert interrupted[how].code == 130, interrupted[how].stderr


@each_signal
def test_an_interrupted_search_says_so_calmly(how: str, interrupted: dict[str, Ended]) -> None:
    """One last line names the search, there is no traceback, and nothing on stdout."""
    ended = interrupted[how]
    assert "interrupted" in ended.said[-1]
    assert NAME in ended.said[-1]
    assert "Traceback" not in ended.stderr
    assert "WARNING" not in ended.stderr
    assert ended.stdout == ""


@each_signal
def test_an_interrupted_parent_is_killed(how: str, interrupted: dict[str, Ended]) -> None:
    """No parent run stays RUNNING for ever."""
    (parent,) = _runs(interrupted[how].store, "search")
    assert parent.info.status == "KILLED"
    assert parent.info.end_time >= parent.info.start_time


@each_signal
def test_finished_trials_are_kept(how: str, interrupted: dict[str, Ended]) -> None:
    """What was done before the interruption counts."""
    first, second, *_ = _trials(interrupted[how].store)
    for run in (first, second):
        assert run.info.status == "FINISHED"
        assert run.data.tags["search.status"] == "finished"
        assert set(run.data.metrics) == {"validation-rmse", "rmse", "fit_seconds"}


@each_signal
def test_running_trials_are_killed(how: str, interrupted: dict[str, Ended]) -> None:
    """A trial that was under way says that it was interrupted; no further one was started."""
    _, _, *rest = _trials(interrupted[how].store)
    assert [run.data.tags["search.trial_id"] for run in rest] == ["0003", "0004"]
    for run in rest:
        assert run.info.status == "KILLED"
        assert run.data.tags["search.status"] == "interrupted"
        assert run.info.end_time >= run.info.start_time
        assert "rmse" not in run.data.metrics


@each_signal
def test_nothing_is_refitted_after_an_interruption(how: str, interrupted: dict[str, Ended]) -> None:
    """Who interrupts a search wants it to end, and gets no model."""
    from mlflow import MlflowClient

    assert _runs(interrupted[how].store, "refit") == []
    assert list(MlflowClient(interrupted[how].store).search_registered_models()) == []


@each_signal
def test_no_process_outlives_an_interruption(how: str, interrupted: dict[str, Ended]) -> None:
    """The interrupted trials do not go on in the background."""
    mark = interrupted[how].mark
    wait_until(lambda: not processes(mark), 10, f"all processes gone, left: {processes(mark)}")


def test_a_used_up_budget_ends_well(out_of_time: tuple[Ended, bytes]) -> None:
    """The time budget is a way to end a search, not an error."""
    ended, screen = out_of_time
    assert ended.code == 0, screen.decode()


def test_a_used_up_budget_counts_every_trial(out_of_time: tuple[Ended, bytes]) -> None:
    """What finished in time and what was ended are told apart."""
    assert _report(out_of_time)["trials"] == {
        **{"finished": 2, "stopped": 0, "failed": 0, "interrupted": 2},
        "total": 4,
    }


def test_a_used_up_budget_ends_running_trials(out_of_time: tuple[Ended, bytes]) -> None:
    """A trial that the budget ended is KILLED, a finished one FINISHED, the parent too."""
    store = out_of_time[0].store
    statuses = [run.info.status for run in _trials(store)]
    assert statuses == ["FINISHED", "FINISHED", "KILLED", "KILLED"]
    tags = [run.data.tags["search.status"] for run in _trials(store)]
    assert tags == ["finished", "finished", "interrupted", "interrupted"]
    assert [run.info.status for run in _runs(store, "search")] == ["FINISHED"]


def test_a_used_up_budget_is_no_longer_than_asked_for(out_of_time: tuple[Ended, bytes]) -> None:
    """The search lasts for its budget, not for its trials."""
    search_s = _report(out_of_time)["seconds"]["search"]
    assert BUDGET_S <= search_s < LONG_S / 4


def test_a_used_up_budget_refits_the_best(out_of_time: tuple[Ended, bytes]) -> None:
    """The best of what finished in time becomes a registered model."""
    report = _report(out_of_time)
    (refit,) = _runs(out_of_time[0].store, "refit")
    assert refit.info.status == "FINISHED"
    assert report["refit"]["run_id"] == refit.info.run_id
    assert report["refit"]["alias"] == "champion"
    assert report["best"]["trial_id"] in ("0001", "0002")


def test_dropped_rows_are_counted(out_of_time: tuple[Ended, bytes]) -> None:
    """Rows without a distance are in the report, beside the rows that were used."""
    data = _report(out_of_time)["data"]
    assert (data["train_rows"], data["valid_rows"]) == (28, 30)
    assert data["dropped"] == {"no distance": 2}


def _report(out_of_time: tuple[Ended, bytes]) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(out_of_time[0].stdout)
    return report


def _two_done_two_running(uri: str, command: Command) -> bool:
    assert command.running, f"it ended before its time:\n{command.stderr}"
    states = sorted(run.info.status for run in _runs(uri, "trial"))
    return states == ["FINISHED", "FINISHED", "RUNNING", "RUNNING"]


def _trials(uri: str) -> list[Any]:
    return sorted(_runs(uri, "trial"), key=lambda run: str(run.data.tags["search.trial_id"]))


def _runs(uri: str, role: str) -> Sequence[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiments = [each.experiment_id for each in client.search_experiments()]
    return list(client.search_runs(experiments, f"tags.`search.role` = '{role}'"))
