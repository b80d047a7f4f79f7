"""A search sends no telemetry."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import atexit
import sys
from search.run import main

def tell():
    if "mlflow" in sys.modules:
        from mlflow.telemetry.utils import is_telemetry_disabled
        print(is_telemetry_disabled(), flush=True)

atexit.register(tell)
sys.exit(main(["--trainable", "none", "--state-dir", sys.argv[1]]))
"""


def test_telemetry_of_mlflow_is_off(tmp_path: Path) -> None:
    """MLflow's telemetry is off in each process of a search that imports MLflow.

    The environment of the test does not disable it.
    """
    top = Path(__file__).parents[2]
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**environment, "PYTHONPATH": str(top)},
        cwd=tmp_path,
    )
    assert (result.returncode, result.stdout.split()) == (2, ["True"]), result.stderr
