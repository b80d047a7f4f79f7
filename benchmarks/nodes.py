"""Network traffic of a search to each node: the data once, and little for each trial.

``python -m benchmarks.nodes --train-data X --valid-data Y --out nodes.json`` runs searches on a
head and two nodes of two slots each. They are virtual hosts; the bytes are counted at each one's
network card. Needs root (benchmarks/hosts.py).
"""

from __future__ import annotations

import argparse
import json
import pickle
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.hosts import Host, Hosts, unusable
from benchmarks.watch import TOP, machine
from search.tasks.green_taxi import features, usable_trips

HEAD, NODES = "10.89.0.10", {"first": "10.89.0.11", "second": "10.89.0.12"}
SLOTS = 2  # of each node
MOST_OF_DATA = 1.5  # times the size of the data: less than twice, with room for messages
ENVIRONMENT = {"PYTHONPATH": str(TOP), "RAY_AUTH_MODE": "disabled"}


def main() -> None:
    """Measure, write the JSON, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train-data", type=Path, required=True)
    parser.add_argument("--valid-data", type=Path, required=True)
    parser.add_argument("--trials", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--out", type=Path, default=Path("nodes.json"))
    given = parser.parse_args()
    if reason := unusable():
        raise SystemExit(f"benchmarks.nodes: {reason}")
    files = [given.train_data.resolve(), given.valid_data.resolve()]
    train, valid = (usable_trips.read([file]) for file in files)
    data = features.prepare(train, valid).dataset
    found: dict[str, Any] = {**machine(), "slots_a_node": SLOTS}
    found["data_bytes"] = len(pickle.dumps(data, protocol=5))
    found["rows"] = [measured(files, trials) for trials in given.trials]
    given.out.write_text(json.dumps(found, indent=1) + "\n")
    most = max(each for row in found["rows"] for each in row["received_bytes"].values())
    if most > MOST_OF_DATA * found["data_bytes"]:
        raise SystemExit(f"benchmarks.nodes: a node received {most} bytes, the data more than once")
    print(table(found))


def measured(files: list[Path], trials: int) -> dict[str, Any]:
    """Run one search on new hosts; return the bytes that each node received."""
    keep = [Path(sys.prefix), Path(sys.base_prefix), TOP, *(file.parent for file in files)]
    with (
        tempfile.TemporaryDirectory() as folder,
        Hosts(Path(folder), prefix="bn", network="10.89.0.0/24", keep=keep) as hosts,
    ):
        head = hosts.add("head", HEAD)
        _ray(head, "start", "--head", f"--node-ip-address={HEAD}", "--num-cpus=0")
        nodes = [hosts.add(name, address) for name, address in NODES.items()]
        for node in nodes:
            where = [f"--address={HEAD}:6379", f"--node-ip-address={node.address}"]
            _ray(node, "start", *where, f"--num-cpus={SLOTS}")
        before = {node.name: node.received_bytes() for node in nodes}
        words = [sys.executable, "-m", "search.run", "--address", f"{HEAD}:6379", "--json"]
        words += ["--trainable", "benchmarks.toys:SLEEPER", "--num-samples", str(trials)]
        words += ["--train-data", str(files[0]), "--valid-data", str(files[1])]
        _check(head.run(words, timeout_s=300, environment=ENVIRONMENT))
        received = {node.name: node.received_bytes() - before[node.name] for node in nodes}
    row = {"trials": trials, "received_bytes": received}
    print(json.dumps(row), flush=True)
    return row


def _ray(host: Host, *words: str) -> None:
    command = [sys.executable, "-m", "ray.scripts.scripts", *words, "--disable-usage-stats"]
    _check(host.run(command, timeout_s=120, environment=ENVIRONMENT))


def _check(result: Any) -> None:
    if result.returncode:
        output = (result.stdout + result.stderr)[-2000:]
        raise SystemExit(f"{shlex.join(result.args[-8:])} failed: {output}")


def table(found: dict[str, Any]) -> str:
    """Return the table for the documents."""
    slots, megabytes = found["slots_a_node"], found["data_bytes"] / 1e6
    lines = [
        f"| data of {megabytes:.2f} MB, {slots} slots a node | received by each node, MB | "
        "a trial more, kB |",
        "|---|---|---|",
    ]
    first = found["rows"][0]
    for row in found["rows"]:
        received = row["received_bytes"].values()
        more = row["trials"] - first["trials"]
        each = (sum(received) - sum(first["received_bytes"].values())) / more if more else None
        lines.append(
            f"| {row['trials']} trials | {', '.join(f'{each / 1e6:.2f}' for each in received)} | "
            f"{'' if each is None else f'{each / 1e3:.0f}'} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
