"""The suggestions are hyperopt's, to the last bit, whatever the space and the history."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hyperopt import JOB_STATE_DONE, JOB_STATE_NEW, STATUS_OK, Domain, Trials, hp, rand, tpe
from hypothesis import given, settings
from hypothesis import strategies as st

from search.tpe import History, Sampler

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


def hyperopts(domain: Domain, seed: int, losses: list[float | None]) -> tuple[Trials, History]:
    """Return random trials that came to these losses, as documents and as a history.

    Nothing as a loss: the trial runs. NaN: it failed.
    """
    trials, history = Trials(), History(list(domain.params))
    worst = max((loss for loss in losses if loss is not None and math.isfinite(loss)), default=0.0)
    for number, loss in enumerate(losses, 1):
        (document,) = rand.suggest([number], domain, trials, seed + number)
        history.add(number, {k: v[0] for k, v in document["misc"]["vals"].items() if v})
        document["state"] = JOB_STATE_NEW
        if loss is not None:
            document["state"] = JOB_STATE_DONE
            seen = loss if math.isfinite(loss) else worst
            document["result"] = {"loss": seen, "status": STATUS_OK}
            history.end(number, loss)
        trials.insert_trial_doc(document)
    trials.refresh()
    return trials, history


def stock(domain: Domain, trials: Trials, number: int, seed: int) -> dict[str, Any]:
    (document,) = tpe.suggest([number], domain, trials, seed, n_startup_jobs=0, verbose=False)
    return {label: drawn[0] for label, drawn in document["misc"]["vals"].items() if drawn}


@pytest.mark.parametrize("name", SPACES)
@settings(max_examples=40, deadline=None, database=None)
@given(
    seed=st.integers(0, 2**31),
    losses=st.lists(
        st.none() | st.just(math.nan) | st.floats(-5, 5) | st.sampled_from([1.0, 2.0]),
        min_size=1,
        max_size=120,
    ),
)
def test_suggestions_are_hyperopts(name: str, seed: int, losses: list[float | None]) -> None:
    """With trials that run, trials that failed, and scores that are equal."""
    domain = Domain(lambda point: point, SPACES[name])
    trials, history = hyperopts(domain, seed, losses)
    number = len(losses) + 1
    expected = stock(domain, trials, number, seed)
    assert Sampler(domain).suggest(number, seed, history) == expected


@pytest.mark.parametrize("name", SPACES)
def test_long_histories_are_no_others(name: str) -> None:
    """More good trials than are kept, weights that fade, hundreds of components."""
    domain = Domain(lambda point: point, SPACES[name])
    losses = list(np.random.default_rng(1).normal(size=900))
    trials, history = hyperopts(domain, 5, [float(each) for each in losses])
    sampler = Sampler(domain)
    for seed in range(5):
        assert sampler.suggest(901, seed, history) == stock(domain, trials, 901, seed)


def test_random_points_are_hyperopts() -> None:
    """The first points are those of hyperopt's own random search."""
    domain = Domain(lambda point: point, SPACES["conditional"])
    for seed in range(20):
        (document,) = rand.suggest([3], domain, Trials(), seed)
        drawn = {k: v[0] for k, v in document["misc"]["vals"].items() if v}
        assert Sampler(domain).random(3, seed) == drawn


def test_numbers_may_come_in_any_order() -> None:
    """A trial whose number was lost is suggested again, after later ones."""
    domain = Domain(lambda point: point, SPACES["notes"])
    _, forward = hyperopts(domain, 3, [float(each) for each in range(40)])
    backward = History(list(domain.params))
    points = [rand.suggest([n], domain, Trials(), 3 + n)[0]["misc"]["vals"] for n in range(1, 41)]
    for number in reversed(range(1, 41)):
        backward.add(number, {k: v[0] for k, v in points[number - 1].items()})
    for number in range(1, 41):
        backward.end(number, float(number - 1))
    sampler = Sampler(domain)
    assert sampler.suggest(41, 9, forward) == sampler.suggest(41, 9, backward)
