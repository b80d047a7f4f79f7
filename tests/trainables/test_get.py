"""How a trainable is found by its name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import trainables

OUTSIDE = """
from trainables.linear import LINEAR as MINE
NOT_ONE = object()
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of somebody else's, importable."""
    name = "somebody_elses_trainable"
    (tmp_path / f"{name}.py").write_text(OUTSIDE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, name, raising=False)
    return name


def refusal(name: str) -> str:
    with pytest.raises(LookupError) as error:
        trainables.get(name)
    return str(error.value.args[0])


def test_takes_one_from_outside(module: str) -> None:
    """`module:attribute` is whatever stands there."""
    assert trainables.get(f"{module}:MINE").name == "linear"


@pytest.mark.parametrize("name", ["nonesuch", "", "xgboost:", ":XGBOOST"])
def test_unknown_name_lists_the_known(name: str) -> None:
    """A name that is neither built in nor module:attribute is refused with what there is."""
    assert "use one of xgboost, lasso, ridge, linear, or module:attribute" in refusal(name)


def test_missing_module_is_named() -> None:
    """A module that cannot be imported is named."""
    assert "no_such_module_of_ours" in refusal("no_such_module_of_ours:X")


def test_missing_attribute_is_named(module: str) -> None:
    """An attribute that the module lacks is named."""
    assert "ABSENT" in refusal(f"{module}:ABSENT")


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize("source", ["1 / 0", "def broken(:", "import nothing_of_the_kind"])
def test_module_that_cannot_be_run_is_refused(source: str, tmp_path: Path) -> None:
    """Whatever a module raises when it is imported, the user reads one line."""
    (tmp_path / "broken_outside.py").write_text(source)
    said = refusal("broken_outside:X")
    assert "cannot be imported" in said
    assert "\n" not in said


def test_class_is_no_object() -> None:
    """The class of a trainable has the parts, but is not one."""
    assert "name an object of it" in refusal("trainables.xgboost_:XGBoost")


def test_object_that_is_no_trainable_is_refused(module: str) -> None:
    """An object of another shape is refused with the parts it lacks."""
    said = refusal(f"{module}:NOT_ONE")
    assert "is no trainable: it lacks name" in said
    assert "predict" in said


@pytest.mark.parametrize(
    "name", ["nonesuch", "no_such_module_of_ours:X", "{}:ABSENT", "{}:NOT_ONE"]
)
def test_refusal_is_one_line(module: str, name: str) -> None:
    """Every refusal fits the one line of stderr."""
    assert "\n" not in refusal(name.format(module))


def test_no_model_library_is_imported_before_it_is_asked_for() -> None:
    """`import trainables` is cheap: `--help` answers within a second."""
    found = subprocess.run(
        [sys.executable, "-c", "import sys, trainables; print('xgboost' in sys.modules)"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == "False"
