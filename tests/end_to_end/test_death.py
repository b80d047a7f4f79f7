"""However a search's processes end, the command ends with a line, an exit code and closed runs."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from command import Command, Result, processes, wait_until
from toy_command import runs_of, scored_trials, search, start

pytestmark = pytest.mark.slow

NewStore = Callable[[Path], str]

NAME = "doomed"
RESUME = f"python -m search.run --resume {NAME}"


@contextmanager
def running(folder: Path, environment: Mapping[str, str] | None = None) -> Iterator[Command]:
    """Start a search of long trials; yield it when two of them have ended and others run."""
    environment = {"TOY_SECONDS": "0.05", **(environment or {})}
    options = ["--num-samples", "40", "--name", NAME, "--scheduler", "none"]
    with start(options, folder, environment) as command:
        wait_until(lambda: len(scored_trials(folder)) >= 2, 120, "two trials have ended")
        yield command


def process_of(command: Command, word: str) -> int:
    """Return the id of the command's process whose command line has this word."""
    return next(pid for pid, line in processes(command.mark) if word in line)


def signal_all(command: Command, number: signal.Signals) -> None:
    """Send a signal to every process of the command, as a batch system does."""
    for pid, _ in processes(command.mark):
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def assert_closed(result: Result, code: int) -> None:
    """One line says how to go on; no run is RUNNING; nothing is left; the search can be resumed."""
    assert result.code == code, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr_lines[-1].startswith("search: ")
    assert RESUME in result.stderr_lines[-1]
    assert {run.info.status for run in runs_of(result.folder, "search")} == {"KILLED"}
    assert "RUNNING" not in {run.info.status for run in runs_of(result.folder, "trial")}
    wait_until(lambda: not processes(result.mark), 30, "no process is left")
    before = scored_trials(result.folder)
    resumed = search(["--resume", NAME, "--num-samples", str(len(before) + 3)], result.folder)
    assert resumed.code == 0, resumed.stderr
    after = scored_trials(result.folder)
    assert {trial_id: after[trial_id] for trial_id in before} == before
    assert len(after) == len(before) + 3 == len(runs_of(result.folder, "trial"))


def test_batch_system_ends_all_processes(tmp_path: Path, new_store: NewStore) -> None:
    """SIGTERM to Ray's daemons and workers, too: the search ends as with Ctrl-C."""
    new_store(tmp_path)
    with running(tmp_path) as command:
        signal_all(command, signal.SIGTERM)
        result = command.wait(60)
    assert "interrupted" in result.stderr_lines[-1]
    assert_closed(result, code=130)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_process_group_is_ended(
    number: signal.Signals, tmp_path: Path, new_store: NewStore
) -> None:
    """A shell that is told to end, or a terminal that is closed."""
    new_store(tmp_path)
    with running(tmp_path) as command:
        command.signal_group(number)
        result = command.wait(60)
    assert "interrupted" in result.stderr_lines[-1]
    assert_closed(result, code=130)


def test_raylet_is_killed(tmp_path: Path, new_store: NewStore) -> None:
    """Ray ends the driver from C++; the command still says what happened."""
    new_store(tmp_path)
    with running(tmp_path) as command:
        os.kill(process_of(command, "raylet/raylet"), signal.SIGKILL)
        result = command.wait(90)
    assert_closed(result, code=1)


def test_driver_is_killed(tmp_path: Path, new_store: NewStore) -> None:
    """As by the kernel when memory runs out; Ray's daemons go, too."""
    new_store(tmp_path)
    with running(tmp_path) as command:
        # the forked driver has the command line of the process that was started
        drivers = [pid for pid, line in processes(command.mark) if "-m toy" in line]
        os.kill(next(pid for pid in drivers if os.getsid(pid) == pid != min(drivers)), 9)
        result = command.wait(60)
    assert "SIGKILL" in result.stderr_lines[-1]
    assert_closed(result, code=1)


def test_second_signal_does_not_wait(tmp_path: Path, new_store: NewStore) -> None:
    """Ctrl-C twice ends the search at once, however long its trials are."""
    new_store(tmp_path)
    with running(tmp_path, {"TOY_SECONDS": "0.05"}) as command:
        command.signal_alone(signal.SIGINT)
        command.signal_alone(signal.SIGINT)
        result = command.wait(60)
    assert result.code == 130
    assert RESUME in result.stderr_lines[-1]


def test_interrupt_before_the_search_has_begun(tmp_path: Path) -> None:
    """There is nothing to go on with, and the line does not say that there is."""
    with start(["--num-samples", "4", "--name", NAME], tmp_path) as command:
        wait_until(lambda: (tmp_path / ".search").exists(), 30, "the search starts")
        command.signal_alone(signal.SIGTERM)
        result = command.wait(60)
    assert result.code == 130
    assert result.stderr_lines[-1] == "search: interrupted before the search had begun"
