"""An objective that is passed to ``fmin`` as a function."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from search.tasks.objective.loading import Loaded
from search.tasks.objective.source import home, innermost, local_modules, source_file, source_text


def live(function: Callable[..., Any], space: Any, working_dir: Path | None) -> Loaded:
    """Return an objective that is a function of this process."""
    file = source_file(function)
    folder = working_dir or home(function)
    return Loaded(
        function=function,
        space=space,
        refit=None,
        name="objective" if file is None else file.stem,
        source_file=file,
        working_dir=folder,
        digest=_digest(function, folder),
    )


def reference_of(function: Callable[..., Any]) -> str | None:
    """Return what ``--objective`` would name the function by; None: nothing would."""
    inner = innermost(function)
    file, name = source_file(function), getattr(inner, "__qualname__", "<none>")
    return None if file is None or not name.isidentifier() else f"{file}:{name}"


def _digest(function: Callable[..., Any], folder: Path) -> str:
    """Return 32 hex digits of the function's code and of what it uses of the user's.

    Not of its whole file: the call of ``fmin`` is in it, and may ask for more trials another time.
    """
    parts = [source_text(each) for each in _used(innermost(function), {})]
    if file := source_file(function):
        parts += [path.read_text() for _, path in sorted(local_modules(file, folder).items())]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _used(function: Any, seen: dict[int, Any]) -> Iterator[Any]:
    """Yield a function, and the functions and classes of its own module that it uses."""
    seen[id(function)] = function
    yield function
    if not inspect.isfunction(function):
        return
    outside = inspect.getclosurevars(function)
    for _, value in sorted([*outside.globals.items(), *outside.nonlocals.items()], key=_name):
        is_code = inspect.isfunction(value) or inspect.isclass(value)
        if is_code and value.__module__ == function.__module__ and id(value) not in seen:
            yield from _used(value, seen)


def _name(item: tuple[str, Any]) -> str:
    return item[0]
