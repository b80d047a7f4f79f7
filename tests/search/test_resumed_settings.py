"""A search that goes on is what it was; only what changes no trial may be asked for anew."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from search.errors import InputError
from search.settings import Settings, parse, resumed

BEGUN = [
    *("--num-samples", "7", "--trainable", "lasso", "--set", "alpha=0.5", "--set", "note=a=b"),
    *("--train-data", "a.parquet", "b*.csv", "--valid-data", "v.csv", "--test-data", "sample"),
    *("--data-dir", "months", "--warm-start", "s0", "two words", "--seed", "5"),
    *("--scheduler", "none", "--time-budget", "30m", "--max-concurrent", "2"),
    *("--cpus-per-trial", "3", "--address", "10.0.0.1:6379", "--registered-model", "m"),
    *("--developer", "me", "--initial-points", "points.json", "--name", "s1"),
]
POINTS = [{"alpha": 0.5}, {"alpha": 1}]
# of another start, not of the search
NOT_COMPARED = ("name", "resume", "given", "points_file")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the command line in a folder of the test's own, with no MLflow set up."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "points.json").write_text(json.dumps(POINTS))
    (tmp_path / "same.json").write_text(json.dumps(POINTS, indent=4))
    (tmp_path / "others.json").write_text(json.dumps(POINTS[:1]))


def kept_of(argv: Sequence[str]) -> dict[str, Any]:
    """Return what the parent run of a search holds, as it is read back."""
    kept: dict[str, Any] = json.loads(json.dumps(parse(argv).kept))
    return kept


def gone_on(*argv: str, begun: Sequence[str] = BEGUN) -> Settings:
    return resumed(parse(["--resume", "s1", *argv]), kept_of(begun))


def compared(settings: Settings) -> Mapping[str, Any]:
    return {name: value for name, value in asdict(settings).items() if name not in NOT_COMPARED}


@pytest.mark.parametrize("begun", [BEGUN, ["--name", "s1"]], ids=["all options", "none"])
def test_every_option_comes_from_the_search(begun: Sequence[str]) -> None:
    """Only its name needs to be given; what it was begun with need not be known."""
    found = gone_on(begun=begun)
    assert (found.name, found.resume) == ("s1", True)
    assert compared(found) == compared(parse(begun))


def test_a_search_that_goes_on_twice_is_still_what_it_was() -> None:
    """What the parent run keeps of a later start is what it kept of the first."""
    first = kept_of(BEGUN)
    again = json.loads(json.dumps(resumed(parse(["--resume", "s1"]), first).kept))
    assert again == first


def test_saying_all_of_it_again_changes_nothing() -> None:
    """Who takes the command out of the shell's history, with --resume for --name, may."""
    found = gone_on(*BEGUN[:-2])
    assert compared(found) == compared(parse(BEGUN))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--num-samples", "12"], {"num_samples": 12}),
        (["--num-samples", "3"], {"num_samples": 3}),
        (["--time-budget", "2h"], {"time_budget_s": 7_200}),
        (["--max-concurrent", "8"], {"max_concurrent": 8}),
        (["--address", "local"], {"address": "local"}),
        (["--state-dir", "/elsewhere"], {"state_dir": Path("/elsewhere")}),
        (["--json"], {"json": True}),
        (["--tracking-uri", "http://host:5000"], {"tracking_uri": "http://host:5000"}),
        (["--experiment-name", "taxis"], {"experiment_name": "taxis"}),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_changes_no_trial_may_differ(
    words: Sequence[str], expected: Mapping[str, object]
) -> None:
    """How many, how long, how many at once and where; all else stays."""
    before, found = dict(compared(parse(BEGUN))), compared(gone_on(*words))
    assert found == {**before, **expected}


