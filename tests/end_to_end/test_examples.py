"""The examples, as their readers run them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from command import HAS_REAL_DATA, NO_REAL_DATA, REAL_DATA, REPOSITORY

pytestmark = pytest.mark.slow

EXAMPLES = REPOSITORY / "examples"
ONE_BY_ONE = "functools.partial(search.fmin, max_concurrent=1)"
HYPEROPTS = "hyperopt.fmin"
RUN = """
import functools, runpy, sys
import hyperopt, search
search.fmin = {fmin}
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
SCRIPTS = {
    "random_forest.py": ["--data-path", str(REAL_DATA), "--num-trials", "4", "--rows", "1500"],
    "xgboost_cross_validation.py": ["6"],
    "model_families.py": ["24"],
}


def run(script: str, fmin: str, folder: Path) -> str:
    """Run an example with one or the other ``fmin``; return what it prints on stdout."""
    folder.mkdir()
    argv = [sys.executable, "-c", RUN.format(fmin=fmin), str(EXAMPLES / script), *SCRIPTS[script]]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run(
        argv, cwd=folder, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_example_finds_what_it_finds_with_hyperopt(script: str, tmp_path: Path) -> None:
    """The same best values from the same seed, at one trial at a time."""
    if script == "random_forest.py" and not HAS_REAL_DATA:
        pytest.skip(NO_REAL_DATA)
    ours, theirs = (
        run(script, fmin, tmp_path / name)
        for name, fmin in (("ours", ONE_BY_ONE), ("theirs", HYPEROPTS))
    )
    assert without_numpy(ours.splitlines()[-1]) == without_numpy(theirs.splitlines()[-1])


def without_numpy(text: str) -> str:
    """Return a text with 3.0 where it has np.float64(3.0)."""
    return re.sub(r"np\.\w+\(([^)]*)\)", r"\1", text)


CELLS = """
import json, sys
for cell in json.load(open(sys.argv[1]))["cells"]:
    if cell["cell_type"] == "code":
        exec("".join(cell["source"]))
"""


def test_notebook_runs_from_its_first_cell_to_its_last(tmp_path: Path) -> None:
    """Its functions are in no file; the second call goes on with the search of the first."""
    result = subprocess.run(
        [sys.executable, "-c", CELLS, str(EXAMPLES / "notebook.ipynb")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    found, extended = result.stdout.splitlines()
    assert "alpha" in found
    assert extended.startswith("16 ")
