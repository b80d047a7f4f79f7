"""Which share of a search is training.

``python -m benchmarks.utilisation --train-data X --valid-data Y --out utilisation.json`` runs
searches as a user would, on real months with the default rounds, and compares the CPU time of the
trials' processes with that of all cores while the trials ran.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.watch import machine, run_search


def main() -> None:
    """Measure, write the JSON, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train-data", type=Path, required=True)
    parser.add_argument("--valid-data", type=Path, required=True)
    parser.add_argument("--trials", type=int, nargs="+", default=[32, 100])
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path("utilisation.json"))
    given = parser.parse_args()
    rows = []
    for trials in given.trials:
        rows.append(measured(given.train_data, given.valid_data, trials, given.rounds))
        print(json.dumps(rows[-1]), flush=True)
    found = {**machine(), "rounds": given.rounds, "rows": rows}
    given.out.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))


def measured(train: Path, valid: Path, trials: int, rounds: int) -> dict[str, Any]:
    """Run one search; return its times and its result."""
    options = ["--num-samples", str(trials), "--set", f"num_boost_round={rounds}"]
    options += ["--train-data", str(train.absolute()), "--valid-data", str(valid.absolute())]
    with tempfile.TemporaryDirectory() as folder:
        report, usage = run_search(options, Path(folder), every_s=1.0)
        fits_s = _fits_s(f"sqlite:///{folder}/mlflow.db", report["experiment_id"])
    seconds = report["seconds"]
    core_seconds = (os.cpu_count() or 1) * seconds["search"]
    workers_cpu_s = usage.peak(lambda sample: sample.workers_cpu_s)
    return {
        "trials": report["trials"],
        "seconds": seconds,
        "trials_cpu_s": round(workers_cpu_s, 1),
        "fits_s": round(fits_s, 1),
        "slots_at_work": round(fits_s / core_seconds, 3),
        "utilisation": round(workers_cpu_s / core_seconds, 3),
        "worker_bytes": int(usage.peak(lambda sample: sample.worker_bytes)),
        "best_rmse": report["best"]["rmse"],
        "best_params": report["best"]["params"],
    }


def _fits_s(store: str, experiment_id: str) -> float:
    """Return the sum of the trials' seconds in their slots, from start to last round."""
    from mlflow import MlflowClient

    wanted = "tags.`search.role` = 'trial'"
    runs = MlflowClient(store).search_runs([experiment_id], wanted)
    return sum(float(run.data.metrics["fit_seconds"]) for run in runs)


def table(found: dict[str, Any]) -> str:
    """Return the table for the documents."""
    lines = [
        "| real trials | whole command, s | start-up | search | refit "
        "| workers' CPU, share of the cores | slots at work "
        "| a worker's own memory | best RMSE |",
        "|---" * 9 + "|",
    ]
    for row in found["rows"]:
        s = row["seconds"]
        parts = " | ".join(f"{s[part]:.0f}" for part in ("total", "start_up", "search", "refit"))
        shares = " | ".join(f"{100 * row[name]:.0f} %" for name in ("utilisation", "slots_at_work"))
        lines.append(
            f"| {row['trials']['total']} ({row['trials']['stopped']} stopped at rungs) | {parts} | "
            f"{shares} | {row['worker_bytes'] / 2**20:.0f} MiB | "
            f"{row['best_rmse']:.4f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
