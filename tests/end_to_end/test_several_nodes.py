"""Nodes are lost and join while a search runs, on a real Ray cluster of several nodes."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from command import REPOSITORY, Command, Result, Screen, start_search, wait_until
from conftest import NewStore
from mlflow import MlflowClient
from mlflow.entities import Run
from several_nodes import several_nodes

pytestmark = pytest.mark.slow

TRIALS = 12
NAP = ["--trainable", "benchmarks.toys:NAP", "--scheduler", "none"]
MIDDLE_MS = (1000, 3500)  # since the start of a trial of 4 s
SLEEPER = ["--trainable", "benchmarks.toys:SLEEPER", "--scheduler", "none"]
BLINK = ["--trainable", "benchmarks.toys:BLINK", "--scheduler", "none"]
SAMPLE = ["--train-data", "sample", "--valid-data", "sample"]


@dataclass(frozen=True)
class Changed:
    """A search whose nodes have changed while it ran."""

    result: Result
    uri: str  # of its store
    removed_ms: float  # when a node was killed
    screen: str  # the terminal output


@dataclass(frozen=True)
class Differing:
    """What was found on clusters whose nodes have the same code, other code and older code."""

    uri: str  # of the store
    same: Result  # of search.doctor
    differs: Result  # of search.doctor
    refused: Result  # of a search while the code differs
    older: Result  # of search.doctor


def change(folder: Path, uri: str) -> Changed:
    """Run a search that starts without a worker node, gets two, loses one and gets another."""
    with several_nodes() as nodes, Screen() as screen:
        options = [*NAP, *SAMPLE, "--num-samples", str(TRIALS), "--name", "changed", "--json"]
        options += ["--address", nodes.address]
        with start_search(options, folder, screen.environment, screen.end) as command:
            wait_until(lambda: b"waiting for one to join" in screen.output, 60, "the message")
            nodes.add(1)
            wait_until(lambda: b"room for 1 trial" in screen.output, 60, "the first node")
            nodes.add(1)
            wait_until(lambda: done(uri) >= 2 and in_the_middle(uri) == 2, 60, "a trial on both")
            removed_ms = time.time() * 1000
            nodes.remove()
            wait_until(lambda: b"is gone" in screen.output, 60, "the message about the loss")
            nodes.add(2)
            wait_until(lambda: busy(uri) == 3, 60, "trials on the new node")
            result = command.wait(120)
            return Changed(result, uri, removed_ms, screen.output.decode(errors="replace"))


def change_code(folder: Path, uri: str) -> Differing:
    """Let a node with other code join, then one with code like that of an older version."""
    other = folder / "other"
    for package in ("search", "trainables"):
        shutil.copytree(REPOSITORY / package, other / package)
    with (other / "trainables" / "linear.py").open("a") as code:
        code.write("\n# another version\n")
    with several_nodes() as nodes:

        def checked() -> Result:
            return doctor(folder, "--address", nodes.address, "--tracking-uri", uri)

        nodes.add(1)
        same = checked()
        nodes.add(1, other)
        differs = checked()
        options = [*SLEEPER, *SAMPLE, "--num-samples", "2", "--address", nodes.address]
        with start_search(options, folder) as command:
            refused = command.wait(90)
        for file in (other / "search").rglob("*.py"):
            file.write_text("")  # like an older version, which does not have this code
        nodes.remove()
        nodes.remove()
        nodes.add(1, other)
        return Differing(uri, same, differs, refused, older=checked())


@pytest.fixture(scope="module")
def clusters(
    tmp_path_factory: pytest.TempPathFactory, new_store: NewStore
) -> Mapping[str, Future[Any]]:
    """Both scenarios in parallel: each one mostly waits."""
    pool, scenarios = ThreadPoolExecutor(2), {"changed": change, "differing": change_code}
    folders = {name: tmp_path_factory.mktemp(name) for name in scenarios}
    return {
        name: pool.submit(scenario, folders[name], new_store(folders[name]))
        for name, scenario in scenarios.items()
    }


@pytest.fixture(scope="module")
def changed(clusters: Mapping[str, Future[Any]]) -> Changed:
    seen: Changed = clusters["changed"].result()
    return seen


@pytest.fixture(scope="module")
def differing(clusters: Mapping[str, Future[Any]]) -> Differing:
    found: Differing = clusters["differing"].result()
    return found


def test_all_trials_finish_once(changed: Changed) -> None:
    assert changed.result.code == 0, changed.screen
    runs = trials(changed.uri)
    assert Counter(run.data.tags["search.trial_id"] for run in runs) == Counter(
        f"{number:04d}" for number in range(1, TRIALS + 1)
    )
    assert {run.data.tags["search.status"] for run in runs} == {"finished"}
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert json.loads(changed.result.stdout)["trials"]["finished"] == TRIALS


def test_trial_of_lost_node_runs_again_in_the_same_run(changed: Changed) -> None:
    """Its run started before the node was lost, and its fit started after that."""
    spans = [
        (run.info.start_time, run.info.end_time - run.data.metrics["fit_seconds"] * 1000)
        for run in trials(changed.uri)
    ]
    again = [start < changed.removed_ms < fit_start for start, fit_start in spans]
    assert sum(again) == 1, spans


def test_messages_name_nodes_that_join_and_are_lost(changed: Changed) -> None:
    pattern = r"node \S+ ((?:has joined|is gone); room for \d trials? at once)"
    assert re.findall(pattern, changed.screen) == [
        "has joined; room for 1 trial at once",
        "has joined; room for 2 trials at once",
        "is gone; room for 1 trial at once",
        "has joined; room for 3 trials at once",
    ]


def test_display_counts_the_workers(changed: Changed) -> None:
    """The progress line has the number of workers at each moment."""
    counts = [int(count) for count in re.findall(r" running on (\d) workers?", changed.screen)]
    changes = [count for count, _ in itertools.groupby(counts)]
    assert changes[changes.index(1) :][:3] == [1, 2, 1]
    assert max(changes) == 3


def test_doctor_names_nodes_with_other_code(differing: Differing) -> None:
    """A table shows what differs and what to do."""
    assert differing.same.code == 0, differing.same.stderr
    assert "same" in differing.same.stdout
    assert differing.differs.code == 1, differing.differs.stderr
    header, *rows = differing.differs.stdout.splitlines()
    assert header.split()[:3] == ["node", "CPUs", "Python"]
    assert sum("differs" in row for row in rows) == 1
    assert sum("other code" in row and "--working-dir" in row for row in rows) == 1
    assert differing.older.code == 1, differing.older.stderr
    assert "cannot load the code (" in differing.older.stdout


def test_node_with_other_code_is_refused_before_the_first_trial(differing: Differing) -> None:
    """The search ends with the same table."""
    assert differing.refused.code == 2
    assert "fix these nodes" in differing.refused.stderr_lines[-1]
    assert "Traceback" not in differing.refused.stderr
    assert trials(differing.uri) == []


def test_all_slots_are_used_when_trials_are_shorter_than_worker_starts(
    tmp_path: Path, new_store: NewStore
) -> None:
    """Each slot gets its worker, although trials end before further workers have started."""
    uri = new_store(tmp_path)
    with several_nodes() as nodes:
        nodes.add(2)
        nodes.add(2)
        options = [*BLINK, *SAMPLE, "--num-samples", "60", "--address", nodes.address]
        with start_search(options, tmp_path) as command:
            result = command.wait(120)
    assert result.code == 0, result.stderr
    spans = [(run.info.start_time, run.info.end_time) for run in trials(uri)]
    at_once = [sum(start <= at < end for start, end in spans) for at, _ in spans]
    assert max(at_once) == 4


def in_the_middle(uri: str) -> int:
    """Return how many trials are neither near their start nor near their end."""
    now_ms, (least, most) = time.time() * 1000, MIDDLE_MS
    running = [run for run in trials(uri) if run.info.status == "RUNNING"]
    return sum(least < now_ms - run.info.start_time < most for run in running)


def doctor(folder: Path, *options: str) -> Result:
    argv = [sys.executable, "-m", "search.doctor", *options]
    with Command(argv, folder, {"PYTHONPATH": str(REPOSITORY)}) as command:
        return command.wait(90)


def trials(uri: str) -> list[Run]:
    client = MlflowClient(uri)
    experiments: list[Any] = list(client.search_experiments())
    wanted = "tags.`search.role` = 'trial'"
    return list(client.search_runs([each.experiment_id for each in experiments], wanted))


def busy(uri: str) -> int:
    return sum(run.info.status == "RUNNING" for run in trials(uri))


def done(uri: str) -> int:
    return sum(run.info.status == "FINISHED" for run in trials(uri))
