"""How a user's function gets to other processes and nodes.

A function of the script, a notebook or a ``FILE.py`` goes by value, one of an importable module by
name. The folder that its imports come from goes along. ``code`` has the worker's part.
"""

from __future__ import annotations

import copyreg
import inspect
import io
import pickle
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np

from search.errors import InputError
from search.tasks.objective.code import Code, Folder, contents_of, digest_of, files_of, matrix_of
from search.tasks.objective.loading import Loaded
from search.tasks.objective.source import FROM_FILE, home, imports_from, innermost

LARGEST_FOLDER_BYTES = 20_000_000
LARGEST_SEPARATE_BYTES = 100_000  # arrays below it stay in the pickle
_EPOCH = (1980, 1, 1, 0, 0, 0)  # so that the same files make the same archive


def travelling(
    objective: Loaded | Any, working_dir: Path | None = None, *, cargo: Any = None
) -> Code:
    """Return an objective in the form that travels; put it into Ray's object store once.

    ``working_dir``: by default the objective's own folder, or for a notebook the current one.
    ``cargo``: what travels instead of the function alone, such as a tuple that has it.

    :raises InputError: it cannot be pickled, or the folder that it needs is too large.
    """
    function = objective.function if isinstance(objective, Loaded) else objective
    if working_dir is None:
        is_loaded = isinstance(objective, Loaded)
        working_dir = objective.working_dir if is_loaded else home(function)
    working_dir = working_dir.resolve()
    buffers: list[pickle.PickleBuffer] = []
    _teach_to_pickle()
    with _by_value():
        pickled = _pickled(function if cargo is None else cargo, function, buffers)
    return Code(
        pickled=pickled,
        buffers=tuple(np.frombuffer(buffer.raw(), dtype=np.uint8) for buffer in buffers),
        folder=_folder(function, working_dir),
    )


def _teach_to_pickle() -> None:
    """Have XGBoost's data, which scripts make outside an objective, pickled in its own format."""
    xgboost: Any = sys.modules.get("xgboost")
    if xgboost is not None:
        copyreg.pickle(xgboost.DMatrix, _reduced_matrix)


def _reduced_matrix(matrix: Any) -> tuple[Any, ...]:
    with tempfile.TemporaryDirectory(prefix="search-") as folder:
        file = Path(folder) / "matrix"
        matrix.save_binary(str(file), silent=True)
        return matrix_of, (file.read_bytes(), matrix.feature_names, matrix.feature_types)


@contextmanager
def _by_value() -> Iterator[None]:
    """Have the modules that only a path leads to pickled by value."""
    modules = [m for m in list(sys.modules.values()) if getattr(m, "__dict__", {}).get(FROM_FILE)]
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


def _pickled(cargo: Any, function: Any, buffers: list[pickle.PickleBuffer]) -> bytes:
    def keep(buffer: pickle.PickleBuffer) -> bool:
        """Tell pickle whether an array stays in the pickle."""
        if buffer.raw().nbytes < LARGEST_SEPARATE_BYTES:
            return True
        buffers.append(buffer)
        return False

    try:
        pickled: bytes = cloudpickle.dumps(cargo, protocol=5, buffer_callback=keep)
    except Exception as error:
        culprit = _culprit(function)
        raise InputError(
            f"the objective cannot be sent to other processes: {culprit}{type(error).__name__}: "
            f"{error}; make it inside the function"
        ) from error
    return pickled


def _culprit(function: Any) -> str:
    """Return which of the values that a function uses from outside itself cannot be pickled."""
    inner = innermost(function)
    if not inspect.isfunction(inner):
        return ""
    try:
        outside = inspect.getclosurevars(inner)
    except ValueError:  # a variable that has no value yet
        return ""
    for name, value in [*outside.nonlocals.items(), *outside.globals.items()]:
        try:
            cloudpickle.dumps(value, protocol=5, buffer_callback=lambda _: False)
        except Exception:  # noqa: BLE001  a user's class may raise anything
            return f"{name!r}, which it uses, is a {type(value).__name__}: "
    return ""


def _folder(function: Any, working_dir: Path) -> Folder | None:
    """Return the folder that a function's imports come from.

    One that is not known to be needed, and is too large, stays behind; so do installed packages.

    :raises InputError: it is needed and too large, or cannot be read.
    """
    if "site-packages" in working_dir.parts:
        return None
    try:
        size = sum(path.stat().st_size for path in files_of(working_dir))
        if size <= LARGEST_FOLDER_BYTES:
            return _packed(working_dir)
        found = f"{size / 1e6:,.0f} MB"
    except OverflowError as error:
        found = str(error)
    except OSError as error:
        raise InputError(
            f"--working-dir {working_dir}: {error.strerror}: {error.filename}"
        ) from error
    if not imports_from(function, working_dir):
        return None
    raise InputError(
        f"--working-dir {working_dir}: too large to travel to other nodes ({found} of code and "
        f"small files, {LARGEST_FOLDER_BYTES // 1_000_000} MB at most); name the folder that has "
        "just what the objective imports with --working-dir"
    )


def _packed(working_dir: Path) -> Folder:
    contents = contents_of(working_dir)
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(contents):
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), contents[name])
    return Folder(str(working_dir), digest_of(contents), held.getvalue())
