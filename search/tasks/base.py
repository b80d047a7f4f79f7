"""The door between a search and what is searched: the Task, in one screen.

A new kind of task is a folder beside this file: a light :class:`~search.tasks.kinds.Kind` for the
command line, a :class:`Task`, and a module of worker code with its :class:`Trial`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from search.suggest.space import Space
from search.values.data import DataDescription
from search.values.fitted_with import NOTHING, FittedWith
from search.values.metric import Metric
from search.values.model import Fitted, Judgement, Package
from search.values.trial import Point


class Task(Protocol):
    """What is searched, as far as it is known before any data is read."""

    @property
    def kind(self) -> str:
        """The kind of task: its name in :mod:`search.tasks.kinds`."""

    @property
    def model(self) -> str:
        """What is tuned: the tag `model` of the runs."""

    @property
    def metric(self) -> Metric:
        """What trials are scored by."""

    @property
    def space(self) -> Space:
        """Where the points lie."""

    @property
    def rounds(self) -> int | None:
        """The most rounds that a trial reports; None: it reports once."""

    @property
    def params(self) -> Mapping[str, Any]:
        """The task's settings, as params of the parent run."""

    @property
    def warmup(self) -> str | None:
        """A module to run on this machine while the search starts, if there is one."""

    def prepare(self, display: Display) -> Prepared:
        """Read and check the data.

        :raises InputError: it cannot be used.
        """


@dataclass(frozen=True)
class Prepared:
    """A task with its data."""

    trial: Trial
    refit: Refit | None  # None: nothing is fitted again
    shared: Any = None  # what all trials work on; put into Ray's object store once
    data: DataDescription | None = None
    params: Mapping[str, str] = field(default_factory=dict)  # of every run
    tags: Mapping[str, str] = field(default_factory=dict)  # of every run
    summary: Mapping[str, Any] | None = None  # the key `data` of the JSON
    fitted_with: FittedWith = NOTHING  # what else a score depends on


class Trial(Protocol):
    """One trial. Picklable, and the only part that runs in a worker; its module imports little."""

    def __call__(
        self, point: Point, shared: Any, report: Callable[[list[float]], None]
    ) -> list[float]:
        """Return the scores, one a round; ``report`` them so far after each round.

        ``report`` may end the trial by raising. Whatever else is raised is the trial's failure.
        """


class Refit(Protocol):
    """The best configuration fitted again: what is left at the end of a search."""

    @property
    def flavor(self) -> str:
        """The module of MLflow that saves the model: "sklearn", "pytorch", ..."""

    @property
    def fit(self) -> Callable[[Point, int, Any], Fitted]:
        """The fit, from (point, rounds, shared); picklable, runs in a worker."""

    @property
    def rows(self) -> Any:
        """The validation rows (DataFrame), as a user would send them."""

    @property
    def made_up(self) -> bool:
        """Whether the data is generated, so that the model is never the champion."""

    def package(self, model: bytes) -> Package:
        """Return what to log of a fitted model."""

    def judge(self, model: Any) -> Judgement:
        """Score a model that was loaded again by its flavour."""

    def score(self, predicted: NDArray[np.float64]) -> float:
        """Score any model's predictions [validation rows]."""


class Display(Protocol):
    """Where a task may say something while it prepares."""

    def say(self, line: str) -> None:
        """Print one line."""

    def downloading(
        self, url: str, name: str, total_bytes: int | None
    ) -> AbstractContextManager[Callable[[int], object]]:
        """Show a download; yields what is called with the size of each piece, in bytes."""
