"""A function on its way to other processes and nodes."""

from __future__ import annotations

import functools
import importlib
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search.errors import InputError
from search.tasks.objective import code
from search.tasks.objective import travelling as travel
from search.tasks.objective.code import SHARED_BYTES, Code, hint
from search.tasks.objective.loading import load
from search.tasks.objective.source import home
from search.tasks.objective.travelling import travelling

OBJECTIVE = """
from hyperopt import hp
from far_helper import thrice

search_space = {"x": hp.uniform("x", 0, 1)}


class Kept:
    factor = 2


def objective(params):
    import late_helper
    return thrice(params["x"]) * Kept.factor + late_helper.value
"""
WORKER = """
import pathlib, pickle, sys
code = pickle.loads(pathlib.Path(sys.argv[1]).read_bytes())
print(code.load()({"x": 0.5}))
print(sys.path[0])
print([name for name in sys.modules if name.startswith("search.")])
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with an objective and what it imports; nodes extract into another one."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    work = tmp_path / "work"
    work.mkdir()
    (work / "fit.py").write_text(OBJECTIVE)
    (work / "far_helper.py").write_text("def thrice(x):\n    return 3 * x\n")
    (work / "late_helper.py").write_text("value = 10\n")
    known = set(sys.modules)
    yield work
    code.Code(b"").arrive()
    for name in set(sys.modules) - known:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def in_worker(sent: Code, folder: Path) -> list[str]:
    """Load the code in a process of its own, and call it; return what it prints."""
    file = folder.parent / "sent"
    file.write_bytes(pickle.dumps(sent))
    env = {**os.environ, "PYTHONPATH": str(Path(code.__file__).parents[3])}
    ran = subprocess.run(
        [sys.executable, "-c", WORKER, str(file)],
        check=True, capture_output=True, text=True, env=env, cwd=folder.parent,
    )  # fmt: skip
    return ran.stdout.splitlines()


class TestFunctionOfAFile:
    def test_is_the_same_in_a_worker_on_this_machine(self, folder: Path) -> None:
        """It uses the folder itself, and imports no driver code."""
        answer, place, modules = in_worker(travelling(load(str(folder / "fit.py"))), folder)
        assert (answer, place) == ("13.0", str(folder))
        assert (
            modules == "['search.tasks', 'search.tasks.objective', 'search.tasks.objective.code']"
        )

    def test_is_the_same_on_another_node(self, folder: Path) -> None:
        """Its folder arrives with it, once for all processes of the node."""
        sent = travelling(load(str(folder / "fit.py")))
        shutil.rmtree(folder)
        folder.mkdir()
        first, second = in_worker(sent, folder), in_worker(sent, folder)
        assert first == second
        assert first[0] == "13.0"
        assert [str(path) for path in (folder.parent / "tmp").iterdir()] == [first[1]]

    def test_code_is_that_of_the_start_also_if_the_folder_changes(self, folder: Path) -> None:
        sent = travelling(load(str(folder / "fit.py")))
        (folder / "late_helper.py").write_text("value = 99\n")
        answer, place, _ = in_worker(sent, folder)
        assert answer == "13.0"
        assert place != str(folder)

    def test_extracted_folder_that_was_changed_is_not_used(self, folder: Path) -> None:
        """What clears temporary files may have left half of it."""
        sent = travelling(load(str(folder / "fit.py")))
        shutil.rmtree(folder)
        folder.mkdir()
        _, place, _ = in_worker(sent, folder)
        Path(place, "late_helper.py").unlink()
        assert in_worker(sent, folder)[0] == "13.0"

    def test_function_of_a_module_goes_by_name(self, folder: Path) -> None:
        sent = travelling(load("fit:objective", working_dir=folder))
        assert b"thrice" not in sent.pickled
        assert in_worker(sent, folder)[0] == "13.0"

    def test_other_things_may_go_with_it(self, folder: Path) -> None:
        loaded = load(str(folder / "fit.py"))
        sent = travelling(loaded, cargo=functools.partial(loaded.function))
        assert in_worker(sent, folder)[0] == "13.0"


class TestFolder:
    def test_what_travels(self, folder: Path) -> None:
        """Code and small files; no hidden folders, environments, databases, caches."""
        taken = ["pack/__init__.py", "pack/words.json"]
        left = [
            ".git/config", "env/pyvenv.cfg", "env/lib/x.py", "mlruns/0/meta.yaml", "mlflow.db",
            "__pycache__/fit.pyc", ".hidden.py",
        ]  # fmt: skip
        for name in [*taken, *left]:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("")
        (folder / "large.csv").write_bytes(bytes(code.LARGEST_DATA_FILE_BYTES + 1))
        found = {path.relative_to(folder).as_posix() for path in code.files_of(folder)}
        assert found == {*taken, "fit.py", "far_helper.py", "late_helper.py"}

    def test_same_files_make_the_same_archive(self, folder: Path) -> None:
        loaded = load(str(folder / "fit.py"))
        first = travelling(loaded).folder
        (folder / "fit.py").touch()
        assert travelling(loaded).folder == first

    @pytest.mark.parametrize("limit", ["LARGEST_FOLDER_BYTES", "MOST_FILES"])
    def test_too_large_a_folder_is_refused_where_it_is_needed(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, limit: str
    ) -> None:
        """A function that imports nothing from it goes without it."""
        (folder / "alone.py").write_text("search_space = 1\ndef objective(p):\n    return 5\n")
        monkeypatch.setattr(code if limit == "MOST_FILES" else travel, limit, 2)
        with pytest.raises(InputError, match=r"--working-dir .* too large .* --working-dir"):
            travelling(load(str(folder / "fit.py")))
        alone = travelling(load(str(folder / "alone.py")))
        assert alone.folder is None
        assert in_worker(alone, folder)[0] == "5"

    def test_of_a_packages_function_is_that_around_the_package(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """So that `pack.inner` can be imported from it."""
        (folder / "pack_around").mkdir()
        (folder / "pack_around" / "__init__.py").write_text("def outer(p): return 1\n")
        (folder / "pack_around" / "inner.py").write_text(OBJECTIVE)
        monkeypatch.syspath_prepend(str(folder))
        inner = importlib.import_module("pack_around.inner")
        assert home(inner.objective) == home(sys.modules["pack_around"].outer) == folder
        assert in_worker(travelling(inner.objective), folder)[0] == "13.0"

    def test_of_an_installed_function_does_not_travel(self) -> None:
        """It is installed on the other nodes too."""
        assert travelling(np.linalg.norm).folder is None

    def test_next_search_in_the_same_process_has_its_own_modules(self, folder: Path) -> None:
        """A worker that served another folder forgets that folder's modules."""
        first = travelling(load(str(folder / "fit.py")))
        other = folder.parent / "other"
        shutil.copytree(folder, other)
        (other / "late_helper.py").write_text("value = 20\n")
        second = travelling(load(str(other / "fit.py")))
        assert [sent.load()({"x": 0.5}) for sent in (first, second, first)] == [13.0, 23.0, 13.0]


