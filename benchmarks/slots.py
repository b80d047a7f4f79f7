"""How the time of a search falls as slots are added: trials that sleep a second.

``python -m benchmarks.slots --trials 160 --out slots.json`` runs the same search on clusters of
1, 2, 4, 8 and 16 slots.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.scale import measured
from benchmarks.watch import machine


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=160)
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--out", type=Path, default=Path("slots.json"))
    given = parser.parse_args()
    rows = []
    for slots in given.slots:
        with tempfile.TemporaryDirectory() as folder:
            found = measured(Path(folder), given.trials, slots)
        kept = ("slots", "trials", "seconds", "all_busy_after_s")
        rows.append({name: found[name] for name in kept})
        print(json.dumps(rows[-1]), flush=True)
    given.out.write_text(json.dumps({**machine(), "rows": rows}, indent=1) + "\n")
    print(table(rows))


def table(rows: list[dict[str, Any]]) -> str:
    """Return the figures as the documents show them."""
    lines = [
        f"| slots, {rows[0]['trials']} trials of 1 s | search, s | times faster | efficiency | "
        "all busy after |",
        "|---|---|---|---|---|",
    ]
    one = rows[0]["seconds"]["search"] * rows[0]["slots"]
    for row in rows:
        search_s, busy = row["seconds"]["search"], row["all_busy_after_s"]
        lines.append(
            f"| {row['slots']} | {search_s:.1f} | {one / search_s:.1f} | "
            f"{100 * row['trials'] / (row['slots'] * search_s):.0f} % | "
            f"{'' if busy is None else f'{busy:.1f} s'} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
