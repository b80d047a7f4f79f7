"""Loads one model from MLflow and predicts, in a process of its own.

A model is code and pickles: what it does to the process that loads it, it does here. The store
is named by ``MLFLOW_TRACKING_URI``, not by an argument that other users of the machine can read.
"""

from __future__ import annotations

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
    """Predictions under way in another process; several may be."""

    def __init__(self, model_uri: str, trips: Any, tracking_uri: str) -> None:
        """Start predicting ``trips`` (DataFrame [rows] of raw trips) with a registered model."""
        self._folder = tempfile.TemporaryDirectory(prefix="search-score-")
        folder = Path(self._folder.name)
        trips.to_parquet(folder / "trips.parquet")
        self._answer = folder / "answer.npy"
        self._said = folder / "said.txt"
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "search.score", model_uri, str(folder)],
                env={**os.environ, "MLFLOW_TRACKING_URI": tracking_uri},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )

    def result(self) -> NDArray[np.float64]:
        """Return the predictions [rows].

        :raises RuntimeError: the model could not be loaded or did not answer; in one line.
        """
        import numpy as np

        with self._folder:
            try:
                code = self._process.wait(TIMEOUT_S)
            except subprocess.TimeoutExpired:
                raise RuntimeError(f"no answer within {TIMEOUT_S:.0f} s") from None
            finally:
                self._process.kill()
                self._process.wait()
            if code != 0:
                lines = self._said.read_text(errors="replace").strip().splitlines()
                raise RuntimeError(lines[-1][:300] if lines else f"exit code {code}")
            answer: NDArray[np.float64] = np.load(self._answer, allow_pickle=False)
            return answer


def main(model_uri: str, folder: Path) -> None:
    """Predict ``folder``/trips.parquet into ``folder``/answer.npy."""
    import mlflow
    import numpy as np
    import pandas as pd

    model = mlflow.pyfunc.load_model(model_uri)
    answer = model.predict(pd.read_parquet(folder / "trips.parquet"))
    np.save(folder / "answer.npy", np.asarray(answer, dtype=np.float64))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
