"""The same points through this program, the notes' loop, Optuna and stock Ray Tune, in turn.

``python -m benchmarks.peers --train-data X --valid-data Y --out peers.json``. Each runs alone, in a
process and a folder of its own, with a sqlite store. A peer does not refit, so our seconds are
given without the refit, and the whole command's beside them. Peers run each trial to its end: what
is compared with them is our search that does so, too.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.watch import machine, searched, succeeded
from search.searcher import TPESearch
from search.space import Space
from trainables.xgboost_ import XGBOOST

WAYS = ("notes", "optuna", "tune")
OURS, HALVED = "ours", "ours, weak trials stopped"
NAMES = {"notes": "the notes' loop", "optuna": "Optuna, 2 jobs", "tune": "stock Ray Tune"}


def main() -> None:
    """Measure, print, write."""
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
    same = {round(said["rmse"], 6) for way, said in found["ways"].items() if way != HALVED}
    found["same_rmse"] = len(same) == 1
    given.out.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))


def drawn(count: int) -> list[dict[str, Any]]:
    """Return the first points that a search of the notes' space draws."""
    searcher = TPESearch(Space(XGBOOST.search_space), seed=42, score="rmse")
    configs = [searcher.suggest(str(number)) for number in range(count)]
    return [config["params"] for config in configs if config is not None]


def ours(files: list[Path], points: int, rounds: int, scheduler: str) -> dict[str, Any]:
    """Run the points through this program."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "points.json").write_text(json.dumps(drawn(points)))
        options = ["--num-samples", str(points), "--initial-points", "points.json"]
        options += ["--set", f"num_boost_round={rounds}", "--scheduler", scheduler]
        options += ["--train-data", str(files[0]), "--valid-data", str(files[1])]
        report, seen = searched(options, Path(folder))
    seconds = report["seconds"]
    return {
        "seconds": seen.wall_s - seconds["refit"],
        "whole_command_s": seen.wall_s,
        "parts_s": seconds,
        "cpu_s": seen.cpu_s,
        "rmse": report["best"]["rmse"],
    }


def peer(way: str, files: list[Path], points: int, rounds: int) -> dict[str, Any]:
    """Run the points through another way."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "points.json").write_text(json.dumps(drawn(points)))
        argv = [sys.executable, "-m", "benchmarks.contestants", way, "points.json", str(rounds)]
        seen = succeeded([*argv, *map(str, files)], Path(folder))
    report = json.loads(seen.stdout.strip().splitlines()[-1])
    return {
        "seconds": seen.wall_s,
        "whole_command_s": seen.wall_s,
        "cpu_s": seen.cpu_s,
        "rmse": report["rmse"],
    }


def table(found: dict[str, Any]) -> str:
    """Return the figures as the documents show them."""
    ours_s = found["ways"][OURS]["seconds"]
    lines = [
        f"| {found['points']} points, {found['rounds']} rounds | seconds | times ours | CPU s | "
        "whole command, s | best RMSE |",
        "|---|---|---|---|---|---|",
    ]
    for way, said in found["ways"].items():
        lines.append(
            f"| {NAMES.get(way, way)} | {said['seconds']:.0f} | {said['seconds'] / ours_s:.1f} | "
            f"{said['cpu_s']:.0f} | {said['whole_command_s']:.0f} | {said['rmse']:.6f} |"
        )
    parts = {**found["ways"][OURS]["parts_s"]}
    around = found["ways"][OURS]["whole_command_s"] - parts.pop("total")
    told = ", ".join(f"{part.replace('_', '-')} {s:.1f} s" for part, s in parts.items())
    lines += ["", f"Ours in parts: {told}, Python's own start and end {around:.1f} s."]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
