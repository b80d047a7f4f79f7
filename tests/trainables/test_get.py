"""A trainable is found by its name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import trainables

USER_MODULE = """
from trainables.linear import LINEAR as MINE
NOT_ONE = object()
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an importable module of a user."""
    name = "trainable_of_a_user"
    (tmp_path / f"{name}.py").write_text(USER_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, name, raising=False)
    return name


def refusal(name: str) -> str:
    with pytest.raises(LookupError) as error:
        trainables.get(name)
    return str(error.value.args[0])


def test_module_and_attribute_name_a_trainable(module: str) -> None:
    """`module:attribute` is that object of the user's module."""
    assert trainables.get(f"{module}:MINE").name == "linear"


@pytest.mark.parametrize("name", ["nonesuch", "", "xgboost:", ":XGBOOST"])
def test_unknown_name_is_refused_with_the_known_names(name: str) -> None:
    """The error lists the built-in names and the form module:attribute."""
    assert "use one of xgboost, lasso, ridge, linear, or module:attribute" in refusal(name)


def test_missing_module_is_named() -> None:
    """The error names a module that does not exist."""
    assert "no_such_module_of_ours" in refusal("no_such_module_of_ours:X")


def test_missing_attribute_is_named(module: str) -> None:
    """The error names an attribute that the module does not have."""
    assert "ABSENT" in refusal(f"{module}:ABSENT")


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize("source", ["1 / 0", "def broken(:", "import nothing_of_the_kind"])
def test_module_that_raises_is_refused(source: str, tmp_path: Path) -> None:
    """Any exception during the import of a module becomes one line of error."""
    (tmp_path / "broken_outside.py").write_text(source)
    message = refusal("broken_outside:X")
    assert "cannot be imported" in message
    assert "\n" not in message


def test_class_is_refused() -> None:
    """A trainable is an object, not its class, although the class has the same attributes."""
    assert "name an object of it" in refusal("trainables.xgboost_:XGBoost")


def test_object_without_the_protocol_is_refused(module: str) -> None:
    """The error lists the attributes that the object does not have."""
    message = refusal(f"{module}:NOT_ONE")
    assert "is no trainable: it lacks name" in message
    assert "predict" in message


@pytest.mark.parametrize(
    "name", ["nonesuch", "no_such_module_of_ours:X", "{}:ABSENT", "{}:NOT_ONE"]
)
def test_refusal_is_one_line(module: str, name: str) -> None:
    """Every error is one line."""
    assert "\n" not in refusal(name.format(module))


def test_import_of_trainables_imports_no_model_library() -> None:
    """`import trainables` is fast, because `--help` needs it."""
    result = subprocess.run(
        [sys.executable, "-c", "import sys, trainables; print('xgboost' in sys.modules)"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == "False"
