"""All runs of a search name their author and the version of the code."""

from __future__ import annotations

import re

import pytest

from search.record import provenance
from search.record.run_metadata import RunMetadata, author_and_code


def test_tags_name_author_model_and_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow shows the user, the source and the commit by these tags."""
    monkeypatch.setattr(provenance, "os_user", lambda: "bob")
    monkeypatch.setattr(provenance, "git_commit", lambda: "abc123")
    tags = author_and_code("me", "xgboost")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", tags.pop("date"))
    assert tags == {
        "developer": "me",
        "model": "xgboost",
        "mlflow.user": "bob",
        "mlflow.source.name": "python -m search.run",
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": "abc123",
    }


@pytest.mark.parametrize(("commit", "is_known"), [("abc123", True), ("unknown", False)])
def test_unknown_commit_is_recognised(commit: str, *, is_known: bool) -> None:
    """The user is warned if the commit is unknown."""
    tags = {"mlflow.source.git.commit": commit}
    assert RunMetadata(params={}, tags=tags, data=None).commit_is_known is is_known
