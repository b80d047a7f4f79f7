"""A random forest on the taxi months, as a course on MLOps teaches it."""

import argparse
import os

import mlflow
import numpy as np
import pandas as pd
from hyperopt import STATUS_OK, Trials, hp, tpe
from hyperopt.pyll import scope
from sklearn.ensemble import RandomForestRegressor
from sklearn.feature_extraction import DictVectorizer
from sklearn.metrics import root_mean_squared_error

from search import fmin


def read_dataframe(filename, rows):
    df = pd.read_parquet(filename)
    df["duration"] = df.lpep_dropoff_datetime - df.lpep_pickup_datetime
    df.duration = df.duration.apply(lambda td: td.total_seconds() / 60)
    df = df[(df.duration >= 1) & (df.duration <= 60)].head(rows)
    categorical = ["PULocationID", "DOLocationID"]
    df[categorical] = df[categorical].astype(str)
    df["PU_DO"] = df["PULocationID"] + "_" + df["DOLocationID"]
    return df


def prepare(df, dv, fit_dv=False):
    dicts = df[["PU_DO", "trip_distance"]].to_dict(orient="records")
    return (dv.fit_transform(dicts) if fit_dv else dv.transform(dicts)), df["duration"].values


def run(data_path, num_trials, rows):
    mlflow.set_tracking_uri("sqlite:///mlflow.db")
    mlflow.set_experiment("random-forest-hyperopt")
    dv = DictVectorizer()
    january = read_dataframe(os.path.join(data_path, "green_tripdata_2021-01.parquet"), rows)
    february = read_dataframe(os.path.join(data_path, "green_tripdata_2021-02.parquet"), rows)
    X_train, y_train = prepare(january, dv, fit_dv=True)
    X_val, y_val = prepare(february, dv)

    def objective(params):
        with mlflow.start_run(nested=True):
            mlflow.log_params(params)
            rf = RandomForestRegressor(**params, n_jobs=-1)
            rf.fit(X_train, y_train)
            rmse = root_mean_squared_error(y_val, rf.predict(X_val))
            mlflow.log_metric("rmse", rmse)
        return {"loss": rmse, "status": STATUS_OK}

    search_space = {
        "max_depth": scope.int(hp.quniform("max_depth", 1, 20, 1)),
        "n_estimators": scope.int(hp.quniform("n_estimators", 10, 50, 1)),
        "min_samples_split": scope.int(hp.quniform("min_samples_split", 2, 10, 1)),
        "min_samples_leaf": scope.int(hp.quniform("min_samples_leaf", 1, 4, 1)),
        "random_state": 42,
    }
    return fmin(
        fn=objective,
        space=search_space,
        algo=tpe.suggest,
        max_evals=num_trials,
        trials=Trials(),
        rstate=np.random.default_rng(42),  # for reproducible results
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-path", default="./data")
    parser.add_argument("--num-trials", type=int, default=15)
    parser.add_argument("--rows", type=int, default=None, help="of each month (default: all)")
    given = parser.parse_args()
    print(run(given.data_path, given.num_trials, given.rows))
