"""What stopping weak trials at rungs saves and loses, and which score TPE should get for them.

``python -m benchmarks.halving --train-data X --valid-data Y --out halving.json`` runs searches of
the notes' space on real months for several seeds, one trial at a time and each to its end. The
effect of rungs is computed from their curves. Then searches with the program's own rungs are run,
with different scores reported to TPE for a stopped trial.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.watch import machine
from search.execute import halving
from search.suggest.searcher import TPESearch
from search.suggest.space import Space
from search.tasks.green_taxi import features, usable_trips
from search.values.metric import Metric
from search.values.report import SCORE
from trainables.base import Curve
from trainables.dataset import Dataset
from trainables.xgboost_ import XGBOOST

SETTINGS = {"early_stopping_rounds": 50, "tree_method": "hist", "seed": 42, "threads": 1}


@dataclass(frozen=True)
class Rungs:
    """When a trial is stopped."""

    grace: int  # rounds before the first rung
    reduction: int

    def scores(self, rounds: int) -> dict[int, list[float]]:
        """Return an empty list of scores for each rung."""
        found, rung = {}, self.grace
        while rung < rounds:
            found[rung] = list[float]()
            rung *= self.reduction
        return found

    def stop(self, scores: list[float], lowest: float) -> bool:
        """Tell whether ASHAScheduler would stop a trial at this rung; add its score."""
        stops = bool(scores) and lowest > float(np.percentile(scores, 100 / self.reduction))
        scores.append(lowest)
        return stops

    def __str__(self) -> str:
        return f"from {self.grace} rounds on, all but 1 in {self.reduction}"


RUNGS = [Rungs(grace, reduction) for grace in (10, 31, 62, 125, 250) for reduction in (2, 3, 4)]
# the score that TPE gets for a stopped trial
REPORTED = ("lowest", "worst", "expected")


class Stopped(Exception):
    """The trial is stopped at a rung."""


def main() -> None:
    """Measure, write the JSON, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train-data", type=Path, required=True)
    parser.add_argument("--valid-data", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 0])
    parser.add_argument("--out", type=Path, default=Path("halving.json"))
    given = parser.parse_args()
    load = partial(_load, given.train_data, given.valid_data)
    with ProcessPoolExecutor(initializer=load) as pool:
        size = Size(given.trials, given.rounds)
        futures = [pool.submit(run_search, size, seed) for seed in given.seeds]
        searches = [future.result() for future in futures]
        replayed = [
            {"rungs": str(rungs), **replay(curves, rungs, given.rounds)}
            for rungs in RUNGS
            for curves in searches
        ]
        ours = Rungs(halving.rungs(given.rounds)[0], halving.REDUCTION)
        with_rungs = [
            (reported, pool.submit(run_search, size, seed, ours, reported))
            for reported in REPORTED
            for seed in given.seeds
        ]
        told = [{"told": name, **summary(future.result())} for name, future in with_rungs]
    found = {**machine(), "trials": given.trials, "rounds": given.rounds, "ours": str(ours)}
    found |= {"whole": [summary(each) for each in searches], "replayed": replayed, "told": told}
    given.out.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found), reported_table(found), sep="\n\n")


_DATA: list[Dataset] = []  # of this process


def _load(train: Path, valid: Path) -> None:
    _DATA.append(features.prepare(usable_trips.read([train]), usable_trips.read([valid])).dataset)


@dataclass(frozen=True)
class Size:
    """The size of a search."""

    trials: int
    rounds: int


