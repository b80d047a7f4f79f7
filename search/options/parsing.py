"""What the parsers of all commands share: one-line errors, and the types of values."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import NoReturn

from search.errors import InputError

ADDRESS_HELP = "a Ray of its own, or a running cluster seen from one of its nodes"
TRACKING_HELP = "MLflow's store or server (default: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db)"


class _Defaults(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the default of each option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return super()._get_help_string(action) if action.default else action.help


class Parser(argparse.ArgumentParser):
    """Reports what is wrong with the command line in one line."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(
            prog, description=description, formatter_class=_Defaults, allow_abbrev=False
        )

    def error(self, message: str) -> NoReturn:
        """Raise it as an error of the user's.

        :raises InputError: always.
        """
        raise InputError(f"{message}; see {self.prog} --help")


def at_least_one(text: str) -> int:
    """Return a whole number of 1 or more."""
    if (number := _whole(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number} is too few: give 1 or more")
    return number


def seed(text: str) -> int:
    """Return a seed."""
    if not 0 <= (number := _whole(text)) < 2**31:
        raise argparse.ArgumentTypeError(f"{number} is no seed: give 0 to {2**31 - 1}")
    return number


def duration_s(text: str) -> float:
    """Return the seconds of "90s", "30m", "1h30m", "2d"."""
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


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
