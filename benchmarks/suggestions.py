"""What the next point costs as the history grows: ours, and hyperopt's own ``tpe.suggest``.

``python -m benchmarks.suggestions --out suggestions.json``. The notes' space, losses drawn at
random; the two suggest the same points (tests/search/test_tpe.py).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.watch import machine
from search.searcher import TPESearch
from search.space import Space
from trainables.xgboost_ import XGBOOST

TIMED = 20  # suggestions before each point of the history that is looked at


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--after", type=int, nargs="+", default=[100, 1000, 3000])
    parser.add_argument("--out", type=Path, default=Path("suggestions.json"))
    given = parser.parse_args()
    found: dict[str, Any] = {**machine(), "after": given.after}
    found["ms"] = {"ours": ours(given.after), "hyperopt": hyperopts(given.after)}
    given.out.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))


def ours(after: list[int]) -> list[float]:
    """Return the median milliseconds of our suggestions up to each of these numbers of trials."""
    searcher = TPESearch(Space(XGBOOST.search_space), seed=42, score="rmse")
    losses = np.random.default_rng(42).random(max(after))
    took = []
    for number, loss in enumerate(losses):
        started = time.perf_counter()
        searcher.suggest(str(number))
        took.append(1000 * (time.perf_counter() - started))
        searcher.on_trial_complete(str(number), {"rmse": float(loss)})
    return [statistics.median(took[count - TIMED : count]) for count in after]


def hyperopts(after: list[int]) -> list[float]:
    """Return those of hyperopt's own."""
    from hyperopt import JOB_STATE_DONE, STATUS_OK, Domain, Trials, rand, tpe

    domain = Domain(lambda point: point, XGBOOST.search_space)
    losses = np.random.default_rng(42).random(max(after))
    trials, medians = Trials(), []
    for number, loss in enumerate(losses):
        (document,) = rand.suggest([number], domain, trials, number)
        document |= {"state": JOB_STATE_DONE, "result": {"loss": float(loss), "status": STATUS_OK}}
        trials.insert_trial_doc(document)
        if number + 1 in after:
            trials.refresh()
            took = []
            for seed in range(TIMED):
                started = time.perf_counter()
                tpe.suggest([number + 1], domain, trials, seed)
                took.append(1000 * (time.perf_counter() - started))
            medians.append(statistics.median(took))
    return medians


def table(found: dict[str, Any]) -> str:
    """Return the figures as the documents show them."""
    lines = [
        "| a suggestion after | " + " | ".join(f"{n:,} trials" for n in found["after"]) + " |",
        "|---" * (1 + len(found["after"])) + "|",
    ]
    for way, name in (("ours", "ours"), ("hyperopt", "hyperopt's `tpe.suggest`")):
        cells = " | ".join(f"{ms:.1f} ms" for ms in found["ms"][way])
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
