"""The class that scripts written for Spark ask for."""

from __future__ import annotations

from typing import Any

from hyperopt import Trials
from hyperopt.base import validate_loss_threshold, validate_timeout


class SparkTrials(Trials):  # type: ignore[misc]
    """Takes the place of ``hyperopt.SparkTrials``; no Spark is needed.

    As there, a failure is a failure of its trial and does not end the search, and ``timeout`` ends
    the trials that run.
    """

    def __init__(
        self,
        parallelism: int | None = None,
        timeout: float | None = None,
        loss_threshold: float | None = None,
        spark_session: Any = None,
    ) -> None:
        """``parallelism``: trials at once. ``timeout``: seconds. ``spark_session``: not used."""
        super().__init__()
        validate_timeout(timeout)
        validate_loss_threshold(loss_threshold)
        self.parallelism, self.timeout, self.loss_threshold = parallelism, timeout, loss_threshold
