"""What one fit is. Knows nothing of Ray, of tracking or of the command line."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any, cast

from trainables.base import Trainable

# name -> where it lives; imported on demand, so that `--help` imports no model library
BUILT_IN = {
    "xgboost": "trainables.xgboost_:XGBOOST",
    "lasso": "trainables.linear:LASSO",
    "ridge": "trainables.linear:RIDGE",
    "linear": "trainables.linear:LINEAR",
}


def get(name: str) -> Trainable:
    """Return the trainable ``name``: a built-in, or ``package.module:attribute``.

    :raises LookupError: there is none; the message is one line.
    """
    place = BUILT_IN.get(name, name)
    module, colon, attribute = place.partition(":")
    if not (module and colon and attribute):
        known = ", ".join(BUILT_IN)
        raise LookupError(f"unknown trainable {name!r}: use one of {known}, or module:attribute")
    try:
        found = getattr(import_module(module), attribute)
    except Exception as error:  # a module from outside may raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise LookupError(f"trainable {name!r} cannot be imported: {reason}") from error
    if isinstance(found, type):
        raise LookupError(f"trainable {name!r} is a class: name an object of it")
    missing = [part for part in _PARTS if not _has(found, part)]
    if missing:
        raise LookupError(
            f"{name!r} is no trainable: it lacks {', '.join(missing)}; see trainables/base.py"
        )
    return cast(Trainable, found)


def _has(found: Any, part: str) -> bool:
    """Tell whether there is such an attribute, without evaluating a property.

    A search space imports hyperopt, for which each worker would wait.
    """
    try:
        inspect.getattr_static(found, part)
    except AttributeError:
        return hasattr(found, part)  # an object with __getattr__
    return True


_PARTS = (
    *("name", "flavor", "artifact", "settings", "search_space"),
    *("rounds", "train", "refit", "load", "predict"),
)
