"""The door is a door: a task that is no taxi goes through all that a search goes through.

The task is a hill to be climbed (``toy.py``): no data, no model, a metric that is maximised.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import toy
from command import Result, wait_until
from mlflow import MlflowClient
from toy_command import runs_of, scored_trials, search, start

pytestmark = pytest.mark.slow

NewStore = Callable[[Path], str]

NAME = "climb"
TRIALS = 40  # half of them are random
ONE_AT_A_TIME = ["--max-concurrent", "1"]  # the order of the results, and so the points, are fixed


@pytest.fixture(scope="module")
def climbed(tmp_path_factory: pytest.TempPathFactory, new_store: NewStore) -> Result:
    """A whole search."""
    folder = tmp_path_factory.mktemp("climbed")
    new_store(folder)
    options = ["--num-samples", str(TRIALS), "--name", NAME, "--json", *ONE_AT_A_TIME]
    result = search(options, folder)
    assert result.code == 0, result.stderr
    return result


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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_search_is_resumed(
    number: signal.Signals, tmp_path: Path, new_store: NewStore
) -> None:
    """What has ended stays; what was running runs again, in its own run; nothing is doubled."""
    new_store(tmp_path)
    options = ["--num-samples", "12", "--name", NAME, "--scheduler", "none"]
    with start(options, tmp_path, {"TOY_SECONDS": "0.05"}) as command:
        wait_until(lambda: len(scored_trials(tmp_path)) >= 4, 120, "four trials have ended")
        command.signal_alone(number)
        ended = command.wait(60)
    assert ended.code == (130 if number == signal.SIGINT else -number)
    before = scored_trials(tmp_path)
    if number == signal.SIGINT:
        assert "python -m search.run --resume climb" in ended.stderr
        assert {run.info.status for run in runs_of(tmp_path, "search")} == {"KILLED"}
    result = search(["--resume", NAME], tmp_path)
    assert result.code == 0, result.stderr
    after = scored_trials(tmp_path)
    assert {trial_id: after[trial_id] for trial_id in before} == before
    trials = runs_of(tmp_path, "trial")
    assert sorted(run.data.tags["search.trial_id"] for run in trials) == sorted(after)
    assert len(after) == 12
    assert {run.info.status for run in [*trials, *runs_of(tmp_path, "search")]} == {"FINISHED"}


def test_failed_trials_are_the_lowest(tmp_path: Path, new_store: NewStore) -> None:
    """A region that fails is left: a failure counts as the worst, which here is the lowest."""
    new_store(tmp_path)
    options = ["--num-samples", "40", "--scheduler", "none", "--json", *ONE_AT_A_TIME]
    result = search(options, tmp_path, {"TOY_FAIL_BELOW": "-1"})
    assert result.code == 0, result.stderr
    summary = json.loads(result.stdout)
    failed = [run for run in runs_of(tmp_path, "trial") if run.info.status == "FAILED"]
    assert summary["trials"]["failed"] == len(failed) > 0
    assert all("no ground" in run.data.tags["search.failure"] for run in failed)
    numbers = [int(run.data.tags["search.trial_id"]) for run in failed]
    # three eighths of the square fail: of 20 random points about seven, of 20 modelled ones fewer
    assert sum(number > 20 for number in numbers) < sum(number <= 20 for number in numbers)


def test_search_in_which_all_trials_fail_ends_early(tmp_path: Path, new_store: NewStore) -> None:
    """One line says why; exit code 1; the parent run is FAILED."""
    new_store(tmp_path)
    result = search(["--num-samples", "40"], tmp_path, {"TOY_FAIL_BELOW": "9"})
    assert result.code == 1
    assert "all failed the same way" in result.stderr_lines[-1]
    assert "Traceback" not in result.stderr
    assert [run.info.status for run in runs_of(tmp_path, "search")] == ["FAILED"]


class TestUnknownVersions:
    @pytest.fixture(scope="class")
    def stock(self, tmp_path_factory: pytest.TempPathFactory, new_store: NewStore) -> Result:
        """The whole search again, by stock Tune and hyperopt's own suggestions."""
        folder = tmp_path_factory.mktemp("stock")
        new_store(folder)
        options = ["--num-samples", str(TRIALS), "--name", NAME, "--json", *ONE_AT_A_TIME]
        result = search(options, folder, {"TOY_STOCK": "1"})
        assert result.code == 0, result.stderr
        return result

    def test_search_is_the_same(self, stock: Result, climbed: Result) -> None:
        """The same points, scores and statuses, bit for bit; only slower."""

        def trials(folder: Path) -> dict[str, tuple[object, ...]]:
            return {
                run.data.tags["search.trial_id"]: (
                    run.data.tags["search.status"],
                    run.data.tags["search.point"],
                    run.data.metrics["height"],
                )
                for run in runs_of(folder, "trial")
            }

        before = dict(sorted(trials(climbed.folder).items())[:TRIALS])
        assert trials(stock.folder) == before

    def test_user_is_told_once(self, stock: Result) -> None:
        """One line for each library."""
        notes = [line for line in stock.stderr_lines if line.startswith("note: this")]
        libraries = ("MLflow", "Ray", "hyperopt")
        assert [name in note for name, note in zip(libraries, notes, strict=True)] == [True] * 3
