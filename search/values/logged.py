"""What one attempt of a trial logged by MLflow's API, as plain values.

A worker collects it in a store of its own; the driver writes it to the trial's run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

# tags that MLflow, or this search, puts on a trial's run by itself
RESERVED_TAGS = ("search.", "mlflow.source.", "mlflow.runName", "mlflow.parentRunId", "mlflow.user")
OBJECTIVE = "objective."  # in front of a key that is taken

V = TypeVar("V")


class Measured(NamedTuple):
    """One value of one metric."""

    key: str
    value: float
    at_ms: int  # milliseconds since the epoch
    step: int


@dataclass(frozen=True)
class LoggedModel:
    """A model that was logged, or registered, by one of MLflow's flavours."""

    name: str
    flavors: tuple[str, ...]  # "sklearn", "pytorch", ..., as in its MLmodel file
    folder: str  # where its files are, in the archive of the models
    registered_as: str = ""  # the registered model that it is to be a version of; empty: none
    size_bytes: int = 0
    params: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Logged:
    """All that was logged, as one run has it."""

    params: Mapping[str, str] = field(default_factory=dict)
    metrics: tuple[Measured, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    artifacts: bytes | None = None  # a tar of the files, as they lie in the run's artifact folder
    models: tuple[LoggedModel, ...] = ()
    models_archive: bytes | None = None  # a tar with a folder for each of the models
    notes: tuple[str, ...] = ()  # what is not in here, each in one line with the way out


@dataclass(frozen=True)
class RunLog:
    """What one run of an attempt logged, without its files."""

    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, tuple[Measured, ...]] = field(default_factory=dict)  # by key
    tags: Mapping[str, str] = field(default_factory=dict)


def one_run(runs: Sequence[RunLog]) -> Logged:
    """Return all runs of an attempt, in the order of their start, as one.

    A key that two runs use for different things stays with the first; the next has KEY.2, and so
    on.
    """
    metrics = _united(run.metrics for run in runs)
    return Logged(
        params=_united(run.params for run in runs),
        metrics=tuple(
            point._replace(key=key) for key, points in metrics.items() for point in points
        ),
        tags=_united(run.tags for run in runs),
    )


def merged(logged: Logged, hyperparameters: Mapping[str, Any], own_keys: Collection[str]) -> Logged:
    """Return what the trial's run takes, beside what the search writes there itself.

    A param under the key of a hyperparameter is left out if it says the same, as a number or as
    text, and is otherwise kept as ``objective.KEY``. So are metrics under ``own_keys``, the
    search's own, and tags that MLflow or the search sets.
    """
    params = {
        key: text
        for key, text in logged.params.items()
        if key not in hyperparameters or not says_the_same(text, hyperparameters[key])
    }
    new_key = _renaming((point.key for point in logged.metrics), lambda key: key in own_keys)
    return replace(
        logged,
        params=_renamed(params, lambda key: key in hyperparameters),
        metrics=tuple(point._replace(key=new_key[point.key]) for point in logged.metrics),
        tags=_renamed(logged.tags, lambda key: key.startswith(RESERVED_TAGS)),
    )


def says_the_same(text: str, value: Any) -> bool:
    """Tell whether a param's text is the value, as a number or as text."""
    if text == str(value):
        return True
    try:
        return float(text) == float(value)
    except (TypeError, ValueError, OverflowError):
        return False


def free_name(name: str, taken: Collection[str], suffix: str = "") -> str:
    """Return NAME.2, NAME.3, ...: the first that is not taken; ``suffix`` stays at its end."""
    number = 2
    while (free := f"{name}.{number}{suffix}") in taken:
        number += 1
    return free


def _united(each_run: Iterable[Mapping[str, V]]) -> dict[str, V]:
    united: dict[str, V] = {}
    said: dict[str, list[V]] = {}  # key -> all that was said under it
    for run in each_run:
        for key, value in run.items():
            known = said.setdefault(key, [])
            if value not in known:
                known.append(value)
                united[free_name(key, united) if key in united else key] = value
    return united


def _renamed(values: Mapping[str, V], is_taken: Callable[[str], bool]) -> dict[str, V]:
    new_key = _renaming(values, is_taken)
    return {new_key[key]: value for key, value in values.items()}


def _renaming(keys: Iterable[str], is_taken: Callable[[str], bool]) -> dict[str, str]:
    """Return each key's new one: the same, or if it is taken ``objective.KEY``."""
    before = dict.fromkeys(keys)
    after: dict[str, str] = {key: key for key in before if not is_taken(key)}
    for key in before:
        if key not in after:
            new = f"{OBJECTIVE}{key}"
            used = set(after.values())
            after[key] = free_name(new, used) if new in used else new
    return after
