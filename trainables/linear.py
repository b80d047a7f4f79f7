"""The linear models of the notes, from scikit-learn."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainables.base import Curve, OnRound, Params, Setting, Settings, rmse
from trainables.dataset import Dataset


@dataclass(frozen=True)
class Linear:
    """One estimator of ``sklearn.linear_model``: one score, no rounds."""

    name: str
    estimator: str  # its class in sklearn.linear_model
    has_alpha: bool
    takes_seed: bool
    flavor: str = "sklearn"
    artifact: str = "models/model.bin"
    settings: dict[str, Setting] = field(default_factory=dict)

    @property
    def search_space(self) -> dict[str, Any]:
        """``alpha`` from 1e-5 to 10, each magnitude equally likely; empty if there is no alpha."""
        from hyperopt import hp

        if not self.has_alpha:
            return {}
        return {"alpha": hp.loguniform("alpha", np.log(1e-5), np.log(10))}

    def rounds(self, settings: Settings) -> None:
        """Return None: a linear model is fitted at once."""

    def train(self, params: Params, data: Dataset, settings: Settings, on_round: OnRound) -> Curve:
        """Fit, and score once."""
        model = self._fitted(params, data, settings)
        curve = [rmse(self.predict(model, data.valid.features), data.valid.target)]
        on_round(curve)
        return curve

    def refit(self, params: Params, data: Dataset, settings: Settings, rounds: int) -> bytes:
        """Fit again; the bytes are a pickle, as in the notes."""
        return pickle.dumps(self._fitted(params, data, settings))

    def load(self, model: bytes) -> Any:
        """Return the estimator, from bytes that :meth:`refit` made in this search and no others."""
        return pickle.loads(model)

    def predict(self, model: Any, features: Any) -> NDArray[np.float64]:
        """Return the estimator's predictions [rows]."""
        return np.asarray(model.predict(features), dtype=np.float64)

    def _fitted(self, params: Params, data: Dataset, settings: Settings) -> Any:
        from sklearn import linear_model

        options = dict(params)
        if self.takes_seed:
            options["random_state"] = settings["seed"]
        model = getattr(linear_model, self.estimator)(**options)
        return model.fit(data.train.features, data.train.target)


LASSO = Linear("lasso", "Lasso", has_alpha=True, takes_seed=True)
RIDGE = Linear("ridge", "Ridge", has_alpha=True, takes_seed=True)
LINEAR = Linear("linear", "LinearRegression", has_alpha=False, takes_seed=False)
