"""A model between the worker that fits it and the registry: fitted, packaged, judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

CHECKED_ROWS = 10_000  # enough to find a difference, few enough to take seconds


@dataclass(frozen=True)
class Fitted:
    """The best configuration fitted again, and what it predicted where it was fitted."""

    model: bytes
    answers: NDArray[np.float64]  # [checked rows] predictions, in the target's unit


@dataclass(frozen=True)
class Served:
    """One model that takes rows as a user has them: preprocessor included."""

    name: str  # of the logged model
    code: str  # path of the file that MLflow keeps and runs ("models from code")
    files: Mapping[str, str]  # name in the model's context -> path among the package's files
    signature: Any  # mlflow.models.ModelSignature
    input_example: Any  # pandas.DataFrame
    requirements: tuple[str, ...] = ()  # distributions it needs beside its flavour's


@dataclass(frozen=True)
class Package:
    """What a refit leaves in MLflow."""

    flavor: str  # the module of MLflow that saves the model: "sklearn", "pytorch", ...
    model: Any  # the object that the flavour saves
    files: Mapping[str, bytes] = field(default_factory=dict)  # artifact path -> content
    served: Served | None = None


@dataclass(frozen=True)
class Judgement:
    """The predictions and scores of a logged model after it was loaded again."""

    predicted: NDArray[np.float64]  # [validation rows]
    score: float
    test_score: float | None


def checked(rows: int) -> slice:
    """Return which of ``rows`` rows are predicted again after each step, to be compared."""
    return slice(None, None, max(1, rows // CHECKED_ROWS))
