"""hyperopt's TPE over a history that grows, without going through all of it in Python each time.

The suggestions are those of ``hyperopt.tpe.suggest`` on the same trials, to the last bit: the
posterior is hyperopt's own expression, made once instead of for each suggestion, and what it is
given (which observations are good, which are bad) comes from arrays instead of documents.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from hyperopt import Domain, Trials, pyll, rand
from hyperopt.pyll import scope
from hyperopt.tpe import (
    GMM1_lpdf,
    LGMM1_lpdf,
    build_posterior_wrapper,
    lognormal_cdf,
    normal_cdf,
)
from numpy.typing import NDArray

# hyperopt's own numbers (hyperopt/tpe.py)
PRIOR_WEIGHT = 1.0
CANDIDATES = 24
GAMMA = 0.25
MOST_GOOD = 25

Labels = Mapping[str, Any]


class Column:
    """A growing array of numbers."""

    def __init__(self, kind: Any = np.int64) -> None:
        self._held = np.empty(64, dtype=kind)
        self._length = 0

    @property
    def values(self) -> NDArray[Any]:
        """All of it; not a copy."""
        return self._held[: self._length]

    def insert(self, place: int, value: Any) -> None:
        """Put a value before the one at ``place``; the type widens to hold it."""
        kind = np.promote_types(self._held.dtype, np.asarray(value).dtype)
        if kind != self._held.dtype or self._length == len(self._held):
            held = np.empty(2 * len(self._held), dtype=kind)
            held[: self._length] = self.values
            self._held = held
        self._held[place + 1 : self._length + 1] = self._held[place : self._length].copy()
        self._held[place] = value
        self._length += 1


class History:
    """Trials by number: their labels' values, and their losses as TPE is to see them.

    A trial that runs has no loss yet and counts as infinitely bad, so that slots do not crowd
    one spot; one that failed counts as the worst there is.
    """

    def __init__(self, labels: Iterable[str]) -> None:
        self._numbers = Column()  # ascending
        self._losses = Column(np.float64)  # of failures: NaN
        self._values = {label: (Column(), Column()) for label in labels}  # numbers, values
        self._worst = -math.inf
        self.finished = 0  # failures among them

    @property
    def numbers(self) -> NDArray[np.int64]:
        """The trials' numbers, ascending."""
        return self._numbers.values

    def add(self, number: int, labels: Labels) -> None:
        """Take in a trial that runs."""
        place = int(np.searchsorted(self.numbers, number))
        self._numbers.insert(place, number)
        self._losses.insert(place, math.inf)
        for label, value in labels.items():
            numbers, values = self._values[label]
            place = int(np.searchsorted(numbers.values, number))
            numbers.insert(place, number)
            values.insert(place, value)

    def end(self, number: int, loss: float) -> None:
        """Take in what a trial came to; a loss that is no finite number is a failure."""
        self.finished += 1
        if math.isfinite(loss):
            self._worst = max(self._worst, loss)
        place = np.searchsorted(self.numbers, number)
        self._losses.values[place] = loss if math.isfinite(loss) else math.nan

    def split(self) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
        """Return the values of each label, of the good trials and of the others, by number."""
        losses = self._losses.values
        # without any score yet, all failures are alike: any number will do
        worst = self._worst if self._worst > -math.inf else 0.0
        losses = np.where(np.isnan(losses), worst, losses)
        most_good = min(math.ceil(GAMMA * np.sqrt(len(losses))), MOST_GOOD)
        is_good = np.zeros(len(losses), dtype=bool)
        is_good[np.argsort(losses)[:most_good]] = True
        found = {}
        for label, (numbers, values) in self._values.items():
            good = is_good[np.searchsorted(self.numbers, numbers.values)]
            found[label] = (values.values[good], values.values[~good])
        return found


