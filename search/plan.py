"""What is to be searched: read and checked as a whole, before anything is started."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import trainables
from search import engine
from search.errors import InputError
from search.settings import Settings
from search.space import Point, Space, fixed
from search.trial import Job
from trainables.base import Trainable


@dataclass(frozen=True)
class Plan:
    """What is to be searched, read and checked; nothing has been started."""

    settings: Settings
    trainable: Trainable
    space: Space
    job: Job
    rounds: int | None  # the most a trial may take; nothing for models without rounds
    first: Sequence[Point] = field(default_factory=list)

    @property
    def wanted(self) -> int:
        """How many trials: one where nothing is left to search."""
        return self.settings.num_samples if self.space.labels else 1

    @property
    def made_once(self) -> str | None:
        """The module that does what the first fit on a machine would wait for, if one is to run."""
        made_once = getattr(self.trainable, "made_once", None)
        module: str | None = made_once(self.job.settings) if made_once else None
        return module

    def options(self) -> dict[str, Any]:
        """Return the options of the search, as params of its parent run."""
        kept = {name: value for name, value in self.job.settings.items() if name != "threads"}
        return {
            **{f"set.{name}": value for name, value in self.settings.overrides.items()},
            **kept,
            "trainable": self.settings.trainable,
            "scheduler": self.settings.scheduler,
            "rungs": ", ".join(map(str, self.job.rungs)) or "none",
            "cpus_per_trial": self.settings.cpus_per_trial,
            "space.digest": self.space.digest,
        }


def planned(settings: Settings) -> Plan:
    """Read what is to be searched, and check it.

    :raises InputError: unknown trainable or ``--set`` name, or a point outside the space.
    """
    try:
        trainable = trainables.get(settings.trainable)
    except LookupError as error:
        raise InputError(f"--trainable: {error.args[0]}") from error
    if find_spec(f"mlflow.{trainable.flavor}") is None:
        raise InputError(
            f"--trainable {settings.trainable}: MLflow has no flavor {trainable.flavor!r}; "
            "name one as in mlflow.sklearn"
        )
    space, values = fixed(trainable.search_space, trainable.settings, settings.overrides)
    first = _checked(settings, space)
    values |= {"seed": settings.seed, "threads": settings.cpus_per_trial}
    rounds = trainable.rounds(values)
    milestones = engine.rungs(rounds or 1) if settings.scheduler == "asha" else ()
    return Plan(
        *(settings, trainable, space, Job(settings.trainable, values, milestones), rounds), first
    )


def _checked(settings: Settings, space: Space) -> Sequence[Point]:
    for number, point in enumerate(settings.initial_points, 1):
        try:
            space.labels_of(point)
        except InputError as error:
            raise InputError(
                f"--initial-points {settings.points_file}: point {number}: {error}"
            ) from error
    return settings.initial_points
