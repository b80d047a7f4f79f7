"""With hyperopt's seeds a search is that of `hyperopt.fmin`, point by point."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest
from hyperopt import STATUS_OK, Domain, Trials, anneal, fmin, hp, mix, rand
from hyperopt import tpe as hyperopt_tpe
from hyperopt.pyll import scope

from search.errors import InputError
from search.suggest.algorithms import HyperoptSuggest, RandomFirst, from_hyperopt, named
from search.suggest.history import History
from search.suggest.labels import LabelSpace
from search.suggest.searcher import TPESearch
from search.suggest.seeds import HyperoptSeeds
from search.values.metric import Metric
from search.values.report import SCORE
from search.values.trial import PastTrial

TRIALS = 40
LOSS = Metric("loss", "minimize")


def flat() -> dict[str, Any]:
    return {
        "x": hp.uniform("x", -5, 5),
        "rate": hp.loguniform("rate", -5, 0),
        "depth": scope.int(hp.quniform("depth", 1, 20, 1)),
        "n": hp.randint("n", 3, 12),
        "kind": hp.choice("kind", ["a", "b", "c"]),
    }


def flat_loss(given: Mapping[str, Any]) -> float:
    kind = "abc".index(given["kind"])
    return float((given["x"] - 1) ** 2 + given["rate"] + given["depth"] / given["n"] + kind)


def conditional() -> Any:
    return hp.choice(
        "model",
        [
            {
                "C": hp.lognormal("C", 0, 1),
                "kernel": hp.choice(
                    "kernel", [{"degree": hp.randint("degree", 1, 5)}, {"w": hp.normal("w", 0, 1)}]
                ),
            },
            {"depth": hp.uniformint("depth", 1, 9), "share": hp.quniform("share", 0, 1, 0.25)},
        ],
    )


def conditional_loss(given: Mapping[str, Any]) -> float:
    if "C" in given:
        return float(abs(given["C"] - 1) + sum(map(abs, given["kernel"].values())))
    return float(given["depth"] / 4 + given["share"])


SPACES: dict[str, tuple[Callable[[], Any], Callable[[Any], float]]] = {
    "flat": (flat, flat_loss),
    "conditional": (conditional, conditional_loss),
}


def greedy(new_ids: Any, domain: Any, trials: Any, seed: int) -> Any:
    """Suggest, as a user's own algorithm might: annealing around the best of half the trials."""
    if len(trials.trials) % 2:
        assert trials.best_trial["result"]["status"] == STATUS_OK
    return anneal.suggest(new_ids, domain, trials, seed + len(trials.losses()), shrink_coef=0.3)


ALGORITHMS: dict[str, Any] = {
    "tpe": hyperopt_tpe.suggest,
    "rand": rand.suggest,
    "anneal": anneal.suggest,
    "tpe with its own start-up": partial(hyperopt_tpe.suggest, n_startup_jobs=5, gamma=0.5),
    "mix": partial(mix.suggest, p_suggest=[(0.3, rand.suggest), (0.7, hyperopt_tpe.suggest)]),
    "own": greedy,
}


def by_hyperopt(
    space: Any, loss: Callable[[Any], float], algo: Any, **more: Any
) -> list[dict[str, Any]]:
    """Return the points that hyperopt tries."""
    trials = Trials() if "points_to_evaluate" not in more else None
    if trials is None:
        from hyperopt.fmin import generate_trials_to_calculate

        trials = generate_trials_to_calculate(more.pop("points_to_evaluate"))
    settings = {"max_evals": TRIALS, "rstate": np.random.default_rng(7), "verbose": False, **more}
    fmin(loss, space, algo=algo, trials=trials, **settings)
    return [
        {label: found[0] for label, found in document["misc"]["vals"].items() if found}
        for document in trials.trials
    ]


def search(space: LabelSpace, algo: Any, **more: Any) -> TPESearch:
    seeds = more.pop("seeds", HyperoptSeeds(7))
    algorithm = from_hyperopt(algo)
    return TPESearch(space, LOSS, seed=1, seeds=seeds, algorithm=algorithm, **more)


def by_us(
    search: TPESearch, space: LabelSpace, loss: Callable[[Any], float], count: int = TRIALS
) -> list[dict[str, Any]]:
    """Return the points of a search with one trial at a time."""
    points = []
    for number in range(count):
        config = search.suggest(f"t{number}")
        assert config is not None
        points.append(config["params"])
        search.on_trial_complete(f"t{number}", {SCORE: loss(space.argument(points[-1]))})
    return points


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("name", SPACES)
class TestPointsAreHyperopts:
    def test_one_trial_at_a_time(self, name: str, algorithm: str) -> None:
        """The same forty points, to the last bit."""
        (make, loss), algo = SPACES[name], ALGORITHMS[algorithm]
        space = LabelSpace(make())
        assert by_us(search(space, algo), space, loss) == by_hyperopt(make(), loss, algo)

    def test_after_a_resume(self, name: str, algorithm: str) -> None:
        """The seeds were written, the trials read back."""
        (make, loss), algo = SPACES[name], ALGORITHMS[algorithm]
        space = LabelSpace(make())
        expected = by_hyperopt(make(), loss, algo)
        past = [
            PastTrial(point, loss(space.argument(point)), number)
            for number, point in enumerate(map(space.point, expected[:26]), 1)
        ]
        seeds = HyperoptSeeds.from_json(HyperoptSeeds(7).as_json())
        resumed = search(space, algo, seeds=seeds, past=past)
        assert by_us(resumed, space, loss, TRIALS - 26) == expected[26:]


