"""The one door through which searches are read back from MLflow.

MLflow holds every ended trial with its parameters, its result and its place in the order. Resuming
a search, extending it and starting from another one need nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run

from search.record.driver import Driver
from search.record.store import Store
from search.record.tags import (
    ALIAS,
    BEAT,
    BEST_ITERATION,
    BEST_TRIAL,
    CODE_DIGEST,
    DIRECTION,
    DRIVER,
    FAILURE,
    METRIC,
    OPTIONS,
    PARENT,
    POINT,
    RESULT,
    ROLE,
    RUNGS,
    STANDING,
    STATE_DIR,
    STATUS,
    SUPERSEDED,
    TRIAL_ID,
    VERSION,
    read_long_tag,
)
from search.values.metric import Metric
from search.values.trial import ENDED, SCORED, Outcome

SEARCHES = f"tags.`{ROLE}` = 'search'"  # the parent runs


@dataclass(frozen=True)
class LoggedTrial:
    """A trial, as read from its run."""

    run_id: str
    run_status: str  # MLflow's
    outcome: Outcome
    rungs: Mapping[int, float]  # round -> best score by then
    ended_ms: int

    @property
    def has_ended(self) -> bool:
        """Tell whether the trial need not run again."""
        return self.outcome.status in ENDED

    @property
    def is_over(self) -> bool:
        """Tell whether the trial's run is complete."""
        return self.has_ended and self.run_status != "RUNNING"


@dataclass(frozen=True)
class LoggedRefit:
    """A refit, as read from its run."""

    run_id: str
    best_trial_id: str
    version: str
    alias: str
    reason: str  # of the alias
    score: float
    test_score: float | None


@dataclass(frozen=True)
class OpenRun:
    """A run of a search that has not ended."""

    run_id: str
    role: str  # "trial" or "refit"
    status: str  # a trial's; empty: it has none yet


@dataclass(frozen=True)
class LoggedSearch:
    """A search, as read from its parent run."""

    run_id: str
    name: str
    status: str  # MLflow's
    started_ms: int
    params: Mapping[str, str]
    options: Mapping[str, Any] | None  # None: it cannot be resumed
    metric: str  # empty: begun by a version that had one metric only
    direction: str
    driver: Driver | None
    beat: str
    state_dir: str
    code_digest: str = ""  # of the user's own code; empty: it has none

    def is_scored_by(self, metric: Metric) -> bool:
        """Tell whether its scores can be compared with those of ``metric``."""
        return not self.metric or (self.metric, self.direction) == (metric.name, metric.direction)


class Ledger:
    """The searches of one experiment."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._client = MlflowClient(store.uri, registry_uri=store.uri)

    def search(self, name: str) -> LoggedSearch | None:
        """Return the search of this name, the first if there are two."""
        # Compared here: MLflow's filters cannot express a name with a quote in it.
        named = [r for r in self._runs(SEARCHES) if r.info.run_name == name]
        return _search(min(named, key=lambda r: r.info.start_time)) if named else None

    def names(self) -> list[str]:
        """Return the names of all searches, the newest first."""
        return [str(run.info.run_name) for run in self._runs(SEARCHES)]

    def trials(self, search: LoggedSearch, metric: Metric) -> list[LoggedTrial]:
        """Return the trials of a search, by number; of a trial with two runs, the first."""
        found: dict[str, LoggedTrial] = {}
        children = self._children(search.run_id, "trial")
        for run in sorted(children, key=_first_and_fullest):
            trial = _trial(run, metric)
            found.setdefault(trial.outcome.trial_id, trial)
        return [found[trial_id] for trial_id in sorted(found, key=int)]

    def trial_run(self, parent_run_id: str, trial_id: str) -> str | None:
        """Return the run of a trial, if there is one."""
        runs = self._children(parent_run_id, "trial", f" and tags.`{TRIAL_ID}` = '{trial_id}'")
        return next((str(run.info.run_id) for run in runs), None)

    def trial_runs(self, parent_run_id: str) -> Iterator[tuple[str, str]]:
        """Yield each run of each trial, by the trial's id."""
        for run in self._children(parent_run_id, "trial"):
            yield run.data.tags[TRIAL_ID], str(run.info.run_id)

    def open_runs(self, search: LoggedSearch) -> Iterator[OpenRun]:
        """Yield the trials' and refits' runs that have not ended."""
        for role in ("trial", "refit"):
            for run in self._children(search.run_id, role):
                if run.info.status == "RUNNING":
                    yield OpenRun(str(run.info.run_id), role, run.data.tags.get(STATUS, ""))

    def rounds(self, run_id: str, metric: Metric) -> int:
        """Return the step after the last one of a trial's curve, as its run has it."""
        history = self._store.ask(lambda: self._client.get_metric_history(run_id, metric.curve))
        return max((int(point.step) for point in history), default=-1) + 1

    def refits(
        self, search: LoggedSearch, metric: Metric
    ) -> tuple[LoggedRefit | None, Sequence[tuple[str, str]]]:
        """Return the refit that counts, and run and status of those that were not completed."""
        complete, broken = [], []
        for run in self._children(search.run_id, "refit"):
            if SUPERSEDED in run.data.tags:
                continue
            if run.info.status == "FINISHED" and VERSION in run.data.tags:
                complete.append(run)
            else:
                broken.append((str(run.info.run_id), str(run.info.status)))
        newest = max(complete, key=lambda run: run.info.start_time, default=None)
        return (None if newest is None else _refit(newest, metric)), broken

    def _children(self, parent_run_id: str, role: str, more: str = "") -> Iterator[Run]:
        return self._runs(f"tags.`{PARENT}` = '{parent_run_id}' and tags.`{ROLE}` = '{role}'{more}")

    def _runs(self, wanted: str) -> Iterator[Run]:
        ask = partial(self._client.search_runs, [self._store.experiment_id], wanted)
        return _pages(lambda token: self._store.ask(partial(ask, page_token=token)))


