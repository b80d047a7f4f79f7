"""From a trial's events to its run in MLflow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from search.record import logged_run
from search.record.ledger import Ledger
from search.record.run_metadata import RunMetadata
from search.record.store import Score, Store
from search.record.tags import (
    FAILURE,
    PARENT,
    POINT,
    RESULT,
    ROLE,
    RUN_STATUS,
    RUNGS,
    STATUS,
    TRACEBACK,
    TRIAL_ID,
    long_tag,
)
from search.record.trial_models import TrialModels
from search.values.events import Ended, Progressed, Started

LONGEST_TRACEBACK_TAG = 5_000  # characters, of its end


@dataclass(frozen=True)
class SearchRuns:
    """The runs of one search, and what they have in common."""

    search: str  # the search's name
    parent_run_id: str
    metadata: RunMetadata
    curve: str  # the metric under which a learning curve is logged


class TrialRuns:
    """Writes trials' events to their runs. Writing an event twice changes nothing."""

    def __init__(self, store: Store, runs: SearchRuns) -> None:
        self.store = store
        self.runs = runs

    def reopen(self, run_id: str) -> None:
        """Set an ended run RUNNING again."""
        self.store.reopen(run_id)

    def find(self, trial_id: str) -> str | None:
        """Return the run of a trial, if there is one."""
        return Ledger(self.store).trial_run(self.runs.parent_run_id, trial_id)

    def remove_doubles(self, run_ids: Mapping[str, str]) -> None:
        """Delete the runs of these trials that are not the ones named here.

        A server that makes a run after its client stopped waiting is asked again and makes a
        second one.
        """
        for trial_id, run_id in Ledger(self.store).trial_runs(self.runs.parent_run_id):
            if run_ids.get(trial_id, run_id) != run_id:
                self.store.delete(run_id)

    def create(self, event: Started) -> str:
        """Create the trial's run; the request names the trial, so that the run can be found."""
        tags = {
            **self.runs.metadata.tags,
            PARENT: self.runs.parent_run_id,
            ROLE: "trial",
            TRIAL_ID: event.trial_id,
            **long_tag(POINT, json.dumps(dict(event.params))),
        }
        return self.store.create(f"{self.runs.search}-{event.trial_id}", tags, event.at_ms)

    def describe(self, run_id: str, event: Started) -> None:
        """Write the trial's params and data."""
        metadata = self.runs.metadata
        params = event.params if event.shown is None else event.shown
        self.store.describe(run_id, {**params, **metadata.params}, data=metadata.data)

    def progress(self, run_id: str, event: Progressed) -> None:
        """Write a piece of the curve."""
        self.store.score(run_id, self._curve(event))

    def score(self, run_id: str, event: Ended) -> None:
        """Write the outcome, and the rest of the curve."""
        tags = {STATUS: event.status}
        if event.failure:
            tags[FAILURE] = event.failure
        if event.result:
            tags |= long_tag(RESULT, event.result)
        if event.rungs:
            tags[RUNGS] = json.dumps(dict(event.rungs))
        scores = [Score(key, value, event.at_ms) for key, value in event.metrics.items()]
        self.store.score(run_id, [*self._curve(event), *scores], tags)

    def end(self, run_id: str, event: Ended) -> None:
        """End the run."""
        self.store.end(run_id, RUN_STATUS[event.status], event.at_ms)

    def keep_traceback(self, run_id: str, event: Ended, as_tag: bool) -> None:
        """Write a failure's traceback: as an artifact or, shortened, as a tag."""
        text = event.traceback or event.failure
        if as_tag:
            self.store.describe(run_id, tags={TRACEBACK: text[-LONGEST_TRACEBACK_TAG:]})
        else:
            self.store.write_text(run_id, text, "traceback.txt")

    def keep_logged(
        self, run_id: str, folder: str, keep_models: bool, last_try: bool = False
    ) -> tuple[str, ...]:
        """Write what the trial logged; return what is not kept, each with its reason.

        :raises Unwritable: the artifact store does not take all of it. On the last try that is
            one of the reasons.
        """
        return logged_run.keep(self.store, run_id, Path(folder), keep_models, last_try)

    def has_models(self, run_id: str) -> bool:
        """Tell whether models that the trial logged are in the store."""
        return TrialModels(self.store, run_id).are_kept

    def drop_models(self, run_id: str) -> None:
        """Remove the models that the trial logged, but not those that are registered."""
        TrialModels(self.store, run_id).drop()

    def _curve(self, event: Progressed | Ended) -> list[Score]:
        """Return a piece of the curve; step = round, from 0 as in `best_iteration`."""
        steps = event.steps or range(event.start, event.start + len(event.curve))
        points = zip(steps, event.curve, strict=True)
        return [Score(self.runs.curve, value, event.at_ms, step) for step, value in points]
