"""Versions of the registered model, and which of them is the champion.

MLflow has no compare-and-swap, and several searches may end at once. What it has is a number
for each version, given to one after the other: they are compared in that order.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from search.score import Scoring
from search.store import ROLE, Store
from trainables.base import rmse

CHAMPION = "champion"
CHALLENGER = "challenger"

DIGEST = "data.digest"  # tag of a version: of the rows it was trained and scored on
STANDING = "search.standing"  # tag of a version: the reason of its alias, or one of these
WAITING = "not compared yet"
GIVEN_UP = "not compared: the search that made it did not go on"
TURN_S = 120.0  # for a version that is being compared; what is measured takes seconds
LOOK_AGAIN_S = 0.5


@dataclass(frozen=True)
class Standing:
    """The alias a version gets, and why."""

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
            "search.version": self.version,
            "search.alias": self.standing.alias,
            STANDING: self.standing.reason,
        }


def standing(rmse: float, champion_rmse: float | None, *, made_up_data: bool) -> Standing:
    """Decide between champion and challenger on the same validation rows."""
    if made_up_data:
        return Standing(CHALLENGER, "trained on the made sample")
    if champion_rmse is None:
        return Standing(CHAMPION, "the first version")
    if rmse < champion_rmse:
        return Standing(CHAMPION, f"RMSE {rmse:.4f}, the champion before had {champion_rmse:.4f}")
    return Standing(CHALLENGER, f"RMSE {rmse:.4f}, the champion has {champion_rmse:.4f}")


class Registry:
    """One registered model in the registry of a tracking store."""

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self._client = store.client
        self._name = name

    def register(
        self,
        model_uri: str,
        run_id: str,
        score: float,
        trips: Any,
        minutes: Any,
        *,
        made_up_data: bool,
        tags: Mapping[str, str],
    ) -> Registered:
        """Register a logged model, compare it with the champion, give it the alias it has earned.

        ``score`` is its RMSE on ``trips`` (DataFrame [rows]) with ``minutes`` [rows].
        """
        version = self._create(model_uri, run_id, {**tags, STANDING: WAITING})
        self._wait_for_turn(int(version))
        if made_up_data or (champion := self._champion()) is None:
            decided = standing(score, None, made_up_data=made_up_data)
        else:
            decided = self._compared(score, champion, tags.get(DIGEST), trips, minutes)
        self._set_alias(decided.alias, version)
        self._set_standing(version, decided.reason)  # the turn of the next
        return Registered(version, decided)

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
        # compared here: a name with a quote in it cannot be written in MLflow's filters
        numbers = (int(each.version) for each in found if each.name == self._name)
        return sorted(number for number in numbers if number < version)

    def _set_alias(self, alias: str, version: str) -> None:
        self._store.ask(lambda: self._client.set_registered_model_alias(self._name, alias, version))

    def _set_standing(self, version: str, reason: str) -> None:
        self._store.ask(
            lambda: self._client.set_model_version_tag(self._name, version, STANDING, reason)
        )

    def _compared(
        self, score: float, champion: ModelVersion, digest: str | None, trips: Any, minutes: Any
    ) -> Standing:
        number = champion.version
        refit = self._refit_of(champion)
        if refit is None:
            return Standing(CHALLENGER, f"champion {number} was not made by a search, not loaded")
        if digest is not None and champion.tags.get(DIGEST) == digest:
            return standing(score, refit.data.metrics["rmse"], made_up_data=False)
        try:
            with Scoring(trips, self._store.uri) as scoring:
                answer = scoring.predictions(f"models:/{self._name}/{number}")
            return standing(score, rmse(answer, minutes), made_up_data=False)
        except (RuntimeError, ValueError) as error:
            return Standing(CHALLENGER, f"champion {number} could not be scored: {error}"[:500])

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
        """Return the refit that logged the version; nothing where none of ours did."""
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
        tried = 0

        def made() -> str:
            nonlocal tried
            tried += 1
            # the answer to the first try may have been lost after the version was made
            if tried > 1 and (found := self._version_of(run_id)) is not None:
                return found
            version = self._client.create_model_version(
                *(self._name, model_uri, run_id, dict(tags)),
                model_id=model_uri.removeprefix("models:/"),
            )
            return str(version.version)

        return self._store.ask(made)

    def _version_of(self, run_id: str) -> str | None:
        found = self._client.search_model_versions(f"run_id = '{run_id}'")
        return next((str(each.version) for each in found if each.name == self._name), None)
