"""The settings of one search, from a command line or from the search that is resumed."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from search.errors import InputError
from search.options.parsing import tracking_uri
from search.record.provenance import os_user
from search.tasks.kinds import Kind
from search.values.uri import without_credentials

LONGEST_NAME = 100  # characters

WHERE = ("tracking_uri", "experiment_name", "state_dir")  # options that say where a search is


@dataclass(frozen=True)
class Machines:
    """Where trials run."""

    address: str  # "local", "auto" or HOST:PORT
    max_concurrent: int | None
    cpus_per_trial: int


@dataclass(frozen=True)
class Tracking:
    """Where a search is recorded, and by whom."""

    uri: str  # with an absolute path
    experiment_name: str
    registered_model: str
    developer: str


@dataclass(frozen=True)
class Settings:
    """One search, as asked for. Paths and URIs are absolute."""

    kind: Kind
    task: Mapping[str, Any]  # the values of the kind's own options
    name: str
    resume: bool
    num_samples: int
    initial_points: tuple[Any, ...]  # as JSON; the space checks them
    points_file: str  # where they came from
    warm_start: tuple[str, ...]
    seed: int
    scheduler: str  # "asha" or "none"
    time_budget_s: float | None
    machines: Machines
    tracking: Tracking
    state_dir: Path
    json: bool
    given: Mapping[str, Any]  # what the command line names, without defaults

    @property
    def kept(self) -> dict[str, Any]:
        """What the parent run keeps for a later ``--resume``, as JSON; without credentials."""
        return {
            "task": self.kind.name,
            **{option.name: option.kept(self.task[option.name]) for option in self.kind.options},
            "num_samples": self.num_samples,
            "initial_points": list(self.initial_points),
            "warm_start": list(self.warm_start),
            "seed": self.seed,
            "scheduler": self.scheduler,
            "time_budget": self.time_budget_s,
            "max_concurrent": self.machines.max_concurrent,
            "cpus_per_trial": self.machines.cpus_per_trial,
            "address": self.machines.address,
            "registered_model": self.tracking.registered_model,
            "developer": self.tracking.developer,
        }

    @property
    def resume_command(self) -> str:
        """The command that goes on with this search; without credentials."""
        given = {name: str(self.given[name]) for name in WHERE if self.given.get(name)}
        where = {name: without_credentials(value) for name, value in given.items()}
        words = ["python", "-m", "search.run"]
        for name, value in {"resume": self.name, **where}.items():
            option = f"--{name.replace('_', '-')}"
            words += [f"{option}={value}"] if value.startswith("-") else [option, value]
        return shlex.join(words)


def checked(kind: Kind, values: Mapping[str, Any], given: Mapping[str, Any]) -> Settings:
    """Check what option values say together, and return them as one value.

    :raises InputError: they contradict each other, or a name cannot be used.
    """
    task = {option.name: option.read(values[option.name]) for option in kind.options}
    kind.check(task)
    _check_names(values)
    return Settings(
        kind=kind,
        task=task,
        name=values["resume"] or values["name"] or _made_up_name(kind, task),
        resume=values["resume"] is not None,
        num_samples=values["num_samples"],
        initial_points=tuple(values["initial_points"] or ()),
        points_file=values.get("points_file", ""),
        warm_start=tuple(values["warm_start"]),
        seed=values["seed"],
        scheduler=values["scheduler"],
        time_budget_s=values["time_budget"],
        machines=Machines(
            address=values["address"],
            max_concurrent=values["max_concurrent"],
            cpus_per_trial=values["cpus_per_trial"],
        ),
        tracking=Tracking(
            uri=tracking_uri(values["tracking_uri"]),
            experiment_name=_given(values["experiment_name"], kind.experiment_name),
            registered_model=_model_name(_given(values["registered_model"], kind.registered_model)),
            developer=values["developer"] or os_user(),
        ),
        state_dir=Path(values["state_dir"]).absolute(),
        json=values["json"],
        given=given,
    )


def _check_names(values: Mapping[str, Any]) -> None:
    if values["resume"] is not None and values["name"] is not None:
        raise InputError("--resume and --name: a search that goes on keeps its name; give one")
    for option in ("name", "resume"):
        name = values[option]
        if name is not None and not (
            name.strip() and name.isprintable() and len(name) <= LONGEST_NAME
        ):
            raise InputError(
                f"--{option} {name[:50]!r}: give 1 to {LONGEST_NAME} printable characters"
            )


def _given(value: str | None, default: str) -> str:
    return default if value is None else value


def _model_name(name: str) -> str:
    if not name.strip() or set(name) & set("/:"):
        raise InputError(f"--registered-model {name!r}: a name without / and : is wanted")
    return name


def _made_up_name(kind: Kind, task: Mapping[str, Any]) -> str:
    stem = re.sub(r"[^A-Za-z0-9]+", "-", kind.stem(task)).strip("-")
    return f"{stem}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{os.urandom(2).hex()}"
