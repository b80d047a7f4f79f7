"""``--objective`` and ``--space``: a user's functions, imported as they stand."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from hyperopt.pyll.base import Apply

from search.errors import InputError
from search.tasks.objective.source import FROM_FILE, code_digest, line_of_user
from search.tasks.objective.stand_ins import stand_ins

BEGAN = (
    "{where}it begins a search while it is imported; put the call under "
    '`if __name__ == "__main__":`, or run the script itself with `from search import fmin`'
)


@dataclass(frozen=True)
class Loaded:
    """A user's objective."""

    function: Callable[..., Any]
    space: Any  # in hyperopt's terms, as it was written
    refit: Callable[..., Any] | None  # a function `refit` beside it
    name: str  # the stem of its file
    source_file: Path
    working_dir: Path  # where its imports are looked for
    digest: str  # of its code
    # what the script would have chosen of MLflow: "set_tracking_uri", "set_experiment", ...
    mlflow: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Reference:
    """What an option names: a file or a module, and something in it."""

    option: str
    text: str
    place: str
    name: str

    @classmethod
    def read(cls, option: str, text: str, default: str) -> _Reference:
        place, _, name = (text, "", "") if text.endswith(".py") else text.rpartition(":")
        if not place:
            place, name = text, ""
        return cls(option, text, place, name or default)

    @property
    def file(self) -> Path | None:
        """The file that it names; None: it names a module."""
        return Path(self.place) if self.place.endswith(".py") else None

    def refuse(self, reason: str) -> InputError:
        return InputError(f"{self.option} {self.text}: {reason}")


def load(
    reference: str, space_reference: str | None = None, working_dir: str | Path | None = None
) -> Loaded:
    """Import an objective and its space: ``FILE.py[:NAME]`` or ``MODULE:NAME``.

    Its own folder, or ``working_dir``, is importable meanwhile. What it would choose of MLflow as
    it is imported is noted and not done.

    :raises InputError: there is no such thing, it cannot be imported, or it begins a search.
    """
    asked = _Reference.read("--objective", reference, "objective")
    wanted = None
    if space_reference is not None:
        wanted = _Reference.read("--space", space_reference, "search_space")
    folder = _folder(asked, working_dir)
    with _importable(folder), stand_ins() as noted:
        try:
            module = _imported(asked)
            function = _function(asked, module)
            space = _space(asked, module) if wanted is None else _named_space(wanted)
        except InputError:
            if noted.began is None:
                raise
        if noted.began is not None:  # also where the script has caught the error
            raise asked.refuse(BEGAN.format(where=noted.began))
    refit = getattr(module, "refit", None)
    source = Path(str(module.__file__)).resolve()
    return Loaded(
        function=function,
        space=_checked(wanted or asked, space),
        refit=refit if callable(refit) else None,
        name=source.parent.name if source.stem == "__init__" else source.stem,
        source_file=source,
        working_dir=folder,
        digest=code_digest(function, folder, source),
        mlflow=noted.mlflow,
    )


def _folder(asked: _Reference, working_dir: str | Path | None) -> Path:
    if working_dir is not None:
        folder = Path(working_dir)
        if not folder.is_dir():
            raise InputError(f"--working-dir {working_dir}: no such folder")
        return folder.resolve()
    return Path.cwd() if asked.file is None else asked.file.resolve().parent


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))


