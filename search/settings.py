"""What the user asked for: the command line, read and checked once, into one frozen value."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from search.errors import InputError

DEFAULT_TRAIN = ("green:2021-01",)
DEFAULT_VALID = ("green:2021-02",)
LONGEST_NAME = 100


@dataclass(frozen=True)
class Settings:
    """One search, as asked for. Paths and URIs are absolute."""

    name: str
    num_samples: int
    trainable: str
    train_data: tuple[str, ...]  # empty: the default months, or the made sample
    valid_data: tuple[str, ...]
    test_data: tuple[str, ...]
    data_dir: Path
    overrides: dict[str, str]  # --set NAME=VALUE, not yet read
    initial_points: Path | None
    seed: int
    scheduler: str  # "asha" or "none"
    time_budget_s: float | None
    max_concurrent: int | None
    cpus_per_trial: int
    address: str
    tracking_uri: str
    experiment_name: str
    registered_model: str
    state_dir: Path
    developer: str
    json: bool


def parse(argv: Sequence[str]) -> Settings:
    """Read the command line.

    :raises InputError: an option is unknown, lacks its value, or has one it cannot have.
    """
    given = _parser().parse_args(argv)
    if bool(given.train_data) != bool(given.valid_data):
        one, other = ("train", "valid") if given.train_data else ("valid", "train")
        raise InputError(
            f"--{one}-data without --{other}-data: give both, or neither for the two months of 2021"
        )
    if given.name is not None and not (
        given.name.strip() and given.name.isprintable() and len(given.name) <= LONGEST_NAME
    ):
        raise InputError(
            f"--name {given.name[:50]!r}: give 1 to {LONGEST_NAME} printable characters"
        )
    if not given.registered_model.strip() or set(given.registered_model) & set("/:"):
        raise InputError(
            f"--registered-model {given.registered_model!r}: a name without / and : is wanted"
        )
    return Settings(
        name=given.name or _made_up_name(given.trainable),
        num_samples=given.num_samples,
        trainable=given.trainable,
        train_data=tuple(given.train_data),
        valid_data=tuple(given.valid_data),
        test_data=tuple(given.test_data),
        data_dir=given.data_dir.absolute(),
        overrides=dict(given.set),
        initial_points=given.initial_points,
        seed=given.seed,
        scheduler=given.scheduler,
        time_budget_s=given.time_budget,
        max_concurrent=given.max_concurrent,
        cpus_per_trial=given.cpus_per_trial,
        address=given.address,
        tracking_uri=_absolute(
            given.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
        ),
        experiment_name=given.experiment_name,
        registered_model=given.registered_model,
        state_dir=given.state_dir.absolute(),
        developer=given.developer or os_user(),
        json=given.json,
    )


def os_user() -> str:
    """Return the name of whoever runs this process."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in some containers
        return str(os.getuid())


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see python -m search.run --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m search.run",
        description="Search the hyperparameters of a model, keep every trial in MLflow, "
        "refit the best, register it.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument_group("what is searched").add_argument
    add("--num-samples", type=_at_least_one, default=100, metavar="N", help="trials in all")
    add(
        "--trainable",
        default="xgboost",
        metavar="NAME",
        help="xgboost, lasso, ridge, linear, or module:attribute",
    )
    add(
        "--set",
        type=_assignment,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="fix a searched parameter, or change a setting such as num_boost_round (repeatable)",
    )
    add(
        "--initial-points",
        type=Path,
        metavar="FILE",
        help="JSON list of points to try first, each an object of parameter names and values",
    )
    add("--seed", type=_seed, default=42, metavar="N", help="seeds the searcher and the fits")
    add(
        "--scheduler",
        choices=("asha", "none"),
        default="asha",
        help="stop weak trials at rungs, or run each to its end",
    )
    add(
        "--time-budget",
        type=_duration_s,
        metavar="30m",
        help="start no trial after it, end the running ones, refit the best",
    )

    add = parser.add_argument_group("data").add_argument
    for role in ("train", "valid", "test"):
        default = {"train": DEFAULT_TRAIN, "valid": DEFAULT_VALID}.get(role)
        add(
            f"--{role}-data",
            nargs="+",
            default=[],
            metavar="X",
            help="parquet or CSV files, globs, URLs, TLC months as green:2021-01, or `sample` "
            f"(default: {default[0] if default else 'none'})",
        )
    add(
        "--data-dir",
        type=Path,
        default=Path("data"),
        metavar="DIR",
        help="where months are looked for, and kept once downloaded",
    )

    add = parser.add_argument_group("where it runs").add_argument
    add("--max-concurrent", type=_at_least_one, metavar="N", help="trials at once")
    add(
        "--cpus-per-trial", type=_at_least_one, default=1, metavar="N", help="threads of each trial"
    )
    add(
        "--address",
        default="local",
        metavar="local|auto|HOST:PORT",
        help="a Ray of its own, or a running cluster seen from one of its nodes",
    )
    add(
        "--state-dir",
        type=Path,
        default=Path(".search"),
        metavar="DIR",
        help="log, Ray's session and results; mode 0700",
    )

    add = parser.add_argument_group("where it is kept").add_argument
    add(
        "--tracking-uri",
        metavar="URI",
        help="MLflow's store or server (default: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db)",
    )
    add("--experiment-name", default="nyc-taxi-experiment", metavar="NAME", help="experiment")
    add("--registered-model", default="nyc-taxi-duration", metavar="NAME", help="registered model")
    add("--name", metavar="NAME", help="the search's name, one per experiment (default: made up)")
    add("--developer", metavar="NAME", help="the tag `developer` (default: the OS user)")
    add("--json", action="store_true", help="print one JSON object on stdout at the end")
    return parser


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None


def _at_least_one(text: str) -> int:
    if (number := _whole(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number} is too few: give 1 or more")
    return number


def _seed(text: str) -> int:
    if not 0 <= (number := _whole(text)) < 2**31:
        raise argparse.ArgumentTypeError(f"{number} is no seed: give 0 to {2**31 - 1}")
    return number


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=VALUE")
    return name, value


def _duration_s(text: str) -> float:
    """Return seconds of "90s", "30m", "1h30m", "2d"."""
    seconds = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
    parts = re.findall(r"(\d+(?:\.\d+)?)([dhms])", text)
    total = sum(float(number) * seconds[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text or total <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration: write 90s, 30m, 2h or 1h30m")
    return total


def _absolute(tracking_uri: str) -> str:
    """Return the URI with an absolute path, so that every process opens the same file."""
    scheme, separator, path = tracking_uri.partition(":///")
    if scheme == "sqlite" and separator:
        if not path:
            raise InputError("--tracking-uri sqlite:///: names no file; write sqlite:///mlflow.db")
        return tracking_uri if path.startswith("/") else f"sqlite:///{Path(path).absolute()}"
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", tracking_uri):
        raise InputError(
            f"--tracking-uri {tracking_uri!r}: no scheme; "
            "write sqlite:///FILE for a file, or http://HOST:PORT for a server"
        )
    return tracking_uri


def _made_up_name(trainable: str) -> str:
    family = re.sub(r"[^A-Za-z0-9]+", "-", trainable).strip("-")
    return f"{family}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{os.urandom(2).hex()}"