class Sampler:
    """Draws points of one space: at random, or by TPE from a history."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        observed, losses, self._posterior = build_posterior_wrapper(domain, PRIOR_WEIGHT, GAMMA)
        self._unused = dict.fromkeys((*observed.values(), *losses.values()))
        self._splits: dict[str, Any] = {}  # label -> the node that splits its observations
        for node in pyll.dfs(pyll.as_apply(self._posterior)):
            if node.name == "ap_split_trials":
                self._splits[node.pos_args[0].pos_args[1].obj] = node
            elif node.name in ("GMM1_lpdf", "LGMM1_lpdf"):
                node.name = f"wide_{node.name}"

    def random(self, number: int, seed: int) -> dict[str, Any]:
        """Return the values that ``hyperopt.rand.suggest`` draws."""
        (document,) = rand.suggest([number], self._domain, Trials(), seed)
        return {label: drawn[0] for label, drawn in document["misc"]["vals"].items() if drawn}

    def suggest(self, number: int, seed: int, history: History) -> dict[str, Any]:
        """Return the values that ``hyperopt.tpe.suggest`` draws."""
        domain = self._domain
        first = max(int(history.numbers[-1]), number) + 2
        memo: dict[Any, Any] = {
            **self._unused,
            domain.s_new_ids: list(range(first, first + CANDIDATES)),
            domain.s_rng: np.random.default_rng(seed),
        }
        split = history.split()
        memo |= {node: split[label] for label, node in self._splits.items()}
        drawn = pyll.rec_eval(self._posterior, memo=memo, print_node_on_error=False)
        found = {}
        for label, values in drawn[1].items():
            numbers = list(drawn[0][label])
            if first in numbers:
                found[label] = values[numbers.index(first)] + self._offset(label)
        return found

    def _offset(self, label: str) -> int:
        # hyperopt draws `randint(low, high)` from 0 on, and adds `low` at the end
        parameter = self._domain.params[label]
        if parameter.name == "randint" and len(parameter.pos_args) == 2:
            return int(parameter.pos_args[0].obj)
        return 0


@scope.define  # type: ignore[untyped-decorator]
def wide_GMM1_lpdf(
    samples: Any,
    weights: Any,
    mus: Any,
    sigmas: Any,
    low: Any = None,
    high: Any = None,
    q: Any = None,
) -> Any:
    """Return what ``GMM1_lpdf`` does; rounded samples' components at once, not one by one."""
    if q is None or not np.size(samples):
        return GMM1_lpdf(samples, weights, mus, sigmas, low, high, q)
    mass = _mass(normal_cdf, samples, q, (low, high), weights, mus, sigmas)
    return mass - np.log(_accepted(weights, mus, sigmas, low, high))


@scope.define  # type: ignore[untyped-decorator]
def wide_LGMM1_lpdf(
    samples: Any,
    weights: Any,
    mus: Any,
    sigmas: Any,
    low: Any = None,
    high: Any = None,
    q: Any = None,
) -> Any:
    """Return what ``LGMM1_lpdf`` does; rounded samples' components at once, not one by one."""
    if q is None or not np.size(samples):
        return LGMM1_lpdf(samples, weights, mus, sigmas, low, high, q)
    ends = (0.0 if low is None else np.exp(low), None if high is None else np.exp(high))
    mass = _mass(lognormal_cdf, samples, q, ends, weights, mus, sigmas)
    return mass - np.log(_accepted(weights, mus, sigmas, low, high))


def _accepted(weights: Any, mus: Any, sigmas: Any, low: Any, high: Any) -> Any:
    if low is None and high is None:
        return 1
    return np.sum(weights * (normal_cdf(high, mus, sigmas) - normal_cdf(low, mus, sigmas)))


def _mass(
    cdf: Any, samples: Any, q: Any, ends: tuple[Any, Any], weights: Any, mus: Any, sigmas: Any
) -> Any:
    """Return [samples]: the log of how much of the mixture rounds to each, within ``ends``."""
    distinct, each = np.unique(np.asarray(samples), return_inverse=True)
    low, high = ends
    above = distinct + q / 2 if high is None else np.minimum(distinct + q / 2, high)
    below = distinct - q / 2 if low is None else np.maximum(distinct - q / 2, low)
    weights, mus, sigmas = (np.asarray(part)[:, None] for part in (weights, mus, sigmas))
    parts = weights * cdf(above[None, :], mus, sigmas)
    parts -= weights * cdf(below[None, :], mus, sigmas)
    return np.log(np.add.reduce(parts, axis=0))[each]  # one after another, as hyperopt adds them
