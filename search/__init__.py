"""Distributed hyperparameter search.

The top level has the commands (``run``, ``doctor``), the public API and the errors; everything else
is in one of the rooms below. ``docs/architecture.md`` describes them.

The public API: :func:`fmin` and :class:`SparkTrials`, which take the place of hyperopt's, and
:mod:`search.trial` for what an objective may call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.conduct.fmin import fmin as fmin
    from search.conduct.spark_trials import SparkTrials as SparkTrials

__all__ = ["SparkTrials", "fmin"]


def __getattr__(name: str) -> Any:
    # imported when asked for: `python -m search.run --help` needs none of it
    if name == "fmin":
        from search.conduct.fmin import fmin

        return fmin
    if name == "SparkTrials":
        from search.conduct.spark_trials import SparkTrials

        return SparkTrials
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
