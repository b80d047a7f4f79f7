"""What stands in for other libraries' functions while a user's script is imported.

A script may begin a search of its own, or choose a tracking server, as it is imported. The first
is refused, the second is noted.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

from search.tasks.objective.source import line_of_user

CHOICES = ("set_tracking_uri", "set_experiment", "set_registry_uri")  # of MLflow
_ABSENT = object()


@dataclass
class Noted:
    """What a script did while it was imported."""

    began: str | None = None  # where it began a search: "FILE, line N: "
    mlflow: dict[str, Any] = field(default_factory=dict)  # "set_experiment" -> its argument
    _replaced: list[tuple[Any, str, Any, Any]] = field(default_factory=list)
    _is_over: bool = False

    def replace(self, holder: Any, name: str, make: Callable[[Any], Any]) -> None:
        """Put a stand-in at ``holder.name``, if there is anything to stand in for."""
        former, original = vars(holder).get(name, _ABSENT), getattr(holder, name, _ABSENT)
        if original is not _ABSENT and not any(made is original for *_, made in self._replaced):
            made = make(original)
            setattr(holder, name, made)
            self._replaced.append((holder, name, former, made))

    def no_search(self, original: Any) -> Callable[..., Any]:
        """Return what stands in for a function that begins a search."""

        def fmin(*args: Any, **kwargs: Any) -> Any:
            if self._is_over:
                return original(*args, **kwargs)
            self.began = line_of_user(traceback.extract_stack())
            raise RuntimeError("the script begins a search while it is imported")

        return fmin

    def note(self, name: str) -> Callable[[Any], Callable[..., Any]]:
        """Return what makes a stand-in for a choice of MLflow's."""

        def make(original: Any) -> Callable[..., Any]:
            def choose(*args: Any, **kwargs: Any) -> Any:
                if self._is_over:
                    return original(*args, **kwargs)
                self.mlflow[name] = next(iter([*args, *kwargs.values()]), None)
                if name != "set_experiment":
                    return None
                return SimpleNamespace(
                    name=self.mlflow[name], experiment_id="0", artifact_location="", tags={}
                )

            return choose

        return make

    def restore(self, modules: Sequence[ModuleType]) -> None:
        """Put everything back, also where these modules have imported a stand-in by name."""
        self._is_over = True
        originals = {}
        for holder, name, former, made in reversed(self._replaced):
            if former is _ABSENT:
                delattr(holder, name)
            else:
                setattr(holder, name, former)
            originals[id(made)] = getattr(holder, name)
        for module in modules:
            for name, value in list(vars(module).items()):
                if id(value) in originals:
                    setattr(module, name, originals[id(value)])


@contextmanager
def stand_ins() -> Iterator[Noted]:
    """Stand in for what a script must not do while it is imported."""
    import hyperopt

    # by name: to import it would be an import of the public API by what stands below it
    search = sys.modules[__name__.partition(".")[0]]
    noted, known = Noted(), dict(sys.modules)
    hook = _OnImport(lambda: _note_choices(noted))
    noted.replace(sys.modules["hyperopt.fmin"], "fmin", noted.no_search)
    noted.replace(hyperopt, "fmin", lambda _: sys.modules["hyperopt.fmin"].fmin)
    noted.replace(search, "fmin", noted.no_search)
    if "mlflow" in sys.modules:
        _note_choices(noted)
    sys.meta_path.insert(0, hook)
    try:
        yield noted
    finally:
        sys.meta_path.remove(hook)
        fresh = [module for name, module in sys.modules.items() if known.get(name) is not module]
        noted.restore([module for module in fresh if isinstance(module, ModuleType)])


def _note_choices(noted: Noted) -> None:
    for holder in ("mlflow", "mlflow.tracking", "mlflow.tracking.fluent"):
        for name in CHOICES:
            if holder in sys.modules:
                noted.replace(sys.modules[holder], name, noted.note(name))


class _OnImport(importlib.abc.MetaPathFinder):
    """Does something once MLflow has been imported."""

    def __init__(self, do: Callable[[], None]) -> None:
        self._do = do

    def find_spec(
        self, fullname: str, path: Any, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Find MLflow as Python would, and wrap what executes it."""
        if fullname != "mlflow":
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                self._do()

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
