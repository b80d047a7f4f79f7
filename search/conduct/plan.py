"""The plan of a search: task, rungs and initial points, checked before anything is started."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from search.errors import InputError
from search.execute.halving import rungs
from search.options.settings import Settings
from search.record.tags import SPACE_DIGEST
from search.suggest.space import Space
from search.tasks.base import Task
from search.tasks.kinds import Request
from search.values.trial import Point

OpenTask = Callable[[Settings], Task]


@dataclass(frozen=True)
class Plan:
    """What is to be searched. Nothing has been started."""

    settings: Settings
    task: Task
    rungs: tuple[int, ...]  # rounds at which trials are judged; none: they are not
    first: Sequence[Point]  # points to try first

    @property
    def wanted(self) -> int:
        """How many trials: one if nothing is left to search."""
        return self.settings.num_samples if self.task.space.labels else 1

    @property
    def params(self) -> dict[str, Any]:
        """The params of the parent run, those of the data apart."""
        return {
            **self.task.params,
            "scheduler": self.settings.scheduler,
            "rungs": ", ".join(map(str, self.rungs)) or "none",
            "cpus_per_trial": self.settings.machines.cpus_per_trial,
            SPACE_DIGEST: self.task.space.digest,
        }


def open_task(settings: Settings) -> Task:
    """Open the task that the options ask for.

    :raises InputError: it cannot be opened.
    """
    threads = settings.machines.cpus_per_trial
    return settings.kind.open(Request(settings.task, settings.seed, threads))


def planned(settings: Settings, opened: OpenTask = open_task) -> Plan:
    """Open the task, and check what is to be searched.

    :raises InputError: the task cannot be opened, or an initial point is not in the space.
    """
    task = opened(settings)
    _check_points(settings, task.space)
    has_rungs = settings.scheduler == "asha" and task.rounds is not None
    return Plan(
        settings=settings,
        task=task,
        rungs=rungs(task.rounds) if has_rungs and task.rounds else (),
        first=settings.initial_points,
    )


def _check_points(settings: Settings, space: Space) -> None:
    for number, point in enumerate(settings.initial_points, 1):
        try:
            space.labels_of(point)
        except InputError as error:
            raise InputError(
                f"--initial-points {settings.points_file}: point {number}: {error}"
            ) from error
