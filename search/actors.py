"""Workers that are started once and kept, where Tune would start them over and over.

Two of Tune's habits cost a search its slots (docs/decisions/0006-slots.md), and neither has an
option; they are private parts of the one version of Ray that requirements.lock names.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Have Tune, while inside, take the processes that are there and let those that start start.

    - It gives each actor an environment of its own, so none of the processes that Ray has
      started already may serve; a trial's worker needs none.
    - When a worker is free, Tune gives it to a trial whose own worker is still starting, and
      cancels that one: while trials are shorter than starts, the slots never fill.
    """
    from ray.tune.execution.class_cache import _ActorClassCache
    from ray.tune.execution.tune_controller import TuneController

    with (
        _replaced(_ActorClassCache, "get", lambda _: _actor_class),
        _replaced(TuneController, "_maybe_reuse_cached_actor", _reuse),
    ):
        yield


def _actor_class(cache: Any, trainable: Any) -> Any:
    import ray

    if trainable not in cache._cache:
        cache._cache[trainable] = ray.remote(trainable)
    return cache._cache[trainable]


def _reuse(stock: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def reuse(controller: Any, trial: Any) -> bool:
        # once no trial is to come, whoever is free takes what is left
        if trial in controller._trial_to_actor and not controller._search_alg.is_finished():
            return False
        return stock(controller, trial)

    return reuse


@contextlib.contextmanager
def _replaced(owner: type, name: str, make: Callable[[Any], Any]) -> Iterator[None]:
    stock = getattr(owner, name)
    setattr(owner, name, make(stock))
    try:
        yield
    finally:
        setattr(owner, name, stock)
