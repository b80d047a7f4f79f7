"""TLS between machines one owns, by the commands of docs/own-machines.md."""

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
    machines_at_hand,
    wait_for_nodes,
)

from benchmarks import hosts
from benchmarks.hosts import Host

UNUSABLE = hosts.unusable()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(UNUSABLE is not None, reason=str(UNUSABLE)),
    pytest.mark.skipif("SEARCH_TEST_TLS" not in os.environ, reason="set SEARCH_TEST_TLS to 1"),
]

HANDSHAKE = str(Path(__file__).with_name("handshake.py"))
SETTING = (
    "RAY_TLS_CA_CERT=tls/ca.crt RAY_TLS_SERVER_CERT=tls/node.crt RAY_TLS_SERVER_KEY=tls/node.key"
)


def test_a_search_runs_over_tls_and_nobody_is_heard_without_a_certificate(tmp_path: Path) -> None:
    """The nodes' own calls are for holders of a certificate; Ray's HTTP is as it was."""
    with machines_at_hand(tmp_path, "tls") as machines:
        laptop = machines.laptop
        make = laptop.commands.take(CERTIFICATES)
        named = ("10.0.0.10", "10.0.0.11", "10.0.0.12")
        for example, address in zip(named, (HEAD, *WORKERS), strict=True):
            assert example in make
            make = make.replace(example, address)
        laptop.run(make)
        laptop.write(adapted(HEAD, tls=True), CONFIG)
        head, worker, _ = machines.head("head", HEAD), machines.worker(1), machines.worker(2)
        laptop.bring_up()
        wait_for_nodes(head)
        trips = ["--train-data", f"{TRIPS}/train.parquet", "--valid-data", f"{TRIPS}/valid.parquet"]
        job = laptop.submit("searched", ["--num-samples", "2", "--trainable", "ridge", *trips])
        assert job.ended(120) == 0, job.said
        assert len(machines.books.ended()) == 2

        targets = [*listening(head), *listening(worker)]
        shaken = [sys.executable, HANDSHAKE, *targets]
        known = answers(laptop.host, f"cd ~/.ray && {SETTING} {' '.join(shaken)}")
        unknown = answers(machines.hosts.add("stranger", STRANGER), " ".join(shaken))
        secured = {target for target, answer in known.items() if answer == "greeted"}
        assert {f"{HEAD}:{port}" for port in (6379, 8076, 10001)} <= secured
        assert f"{WORKERS[0]}:8076" in secured
        for target in targets:
            assert unknown[target] == ("refused" if target in secured else "plain"), target


def answers(host: Host, line: str) -> dict[str, str]:
    asked = host.run(line)
    assert asked.returncode == 0, asked.stderr
    told: dict[str, str] = json.loads(asked.stdout)
    return told