@pytest.mark.parametrize(
    ("words", "was"),
    [
        (["--trainable", "ridge"], "lasso"),
        (["--set", "alpha=0.5"], "note"),
        (["--set", "alpha=0.5", "--set", "note=other"], '"a=b"'),
        (["--train-data", "a.parquet", "--valid-data", "v.csv"], '["a.parquet", "b*.csv"]'),
        (["--valid-data", "x.csv", "--train-data", "a.parquet", "b*.csv"], '["v.csv"]'),
        (["--test-data", "t.csv"], '["sample"]'),
        (["--data-dir", "elsewhere"], "/months"),
        (["--warm-start", "s0"], "two words"),
        (["--seed", "6"], "5"),
        (["--scheduler", "asha"], "none"),
        (["--cpus-per-trial", "1"], "3"),
        (["--registered-model", "other"], "m"),
        (["--developer", "you"], "me"),
        (["--initial-points", "others.json"], '{"alpha": 1}'),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_would_make_another_search_is_refused(words: Sequence[str], was: str) -> None:
    """The option is named, with what was asked for and what the search has, on one line."""
    with pytest.raises(InputError) as error:
        gone_on(*words)
    message = str(error.value)
    assert "\n" not in message
    assert words[0] in message
    assert was in message
    assert "'s1'" in message
    assert "leave the option out" in message


@pytest.mark.parametrize(
    "words",
    [
        ["--test-data", "t.csv"],
        ["--set", "alpha=1"],
        ["--warm-start", "s0"],
        ["--initial-points", "points.json"],
        ["--train-data", "a", "--valid-data", "b"],
    ],
    ids=lambda words: str(words[0]),
)
def test_what_was_left_out_cannot_be_added(words: Sequence[str]) -> None:
    """A default counts as what the search has."""
    with pytest.raises(InputError, match=words[0]):
        gone_on(*words, begun=["--name", "s1"])


@pytest.mark.parametrize(
    "words",
    [
        ["--seed", "42"],
        ["--scheduler", "asha"],
        ["--trainable", "xgboost"],
        ["--data-dir", "./data"],
    ],
    ids=lambda words: str(words[0]),
)
def test_a_default_may_be_said(words: Sequence[str]) -> None:
    """Saying what is so anyway is no difference."""
    assert compared(gone_on(*words, begun=[])) == compared(parse([]))


def test_points_are_compared_not_files() -> None:
    """The same points in another file are the same points."""
    assert gone_on("--initial-points", "same.json").initial_points == tuple(POINTS)


def test_a_search_that_goes_on_has_no_other_name() -> None:
    """One of the two was meant."""
    with pytest.raises(InputError, match="--resume and --name"):
        parse(["--resume", "s1", "--name", "s2"])


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 101, "\x1b[31m"])
def test_no_search_has_a_name_like_that(name: str) -> None:
    """What could not be given as --name is not looked for."""
    with pytest.raises(InputError, match="--resume"):
        parse([f"--resume={name}"])


class TestCredentials:
    URL = "https://me:secret@host/a.parquet?signature=hidden"
    BEGUN = ("--train-data", URL, "--valid-data", "v.csv", "--name", "s1")

    def test_none_are_kept(self) -> None:
        """Whoever may read the store is not to read the data's password."""
        kept = json.dumps(kept_of(self.BEGUN))
        assert "secret" not in kept
        assert "hidden" not in kept
        assert "host/a.parquet" in kept

    def test_they_may_be_given_anew(self) -> None:
        """The same address with its password, or another signature, is the same data."""
        url = self.URL.replace("hidden", "fresh")
        found = gone_on("--train-data", url, "--valid-data", "v.csv", begun=self.BEGUN)
        assert found.train_data == (url,)

    def test_none_are_shown(self) -> None:
        """Neither when another address is refused."""
        words = ("--train-data", self.URL.replace("host", "other"), "--valid-data", "v.csv")
        with pytest.raises(InputError) as error:
            gone_on(*words, begun=self.BEGUN)
        assert "secret" not in str(error.value)
        assert "hidden" not in str(error.value)

    def test_none_are_in_the_command(self) -> None:
        """The line that says how to go on may be copied anywhere."""
        asked = parse(["--name", "s1", "--tracking-uri", "http://me:secret@host:5000"])
        assert asked.resume_command == (
            "python -m search.run --resume s1 --tracking-uri http://host:5000"
        )


class TestCommand:
    def test_it_says_where_the_search_is(self) -> None:
        """What was given is given again; what the search keeps is not."""
        argv = ["--tracking-uri", "sqlite:///my.db", "--experiment-name", "all taxis"]
        command = parse([*BEGUN, *argv, "--state-dir", "s"]).resume_command
        assert command == (
            "python -m search.run --resume s1 --tracking-uri sqlite:///my.db "
            "--experiment-name 'all taxis' --state-dir s"
        )

    @hypothesis_settings(
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(name=st.text(min_size=1, max_size=100).filter(lambda name: bool(name.strip())))
    @example(name="-x")
    @example(name="--json")
    @example(name="somebody's $HOME")
    def test_it_finds_the_search_whatever_it_is_called(self, name: str) -> None:
        """A shell reads it as it was meant."""
        if not name.isprintable():
            return
        asked = parse([f"--name={name}", f"--experiment-name={name}"])
        read = parse(shlex.split(asked.resume_command)[3:])
        assert (read.name, read.resume, read.experiment_name) == (name, True, name)

    def test_it_is_the_same_for_a_search_that_goes_on(self) -> None:
        """A second interruption says what the first one did."""
        assert gone_on("--num-samples", "9").resume_command == parse(BEGUN).resume_command