def run_search(
    size: Size, seed: int, rungs: Rungs | None = None, reported: str = ""
) -> list[Curve]:
    """Run one search, maybe with rungs; return the trials' curves.

    ``reported``: one of :data:`REPORTED`, the score that TPE gets for a stopped trial.
    """
    searcher = TPESearch(Space(XGBOOST.search_space), Metric("rmse", "minimize"), seed=seed)
    settings = {**SETTINGS, "num_boost_round": size.rounds}
    scores_at = rungs.scores(size.rounds) if rungs else {}
    curves: list[Curve] = []
    ended: list[Curve] = []
    for number in range(size.trials):
        config = searcher.suggest(str(number))
        assert config is not None, "the searcher never runs out"
        curve: Curve = []
        curves.append(curve)

        def at_round(so_far: Curve, curve: Curve = curve) -> None:
            curve.append(so_far[-1])
            scores = scores_at.get(len(curve))
            if rungs and scores is not None and rungs.stop(scores, min(curve)):
                raise Stopped

        try:
            XGBOOST.train(config["params"], _DATA[0], settings, at_round)
            ended.append(curve)
            score = min(curve)
        except Stopped:
            score = _reported_score(reported, curve, ended)
        searcher.on_trial_complete(str(number), {SCORE: score})
    return curves


def replay(curves: list[Curve], rungs: Rungs, rounds: int) -> dict[str, Any]:
    """Return rounds and best score of a search without rungs, as if it had had these rungs."""
    scores_at = rungs.scores(rounds)
    shortened = []
    for curve in curves:
        stop = next(
            (
                rung
                for rung, scores in scores_at.items()
                if len(curve) >= rung and rungs.stop(scores, min(curve[:rung]))
            ),
            len(curve),
        )
        shortened.append(curve[:stop])
    return summary(shortened)


def summary(curves: list[Curve]) -> dict[str, Any]:
    """Return the rounds of a search, and its best score."""
    return {"rounds": sum(map(len, curves)), "best": min(map(min, curves))}


def _reported_score(reported: str, curve: Curve, ended: list[Curve]) -> float:
    """Return the score that TPE gets for a trial that was stopped with this curve."""
    if reported == "worst":
        return math.nan
    lowest = min(curve)
    if reported == "expected":
        # improved by the median factor of the trials that continued from this round to their end
        gains = [min(each) / min(each[: len(curve)]) for each in ended if len(each) > len(curve)]
        return lowest * (statistics.median(gains) if gains else 1.0)
    return lowest


def table(found: dict[str, Any]) -> str:
    """Return the table of what rungs save and lose, over the seeds."""
    whole = found["whole"]
    lines = [
        f"| {found['trials']} trials are stopped | rounds | saved | best RMSE, each seed | lost |",
        "|---|---|---|---|---|",
        _row("never", whole, whole),
    ]
    for rungs in dict.fromkeys(row["rungs"] for row in found["replayed"]):
        rows = [row for row in found["replayed"] if row["rungs"] == rungs]
        lines.append(_row(rungs, rows, whole))
    return "\n".join(lines)


def _row(name: str, rows: list[dict[str, Any]], whole: list[dict[str, Any]]) -> str:
    rounds, all_rounds = (sum(row["rounds"] for row in each) for each in (rows, whole))
    lost = statistics.mean(
        row["best"] - full["best"] for row, full in zip(rows, whole, strict=True)
    )
    bests = ", ".join(f"{row['best']:.4f}" for row in rows)
    saved = f"{100 * (1 - rounds / all_rounds):.0f} %"
    return f"| {name} | {rounds / len(rows):,.0f} | {saved} | {bests} | {lost:.4f} |"


def reported_table(found: dict[str, Any]) -> str:
    """Return the table of results by the score that TPE gets for stopped trials."""
    lines = [
        f"| TPE is told of a trial stopped {found['ours']} | rounds | best RMSE, each seed |",
        "|---|---|---|",
    ]
    names = {
        "lowest": "its lowest RMSE so far",
        "worst": "the worst there is",
        "expected": "its lowest RMSE x what others bettered from there on",
    }
    for reported in REPORTED:
        rows = [row for row in found["told"] if row["told"] == reported]
        bests = ", ".join(f"{row['best']:.4f}" for row in rows)
        rounds = statistics.mean(row["rounds"] for row in rows)
        lines.append(f"| {names[reported]} | {rounds:,.0f} | {bests} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
