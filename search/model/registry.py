"""Versions of the registered model, and which of them is the champion.

MLflow has no compare-and-swap, and several searches may end at once. But versions have numbers,
given one after the other: they are compared in that order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from numpy.typing import NDArray

from search.model.scoring_process import ScoringProcess
from search.record.store import Store
from search.record.tags import ALIAS, DATA_DIGEST, ROLE, STANDING, VERSION
from search.values.metric import Metric

CHAMPION = "champion"
CHALLENGER = "challenger"

WAITING = "not compared yet"  # the tag STANDING until the version has its alias
GIVEN_UP = "not compared: the search that made it did not go on"
TURN_S = 120.0  # for a version that is being compared; scoring a champion takes seconds
LOOK_AGAIN_S = 0.5


@dataclass(frozen=True)
class Candidate:
    """A logged model that is to become a version."""

    model_uri: str
    run_id: str  # of the refit
    score: float
    digest: str  # of the rows it was trained and scored on
    rows: Any  # DataFrame [rows] that it was scored on, as a user would send them
    score_of: Callable[[NDArray[np.float64]], float]  # of any model's predictions for ``rows``
    made_up_data: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Standing:
    """The alias that a version gets, and why."""

    alias: str
    reason: str


@dataclass(frozen=True)
class Registered:
    """A version in the registry."""

    version: str
    standing: Standing

    def uri(self, name: str) -> str:
        """Return the URI by which MLflow finds this version."""
        return f"models:/{name}/{self.version}"

    def tags(self) -> dict[str, str]:
        """Return what the refit's run says of it."""
        return {
            VERSION: self.version,
            ALIAS: self.standing.alias,
            STANDING: self.standing.reason,
        }


def standing(score: float, champion_score: float | None, metric: Metric) -> Standing:
    """Decide between champion and challenger on the same rows."""
    if champion_score is None:
        return Standing(CHAMPION, "the first version")
    ours, theirs = metric.shown(score), f"{champion_score:.4f}"
    if metric.beats(score, champion_score):
        return Standing(CHAMPION, f"{ours}, the champion before had {theirs}")
    return Standing(CHALLENGER, f"{ours}, the champion has {theirs}")


class Registry:
    """One registered model in the registry of a tracking store."""

    def __init__(self, store: Store, name: str, metric: Metric) -> None:
        self._store, self._client = store, store.client
        self._name, self._metric = name, metric

    def register(self, candidate: Candidate) -> Registered:
        """Register a logged model, compare it with the champion, and set the alias it deserves."""
        tags = {**candidate.tags, DATA_DIGEST: candidate.digest, STANDING: WAITING}
        version = self._create(candidate.model_uri, candidate.run_id, tags)
        self._wait_for_turn(int(version))
        decided = self._standing(candidate)
        self._set_alias(decided.alias, version)
        self._set_standing(version, decided.reason)  # now it is the next one's turn
        return Registered(version, decided)

    def _standing(self, candidate: Candidate) -> Standing:
        if candidate.made_up_data:
            return Standing(CHALLENGER, "trained on a generated sample")
        if (champion := self._champion()) is None:
            return standing(candidate.score, None, self._metric)
        return self._compared(candidate, champion)

    def _compared(self, candidate: Candidate, champion: ModelVersion) -> Standing:
        number = champion.version
        refit = self._refit_of(champion)
        if refit is None:
            return Standing(CHALLENGER, f"champion {number} was not made by a search, not loaded")
        recorded = refit.data.metrics.get(self._metric.name)
        if recorded is None:
            return Standing(CHALLENGER, f"champion {number} was scored by another metric")
        if candidate.digest and champion.tags.get(DATA_DIGEST) == candidate.digest:
            return standing(candidate.score, recorded, self._metric)
        try:
            with ScoringProcess(candidate.rows, self._store.uri) as process:
                answer = process.predictions(f"models:/{self._name}/{number}")
            return standing(candidate.score, candidate.score_of(answer), self._metric)
        except (RuntimeError, ValueError) as error:
            return Standing(CHALLENGER, f"champion {number} could not be scored: {error}"[:500])

    def _wait_for_turn(self, version: int) -> None:
        """Wait until every version before this one has its alias.

        One that makes no progress belongs to a search that was killed, and is given up.
        """
        before: list[int] = []
        since = time.monotonic()
        while waiting := self._waiting_before(version):
            if waiting != before:
                before, since = waiting, time.monotonic()
            elif time.monotonic() - since > TURN_S:
                self._set_standing(str(waiting[0]), GIVEN_UP)
            time.sleep(LOOK_AGAIN_S)

    def _waiting_before(self, version: int) -> list[int]:
        wanted = f"tags.`{STANDING}` = '{WAITING}'"
        found = self._store.ask(lambda: self._client.search_model_versions(wanted))
        # compared here: MLflow's filters cannot express a name with a quote in it
        numbers = (int(each.version) for each in found if each.name == self._name)
        return sorted(number for number in numbers if number < version)

    def _set_alias(self, alias: str, version: str) -> None:
        self._store.ask(lambda: self._client.set_registered_model_alias(self._name, alias, version))

    def _set_standing(self, version: str, reason: str) -> None:
        self._store.ask(
            lambda: self._client.set_model_version_tag(self._name, version, STANDING, reason)
        )

    def _champion(self) -> ModelVersion | None:
        """Return the champion, if there is one."""
        try:
            return self._store.ask(
                lambda: self._client.get_model_version_by_alias(self._name, CHAMPION)
            )
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None  # no such model yet, or no such alias
            raise

    def _refit_of(self, version: ModelVersion) -> Run | None:
        """Return the refit that logged the version; None if none of ours did."""
        run_id = version.run_id
        if not run_id:
            return None
        try:
            run = self._store.ask(lambda: self._client.get_run(run_id))
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return run if run.data.tags.get(ROLE) == "refit" else None

    def _create(self, model_uri: str, run_id: str, tags: Mapping[str, str]) -> str:
        try:
            self._store.ask(lambda: self._client.create_registered_model(self._name))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        tries = 0

        def create() -> str:
            nonlocal tries
            tries += 1
            # the answer to the first try may have been lost after the version was made
            if tries > 1 and (found := self._version_of(run_id)) is not None:
                return found
            version = self._client.create_model_version(
                name=self._name,
                source=model_uri,
                run_id=run_id,
                tags=dict(tags),
                model_id=model_uri.removeprefix("models:/"),
            )
            return str(version.version)

        return self._store.ask(create)

    def _version_of(self, run_id: str) -> str | None:
        found = self._client.search_model_versions(f"run_id = '{run_id}'")
        return next((str(each.version) for each in found if each.name == self._name), None)
