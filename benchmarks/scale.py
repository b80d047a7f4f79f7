"""Whether many slots are used all the time: trials that sleep for one second, on 16 slots.

``python -m benchmarks.scale --trials 1000 --out scale.json`` follows Ray's published bookkeeping
benchmark (10,000 such trials on 16 CPUs: 715 s where 625 s is ideal). With several numbers after
``--slots`` it shows how the search becomes faster from the first to the last.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from mlflow import MlflowClient

from benchmarks.watch import TOP, Sample, machine, run_search

ADDRESS = "127.0.0.1:6399"  # of the cluster that this benchmark starts
STARTED = "will now block forever"  # Ray's message when its cluster has started


def main() -> None:
    """Measure, write the JSON, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--slots", type=int, nargs="+", default=[16])
    parser.add_argument("--out", type=Path, default=Path("scale.json"))
    given = parser.parse_args()
    rows = []
    for slots in given.slots:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measured(Path(folder), given.trials, slots))
        print(json.dumps(rows[-1]), flush=True)
    given.out.write_text(json.dumps({**machine(), "rows": rows}, indent=1) + "\n")
    print(table(rows) if len(rows) == 1 else efficiency_table(rows))


def measured(folder: Path, trials: int, slots: int) -> dict[str, Any]:
    """Run the search on a cluster of so many slots; return its figures."""
    with _cluster(slots):
        options = ["--trainable", "benchmarks.toys:SLEEPER", "--num-samples", str(trials)]
        options += ["--train-data", "sample", "--valid-data", "sample"]
        options += ["--scheduler", "none", "--address", ADDRESS]
        report, usage = run_search(options, folder)
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    runs = []
    token: str | None = ""
    while token is not None:
        wanted = "tags.`search.role` = 'trial'"
        page = client.search_runs([report["experiment_id"]], wanted, page_token=token or None)
        runs += [(run.info.start_time / 1000, run.info.end_time / 1000) for run in page]
        token = page.token or None
    parent_start = client.get_run(report["parent_run_id"]).info.start_time / 1000
    # the start of the command, to some tenths of a second
    command_start = parent_start - report["seconds"]["start_up"]
    full_at = all_busy(runs, slots)
    return {
        "slots": slots,
        "seconds": report["seconds"],
        **busy(runs, slots, full_at),
        **cpu_per_trial(runs, usage.samples, command_start, full_at),
        "driver_rss_mib": [
            round(each.rss_bytes / 2**20) for each in _early_and_late(usage.samples)
        ],
    }


@contextlib.contextmanager
def _cluster(slots: int) -> Iterator[None]:
    """Start a cluster of so many CPUs; end it, and no other cluster."""
    host, _, port = ADDRESS.partition(":")
    head = ["start", "--head", "--block", "--node-ip-address", host, "--port", port]
    head += ["--num-cpus", str(slots), "--include-dashboard", "false"]
    argv = [str(Path(sys.executable).parent / "ray"), *head]
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        # in its own folder, because Ray writes the cluster's address there for later commands
        environment = {**os.environ, "PYTHONPATH": str(TOP), "RAY_TMPDIR": folder}
        environment["RAY_AUTH_MODE"] = "disabled"  # the search, too, connects without a token
        with subprocess.Popen(
            argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as ray:
            try:
                output = ""
                for line in ray.stdout or ():
                    output += line
                    if STARTED in line:
                        break
                else:
                    raise SystemExit(f"ray does not start: {output[-1500:]}")
                yield
            finally:
                ray.terminate()


def all_busy(runs: list[tuple[float, float]], slots: int) -> float | None:
    """Return when all slots were first busy, in seconds since the epoch; None if never."""
    events = sorted([(start, 1) for start, _ in runs] + [(end, -1) for _, end in runs])
    at_once = 0
    for at, change in events:
        at_once += change
        if at_once == slots:
            return at
    return None


def busy(runs: list[tuple[float, float]], slots: int, full_at: float | None) -> dict[str, Any]:
    """Return how far from ideal the search was after all slots were first busy."""
    last = max(end for _, end in runs)
    if full_at is None:
        return {"trials": len(runs), "all_busy_after_s": None}
    left = sum(min(1.0, end - full_at) for _, end in runs if end > full_at)
    return {
        "trials": len(runs),
        "all_busy_after_s": full_at - min(start for start, _ in runs),
        "from_then_s": last - full_at,
        "ideal_from_then_s": left / slots,
        "over_ideal": (last - full_at) / (left / slots) - 1,
    }


def cpu_per_trial(
    runs: list[tuple[float, float]],
    samples: list[Sample],
    command_start: float,
    full_at: float | None,
) -> dict[str, Any]:
    """Return the driver's CPU ms a trial: of the first 100 after ``full_at``, and of the last 100.

    Times are in seconds since the epoch.
    """
    ends = sorted(end for _, end in runs)
    if len(ends) < 300 or full_at is None:
        return {}
    first = bisect_left(ends, full_at)
    times = [sample.at_s + command_start for sample in samples]

    def used(at: float) -> float:
        return float(np.interp(at, times, [sample.cpu_s for sample in samples]))

    each = [
        1000 * (used(ends[stop]) - used(ends[start])) / 100
        for start, stop in ((first, first + 100), (len(ends) - 101, len(ends) - 1))
    ]
    return {"driver_cpu_ms_a_trial": [round(value, 1) for value in each]}


def _early_and_late(samples: list[Sample]) -> tuple[Sample, Sample]:
    return samples[len(samples) // 10], samples[-len(samples) // 10]


def table(rows: list[dict[str, Any]]) -> str:
    """Return the table for the documents."""
    lines = [
        "| slots | trials of 1 s | whole search | over ideal | all busy after | from then on | "
        "ideal | over ideal | "
        "driver's CPU a trial, first and last 100 | driver's memory, start and end |",
        "|---" * 10 + "|",
    ]
    for row in rows:
        search_s, ideal_s = row["seconds"]["search"], row["trials"] / row["slots"]
        memory = " and ".join(f"{each} MiB" for each in row["driver_rss_mib"])
        cpu = " and ".join(f"{each:.0f} ms" for each in row.get("driver_cpu_ms_a_trial", []))
        lines.append(
            f"| {row['slots']} | {row['trials']:,} | {search_s:.1f} s | "
            f"{100 * (search_s / ideal_s - 1):.1f} % | {row['all_busy_after_s']:.1f} s | "
            f"{row['from_then_s']:.1f} s | {row['ideal_from_then_s']:.1f} s | "
            f"{100 * row['over_ideal']:.1f} % | {cpu} | {memory} |"
        )
    return "\n".join(lines)


def efficiency_table(rows: list[dict[str, Any]]) -> str:
    """Return the table of the search's time by number of slots, for the documents."""
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
