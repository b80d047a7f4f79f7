"""An objective that is passed to ``fmin`` as a function."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from search.tasks.objective.loading import Loaded
from search.tasks.objective.source import code_digest, home, innermost, source_file


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
        digest=code_digest(function, folder, file),
    )


def reference_of(function: Callable[..., Any]) -> str | None:
    """Return what ``--objective`` would name the function by; None: nothing would."""
    inner = innermost(function)
    file, name = source_file(function), getattr(inner, "__qualname__", "<none>")
    return None if file is None or not name.isidentifier() else f"{file}:{name}"
