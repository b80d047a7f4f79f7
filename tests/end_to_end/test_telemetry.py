"""Nothing is told to anyone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TOLD = """
import sys
from search.run import main
code = main(["--trainable", "none", "--state-dir", sys.argv[1]])
from mlflow.telemetry.utils import is_telemetry_disabled
print(code, is_telemetry_disabled())
"""


def test_mlflow_tells_its_makers_nothing(tmp_path: Path) -> None:
    """MLflow's telemetry is off in a search, also where no test or CI turns it off."""
    top = Path(__file__).parents[2]
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    said = subprocess.run(
        [sys.executable, "-c", TOLD, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**kept, "PYTHONPATH": str(top)},
        cwd=tmp_path,
    )
    assert said.stdout.split() == ["2", "True"], said.stderr
