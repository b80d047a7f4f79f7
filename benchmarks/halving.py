"""What stopping weak trials at rungs saves and loses, and what TPE should be told of them.

``python -m benchmarks.halving --train-data X --valid-data Y --out halving.json`` runs whole
searches of the notes' space on real months, one trial at a time, over several seeds: without
rungs, then with several graces and reductions, then with other things said of a stopped trial.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.watch import machine
from search import trips
from search.searcher import TPESearch
from search.space import Space
from trainables.base import Curve
from trainables.dataset import Dataset
from trainables.xgboost_ import XGBOOST

SETTINGS = {"early_stopping_rounds": 50, "tree_method": "hist", "seed": 42, "threads": 1}


@dataclass(frozen=True)
class Policy:
    """When a trial is stopped, and what TPE is told of it then."""

    grace: int | None  # rounds before anything is judged; nothing: no trial is stopped
    reduction: int = 4
    told: str = "lowest"  # "lowest" RMSE so far, the "worst" there is, or the one "expected"

    def rungs(self, rounds: int) -> list[int]:
        """Return the rounds at which trials are judged."""
        found, rung = [], self.grace or rounds
        while rung < rounds:
            found.append(rung)
            rung *= self.reduction
        return found

    def __str__(self) -> str:
        if self.grace is None:
            return "every trial to its end"
        return f"from {self.grace} rounds, 1 in {self.reduction}, told the {self.told}"


POLICIES = (
    Policy(None),
    Policy(62, 4),
    Policy(20, 4),
    Policy(10, 4),
    Policy(10, 3),
    Policy(10, 2),
    Policy(5, 3),
    Policy(10, 4, "worst"),
    Policy(10, 4, "expected"),
)


class Stopped(Exception):
    """A rung was not passed."""


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train-data", type=Path, required=True)
    parser.add_argument("--valid-data", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--policies", type=int, nargs="*", default=list(range(len(POLICIES))))
    parser.add_argument("--out", type=Path, default=Path("halving.json"))
    given = parser.parse_args()
    months = trips.read([given.train_data]), trips.read([given.valid_data])
    data = trips.prepare(*months).dataset
    rows = []
    for policy in (POLICIES[each] for each in given.policies):
        for seed in range(given.seeds):
            rows.append(searched(data, policy, seed, given.trials, given.rounds))
            print(json.dumps(rows[-1]), flush=True)
            found = {**machine(), "trials": given.trials, "rounds": given.rounds, "rows": rows}
            given.out.write_text(json.dumps(found, indent=1) + "\n")
    print(table(rows))


def searched(data: Dataset, policy: Policy, seed: int, trials: int, rounds: int) -> dict[str, Any]:
    """Run one search; return what it cost and found."""
    searcher = TPESearch(Space(XGBOOST.search_space), seed=seed, score="rmse")
    rungs: dict[int, list[float]] = {rung: [] for rung in policy.rungs(rounds)}
    bests: list[float] = []
    spent = stopped = 0
    curves: list[Curve] = []  # of trials that came to their end
    started = time.process_time()
    for number in range(trials):
        config = searcher.suggest(str(number))
        assert config is not None, "the searcher never runs out"
        curve: Curve = []
        ended = True
        try:
            curve = _fitted(data, config["params"], rounds, rungs, policy, curve)
            curves.append(curve)
        except Stopped:
            ended = False
            stopped += 1
        spent += len(curve)
        lowest = min(curve)
        bests.append(min([lowest, *bests[-1:]]))
        said = lowest if ended else _told(policy.told, curve, curves)
        searcher.on_trial_complete(str(number), {"rmse": said})
    return {
        "policy": str(policy),
        "seed": seed,
        "rounds": spent,
        "stopped": stopped,
        "cpu_s": round(time.process_time() - started, 1),
        "best_after": {str(n): bests[n - 1] for n in (20, 40, trials) if n <= trials},
    }


def _fitted(
    data: Dataset,
    params: dict[str, Any],
    rounds: int,
    rungs: dict[int, list[float]],
    policy: Policy,
    curve: Curve,
) -> Curve:
    """Fit; ``rungs`` has the scores that came to each. ``curve`` is filled, also if it stops."""

    def at_round(so_far: Curve) -> None:
        curve[:] = so_far
        if (before := rungs.get(len(so_far))) is not None:
            lowest = min(so_far)
            # as ASHAScheduler has it: better than all but 1 in `reduction` of those before
            passes = not before or lowest <= np.percentile(before, 100 / policy.reduction)
            before.append(lowest)
            if not passes:
                raise Stopped

    return list(XGBOOST.train(params, data, {**SETTINGS, "num_boost_round": rounds}, at_round))


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


def table(rows: list[dict[str, Any]]) -> str:
    """Return the means over the seeds."""
    lines = ["| trials are stopped | CPU s | rounds | best RMSE |", "|---|---|---|---|"]
    for policy in dict.fromkeys(row["policy"] for row in rows):
        of = [row for row in rows if row["policy"] == policy]
        best = [min(row["best_after"].values()) for row in of]
        spread = f" ({', '.join(f'{each:.4f}' for each in best)})"
        lines.append(
            f"| {policy} | {statistics.mean(row['cpu_s'] for row in of):.0f} | "
            f"{statistics.mean(row['rounds'] for row in of):.0f} | "
            f"{statistics.mean(best):.4f}{spread} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
