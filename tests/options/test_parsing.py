"""How the values of options are read."""

from __future__ import annotations

from argparse import ArgumentTypeError
from pathlib import Path

import pytest

from search.errors import InputError
from search.options.parsing import Parser, at_least_one, duration_s, seed, tracking_uri


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("2d", 172_800), ("0.5s", 0.5)],
)
def test_duration_is_a_sum_of_numbers_with_units(text: str, seconds: float) -> None:
    assert duration_s(text) == seconds


@pytest.mark.parametrize("text", ["30", "0s", "1h-30m", "soon", "", "1 h", "h", "-1s", "1.s"])
def test_any_other_text_is_no_duration(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="is no duration: write 90s"):
        duration_s(text)


def test_count_is_a_whole_number_of_one_or_more() -> None:
    assert (at_least_one("1"), at_least_one("12")) == (1, 12)
    for text, why in (("0", "too few"), ("-3", "too few"), ("1.5", "whole"), ("ten", "whole")):
        with pytest.raises(ArgumentTypeError, match=why):
            at_least_one(text)


def test_seed_fits_31_bits() -> None:
    assert (seed("0"), seed("2147483647")) == (0, 2147483647)
    for text, why in (("-1", "no seed"), ("2147483648", "no seed"), ("x", "whole")):
        with pytest.raises(ArgumentTypeError, match=why):
            seed(text)


def test_error_of_a_parser_is_one_line_that_names_the_help() -> None:
    parser = Parser("python -m search.nothing", "It does nothing.")
    with pytest.raises(InputError) as error:
        parser.parse_args(["--nonesuch"])
    message = "unrecognized arguments: --nonesuch; see python -m search.nothing --help"
    assert str(error.value) == message


class TestTrackingUri:
    @pytest.fixture(autouse=True)
    def _folder_of_its_own(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    @pytest.mark.parametrize("path", ["my.db", "sub/my.db", "./my.db"])
    def test_relative_sqlite_becomes_absolute(self, path: str, tmp_path: Path) -> None:
        """Every process opens the same file, whatever folder it works in."""
        assert tracking_uri(f"sqlite:///{path}") == f"sqlite:///{tmp_path / path}"

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
    def test_absolute_path_and_server_are_not_changed(self, uri: str) -> None:
        assert tracking_uri(uri) == uri

    def test_default_is_a_file_in_the_current_folder(self, tmp_path: Path) -> None:
        assert tracking_uri(None) == f"sqlite:///{tmp_path}/mlflow.db"

    def test_environment_variable_is_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """If there is no option."""
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://from-environment:5000")
        assert tracking_uri(None) == "http://from-environment:5000"

    def test_relative_sqlite_of_the_environment_becomes_absolute(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """The variable is read as the option is."""
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///theirs.db")
        assert tracking_uri(None) == f"sqlite:///{tmp_path}/theirs.db"

    def test_option_has_priority(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Over the variable."""
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://from-environment:5000")
        assert tracking_uri("http://asked:1") == "http://asked:1"

    def test_empty_environment_variable_is_ignored(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
        assert tracking_uri(None) == f"sqlite:///{tmp_path}/mlflow.db"

    @pytest.mark.parametrize(
        ("uri", "why"),
        [
            ("my.db", "sqlite:///FILE"),
            ("/var/my.db", "no scheme"),
            ("sqlite:///", "names no file"),
        ],
    )
    def test_uri_without_a_scheme_or_a_file_is_refused(self, uri: str, why: str) -> None:
        with pytest.raises(InputError, match=f"--tracking-uri .*{why}"):
            tracking_uri(uri)
