"""TLS between own machines, set up by the commands of docs/own-machines.md."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from own_machines import (
    CERTIFICATES,
    CONFIG,
    HEAD,
    STRANGER,
    TRIPS,
    WORKERS,
    adapted,
    listening,
    machines,
    wait_for_nodes,
)

from benchmarks import hosts
from benchmarks.hosts import Host

UNUSABLE = hosts.unusable()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(UNUSABLE is not None, reason=str(UNUSABLE)),
    pytest.mark.skipif(
        "SEARCH_TEST_TLS" not in os.environ, reason="takes minutes: set SEARCH_TEST_TLS=1"
    ),
]

HANDSHAKE = str(Path(__file__).with_name("handshake.py"))
SETTING = (
    "RAY_TLS_CA_CERT=tls/ca.crt RAY_TLS_SERVER_CERT=tls/node.crt RAY_TLS_SERVER_KEY=tls/node.key"
)


def test_search_runs_over_tls_and_ports_refuse_clients_without_certificate(tmp_path: Path) -> None:
    """Ray's gRPC ports need a certificate; its HTTP ports do not use TLS."""
    with machines(tmp_path, "tls") as cluster:
        laptop = cluster.laptop
        script = laptop.commands.block(CERTIFICATES)
        examples = ("10.0.0.10", "10.0.0.11", "10.0.0.12")
        for example, address in zip(examples, (HEAD, *WORKERS), strict=True):
            assert example in script
            script = script.replace(example, address)
        laptop.run(script)
        laptop.write(adapted(HEAD, tls=True), CONFIG)
        head, worker, _ = cluster.head("head", HEAD), cluster.worker(1), cluster.worker(2)
        laptop.bring_up()
        wait_for_nodes(head)
        trips = ["--train-data", f"{TRIPS}/train.parquet", "--valid-data", f"{TRIPS}/valid.parquet"]
        job = laptop.submit("searched", ["--num-samples", "2", "--trainable", "ridge", *trips])
        assert job.wait(120) == 0, job.output
        assert len(cluster.runs.ended()) == 2

        targets = [*listening(head), *listening(worker)]
        command = " ".join([sys.executable, HANDSHAKE, *targets])
        with_certificate = answers(laptop.host, f"cd ~/.ray && {SETTING} {command}")
        without = answers(cluster.hosts.add("stranger", STRANGER), command)
        secured = {target for target, answer in with_certificate.items() if answer == "accepted"}
        assert {f"{HEAD}:{port}" for port in (6379, 8076, 10001)} <= secured
        assert f"{WORKERS[0]}:8076" in secured
        for target in targets:
            assert without[target] == ("refused" if target in secured else "plain"), target


def answers(host: Host, line: str) -> dict[str, str]:
    result = host.run(line)
    assert result.returncode == 0, result.stderr
    found: dict[str, str] = json.loads(result.stdout)
    return found
