"""Loads one model from MLflow and predicts, in a process of its own.

A model is code and pickles, which may do anything to the process that loads them. The store is
named by ``MLFLOW_TRACKING_URI``, since other users of the machine can read a command's arguments.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TIMEOUT_S = 600.0
ROWS, ANSWER = "rows.parquet", "answer.npy"


class ScoringProcess:
    """A process that predicts rows with one model.

    It is started before the model exists, so that its imports are done by then.
    """

    def __init__(self, rows: Any, tracking_uri: str, flavor: str = "") -> None:
        """Start a process for ``rows`` (DataFrame [rows], as a user would send them).

        The model's ``flavor``, if it is known, is imported at once.
        """
        self._folder = tempfile.TemporaryDirectory(prefix="search-score-")
        folder = Path(self._folder.name)
        rows.to_parquet(folder / ROWS)
        self._answer = folder / ANSWER
        self._output = folder / "output.txt"
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(folder), flavor],
                env={**os.environ, "MLFLOW_TRACKING_URI": tracking_uri},
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                text=True,
            )

    def __enter__(self) -> ScoringProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()

    def predictions(self, model_uri: str) -> NDArray[np.float64]:
        """Return what the model predicts [rows].

        :raises RuntimeError: the model could not be loaded or did not answer; in one line.
        """
        import numpy as np

        try:
            self._process.communicate(model_uri, TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"no answer within {TIMEOUT_S:.0f} s") from None
        if code := self._process.returncode:
            lines = self._output.read_text(errors="replace").strip().splitlines()
            raise RuntimeError(lines[-1][:300] if lines else f"exit code {code}")
        answer: NDArray[np.float64] = np.load(self._answer, allow_pickle=False)
        return answer


def main(folder: Path, flavor: str) -> None:
    """Predict the rows in ``folder`` by the model named on stdin; if none is, do nothing."""
    import mlflow
    import numpy as np
    import pandas as pd

    if flavor:
        importlib.import_module(f"mlflow.{flavor}")
        importlib.import_module(flavor)
    rows = pd.read_parquet(folder / ROWS)
    if model_uri := sys.stdin.read():
        answer = mlflow.pyfunc.load_model(model_uri).predict(rows)
        np.save(folder / ANSWER, np.asarray(answer, dtype=np.float64))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
