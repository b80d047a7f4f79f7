"""What the command line means, and what it refuses."""

from __future__ import annotations

import os
from dataclasses import FrozenInstanceError, asdict
from pathlib import Path

import pytest

from search import settings
from search.errors import InputError
from search.settings import parse


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the command line in a folder of the test's own, with no MLflow set up."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_defaults_are_the_interfaces(tmp_path: Path) -> None:
    """Every option has the default that INTERFACE's table gives."""
    found = asdict(parse([]))
    assert found.pop("name").startswith("xgboost-")
    expected = {
        "num_samples": 100,
        "trainable": "xgboost",
        "train_data": (),
        "valid_data": (),
        "test_data": (),
        "data_dir": tmp_path / "data",
        "overrides": {},
        "initial_points": (),
        "warm_start": (),
        "resume": False,
        "seed": 42,
        "scheduler": "asha",
        "time_budget_s": None,
        "max_concurrent": None,
        "cpus_per_trial": 1,
        "address": "local",
        "tracking_uri": f"sqlite:///{tmp_path}/mlflow.db",
        "experiment_name": "nyc-taxi-experiment",
        "registered_model": "nyc-taxi-duration",
        "state_dir": tmp_path / ".search",
        "developer": settings.os_user(),
        "json": False,
    }
    assert {name: found[name] for name in expected} == expected


def test_default_months_are_the_interfaces() -> None:
    """Without data named, it is January to train and February to validate."""
    assert settings.DEFAULT_TRAIN == ("green:2021-01",)
    assert settings.DEFAULT_VALID == ("green:2021-02",)


def test_settings_cannot_be_changed() -> None:
    """What was asked for stays what was asked for."""
    with pytest.raises(FrozenInstanceError):
        parse([]).seed = 1  # type: ignore[misc]


def test_made_up_names_differ() -> None:
    """Two searches started in the same second have two names."""
    assert parse([]).name != parse([]).name


def test_made_up_name_of_a_trainable_from_outside_is_plain() -> None:
    """The name of a search holds no dots and colons."""
    name = parse(["--trainable", "my.module:THING"]).name
    assert name.startswith("my-module-THING-")


def test_lists_and_repeats() -> None:
    """Data takes several words; --set may be repeated, and its value may hold `=`."""
    found = parse(
        [
            "--train-data",
            "a.parquet",
            "b*.csv",
            "--valid-data",
            "sample",
            "--test-data",
            "t.csv",
            "--set",
            "max_depth=7",
            "--set",
            "note=a=b",
        ]
    )
    assert found.train_data == ("a.parquet", "b*.csv")
    assert (found.valid_data, found.test_data) == (("sample",), ("t.csv",))
    assert found.overrides == {"max_depth": "7", "note": "a=b"}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("2d", 172_800), ("0.5s", 0.5)],
)
def test_durations(text: str, seconds: float) -> None:
    """A duration is numbers with units, added up."""
    assert parse(["--time-budget", text]).time_budget_s == seconds


class TestTrackingUri:
    @pytest.mark.parametrize("path", ["my.db", "sub/my.db", "./my.db"])
    def test_relative_sqlite_becomes_absolute(self, path: str, tmp_path: Path) -> None:
        """Every process opens the same file, whatever folder it works in."""
        uri = parse(["--tracking-uri", f"sqlite:///{path}"]).tracking_uri
        assert uri == f"sqlite:///{tmp_path / path}"

    @pytest.mark.parametrize(
        "uri",
        [
            "sqlite:////var/my.db",
            "http://host:5000",
            "HTTPS://host",
            "databricks:x",
            "postgresql+psycopg2://someone@host/runs",
        ],
    )
    def test_others_stay(self, uri: str) -> None:
        """What is absolute or a server is taken as it is."""
        assert parse(["--tracking-uri", uri]).tracking_uri == uri

    def test_environment_is_honoured(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without the option, MLFLOW_TRACKING_URI says where."""
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://from-environment:5000")
        assert parse([]).tracking_uri == "http://from-environment:5000"

    def test_relative_sqlite_of_the_environment_becomes_absolute(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """The environment's URI is read as the option's is."""
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///theirs.db")
        assert parse([]).tracking_uri == f"sqlite:///{tmp_path}/theirs.db"

    def test_option_wins(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The option is nearer than the environment."""
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://from-environment:5000")
        assert parse(["--tracking-uri", "http://asked:1"]).tracking_uri == "http://asked:1"

    def test_empty_environment_is_none(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """An empty variable says nothing."""
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
        assert parse([]).tracking_uri == f"sqlite:///{tmp_path}/mlflow.db"


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["--num-samples", "0"], ["--num-samples", "0", "1 or more"]),
        (["--num-samples", "-3"], ["--num-samples", "-3"]),
        (["--num-samples", "ten"], ["--num-samples", "'ten'", "whole number"]),
        (["--num-samples", "1.5"], ["--num-samples", "'1.5'"]),
        (["--num-samples"], ["--num-samples", "expected one argument"]),
        (["--max-concurrent", "0"], ["--max-concurrent", "1 or more"]),
        (["--cpus-per-trial", "0"], ["--cpus-per-trial", "1 or more"]),
        (["--seed", "-1"], ["--seed", "0 to 2147483647"]),
        (["--seed", "2147483648"], ["--seed", "0 to 2147483647"]),
        (["--seed", "x"], ["--seed", "'x'"]),
        (["--scheduler", "median"], ["--scheduler", "'median'", "asha"]),
        (["--time-budget", "30"], ["--time-budget", "'30'", "30m"]),
        (["--time-budget", "0s"], ["--time-budget", "'0s'"]),
        (["--time-budget", "1h-30m"], ["--time-budget"]),
        (["--time-budget", "soon"], ["--time-budget", "'soon'"]),
        (["--time-budget", ""], ["--time-budget"]),
        (["--set", "max_depth"], ["--set", "'max_depth'", "NAME=VALUE"]),
        (["--set", "=7"], ["--set", "NAME=VALUE"]),
        (["--set", "max_depth="], ["--set", "NAME=VALUE"]),
        (["--tracking-uri", "my.db"], ["--tracking-uri", "my.db", "sqlite:///FILE"]),
        (["--train-data", "a"], ["--train-data", "--valid-data"]),
        (["--valid-data", "a"], ["--valid-data", "--train-data"]),
        (["--train-data"], ["--train-data", "at least one argument"]),
        (["--nonesuch"], ["--nonesuch"]),
        (["stray"], ["stray"]),
        (["--num-sample", "3"], ["--num-sample"]),
    ],
)
def test_bad_value_is_refused_in_one_line(words: list[str], names: list[str]) -> None:
    """What cannot be meant ends with exit code 2 and one line that names it."""
    with pytest.raises(InputError) as error:
        parse(words)
    said = str(error.value)
    assert error.value.exit_code == 2
    assert "\n" not in said
    assert [name for name in names if name not in said] == []


def test_user_without_a_name_has_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container whose user is not in the password file, the user's id is the developer."""

    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr("getpass.getuser", nameless)
    assert parse([]).developer == str(os.getuid())
