"""The algorithms that draw one point: one protocol, and those of hyperopt behind it."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from importlib import metadata
from typing import Any, Protocol

from hyperopt import JOB_STATE_DONE, JOB_STATE_NEW, STATUS_OK, Domain, Trials, anneal, rand
from hyperopt import tpe as hyperopt_tpe

from search.errors import InputError
from search.suggest.history import History

PROVEN = ("0.2.7", "0.3.0")  # versions of hyperopt that fast_tpe is proven for
NOTE = (
    "note: this version of hyperopt ({version}) is not known here, so its own tpe.suggest is used: "
    "the same suggestions, but slower as trials add up"
)


RANDOM_POINTS = 20  # finished trials before TPE models anything; hyperopt's own number


class Algorithm(Protocol):
    """Chooses points of one space. The same arguments give the same point."""

    def suggest(self, number: int, seed: int, history: History) -> dict[str, Any] | None:
        """Return a value for each label that is active in trial ``number``'s point.

        None: there are no more points.
        """


MakeAlgorithm = Callable[[Domain], Algorithm]
Suggest = Callable[[list[int], Domain, Trials, int], list[dict[str, Any]]]  # hyperopt's `algo`


class RandomPoints:
    """Points drawn from the space itself: ``hyperopt.rand.suggest``."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain

    def suggest(self, number: int, seed: int, history: History) -> dict[str, Any]:
        """Return the values that ``hyperopt.rand.suggest`` draws."""
        (document,) = rand.suggest([number], self._domain, Trials(), seed)
        return _values(document)


class HyperoptSuggest:
    """Any algorithm of hyperopt's signature, on documents made of the history.

    A running trial has no loss; one that failed has the worst loss seen.
    """

    def __init__(self, domain: Domain, suggest: Suggest) -> None:
        self._domain, self._suggest = domain, suggest

    def suggest(self, number: int, seed: int, history: History) -> dict[str, Any] | None:
        """Return the values that the algorithm suggests; None if it suggests nothing."""
        documents = self._suggest([number], self._domain, _documents(history), seed)
        return _values(documents[0]) if documents else None


class HyperoptTPE(HyperoptSuggest):
    """``hyperopt.tpe.suggest`` on documents made of the history: slow, but public."""

    def __init__(self, domain: Domain) -> None:
        super().__init__(domain, partial(hyperopt_tpe.suggest, n_startup_jobs=0, verbose=False))


class RandomFirst:
    """Random points until :data:`RANDOM_POINTS` trials have *finished*, then another algorithm."""

    def __init__(self, domain: Domain, then: Algorithm) -> None:
        self._random, self._then = RandomPoints(domain), then

    def suggest(self, number: int, seed: int, history: History) -> dict[str, Any] | None:
        """Return a random point, or the other algorithm's."""
        algorithm = self._random if history.finished < RANDOM_POINTS else self._then
        return algorithm.suggest(number, seed, history)


def named(name: str) -> MakeAlgorithm:
    """Return the algorithm that ``--algorithm`` names.

    :raises InputError: there is none of this name.
    """
    if name not in NAMED:
        raise InputError(f"--algorithm {name}: unknown; use one of {', '.join(NAMED)}")
    return NAMED[name]


def from_hyperopt(suggest: Suggest) -> MakeAlgorithm:
    """Return what stands for the ``algo`` of ``hyperopt.fmin``; the fast form where there is one.

    A ``functools.partial`` of ``tpe.suggest`` runs as it is, with its own random phase.
    """
    name = name_of(suggest)
    return NAMED[name] if name else lambda domain: HyperoptSuggest(domain, suggest)


def name_of(suggest: Suggest) -> str | None:
    """Return what ``--algorithm`` calls a function of hyperopt's; None: it has no name."""
    known = (
        (hyperopt_tpe.suggest, "hyperopt"),
        (rand.suggest, "random"),
        (anneal.suggest, "anneal"),
    )
    return next((name for function, name in known if suggest is function), None)


def tpe(domain: Domain) -> Algorithm:
    """Return hyperopt's TPE: the fast form if it is proven for this version of hyperopt."""
    if is_fast():
        from search.suggest.fast_tpe import FastTPE

        return FastTPE(domain)
    return HyperoptTPE(domain)


NAMED: dict[str, MakeAlgorithm] = {
    "hyperopt": lambda domain: RandomFirst(domain, tpe(domain)),
    "random": RandomPoints,
    "anneal": lambda domain: HyperoptSuggest(domain, anneal.suggest),
}


def is_fast() -> bool:
    """Tell whether the fast form of TPE is proven for this version of hyperopt."""
    return metadata.version("hyperopt") in PROVEN


def _values(document: dict[str, Any]) -> dict[str, Any]:
    return {label: drawn[0] for label, drawn in document["misc"]["vals"].items() if drawn}


def _documents(history: History) -> Trials:
    """Return the history as hyperopt's own trials."""
    points: dict[int, dict[str, list[Any]]] = {
        int(number): {label: [] for label in history.values} for number in history.numbers
    }
    for label, (numbers, values) in history.values.items():
        for number, value in zip(numbers, values, strict=True):
            points[int(number)][label] = [value]
    trials = Trials()
    for (number, vals), loss in zip(points.items(), history.losses, strict=True):
        idxs = {label: [number] * len(drawn) for label, drawn in vals.items()}
        misc = {"tid": number, "cmd": None, "workdir": None, "idxs": idxs, "vals": vals}
        has_ended = math.isfinite(loss)
        result = {"loss": float(loss), "status": STATUS_OK} if has_ended else {"status": "new"}
        (document,) = trials.new_trial_docs([number], [None], [result], [misc])
        document["state"] = JOB_STATE_DONE if has_ended else JOB_STATE_NEW
        trials.insert_trial_doc(document)
    trials.refresh()
    return trials
