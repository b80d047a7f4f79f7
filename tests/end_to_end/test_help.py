"""What ``--help`` promises."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from command import REPOSITORY, Command, Ended

OPTIONS = (
    *("--num-samples", "--trainable", "--train-data", "--valid-data", "--test-data", "--data-dir"),
    *("--set", "--initial-points", "--seed", "--scheduler", "--time-budget", "--max-concurrent"),
    *("--cpus-per-trial", "--address", "--tracking-uri", "--experiment-name"),
    *("--registered-model", "--name", "--state-dir", "--developer", "--json"),
)
HEAVY = ("pandas", "ray", "mlflow", "xgboost", "sklearn", "hyperopt", "scipy", "pyarrow", "numpy")


@pytest.fixture(scope="module")
def helped(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    import sys

    argv = [sys.executable, "-X", "importtime", "-m", "search.run", "--help"]
    folder = tmp_path_factory.mktemp("help")
    with Command(argv, folder, {"PYTHONPATH": str(REPOSITORY)}) as command:
        return command.ended(60)


def test_help_ends_well(helped: Ended) -> None:
    """Asking for help is no error."""
    assert helped.code == 0


@pytest.mark.parametrize("option", OPTIONS)
def test_help_names_the_option(helped: Ended, option: str) -> None:
    """Every option that others rely on is in the help."""
    assert re.search(rf"^  {option}\b", helped.stdout, re.MULTILINE)


def test_help_gives_the_defaults(helped: Ended) -> None:
    """The help tells what happens when an option is left out."""
    flat = " ".join(helped.stdout.split())
    for default in (
        *("green:2021-01", "green:2021-02", "(default: 100)", "(default: 42)", "sqlite:///"),
        *("nyc-taxi-experiment", "nyc-taxi-duration", ".search", "(default: xgboost)"),
        *("(default: asha)", "(default: local)", "(default: data)", "(default: 1)"),
    ):
        assert default in flat


@pytest.mark.parametrize("package", HEAVY)
def test_help_imports_nothing_heavy(helped: Ended, package: str) -> None:
    """Help answers at once, because no library is loaded for it."""
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in helped.said}
    assert "search" in imported, "the import log is not what this test expects"
    assert package not in imported


def test_help_leaves_nothing_behind(helped: Ended) -> None:
    """Asking for help makes no store, no state folder, no file."""
    made = {path.name for path in Path(helped.folder).iterdir()}
    assert {name for name in made if not name.startswith(("stdout-", "stderr-"))} == set()
