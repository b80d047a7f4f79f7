"""The command line of ``python -m search.run``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from search.errors import InputError
from search.options import parsing
from search.options.settings import Settings, checked
from search.tasks.kinds import Kind, asked_kind, check_known, default_kind, kinds

# On --resume every option comes from the search's parent run. --num-samples, these, and those that
# a kind of task names may differ; any other that was kept must be what it was.
MAY_DIFFER = ("time_budget", "max_concurrent", "address", "state_dir", "json")

ALGORITHMS = ("hyperopt", "random", "anneal")
GROUPS = ("what is searched", "data", "where it runs", "where it is kept")


def parse(argv: Sequence[str]) -> Settings:
    """Read the command line.

    :raises InputError: an option is unknown, lacks its value, or has one it cannot have.
    """
    parser = _parser()
    values = vars(parser.parse_args(argv))
    # read a second time without defaults: what is not None then was given
    named = vars(parser.parse_args(argv, argparse.Namespace(**dict.fromkeys(values))))
    given = {name: value for name, value in named.items() if value is not None}
    if (file := values["initial_points"]) is not None:
        values["initial_points"] = given["initial_points"] = _points(file)
        values["points_file"] = str(file)
    kind = asked_kind(given)
    if values["resume"] is None:  # else the search itself says what kind it is
        check_known(kind, given)
    return checked(kind, values, given)


def from_python(kind: Kind, given: Mapping[str, Any]) -> Settings:
    """Return the settings that a call from Python asks for.

    :raises InputError: an option has a value that it cannot have.
    """
    argv: list[str] = []
    for name, value in given.items():
        if value is True:
            argv.append(_flag(name))
        elif name == "time_budget":
            argv.append(f"{_flag(name)}={value}s")
        elif isinstance(value, str | int | float | Path):
            argv.append(f"{_flag(name)}={value}")
    # parsed, so that each value is checked as the command checks it
    values = vars(_parser().parse_args(argv))
    others = {
        name: value for name, value in given.items() if isinstance(value, list | tuple | dict)
    }
    return checked(kind, {**values, **others, "from_python": True}, given)


def resumed(asked: Settings, kept: Mapping[str, Any]) -> Settings:
    """Return the settings of a search that goes on: what it kept, and what may differ.

    :raises InputError: something is given that is not what it was.
    """
    kind = kinds().get(kept.get("task", asked.kind.name))
    if kind is None:
        raise InputError(
            f"--resume {asked.name}: its task {kept['task']!r} is unknown to this version; "
            "install the version that began it"
        )
    check_known(kind, asked.given)
    values = {**vars(_parser().parse_args([])), **kept, "resume": asked.name}
    values["from_python"] = asked.from_python
    may_differ = {"num_samples", *MAY_DIFFER, *_own_that_may_differ(kind)}
    for name, value in asked.given.items():
        if name in kept and name not in may_differ:
            now, before = _comparable(kind, name, value), kept[name]
            if now != before:
                raise InputError(
                    f"{_flag(name)} {_shown(now)}: the search {asked.name!r} has "
                    f"{_shown(before)} and keeps it; leave the option out"
                )
        values[name] = value
    return checked(kind, values, asked.given)


def _own_that_may_differ(kind: Kind) -> list[str]:
    return [option.name for option in kind.options if option.may_differ]


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _comparable(kind: Kind, name: str, value: Any) -> Any:
    """Return an option's value in the form in which a parent run keeps it."""
    for option in kind.options:
        if option.name == name:
            return option.kept(option.read(value))
    return list(value) if isinstance(value, tuple) else value


def _shown(value: Any) -> str:
    return str(value) if isinstance(value, str | int | float) else json.dumps(value)


