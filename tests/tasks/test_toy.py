"""The door is a door: a task that is no taxi goes through all that a search goes through.

The task is a hill to be climbed (``toy.py``): no data, no model, a metric that is maximised. How
such a search ends and is resumed: ``test_death.py``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import toy
from command import Result
from conftest import NewStore
from mlflow import MlflowClient
from toy_command import runs_of, scored_trials, search

pytestmark = pytest.mark.slow

NAME = "climb"
TRIALS = 40  # half of them are random
ONE_AT_A_TIME = ["--max-concurrent", "1"]  # the order of the results, and so the points, are fixed


@dataclass(frozen=True)
class Search:
    """The options and the environment of a search, and the fixture that has its result."""

    fixture: str
    options: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


WHOLE = ["--num-samples", str(TRIALS), "--name", NAME, "--json", *ONE_AT_A_TIME]
SEARCHES = (
    Search("climbed", WHOLE),
    # by stock Tune and hyperopt's own suggestions
    Search("stock", WHOLE, {"TOY_STOCK": "1"}),
    Search("partly_failed", [*WHOLE, "--scheduler", "none"], {"TOY_FAIL_BELOW": "-1"}),
    Search("all_failed", ["--num-samples", "40"], {"TOY_FAIL_BELOW": "9"}),
)


@pytest.fixture(scope="module")
def searches(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, new_store: NewStore
) -> Mapping[str, Future[Result]]:
    """The searches that selected tests need, in parallel: each one mostly waits."""
    pool = ThreadPoolExecutor(len(SEARCHES))
    needed = {name for item in request.session.items for name in getattr(item, "fixturenames", ())}

    def begin(each: Search) -> Future[Result]:
        folder = tmp_path_factory.mktemp(each.fixture)
        new_store(folder)
        return pool.submit(search, each.options, folder, each.environment)

    return {each.fixture: begin(each) for each in SEARCHES if each.fixture in needed}


@pytest.fixture(scope="module")
def climbed(searches: Mapping[str, Future[Result]]) -> Result:
    """A whole search."""
    result = searches["climbed"].result()
    assert result.code == 0, result.stderr
    return result


@pytest.fixture(scope="module")
def stock(searches: Mapping[str, Future[Result]]) -> Result:
    """The whole search again, as with versions of Ray and hyperopt that nobody has tested."""
    result = searches["stock"].result()
    assert result.code == 0, result.stderr
    return result


@pytest.fixture(scope="module")
def partly_failed(searches: Mapping[str, Future[Result]]) -> Result:
    """A search of which a region fails."""
    result = searches["partly_failed"].result()
    assert result.code == 0, result.stderr
    return result


@pytest.fixture(scope="module")
def all_failed(searches: Mapping[str, Future[Result]]) -> Result:
    """A search whose trials all fail."""
    return searches["all_failed"].result()


class TestSearch:
    def test_best_trial_is_the_highest(self, climbed: Result) -> None:
        """The metric is maximised: in the JSON object, on the runs and on the parent run."""
        summary: dict[str, Any] = json.loads(climbed.stdout)
        scores = scored_trials(climbed.folder)
        assert len(scores) == TRIALS
        assert summary["best"]["score"] == summary["best"]["height"] == max(scores.values())
        assert scores[summary["best"]["trial_id"]] == max(scores.values())
        (parent,) = runs_of(climbed.folder, "search")
        assert parent.data.metrics["height"] == max(scores.values())

    def test_search_climbs(self, climbed: Result) -> None:
        """The modelled points are higher in the mean than the random ones."""
        scores = scored_trials(climbed.folder)
        first = [score for trial_id, score in scores.items() if int(trial_id) <= 20]
        later = [score for trial_id, score in scores.items() if int(trial_id) > 20]
        assert sum(later) / len(later) > sum(first) / len(first) + 2

    def test_weak_trials_are_stopped_and_strong_ones_are_not(self, climbed: Result) -> None:
        """Halving stops low trials: they are lower in the mean, and the best is not among them."""
        status = {
            run.data.tags["search.trial_id"]: run.data.tags["search.status"]
            for run in runs_of(climbed.folder, "trial")
        }
        scores = scored_trials(climbed.folder)
        stopped = [scores[each] for each in status if status[each] == "stopped"]
        finished = [scores[each] for each in status if status[each] == "finished"]
        assert stopped
        assert sum(stopped) / len(stopped) < sum(finished) / len(finished)
        assert max(stopped) < max(finished)

    def test_curve_is_logged_under_the_metric(self, climbed: Result) -> None:
        """Heights as people read them, each step once, growing."""
        client = MlflowClient(climbed.store)
        run = next(
            run
            for run in runs_of(climbed.folder, "trial")
            if run.data.tags["search.status"] == "finished"
        )
        curve = client.get_metric_history(run.info.run_id, "validation-height")
        assert [point.step for point in curve] == list(range(toy.ROUNDS))
        x, y = (float(run.data.params[name]) for name in ("x", "y"))
        expected = [toy.height(x, y, rounds) for rounds in range(1, toy.ROUNDS + 1)]
        assert [point.value for point in curve] == pytest.approx(expected)
        assert run.data.metrics["height"] == pytest.approx(expected[-1])
        assert run.data.metrics["best_iteration"] == toy.ROUNDS - 1

    def test_summary_describes_the_task(self, climbed: Result) -> None:
        """Kind, metric and direction are in the JSON object; there is neither data nor refit."""
        summary = json.loads(climbed.stdout)
        assert (summary["task"], summary["metric"], summary["direction"]) == (
            "toy",
            "height",
            "maximize",
        )
        assert summary["data"] is None
        assert summary["refit"] is None
        assert runs_of(climbed.folder, "refit") == []

    def test_last_lines_show_the_height(self, climbed: Result) -> None:
        """They name the metric, and offer nothing to serve."""
        (best,) = [line for line in climbed.stderr_lines if line.startswith("best:")]
        assert "height 4." in best
        assert not [line for line in climbed.stderr_lines if line.startswith(("refit:", "serve:"))]

    def test_parent_run_names_kind_and_metric(self, climbed: Result) -> None:
        """A later version knows what the scores mean."""
        (parent,) = runs_of(climbed.folder, "search")
        assert (parent.data.tags["search.task"], parent.data.tags["search.metric"]) == (
            "toy",
            "height",
        )
        assert parent.data.params["top"] == str(toy.TOP)
        assert not parent.inputs or not parent.inputs.dataset_inputs


def test_search_is_extended(climbed: Result) -> None:
    """More trials are added; those that have ended keep their scores."""
    before = scored_trials(climbed.folder)
    options = ["--resume", NAME, "--num-samples", str(TRIALS + 6), "--json"]
    result = search(options, climbed.folder)
    assert result.code == 0, result.stderr
    after = scored_trials(climbed.folder)
    assert len(after) == TRIALS + 6
    assert {trial_id: after[trial_id] for trial_id in before} == before
    assert json.loads(result.stdout)["best"]["score"] == max(after.values())
    assert "nothing is left to do" in search(["--resume", NAME], climbed.folder).stderr


def test_failed_trials_are_the_lowest(partly_failed: Result) -> None:
    """A region that fails is left: a failure counts as the worst, which here is the lowest."""
    summary = json.loads(partly_failed.stdout)
    trials = runs_of(partly_failed.folder, "trial")
    failed = [run for run in trials if run.info.status == "FAILED"]
    assert summary["trials"]["failed"] == len(failed) > 0
    assert all("no ground" in run.data.tags["search.failure"] for run in failed)
    numbers = [int(run.data.tags["search.trial_id"]) for run in failed]
    # three eighths of the square fail: of 20 random points about seven, of 20 modelled ones fewer
    assert sum(number > 20 for number in numbers) < sum(number <= 20 for number in numbers)


def test_search_in_which_all_trials_fail_ends_early(all_failed: Result) -> None:
    """One line says why; exit code 1; the parent run is FAILED."""
    assert all_failed.code == 1
    assert "all failed the same way" in all_failed.stderr_lines[-1]
    assert "Traceback" not in all_failed.stderr
    assert [run.info.status for run in runs_of(all_failed.folder, "search")] == ["FAILED"]


def trial_outcomes(folder: Path) -> dict[str, tuple[object, ...]]:
    return {
        run.data.tags["search.trial_id"]: (
            run.data.tags["search.status"],
            run.data.tags["search.point"],
            run.data.metrics["height"],
        )
        for run in runs_of(folder, "trial")
    }


class TestUnknownVersions:
    def test_search_is_the_same(self, stock: Result, climbed: Result) -> None:
        """The same points, scores and statuses, bit for bit; only slower."""
        before = dict(sorted(trial_outcomes(climbed.folder).items())[:TRIALS])
        assert trial_outcomes(stock.folder) == before

    def test_user_is_told_once(self, stock: Result) -> None:
        """One line for each library."""
        notes = [line for line in stock.stderr_lines if line.startswith("note: this")]
        libraries = ("MLflow", "Ray", "hyperopt")
        assert [name in note for name, note in zip(libraries, notes, strict=True)] == [True] * 3
