"""What is to be searched: read and checked as a whole, before anything is started."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
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
    space, values = fixed(trainable.search_space, trainable.settings, settings.overrides)
    first = _points(settings.initial_points, space)
    values |= {"seed": settings.seed, "threads": settings.cpus_per_trial}
    rounds = trainable.rounds(values)
    milestones = engine.rungs(rounds or 1) if settings.scheduler == "asha" else ()
    return Plan(
        *(settings, trainable, space, Job(settings.trainable, values, milestones), rounds), first
    )


def _points(file: Path | None, space: Space) -> list[Point]:
    if file is None:
        return []
    try:
        points = json.loads(file.read_text())
    except OSError as error:
        raise InputError(f"--initial-points {file}: {error.strerror}; give a JSON file") from error
    except ValueError as error:
        raise InputError(f"--initial-points {file}: no JSON ({error})") from error
    if not isinstance(points, list):
        raise InputError(f"--initial-points {file}: a list of points wanted, found {points!r:.80}")
    for number, point in enumerate(points, 1):
        try:
            space.labels_of(point)
        except InputError as error:
            raise InputError(f"--initial-points {file}: point {number}: {error}") from error
    return points
