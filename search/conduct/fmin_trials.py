"""hyperopt's ``Trials``, filled with the trials of a search as they end."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cloudpickle
from hyperopt import JOB_STATE_DONE, JOB_STATE_ERROR, STATUS_FAIL, STATUS_OK, Trials
from hyperopt.utils import coarse_utcnow

from search.errors import SearchError
from search.execute.stop_signal import StopSignal
from search.suggest.labels import LabelSpace
from search.tasks.objective.task import LOSS
from search.tasks.objective.trial import Extra
from search.values.failure import last_line
from search.values.trial import Outcome, PastTrial


@dataclass(frozen=True)
class Ending:
    """What ends an ``fmin`` before its last trial."""

    loss_threshold: float | None = None
    early_stop_fn: Callable[..., Any] | None = None
    raises: bool = True  # the first exception of the objective ends it


@dataclass
class FminTrials:
    """Hears of each trial's end, and tells when it is enough."""

    trials: Trials
    space: LabelSpace
    ending: Ending
    save_file: str = ""
    timeout_s: float | None = None  # then no further trial starts
    stop: StopSignal | None = None  # set when the search begins
    error: BaseException | None = None  # of the objective; ended the search
    first_id: int = field(init=False)  # of the search's first trial
    _early_stop_args: Any = field(init=False, default=())

    def __post_init__(self) -> None:
        # the trials that failed have ids, too, and hyperopt hides them
        self.first_id = 1 + max((doc["tid"] for doc in self.trials._dynamic_trials), default=-1)

    def past(self) -> list[PastTrial]:
        """Return what the trials held before the search, for the searcher."""
        found = []
        for doc in self.trials.trials:
            labels = {name: values[0] for name, values in doc["misc"]["vals"].items() if values}
            loss = doc["result"].get("loss") if doc["result"].get("status") == STATUS_OK else None
            found.append(PastTrial(self.space.point(labels), loss))
        return found

    def recovered(self, outcomes: Sequence[Outcome]) -> None:
        """Begin: add the trials that an earlier start of the search ended."""
        if self.stop is not None and self.timeout_s is not None:
            self.stop.enough(self.timeout_s)
        for outcome in outcomes:
            result = {"status": STATUS_FAIL}
            if outcome.score is not None:
                result = {**outcome.result, "loss": outcome.score, "status": STATUS_OK}
            self._insert(outcome, JOB_STATE_DONE, result)
        self.trials.refresh()

    def ended(self, outcome: Outcome, extra: Extra) -> None:
        """Add a trial that has ended. An error of the user's own code here ends the search."""
        try:
            self._ended(outcome, extra)
        except Exception as error:  # noqa: BLE001 - early_stop_fn's, or the file's to save to
            self._fail(error, f"after trial {outcome.trial_id}: {last_line(error)}")

    def _ended(self, outcome: Outcome, extra: Extra) -> None:
        if extra.result or outcome.score is not None:
            result = dict(extra.result) or {"loss": outcome.score, "status": STATUS_OK}
            self._insert(outcome, JOB_STATE_DONE, result)
        else:
            error = cloudpickle.loads(extra.error) if extra.error else None
            kind = type(error) if error is not None else SearchError
            misc = {"error": (str(kind), outcome.failure)}
            self._insert(outcome, JOB_STATE_ERROR, {"status": "new"}, misc)
            if self.ending.raises:
                self._fail(
                    error,
                    f"trial {outcome.trial_id} failed: {outcome.failure}; give fmin "
                    "catch_eval_exceptions=True to count failures as the worst loss and go on",
                )
        self.trials.refresh()
        if self.save_file:
            _saved(self.trials, Path(self.save_file))
        if self.stop is not None and self._is_enough():
            self.stop.enough()

    def _insert(
        self, outcome: Outcome, state: int, result: dict[str, Any], more: Mapping[str, Any] = {}
    ) -> None:
        tid = self.first_id + int(outcome.trial_id) - 1
        labels = self.space.labels_of(dict(outcome.params))
        attachments = result.pop("attachments", {})
        misc = {
            "tid": tid,
            "cmd": ("domain_attachment", "FMinIter_Domain"),
            "workdir": None,
            "idxs": {label: [tid] if label in labels else [] for label in self.space.labels},
            "vals": {
                label: [labels[label]] if label in labels else [] for label in self.space.labels
            },
            **more,
        }
        (doc,) = self.trials.new_trial_docs([tid], [None], [{"status": "new"}], [misc])
        doc |= {"state": state, "book_time": coarse_utcnow(), "refresh_time": coarse_utcnow()}
        self.trials.insert_trial_docs([doc])
        # after the checks, as hyperopt does: a result may be of any kind
        doc = self.trials._dynamic_trials[-1]
        doc["result"] = result
        for name, value in attachments.items():
            self.trials.trial_attachments(doc)[name] = value

    def _fail(self, error: BaseException | None, why: str) -> None:
        self.error = self.error or error
        if self.stop is not None:
            self.stop.fail(SearchError(why))

    def _is_enough(self) -> bool:
        if (threshold := self.ending.loss_threshold) is not None:
            losses = [r["loss"] for r in self.trials.results if r["status"] == STATUS_OK]
            if any(LOSS.better(loss, than=threshold) for loss in losses):
                return True
        if self.ending.early_stop_fn is None:
            return False
        stops, self._early_stop_args = self.ending.early_stop_fn(
            self.trials, *self._early_stop_args
        )
        return bool(stops)


def loaded(file: str) -> Trials:
    """Return the trials that were saved to a file, as hyperopt's ``fmin`` loads them."""
    with open(file, "rb") as stream:
        trials: Trials = pickle.load(stream)  # the user's own, named by the user
    return trials


def _saved(trials: Trials, file: Path) -> None:
    aside = file.with_name(f"{file.name}.{os.getpid()}")
    with aside.open("wb") as stream:
        cloudpickle.dump(trials, stream)
    aside.replace(file)
