"""What every run of a search says of itself: its data, its author, its code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from search import provenance
from search.plan import Plan
from search.settings import os_user
from search.store import Data
from search.trips import Prepared

COMMIT = "mlflow.source.git.commit"
PREPROCESSING = "PU_DO + trip_distance, DictVectorizer, trips of 1 to 60 minutes"


@dataclass(frozen=True)
class Facts:
    """Params, tags and data that all runs of one search have in common."""

    origin: str  # of the data: "files", "tlc" or "sample"
    params: Mapping[str, str]
    tags: Mapping[str, str]
    data: Data

    @property
    def commit_is_known(self) -> bool:
        """Tell whether the runs name the version of the code."""
        return self.tags[COMMIT] != provenance.UNKNOWN


def facts(plan: Plan, prepared: Prepared, origin: str, before: Mapping[str, str]) -> Facts:
    """Return what all runs of the search will say.

    ``before``: the params of a search that goes on. Params cannot change, and its data is the
    same by its digest, whatever it is called today.
    """
    return Facts(
        origin=origin,
        params={
            "train-data-path": before.get("train-data-path", prepared.train.path),
            "valid-data-path": before.get("valid-data-path", prepared.valid.path),
            "preprocessing": before.get("preprocessing", PREPROCESSING),
        },
        tags={
            "developer": plan.settings.developer,
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "model": plan.trainable.name,
            "data.origin": origin,
            "mlflow.user": os_user(),
            "mlflow.source.name": "python -m search.run",
            "mlflow.source.type": "LOCAL",
            COMMIT: provenance.git_commit(),
        },
        data=Data(
            name="green-taxi trips",
            digest=prepared.dataset.digest,
            source={role: used.path for role, used in prepared.by_role.items()},
            profile={
                **{f"{role}_rows": len(used.minutes) for role, used in prepared.by_role.items()},
                "columns": int(prepared.dataset.train.features.shape[1]),
                "dropped": prepared.dropped,
            },
        ),
    )
