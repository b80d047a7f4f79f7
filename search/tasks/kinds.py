"""The kinds of task there are, as the command line knows them.

Imported by ``--help``: a kind's module may import nothing heavy before its task is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from search.values.fitted_with import NOTHING, FittedWith

if TYPE_CHECKING:
    from search.tasks.base import Task

Values = Mapping[str, Any]  # option values by argparse's names: train_data, set, ...


@dataclass(frozen=True)
class Option:
    """An option that a kind of task understands."""

    flag: str  # "--train-data"
    group: str  # the heading in --help under which it stands
    spec: Mapping[str, Any]  # what argparse's add_argument takes
    read: Callable[[Any], Any] = field(default=lambda value: value)  # from argparse or JSON
    kept: Callable[[Any], Any] = field(default=lambda value: value)  # its form in JSON
    may_differ: bool = False  # on --resume: it changes no trial

    @property
    def name(self) -> str:
        """The name of its value."""
        return self.flag.lstrip("-").replace("-", "_")


@dataclass(frozen=True)
class Request:
    """What a task is opened with."""

    values: Values  # of the kind's own options
    seed: int
    threads: int  # of each trial's fit


@dataclass(frozen=True)
class Kind:
    """A kind of task."""

    name: str
    options: tuple[Option, ...]
    experiment_name: str
    registered_model: str
    stem: Callable[[Values], str]  # what the name of a search without --name begins with
    check: Callable[[Values], None]  # raises InputError where options contradict each other
    open: Callable[[Request], Task]  # raises InputError; imports what is heavy
    fitted_with: FittedWith = NOTHING  # what every task of this kind depends on


# where each kind lives, the default one first
PLACES = ("search.tasks.green_taxi.kind:GREEN_TAXI",)


def kinds() -> dict[str, Kind]:
    """Return all kinds by name, the default one first."""
    found = {}
    for place in PLACES:
        module, _, attribute = place.partition(":")
        kind: Kind = getattr(import_module(module), attribute)
        found[kind.name] = kind
    return found


def default_kind() -> Kind:
    """Return the kind of task that is searched if no option asks for another."""
    return next(iter(kinds().values()))
