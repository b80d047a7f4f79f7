"""The taxi task on the command line. Light: ``--help`` imports it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from search.errors import InputError
from search.tasks.green_taxi.libraries import FITTED_WITH
from search.tasks.kinds import Kind, Option, Request, Values
from search.values.uri import without_credentials

if TYPE_CHECKING:
    from search.tasks.base import Task


def _assignment(text: str) -> tuple[str, str]:
    from argparse import ArgumentTypeError

    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise ArgumentTypeError(f"{text!r} is not of the form NAME=VALUE")
    return name, value


def _data(role: str, default: str) -> Option:
    spec = {
        "nargs": "+",
        "default": [],
        "metavar": "X",
        "help": "parquet or CSV files, globs, URLs, TLC months as green:2021-01, or `sample` "
        f"(default: {default})",
    }
    return Option(
        f"--{role}-data",
        group="data",
        spec=spec,
        read=tuple,
        kept=lambda named: [without_credentials(each) for each in named],
    )


OPTIONS = (
    Option(
        "--trainable",
        group="what is searched",
        spec={
            "default": "xgboost",
            "metavar": "NAME",
            "help": "xgboost, lasso, ridge, linear, or module:attribute",
        },
    ),
    Option(
        "--set",
        group="what is searched",
        spec={
            "type": _assignment,
            "action": "append",
            "default": [],
            "metavar": "NAME=VALUE",
            "help": "fix a searched parameter, or change a setting such as num_boost_round "
            "(repeatable)",
        },
        read=dict,
    ),
    _data("train", "green:2021-01"),
    _data("valid", "green:2021-02"),
    _data("test", "none"),
    Option(
        "--data-dir",
        group="data",
        spec={
            "type": Path,
            "default": Path("data"),
            "metavar": "DIR",
            "help": "where months are looked for, and kept once downloaded",
        },
        read=lambda folder: Path(folder).absolute(),
        kept=str,
        may_differ=True,
    ),
)


def _check(values: Values) -> None:
    if bool(values["train_data"]) != bool(values["valid_data"]):
        one, other = ("train", "valid") if values["train_data"] else ("valid", "train")
        raise InputError(
            f"--{one}-data without --{other}-data: give both, or neither for the two months of 2021"
        )


def _open(request: Request) -> Task:
    from search.tasks.green_taxi.task import GreenTaxi

    return GreenTaxi.open(request)


GREEN_TAXI = Kind(
    name="taxi",
    options=OPTIONS,
    experiment_name=lambda _: "nyc-taxi-experiment",
    registered_model=lambda _: "nyc-taxi-duration",
    stem=lambda values: str(values["trainable"]),
    check=_check,
    open=_open,
    fitted_with=FITTED_WITH,
)
