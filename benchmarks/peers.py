"""The same points with this program, the notes' loop, Optuna and stock Ray Tune, one after another.

``python -m benchmarks.peers --train-data X --valid-data Y --out peers.json`` runs each in its own
process and folder, with a sqlite store. The others do not refit, so our seconds are given without
the refit, and also for the whole command. The others run each trial to its end, so our search that
does this too is compared with them.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.watch import machine, run_checked, run_search
from search.suggest.searcher import TPESearch
from search.suggest.space import Space
from search.values.metric import Metric
from trainables.xgboost_ import XGBOOST

WAYS = ("notes", "optuna", "tune")
OURS, HALVED = "ours", "ours, weak trials stopped"
NAMES = {"notes": "the notes' loop", "optuna": "Optuna, 2 jobs", "tune": "stock Ray Tune"}


def main() -> None:
    """Measure, write the JSON, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train-data", type=Path, required=True)
    parser.add_argument("--valid-data", type=Path, required=True)
    parser.add_argument("--points", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=list(WAYS))
    parser.add_argument("--out", type=Path, default=Path("peers.json"))
    given = parser.parse_args()
    files = [given.train_data.absolute(), given.valid_data.absolute()]
    found: dict[str, Any] = {**machine(), "points": given.points, "rounds": given.rounds}
    found["ways"] = {OURS: ours(files, given.points, given.rounds, "none")}
    found["ways"][HALVED] = ours(files, given.points, given.rounds, "asha")
    for way in given.ways:
        found["ways"][way] = peer(way, files, given.points, given.rounds)
    scores = {round(row["rmse"], 6) for way, row in found["ways"].items() if way != HALVED}
    found["same_rmse"] = len(scores) == 1
    given.out.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))


def first_points(count: int) -> list[dict[str, Any]]:
    """Return the first points that a search of the notes' space draws."""
    searcher = TPESearch(Space(XGBOOST.search_space), Metric("rmse", "minimize"), seed=42)
    configs = [searcher.suggest(str(number)) for number in range(count)]
    return [config["params"] for config in configs if config is not None]


def ours(files: list[Path], points: int, rounds: int, scheduler: str) -> dict[str, Any]:
    """Run the points with this program."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "points.json").write_text(json.dumps(first_points(points)))
        options = ["--num-samples", str(points), "--initial-points", "points.json"]
        options += ["--set", f"num_boost_round={rounds}", "--scheduler", scheduler]
        options += ["--train-data", str(files[0]), "--valid-data", str(files[1])]
        report, usage = run_search(options, Path(folder))
    seconds = report["seconds"]
    return {
        "seconds": usage.wall_s - seconds["refit"],
        "whole_command_s": usage.wall_s,
        "parts_s": seconds,
        "cpu_s": usage.cpu_s,
        "rmse": report["best"]["rmse"],
    }


def peer(way: str, files: list[Path], points: int, rounds: int) -> dict[str, Any]:
    """Run the points with another tool."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "points.json").write_text(json.dumps(first_points(points)))
        argv = [sys.executable, "-m", "benchmarks.contestants", way, "points.json", str(rounds)]
        usage = run_checked([*argv, *map(str, files)], Path(folder))
    report = json.loads(usage.stdout.strip().splitlines()[-1])
    return {
        "seconds": usage.wall_s,
        "whole_command_s": usage.wall_s,
        "cpu_s": usage.cpu_s,
        "rmse": report["rmse"],
    }


def table(found: dict[str, Any]) -> str:
    """Return the table for the documents."""
    ours_s = found["ways"][OURS]["seconds"]
    lines = [
        f"| {found['points']} points, {found['rounds']} rounds | seconds | times ours | CPU s | "
        "whole command, s | best RMSE |",
        "|---|---|---|---|---|---|",
    ]
    for way, row in found["ways"].items():
        lines.append(
            f"| {NAMES.get(way, way)} | {row['seconds']:.0f} | {row['seconds'] / ours_s:.1f} | "
            f"{row['cpu_s']:.0f} | {row['whole_command_s']:.0f} | {row['rmse']:.6f} |"
        )
    parts = {**found["ways"][OURS]["parts_s"]}
    rest_s = found["ways"][OURS]["whole_command_s"] - parts.pop("total")
    listed = ", ".join(f"{part.replace('_', '-')} {s:.1f} s" for part, s in parts.items())
    lines += ["", f"Ours in parts: {listed}, Python's own start and end {rest_s:.1f} s."]
    return "\n".join(lines)


def short_table(found: dict[str, Any]) -> str:
    """Return the table for the README."""
    ours_s = found["ways"][OURS]["seconds"]
    lines = [
        f"| {found['points']} points, {found['rounds']} rounds, tracked in MLflow | seconds | |",
        "|---|---|---|",
    ]
    for way, row in found["ways"].items():
        times = row["seconds"] / ours_s
        more = "" if way.startswith(OURS) else f"{times:.0f} times as long"
        lines.append(f"| {NAMES.get(way, way)} | {row['seconds']:.0f} | {more} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
