"""A search that goes on keeps its options; only those that change no trial may differ."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from search.errors import InputError
from search.options.command_line import parse, resumed
from search.options.settings import Settings

BEGUN = shlex.split(
    "--num-samples 7 --trainable lasso --set alpha=0.5 --set note=a=b "
    "--train-data a.parquet 'b*.csv' --valid-data v.csv --test-data sample "
    "--data-dir months --warm-start s0 'two words' --seed 5 "
    "--scheduler none --time-budget 30m --max-concurrent 2 "
    "--cpus-per-trial 3 --address 10.0.0.1:6379 --registered-model m "
    "--developer me --initial-points points.json --name s1"
)
POINTS = [{"alpha": 0.5}, {"alpha": 1}]
# they belong to one start of a search, not to the search
NOT_COMPARED = ("name", "resume", "given", "points_file")


@pytest.fixture(autouse=True)
def _folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the command line in a folder with three files of points, without MLflow's variable."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "points.json").write_text(json.dumps(POINTS))
    (tmp_path / "same.json").write_text(json.dumps(POINTS, indent=4))
    (tmp_path / "others.json").write_text(json.dumps(POINTS[:1]))


def kept_of(argv: Sequence[str]) -> dict[str, Any]:
    """Return the options of a search as they are read back from its parent run."""
    kept: dict[str, Any] = json.loads(json.dumps(parse(argv).kept))
    return kept


def gone_on(*argv: str, begun: Sequence[str] = BEGUN) -> Settings:
    """Return the settings of the search ``begun`` when it goes on with the options ``argv``."""
    return resumed(parse(["--resume", "s1", *argv]), kept_of(begun))


def compared(settings: Settings) -> dict[str, Any]:
    """Return what one search has in all its starts, in one flat dictionary."""
    values = {**vars(settings), "kind": settings.kind.name}
    groups = [values.pop("task"), asdict(values.pop("machines")), asdict(values.pop("tracking"))]
    for group in groups:
        values |= group
    return {name: value for name, value in values.items() if name not in NOT_COMPARED}


@pytest.mark.parametrize("begun", [BEGUN, ["--name", "s1"]], ids=["all options", "none"])
def test_every_option_comes_from_the_search(begun: Sequence[str]) -> None:
    """Only its name must be given."""
    found = gone_on(begun=begun)
    assert (found.name, found.resume) == ("s1", True)
    assert compared(found) == compared(parse(begun))


def test_search_that_goes_on_twice_keeps_its_options() -> None:
    """The parent run has the same options after a later start."""
    first = kept_of(BEGUN)
    again = json.loads(json.dumps(resumed(parse(["--resume", "s1"]), first).kept))
    assert again == first


def test_equal_options_may_be_given_again() -> None:
    """So the first command may be repeated with --resume in place of --name."""
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
        (["--data-dir", "/elsewhere"], {"data_dir": Path("/elsewhere")}),
        (["--state-dir", "/elsewhere"], {"state_dir": Path("/elsewhere")}),
        (["--json"], {"json": True}),
        (["--tracking-uri", "http://host:5000"], {"uri": "http://host:5000"}),
        (["--experiment-name", "taxis"], {"experiment_name": "taxis"}),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_option_that_changes_no_trial_may_differ(
    words: Sequence[str], expected: Mapping[str, object]
) -> None:
    """All others stay."""
    before, found = compared(parse(BEGUN)), compared(gone_on(*words))
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
def test_option_that_changes_trials_is_refused(words: Sequence[str], was: str) -> None:
    """The message has the option, its value and the search's value, on one line."""
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
def test_option_that_was_left_out_cannot_be_added(words: Sequence[str]) -> None:
    """The search has its default."""
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
def test_default_may_be_given(words: Sequence[str]) -> None:
    """It is the value that the search has."""
    assert compared(gone_on(*words, begun=[])) == compared(parse([]))


def test_points_are_compared_and_not_their_files() -> None:
    """Equal points in another file are accepted."""
    assert gone_on("--initial-points", "same.json").initial_points == tuple(POINTS)


def test_resume_and_name_exclude_each_other() -> None:
    """A search that goes on keeps its name."""
    with pytest.raises(InputError, match="--resume and --name"):
        parse(["--resume", "s1", "--name", "s2"])


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 101, "\x1b[31m"])
def test_impossible_name_is_refused(name: str) -> None:
    """No search can have it, so the store is not asked."""
    with pytest.raises(InputError, match="--resume"):
        parse([f"--resume={name}"])


def test_task_of_a_later_version_is_refused() -> None:
    """The message says which task it is."""
    with pytest.raises(InputError, match=r"--resume s1: its task 'rockets' is unknown"):
        resumed(parse(["--resume", "s1"]), {**kept_of(BEGUN), "task": "rockets"})


def test_search_of_an_earlier_version_has_the_default_task() -> None:
    """Its parent run does not name a task."""
    kept = kept_of(BEGUN)
    del kept["task"]
    found = resumed(parse(["--resume", "s1"]), kept)
    assert compared(found) == compared(parse(BEGUN))


class TestCredentials:
    """User, password and signed query of a URL."""

    URL = "https://me:secret@host/a.parquet?signature=hidden"
    BEGUN = ("--train-data", URL, "--valid-data", "v.csv", "--name", "s1")

    def test_credentials_are_not_kept(self) -> None:
        """Every user of the store can read the options."""
        kept = json.dumps(kept_of(self.BEGUN))
        assert "secret" not in kept
        assert "hidden" not in kept
        assert "host/a.parquet" in kept

    def test_credentials_may_be_given_again(self) -> None:
        """The same address with its password, or with another signature, is the same data."""
        url = self.URL.replace("hidden", "fresh")
        found = gone_on("--train-data", url, "--valid-data", "v.csv", begun=self.BEGUN)
        assert found.task["train_data"] == (url,)

    def test_credentials_are_not_shown(self) -> None:
        """Also not if another address is refused."""
        words = ("--train-data", self.URL.replace("host", "other"), "--valid-data", "v.csv")
        with pytest.raises(InputError) as error:
            gone_on(*words, begun=self.BEGUN)
        assert "secret" not in str(error.value)
        assert "hidden" not in str(error.value)