def _points(file: Path) -> list[Any]:
    """Return the points of a JSON file; the space checks what is in them."""
    try:
        points = json.loads(file.read_text())
    except OSError as error:
        raise InputError(f"--initial-points {file}: {error.strerror}; give a JSON file") from error
    except (ValueError, RecursionError) as error:  # RecursionError: deeply nested lists
        raise InputError(f"--initial-points {file}: no JSON ({error})") from error
    if not isinstance(points, list):
        raise InputError(f"--initial-points {file}: a list of points wanted, found {points!r:.80}")
    return points


def _parser() -> argparse.ArgumentParser:
    parser = parsing.Parser(
        prog="python -m search.run",
        description="Search the hyperparameters of a model, keep every trial in MLflow, "
        "refit the best, register it.",
    )
    groups = {title: parser.add_argument_group(title) for title in GROUPS}
    _add_search_options(groups["what is searched"])
    for kind in kinds().values():
        for option in kind.options:
            groups[option.group].add_argument(option.flag, **option.spec)
    _add_machine_options(groups["where it runs"])
    _add_tracking_options(groups["where it is kept"])
    return parser


def _add_search_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--num-samples", type=parsing.at_least_one, default=100, metavar="N", help="trials in all"
    )
    group.add_argument(
        "--initial-points",
        type=Path,
        metavar="FILE",
        help="JSON list of points to try first, each an object of parameter names and values",
    )
    group.add_argument(
        "--warm-start",
        nargs="+",
        default=[],
        metavar="NAME",
        help="tell the searcher these searches' finished trials first",
    )
    group.add_argument(
        "--seed", type=parsing.seed, default=42, metavar="N", help="seeds the searcher and the fits"
    )
    group.add_argument(
        "--algorithm",
        choices=ALGORITHMS,
        default="hyperopt",
        help="how points are chosen: hyperopt's TPE, at random, or by its annealing",
    )
    group.add_argument(
        "--scheduler",
        choices=("asha", "none"),
        default="asha",
        help="stop weak trials at rungs, or run each to its end",
    )
    group.add_argument(
        "--time-budget",
        type=parsing.duration_s,
        metavar="30m",
        help="start no trial after it, end the running ones, refit the best",
    )


def _add_machine_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--max-concurrent",
        type=parsing.at_least_one,
        metavar="N",
        help="trials at once (default: what the cluster holds, nodes that join included); a "
        "cluster that grows on demand is asked for as many",
    )
    group.add_argument(
        "--cpus-per-trial",
        type=parsing.at_least_one,
        default=1,
        metavar="N",
        help="CPUs of each trial, and threads that its fit may use",
    )
    group.add_argument(
        "--address",
        default="local",
        metavar="local|auto|HOST:PORT",
        help=parsing.ADDRESS_HELP,
    )
    group.add_argument(
        "--state-dir",
        type=Path,
        default=Path(".search"),
        metavar="DIR",
        help="log, Ray's session and results; mode 0700",
    )


def _add_tracking_options(group: argparse._ArgumentGroup) -> None:
    default = default_kind()
    own = (name for kind in kinds().values() for name in _own_that_may_differ(kind))
    may_differ = dict.fromkeys([*MAY_DIFFER, *own])
    group.add_argument("--tracking-uri", metavar="URI", help=parsing.TRACKING_HELP)
    group.add_argument(
        "--experiment-name",
        metavar="NAME",
        help=f"experiment (default: {default.experiment_name({})}; with --objective its "
        "file's name)",
    )
    group.add_argument(
        "--registered-model",
        metavar="NAME",
        help=f"registered model (default: {default.registered_model({})}; with --objective its "
        "file's name)",
    )
    group.add_argument(
        "--name", metavar="NAME", help="the search's name, one per experiment (default: made up)"
    )
    group.add_argument(
        "--resume",
        metavar="NAME",
        help="go on with that search: every option comes from it; a larger --num-samples extends "
        f"it; {', '.join(map(_flag, may_differ))} may differ",
    )
    group.add_argument(
        "--developer", metavar="NAME", help="the tag `developer` (default: the OS user)"
    )
    group.add_argument(
        "--json", action="store_true", help="print one JSON object on stdout at the end"
    )
