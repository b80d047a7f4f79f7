"""What the command line means, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.errors import InputError
from search.options.command_line import parse
from search.options.settings import Machines, Tracking
from search.record.provenance import os_user


@pytest.fixture(autouse=True)
def _folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the command line in an empty folder, without MLflow's variable."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_defaults_are_the_documented_ones(tmp_path: Path) -> None:
    """Of every option."""
    settings = parse([])
    assert settings.kind.name == "taxi"
    assert settings.name.startswith("xgboost-")
    assert settings.task == {
        "trainable": "xgboost",
        "set": {},
        "train_data": (),
        "valid_data": (),
        "test_data": (),
        "data_dir": tmp_path / "data",
    }
    assert settings.machines == Machines(address="local", max_concurrent=None, cpus_per_trial=1)
    assert settings.tracking == Tracking(
        uri=f"sqlite:///{tmp_path}/mlflow.db",
        experiment_name="nyc-taxi-experiment",
        registered_model="nyc-taxi-duration",
        developer=os_user(),
    )
    expected = {
        "num_samples": 100,
        "initial_points": (),
        "points_file": "",
        "warm_start": (),
        "resume": False,
        "seed": 42,
        "scheduler": "asha",
        "time_budget_s": None,
        "state_dir": tmp_path / ".search",
        "json": False,
        "given": {},
    }
    assert {name: getattr(settings, name) for name in expected} == expected


def test_options_may_have_several_values_or_be_repeated() -> None:
    """Data takes several words; --set may be repeated, and its value may contain `=`."""
    words = ["--train-data", "a.parquet", "b*.csv", "--valid-data", "sample"]
    words += ["--test-data", "t.csv", "--set", "max_depth=7", "--set", "note=a=b"]
    task = parse(words).task
    assert task["train_data"] == ("a.parquet", "b*.csv")
    assert (task["valid_data"], task["test_data"]) == (("sample",), ("t.csv",))
    assert task["set"] == {"max_depth": "7", "note": "a=b"}


def test_every_option_reaches_its_setting(tmp_path: Path) -> None:
    words = ["--num-samples", "7", "--trainable", "lasso", "--data-dir", "months"]
    words += ["--warm-start", "s0", "s1", "--seed", "5", "--scheduler", "none", "--json"]
    words += ["--time-budget", "1h30m", "--max-concurrent", "2", "--cpus-per-trial", "3"]
    words += ["--address", "10.0.0.1:6379", "--registered-model", "m", "--developer", "me"]
    words += ["--tracking-uri", "http://host:5000", "--experiment-name", "e", "--name", "s2"]
    words += ["--state-dir", "state"]
    settings = parse(words)
    assert (settings.task["trainable"], settings.task["data_dir"]) == ("lasso", tmp_path / "months")
    assert settings.machines == Machines("10.0.0.1:6379", max_concurrent=2, cpus_per_trial=3)
    assert settings.tracking == Tracking("http://host:5000", "e", "m", "me")
    expected = {
        "name": "s2",
        "num_samples": 7,
        "warm_start": ("s0", "s1"),
        "seed": 5,
        "scheduler": "none",
        "time_budget_s": 5400.0,
        "state_dir": tmp_path / "state",
        "json": True,
    }
    assert {name: getattr(settings, name) for name in expected} == expected


def test_points_are_read_from_their_file(tmp_path: Path) -> None:
    (tmp_path / "points.json").write_text('[{"alpha": 0.5}, {"alpha": 1}]')
    settings = parse(["--initial-points", "points.json"])
    assert settings.initial_points == ({"alpha": 0.5}, {"alpha": 1})
    assert settings.points_file == "points.json"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "No such file"),
        ("{broken", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ('{"alpha": 1}', "a list of points wanted"),
    ],
    ids=["absent", "broken", "deep", "no list"],
)
def test_file_without_points_is_refused(content: str | None, why: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "points.json").write_text(content)
    with pytest.raises(InputError, match=f"--initial-points points.json: .*{why}") as error:
        parse(["--initial-points", "points.json"])
    assert "\n" not in str(error.value)


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
def test_bad_option_is_refused_in_one_line(words: list[str], names: list[str]) -> None:
    """The line names the option and what is wrong with it; the exit code is 2."""
    with pytest.raises(InputError) as error:
        parse(words)
    message = str(error.value)
    assert error.value.exit_code == 2
    assert "\n" not in message
    assert [name for name in names if name not in message] == []
