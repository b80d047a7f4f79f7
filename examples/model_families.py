"""Which model, and what it takes: a search space in two levels."""

import sys

import numpy as np
from hyperopt import STATUS_FAIL, STATUS_OK, Trials, hp, space_eval, tpe
from hyperopt.pyll import scope
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from search import fmin

X, y = load_breast_cancer(return_X_y=True)

search_space = hp.choice(
    "family",
    [
        {
            "type": "svm",
            "C": hp.lognormal("svm_C", 0, 1),
            "kernel": hp.choice(
                "svm_kernel",
                [{"name": "linear"}, {"name": "rbf", "gamma": hp.lognormal("svm_gamma", -3, 1)}],
            ),
        },
        {
            "type": "forest",
            "n_estimators": scope.int(hp.quniform("rf_trees", 10, 60, 10)),
            "max_depth": hp.choice("rf_depth", [None, 3, 6, 12]),
        },
        {"type": "logistic", "C": hp.lognormal("lr_C", 0, 1)},
    ],
)


def model(params):
    family = params.pop("type")
    if family == "svm":
        kernel = params["kernel"]
        gamma = kernel.get("gamma", "scale")
        return make_pipeline(
            StandardScaler(), SVC(C=params["C"], kernel=kernel["name"], gamma=gamma)
        )
    if family == "forest":
        return RandomForestClassifier(**params, random_state=0)
    return make_pipeline(StandardScaler(), LogisticRegression(**params, max_iter=200))


def objective(params):
    accuracy = cross_val_score(model(params), X, y, cv=3).mean()
    if accuracy < 0.7:
        return {"status": STATUS_FAIL}
    return {"loss": -accuracy, "status": STATUS_OK}


if __name__ == "__main__":
    best = fmin(
        objective,
        search_space,
        algo=tpe.suggest,
        max_evals=int(sys.argv[1]) if len(sys.argv) > 1 else 40,
        trials=Trials(),
        rstate=np.random.default_rng(1),
    )
    print(best)
    print(space_eval(search_space, best))
