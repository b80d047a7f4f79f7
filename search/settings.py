"""What the user asked for: the command line, read and checked once, into one frozen value."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from search.errors import InputError
from search.server import without_credentials

DEFAULT_TRAIN = ("green:2021-01",)
DEFAULT_VALID = ("green:2021-02",)
LONGEST_NAME = 100

ADDRESS_HELP = "a Ray of its own, or a running cluster seen from one of its nodes"
TRACKING_HELP = "MLflow's store or server (default: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db)"

# On --resume every option comes from the search's parent run. These may be given anew ...
MAY_DIFFER = ("num_samples", "time_budget", "max_concurrent", "address", "state_dir", "json")
# ... these say where the search is found ...
WHERE = ("tracking_uri", "experiment_name", "state_dir")
# ... and all others, but for these, are kept in the parent run and must be what they were.
NOT_KEPT = ("name", "resume", "json", *WHERE)


@dataclass(frozen=True)
class Settings:
    """One search, as asked for. Paths and URIs are absolute."""

    name: str
    resume: bool
    num_samples: int
    trainable: str
    train_data: tuple[str, ...]  # empty: the default months, or the made sample
    valid_data: tuple[str, ...]
    test_data: tuple[str, ...]
    data_dir: Path
    overrides: dict[str, str]  # --set NAME=VALUE, not yet read
    initial_points: tuple[Any, ...]  # as JSON, not yet checked
    points_file: str  # where they came from
    warm_start: tuple[str, ...]
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
    given: Mapping[str, Any]  # what the command line names, not what is its default

    @property
    def kept(self) -> dict[str, Any]:
        """What a parent run keeps for :func:`resumed`, as JSON has it; no credentials in it."""
        return {
            "num_samples": self.num_samples,
            "trainable": self.trainable,
            "train_data": [without_credentials(each) for each in self.train_data],
            "valid_data": [without_credentials(each) for each in self.valid_data],
            "test_data": [without_credentials(each) for each in self.test_data],
            "data_dir": str(self.data_dir),
            "set": self.overrides,
            "initial_points": list(self.initial_points),
            "warm_start": list(self.warm_start),
            "seed": self.seed,
            "scheduler": self.scheduler,
            "time_budget": self.time_budget_s,
            "max_concurrent": self.max_concurrent,
            "cpus_per_trial": self.cpus_per_trial,
            "address": self.address,
            "registered_model": self.registered_model,
            "developer": self.developer,
        }

    @property
    def resume_command(self) -> str:
        """The command that goes on with this search; no credentials in it."""
        given = {name: str(self.given[name]) for name in WHERE if self.given.get(name)}
        where = {name: without_credentials(value) for name, value in given.items()}
        words = ["python", "-m", "search.run"]
        for name, value in {"resume": self.name, **where}.items():
            option = f"--{name.replace('_', '-')}"
            words += [f"{option}={value}"] if value.startswith("-") else [option, value]
        return shlex.join(words)


def parse(argv: Sequence[str]) -> Settings:
    """Read the command line.

    :raises InputError: an option is unknown, lacks its value, or has one it cannot have.
    """
    parser = _parser()
    values = vars(parser.parse_args(argv))
    # read a second time without defaults: what is then not None was given
    file = values["initial_points"]
    named = vars(parser.parse_args(argv, argparse.Namespace(**dict.fromkeys(values))))
    given = {name: value for name, value in named.items() if value is not None}
    if file is not None:
        values["initial_points"] = given["initial_points"] = _points(file)
        values["points_file"] = str(file)
    values["set"] = dict(values["set"])
    if "set" in given:
        given["set"] = values["set"]
    return _settings(values, given)


def resumed(asked: Settings, kept: Mapping[str, Any]) -> Settings:
    """Return the settings of a search that goes on: what it kept, and what may be given anew.

    :raises InputError: something is given that is another than it was.
    """
    values = {**vars(_parser().parse_args([])), **kept, "resume": asked.name}
    for name, value in asked.given.items():
        if name in kept and name not in MAY_DIFFER:
            now, was = _comparable(value), _comparable(kept[name])
            if now != was:
                raise InputError(
                    f"--{name.replace('_', '-')} {_shown(now)}: the search {asked.name!r} has "
                    f"{_shown(was)}, and goes on with that; leave the option out"
                )
        values[name] = value
    return _settings(values, asked.given)


def _comparable(value: Any) -> Any:
    """Return an option's value as a parent run keeps it."""
    if isinstance(value, Path):
        return str(value.absolute())
    if isinstance(value, list | tuple):
        return [without_credentials(each) if isinstance(each, str) else each for each in value]
    return value


def _shown(value: Any) -> str:
    return str(value) if isinstance(value, str | int | float) else json.dumps(value)


