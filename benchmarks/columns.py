"""What each lossless form of the matrix costs, over columns kept and depth.

``python -m benchmarks.columns --train-data X --valid-data Y --out columns.json`` measures, for each
point, the CPU seconds of one thread that the pruned and the bundled form take for the same model.
:data:`trainables.columns.PRUNED_SHARE` comes from it (docs/decisions/0003-lossless-columns.md).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import xgboost

from benchmarks.watch import machine
from search import trips
from trainables import columns
from trainables.dataset import Dataset

DEPTHS = (10, 30, 100)
MIN_CHILD_WEIGHTS = (0.5, 1.06, 2.5, 4.0, 6.0, 10.0, 18.0)
NOTES = {"learning_rate": 0.0959, "reg_alpha": 0.018, "reg_lambda": 0.0117}


def main() -> None:
    """Measure every point, print a line for each, write all to a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train-data", type=Path, nargs="+", required=True)
    parser.add_argument("--valid-data", type=Path, nargs="+", required=True)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("columns.json"))
    given = parser.parse_args()
    data = trips.prepare(trips.read(given.train_data), trips.read(given.valid_data)).dataset
    points = []
    for depth in DEPTHS:
        for least in MIN_CHILD_WEIGHTS:
            points.append(measured(data, depth, least, given.rounds))
            print(json.dumps(points[-1]), flush=True)
    given.out.write_text(json.dumps({**machine(), "rounds": given.rounds, "points": points}))


def measured(data: Dataset, depth: int, min_child_weight: float, rounds: int) -> dict[str, Any]:
    """Return the cost of both forms at one point."""
    kept = columns.splittable(data, min_child_weight)
    bundle = columns.bundled(data)
    assert bundle is not None, "the trips' zone pairs exclude each other"
    params = {**NOTES, "max_depth": depth, "min_child_weight": min_child_weight}
    pruned_s, pruned = cost(columns.pruned(data, kept), params, rounds)
    bundled_s, bundled = cost(bundle, params, rounds)
    return {
        "max_depth": depth,
        "min_child_weight": min_child_weight,
        "columns_kept": len(kept),
        "pruned_cpu_s": round(pruned_s, 2),
        "bundled_cpu_s": round(bundled_s, 2),
        "same_rmse": pruned == bundled,
    }


def cost(form: columns.Form, params: dict[str, Any], rounds: int) -> tuple[float, float]:
    """Return CPU seconds of the fit on one thread, and its last RMSE."""
    scores: dict[str, Any] = {}
    started = time.process_time()
    xgboost.train(
        {**params, **form.options, "nthread": 1, "tree_method": "hist", "seed": 42},
        form.train,
        num_boost_round=rounds,
        evals=[(form.valid, "valid")],
        evals_result=scores,
        verbose_eval=False,
    )
    return time.process_time() - started, float(scores["valid"]["rmse"][-1])


def table(points: list[dict[str, Any]]) -> str:
    """Return the points as the table that the decision shows."""
    lines = [
        "| depth | min_child_weight | columns kept | pruned, CPU s | bundled, CPU s |",
        "|---|---|---|---|---|",
    ]
    names = ("max_depth", "min_child_weight", "columns_kept", "pruned_cpu_s", "bundled_cpu_s")
    lines += [f"| {' | '.join(str(point[name]) for name in names)} |" for point in points]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
