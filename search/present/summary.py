"""What a search found: the object that ``--json`` prints, and the last lines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search.present.progress import duration
from search.values.metric import Metric
from search.values.trial import STATUSES, Outcome, ScoredOutcome
from search.values.uri import without_credentials


@dataclass(frozen=True)
class RefitSummary:
    """The refit at the end of a search."""

    run_id: str
    registered_model: str
    version: str
    alias: str
    reason: str  # of the alias
    score: float
    test_score: float | None

    def as_json(self, metric: Metric) -> dict[str, Any]:
        """Return the object's key ``refit``."""
        return {
            "run_id": self.run_id,
            "model_uri": f"models:/{self.registered_model}/{self.version}",
            "version": self.version,
            "alias": self.alias,
            "score": self.score,
            "test_score": self.test_score,
            metric.name: self.score,
            f"test_{metric.name}": self.test_score,
        }


@dataclass(frozen=True)
class Summary:
    """What a search found."""

    search: str
    task: str
    metric: Metric
    tracking_uri: str
    experiment_id: str
    parent_run_id: str
    data: Mapping[str, Any] | None
    outcomes: Sequence[Outcome]
    best: ScoredOutcome
    best_run_id: str
    refit: RefitSummary | None
    seconds: Mapping[str, float]  # total, start_up, search, refit

    def json(self) -> str:
        """Return the object that ``--json`` prints."""
        return json.dumps(
            {
                "search": self.search,
                "task": self.task,
                "metric": self.metric.name,
                "direction": self.metric.direction,
                "experiment_id": self.experiment_id,
                "parent_run_id": self.parent_run_id,
                "data": self.data,
                "trials": counted(self.outcomes),
                "best": {
                    "trial_id": self.best.trial_id,
                    "run_id": self.best_run_id,
                    "score": self.best.score,
                    self.metric.name: self.best.score,
                    "params": dict(self.best.params),
                },
                "refit": None if self.refit is None else self.refit.as_json(self.metric),
                "seconds": dict(self.seconds),
            }
        )

    def lines(self) -> Iterator[str]:
        """Yield what was found, where to look, and how to serve it."""
        metric, best, refit = self.metric, self.best, self.refit
        point = ", ".join(f"{name} {_short(value)}" for name, value in best.params.items())
        score = metric.shown(best.score)
        yield f"best:  trial {best.trial_id}, {score} ({point or 'no parameters'})"
        if refit is not None:
            tested = ""
            if refit.test_score is not None:
                tested = f", test {metric.shown(refit.test_score)}"
            model = f"models:/{refit.registered_model}/{refit.version}"
            yield f"refit: {model}, {metric.shown(refit.score)}{tested}"
            yield f"alias: {refit.alias} ({refit.reason})"
        yield f"took:  {duration(self.seconds['total'])}"
        uri = without_credentials(self.tracking_uri)
        local = f"mlflow ui --backend-store-uri {uri}"
        yield f"look:  {uri if uri.startswith('http') else local}"
        if refit is not None:
            model = f"models:/{refit.registered_model}@{refit.alias}"
            serve = f"mlflow models serve -m {model} --env-manager local --port 5001"
            yield f"serve: MLFLOW_TRACKING_URI={uri} {serve}"


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


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
