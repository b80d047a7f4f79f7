"""Asks Ray's ports for everything, without its token: run on a host that has none.

``python stranger.py HOST:PORT...`` prints for each: ``page``, the status and first line that a GET
was answered, or nothing where HTTP is not spoken; ``health``, what a question after it was
answered; ``methods``, how often each gRPC status was the answer to Ray's own methods, with no
token and with a wrong one. Requests are empty: what is refused is refused before anyone reads them.
"""

from __future__ import annotations

import http.client
import importlib
import json
import pkgutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import grpc  # type: ignore[import-untyped]
from ray.core import generated

TIMEOUT_S = 5.0
TOKENS = {"none": [], "wrong": [("authorization", "Bearer " + "0123" * 16)]}
HEALTH = "/grpc.health.v1.Health/Check"
# The object manager's are in no Python module of Ray's.
MORE_METHODS = ("/ray.rpc.ObjectManagerService/Push", "/ray.rpc.ObjectManagerService/Pull")


def methods() -> Iterator[str]:
    """Return every method of every gRPC service that Ray has."""
    yield from MORE_METHODS
    for module in pkgutil.iter_modules(generated.__path__):
        if module.name.endswith("_pb2"):
            found = importlib.import_module(f"{generated.__name__}.{module.name}")
            for service in found.DESCRIPTOR.services_by_name.values():
                yield from (f"/{service.full_name}/{method.name}" for method in service.methods)


def got(target: str, page: str = "/") -> tuple[int, str] | None:
    """Return status and first line of the answer to a GET; nothing where HTTP is not spoken."""
    host, _, port = target.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=TIMEOUT_S)
    try:
        connection.request("GET", page)
        answer = connection.getresponse()
        return answer.status, answer.read().decode().partition("\n")[0]
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def called(target: str, asked: Sequence[str], token: Sequence[tuple[str, str]]) -> Counter[str]:
    """Return how often each status was the answer."""
    answers: Counter[str] = Counter()
    with grpc.insecure_channel(target) as channel:
        for method in asked:
            try:
                channel.unary_unary(method)(b"", timeout=TIMEOUT_S, metadata=token)
                answers["OK"] += 1
            except grpc.RpcError as error:
                answers[error.code().name] += 1
    return answers


def heard(target: str, every: Sequence[str]) -> dict[str, Any]:
    """Return all that a port answers."""
    if page := got(target):
        status, _ = got(target, "/api/healthz") or (0, "")
        return {"page": page, "health": "OK" if status == 200 else "", "methods": {}}
    (health,) = called(target, [HEALTH], [])
    answers = {name: called(target, every, token) for name, token in TOKENS.items()}
    return {"page": None, "health": health, "methods": answers}


if __name__ == "__main__":
    every = list(methods())
    print(json.dumps({target: heard(target, every) for target in sys.argv[1:]}))
