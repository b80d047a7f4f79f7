"""XGBoost with cross-validation: a space with options that the model does not take as they are."""

import sys

import numpy as np
import xgboost as xgb
from hyperopt import STATUS_OK, Trials, hp, tpe
from sklearn.datasets import load_diabetes

from search import fmin

X, y = load_diabetes(return_X_y=True)
dtrain = xgb.DMatrix(X, y)

search_space = {
    "max_depth": hp.choice("max_depth", np.arange(2, 9, dtype=int)),
    "learning_rate": hp.loguniform("learning_rate", -3, 0),
    "min_child_weight": hp.loguniform("min_child_weight", -1, 3),
    "n_estimators": hp.choice("n_estimators", range(20, 60, 10)),
    "objective": "reg:squarederror",
    "seed": 42,
}


def objective(params):
    rounds = int(params["n_estimators"])
    del params["n_estimators"]
    params["max_depth"] = int(params["max_depth"])
    scores = xgb.cv(params, dtrain, num_boost_round=rounds, nfold=3, seed=42)
    best = scores["test-rmse-mean"].min()
    return {"loss": best, "status": STATUS_OK, "std": scores["test-rmse-std"].iloc[-1]}


if __name__ == "__main__":
    trials = Trials()
    best = fmin(
        objective,
        search_space,
        algo=tpe.suggest,
        max_evals=int(sys.argv[1]) if len(sys.argv) > 1 else 25,
        trials=trials,
        rstate=np.random.default_rng(7),
    )
    print(best, trials.best_trial["result"])
