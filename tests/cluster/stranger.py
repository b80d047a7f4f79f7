"""Calls all methods on Ray's ports without its token; runs on a host that does not have it.

``python stranger.py HOST:PORT...`` prints for each port: ``page``, status and first line of the
answer to a GET, or null if the port does not use HTTP; ``health``, the answer to a health check;
``methods``, how often each gRPC status was the answer to Ray's own methods, without a token and
with a wrong one. Requests are empty: a refused request is refused before it is read.
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
# The methods of the object manager are in no Python module of Ray.
MORE_METHODS = ("/ray.rpc.ObjectManagerService/Push", "/ray.rpc.ObjectManagerService/Pull")


def methods() -> Iterator[str]:
    """Yield every method of every gRPC service of Ray."""
    yield from MORE_METHODS
    for module in pkgutil.iter_modules(generated.__path__):
        if module.name.endswith("_pb2"):
            found = importlib.import_module(f"{generated.__name__}.{module.name}")
            for service in found.DESCRIPTOR.services_by_name.values():
                yield from (f"/{service.full_name}/{method.name}" for method in service.methods)


def http_get(target: str, page: str = "/") -> tuple[int, str] | None:
    """Return status and first line of the answer to a GET; None if the port has no HTTP."""
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


def call_all(target: str, names: Sequence[str], token: Sequence[tuple[str, str]]) -> Counter[str]:
    """Call these methods; return how often each status was the answer."""
    answers: Counter[str] = Counter()
    with grpc.insecure_channel(target) as channel:
        for method in names:
            try:
                channel.unary_unary(method)(b"", timeout=TIMEOUT_S, metadata=token)
                answers["OK"] += 1
            except grpc.RpcError as error:
                answers[error.code().name] += 1
    return answers


def probe(target: str, names: Sequence[str]) -> dict[str, Any]:
    """Return all answers of a port."""
    if page := http_get(target):
        status, _ = http_get(target, "/api/healthz") or (0, "")
        return {"page": page, "health": "OK" if status == 200 else "", "methods": {}}
    (health,) = call_all(target, [HEALTH], [])
    answers = {name: call_all(target, names, token) for name, token in TOKENS.items()}
    return {"page": None, "health": health, "methods": answers}


if __name__ == "__main__":
    names = list(methods())
    print(json.dumps({target: probe(target, names) for target in sys.argv[1:]}))
