"""How Ray is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.errors import SearchError
from search.execute.cluster import Cluster


class TestStartOfRay:
    def test_ray_is_started_again_after_a_time_out(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Ray gives its node 30 s to start, which is too short on a busy machine."""
        tries = []

        def init(*_: object, **__: object) -> None:
            tries.append(1)
            if len(tries) == 1:
                raise Exception("The current node timed out during startup.")

        monkeypatch.setattr("ray.init", init)
        with Cluster("local", tmp_path) as cluster:
            cluster.join()
            assert len(tries) == 2

    def test_second_failure_is_one_line(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Ray raises a plain Exception; the user gets a message and no traceback."""

        def init(*_: object, **__: object) -> None:
            raise Exception("timed out during startup.\nmore")

        monkeypatch.setattr("ray.init", init)
        with (
            pytest.raises(SearchError, match=r"Ray does not start .*: timed out during startup"),
            Cluster("local", tmp_path) as cluster,
        ):
            cluster.join()
