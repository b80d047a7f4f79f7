"""What the searcher promises: order, repeatability, and that it learns, from failures too."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hyperopt import hp
from hyperopt.pyll.stochastic import sample

from search.errors import InputError
from search.searcher import RANDOM_POINTS, Past, Proposal, TPESearch
from search.space import Point, Space, fixed
from search.tpe import Sampler
from trainables.base import Setting

SCORE = "rmse"
Score = Callable[[Mapping[str, Any]], float]  # of a point; infinite means that its trial fails


def toy() -> Space:
    return Space({"x": hp.uniform("x", 0, 1), "y": hp.uniform("y", 0, 1)})


def conditional() -> Space:
    kinds = [{"kind": "a", "x": hp.uniform("x", 0, 1)}, {"kind": "b", "n": hp.randint("n", 5)}]
    return Space({"model": hp.choice("model", kinds)})


def bowl(point: Mapping[str, Any]) -> float:
    return float((point["x"] - 0.3) ** 2 + (point["y"] - 0.7) ** 2)


def search(space: Space, seed: int = 42, first: list[Point] | None = None) -> TPESearch:
    return TPESearch(space, seed=seed, score=SCORE, first=first or [])


def suggested(tpe: TPESearch, name: str) -> dict[str, Any]:
    """Return the point that is suggested for Tune's trial ``name``."""
    config = tpe.suggest(name)
    assert config is not None
    params: dict[str, Any] = config["params"]
    return params


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
        tpe = search(toy())
        configs = [tpe.suggest(name) for name in ("zz9", "aa1", "mm5")]
        assert [config and config["trial_id"] for config in configs] == ["0001", "0002", "0003"]

    def test_initial_points_come_first_in_their_order(self) -> None:
        """What the user wants tried is tried before anything is drawn."""
        first: list[Point] = [{"x": 0.9, "y": 0.1}, {"x": 0.2, "y": 0.2}, {"x": 0.5, "y": 1.0}]
        assert run(search(toy(), first=first), bowl, 5)[:3] == first

    def test_initial_points_of_a_conditional_space(self) -> None:
        """A point of either branch may come first, and the model then learns from it."""
        first: list[Point] = [{"model": {"kind": "b", "n": 3}}, {"model": {"kind": "a", "x": 0.5}}]
        points = run(search(conditional(), first=first), lambda p: len(p["model"]["kind"]), 30)
        assert points[:2] == first
        assert {point["model"]["kind"] for point in points[2:]} == {"a", "b"}

    def test_fixed_parameter_is_in_every_suggestion(self) -> None:
        """What is fixed is the same in the random phase and in TPE's."""
        settings: dict[str, Setting] = {}
        space, _ = fixed(toy().expressions, settings, {"y": "0.25"})
        points = run(search(space), bowl, RANDOM_POINTS + 5)
        assert {point["y"] for point in points} == {0.25}
        assert len({point["x"] for point in points}) == len(points)


class TestRepeatable:
    def test_same_seed_and_history_same_suggestions(self) -> None:
        """Two searches of one seed are the same search."""
        assert run(search(toy()), bowl, 30) == run(search(toy()), bowl, 30)

    def test_other_seed_other_suggestions(self) -> None:
        """The seed matters from the first point on."""
        assert suggested(search(toy(), 1), "a") != suggested(search(toy(), 2), "a")

    def test_state_of_numpy_does_not_matter(self) -> None:
        """Whatever drew random numbers before, in this process, changes nothing."""
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

    def test_unknown_trial_changes_nothing(self) -> None:
        """The end of a trial that was never suggested is no news."""
        tpe = search(toy())
        tpe.on_trial_complete("never seen", {SCORE: 1.0})
        assert suggested(tpe, "a") == suggested(search(toy()), "a")


