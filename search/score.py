"""Loads one model from MLflow and predicts, in a process of its own.

A model is code and pickles: what it does to the process that loads it, it does here. The store
is named by ``MLFLOW_TRACKING_URI``, not by an argument that other users of the machine can read.
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


class Scoring:
    """A process that predicts trips with one model.

    It is started before the model is there, so that its imports are done by then.
    """

    def __init__(self, trips: Any, tracking_uri: str, flavor: str = "") -> None:
        """Start a process for ``trips`` (DataFrame [rows] of raw trips).

        ``flavor`` of the model, where it is known, is imported too.
        """
        self._folder = tempfile.TemporaryDirectory(prefix="search-score-")
        folder = Path(self._folder.name)
        trips.to_parquet(folder / "trips.parquet")
        self._answer = folder / "answer.npy"
        self._said = folder / "said.txt"
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "search.score", str(folder), flavor],
                env={**os.environ, "MLFLOW_TRACKING_URI": tracking_uri},
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=said,
                text=True,
            )

    def __enter__(self) -> Scoring:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()

    def predictions(self, model_uri: str) -> NDArray[np.float64]:
        """Return what the model says of the trips [rows].

        :raises RuntimeError: the model could not be loaded or did not answer; in one line.
        """
        import numpy as np

        try:
            self._process.communicate(model_uri, TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"no answer within {TIMEOUT_S:.0f} s") from None
        if code := self._process.returncode:
            lines = self._said.read_text(errors="replace").strip().splitlines()
            raise RuntimeError(lines[-1][:300] if lines else f"exit code {code}")
        answer: NDArray[np.float64] = np.load(self._answer, allow_pickle=False)
        return answer


def main(folder: Path, flavor: str) -> None:
    """Predict ``folder``/trips.parquet by the model named on stdin; none, and nothing is done."""
    import mlflow
    import numpy as np
    import pandas as pd

    if flavor:
        importlib.import_module(f"mlflow.{flavor}")
        importlib.import_module(flavor)
    trips = pd.read_parquet(folder / "trips.parquet")
    if model_uri := sys.stdin.read():
        answer = mlflow.pyfunc.load_model(model_uri).predict(trips)
        np.save(folder / "answer.npy", np.asarray(answer, dtype=np.float64))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
