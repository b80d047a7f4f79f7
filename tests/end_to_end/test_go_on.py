"""A search is extended, resumed when complete, warm-started from another; what is refused."""

from __future__ import annotations

import random
import shlex
from dataclasses import dataclass
from pathlib import Path

import faults
import pytest
from command import Result, few_trips, run_search, write_trips

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Extended:
    """A search of half the trials, then extended to all of them, then resumed once more."""

    scenario: faults.Scenario
    half: Result
    extended: Result
    again: Result


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Extended:
    scenario = faults.Scenario(tmp_path_factory.mktemp("extended"), random.Random(0))
    with scenario.start(trials=faults.TRIALS // 2) as command:
        scenario.wait(command, 0)
    extend = ["--resume", faults.NAME, "--num-samples", str(faults.TRIALS)]
    for options in (extend, extend[:2]):
        result = run_search([*options, "--tracking-uri", scenario.uri], scenario.folder)
        scenario.results.append(result)
    half, whole, again = scenario.results
    return Extended(scenario, half, whole, again)


def test_extended_search_has_the_trials_of_one_search(
    extended: Extended, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Half of the trials, then the other half: the same trials as in one search of all."""
    assert [result.code for result in (extended.half, extended.extended)] == [0, 0]
    expected = faults.run_without_fault(tmp_path_factory.mktemp("no-fault"))
    assert faults.trial_outcomes(extended.scenario.trials()) == expected
    assert faults.find_problems(extended.scenario, expected) == []


def test_resuming_complete_search_does_nothing(extended: Extended) -> None:
    """The command reports that the search is complete, and ends well."""
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
def test_impossible_resume_or_warm_start_is_refused(options: str, extended: Extended) -> None:
    """The error is one line that names the option; exit code 2; no new run."""
    before = len(extended.scenario.runs())
    uri = ["--tracking-uri", extended.scenario.uri]
    result = run_search([*shlex.split(options), *uri], extended.scenario.folder)
    assert result.code == 2, result.stderr
    assert "Traceback" not in result.stderr
    for word in REFUSED[options]:
        assert word in result.stderr_lines[-1]
    assert len(extended.scenario.runs()) == before


def test_resume_with_other_rows_is_refused(extended: Extended) -> None:
    """All trials of one search are scored on the same rows."""
    trips = extended.scenario.folder / "trips.parquet"
    original = trips.read_bytes()
    write_trips(few_trips(rows=31), trips)
    try:
        assert "data.digest" in _refusal(extended.scenario.folder, extended.scenario.uri)
    finally:
        trips.write_bytes(original)


def test_resume_with_other_search_space_is_refused(extended: Extended) -> None:
    """The searcher can only learn from trials of the same space."""
    model = extended.scenario.folder / "stepwise.py"
    original = model.read_text()
    model.write_text(original.replace('hp.uniform("x", -1, 1)', 'hp.uniform("x", -2, 1)'))
    try:
        assert "space.digest" in _refusal(extended.scenario.folder, extended.scenario.uri)
    finally:
        model.write_text(original)


def _refusal(folder: Path, uri: str) -> str:
    result = run_search(["--resume", faults.NAME, "--tracking-uri", uri], folder)
    assert result.code == 2, result.stderr
    return result.stderr_lines[-1]


def test_warm_start_reads_all_scored_trials(extended: Extended) -> None:
    """The searcher learns from every scored trial of the other search."""
    with extended.scenario.start(1, "warm", "--warm-start", faults.NAME) as command:
        result = command.wait(120)
    assert result.code == 0, result.stderr
    assert f"warm start: {faults.TRIALS} of {faults.TRIALS} scored trials" in result.stderr