def _imported(reference: _Reference) -> ModuleType:
    """Import what a reference names.

    :raises InputError: it is not there, or raises.
    """
    file = reference.file
    if file is not None and not file.is_file():
        raise reference.refuse(f"no file {file}; it is looked for in {Path.cwd()}")
    try:
        module = importlib.import_module(reference.place) if file is None else _from_file(file)
    except SyntaxError as error:
        raise reference.refuse(
            f"{error.filename}, line {error.lineno}: {type(error).__name__}: {error.msg}"
        ) from error
    except ModuleNotFoundError as error:
        if file is None and reference.place.startswith(f"{error.name}"):
            raise reference.refuse(
                f"no module {error.name!r}; write FILE.py:NAME or MODULE:NAME, and where a module "
                "is looked for with --working-dir"
            ) from error
        raise reference.refuse(
            f"{_line(error)}{error}; install it, or name its folder with --working-dir"
        ) from error
    except SystemExit as error:
        raise reference.refuse(
            f"{_line(error)}it ends Python while it is imported (exit code {error.code}); put what "
            'it runs under `if __name__ == "__main__":`'
        ) from error
    except Exception as error:
        raise reference.refuse(f"{_line(error)}{type(error).__name__}: {error}") from error
    if getattr(module, "__file__", None) is None:
        raise reference.refuse("a module with a file wanted, found a folder or a built-in one")
    return module


def _from_file(file: Path) -> ModuleType:
    """Import a file under its stem, or under another name where that one is another module's."""
    file = file.resolve()
    known = sys.modules.get(file.stem)
    is_taken = known is not None and getattr(known, "__file__", None) != str(file)
    if is_taken or file.stem in sys.stdlib_module_names or not file.stem.isidentifier():
        name = f"objective_{file.stem}"
    else:
        name = file.stem
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    setattr(module, FROM_FILE, True)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _line(error: BaseException) -> str:
    """Return where in the user's code an error came from, to begin a message with."""
    return line_of_user(traceback.extract_tb(error.__traceback__))


def _found(reference: _Reference, module: ModuleType) -> Any:
    """Return what a reference names in its module.

    :raises InputError: it is not there; lists the functions or spaces that are.
    """
    if hasattr(module, reference.name):
        return getattr(module, reference.name)
    own = [name for name, value in vars(module).items() if _is_own(value, module)]
    what = "functions"
    if reference.option == "--space":
        own = [name for name, value in vars(module).items() if _is_space(value)]
        what = "spaces"
    raise reference.refuse(
        f"no {reference.name!r} in it; {what} found: {', '.join(own) or 'none'}; "
        f"write {reference.place}:NAME"
    )


def _function(asked: _Reference, module: ModuleType) -> Callable[..., Any]:
    function = _found(asked, module)
    if not callable(function):
        raise asked.refuse(f"{asked.name!r} is no function but {_a(function)}")
    result: Callable[..., Any] = function
    return result


def _named_space(wanted: _Reference) -> Any:
    """Return the space of ``--space``, from a module that the objective has imported or anew."""
    file = None if wanted.file is None else str(wanted.file.resolve())
    for module in list(sys.modules.values()):
        if file is not None and getattr(module, "__file__", None) == file:
            return _found(wanted, module)
    return _found(wanted, _imported(wanted))


def _space(asked: _Reference, module: ModuleType) -> Any:
    if not hasattr(module, "search_space"):
        spaces = [name for name, value in vars(module).items() if _is_space(value)]
        found = f"found: {', '.join(spaces)}" if spaces else "found none"
        raise asked.refuse(
            "no `search_space` beside it; write one in hyperopt's terms, or name it with "
            f"--space FILE.py:NAME; {found}"
        )
    return module.search_space


def _checked(reference: _Reference, space: Any) -> Any:
    if callable(space) and not isinstance(space, Apply):
        raise reference.refuse(
            f"the search space is {_a(space)}; write it in hyperopt's terms, as a dictionary of "
            "hp.uniform(...), hp.choice(...), ..."
        )
    return space


def _is_own(value: Any, module: ModuleType) -> bool:
    return callable(value) and getattr(value, "__module__", None) == module.__name__


def _is_space(value: Any) -> bool:
    """Tell whether a value holds an expression of hyperopt's."""
    if isinstance(value, dict):
        return any(map(_is_space, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_is_space, value))
    return isinstance(value, Apply)


def _a(value: Any) -> str:
    return f"a value of type {type(value).__name__}"
