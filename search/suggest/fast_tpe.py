"""Private parts of hyperopt 0.2.7 and 0.3.0: its TPE posterior, without going through all trials.

The suggestions are those of ``hyperopt.tpe.suggest``, bit for bit. The posterior is hyperopt's own
expression, built once and not for each suggestion; the observations that it splits into good and
bad come from arrays and not from documents. With any other version :mod:`search.suggest.algorithms`
uses ``tpe.suggest`` itself, which costs more as trials add up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from hyperopt import Domain, pyll
from hyperopt.pyll import scope
from hyperopt.tpe import (
    GMM1_lpdf,
    LGMM1_lpdf,
    build_posterior_wrapper,
    lognormal_cdf,
    normal_cdf,
)
from numpy.typing import NDArray

from search.suggest.history import History

# hyperopt's own numbers (hyperopt/tpe.py)
PRIOR_WEIGHT = 1.0
CANDIDATES = 24
GAMMA = 0.25
MOST_GOOD = 25


@dataclass(frozen=True)
class Mixture:
    """Normal distributions, or the logarithms of lognormal ones."""

    weights: NDArray[np.float64]  # [components]
    mus: NDArray[np.float64]  # [components]
    sigmas: NDArray[np.float64]  # [components]


@dataclass(frozen=True)
class Bounds:
    """Between which values a parameter lies; None: no bound."""

    low: Any
    high: Any


class FastTPE:
    """hyperopt's TPE over one space."""

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

    def suggest(self, number: int, seed: int, history: History) -> dict[str, Any]:
        """Return the values that ``hyperopt.tpe.suggest`` draws."""
        domain = self._domain
        first = max(int(history.numbers[-1]), number) + 2
        memo: dict[Any, Any] = {
            **self._unused,
            domain.s_new_ids: list(range(first, first + CANDIDATES)),
            domain.s_rng: np.random.default_rng(seed),
        }
        split = _split(history)
        memo |= {node: split[label] for label, node in self._splits.items()}
        drawn = pyll.rec_eval(self._posterior, memo=memo, print_node_on_error=False)
        found = {}
        for label, values in drawn[1].items():
            numbers = list(drawn[0][label])
            if first in numbers:
                found[label] = values[numbers.index(first)] + self._offset(label)
        return found

    def _offset(self, label: str) -> int:
        # hyperopt draws `randint(low, high)` from 0, and adds `low` at the end
        parameter = self._domain.params[label]
        if parameter.name == "randint" and len(parameter.pos_args) == 2:
            return int(parameter.pos_args[0].obj)
        return 0


def _split(history: History) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    """Return the values of each label in the good trials and in the others, by number."""
    losses = history.losses
    most_good = min(math.ceil(GAMMA * np.sqrt(len(losses))), MOST_GOOD)
    is_good = np.zeros(len(losses), dtype=bool)
    is_good[np.argsort(losses)[:most_good]] = True
    found = {}
    for label, (numbers, values) in history.values.items():
        good = is_good[np.searchsorted(history.numbers, numbers)]
        found[label] = (values[good], values[~good])
    return found


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
    """Return what ``GMM1_lpdf`` does, for rounded samples all components at once."""
    if q is None or not np.size(samples):
        return GMM1_lpdf(samples, weights, mus, sigmas, low, high, q)
    mixture, bounds = Mixture(weights, mus, sigmas), Bounds(low, high)
    return _mass(normal_cdf, samples, q, bounds, mixture) - np.log(_accepted(mixture, bounds))


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
    """Return what ``LGMM1_lpdf`` does, for rounded samples all components at once."""
    if q is None or not np.size(samples):
        return LGMM1_lpdf(samples, weights, mus, sigmas, low, high, q)
    mixture, bounds = Mixture(weights, mus, sigmas), Bounds(low, high)
    ends = Bounds(0.0 if low is None else np.exp(low), None if high is None else np.exp(high))
    return _mass(lognormal_cdf, samples, q, ends, mixture) - np.log(_accepted(mixture, bounds))


def _accepted(mixture: Mixture, bounds: Bounds) -> Any:
    """Return the mass of the mixture within ``bounds``."""
    if bounds.low is None and bounds.high is None:
        return 1
    below_high = normal_cdf(bounds.high, mixture.mus, mixture.sigmas)
    return np.sum(
        mixture.weights * (below_high - normal_cdf(bounds.low, mixture.mus, mixture.sigmas))
    )


def _mass(cdf: Any, samples: Any, q: Any, bounds: Bounds, mixture: Mixture) -> Any:
    """Return [samples]: the log of the mixture's mass that rounds to each, within ``bounds``."""
    distinct, each = np.unique(np.asarray(samples), return_inverse=True)
    low, high = bounds.low, bounds.high
    above = distinct + q / 2 if high is None else np.minimum(distinct + q / 2, high)
    below = distinct - q / 2 if low is None else np.maximum(distinct - q / 2, low)
    weights, mus, sigmas = (
        np.asarray(part)[:, None] for part in (mixture.weights, mixture.mus, mixture.sigmas)
    )
    parts = weights * cdf(above[None, :], mus, sigmas)
    parts -= weights * cdf(below[None, :], mus, sigmas)
    return np.log(np.add.reduce(parts, axis=0))[each]  # one by one, as hyperopt adds them
