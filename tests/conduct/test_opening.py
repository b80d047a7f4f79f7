"""The order in which a search is opened."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import pytest
import toy

from search.conduct import opening
from search.conduct.session import Session
from search.errors import InputError
from search.execute.stop_signal import StopSignal
from search.options.command_line import parse
from search.present.progress import Display


@pytest.mark.parametrize(
    ("uri", "starts"), [("http://localhost:1", False), ("sqlite:///mlflow.db", True)]
)
def test_server_that_refuses_does_not_wait_for_ray(
    uri: str, *, starts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray starts while the tables of a file are made, but not before a server has answered."""
    started: list[object] = []

    def refuse(_: object) -> None:
        raise InputError("no")

    monkeypatch.setattr("search.execute.cluster.Cluster.__enter__", started.append)
    monkeypatch.setattr("search.execute.cluster.Cluster.__exit__", lambda *_: None)
    monkeypatch.setattr("search.conduct.resume.reach_new", refuse)
    session = Session(tmp_path, Display(io.StringIO()), StopSignal())
    with contextlib.ExitStack() as stack, pytest.raises(InputError, match="no"):
        opening.open_search(parse(["--tracking-uri", uri]), lambda _: toy.Toy(), session, stack)
    assert bool(started) is starts