def experiments_with(uri: str, search: str) -> list[str]:
    """Return the names of the experiments that have a search of this name."""
    client = MlflowClient(uri)
    names = {
        str(each.experiment_id): str(each.name)
        for each in _pages(lambda token: client.search_experiments(page_token=token))
    }
    ask = partial(client.search_runs, list(names), SEARCHES)
    runs = _pages(lambda token: ask(page_token=token))
    found = {str(run.info.experiment_id) for run in runs if run.info.run_name == search}
    return [name for experiment_id, name in names.items() if experiment_id in found]


def _pages(ask: Callable[[str | None], Any]) -> Iterator[Any]:
    """Yield what is on all pages of an answer; ``ask`` takes a page's token."""
    page = None
    while page is None or page.token:
        page = ask(page.token if page else None)
        yield from page


def _first_and_fullest(run: Run) -> tuple[int, int]:
    """Order a trial's runs. Of two made by one request, the one that was written to counts."""
    return int(run.info.start_time), -len(run.data.tags) - len(run.data.params)


def _search(run: Run) -> LoggedSearch:
    tags = run.data.tags
    options = read_long_tag(tags, OPTIONS)
    return LoggedSearch(
        run_id=str(run.info.run_id),
        name=str(run.info.run_name),
        status=str(run.info.status),
        started_ms=int(run.info.start_time),
        params=dict(run.data.params),
        options=json.loads(options) if options else None,
        metric=tags.get(METRIC, ""),
        direction=tags.get(DIRECTION, ""),
        code_digest=tags.get(CODE_DIGEST, ""),
        driver=Driver.read(tags.get(DRIVER, "")),
        beat=tags.get(BEAT, ""),
        state_dir=tags.get(STATE_DIR, ""),
    )


def _trial(run: Run, metric: Metric) -> LoggedTrial:
    tags, metrics = run.data.tags, run.data.metrics
    status = tags.get(STATUS, "")
    has_score = status in SCORED
    return LoggedTrial(
        run_id=str(run.info.run_id),
        run_status=str(run.info.status),
        outcome=Outcome(
            trial_id=tags[TRIAL_ID],
            params=json.loads(read_long_tag(tags, POINT) or "{}"),
            status=status,
            score=metrics.get(metric.name) if has_score else None,
            best_iteration=int(metrics.get(BEST_ITERATION, 0)) if has_score else None,
            failure=tags.get(FAILURE, ""),
            result=json.loads(read_long_tag(tags, RESULT) or "{}"),
        ),
        rungs={int(r): score for r, score in json.loads(tags.get(RUNGS, "{}")).items()},
        ended_ms=int(run.info.end_time or 0),
    )


def _refit(run: Run, metric: Metric) -> LoggedRefit:
    tags, metrics = run.data.tags, run.data.metrics
    return LoggedRefit(
        run_id=str(run.info.run_id),
        best_trial_id=tags.get(BEST_TRIAL, ""),
        version=tags[VERSION],
        alias=tags.get(ALIAS, ""),
        reason=tags.get(STANDING, ""),
        score=metrics[metric.name],
        test_score=metrics.get(metric.test),
    )
