"""However a search's processes end, the command ends with a line, an exit code and closed runs.

Each kind of end is one search, which is then resumed. Those of the selected tests run once, some in
parallel, because they mostly wait.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from command import Command, Result, processes, wait_until
from conftest import NewStore, selected
from toy_command import runs_of, scored_trials, search, start

pytestmark = pytest.mark.slow

AT_ONCE = 3
NAME = "doomed"
RESUME = f"python -m search.run --resume {NAME}"


def signal_all(command: Command, number: signal.Signals) -> None:
    """Send a signal to every process of the command."""
    for pid, _ in processes(command.mark):
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def kill_raylet(command: Command) -> None:
    """Kill the process in which Ray lives; Ray then ends the driver from C++."""
    raylet = next(pid for pid, line in processes(command.mark) if "raylet/raylet" in line)
    os.kill(raylet, signal.SIGKILL)


def kill_driver(command: Command) -> None:
    """Kill the driver, which has the command line of the process that was started."""
    drivers = [pid for pid, line in processes(command.mark) if "-m toy" in line]
    os.kill(next(pid for pid in drivers if os.getsid(pid) == pid != min(drivers)), signal.SIGKILL)


@dataclass(frozen=True)
class Death:
    """A way in which processes of a search end, and what the command makes of it."""

    bring: Callable[[Command], None]
    code: int
    says: str  # in the last line
    within_s: float = 60


DEATHS = {
    # a batch system: Ray's daemons and workers get it, too
    "SIGTERM to all": Death(lambda it: signal_all(it, signal.SIGTERM), 130, "interrupted"),
    # a shell that is told to end
    "SIGTERM to the group": Death(lambda it: it.signal_group(signal.SIGTERM), 130, "interrupted"),
    # a terminal that is closed
    "SIGHUP to the group": Death(lambda it: it.signal_group(signal.SIGHUP), 130, "interrupted"),
    "raylet killed": Death(kill_raylet, 1, RESUME, within_s=90),
    # the kernel, when memory runs out; Ray's daemons go, too
    "driver killed": Death(kill_driver, 1, "SIGKILL"),
}


@dataclass(frozen=True)
class Ended:
    """A search whose processes have ended in one way, and the same search resumed."""

    result: Result
    statuses: dict[str, set[str]]  # of the runs of each role, when the command had ended
    scores: dict[str, float]  # of the trials that had ended
    resumed: Result


@contextmanager
def running(folder: Path) -> Iterator[Command]:
    """Start a search of long trials; yield it when two of them have ended and others run."""
    options = ["--num-samples", "40", "--name", NAME, "--scheduler", "none"]
    with start(options, folder, {"TOY_SECONDS": "0.05"}) as command:
        wait_until(lambda: len(scored_trials(folder)) >= 2, 120, "two trials have ended")
        yield command


def end_and_resume(death: Death, folder: Path) -> Ended:
    """End a search; when no process of it is left, resume it with three trials more."""
    with running(folder) as command:
        death.bring(command)
        result = command.wait(death.within_s)
        statuses = {
            role: {run.info.status for run in runs_of(folder, role)} for role in ("search", "trial")
        }
        wait_until(lambda: not processes(command.mark), 30, "no process is left")
    scores = scored_trials(folder)
    resumed = search(["--resume", NAME, "--num-samples", str(len(scores) + 3)], folder)
    return Ended(result, statuses, scores, resumed)


@pytest.fixture(scope="module")
def ended(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, new_store: NewStore
) -> Mapping[str, Future[Ended]]:
    pool, wanted = ThreadPoolExecutor(AT_ONCE), selected(request, "kind")
    folders = {kind: tmp_path_factory.mktemp("death") for kind in DEATHS if kind in wanted}
    for folder in folders.values():
        new_store(folder)
    return {
        kind: pool.submit(end_and_resume, DEATHS[kind], folder) for kind, folder in folders.items()
    }


@pytest.mark.parametrize("kind", DEATHS)
def test_one_line_says_what_happened_and_how_to_go_on(
    kind: str, ended: Mapping[str, Future[Ended]]
) -> None:
    """There is no traceback, and the exit code tells an interrupt from a failure."""
    result, death = ended[kind].result().result, DEATHS[kind]
    assert result.code == death.code, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr_lines[-1].startswith("search: ")
    assert RESUME in result.stderr_lines[-1]
    assert death.says in result.stderr_lines[-1]


@pytest.mark.parametrize("kind", DEATHS)
def test_no_run_is_running(kind: str, ended: Mapping[str, Future[Ended]]) -> None:
    """The parent run is KILLED when the command has ended, and every trial has an end."""
    statuses = ended[kind].result().statuses
    assert statuses["search"] == {"KILLED"}
    assert "RUNNING" not in statuses["trial"]


@pytest.mark.parametrize("kind", DEATHS)
def test_search_is_resumed(kind: str, ended: Mapping[str, Future[Ended]]) -> None:
    """What has ended stays; what was running runs again, in its own run; nothing is doubled."""
    found = ended[kind].result()
    before, folder = found.scores, found.result.folder
    assert found.resumed.code == 0, found.resumed.stderr
    after, trials = scored_trials(folder), runs_of(folder, "trial")
    assert {trial_id: after[trial_id] for trial_id in before} == before
    assert len(after) == len(before) + 3
    assert sorted(run.data.tags["search.trial_id"] for run in trials) == sorted(after)
    assert {run.info.status for run in [*trials, *runs_of(folder, "search")]} == {"FINISHED"}


def test_second_signal_does_not_wait(tmp_path: Path, new_store: NewStore) -> None:
    """Ctrl-C twice ends the search at once, however long its trials are."""
    new_store(tmp_path)
    with running(tmp_path) as command:
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
