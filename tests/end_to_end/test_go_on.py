"""A search is extended, resumed when complete, warm-started from another; what is refused."""

from __future__ import annotations

import random
import shlex
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import faults
import pytest
from command import Result, run_search
from conftest import selected

pytestmark = pytest.mark.slow

AT_ONCE = 3


@dataclass(frozen=True)
class Extended:
    """A search of half the trials, then extended to all of them, then resumed once more."""

    scenario: faults.Scenario
    half: Result
    extended: Result
    again: Result


@dataclass(frozen=True)
class Attempt:
    """A command on a copy of the search."""

    scenario: faults.Scenario
    result: Result


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
    extended: Extended, without_fault: Mapping[str, object]
) -> None:
    """Half of the trials, then the other half: the same trials as in one search of all."""
    assert [result.code for result in (extended.half, extended.extended)] == [0, 0]
    assert faults.trial_outcomes(extended.scenario.trials()) == without_fault
    assert faults.find_problems(extended.scenario, without_fault) == []


def test_resuming_complete_search_does_nothing(extended: Extended) -> None:
    """The command reports that the search is complete, and ends well."""
    assert extended.again.code == 0
    assert "complete" in extended.again.stderr


@pytest.fixture(scope="module")
def attempts(
    request: pytest.FixtureRequest, extended: Extended, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, Future[Attempt]]:
    """What selected tests do to the search, some at once, each to its own copy of it."""
    pool, wanted = ThreadPoolExecutor(AT_ONCE), selected(request, "options")

    def attempt(options: str) -> Attempt:
        folder = tmp_path_factory.mktemp("attempt")
        shutil.copytree(extended.scenario.folder, folder, dirs_exist_ok=True)
        scenario = faults.Scenario(folder, random.Random(0))
        if options == OTHER_SPACE:
            text = (folder / "stepwise.py").read_text()
            changed = text.replace('hp.uniform("x", -1, 1)', 'hp.uniform("x", -2, 1)')
            (folder / "stepwise.py").write_text(changed)
        words = [*shlex.split(options), "--tracking-uri", scenario.uri]
        return Attempt(scenario, run_search(words, folder))

    return {options: pool.submit(attempt, options) for options in ATTEMPTS if options in wanted}


TRIPS = "--train-data trips.parquet --valid-data trips.parquet"
OTHER_SPACE = f"--resume {faults.NAME}"
REFUSED = {
    f"--resume {faults.NAME} --num-samples 2": ("--num-samples", "2", str(faults.TRIALS)),
    f"--resume {faults.NAME} --seed 8": ("--seed", "8", "7"),
    OTHER_SPACE: ("space.digest",),
    f"{TRIPS} --warm-start {faults.NAME} --trainable lasso": (faults.NAME, "search space"),
}
WARM_START = (
    f"{TRIPS} --trainable stepwise:STEPWISE --num-samples 1 --name warm --warm-start {faults.NAME}"
)
ATTEMPTS = (*REFUSED, WARM_START)


@pytest.mark.parametrize("options", REFUSED)
def test_impossible_resume_or_warm_start_is_refused(
    options: str, attempts: Mapping[str, Future[Attempt]], extended: Extended
) -> None:
    """The error is one line that names what is wrong; exit code 2; no new run."""
    found = attempts[options].result()
    assert found.result.code == 2, found.result.stderr
    assert "Traceback" not in found.result.stderr
    for word in REFUSED[options]:
        assert word in found.result.stderr_lines[-1]
    assert len(found.scenario.runs()) == len(extended.scenario.runs())


@pytest.mark.parametrize("options", [WARM_START], ids=["warm"])
def test_warm_start_reads_all_scored_trials(
    options: str, attempts: Mapping[str, Future[Attempt]]
) -> None:
    """The searcher learns from every scored trial of the other search."""
    result = attempts[options].result().result
    assert result.code == 0, result.stderr
    assert f"warm start: {faults.TRIALS} of {faults.TRIALS} scored trials" in result.stderr
