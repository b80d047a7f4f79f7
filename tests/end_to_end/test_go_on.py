"""Extending a search, resuming one that is done, starting from another, and what is refused."""

from __future__ import annotations

import random
import shlex
from dataclasses import dataclass
from pathlib import Path

import faults
import pytest
from command import Ended, few_trips, searched, written

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Extended:
    """A search of half the trials, extended to all, and resumed once more."""

    scene: faults.Scene
    half: Ended
    extended: Ended
    again: Ended


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Extended:
    scene = faults.Scene(tmp_path_factory.mktemp("extended"), random.Random(0))
    with scene.start(trials=faults.TRIALS // 2) as command:
        scene.end(command, 0)
    extend = ["--resume", faults.NAME, "--num-samples", str(faults.TRIALS)]
    for options in (extend, extend[:2]):
        scene.ends.append(searched([*options, "--tracking-uri", scene.uri], scene.folder))
    return Extended(scene, *scene.ends)


def test_extending_gives_the_whole_search(
    extended: Extended, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Half and half again are the trials that one search of all would have run."""
    assert [ended.code for ended in (extended.half, extended.extended)] == [0, 0]
    undisturbed = faults.undisturbed_trials(tmp_path_factory.mktemp("undisturbed"))
    assert faults.told(extended.scene.trials()) == undisturbed
    assert faults.lost(extended.scene, undisturbed) == []


def test_a_complete_search_says_so(extended: Extended) -> None:
    """There is nothing to do, and nothing is done."""
    assert extended.again.code == 0
    assert "complete" in extended.again.stderr


REFUSED = {
    "--resume nobody": ("nobody", faults.NAME),
    f"--resume {faults.NAME} --num-samples 2": ("--num-samples", "2", str(faults.TRIALS)),
    f"--resume {faults.NAME} --seed 8": ("--seed", "8", "7"),
    f"--resume {faults.NAME} --scheduler none": ("--scheduler", "none", "asha"),
    f"--resume {faults.NAME} --set x=0.5": ("--set",),
    f"--resume {faults.NAME} --name other": ("--name",),
    f"--resume {faults.NAME} --warm-start other": ("--warm-start",),
    "--resume fault --experiment-name elsewhere": ("elsewhere", "--experiment-name"),
    "--train-data trips.parquet --valid-data trips.parquet --warm-start nobody": ("nobody",),
    "--train-data trips.parquet --valid-data trips.parquet --warm-start fault --trainable lasso": (
        faults.NAME,
        "search space",
    ),
}


@pytest.mark.parametrize("options", REFUSED)
def test_what_cannot_go_on_is_refused(options: str, extended: Extended) -> None:
    """One line that names the thing, exit code 2, and not a run more."""
    before = len(extended.scene.runs())
    uri = ["--tracking-uri", extended.scene.uri]
    ended = searched([*shlex.split(options), *uri], extended.scene.folder)
    assert ended.code == 2, ended.stderr
    assert "Traceback" not in ended.stderr
    for word in REFUSED[options]:
        assert word in ended.said[-1]
    assert len(extended.scene.runs()) == before


def test_other_rows_are_refused(extended: Extended) -> None:
    """The trials of one search were scored on the same rows."""
    trips = extended.scene.folder / "trips.parquet"
    kept = trips.read_bytes()
    written(few_trips(rows=31), trips)
    try:
        assert "data.digest" in _refused(extended.scene.folder, extended.scene.uri)
    finally:
        trips.write_bytes(kept)


def test_another_space_is_refused(extended: Extended) -> None:
    """What the trials were drawn from is part of what the searcher is told."""
    model = extended.scene.folder / "stepwise.py"
    kept = model.read_text()
    model.write_text(kept.replace('hp.uniform("x", -1, 1)', 'hp.uniform("x", -2, 1)'))
    try:
        assert "space.digest" in _refused(extended.scene.folder, extended.scene.uri)
    finally:
        model.write_text(kept)


def _refused(folder: Path, uri: str) -> str:
    ended = searched(["--resume", faults.NAME, "--tracking-uri", uri], folder)
    assert ended.code == 2, ended.stderr
    return ended.said[-1]


def test_a_search_begins_with_what_another_learned(extended: Extended) -> None:
    """The warm start tells every scored trial, and the random phase is that much shorter."""
    with extended.scene.start(1, "warm", "--warm-start", faults.NAME) as command:
        ended = command.ended(120)
    assert ended.code == 0, ended.stderr
    assert f"warm start: {faults.TRIALS} of {faults.TRIALS} scored trials" in ended.stderr
