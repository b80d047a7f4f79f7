"""The kinds of task there are, as the command line knows them.

Imported by ``--help``: a kind's module may import nothing heavy before its task is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from search.errors import InputError
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
        return _name(self.flag)


@dataclass(frozen=True)
class Request:
    """What a task is opened with."""

    values: Values  # of the kind's own options
    seed: int
    threads: int  # of each trial's fit
    generator: Mapping[str, Any] | None = None  # in the seed's place, see HyperoptSeeds
    points: int = 0  # how many initial points there are
    empty_store: Callable[[], bytes] = lambda: b""  # a database of MLflow's; takes seconds


@dataclass(frozen=True)
class Kind:
    """A kind of task."""

    name: str
    options: tuple[Option, ...]
    experiment_name: Callable[[Values], str]  # unless --experiment-name is given
    registered_model: Callable[[Values], str]  # unless --registered-model is given
    stem: Callable[[Values], str]  # what the name of a search without --name begins with
    check: Callable[[Values], None]  # raises InputError where options contradict each other
    open: Callable[[Request], Task]  # raises InputError; imports what is heavy
    asked_by: str | None = None  # the option that asks for it; None: it is the default kind
    fitted_with: FittedWith = NOTHING  # what every task of this kind depends on


# where each kind lives, the default one first
PLACES: tuple[str, ...] = (
    "search.tasks.green_taxi.kind:GREEN_TAXI",
    "search.tasks.objective.kind:OBJECTIVE",
)


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


def asked_kind(given: Values) -> Kind:
    """Return the kind of task that the given options ask for.

    :raises InputError: they ask for two.
    """
    asked = [kind for kind in kinds().values() if _name(kind.asked_by) in given]
    if len(asked) > 1:
        flags = " and ".join(str(kind.asked_by) for kind in asked)
        raise InputError(f"{flags}: each asks for another kind of task; give one of them")
    return asked[0] if asked else default_kind()


def check_known(kind: Kind, given: Values) -> None:
    """Check that a kind of task understands the options given.

    :raises InputError: one is another kind's.
    """
    known = {option.name for option in kind.options}
    for other in kinds().values():
        for option in other.options:
            if option.name in given and option.name not in known:
                raise InputError(
                    f"{option.flag}: no option of a task of the kind {kind.name}; {_advice(other)}"
                )


def _advice(kind: Kind) -> str:
    together = "leave it out" if kind.asked_by is None else f"it goes with {kind.asked_by}"
    return f"{together}, see --help"


def _name(flag: str | None) -> str:
    return "" if flag is None else flag.lstrip("-").replace("-", "_")
