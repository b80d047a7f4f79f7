"""The same points with other tools, each used as its documentation shows.

``python -m benchmarks.contestants WAY points.json ROUNDS train.parquet valid.parquet`` prints one
JSON object: the best RMSE and the number of fits.

- ``notes``: the objective that the notes give to ``fmin``, an MLflow run for each point.
- ``optuna``: a study of two jobs, an MLflow run for each trial.
- ``tune``: Ray Tune with ``HyperOptSearch`` and ``MLflowLoggerCallback``, a report each round.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

EXPERIMENT = "peers"
STORE = "sqlite:///mlflow.db"
Fit = Callable[..., float]


def main(way: str, points: Path, rounds: int, train: Path, valid: Path) -> None:
    """Run one tool; print the result."""
    scores = {"notes": notes, "optuna": with_optuna, "tune": with_tune}[way](
        json.loads(points.read_text()), rounds, *_rows(train, valid)
    )
    print(json.dumps({"rmse": min(scores), "fits": len(scores)}))


def _rows(train: Path, valid: Path) -> tuple[Any, Any]:
    """Return both months as the notes prepare them: one matrix each, by DictVectorizer."""
    from search.tasks.green_taxi import features, usable_trips

    dataset = features.prepare(usable_trips.read([train]), usable_trips.read([valid])).dataset
    return dataset.train, dataset.valid


def _fit(point: dict[str, Any], rounds: int, train: Any, valid: Any, **more: Any) -> float:
    """Fit as the notes do; return the lowest validation RMSE."""
    import xgboost

    scores: dict[str, Any] = {}
    xgboost.train(
        {**point, "objective": "reg:squarederror", "seed": 42, **more.pop("params", {})},
        train,
        num_boost_round=rounds,
        evals=[(valid, "validation")],
        early_stopping_rounds=50,
        evals_result=scores,
        verbose_eval=False,
        **more,
    )
    return float(min(scores["validation"]["rmse"]))


def _matrices(train: Any, valid: Any) -> tuple[Any, Any]:
    import xgboost

    return (
        xgboost.DMatrix(train.features, train.target),
        xgboost.DMatrix(valid.features, valid.target),
    )


def notes(points: list[dict[str, Any]], rounds: int, train: Any, valid: Any) -> list[float]:
    """Run the notes' loop: one fit after another, each on all cores.

    It does what ``fmin`` does for a point; ``fmin`` itself would draw its own points.
    """
    import mlflow

    mlflow.set_tracking_uri(STORE)
    mlflow.set_experiment(EXPERIMENT)
    matrices = _matrices(train, valid)

    def objective(params: dict[str, Any]) -> float:
        with mlflow.start_run():
            mlflow.set_tag("model", "xgboost")
            mlflow.log_params(params)
            rmse = _fit(params, rounds, *matrices)
            mlflow.log_metric("rmse", rmse)
        return rmse

    return [objective(point) for point in points]


def with_optuna(points: list[dict[str, Any]], rounds: int, train: Any, valid: Any) -> list[float]:
    """Run an Optuna study of two jobs, each fit on one core."""
    import optuna
    from mlflow import MlflowClient

    client = MlflowClient(STORE)
    experiment = client.create_experiment(EXPERIMENT)
    matrices = _matrices(train, valid)

    def objective(trial: Any) -> float:
        params = {
            "max_depth": trial.suggest_int("max_depth", 4, 100),
            "learning_rate": trial.suggest_float("learning_rate", 0.0498, 1, log=True),
            "reg_alpha": trial.suggest_float("reg_alpha", 0.0067, 0.3679, log=True),
            "reg_lambda": trial.suggest_float("reg_lambda", 0.0024, 0.3679, log=True),
            "min_child_weight": trial.suggest_float("min_child_weight", 0.3678, 20.0856, log=True),
        }
        run = client.create_run(experiment).info.run_id
        for name, value in params.items():
            client.log_param(run, name, value)
        score = _fit(params, rounds, *matrices, params={"nthread": 1})
        client.log_metric(run, "rmse", score)
        client.set_terminated(run)
        return score

    study = optuna.create_study()
    for point in points:
        study.enqueue_trial(point)
    study.optimize(objective, n_trials=len(points), n_jobs=2)
    return [trial.value for trial in study.trials if trial.value is not None]


def with_tune(points: list[dict[str, Any]], rounds: int, train: Any, valid: Any) -> list[float]:
    """Run Ray Tune as its documentation shows, each fit on one core."""
    import ray
    import xgboost
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback
    from ray.tune.search import ConcurrencyLimiter
    from ray.tune.search.hyperopt import HyperOptSearch

    from trainables.xgboost_ import XGBOOST

    def trainable(config: dict[str, Any], train: Any, valid: Any) -> None:
        class Report(xgboost.callback.TrainingCallback):  # type: ignore[misc]
            def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
                tune.report({"rmse": evals_log["validation"]["rmse"][-1]})
                return False

        params = {"params": {"nthread": 1}}
        _fit(config, rounds, *_matrices(train, valid), callbacks=[Report()], **params)

    ray.init("local", include_dashboard=False)
    search = HyperOptSearch(
        XGBOOST.search_space, metric="rmse", mode="min", points_to_evaluate=points
    )
    callback = MLflowLoggerCallback(tracking_uri=STORE, experiment_name=EXPERIMENT)
    results = tune.Tuner(
        tune.with_parameters(trainable, train=train, valid=valid),
        tune_config=tune.TuneConfig(
            search_alg=ConcurrencyLimiter(search, 2), num_samples=len(points)
        ),
        run_config=tune.RunConfig(
            storage_path=str(Path("results").absolute()), callbacks=[callback], verbose=0
        ),
    ).fit()
    return [float(result.metrics_dataframe["rmse"].min()) for result in results]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), Path(sys.argv[5]))
