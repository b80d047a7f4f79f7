"""TPE suggests what hyperopt suggests, to the last bit, for any space and history."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hyperopt import JOB_STATE_DONE, JOB_STATE_NEW, STATUS_OK, Domain, Trials, hp, rand
from hyperopt import tpe as hyperopt_tpe
from hypothesis import given, settings
from hypothesis import strategies as st

from search.suggest import algorithms
from search.suggest.algorithms import Algorithm, HyperoptTPE, RandomPoints, tpe
from search.suggest.fast_tpe import FastTPE
from search.suggest.history import History

SPACES: Mapping[str, Any] = {
    "notes": {
        "max_depth": hp.uniformint("max_depth", 3.5, 100.5),
        "learning_rate": hp.loguniform("learning_rate", -3, 0),
        "reg_alpha": hp.loguniform("reg_alpha", -5, -1),
        "min_child_weight": hp.loguniform("min_child_weight", -1, 3),
    },
    "every distribution": {
        "uniform": hp.uniform("uniform", -2, 3),
        "quniform": hp.quniform("quniform", -2, 3, 0.5),
        "qloguniform": hp.qloguniform("qloguniform", 0, 4, 2),
        "normal": hp.normal("normal", 1, 2),
        "qnormal": hp.qnormal("qnormal", 1, 2, 0.5),
        "lognormal": hp.lognormal("lognormal", 0, 1),
        "qlognormal": hp.qlognormal("qlognormal", 0, 1, 0.5),
        "randint": hp.randint("randint", 7),
        "randint from": hp.randint("randint from", 3, 9),
        "choice": hp.choice("choice", ["a", "b", "c"]),
        "pchoice": hp.pchoice("pchoice", [(0.1, "a"), (0.9, "b")]),
    },
    "conditional": {
        "model": hp.choice(
            "model",
            [
                {"kind": "a", "x": hp.uniform("x", 0, 1), "n": hp.quniform("n", 0, 9, 1)},
                {"kind": "b", "inner": hp.choice("inner", [hp.lognormal("y", 0, 1), "none"])},
            ],
        ),
        "z": hp.normal("z", 0, 1),
    },
}
ALGORITHMS = [FastTPE, HyperoptTPE]
MakeAlgorithm = Callable[[Domain], Algorithm]


def domain_of(name: str) -> Domain:
    return Domain(lambda point: point, SPACES[name])


def active(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the value of each label that is active in hyperopt's document of a trial."""
    return {label: drawn[0] for label, drawn in document["misc"]["vals"].items() if drawn}


def random_trials(
    domain: Domain, seed: int, losses: Sequence[float | None], first_number: int = 1
) -> tuple[Trials, History]:
    """Return random trials with these losses, as hyperopt's documents and as a history.

    None as a loss: the trial runs. NaN: it failed.
    """
    trials, history = Trials(), History(domain.params)
    worst = max((loss for loss in losses if loss is not None and math.isfinite(loss)), default=0.0)
    for number, loss in enumerate(losses, first_number):
        (document,) = rand.suggest([number], domain, trials, abs(seed + number))
        history.add(number, active(document))
        document["state"] = JOB_STATE_NEW
        if loss is not None:
            document["state"] = JOB_STATE_DONE
            seen = loss if math.isfinite(loss) else worst
            document["result"] = {"loss": seen, "status": STATUS_OK}
            history.end(number, loss)
        trials.insert_trial_doc(document)
    trials.refresh()
    return trials, history


def suggested_by_hyperopt(domain: Domain, trials: Trials, number: int, seed: int) -> dict[str, Any]:
    (document,) = hyperopt_tpe.suggest(
        [number], domain, trials, seed, n_startup_jobs=0, verbose=False
    )
    return active(document)


