"""What a search of many trials uses besides its training: disk, memory, open files.

``python -m benchmarks.appetite --trials 1000 --out appetite.json`` runs trials that take no time,
each with a curve of twenty rounds, with a sqlite store, and measures the driver.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.watch import folder_bytes, machine, run_search


def main() -> None:
    """Measure, write the JSON, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path("appetite.json"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measured(Path(folder), given.trials)
    given.out.write_text(json.dumps({**machine(), **found}, indent=1) + "\n")
    print(table(found))


def measured(folder: Path, trials: int) -> dict[str, Any]:
    """Run the search in ``folder``; return its figures."""
    state = folder / "state"
    options = ["--trainable", "benchmarks.toys:TRIVIAL", "--num-samples", str(trials)]
    options += ["--train-data", "sample", "--valid-data", "sample"]
    options += ["--scheduler", "none", "--state-dir", str(state)]
    report, usage = run_search(options, folder, disk=state)
    started_s = report["seconds"]["start_up"]
    during = [
        sample
        for sample in usage.samples
        if 0 < sample.at_s - started_s < report["seconds"]["search"]
    ]
    tenth = max(1, len(during) // 10)
    early, late = during[:tenth], during[-tenth:]
    return {
        "trials": trials,
        "seconds": report["seconds"],
        "store_bytes": (folder / "mlflow.db").stat().st_size,
        "artifact_bytes": folder_bytes(folder / "mlruns"),
        "state_bytes_peak": int(usage.peak(lambda sample: sample.disk_bytes)),
        "state_bytes_left": folder_bytes(state),
        "driver_rss_bytes_first_tenth": max(sample.rss_bytes for sample in early),
        "driver_rss_bytes_last_tenth": max(sample.rss_bytes for sample in late),
        "driver_files_peak": int(usage.peak(lambda sample: sample.files)),
    }


def table(found: dict[str, Any]) -> str:
    """Return the table for the documents."""
    mib = 1 << 20
    rows = {
        "in the tracking store (sqlite)": f"{found['store_bytes'] / mib:.1f} MiB",
        "in the state folder, at most": f"{found['state_bytes_peak'] / mib:.1f} MiB",
        "in the state folder, afterwards": f"{found['state_bytes_left'] / mib:.1f} MiB",
        "driver's memory, first tenth": f"{found['driver_rss_bytes_first_tenth'] / mib:.0f} MiB",
        "driver's memory, last tenth": f"{found['driver_rss_bytes_last_tenth'] / mib:.0f} MiB",
        "files the driver holds open, at most": f"{found['driver_files_peak']}",
    }
    head = [f"| a search of {found['trials']:,} trials | |", "|---|---|"]
    return "\n".join([*head, *(f"| {name} | {value} |" for name, value in rows.items())])


if __name__ == "__main__":
    main()
