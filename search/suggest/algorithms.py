"""The algorithms that draw one point: one protocol, and those of hyperopt behind it."""

from __future__ import annotations

import math
from importlib import metadata
from typing import Any, Protocol

from hyperopt import JOB_STATE_DONE, JOB_STATE_NEW, STATUS_OK, Domain, Trials, rand
from hyperopt import tpe as hyperopt_tpe

from search.suggest.history import History

PROVEN = ("0.2.7", "0.3.0")  # versions of hyperopt that fast_tpe is proven for
NOTE = (
    "note: this version of hyperopt ({version}) is not known here, so its own tpe.suggest is used: "
    "the same suggestions, but slower as trials add up"
)


class Algorithm(Protocol):
    """Chooses points of one space. The same arguments give the same point."""

    def suggest(self, number: int, seed: int, history: History) -> dict[str, Any]:
        """Return a value for each label that is active in trial ``number``'s point."""


class RandomPoints:
    """Points drawn from the space itself: ``hyperopt.rand.suggest``."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain

    def suggest(self, number: int, seed: int, history: History) -> dict[str, Any]:
        """Return the values that ``hyperopt.rand.suggest`` draws."""
        return _values(rand.suggest([number], self._domain, Trials(), seed))


class HyperoptTPE:
    """``hyperopt.tpe.suggest`` on documents made of the history: slow, but public."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain

    def suggest(self, number: int, seed: int, history: History) -> dict[str, Any]:
        """Return the values that ``hyperopt.tpe.suggest`` draws."""
        trials = _documents(history)
        suggested = hyperopt_tpe.suggest(
            [number], self._domain, trials, seed, n_startup_jobs=0, verbose=False
        )
        return _values(suggested)


def tpe(domain: Domain) -> Algorithm:
    """Return hyperopt's TPE: the fast form if it is proven for this version of hyperopt."""
    if is_fast():
        from search.suggest.fast_tpe import FastTPE

        return FastTPE(domain)
    return HyperoptTPE(domain)


def is_fast() -> bool:
    """Tell whether the fast form of TPE is proven for this version of hyperopt."""
    return metadata.version("hyperopt") in PROVEN


def _values(documents: list[dict[str, Any]]) -> dict[str, Any]:
    (document,) = documents
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
