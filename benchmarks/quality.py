"""The best RMSE after n trials and after t seconds: ours, hyperopt's TPE, Optuna, random search.

``python -m benchmarks.quality --train-data X --valid-data Y --out quality.json`` runs one trial at
a time for several seeds, with few rounds on a part of the rows, so that there are enough seeds for
an interval. After n trials only the searchers are compared, so all use the same fits. After t
seconds each uses the fits that its user would have: ours are grown on codes, the others are those
of XGBoost on the whole matrix.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import xgboost
from scipy.stats import t

from benchmarks.watch import machine
from search.suggest.searcher import TPESearch
from search.suggest.space import Space
from search.tasks.green_taxi import features, usable_trips
from search.values.metric import Metric
from search.values.report import SCORE
from trainables import columns as forms
from trainables.dataset import Dataset, Rows
from trainables.xgboost_ import OBJECTIVE, XGBOOST

Score = Callable[[dict[str, Any]], float]
Search = Callable[[Score, int, int], list[float]]  # (score, trials, seed) -> scores
OURS = "ours"
AFTER = (10, 25, 50)  # trials
AFTER_S = (5, 10, 20)  # seconds


class TimeIsUp(BaseException):
    """Ends a search; no search catches it."""


def main() -> None:
    """Measure, write the JSON, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train-data", type=Path, required=True)
    parser.add_argument("--valid-data", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--timed-seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("quality.json"))
    given = parser.parse_args()
    prepared = features.prepare(
        usable_trips.read([given.train_data]), usable_trips.read([given.valid_data])
    )
    data = _first_rows(prepared.dataset, given.rows)
    settings = {"num_boost_round": given.rounds, "early_stopping_rounds": 50}
    settings |= {"tree_method": "hist", "seed": 42, "threads": 1}

    def lossless(point: dict[str, Any]) -> float:
        return min(XGBOOST.train(point, data, settings, lambda _: None))

    whole_matrix = forms.plain(data)

    def plain(point: dict[str, Any]) -> float:
        return _plain_rmse(point, whole_matrix, given.rounds)

    lossless({"max_depth": 4})  # compile the code, or load it, before anything is measured
    rows = []
    for name, search in WAYS.items():
        for seed in range(given.seeds):
            after = _after_trials(search, lossless, given.trials, seed)
            rows.append({"way": name, "seed": seed, "after": after})
            print(json.dumps(rows[-1]), flush=True)
    timed_rows = []
    for name, search in WAYS.items():
        fit = lossless if name == OURS else plain
        for seed in range(given.timed_seeds):
            after_s = _after_seconds(search, fit, seed)
            timed_rows.append({"way": name, "seed": seed, "after": after_s})
            print(json.dumps(timed_rows[-1]), flush=True)
    found = {**machine(), "rounds": given.rounds, "train_rows": given.rows}
    found |= {"rows": rows, "timed_rows": timed_rows}
    given.out.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))


def _after_trials(search: Search, fit: Score, trials: int, seed: int) -> dict[str, float]:
    """Return the best RMSE after each of :data:`AFTER` trials."""
    scores = search(fit, trials, seed)
    return {str(n): min(scores[:n]) for n in AFTER if n <= trials}


def _after_seconds(search: Search, fit: Score, seed: int) -> dict[str, float | None]:
    """Return the best RMSE after each of :data:`AFTER_S` seconds; None if there is none yet."""
    done: list[tuple[float, float]] = []  # seconds, RMSE
    started = time.perf_counter()

    def timed(point: dict[str, Any]) -> float:
        if time.perf_counter() - started > AFTER_S[-1]:
            raise TimeIsUp
        rmse = fit(point)
        done.append((time.perf_counter() - started, rmse))
        return rmse

    with contextlib.suppress(TimeIsUp):
        search(timed, 100_000, seed)
    return {str(s): min((rmse for at, rmse in done if at <= s), default=None) for s in AFTER_S}