class TestRandomPhase:
    @pytest.fixture
    def modelled(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """Numbers of the trials that TPE, not chance, suggested."""
        numbers: list[int] = []
        stock = Sampler.suggest

        def noted(sampler: Sampler, number: int, *more: Any) -> Any:
            numbers.append(number)
            return stock(sampler, number, *more)

        monkeypatch.setattr(Sampler, "suggest", noted)
        return numbers

    def test_running_trials_do_not_end_it(self, modelled: list[int]) -> None:
        """With 30 running and 19 finished, a suggestion is still a random one."""
        tpe = search(toy())
        run(tpe, bowl, RANDOM_POINTS - 1)
        for slot in range(30):
            suggested(tpe, f"running-{slot}")
        assert modelled == []

    def test_ends_with_the_last_of_twenty_finished(self, modelled: list[int]) -> None:
        """The 20th finished trial is the last that chance alone chose."""
        run(search(toy()), bowl, RANDOM_POINTS + 2)
        assert modelled == [21, 22]

    def test_parallel_suggestions_differ(self) -> None:
        """Slots that ask at once are not sent to one spot."""
        tpe = search(toy())
        run(tpe, bowl, RANDOM_POINTS)
        points = [suggested(tpe, f"slot-{slot}") for slot in range(10)]
        assert len({point["x"] for point in points}) == 10


class TestFailures:
    @pytest.mark.parametrize("how", [math.inf, math.nan], ids=["failed", "nan"])
    def test_search_leaves_a_failing_region(self, how: float) -> None:
        """Where a quarter of the space fails, and the best lies at its very edge, most trials work.

        Stock hyperopt is told nothing of failures, and sends 94 % of the later trials there.
        """
        space = Space({"x": hp.uniform("x", 0, 1)})

        def score(point: Mapping[str, Any]) -> float:
            return how if point["x"] < 0.25 else float(point["x"])

        shares = []
        for seed in range(6):
            points = run(search(space, seed), score, RANDOM_POINTS + 40)
            shares.append(np.mean([point["x"] < 0.25 for point in points[RANDOM_POINTS:]]))
        assert np.mean(shares) < 0.42

    def test_all_failing_is_survived(self) -> None:
        """A search in which nothing has worked goes on suggesting."""
        points = run(search(toy()), lambda _: math.inf, RANDOM_POINTS + 5)
        assert len(points) == RANDOM_POINTS + 5

    @pytest.mark.parametrize(
        ("result", "error"),
        [(None, False), ({}, False), ({SCORE: math.nan}, False), ({SCORE: math.inf}, False)],
    )
    def test_every_kind_of_failure_counts_alike(
        self, result: dict[str, Any] | None, error: bool
    ) -> None:
        """No result, no score, NaN and infinity are what an error is."""
        failed, other = search(toy()), search(toy())
        for tpe in (failed, other):
            suggested(tpe, "a")
        failed.on_trial_complete("a", None, error=True)
        other.on_trial_complete("a", result, error=error)
        assert run(failed, bowl, 25) == run(other, bowl, 25)

    def test_failure_with_a_last_score_is_a_failure(self) -> None:
        """A good score before the end does not make up for the error."""
        failed, other = search(toy()), search(toy())
        for tpe in (failed, other):
            suggested(tpe, "a")
        failed.on_trial_complete("a", {SCORE: -5.0}, error=True)
        other.on_trial_complete("a", None, error=True)
        assert run(failed, bowl, 25) == run(other, bowl, 25)


class TestHistory:
    """What ended elsewhere is told; the search goes on as if it had seen it."""

    @staticmethod
    def past(points: list[Point], score: Score) -> list[Past]:
        scores = [score(point) for point in points]
        return [
            Past(point, None if math.isinf(found) else found, number)
            for number, (point, found) in enumerate(zip(points, scores, strict=True), 1)
        ]

    @staticmethod
    def failing(point: Mapping[str, Any]) -> float:
        return math.inf if point["x"] < 0.2 else bowl(point)

    @pytest.mark.parametrize("known", [1, 7, RANDOM_POINTS, 28])
    def test_goes_on_as_the_undisturbed_search(self, known: int) -> None:
        """One trial at a time, the rest of the search is the same wherever it was cut."""
        whole = run(search(toy()), self.failing, 32)
        past = self.past(whole[:known], self.failing)
        resumed = TPESearch(toy(), seed=42, score=SCORE, past=reversed(past))
        assert run(resumed, self.failing, 32 - known) == whole[known:]

    def test_of_a_conditional_space(self) -> None:
        """Branches that were not taken are no obstacle."""

        def score(point: Mapping[str, Any]) -> float:
            return float(point["model"].get("x", 0.5))

        whole = run(search(conditional()), score, 26)
        resumed = TPESearch(conditional(), seed=42, score=SCORE, past=self.past(whole[:22], score))
        assert run(resumed, score, 4) == whole[22:]

    def test_numbers_go_on_where_they_ended(self) -> None:
        """No id is given twice, and one that was lost is given again."""
        past = [Past({"x": 0.5, "y": 0.5}, 1.0, number) for number in (1, 2, 4)]
        tpe = TPESearch(toy(), seed=42, score=SCORE, past=past)
        configs = [tpe.suggest(name) for name in "abc"]
        assert [config and config["trial_id"] for config in configs] == ["0003", "0005", "0006"]

    def test_trials_in_flight_run_again_first_and_as_they_were(self) -> None:
        """They keep id and point, and their ends are learnt from as any other's."""
        again = [Proposal("0002", {"x": 0.25, "y": 0.75}), Proposal("0005", {"x": 0.5, "y": 0.5})]
        past = [Past({"x": 0.5, "y": 0.5}, 1.0, number) for number in (1, 3, 4)]
        tpe = TPESearch(toy(), seed=42, score=SCORE, past=past, again=again)
        configs = [tpe.suggest(name) for name in "abc"]
        assert configs[:2] == [each.config() for each in again]
        assert configs[2] is not None
        assert configs[2]["trial_id"] == "0006"
        tpe.on_trial_complete("a", {SCORE: 0.5})

    def test_tune_can_save_it(self, tmp_path: Path) -> None:
        """Tune pickles its searcher whether anybody wants that or not."""
        tpe = search(toy())
        run(tpe, bowl, 2)
        tpe.save(str(tmp_path / "searcher"))

    def test_initial_points_that_were_tried_are_not_tried_again(self) -> None:
        """The first points are the search's first trials, whenever those run."""
        first: list[Point] = [{"x": 0.1, "y": 0.1}, {"x": 0.2, "y": 0.2}, {"x": 0.3, "y": 0.3}]
        past = [Past(first[0], 1.0, 1), Past(first[1], None, 2)]
        tpe = TPESearch(toy(), seed=42, score=SCORE, first=first, past=past)
        assert suggested(tpe, "a") == first[2]
        assert suggested(tpe, "b") not in first

    def test_of_other_searches_ends_the_random_phase_and_takes_no_id(self) -> None:
        """A warm start is TPE's from its first trial, and that is 0001."""
        points = run(search(toy(), seed=7), bowl, 60)
        others = [Past(point, bowl(point)) for point in points]
        tpe = TPESearch(toy(), seed=42, score=SCORE, past=others)
        config = tpe.suggest("a")
        assert config is not None
        assert config["trial_id"] == "0001"
        assert config["params"] != suggested(search(toy()), "a")

    def test_of_other_searches_helps(self) -> None:
        """Ten trials after a warm start beat the first ten of a cold one, over six seeds."""
        points = run(search(toy(), seed=7), bowl, 60)
        others = [Past(point, bowl(point)) for point in points]
        warm, cold = [], []
        for seed in range(6):
            tpe = TPESearch(toy(), seed=seed, score=SCORE, past=others)
            warm.append(min(map(bowl, run(tpe, bowl, 10))))
            cold.append(min(map(bowl, run(search(toy(), seed), bowl, 10))))
        assert np.mean(warm) < np.mean(cold) / 2

    def test_outside_the_space_is_refused(self) -> None:
        """What another space drew says nothing of this one."""
        with pytest.raises(InputError, match="x"):
            TPESearch(toy(), seed=42, score=SCORE, past=[Past({"x": 5.0, "y": 0.5}, 1.0)])


def test_beats_random_search() -> None:
    """On a smooth bowl, over six seeds, the best of 100 is far better than chance's."""
    found, by_chance = [], []
    for seed in range(6):
        random = np.random.default_rng(seed)
        found.append(min(map(bowl, run(search(toy(), seed), bowl, 100))))
        by_chance.append(min(bowl(sample(toy().root, rng=random)) for _ in range(100)))
    assert np.mean(found) < np.mean(by_chance) / 2
