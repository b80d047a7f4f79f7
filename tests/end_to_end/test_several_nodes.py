"""Nodes leave and join while a search runs, on a real Ray cluster of several nodes."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command import REPOSITORY, Command, Ended, Screen, search, wait_until
from mlflow import MlflowClient
from mlflow.entities import Run
from several_nodes import several_nodes

pytestmark = pytest.mark.slow

TRIALS = 12
NAP = ["--trainable", "benchmarks.toys:NAP", "--scheduler", "none"]
MIDDLE_MS = (1000, 3500)  # of a nap of 4 s
SLEEPER = ["--trainable", "benchmarks.toys:SLEEPER", "--scheduler", "none"]
BLINK = ["--trainable", "benchmarks.toys:BLINK", "--scheduler", "none"]
SAMPLE = ["--train-data", "sample", "--valid-data", "sample"]

NewStore = Callable[[Path], str]
Moved = tuple[Ended, str, float, str]  # the command, its store, when a node went, the terminal


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory, new_store: NewStore) -> Moved:
    """A search that begins before there is a worker, loses a node and gains two."""
    folder = tmp_path_factory.mktemp("moved")
    uri = new_store(folder)
    with several_nodes() as nodes, Screen() as screen:
        options = [*NAP, *SAMPLE, "--num-samples", str(TRIALS), "--name", "moved", "--json"]
        there = ["--address", nodes.address]
        with search([*options, *there], folder, screen.environment, screen.end) as command:
            wait_until(lambda: b"waiting for one to join" in screen.shown, 60, "a word")
            nodes.add(1)
            wait_until(lambda: b"room for 1 trial" in screen.shown, 60, "the first node seen")
            nodes.add(1)
            wait_until(lambda: done(uri) >= 2 and in_the_middle(uri) == 2, 60, "both at work")
            removed_ms = time.time() * 1000
            nodes.remove()
            wait_until(lambda: b"is gone" in screen.shown, 60, "the loss noticed")
            nodes.add(2)
            wait_until(lambda: busy(uri) == 3, 60, "the new node at work")
            return command.ended(120), uri, removed_ms, screen.shown.decode(errors="replace")


def test_all_trials_finish_once(moved: Moved) -> None:
    ended, uri, _, shown = moved
    assert ended.code == 0, shown
    runs = trials(uri)
    assert Counter(run.data.tags["search.trial_id"] for run in runs) == Counter(
        f"{number:04d}" for number in range(1, TRIALS + 1)
    )
    assert {run.data.tags["search.status"] for run in runs} == {"finished"}
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert json.loads(ended.stdout)["trials"]["finished"] == TRIALS


def test_a_trial_of_the_lost_node_runs_again_in_its_own_run(moved: Moved) -> None:
    """Its run began before the node went, and holds a fit of later on."""
    _, uri, removed_ms, _ = moved
    spans = [
        (run.info.start_time, run.info.end_time - run.data.metrics["fit_seconds"] * 1000)
        for run in trials(uri)
    ]
    assert sum(start < removed_ms < fit for start, fit in spans) == 1, spans


def test_it_says_who_comes_and_goes(moved: Moved) -> None:
    said = re.findall(r"node \S+ ((?:has joined|is gone); room for \d trials? at once)", moved[3])
    assert said == [
        "has joined; room for 1 trial at once",
        "has joined; room for 2 trials at once",
        "is gone; room for 1 trial at once",
        "has joined; room for 3 trials at once",
    ]


def test_the_display_counts_the_workers(moved: Moved) -> None:
    """At each moment those that there are."""
    counts = [int(count) for count in re.findall(r" running on (\d) workers?", moved[3])]
    changes = [count for count, _ in itertools.groupby(counts)]
    assert changes[changes.index(1) :][:3] == [1, 2, 1]
    assert max(changes) == 3


def test_all_slots_get_busy_with_trials_shorter_than_a_start(
    tmp_path: Path, new_store: NewStore
) -> None:
    """Each slot gets its worker, and no trial that ends early takes one's place in the queue."""
    uri = new_store(tmp_path)
    with several_nodes() as nodes:
        nodes.add(2)
        nodes.add(2)
        options = [*BLINK, *SAMPLE, "--num-samples", "60", "--address", nodes.address]
        with search(options, tmp_path) as command:
            ended = command.ended(120)
    assert ended.code == 0, ended.stderr
    spans = [(run.info.start_time, run.info.end_time) for run in trials(uri)]
    at_once = [sum(start <= at < end for start, end in spans) for at, _ in spans]
    assert max(at_once) == 4


def test_a_node_with_other_code_is_told_before_the_first_trial(
    tmp_path: Path, new_store: NewStore
) -> None:
    """One table says what differs and what to do; alone it can be had from search.doctor."""
    other = tmp_path / "other"
    for package in ("search", "trainables"):
        shutil.copytree(REPOSITORY / package, other / package)
    with (other / "trainables" / "linear.py").open("a") as code:
        code.write("\n# another version\n")
    uri = new_store(tmp_path)
    with several_nodes() as nodes:
        nodes.add(1)
        looked = doctor(tmp_path, "--address", nodes.address, "--tracking-uri", uri)
        assert looked.returncode == 0, looked.stderr
        assert "same" in looked.stdout
        nodes.add(1, other)
        looked = doctor(tmp_path, "--address", nodes.address, "--tracking-uri", uri)
        assert looked.returncode == 1, looked.stderr
        header, *rows = looked.stdout.splitlines()
        assert header.split()[:3] == ["node", "CPUs", "Python"]
        assert sum("differs" in row for row in rows) == 1
        assert sum("other code" in row and "--working-dir" in row for row in rows) == 1
        options = [*SLEEPER, *SAMPLE, "--num-samples", "2", "--address", nodes.address]
        with search(options, tmp_path) as command:
            refused = command.ended(90)
        for file in (other / "search").glob("*.py"):
            file.write_text("")  # a version from before there was any of it
        nodes.remove()
        nodes.remove()
        nodes.add(1, other)
        looked = doctor(tmp_path, "--address", nodes.address, "--tracking-uri", uri)
        assert looked.returncode == 1, looked.stderr
        assert "cannot load the code (" in looked.stdout
    assert refused.code == 2
    assert "mend these nodes" in refused.said[-1]
    assert "Traceback" not in refused.stderr
    assert trials(uri) == []


def in_the_middle(uri: str) -> int:
    """Return how many trials are neither at their beginning nor at their end."""
    now_ms, (least, most) = time.time() * 1000, MIDDLE_MS
    running = [run for run in trials(uri) if run.info.status == "RUNNING"]
    return sum(least < now_ms - run.info.start_time < most for run in running)


def doctor(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "search.doctor", *options]
    with Command(argv, folder, {"PYTHONPATH": str(REPOSITORY)}) as command:
        ended = command.ended(90)
    return subprocess.CompletedProcess(argv, ended.code, ended.stdout, ended.stderr)


def trials(uri: str) -> list[Run]:
    client = MlflowClient(uri)
    experiments: list[Any] = list(client.search_experiments())
    wanted = "tags.`search.role` = 'trial'"
    return list(client.search_runs([each.experiment_id for each in experiments], wanted))


def busy(uri: str) -> int:
    return sum(run.info.status == "RUNNING" for run in trials(uri))


def done(uri: str) -> int:
    return sum(run.info.status == "FINISHED" for run in trials(uri))
