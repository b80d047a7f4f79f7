"""The data that a search works on, as MLflow shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class DataDescription:
    """The rows a run used: MLflow's dataset input."""

    name: str
    digest: str  # 32 hex digits of a sha256 over the rows as used
    source: Mapping[str, str]  # role (train, valid, test) -> path, as the user named it
    profile: Mapping[str, Any]  # counts of rows and columns
