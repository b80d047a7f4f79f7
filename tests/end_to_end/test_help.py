"""``--help`` names all options, is fast, and writes nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from command import REPOSITORY, Command, Result

OPTIONS = (
    "--num-samples",
    "--trainable",
    "--train-data",
    "--valid-data",
    "--test-data",
    "--data-dir",
    "--set",
    "--initial-points",
    "--seed",
    "--scheduler",
    "--time-budget",
    "--max-concurrent",
    "--cpus-per-trial",
    "--address",
    "--tracking-uri",
    "--experiment-name",
    "--registered-model",
    "--name",
    "--state-dir",
    "--developer",
    "--json",
)
HEAVY = ("pandas", "ray", "mlflow", "xgboost", "sklearn", "hyperopt", "scipy", "pyarrow", "numpy")


@pytest.fixture(scope="module")
def help_result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    import sys

    argv = [sys.executable, "-X", "importtime", "-m", "search.run", "--help"]
    folder = tmp_path_factory.mktemp("help")
    with Command(argv, folder, {"PYTHONPATH": str(REPOSITORY)}) as command:
        return command.wait(60)


def test_help_ends_with_0(help_result: Result) -> None:
    """``--help`` is not an error."""
    assert help_result.code == 0


@pytest.mark.parametrize("option", OPTIONS)
def test_help_names_the_option(help_result: Result, option: str) -> None:
    """Every option that users rely on is in the help."""
    assert re.search(rf"^  {option}\b", help_result.stdout, re.MULTILINE)


def test_help_shows_the_defaults(help_result: Result) -> None:
    """The help says which value an option has when it is not given."""
    text = " ".join(help_result.stdout.split())
    for default in (
        "green:2021-01",
        "green:2021-02",
        "(default: 100)",
        "(default: 42)",
        "sqlite:///",
        "nyc-taxi-experiment",
        "nyc-taxi-duration",
        ".search",
        "(default: xgboost)",
        "(default: asha)",
        "(default: local)",
        "(default: data)",
        "(default: 1)",
    ):
        assert default in text


@pytest.mark.parametrize("package", HEAVY)
def test_help_imports_no_heavy_package(help_result: Result, package: str) -> None:
    """Help is fast because it loads no large library."""
    lines = help_result.stderr_lines
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}
    assert "search" in imported, "the import log has another format than this test expects"
    assert package not in imported


def test_help_writes_no_file(help_result: Result) -> None:
    """``--help`` creates no store, no state folder, no file."""
    names = {path.name for path in Path(help_result.folder).iterdir()}
    assert {name for name in names if not name.startswith(("stdout-", "stderr-"))} == set()
