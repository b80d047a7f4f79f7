"""Gradient-boosted trees, with the search space of the course that the notes follow."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, ClassVar

import numpy as np
import xgboost
from numpy.typing import NDArray

from trainables import booster, columns, trees
from trainables.base import Curve, OnRound, Params, Setting, Settings
from trainables.dataset import Dataset

OBJECTIVE = "reg:squarederror"
EVALUATED = "validation"
CODED = "coded"  # the name of the data's form in which trees are grown


class XGBoost:
    """XGBoost's models, each fitted in the cheapest of the ways that give the same model."""

    name = "xgboost"
    flavor = "xgboost"
    artifact = "models/model.ubj"
    settings: ClassVar[dict[str, Setting]] = {
        "num_boost_round": Setting(1000, at_least=1),
        "early_stopping_rounds": Setting(50, at_least=1),
        "tree_method": Setting("hist", one_of=("hist", "exact", "approx")),
    }

    @property
    def search_space(self) -> dict[str, Any]:
        """The ranges of the course that the notes follow."""
        from hyperopt import hp

        return {
            # `quniform` 4..100 would draw its ends half as often, so half a step more at each end
            "max_depth": hp.uniformint("max_depth", 3.5, 100.5),
            "learning_rate": hp.loguniform("learning_rate", -3, 0),
            "reg_alpha": hp.loguniform("reg_alpha", -5, -1),
            "reg_lambda": hp.loguniform("reg_lambda", -6, -1),
            "min_child_weight": hp.loguniform("min_child_weight", -1, 3),
        }

    def rounds(self, settings: Settings) -> int:
        """Return the cap on boosting rounds."""
        return int(settings["num_boost_round"])

    def made_once(self, settings: Settings) -> str | None:
        """Return the module that compiles the kernel which grows trees, if it is not compiled."""
        grows = settings["tree_method"] == "hist" and trees.is_proven()
        return "trainables.trees" if grows and not trees.is_compiled() else None

    def note(self, settings: Settings) -> str | None:
        """Return that fits are slow with this release of XGBoost, if they are."""
        if settings["tree_method"] != "hist" or trees.is_proven():
            return None
        return (
            f"note: this release of XGBoost ({xgboost.__version__}) is not known here, so it fits "
            "by itself: the same models, many times slower"
        )

    def train(self, params: Params, data: Dataset, settings: Settings, on_round: OnRound) -> Curve:
        """Boost until the cap, or until ``early_stopping_rounds`` rounds bring no improvement."""
        rounds, patience = self.rounds(settings), int(settings["early_stopping_rounds"])
        told = 0

        def news(curve: Curve) -> None:
            nonlocal told
            if len(curve) > told:  # a fit that begins again reports no round twice
                told = len(curve)
                on_round(curve)

        if coded := _coded(params, data, settings):
            with _given_up(data):
                return _boosted(params, coded, rounds, patience, news)
        form = columns.cheapest(params, data, settings, OBJECTIVE)
        watch = _Watch(news)
        xgboost.train(
            _options(params, settings, form),
            form.train,
            num_boost_round=rounds,
            evals=[(form.valid, EVALUATED)],
            early_stopping_rounds=patience,
            callbacks=[watch],
            verbose_eval=False,
        )
        return watch.curve

    def refit(self, params: Params, data: Dataset, settings: Settings, rounds: int) -> bytes:
        """Boost for ``rounds`` rounds; the model is one on the dataset's own columns."""
        if coded := _coded(params, data, settings):
            with _given_up(data):
                grown = islice(trees.boosted(params, coded), rounds)
                return booster.model(coded.model, [trees.copy(tree) for _, tree in grown])
        form = columns.cheapest(params, data, settings, OBJECTIVE)
        fitted = xgboost.train(_options(params, settings, form), form.train, num_boost_round=rounds)
        return form.restored(bytes(fitted.save_raw("ubj")))

    def load(self, model: bytes) -> xgboost.Booster:
        """Return the booster."""
        return xgboost.Booster(model_file=bytearray(model))

    def predict(self, model: xgboost.Booster, features: Any) -> NDArray[np.float64]:
        """Return the booster's predictions [rows]."""
        return np.asarray(model.predict(xgboost.DMatrix(features)), dtype=np.float64)


XGBOOST = XGBoost()


def _coded(params: Params, data: Dataset, settings: Settings) -> trees.Coded | None:
    """Return the form in which trees are grown without XGBoost; None if XGBoost must fit."""
    if settings["tree_method"] != "hist" or not trees.understood(params):
        return None
    return data.derived(CODED, lambda: trees.coded(data))


@contextlib.contextmanager
def _given_up(data: Dataset) -> Iterator[None]:
    """Leave all later fits on this data to XGBoost once a tree cannot be grown."""
    try:
        yield
    except trees.Inexact:
        data.keep(CODED, None)


def _boosted(
    params: Params, coded: trees.Coded, rounds: int, patience: int, on_round: OnRound
) -> Curve:
    """Boost until the cap, or until ``patience`` rounds bring no improvement, as XGBoost does."""
    curve: Curve = []
    least, since = math.inf, 0
    for score, _ in islice(trees.boosted(params, coded), rounds):
        curve.append(score)
        on_round(curve)
        least, since = (score, 0) if score < least else (least, since + 1)
        if since >= patience:
            break
    return curve


def _options(params: Params, settings: Settings, form: columns.Form) -> dict[str, Any]:
    return {
        **params,
        **form.options,
        "objective": OBJECTIVE,
        "eval_metric": "rmse",
        "tree_method": settings["tree_method"],
        "seed": settings["seed"],
        "nthread": settings["threads"],
        "verbosity": 0,
    }


class _Watch(xgboost.callback.TrainingCallback):  # type: ignore[misc]
    """Keeps the curve, and passes it on after each round."""

    def __init__(self, on_round: Callable[[Curve], None]) -> None:
        self.curve: Curve = []
        self._on_round = on_round

    def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
        self.curve.append(float(evals_log[EVALUATED]["rmse"][-1]))
        self._on_round(self.curve)
        return False