def _settings(values: Mapping[str, Any], given: Mapping[str, Any]) -> Settings:
    """Check what options say together, and return them as one value."""
    if bool(values["train_data"]) != bool(values["valid_data"]):
        one, other = ("train", "valid") if values["train_data"] else ("valid", "train")
        raise InputError(
            f"--{one}-data without --{other}-data: give both, or neither for the two months of 2021"
        )
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
    model = values["registered_model"]
    if not model.strip() or set(model) & set("/:"):
        raise InputError(f"--registered-model {model!r}: a name without / and : is wanted")
    return Settings(
        name=values["resume"] or values["name"] or _made_up_name(values["trainable"]),
        resume=values["resume"] is not None,
        num_samples=values["num_samples"],
        trainable=values["trainable"],
        train_data=tuple(values["train_data"]),
        valid_data=tuple(values["valid_data"]),
        test_data=tuple(values["test_data"]),
        data_dir=Path(values["data_dir"]).absolute(),
        overrides=dict(values["set"]),
        initial_points=tuple(values["initial_points"] or ()),
        points_file=values.get("points_file", ""),
        warm_start=tuple(values["warm_start"]),
        seed=values["seed"],
        scheduler=values["scheduler"],
        time_budget_s=values["time_budget"],
        max_concurrent=values["max_concurrent"],
        cpus_per_trial=values["cpus_per_trial"],
        address=values["address"],
        tracking_uri=tracking_uri(values["tracking_uri"]),
        experiment_name=values["experiment_name"],
        registered_model=model,
        state_dir=Path(values["state_dir"]).absolute(),
        developer=values["developer"] or os_user(),
        json=values["json"],
        given=given,
    )


def _points(file: Path) -> list[Any]:
    """Return the points of a JSON file; what is in them is checked against the space."""
    try:
        points = json.loads(file.read_text())
    except OSError as error:
        raise InputError(f"--initial-points {file}: {error.strerror}; give a JSON file") from error
    except (ValueError, RecursionError) as error:  # the latter: lists in lists in lists
        raise InputError(f"--initial-points {file}: no JSON ({error})") from error
    if not isinstance(points, list):
        raise InputError(f"--initial-points {file}: a list of points wanted, found {points!r:.80}")
    return points


def os_user() -> str:
    """Return the name of whoever runs this process."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in some containers
        return str(os.getuid())


class _Defaults(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the defaults that there are."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return super()._get_help_string(action) if action.default else action.help


class Parser(argparse.ArgumentParser):
    """Says what is wrong with the command line in one line."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(
            prog, description=description, formatter_class=_Defaults, allow_abbrev=False
        )

    def error(self, message: str) -> NoReturn:
        """Raise it.

        :raises InputError: always.
        """
        raise InputError(f"{message}; see {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m search.run",
        description="Search the hyperparameters of a model, keep every trial in MLflow, "
        "refit the best, register it.",
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
    add(
        "--warm-start",
        nargs="+",
        default=[],
        metavar="NAME",
        help="tell the searcher these searches' finished trials first",
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
    add(
        "--max-concurrent",
        type=_at_least_one,
        metavar="N",
        help="trials at once (default: what the cluster holds, nodes that join included); a "
        "cluster that grows on demand is asked for as many",
    )
    add(
        "--cpus-per-trial",
        type=_at_least_one,
        default=1,
        metavar="N",
        help="CPUs of each trial, and threads of its fit; xgboost's `hist` on categories uses one",
    )
    add(
        "--address",
        default="local",
        metavar="local|auto|HOST:PORT",
        help=ADDRESS_HELP,
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
        help=TRACKING_HELP,
    )
    add("--experiment-name", default="nyc-taxi-experiment", metavar="NAME", help="experiment")
    add("--registered-model", default="nyc-taxi-duration", metavar="NAME", help="registered model")
    add("--name", metavar="NAME", help="the search's name, one per experiment (default: made up)")
    add(
        "--resume",
        metavar="NAME",
        help="go on with that search: every option comes from it; a larger --num-samples extends "
        "it; --time-budget, --max-concurrent, --address, --state-dir, --json may be given anew",
    )
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


def tracking_uri(given: str | None) -> str:
    """Return the URI with an absolute path, so that every process opens the same file.

    :raises InputError: it names no file, or has no scheme.
    """
    uri = given or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    scheme, separator, path = uri.partition(":///")
    if scheme == "sqlite" and separator:
        if not path:
            raise InputError("--tracking-uri sqlite:///: names no file; write sqlite:///mlflow.db")
        return uri if path.startswith("/") else f"sqlite:///{Path(path).absolute()}"
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", uri):
        raise InputError(
            f"--tracking-uri {uri!r}: no scheme; "
            "write sqlite:///FILE for a file, or http://HOST:PORT for a server"
        )
    return uri


def _made_up_name(trainable: str) -> str:
    family = re.sub(r"[^A-Za-z0-9]+", "-", trainable).strip("-")
    return f"{family}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{os.urandom(2).hex()}"
