"""The searcher's promises: order, repeatability, and learning, also from failures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hyperopt import hp
from hyperopt.pyll.stochastic import sample

from search.errors import InputError
from search.suggest import algorithms
from search.suggest.fast_tpe import FastTPE
from search.suggest.searcher import RANDOM_POINTS, TPESearch
from search.suggest.space import Space, constant
from search.values.metric import Metric
from search.values.report import SCORE
from search.values.trial import PastTrial, Point, Proposal

MINIMIZED = Metric("rmse", "minimize")
MAXIMIZED = Metric("roc-auc", "maximize")
Score = Callable[[Mapping[str, Any]], float]  # of a point; infinite: its trial fails


def toy() -> Space:
    return Space({"x": hp.uniform("x", 0, 1), "y": hp.uniform("y", 0, 1)})


def conditional() -> Space:
    kinds = [{"kind": "a", "x": hp.uniform("x", 0, 1)}, {"kind": "b", "n": hp.randint("n", 5)}]
    return Space({"model": hp.choice("model", kinds)})


def bowl(point: Mapping[str, Any]) -> float:
    return float((point["x"] - 0.3) ** 2 + (point["y"] - 0.7) ** 2)


def conditional_score(point: Mapping[str, Any]) -> float:
    return float(point["model"].get("x", 0.5))


def failing(point: Mapping[str, Any]) -> float:
    """The bowl, of which a fifth fails."""
    return math.inf if point["x"] < 0.2 else bowl(point)


def search(space: Space, seed: int = 42, first: list[Point] | None = None) -> TPESearch:
    return TPESearch(space, MINIMIZED, seed=seed, first=first or [])


def suggested(tpe: TPESearch, name: str) -> dict[str, Any]:
    """Return the point that is suggested for Tune's trial ``name``."""
    config = tpe.suggest(name)
    assert config is not None
    params: dict[str, Any] = config["params"]
    return params


def ids(tpe: TPESearch, *names: str) -> list[str]:
    """Return the ids of the trials that are suggested for Tune's trials ``names``."""
    configs = [tpe.suggest(name) for name in names]
    return [config["trial_id"] for config in configs if config is not None]


def run(tpe: TPESearch, score: Score, trials: int) -> list[dict[str, Any]]:
    """Run trials one after another; return their points."""
    points = []
    for number in range(trials):
        points.append(suggested(tpe, f"tune-{number}"))
        found = score(points[-1])
        failed = math.isinf(found)
        tpe.on_trial_complete(f"tune-{number}", None if failed else {SCORE: found}, error=failed)
    return points


class TestOrder:
    def test_ids_count_from_one(self) -> None:
        """A search's trials are 0001, 0002, ..., whatever Tune calls them."""
        assert ids(search(toy()), "zz9", "aa1", "mm5") == ["0001", "0002", "0003"]

    def test_initial_points_come_first_in_their_order(self) -> None:
        """The user's points are tried before any point is drawn."""
        first: list[Point] = [{"x": 0.9, "y": 0.1}, {"x": 0.2, "y": 0.2}, {"x": 0.5, "y": 1.0}]
        assert run(search(toy(), first=first), bowl, 5)[:3] == first

    def test_initial_points_of_a_conditional_space(self) -> None:
        """A point of either branch may come first, and TPE learns from it."""
        first: list[Point] = [{"model": {"kind": "b", "n": 3}}, {"model": {"kind": "a", "x": 0.5}}]
        points = run(search(conditional(), first=first), lambda p: len(p["model"]["kind"]), 30)
        assert points[:2] == first
        assert {point["model"]["kind"] for point in points[2:]} == {"a", "b"}

    def test_fixed_parameter_is_in_every_suggestion(self) -> None:
        """In the random phase and after it."""
        expressions = toy().expressions
        space = Space({**expressions, "y": constant("y", "0.25", expressions["y"])})
        points = run(search(space), bowl, RANDOM_POINTS + 5)
        assert {point["y"] for point in points} == {0.25}
        assert len({point["x"] for point in points}) == len(points)


