"""What a search found, as one object and as the lines the user reads at the end."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from search.notes import Outcome
from search.progress import duration
from search.server import without_credentials
from search.settings import Settings

STATUSES = ("finished", "stopped", "failed", "interrupted")


@dataclass(frozen=True)
class Report:
    """What a search found: the object that ``--json`` prints (INTERFACE)."""

    search: str
    experiment_id: str
    parent_run_id: str
    data: Mapping[str, Any]
    trials: Mapping[str, int]
    best: Mapping[str, Any]
    refit: Mapping[str, Any]
    seconds: Mapping[str, float]

    def json(self) -> str:
        """Return the object as JSON."""
        return json.dumps(asdict(self))


def counted(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """Return how many trials there were, by status and in all."""
    counts = {status: sum(o.status == status for o in outcomes) for status in STATUSES}
    return {**counts, "total": len(outcomes)}


def trials_line(outcomes: Sequence[Outcome], *, out_of_time: bool) -> str:
    """Return what became of the trials."""
    counts = counted(outcomes)
    parts = ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status])
    why = " (the time budget is used up)" if out_of_time else ""
    return f"{counts['total']} trials: {parts or 'none'}{why}"


def nothing_finished_line(outcomes: Sequence[Outcome]) -> str:
    """Return why there is nothing to refit."""
    failures = [outcome for outcome in outcomes if outcome.failure]
    if failures:
        return (
            f"no trial finished: {len(failures)} failed, the last with "
            f"{failures[-1].failure!r}; its traceback is an artifact of its run"
        )
    return "no trial finished: the time budget ended before the first result; give more"


def end_lines(report: Report, settings: Settings, reason: str) -> Iterator[str]:
    """Yield what was found, where to look, and how to serve it. ``reason`` explains the alias."""
    best, refit = report.best, report.refit
    point = ", ".join(f"{name} {_short(value)}" for name, value in best["params"].items())
    yield f"best:  trial {best['trial_id']}, RMSE {best['rmse']:.4f} ({point or 'no parameters'})"
    tested = "" if refit["test_rmse"] is None else f", test RMSE {refit['test_rmse']:.4f}"
    yield f"refit: {refit['model_uri']}, RMSE {refit['rmse']:.4f}{tested}"
    yield f"alias: {refit['alias']} ({reason})"
    yield f"took:  {duration(report.seconds['total'])}"
    uri = without_credentials(settings.tracking_uri)
    local = f"mlflow ui --backend-store-uri {uri}"
    yield f"look:  {uri if uri.startswith('http') else local}"
    target = f"models:/{settings.registered_model}@{refit['alias']}"
    yield f"serve: MLFLOW_TRACKING_URI={uri} mlflow models serve -m {target} --env-manager local"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
