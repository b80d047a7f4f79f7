"""What a taxi search leaves: the booster or estimator, its DictVectorizer, and the served model."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import trainables
from search.tasks.green_taxi import served_model
from search.tasks.green_taxi.features import TaxiData
from search.tasks.green_taxi.trial import TaxiFit
from search.values.model import Judgement, Package, Served
from trainables.base import rmse

PREPROCESSOR = "preprocessor/preprocessor.bin"
SERVED_WITH = ("mlflow", "scikit-learn", "numpy", "scipy", "pandas")


@dataclass(frozen=True)
class TaxiRefit:
    """The best configuration fitted again on the training month."""

    trainable: str
    settings: dict[str, Any]
    data: TaxiData
    made_up: bool  # the trips are generated

    @property
    def flavor(self) -> str:
        """The trainable's flavour."""
        return trainables.get(self.trainable).flavor

    @property
    def fit(self) -> TaxiFit:
        """The fit, to run in a worker."""
        return TaxiFit(self.trainable, self.settings)

    @property
    def rows(self) -> pd.DataFrame:
        """The validation trips, as a user would send them."""
        return self.data.valid.frame

    def package(self, model: bytes) -> Package:
        """Return the model in its flavour and as a file, the preprocessor, and both in one."""
        trainable = trainables.get(self.trainable)
        return Package(
            flavor=trainable.flavor,
            model=trainable.load(model),
            files={
                trainable.artifact: model,
                PREPROCESSOR: pickle.dumps(self.data.vectorizer),
            },
            served=Served(
                name="raw-trips",
                code=served_model.__file__,
                files={"preprocessor": PREPROCESSOR},
                signature=served_model.signature(),
                input_example=served_model.input_example(),
                requirements=SERVED_WITH,
            ),
        )

    def judge(self, model: Any) -> Judgement:
        """Return the RMSE of a loaded model on the validation month, and on the test month."""
        trainable = trainables.get(self.trainable)
        predicted = trainable.predict(model, self.data.dataset.valid.features)
        test = self.data.test_rows
        tested = None if test is None else trainable.predict(model, test.features)
        return Judgement(
            predicted=predicted,
            score=self.score(predicted),
            test_score=None if test is None or tested is None else rmse(tested, test.target),
        )

    def score(self, predicted: NDArray[np.float64]) -> float:
        """Return the RMSE of predictions for the validation trips."""
        return rmse(predicted, self.data.valid.minutes)