def _plain_rmse(point: dict[str, Any], form: forms.Form, rounds: int) -> float:
    scores: dict[str, Any] = {}
    xgboost.train(
        {**point, "objective": OBJECTIVE, "tree_method": "hist", "seed": 42, "nthread": 1},
        form.train,
        num_boost_round=rounds,
        evals=[(form.valid, "valid")],
        evals_result=scores,
        verbose_eval=False,
    )
    return float(min(scores["valid"]["rmse"]))


def _first_rows(data: Dataset, rows: int) -> Dataset:
    def first(each: Rows) -> Rows:
        return Rows(each.features[:rows], each.target[:rows])

    return Dataset(first(data.train), first(data.valid), "part")


def ours(score: Score, trials: int, seed: int) -> list[float]:
    """Run our searcher."""
    searcher = TPESearch(Space(XGBOOST.search_space), Metric("rmse", "minimize"), seed=seed)
    found = []
    for number in range(trials):
        config = searcher.suggest(str(number))
        assert config is not None, "the searcher never runs out"
        found.append(score(config["params"]))
        searcher.on_trial_complete(str(number), {SCORE: found[-1]})
    return found


def hyperopts(algorithm: str) -> Search:
    """Return a search by hyperopt's ``fmin``."""

    def run(score: Score, trials: int, seed: int) -> list[float]:
        import numpy as np
        from hyperopt import Trials, fmin, rand, tpe

        found: list[float] = []

        def objective(point: dict[str, Any]) -> float:
            found.append(score({**point, "max_depth": int(point["max_depth"])}))
            return found[-1]

        fmin(
            objective,
            XGBOOST.search_space,
            algo={"tpe": tpe, "rand": rand}[algorithm].suggest,
            max_evals=trials,
            trials=Trials(),
            rstate=np.random.default_rng(seed),
            show_progressbar=False,
        )
        return found

    return run


def optunas(score: Score, trials: int, seed: int) -> list[float]:
    """Run Optuna's default sampler."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def objective(trial: Any) -> float:
        def log(name: str, low: float, high: float) -> float:
            return float(trial.suggest_float(name, math.exp(low), math.exp(high), log=True))

        return score(
            {
                "max_depth": trial.suggest_int("max_depth", 4, 100),
                "learning_rate": log("learning_rate", -3, 0),
                "reg_alpha": log("reg_alpha", -5, -1),
                "reg_lambda": log("reg_lambda", -6, -1),
                "min_child_weight": log("min_child_weight", -1, 3),
            }
        )

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    study.optimize(objective, n_trials=trials)
    return [float(trial.value) for trial in study.trials if trial.value is not None]


WAYS: dict[str, Search] = {
    OURS: ours,
    "hyperopt's TPE": hyperopts("tpe"),
    "Optuna": optunas,
    "random": hyperopts("rand"),
}


def table(found: dict[str, Any]) -> str:
    """Return the table of means over the seeds, with the half width of the 95 % interval."""
    columns = [(f"{n} trials", "rows", str(n)) for n in AFTER]
    if found["timed_rows"]:
        columns += [(f"{s} s", "timed_rows", str(s)) for s in AFTER_S]
    heads = " | ".join(head for head, _, _ in columns)
    lines = [f"| best RMSE after | {heads} |", "|---" * (1 + len(columns)) + "|"]
    for way in WAYS:
        cells = [_cell(found[rows], way, after) for _, rows, after in columns]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(rows: list[dict[str, Any]], way: str, after: str) -> str:
    of_all = [row["after"].get(after) for row in rows if row["way"] == way]
    bests = [best for best in of_all if best is not None]
    if not bests:
        return "none yet"
    if len(bests) < len(of_all):
        return f"{statistics.mean(bests):.3f} ({len(bests)} of {len(of_all)} have one)"
    width = float(t.ppf(0.975, len(bests) - 1)) if len(bests) > 1 else math.nan
    half = width * statistics.stdev(bests) / len(bests) ** 0.5 if len(bests) > 1 else math.nan
    return f"{statistics.mean(bests):.3f} ± {half:.3f}"


if __name__ == "__main__":
    main()
