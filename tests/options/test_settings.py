"""One search as asked for: its name, and the command that goes on with it."""

from __future__ import annotations

import os
import shlex
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from search.errors import InputError
from search.options.command_line import parse, resumed

# every option that the parent run keeps, and the name
KEPT = shlex.split(
    "--num-samples 7 --trainable lasso --set alpha=0.5 --set note=a=b "
    "--train-data a.parquet 'b*.csv' --valid-data v.csv --test-data sample "
    "--data-dir months --warm-start s0 'two words' --seed 5 "
    "--scheduler none --time-budget 30m --max-concurrent 2 "
    "--cpus-per-trial 3 --address 10.0.0.1:6379 --registered-model m "
    "--developer me --initial-points points.json --name s1"
)


@pytest.fixture(autouse=True)
def _folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the command line in a folder with a file of points, without MLflow's variable."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "points.json").write_text('[{"alpha": 0.5}]')


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        parse([]).seed = 1  # type: ignore[misc]


def test_made_up_names_differ() -> None:
    """Also of two searches that start in the same second."""
    assert parse([]).name != parse([]).name


def test_made_up_name_has_no_dots_and_colons() -> None:
    """They are in the name of a trainable from outside."""
    name = parse(["--trainable", "my.module:THING"]).name
    assert name.startswith("my-module-THING-")


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 101, "\x1b[31m"])
def test_name_is_1_to_100_printable_characters(name: str) -> None:
    with pytest.raises(InputError, match=r"--name .*1 to 100 printable characters"):
        parse([f"--name={name}"])


@pytest.mark.parametrize("name", [" ", "a/b", "a:b"])
def test_registered_model_has_a_name_that_mlflow_takes(name: str) -> None:
    with pytest.raises(InputError, match="--registered-model"):
        parse([f"--registered-model={name}"])


def test_user_without_a_name_has_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user of a container may not be in the password file: the developer is the user's id."""

    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr("getpass.getuser", nameless)
    assert parse([]).tracking.developer == str(os.getuid())


class TestResumeCommand:
    """The command that goes on with a search, as a user reads it."""

    def test_command_says_where_the_search_is(self) -> None:
        """Options that say where are repeated; those that the search keeps are not."""
        where = ["--tracking-uri", "sqlite:///my.db", "--experiment-name", "all taxis"]
        command = parse([*KEPT, *where, "--state-dir", "s"]).resume_command
        assert command == (
            "python -m search.run --resume s1 --tracking-uri sqlite:///my.db "
            "--experiment-name 'all taxis' --state-dir s"
        )

    def test_command_has_no_credentials(self) -> None:
        """It may be copied anywhere."""
        asked = parse(["--name", "s1", "--tracking-uri", "http://me:secret@host:5000"])
        assert asked.resume_command == (
            "python -m search.run --resume s1 --tracking-uri http://host:5000"
        )

    @settings(
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(name=st.text(min_size=1, max_size=100).filter(lambda name: bool(name.strip())))
    @example(name="-x")
    @example(name="--json")
    @example(name="somebody's $HOME")
    def test_command_finds_a_search_of_any_name(self, name: str) -> None:
        """A shell reads the name as it is."""
        if not name.isprintable():
            return
        asked = parse([f"--name={name}", f"--experiment-name={name}"])
        read = parse(shlex.split(asked.resume_command)[3:])
        found = (read.name, read.resume, read.tracking.experiment_name)
        assert found == (name, True, name)

    def test_command_is_the_same_for_a_search_that_goes_on(self) -> None:
        """A second interruption prints what the first one did."""
        begun = parse(KEPT)
        gone_on = resumed(parse(["--resume", "s1", "--num-samples", "9"]), begun.kept)
        assert gone_on.resume_command == begun.resume_command
