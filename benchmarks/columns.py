"""CPU time of three ways to fit the same XGBoost model, and of the tree methods `hist` and `exact`.

``python -m benchmarks.columns --train-data X --valid-data Y --out columns.json`` measures, for each
point of a grid over depth and `min_child_weight`, the CPU seconds of one thread for the same model:
grown on codes, on pruned columns, and on bundled columns
(:data:`trainables.columns.PRUNED_SHARE` comes from it); then the first points of a search by `hist`
and by `exact`. docs/decisions/0003-lossless-columns.md has both tables.
"""

from __future__ import annotations

import argparse
import json
import pickle
import statistics
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import xgboost

from benchmarks.peers import first_points
from benchmarks.watch import machine
from search.tasks.green_taxi import features, usable_trips
from trainables import columns, trees
from trainables.dataset import Dataset
from trainables.xgboost_ import OBJECTIVE, XGBOOST

DEPTHS = (10, 30, 100)
MIN_CHILD_WEIGHTS = (0.5, 1.06, 2.5, 4.0, 6.0, 10.0, 18.0)
NOTES = {"learning_rate": 0.0959, "reg_alpha": 0.018, "reg_lambda": 0.0117}
METHODS = ("hist", "exact")


def main() -> None:
    """Measure every point, print a line for each, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train-data", type=Path, nargs="+", required=True)
    parser.add_argument("--valid-data", type=Path, nargs="+", required=True)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--searched", type=int, default=24, help="points of a search")
    parser.add_argument("--searched-rounds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("columns.json"))
    given = parser.parse_args()
    train, valid = usable_trips.read(given.train_data), usable_trips.read(given.valid_data)
    data = features.prepare(train, valid).dataset
    _grown(data, NOTES, 1)  # compile the code, or load it, before anything is measured
    points = []
    for depth in DEPTHS:
        for least in MIN_CHILD_WEIGHTS:
            points.append(measured(data, depth, least, given.rounds))
            print(json.dumps(points[-1]), flush=True)
    methods = {
        method: by_method(data, method, given.searched, given.searched_rounds) for method in METHODS
    }
    print(json.dumps(methods), flush=True)
    found = {**machine(), "rounds": given.rounds, "points": points}
    found |= {"kept_bytes": kept_bytes(data)}
    found |= {"searched": given.searched, "searched_rounds": given.searched_rounds}
    given.out.write_text(json.dumps({**found, "methods": methods}, indent=1) + "\n")


def measured(data: Dataset, depth: int, min_child_weight: float, rounds: int) -> dict[str, Any]:
    """Return the CPU time of the three ways at one point."""
    splittable = columns.splittable(data, min_child_weight)
    bundle = columns.bundled(data)
    assert bundle is not None, "the trips' zone pairs exclude each other"
    params = {**NOTES, "max_depth": depth, "min_child_weight": min_child_weight}
    ways = {
        "grown": _cpu(lambda: _grown(data, params, rounds)),
        "pruned": _cpu(lambda: _fitted(columns.pruned(data, splittable), params, rounds)),
        "bundled": _cpu(lambda: _fitted(bundle, params, rounds)),
    }
    scores = [rmse for _, rmse in ways.values()]
    return {
        "max_depth": depth,
        "min_child_weight": min_child_weight,
        "columns_kept": len(splittable),
        **{f"{way}_cpu_s": round(seconds, 3) for way, (seconds, _) in ways.items()},
        # XGBoost returns its scores as text, so the last digits may differ
        "same_rmse": max(scores) - min(scores) <= 1e-12,
    }


def by_method(data: Dataset, method: str, points: int, rounds: int) -> dict[str, float]:
    """Return CPU time and scores of the first points of a search by one tree method."""
    settings: dict[str, Any] = {"num_boost_round": rounds, "early_stopping_rounds": 50}
    settings |= {"tree_method": method, "seed": 42, "threads": 1}
    fits = []
    for point in first_points(points):
        fit = partial(XGBOOST.train, point, data, settings, lambda _: None)
        fits.append(_cpu(lambda fit=fit: min(fit())))  # type: ignore[misc]
    return {
        "cpu_s": sum(seconds for seconds, _ in fits),
        "best_rmse": min(rmse for _, rmse in fits),
        "mean_rmse": statistics.mean(rmse for _, rmse in fits),
    }


def kept_bytes(data: Dataset) -> dict[str, int]:
    """Return the sizes of what a worker keeps from one trial to the next."""
    coded = trees.coded(data)
    parts = [] if coded is None else [*vars(coded.train).values(), *vars(coded.valid).values()]
    matrices = sum(
        each.nbytes
        for rows in (data.train, data.valid)
        for each in (rows.features.data, rows.features.indices, rows.features.indptr, rows.target)
    )
    return {
        "codes and bins, each worker's own": sum(each.nbytes for each in parts),
        "the matrices, shared by a node's workers": matrices,
        "the matrices as they travel to a node": len(pickle.dumps(data)),
    }


def _cpu(fit: Callable[[], float]) -> tuple[float, float]:
    """Return the CPU seconds of a fit in this process, and its RMSE."""
    started = time.process_time()
    rmse = fit()
    return time.process_time() - started, rmse


def _grown(data: Dataset, params: dict[str, Any], rounds: int) -> float:
    coded = data.derived("coded", lambda: trees.coded(data))
    assert coded is not None, "the trips' zone pairs exclude each other"
    return [score for score, _ in islice(trees.boosted(params, coded), rounds)][-1]


def _fitted(form: columns.Form, params: dict[str, Any], rounds: int) -> float:
    scores: dict[str, Any] = {}
    xgboost.train(
        {**params, **form.options, "objective": OBJECTIVE, "nthread": 1, "tree_method": "hist"},
        form.train,
        num_boost_round=rounds,
        evals=[(form.valid, "valid")],
        evals_result=scores,
        verbose_eval=False,
    )
    return float(scores["valid"]["rmse"][-1])


def table(points: list[dict[str, Any]]) -> str:
    """Return the table of the grid for the decision."""
    ways = ("grown", "pruned", "bundled")
    names = ["max_depth", "min_child_weight", "columns_kept", *(f"{way}_cpu_s" for way in ways)]
    heads = ["depth", "min_child_weight", "columns kept", *(f"{way}, CPU s" for way in ways)]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    lines += [f"| {' | '.join(str(point[name]) for name in names)} |" for point in points]
    return "\n".join(lines) + "\n"


def methods_table(found: dict[str, Any]) -> str:
    """Return the table of the tree methods for the decision."""
    head = f"{found['searched']} points, {found['searched_rounds']} rounds"
    lines = [f"| {head} | CPU s | best RMSE | mean RMSE |", "|---|---|---|---|"]
    lines += [
        f"| `{method}` | {row['cpu_s']:.1f} | {row['best_rmse']:.4f} | {row['mean_rmse']:.4f} |"
        for method, row in found["methods"].items()
    ]
    return "\n".join(lines) + "\n"


def kept_table(found: dict[str, Any]) -> str:
    """Return the table of what stays in memory between trials, for the decision."""
    rows = [f"| {what} | {size / 2**20:.1f} MiB |" for what, size in found["kept_bytes"].items()]
    return "\n".join(["| kept between trials | |", "|---|---|", *rows]) + "\n"


if __name__ == "__main__":
    main()
