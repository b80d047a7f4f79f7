"""Trials as Ray Tune runs them itself, for releases of Ray that ``controller`` is not proven for.

Tune's public interface only. A worker takes seconds to start, and nodes that join are not used.
"""

from __future__ import annotations

from importlib import metadata
from typing import Any

from search.execute.worker import Job, Report, Shared, StoppedAtRung, run_trial
from search.values.versions import is_between

CONTROLLER_PROVEN = ((2, 40), (2, 60))  # the first and the last minor release of Ray
NOTE = (
    "note: this release of Ray ({version}) is not known here, so stock Tune runs the trials: "
    "workers start more slowly, and nodes that join are used by the next search"
)


def is_needed() -> bool:
    """Tell whether ``controller`` is not proven for this release of Ray."""
    return not is_between(metadata.version("ray"), *CONTROLLER_PROVEN)


def trainable(job: Job, shared: Shared) -> Any:
    """Return a function trainable for Tune."""
    from ray import tune

    return tune.with_parameters(_run, job=job, shared=shared)


def _run(config: dict[str, Any], job: Job, shared: Shared) -> None:
    from ray import tune

    def hand_over(report: Report) -> None:
        try:
            tune.report(report)
        except SystemExit:  # how Tune ends a trial
            raise StoppedAtRung from None

    try:
        run_trial(config, job, shared, hand_over)
    except StoppedAtRung:
        raise SystemExit from None  # else Tune waits for another report