def closing_over(data: Any) -> Callable[[Any], float]:
    def objective(params: Any) -> float:
        data[0] = params["x"]
        return float(data.sum())

    return objective


class TestArrays:
    def test_large_one_is_beside_the_pickle_and_shared(self, tmp_path: Path) -> None:
        """No copy is made of it: what is loaded is the memory that was given, read-only."""
        data = np.zeros(SHARED_BYTES // 8)
        sent = travelling(closing_over(data), tmp_path)
        assert len(sent.pickled) < 100_000
        (buffer,) = sent.buffers
        assert np.shares_memory(buffer, data)
        buffer.flags.writeable = False  # as Ray's object store gives it
        loaded = sent.load()
        (cell,) = loaded.__closure__
        assert np.shares_memory(cell.cell_contents, data)
        with pytest.raises(ValueError, match="read-only") as error:
            loaded({"x": 1.0})
        said = hint(error.value)
        assert said is not None
        assert "copy what you change" in said

    def test_small_one_may_be_written_to(self, tmp_path: Path) -> None:
        """By each worker for itself."""
        for size in (10, SHARED_BYTES // 8 - 1):
            data = np.zeros(size)
            sent = travelling(closing_over(data), tmp_path)
            for buffer in sent.buffers:
                buffer.flags.writeable = False
            assert sent.load()({"x": 3.0}) == 3.0
            assert data[0] == 0.0

    def test_matrix_of_xgboost_travels(self, tmp_path: Path) -> None:
        """Scripts make a DMatrix outside their objective; it cannot be pickled by itself."""
        xgboost = pytest.importorskip("xgboost")
        features, target = np.array([[1.0, 2.0], [3.0, np.nan]]), np.array([5.0, 6.0])
        matrix = xgboost.DMatrix(features, target, feature_names=["a", "b"])
        loaded = travelling(lambda _: matrix, tmp_path).load()({})
        assert loaded.feature_names == ["a", "b"]
        assert loaded.get_label().tolist() == [5.0, 6.0]
        assert (loaded.get_data() != matrix.get_data()).nnz == 0

    def test_other_errors_have_no_hint(self) -> None:
        assert hint(ValueError("x")) is None
        assert hint(TypeError("read-only")) is None

    def test_what_cannot_be_pickled_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"'data', which it uses, is a lock: .* inside the"):
            travelling(closing_over(threading.Lock()), tmp_path)
