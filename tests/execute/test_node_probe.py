"""What a node tells of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.execute.node_probe import NONE, NodeInfo, code_digest
from search.values.fitted_with import FittedWith


def test_this_process_has_its_packages_code_and_disk() -> None:
    info = NodeInfo.here(FittedWith(packages=("xgboost",), modules=("trainables",)))
    assert NONE not in {info.packages[name] for name in ("ray", "numpy", "xgboost", "mlflow")}
    assert info.code == code_digest(["search", "trainables"])
    assert len(info.code) == 12
    assert info.free_bytes > 0


def test_package_that_is_not_installed_has_no_version() -> None:
    info = NodeInfo.here(FittedWith(packages=("no-such-distribution",)))
    assert info.packages["no-such-distribution"] == NONE


class TestCodeDigest:
    @pytest.fixture(autouse=True)
    def _importable(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.syspath_prepend(tmp_path)

    def test_digest_changes_with_a_users_module(self, tmp_path: Path) -> None:
        """As `--trainable module:attribute` names one."""
        file = tmp_path / "fits_of_mine.py"
        file.write_text("rate = 1")
        before = code_digest(["search", "fits_of_mine"])
        assert before == code_digest(["fits_of_mine", "search"]) != code_digest(["search"])
        file.write_text("rate = 2")
        assert code_digest(["search", "fits_of_mine"]) != before

    def test_digest_changes_with_any_part_of_a_users_package(self, tmp_path: Path) -> None:
        """The module may import it."""
        package = tmp_path / "package_of_mine"
        (package / "inner").mkdir(parents=True)
        for file in ("__init__.py", "fits.py", "inner/parts.py"):
            (package / file).write_text("")
        before = code_digest(["package_of_mine.fits"])
        (package / "inner" / "parts.py").write_text("rate = 2")
        assert code_digest(["package_of_mine.fits"]) != before

    def test_module_that_is_not_there_has_another_digest(self, tmp_path: Path) -> None:
        """So a node that lacks it differs from the driver."""
        absent = code_digest(["fits_elsewhere"])
        (tmp_path / "fits_elsewhere.py").write_text("")
        assert code_digest(["fits_elsewhere"]) != absent
