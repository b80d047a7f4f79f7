"""Metadata recorded on every run of a search: data, author and code version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from search.record import provenance
from search.record.tags import COMMIT
from search.values.data import DataDescription


@dataclass(frozen=True)
class RunMetadata:
    """What all runs of one search have in common."""

    params: Mapping[str, str]
    tags: Mapping[str, str]
    data: DataDescription | None

    @property
    def commit_is_known(self) -> bool:
        """Tell whether the runs name the version of the code."""
        return self.tags[COMMIT] != provenance.UNKNOWN


def author_and_code(developer: str, model: str) -> dict[str, str]:
    """Return the tags that do not depend on the task's data. ``model``: the model family."""
    return {
        "developer": developer,
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "model": model,
        "mlflow.user": provenance.os_user(),
        "mlflow.source.name": "python -m search.run",
        "mlflow.source.type": "LOCAL",
        COMMIT: provenance.git_commit(),
    }
