"""What an objective receives: hyperopt's expression evaluated at a point. Worker code.

Imports the standard library only, and hyperopt once a point is evaluated. A worker unpickles an
:class:`Evaluation` (by cloudpickle: spaces hold lambdas) and needs no other part of the search.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Evaluation:
    """A search space, as it travels to a worker."""

    root: Any  # hyperopt's expression
    definitions: Mapping[str, Callable[..., Any]]  # the user's own, made with `scope.define`

    def __call__(self, point: Mapping[str, Any]) -> Any:
        """Return what ``hyperopt.fmin`` would pass to the objective."""
        from hyperopt.pyll import scope

        for name, function in self.definitions.items():
            if not hasattr(scope, name):
                scope.define(function)
        return argument(self.root, point)


def argument(root: Any, point: Mapping[str, Any]) -> Any:
    """Return what ``hyperopt.fmin`` would pass to the objective for a value of each active label.

    Lists become tuples, as with hyperopt. Nothing in it is shared with the space or with another
    trial, so the objective may change what it is given.
    """
    from hyperopt.pyll.base import GarbageCollected, dfs, rec_eval

    labels = {node: node.arg["label"].obj for node in dfs(root) if node.name == "hyperopt_param"}
    memo = {node: point.get(label, GarbageCollected) for node, label in labels.items()}
    return _fresh(rec_eval(root, memo=memo, print_node_on_error=False))


def _fresh(value: Any) -> Any:
    """Return a copy. What cannot be copied (a lock, a generator) is shared, as with hyperopt."""
    if type(value) is dict:
        return {name: _fresh(part) for name, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_fresh(part) for part in value)
    try:
        return copy.deepcopy(value)
    except Exception:  # noqa: BLE001  a user's class may raise anything
        return value