@pytest.mark.parametrize("algorithm", ["tpe", "anneal"])
def test_initial_points_shift_ids_and_not_seeds(algorithm: str) -> None:
    """As `points_to_evaluate` does."""
    algo = ALGORITHMS[algorithm]
    point = {"x": 0.5, "rate": 0.1, "depth": 4.0, "n": 5, "kind": 1}
    space = LabelSpace(flat())
    first = [point, {**point, "x": 0.75}]
    seeds = HyperoptSeeds(7, points=2)
    found = by_us(search(space, algo, seeds=seeds, first=first), space, flat_loss)
    expected = by_hyperopt(flat(), flat_loss, algo, points_to_evaluate=first)
    assert found == expected[:TRIALS]


@pytest.mark.parametrize("algorithm", ["tpe", "anneal"])
def test_trials_that_there_are_go_on(algorithm: str) -> None:
    """A second `fmin` with a filled `Trials` begins where the first one ended."""
    space, algo = LabelSpace(flat()), ALGORITHMS[algorithm]
    trials = Trials()
    for count in (25, TRIALS):
        rstate = np.random.default_rng(7)
        fmin(flat_loss, flat(), algo, count, trials=trials, rstate=rstate, verbose=False)
    points = [{k: v[0] for k, v in each["misc"]["vals"].items()} for each in trials.trials]
    past = [PastTrial(space.point(p), flat_loss(space.argument(p))) for p in points[:25]]
    resumed = search(space, algo, seeds=HyperoptSeeds(7, first_id=25), past=past)
    assert by_us(resumed, space, flat_loss, TRIALS - 25) == points[25:]


class TestHistoryOfAnyAlgorithm:
    @pytest.fixture
    def seen(self) -> list[tuple[float | None, ...]]:
        return []

    def test_failed_trials_have_the_worst_loss_and_running_ones_none(
        self, seen: list[tuple[float | None, ...]]
    ) -> None:
        def recording(new_ids: Any, domain: Any, trials: Any, seed: int) -> Any:
            seen.append(tuple(trials.losses()))
            return rand.suggest(new_ids, domain, trials, seed)

        searcher = search(LabelSpace(flat()), recording)
        for name, result in (("a", {SCORE: 3.0}), ("b", {SCORE: 5.0}), ("c", None)):
            searcher.suggest(name)
            searcher.on_trial_complete(name, result, error=result is None)
        searcher.suggest("d")
        searcher.suggest("e")
        assert seen[-2:] == [(3.0, 5.0, 5.0), (3.0, 5.0, 5.0, None)]

    def test_algorithm_that_suggests_nothing_ends_the_search(self) -> None:
        """As `fmin` ends where `algo` returns an empty list."""

        def three(new_ids: Any, domain: Any, trials: Any, seed: int) -> Any:
            return rand.suggest(new_ids, domain, trials, seed) if new_ids[0] < 3 else []

        searcher = search(LabelSpace(flat()), three)
        found = [searcher.suggest(name) for name in "abcd"]
        assert found[:3] != found[3:]
        assert found[3] == searcher.FINISHED


class TestNames:
    @pytest.mark.parametrize("name", ["hyperopt", "random", "anneal"])
    def test_each_suggests_points(self, name: str) -> None:
        space = LabelSpace(conditional())
        searcher = TPESearch(space, LOSS, seed=1, algorithm=named(name))
        assert len(by_us(searcher, space, conditional_loss, 25)) == 25

    def test_the_default_is_hyperopt(self) -> None:
        space = LabelSpace(flat())
        default = TPESearch(space, LOSS, seed=1)
        by_name = TPESearch(space, LOSS, seed=1, algorithm=named("hyperopt"))
        assert by_us(default, space, flat_loss, 25) == by_us(by_name, space, flat_loss, 25)

    def test_unknown_one_is_refused(self) -> None:
        with pytest.raises(InputError, match="hyperopt, random, anneal"):
            named("simplex")

    def test_stock_tpe_is_the_fast_form_and_a_partial_of_it_is_not(self) -> None:
        domain = Domain(lambda point: point, flat())
        assert isinstance(from_hyperopt(hyperopt_tpe.suggest)(domain), RandomFirst)
        made = from_hyperopt(partial(hyperopt_tpe.suggest, gamma=0.5))(domain)
        assert isinstance(made, HyperoptSuggest)


def test_empty_history_is_no_obstacle() -> None:
    """Annealing begins with a random point."""
    domain = Domain(lambda point: point, flat())
    found = named("anneal")(domain).suggest(0, 1, History(domain.params))
    assert found is not None
    assert all(math.isfinite(value) for value in found.values())
