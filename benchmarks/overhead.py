"""What a trial costs besides its training, with trials that take no time.

``python -m benchmarks.overhead --trials 100 1000 --out overhead.json`` measures one after the
other: our search with a sqlite store, our search with a tracking server (with the number of its
requests), the same MLflow calls in a loop, and stock Ray Tune with its own searcher and MLflow
callback.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.toys import ROUNDS
from benchmarks.watch import machine, run_checked, run_search

STOCK_TRIALS = 100  # stock Ray Tune would take too long for more


def main() -> None:
    """Measure, write the JSON, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--ways", nargs="*", default=["sqlite", "server", "calls", "stock"])
    parser.add_argument("--out", type=Path, default=Path("overhead.json"))
    given = parser.parse_args()
    found: list[dict[str, Any]] = []
    for trials in given.trials:
        for way in given.ways:
            if way != "stock" or trials <= STOCK_TRIALS:
                with tempfile.TemporaryDirectory() as folder:
                    found.append({"way": way, "trials": trials, **MEASURED[way](folder, trials)})
                print(json.dumps(found[-1]), flush=True)
    given.out.write_text(json.dumps({**machine(), "rows": found}, indent=1) + "\n")
    print(table(found))


def with_sqlite(folder: str, trials: int) -> dict[str, Any]:
    """Run our search with a sqlite store."""
    return _run_ours(folder, trials, "sqlite:///mlflow.db")


def with_server(folder: str, trials: int) -> dict[str, Any]:
    """Run our search with a tracking server; count its requests."""
    with _server(Path(folder)) as (uri, log):
        found = _run_ours(folder, trials, uri)
        requests = re.findall(r'"(?:GET|POST|PATCH|DELETE) (/api/\S+)', log.read_text())
    return {**found, "requests_per_trial": len(requests) / trials}


def _run_ours(folder: str, trials: int, uri: str) -> dict[str, Any]:
    options = ["--trainable", "benchmarks.toys:TRIVIAL", "--num-samples", str(trials)]
    options += ["--train-data", "sample", "--valid-data", "sample"]
    options += ["--scheduler", "none", "--tracking-uri", uri]
    report, usage = run_search(options, Path(folder))
    seconds = report["seconds"]
    start, end = seconds["start_up"], seconds["start_up"] + seconds["search"]
    cpu = [sample.cpu_s for sample in usage.samples if start <= sample.at_s <= end]
    return {"seconds": seconds["search"], "driver_cpu_s": cpu[-1] - cpu[0]}


def bare_calls(folder: str, trials: int) -> dict[str, Any]:
    """Make the MLflow calls of so many trials in a loop, with a sqlite store."""
    code = f"from benchmarks.overhead import calls; print(calls({trials}))"
    return {"seconds": _printed_seconds(code, folder)}


def calls(trials: int) -> float:
    """Make the calls in this process; return the seconds."""
    from search.record.connection import connect
    from search.record.run_metadata import RunMetadata
    from search.record.trial_runs import SearchRuns, TrialRuns
    from search.values.data import DataDescription
    from search.values.events import Ended, Started

    data = DataDescription(
        name="trips", digest="ab" * 16, source={"train": "a", "valid": "b"}, profile={"rows": 3}
    )
    metadata = RunMetadata(
        params={"train-data-path": "a", "valid-data-path": "b", "preprocessing": "c"},
        tags={"developer": "me", "model": "m"},
        data=data,
    )
    store = connect("sqlite:///mlflow.db", "calls")
    runs = TrialRuns(store, SearchRuns("s", "parent", metadata, curve="validation-rmse"))
    started = time.perf_counter()
    for number in range(trials):
        now = time.time_ns() // 1_000_000
        first = Started(f"{number:04d}", dict.fromkeys("abcde", 0.5), now)
        run_id = runs.create(first)
        runs.describe(run_id, first)
        metrics = {"rmse": 1.0, "best_iteration": 3.0, "fit_seconds": 0.1}
        last = Ended(first.trial_id, "finished", at_ms=now, metrics=metrics, curve=(1.0,) * ROUNDS)
        runs.score(run_id, last)
        runs.end(run_id, last)
    return time.perf_counter() - started


def with_stock(folder: str, trials: int) -> dict[str, Any]:
    """Run Ray Tune with its own searcher and callback."""
    code = f"from benchmarks.overhead import stock; print(stock({trials}))"
    return {"seconds": _printed_seconds(code, folder)}


def _printed_seconds(code: str, folder: str) -> float:
    """Run Python code in a process; return the number that it prints last."""
    usage = run_checked([sys.executable, "-c", code], Path(folder))
    return float(usage.stdout.strip().splitlines()[-1])


def stock(trials: int) -> float:
    """Run Ray Tune in this process; return the seconds from the first trial to the end."""
    import ray
    from hyperopt import hp
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback
    from ray.tune.search import ConcurrencyLimiter
    from ray.tune.search.hyperopt import HyperOptSearch

    def trainable(config: dict[str, Any]) -> None:
        bowl = sum(value**2 for value in config.values())
        for number in range(1, ROUNDS + 1):
            tune.report({"rmse": bowl + 1 / number})

    ray.init("local", include_dashboard=False)
    space = {name: hp.uniform(name, -1, 1) for name in "abcde"}
    search = HyperOptSearch(space, metric="rmse", mode="min")
    uri = "sqlite:///mlflow.db"
    callback = MLflowLoggerCallback(tracking_uri=uri, experiment_name="stock")
    started = time.perf_counter()
    tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(search_alg=ConcurrencyLimiter(search, 2), num_samples=trials),
        run_config=tune.RunConfig(
            storage_path=str(Path("results").absolute()), callbacks=[callback], verbose=0
        ),
    ).fit()
    return time.perf_counter() - started


@contextlib.contextmanager
def _server(folder: Path) -> Iterator[tuple[str, Path]]:
    """Start a tracking server; yield its URI and its log."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / "server.log"
    argv = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    argv += ["--backend-store-uri", f"sqlite:///{folder / 'server.db'}"]
    with (
        log.open("wb") as output,
        # in its own session, so that its workers can be ended with it; without the seven processes
        # for jobs, because they would still be starting during the measurement
        subprocess.Popen(
            argv,
            cwd=folder,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        ) as server,
    ):
        try:
            uri = f"http://127.0.0.1:{port}"
            for _ in range(240):
                with contextlib.suppress(OSError), urllib.request.urlopen(f"{uri}/health"):
                    break
                time.sleep(0.25)
            yield uri, log
        finally:
            os.killpg(server.pid, signal.SIGTERM)


MEASURED = {
    "sqlite": with_sqlite,
    "server": with_server,
    "calls": bare_calls,
    "stock": with_stock,
}
NAMES = {
    "sqlite": "ours, sqlite",
    "server": "ours, tracking server",
    "calls": "the same MLflow calls in a bare loop, sqlite",
    "stock": "stock Ray Tune, sqlite",
}


def table(rows: list[dict[str, Any]]) -> str:
    """Return the table for the documents."""
    lines = [
        "| trivial trials | trials | seconds | ms a trial | driver's CPU, ms a trial | requests |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        each = 1000 * row["seconds"] / row["trials"]
        cpu = f"{1000 * row['driver_cpu_s'] / row['trials']:.0f}" if "driver_cpu_s" in row else ""
        requests = f"{row['requests_per_trial']:.1f}" if "requests_per_trial" in row else ""
        lines.append(
            f"| {NAMES[row['way']]} | {row['trials']:,} | {row['seconds']:.1f} | {each:.0f} | "
            f"{cpu} | {requests} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