@pytest.mark.parametrize("make", ALGORITHMS)
@pytest.mark.parametrize("name", SPACES)
class TestSuggestionsAreHyperopts:
    @settings(max_examples=40, deadline=None, database=None)
    @given(
        seed=st.integers(0, 2**31),
        losses=st.lists(
            st.none() | st.just(math.nan) | st.floats(-5, 5) | st.sampled_from([1.0, 2.0]),
            min_size=1,
            max_size=120,
        ),
    )
    def test_with_running_and_failed_trials_and_equal_scores(
        self, name: str, make: MakeAlgorithm, seed: int, losses: list[float | None]
    ) -> None:
        domain = domain_of(name)
        trials, history = random_trials(domain, seed, losses)
        number = len(losses) + 1
        expected = suggested_by_hyperopt(domain, trials, number, seed)
        assert make(domain).suggest(number, seed, history) == expected

    def test_with_a_long_history(self, name: str, make: MakeAlgorithm) -> None:
        """More good trials than are kept, fading weights, and hundreds of mixture components."""
        domain = domain_of(name)
        losses = [float(loss) for loss in np.random.default_rng(1).normal(size=900)]
        trials, history = random_trials(domain, 5, losses)
        algorithm = make(domain)
        for seed in range(5):
            expected = suggested_by_hyperopt(domain, trials, 901, seed)
            assert algorithm.suggest(901, seed, history) == expected

    def test_with_trials_of_other_searches(self, name: str, make: MakeAlgorithm) -> None:
        """They have the numbers 0, -1, -2, ..."""
        domain = domain_of(name)
        losses = [float(number % 7) for number in range(30)]
        trials, history = random_trials(domain, 11, [*losses, None], first_number=-29)
        expected = suggested_by_hyperopt(domain, trials, 2, 8)
        assert make(domain).suggest(2, 8, history) == expected

    def test_with_failures_only(self, name: str, make: MakeAlgorithm) -> None:
        """Without any loss all failures are equal."""
        domain = domain_of(name)
        trials, history = random_trials(domain, 2, [math.nan] * 25)
        expected = suggested_by_hyperopt(domain, trials, 26, 4)
        assert make(domain).suggest(26, 4, history) == expected


@pytest.mark.parametrize("make", ALGORITHMS)
def test_order_in_which_trials_are_added_does_not_matter(make: MakeAlgorithm) -> None:
    """A trial whose number was lost is suggested again, after trials with higher numbers."""
    domain = domain_of("notes")
    _, forward = random_trials(domain, 3, [float(loss) for loss in range(40)])
    backward = History(domain.params)
    points = {
        number: active(rand.suggest([number], domain, Trials(), 3 + number)[0])
        for number in range(1, 41)
    }
    for number in reversed(points):
        backward.add(number, points[number])
    for number in points:
        backward.end(number, float(number - 1))
    algorithm = make(domain)
    assert algorithm.suggest(41, 9, forward) == algorithm.suggest(41, 9, backward)


@pytest.mark.parametrize("make", ALGORITHMS)
def test_suggesting_does_not_change_the_history(make: MakeAlgorithm) -> None:
    domain = domain_of("conditional")
    _, history = random_trials(domain, 3, [*map(float, range(25)), None, math.nan])
    algorithm = make(domain)
    assert algorithm.suggest(28, 9, history) == algorithm.suggest(28, 9, history)


@pytest.mark.parametrize("name", SPACES)
def test_random_points_are_hyperopts(name: str) -> None:
    """They are those of hyperopt's own random search, whatever the history."""
    domain = domain_of(name)
    _, history = random_trials(domain, 1, [1.0, 2.0])
    for seed in range(20):
        (document,) = rand.suggest([3], domain, Trials(), seed)
        assert RandomPoints(domain).suggest(3, seed, history) == active(document)


class TestChoiceOfAlgorithm:
    def test_fast_one_is_used_with_a_proven_version(self) -> None:
        """The installed version is proven; the tests above prove it."""
        assert isinstance(tpe(domain_of("notes")), FastTPE)

    def test_hyperopts_own_is_used_with_any_other(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Private parts of another version may have changed."""
        monkeypatch.setattr(algorithms, "PROVEN", ("0.2.6",))
        assert isinstance(tpe(domain_of("notes")), HyperoptTPE)
