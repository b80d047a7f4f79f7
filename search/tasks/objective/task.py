"""The objective task: a function of the user's own, and what is kept of its trials."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import cloudpickle

from search.errors import InputError
from search.suggest.labels import LabelSpace
from search.suggest.seeds import HyperoptSeeds
from search.suggest.space import plain
from search.tasks.base import OPEN_ENDED, Display, LikeFmin, Prepared
from search.tasks.kinds import Request
from search.tasks.objective.code import Code
from search.tasks.objective.loading import Loaded, load
from search.tasks.objective.travelling import travelling
from search.tasks.objective.trial import Extra, ObjectiveTrial, Shared
from search.values.failure import last_line
from search.values.kept import Kept
from search.values.logged import Logged, merged
from search.values.metric import Metric
from search.values.trial import Outcome

LONGEST_RESULT = 50_000  # characters
LOSS = Metric("loss", "minimize")
OWN_KEYS = (LOSS.name, LOSS.curve, "fit_seconds", "best_iteration")  # metrics that a search writes


class Listener(Protocol):
    """Receives the results of trials."""

    def recovered(self, outcomes: Sequence[Outcome]) -> None:
        """Hear of the trials that an earlier start ended."""

    def ended(self, outcome: Outcome, extra: Extra) -> None:
        """Hear of a trial's end."""


@dataclass(frozen=True)
class Objective:
    """A function to be minimised."""

    kind: ClassVar[str] = "objective"
    metric: ClassVar[Metric] = LOSS
    warmup: ClassVar[None] = None

    loaded: Loaded
    space: LabelSpace
    options: Mapping[str, Any]
    threads: int
    empty_store: Callable[[], bytes]
    like_fmin: LikeFmin
    listener: Listener | None = None

    @classmethod
    def open(cls, request: Request) -> Objective:
        """Load the objective that the options name.

        :raises InputError: it cannot be loaded, or has no search space.
        """
        values = request.values
        if values["objective"] is None:
            raise InputError(
                "--resume: the search was begun by fmin with a function that is in no file; go on "
                "with it there: fmin(..., resume=NAME)"
            )
        loaded = load(values["objective"], values["space"], values["working_dir"])
        seeds = HyperoptSeeds(request.seed, points=request.points)
        if request.generator is not None:
            seeds = HyperoptSeeds.from_json(request.generator)
        return cls.of(loaded, request, LikeFmin(seeds))

    @classmethod
    def of(
        cls,
        loaded: Loaded,
        request: Request,
        like_fmin: LikeFmin,
        listener: Listener | None = None,
    ) -> Objective:
        """Return the task of an objective that is loaded.

        :raises InputError: hyperopt does not know such a search space.
        """
        return cls(
            loaded=loaded,
            space=LabelSpace(loaded.space),
            options=request.values,
            threads=request.threads,
            empty_store=request.empty_store,
            like_fmin=like_fmin,
            listener=listener,
        )

    @property
    def model(self) -> str:
        """What is tuned: the tag `model` of the runs."""
        return self.loaded.name

    @property
    def rounds(self) -> int:
        """The most steps that a trial reports, as far as the user said."""
        return self.options["max_steps"] or OPEN_ENDED

    @property
    def grace(self) -> int:
        """The steps before a trial is judged, at least."""
        return 1

    @property
    def params(self) -> Mapping[str, Any]:
        """The task's settings, as params of the parent run."""
        return {name: self.options[name] for name in ("max_steps", "keep_models")}

    def prepare(self, display: Display) -> Prepared:
        """Pack the objective's code.

        :raises InputError: it cannot be sent to other processes.
        """
        code = travelling(self.loaded)
        records = Records(self.space, self.options["keep_models"], self.listener)
        source = self.loaded.source_file
        return Prepared(
            trial=ObjectiveTrial(),
            refit=None,
            shared=lambda: self._shared(code),
            code_digest=self.loaded.digest,
            files={} if source is None else {f"code/{source.name}": source.read_text()},
            recovered=records.recovered,
            ended=records.ended,
        )

    def _shared(self, code: Code) -> Shared:
        return Shared(
            key=self.loaded.digest,
            code=code,
            evaluation=cloudpickle.dumps(self.space.evaluation),
            empty_store=self.empty_store(),
            threads=self.threads,
        )


class Records:
    """Decides what is kept of each trial."""

    def __init__(self, space: LabelSpace, keep_models: str, listener: Listener | None) -> None:
        self._space, self._keep_models, self._listener = space, keep_models, listener
        self._best: Outcome | None = None
        self._has_models = ""  # the best trial that logged models

    def recovered(self, outcomes: Sequence[Outcome]) -> None:
        """Hear of the trials that an earlier start ended."""
        for outcome in outcomes:
            if self._is_best(outcome):
                self._has_models = outcome.trial_id
        if self._listener is not None:
            self._listener.recovered(outcomes)

    def ended(self, outcome: Outcome, packed: bytes) -> Kept:
        """Return what the run of a trial that has ended takes."""
        extra = _unpacked(packed)
        if self._listener is not None:
            self._listener.ended(outcome, extra)
        is_best = self._is_best(outcome)
        result = _plain(extra.result)
        if extra.logged is None:
            return Kept(result)
        logged = merged(extra.logged, self._space.params(outcome.params), OWN_KEYS)
        if self._keep_models == "none" or (self._keep_models == "best" and not is_best):
            return Kept(result, _without_models(logged))
        if not logged.models or self._keep_models == "all":
            return Kept(result, logged, keep_models=True)
        former, self._has_models = self._has_models, outcome.trial_id
        return Kept(result, logged, keep_models=True, supersedes=former)

    def _is_best(self, outcome: Outcome) -> bool:
        if outcome.score is None:
            return False
        best = self._best
        if best is None or best.score is None or LOSS.better(outcome.score, best.score):
            self._best = outcome
            return True
        return False


def _unpacked(packed: bytes) -> Extra:
    """Return what a trial handed over; nothing if its worker died, or if it cannot be read here."""
    try:
        extra: Extra = cloudpickle.loads(packed) if packed else Extra()
    except Exception as error:  # noqa: BLE001 - a class of a module that the driver does not have
        note = f"what it returned beside its loss cannot be read by the driver: {last_line(error)}"
        return Extra(logged=Logged(notes=(note,)))
    return extra


def _plain(result: Mapping[str, Any]) -> str:
    """Return what JSON holds of a result, beside loss and status; empty if that is nothing."""
    found = {}
    for name, value in result.items():
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            if name not in ("loss", "status"):
                found[str(name)] = json.loads(json.dumps(plain(value)))
    text = json.dumps(found)
    return text if found and len(text) <= LONGEST_RESULT else ""


def _without_models(logged: Logged) -> Logged:
    # a model that is to be registered stays, whatever is kept
    registered = tuple(model for model in logged.models if model.registered_as)
    archive = logged.models_archive if registered else None
    return replace(logged, models=registered, models_archive=archive)
