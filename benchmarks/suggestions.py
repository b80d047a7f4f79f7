"""Time of one suggestion as the history grows: ours, and hyperopt's ``tpe.suggest``.

``python -m benchmarks.suggestions --out suggestions.json`` uses the notes' space and random losses.
Both suggest the same points (tests/suggest/test_algorithms.py).
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
from search.suggest.searcher import TPESearch
from search.suggest.space import Space
from search.values.metric import Metric
from search.values.report import SCORE
from trainables.xgboost_ import XGBOOST

TIMED = 20  # suggestions that are timed before each length of the history


def main() -> None:
    """Measure, write the JSON, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--after", type=int, nargs="+", default=[100, 1000, 3000])
    parser.add_argument("--out", type=Path, default=Path("suggestions.json"))
    given = parser.parse_args()
    found: dict[str, Any] = {**machine(), "after": given.after}
    found["ms"] = {"ours": ours(given.after), "hyperopt": hyperopts(given.after)}
    given.out.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))


def ours(after: list[int]) -> list[float]:
    """Return the median milliseconds of our suggestions, for each of these numbers of trials."""
    searcher = TPESearch(Space(XGBOOST.search_space), Metric("rmse", "minimize"), seed=42)
    losses = np.random.default_rng(42).random(max(after))
    took_ms = []
    for number, loss in enumerate(losses):
        started = time.perf_counter()
        searcher.suggest(str(number))
        took_ms.append(1000 * (time.perf_counter() - started))
        searcher.on_trial_complete(str(number), {SCORE: float(loss)})
    return [statistics.median(took_ms[count - TIMED : count]) for count in after]


def hyperopts(after: list[int]) -> list[float]:
    """Return the median milliseconds of hyperopt's suggestions."""
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
            took_ms = []
            for seed in range(TIMED):
                started = time.perf_counter()
                tpe.suggest([number + 1], domain, trials, seed)
                took_ms.append(1000 * (time.perf_counter() - started))
            medians.append(statistics.median(took_ms))
    return medians


def table(found: dict[str, Any]) -> str:
    """Return the table for the documents."""
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
