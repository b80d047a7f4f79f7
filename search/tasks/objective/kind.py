"""The objective task on the command line. Light: ``--help`` imports it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from search.tasks.kinds import Kind, Option, Request, Values

if TYPE_CHECKING:
    from search.tasks.base import Task

KEEP = ("best", "all", "none")


def _steps(text: str) -> int:
    from argparse import ArgumentTypeError

    if not text.isdigit() or int(text) < 2:
        raise ArgumentTypeError(f"{text!r}: give a whole number of steps, 2 or more")
    return int(text)


OPTIONS = (
    Option(
        "--objective",
        group="what is searched",
        spec={
            "metavar": "FILE.py[:NAME]",
            "help": "minimise a function of a point that returns a loss, or a dictionary as "
            "hyperopt has it; also MODULE:NAME (default of NAME: objective)",
        },
        may_differ=True,  # the digest of its code decides
    ),
    Option(
        "--space",
        group="what is searched",
        spec={
            "metavar": "FILE.py[:NAME]",
            "help": "the search space of the objective, in hyperopt's terms; also MODULE:NAME "
            "(default: search_space beside the objective)",
        },
    ),
    Option(
        "--max-steps",
        group="what is searched",
        spec={
            "type": _steps,
            "metavar": "N",
            "help": "what an objective's report(step=...) counts up to; weak trials are stopped at "
            "fractions of it (default: at 1, 3, 9, 27, ... steps)",
        },
    ),
    Option(
        "--keep-models",
        group="where it is kept",
        spec={
            "choices": KEEP,
            "default": "best",
            "help": "which trials' models stay in the store",
        },
    ),
    Option(
        "--working-dir",
        group="what is searched",
        spec={
            "type": Path,
            "metavar": "DIR",
            "help": "folder with the modules that the objective imports; copied to all nodes "
            "(default: the objective's own folder)",
        },
        read=lambda folder: None if folder is None else Path(folder).absolute(),
        kept=lambda folder: None if folder is None else str(folder),
        may_differ=True,
    ),
    Option(
        "--changed-objective",
        group="what is searched",
        spec={
            "action": "store_true",
            "help": "with --resume: go on although the objective's code has changed",
        },
        kept=lambda _: False,  # it is meant once
        may_differ=True,
    ),
)


def stem(values: Values) -> str:
    """Return what an objective is called after: the name of its file or module."""
    named = str(values["objective"] or "objective")
    file = named.rpartition(".py")[0] or named.partition(":")[0]
    return Path(file).name.rpartition(".")[2] or "objective"


def _open(request: Request) -> Task:
    from search.tasks.objective.task import Objective

    return Objective.open(request)


OBJECTIVE = Kind(
    name="objective",
    options=OPTIONS,
    experiment_name=stem,
    registered_model=stem,
    stem=stem,
    check=lambda _: None,
    open=_open,
    asked_by="--objective",
)
