"""``python -m search.doctor``: what it prints, and its exit code."""

from __future__ import annotations

import dataclasses
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from search import doctor
from search.errors import InputError
from search.execute.node_probe import NodeInfo
from search.values.fitted_with import FittedWith


def test_without_a_cluster_this_machine_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A search would have a Ray of its own here. The check leaves nothing in the folder."""
    monkeypatch.chdir(tmp_path)
    assert doctor.main([]) == 0
    header, row, store = capfd.readouterr().out.splitlines()
    assert " ".join(header.split()) == "node CPUs Python Ray packages code free disk clock"
    here = NodeInfo.here(FittedWith())
    assert row.split()[:4] == ["here", str(here.cpus), here.python, here.packages["ray"]]
    assert store.endswith("mlflow.db does not exist yet, the first search makes it")
    assert list(tmp_path.iterdir()) == []


def test_full_disk_of_this_machine_is_reported(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    info = dataclasses.replace(NodeInfo.here(FittedWith()), free_bytes=1 << 30)
    monkeypatch.setattr(NodeInfo, "here", lambda *_: info)
    monkeypatch.setattr(doctor, "_store_line", lambda uri: uri)
    assert doctor.main([]) == 1
    assert "node here: 1.0 GiB of disk free" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [(KeyboardInterrupt(), 130, "interrupted"), (InputError("no store"), 2, "no store")],
)
def test_error_and_interrupt_end_the_command_with_one_line(
    raised: BaseException,
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def failing(_: str) -> str:
        raise raised

    monkeypatch.setattr(doctor, "_store_line", failing)
    assert doctor.main([]) == code
    assert capfd.readouterr().err == f"search: {message}\n"


def test_reader_that_stops_reading_is_no_error() -> None:
    """`python -m search.doctor | head -1`."""
    ended = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {shlex.quote(sys.executable)} -m search.doctor | :"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
