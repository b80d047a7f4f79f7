"""What stopping weak trials at rungs saves and loses, and what TPE should be told of them.

``python -m benchmarks.halving --train-data X --valid-data Y --out halving.json`` runs whole
searches of the notes' space on real months, one trial at a time and each to its end, over several
seeds. What rungs would have done to them is replayed from their curves; then searches with the
program's own rungs are run, with several things said to TPE of a trial that was stopped.
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
from search import engine, trips
from search.searcher import TPESearch
from search.space import Space
from trainables.base import Curve
from trainables.dataset import Dataset
from trainables.xgboost_ import XGBOOST

SETTINGS = {"early_stopping_rounds": 50, "tree_method": "hist", "seed": 42, "threads": 1}


@dataclass(frozen=True)
class Rungs:
    """When a trial is stopped."""

    grace: int  # rounds before anything is judged
    reduction: int

    def among(self, rounds: int) -> dict[int, list[float]]:
        """Return the rounds at which trials are judged, and the scores that came there: none."""
        found, rung = {}, self.grace
        while rung < rounds:
            found[rung] = list[float]()
            rung *= self.reduction
        return found

    def stop(self, before: list[float], lowest: float) -> bool:
        """Tell whether a trial ends here, as ASHAScheduler has it; count it in."""
        stops = bool(before) and lowest > float(np.percentile(before, 100 / self.reduction))
        before.append(lowest)
        return stops

    def __str__(self) -> str:
        return f"from {self.grace} rounds on, all but 1 in {self.reduction}"


RUNGS = [Rungs(grace, reduction) for grace in (10, 31, 62, 125, 250) for reduction in (2, 3, 4)]
TOLD = ("lowest", "worst", "expected")


class Stopped(Exception):
    """A rung was not passed."""


def main() -> None:
    """Measure, print, write."""
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
        whole = [
            pool.submit(searched, None, "", s, given.trials, given.rounds) for s in given.seeds
        ]
        curves = [each.result() for each in whole]
        replayed = [
            {"rungs": str(rungs), **replay(of, rungs, given.rounds)}
            for rungs in RUNGS
            for of in curves
        ]
        ours = Rungs(engine.rungs(given.rounds)[0], engine.REDUCTION)
        live = [
            (told, pool.submit(searched, ours, told, seed, given.trials, given.rounds))
            for told in TOLD
            for seed in given.seeds
        ]
        told = [{"told": each, **summary(search.result())} for each, search in live]
    found = {**machine(), "trials": given.trials, "rounds": given.rounds, "ours": str(ours)}
    found |= {"whole": [summary(each) for each in curves], "replayed": replayed, "told": told}
    given.out.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found), told_table(found), sep="\n\n")


_DATA: list[Dataset] = []  # of this process


def _load(train: Path, valid: Path) -> None:
    _DATA.append(trips.prepare(trips.read([train]), trips.read([valid])).dataset)


def searched(rungs: Rungs | None, told: str, seed: int, trials: int, rounds: int) -> list[Curve]:
    """Run one search, with ``told`` said of what ``rungs`` stop; return the trials' curves."""
    searcher = TPESearch(Space(XGBOOST.search_space), seed=seed, score="rmse")
    judged = rungs.among(rounds) if rungs else {}
    curves: list[Curve] = []
    ended: list[Curve] = []
    for number in range(trials):
        config = searcher.suggest(str(number))
        assert config is not None, "the searcher never runs out"
        curve: Curve = []
        curves.append(curve)

        def at_round(so_far: Curve, curve: Curve = curve) -> None:
            curve.append(so_far[-1])
            before = judged.get(len(curve))
            if rungs and before is not None and rungs.stop(before, min(curve)):
                raise Stopped

        try:
            XGBOOST.train(
                config["params"], _DATA[0], {**SETTINGS, "num_boost_round": rounds}, at_round
            )
            ended.append(curve)
            score = min(curve)
        except Stopped:
            score = _told(told, curve, ended)
        searcher.on_trial_complete(str(number), {"rmse": score})
    return curves


def replay(curves: list[Curve], rungs: Rungs, rounds: int) -> dict[str, Any]:
    """Return what rungs would have left of a search whose trials all came to their end."""
    judged = rungs.among(rounds)
    left = []
    for curve in curves:
        stop = next(
            (
                rung
                for rung, before in judged.items()
                if len(curve) >= rung and rungs.stop(before, min(curve[:rung]))
            ),
            len(curve),
        )
        left.append(curve[:stop])
    return summary(left)


def summary(curves: list[Curve]) -> dict[str, Any]:
    """Return what a search cost and found."""
    return {"rounds": sum(map(len, curves)), "best": min(map(min, curves))}


def _told(what: str, curve: Curve, ended: list[Curve]) -> float:
    """Return what TPE is told of a trial that was stopped with this curve."""
    if what == "worst":
        return math.nan
    lowest = min(curve)
    if what == "expected":
        # by as much as those that went on bettered from there to their end, in the median
        gains = [min(each) / min(each[: len(curve)]) for each in ended if len(each) > len(curve)]
        return lowest * (statistics.median(gains) if gains else 1.0)
    return lowest


def table(found: dict[str, Any]) -> str:
    """Return what rungs save and lose, over the seeds."""
    whole = found["whole"]
    lines = [
        f"| {found['trials']} trials are stopped | rounds | saved | best RMSE, each seed | lost |",
        "|---|---|---|---|---|",
        _row("never", whole, whole),
    ]
    for rungs in dict.fromkeys(row["rungs"] for row in found["replayed"]):
        of = [row for row in found["replayed"] if row["rungs"] == rungs]
        lines.append(_row(rungs, of, whole))
    return "\n".join(lines)


def _row(name: str, rows: list[dict[str, Any]], whole: list[dict[str, Any]]) -> str:
    rounds, all_rounds = (sum(row["rounds"] for row in each) for each in (rows, whole))
    lost = statistics.mean(
        row["best"] - full["best"] for row, full in zip(rows, whole, strict=True)
    )
    bests = ", ".join(f"{row['best']:.4f}" for row in rows)
    saved = f"{100 * (1 - rounds / all_rounds):.0f} %"
    return f"| {name} | {rounds / len(rows):,.0f} | {saved} | {bests} | {lost:.4f} |"


def told_table(found: dict[str, Any]) -> str:
    """Return what searches found, by what TPE was told of stopped trials."""
    lines = [
        f"| TPE is told of a trial stopped {found['ours']} | rounds | best RMSE, each seed |",
        "|---|---|---|",
    ]
    names = {
        "lowest": "its lowest RMSE so far",
        "worst": "the worst there is",
        "expected": "its lowest RMSE x what others bettered from there on",
    }
    for told in TOLD:
        of = [row for row in found["told"] if row["told"] == told]
        bests = ", ".join(f"{row['best']:.4f}" for row in of)
        rounds = statistics.mean(row["rounds"] for row in of)
        lines.append(f"| {names[told]} | {rounds:,.0f} | {bests} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