class TestRepeatable:
    def test_same_seed_and_history_give_same_suggestions(self) -> None:
        assert run(search(toy()), bowl, 30) == run(search(toy()), bowl, 30)

    def test_another_seed_gives_other_suggestions(self) -> None:
        """From the first point on."""
        assert suggested(search(toy(), 1), "a") != suggested(search(toy(), 2), "a")

    def test_state_of_numpy_does_not_matter(self) -> None:
        """Random numbers that were drawn before in this process change nothing."""
        np.random.seed(0)
        expected = run(search(toy()), bowl, 25)
        np.random.seed(1)
        assert run(search(toy()), bowl, 25) == expected

    def test_rungs_change_nothing(self) -> None:
        """Only a trial's end tells its score."""
        tpe, quiet = search(toy()), search(toy())
        for each in (tpe, quiet):
            suggested(each, "a")
        tpe.on_trial_result("a", {SCORE: -100.0})
        for each in (tpe, quiet):
            each.on_trial_complete("a", {SCORE: 1.0})
        assert run(tpe, bowl, 25) == run(quiet, bowl, 25)

    def test_end_of_an_unknown_trial_changes_nothing(self) -> None:
        """A trial that was never suggested is ignored."""
        tpe = search(toy())
        tpe.on_trial_complete("never seen", {SCORE: 1.0})
        assert suggested(tpe, "a") == suggested(search(toy()), "a")

    def test_hyperopts_own_algorithm_gives_the_same_suggestions(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is used with versions of hyperopt for which the fast one is not proven."""
        expected = run(search(conditional()), conditional_score, RANDOM_POINTS + 10)
        monkeypatch.setattr(algorithms, "PROVEN", ())
        assert run(search(conditional()), conditional_score, RANDOM_POINTS + 10) == expected


class TestRandomPhase:
    @pytest.fixture
    def modelled(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """Numbers of the trials that TPE suggested, and not chance."""
        numbers: list[int] = []
        stock = FastTPE.suggest

        def recording(algorithm: FastTPE, number: int, *more: Any) -> Any:
            numbers.append(number)
            return stock(algorithm, number, *more)

        monkeypatch.setattr(FastTPE, "suggest", recording)
        return numbers

    def test_running_trials_do_not_end_it(self, modelled: list[int]) -> None:
        """With 30 running and 19 finished, a suggestion is still a random one."""
        tpe = search(toy())
        run(tpe, bowl, RANDOM_POINTS - 1)
        for slot in range(30):
            suggested(tpe, f"running-{slot}")
        assert modelled == []

    def test_ends_with_the_last_of_twenty_finished(self, modelled: list[int]) -> None:
        """The 20th finished trial is the last random one."""
        run(search(toy()), bowl, RANDOM_POINTS + 2)
        assert modelled == [21, 22]

    def test_parallel_suggestions_differ(self) -> None:
        """Slots that ask at the same time do not get the same point."""
        tpe = search(toy())
        run(tpe, bowl, RANDOM_POINTS)
        points = [suggested(tpe, f"slot-{slot}") for slot in range(10)]
        assert len({point["x"] for point in points}) == 10


class TestFailures:
    @pytest.mark.parametrize("how", [math.inf, math.nan], ids=["failed", "nan"])
    def test_search_leaves_a_failing_region(self, how: float) -> None:
        """A quarter of the space fails, the best score is at its edge: most trials succeed.

        Stock hyperopt does not learn of failures, and draws 94 % of the later trials there.
        """
        space = Space({"x": hp.uniform("x", 0, 1)})

        def score(point: Mapping[str, Any]) -> float:
            return how if point["x"] < 0.25 else float(point["x"])

        shares = []
        for seed in range(6):
            points = run(search(space, seed), score, RANDOM_POINTS + 40)
            shares.append(np.mean([point["x"] < 0.25 for point in points[RANDOM_POINTS:]]))
        assert np.mean(shares) < 0.42

    def test_search_in_which_all_trials_fail_goes_on(self) -> None:
        points = run(search(toy()), lambda _: math.inf, RANDOM_POINTS + 5)
        assert len(points) == RANDOM_POINTS + 5

    @pytest.mark.parametrize(
        ("result", "error"),
        [(None, False), ({}, False), ({SCORE: math.nan}, False), ({SCORE: math.inf}, False)],
    )
    def test_every_kind_of_failure_counts_alike(
        self, result: dict[str, Any] | None, error: bool
    ) -> None:
        """No result, no score, NaN and infinity count as an error does."""
        failed, other = search(toy()), search(toy())
        for tpe in (failed, other):
            suggested(tpe, "a")
        failed.on_trial_complete("a", None, error=True)
        other.on_trial_complete("a", result, error=error)
        assert run(failed, bowl, 25) == run(other, bowl, 25)

    def test_failure_with_a_last_score_is_a_failure(self) -> None:
        """A score that was reported before the error does not count."""
        failed, other = search(toy()), search(toy())
        for tpe in (failed, other):
            suggested(tpe, "a")
        failed.on_trial_complete("a", {SCORE: -5.0}, error=True)
        other.on_trial_complete("a", None, error=True)
        assert run(failed, bowl, 25) == run(other, bowl, 25)


def past_trials(points: list[Point], score: Score) -> list[PastTrial]:
    """Return trials that ended earlier, numbered from 1."""
    scores = [score(point) for point in points]
    return [
        PastTrial(point, None if math.isinf(found) else found, number)
        for number, (point, found) in enumerate(zip(points, scores, strict=True), 1)
    ]


class TestPastTrials:
    """A search that is given earlier trials goes on as if it had run them."""

    @pytest.mark.parametrize("known", [1, 7, RANDOM_POINTS, 28])
    def test_goes_on_as_the_undisturbed_search(self, known: int) -> None:
        """With one trial at a time, the rest of the search is the same wherever it was cut."""
        whole = run(search(toy()), failing, 32)
        past = past_trials(whole[:known], failing)
        resumed = TPESearch(toy(), MINIMIZED, seed=42, past=reversed(past))
        assert run(resumed, failing, 32 - known) == whole[known:]

    def test_points_of_a_conditional_space_are_accepted(self) -> None:
        """Each has the labels of its own branch only."""
        whole = run(search(conditional()), conditional_score, 26)
        past = past_trials(whole[:22], conditional_score)
        resumed = TPESearch(conditional(), MINIMIZED, seed=42, past=past)
        assert run(resumed, conditional_score, 4) == whole[22:]

    def test_new_trials_get_the_free_numbers(self) -> None:
        """No id is given twice, and one that was lost is given again."""
        past = [PastTrial({"x": 0.5, "y": 0.5}, 1.0, number) for number in (1, 2, 4)]
        tpe = TPESearch(toy(), MINIMIZED, seed=42, past=past)
        assert ids(tpe, "a", "b", "c") == ["0003", "0005", "0006"]

    def test_interrupted_trials_run_again_first_and_unchanged(self) -> None:
        """They keep id and point, and the searcher learns from their ends as from any other."""
        again = [Proposal("0002", {"x": 0.25, "y": 0.75}), Proposal("0005", {"x": 0.5, "y": 0.5})]
        past = [PastTrial({"x": 0.5, "y": 0.5}, 1.0, number) for number in (1, 3, 4)]
        tpe = TPESearch(toy(), MINIMIZED, seed=42, past=past, again=again)
        configs = [tpe.suggest(name) for name in "abc"]
        assert configs[:2] == [each.config() for each in again]
        assert configs[2] is not None
        assert configs[2]["trial_id"] == "0006"
        tpe.on_trial_complete("a", {SCORE: 0.5})

    def test_tune_can_save_it(self, tmp_path: Path) -> None:
        """Tune pickles its searcher."""
        tpe = search(toy())
        run(tpe, bowl, 2)
        tpe.save(str(tmp_path / "searcher"))

    def test_initial_points_that_were_tried_are_not_tried_again(self) -> None:
        """The initial points are the search's first trials, whenever those run."""
        first: list[Point] = [{"x": 0.1, "y": 0.1}, {"x": 0.2, "y": 0.2}, {"x": 0.3, "y": 0.3}]
        past = [PastTrial(first[0], 1.0, 1), PastTrial(first[1], None, 2)]
        tpe = TPESearch(toy(), MINIMIZED, seed=42, first=first, past=past)
        assert suggested(tpe, "a") == first[2]
        assert suggested(tpe, "b") not in first

    def test_other_searches_trials_end_the_random_phase_and_take_no_id(self) -> None:
        """After a warm start TPE suggests the first trial, which is 0001."""
        points = run(search(toy(), seed=7), bowl, 60)
        others = [PastTrial(point, bowl(point)) for point in points]
        tpe = TPESearch(toy(), MINIMIZED, seed=42, past=others)
        config = tpe.suggest("a")
        assert config is not None
        assert config["trial_id"] == "0001"
        assert config["params"] != suggested(search(toy()), "a")

    def test_other_searches_trials_help(self) -> None:
        """Over six seeds, ten trials after a warm start beat the first ten of a cold start."""
        points = run(search(toy(), seed=7), bowl, 60)
        others = [PastTrial(point, bowl(point)) for point in points]
        warm, cold = [], []
        for seed in range(6):
            tpe = TPESearch(toy(), MINIMIZED, seed=seed, past=others)
            warm.append(min(map(bowl, run(tpe, bowl, 10))))
            cold.append(min(map(bowl, run(search(toy(), seed), bowl, 10))))
        assert np.mean(warm) < np.mean(cold) / 2

    def test_tune_cannot_give_it_another_space(self) -> None:
        """Tune asks each searcher to take the space and metric of `tune.run`."""
        searcher = TPESearch(toy(), MINIMIZED, seed=1)
        assert not searcher.set_search_properties("other", "max", {"y": 1})
        assert (searcher.metric, searcher.mode) == ("score", "min")

    def test_point_outside_the_space_is_refused(self) -> None:
        """A trial of another space says nothing about this one."""
        with pytest.raises(InputError, match="x"):
            TPESearch(toy(), MINIMIZED, seed=42, past=[PastTrial({"x": 5.0, "y": 0.5}, 1.0)])


def negated(trial: PastTrial) -> PastTrial:
    return replace(trial, score=None if trial.score is None else -trial.score)


class TestDirection:
    """A maximized metric gives the suggestions of a minimized one with negated scores."""

    @pytest.fixture(scope="class")
    def points(self) -> list[Point]:
        """The points of a search that minimizes, more than its random phase."""
        return run(search(toy()), failing, RANDOM_POINTS + 15)

    def test_from_the_first_trial_on(self, points: list[Point]) -> None:
        tpe = TPESearch(toy(), MAXIMIZED, seed=42)
        assert run(tpe, lambda point: -failing(point), len(points)) == points

    def test_after_earlier_trials(self, points: list[Point]) -> None:
        others = [PastTrial({"x": 0.4, "y": 0.6}, 0.02), PastTrial({"x": 0.9, "y": 0.9}, 0.4)]
        past = [*others, *past_trials(points[:25], failing)]
        minimizing = TPESearch(toy(), MINIMIZED, seed=42, past=past)
        maximizing = TPESearch(toy(), MAXIMIZED, seed=42, past=map(negated, past))
        expected = run(minimizing, failing, 10)
        assert run(maximizing, lambda point: -failing(point), 10) == expected

    def test_high_scores_are_searched_for(self) -> None:
        """Over six seeds, the best of 60 trials is near the top of a hill."""
        best = []
        for seed in range(6):
            tpe = TPESearch(toy(), MAXIMIZED, seed=seed)
            best.append(max(-bowl(point) for point in run(tpe, lambda p: -bowl(p), 60)))
        assert np.mean(best) > -0.005


def test_search_beats_random_search() -> None:
    """On a smooth bowl, over six seeds, the best of 100 trials is at most half of chance's."""
    found, by_chance = [], []
    for seed in range(6):
        random = np.random.default_rng(seed)
        found.append(min(map(bowl, run(search(toy(), seed), bowl, 100))))
        by_chance.append(min(bowl(sample(toy().root, rng=random)) for _ in range(100)))
    assert np.mean(found) < np.mean(by_chance) / 2
