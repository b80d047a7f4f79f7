"""What is said of nodes that are other than the driver."""

from __future__ import annotations

import dataclasses
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from search import doctor
from search.doctor import Examined
from search.errors import InputError
from search.witness import NONE, Answer, Node, Said, Unloadable, code_digest

HERE = Said("3.12.1", {"ray": "2.60.0", "numpy": "2.4.6", "pandas": "3.0.1"}, "abc", 8, 9 << 30)
NODES = [Node("a", "10.0.0.1", 4), Node("b", "10.0.0.2", 8)]


def examined(clock_off_s: float = 0.0, **other: Any) -> Examined:
    """Two nodes: the first is as here, the second is other in these."""
    odd = Answer(dataclasses.replace(HERE, **other), clock_off_s)
    return Examined(HERE, NODES, {"a": Answer(HERE, 0.0), "b": odd})


def test_nodes_that_are_the_same_take_one_line() -> None:
    whole = examined()
    assert whole.verdict() == ["checked 2 nodes: Python, packages and code are the driver's"]
    whole.see_the_same()


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"python": "3.12.2"}, ["Python 3.12.2, here 3.12.1"]),
        ({"packages": {**HERE.packages, "numpy": "2.4.5"}}, ["numpy 2.4.5", "requirements.lock"]),
        ({"packages": {}}, ["numpy none", "requirements.lock"]),
        ({"code": "xyz"}, ["other code (xyz, here abc)", "--working-dir"]),
    ],
)
def test_what_would_change_a_trial_is_refused(other: dict[str, Any], words: list[str]) -> None:
    """Each line names the node, what it has, what is here, and what to do."""
    whole = examined(**{"packages": HERE.packages, **other})
    (line,) = whole.verdict()
    assert line.startswith("node 10.0.0.2: ")
    assert all(word in line for word in words)
    with pytest.raises(InputError, match=r"10\.0\.0\.2 would not be"):
        whole.see_the_same()


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"packages": {**HERE.packages, "pandas": "3.0.2"}}, "pandas 3.0.2, here 3.0.1"),
        ({"cpus": 2}, "Ray counts on 8 CPUs, it has 2"),
        ({"free_bytes": 1 << 30}, "1.0 GiB of disk free"),
        ({"clock_off_s": -30.0}, "its clock is -30.0 s off"),
    ],
)
def test_what_does_not_is_told(other: dict[str, Any], words: str) -> None:
    whole = examined(**other)
    (line,) = whole.verdict()
    assert words in line
    whole.see_the_same()


def test_a_node_without_an_answer_is_told() -> None:
    whole = Examined(HERE, NODES, {"a": None, "b": Answer(HERE, 0.0)})
    assert whole.verdict()[0].startswith("node 10.0.0.1: does not answer")
    whole.see_the_same()


def test_a_node_that_cannot_load_the_code_is_refused() -> None:
    reason = "ModuleNotFoundError: No module named 'search.witness'"
    whole = Examined(HERE, NODES, {"a": Unloadable(reason), "b": Answer(HERE, 0.0)})
    (line,) = whole.verdict()
    assert line.startswith(f"node 10.0.0.1: cannot load the code ({reason}): submit with")
    assert "no code" in whole.table()[1]
    with pytest.raises(InputError, match=r"10\.0\.0\.1 would not be"):
        whole.see_the_same()


def test_what_is_not_installed_here_is_asked_of_no_node() -> None:
    here = dataclasses.replace(HERE, packages={**HERE.packages, "pyarrow": NONE})
    there = dataclasses.replace(HERE, packages={**HERE.packages, "pyarrow": "25.0.0"})
    assert doctor._other_packages(here, there) == []


def test_the_table_has_a_row_a_node_under_aligned_heads() -> None:
    header, first, second = examined(code="xyz").table()
    assert " ".join(header.split()) == "node CPUs Python Ray packages code free disk clock"
    assert " ".join(first.split()) == "10.0.0.1 4 3.12.1 2.60.0 same same 9.0 GiB same"
    assert second.index("differs") == header.index("code")


def test_this_process_says_what_it_has() -> None:
    said = Said.here()
    assert said.packages["xgboost"] != NONE
    assert said.code == code_digest()
    assert len(said.code) == 12
    assert said.free_bytes > 0


def test_on_a_laptop_it_looks_at_the_laptop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Without a cluster a search has a Ray of its own, here."""
    monkeypatch.chdir(tmp_path)
    assert doctor.main([]) == 0
    header, row, store = capfd.readouterr().out.splitlines()
    assert " ".join(header.split()) == "node CPUs Python Ray packages code free disk clock"
    here = Said.here()
    assert row.split()[:4] == ["here", str(here.cpus), here.python, here.packages["ray"]]
    assert store.endswith("mlflow.db is not there yet, the first search makes it")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_there_too(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Said, "here", lambda _: dataclasses.replace(HERE, free_bytes=1 << 30))
    monkeypatch.setattr(doctor, "_served", lambda uri: uri)
    assert doctor.main([]) == 1
    assert "node here: 1.0 GiB of disk free" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [(KeyboardInterrupt(), 130, "interrupted"), (InputError("no store"), 2, "no store")],
)
def test_its_end_before_its_time_is_one_line(
    raised: BaseException,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def served(_: str) -> str:
        raise raised

    monkeypatch.setattr(doctor, "_served", served)
    assert doctor.main([]) == code
    assert capfd.readouterr().err == f"search: {said}\n"


def test_who_reads_no_further_is_not_told_of_it() -> None:
    """`python -m search.doctor | head -1`."""
    ended = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {shlex.quote(sys.executable)} -m search.doctor | :"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
