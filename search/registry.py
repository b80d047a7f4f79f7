"""Versions of the registered model, and which of them is the champion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlflow.exceptions import MlflowException

from search.score import Scoring
from search.store import ROLE, Store
from trainables.base import rmse

CHAMPION = "champion"
CHALLENGER = "challenger"


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
            "search.standing": self.standing.reason,
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
        """Register a logged model, and compare it with the champion; its alias is still to set.

        ``score`` is its RMSE on ``trips`` (DataFrame [rows]) with ``minutes`` [rows].
        """
        champion = self._champion()
        decided = self._standing(champion, score, trips, minutes, made_up_data)
        version = self._create(model_uri, run_id, {**tags, "search.standing": decided.reason})
        while (now := self._champion()) != champion:
            # another search has crowned its own meanwhile
            champion = now
            decided = self._standing(champion, score, trips, minutes, made_up_data)
        return Registered(version, decided)

    def set_alias(self, registered: Registered) -> None:
        """Give a version the alias it has earned."""
        alias = registered.standing.alias
        self._store.ask(
            lambda: self._client.set_registered_model_alias(self._name, alias, registered.version)
        )

    def _standing(
        self, champion: str | None, score: float, trips: Any, minutes: Any, made_up_data: bool
    ) -> Standing:
        if champion is None or made_up_data:
            return standing(score, None, made_up_data=made_up_data)
        if not self._is_ours(champion):
            return Standing(CHALLENGER, f"champion {champion} was not made by a search, not loaded")
        try:
            uri = f"models:/{self._name}/{champion}"
            with Scoring(trips, self._store.uri) as scoring:
                answer = scoring.predictions(uri)
            return standing(score, rmse(answer, minutes), made_up_data=False)
        except (RuntimeError, ValueError) as error:
            return Standing(CHALLENGER, f"champion {champion} could not be scored: {error}"[:500])

    def _champion(self) -> str | None:
        """Return the champion's version, if there is one."""
        try:
            found = self._store.ask(
                lambda: self._client.get_model_version_by_alias(self._name, CHAMPION)
            )
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None  # no such model yet, or no such alias
            raise
        return str(found.version)

    def _is_ours(self, version: str) -> bool:
        """Tell whether a refit of ours logged the version: only then is it loaded at all."""
        run_id = self._store.ask(lambda: self._client.get_model_version(self._name, version)).run_id
        if not run_id:
            return False
        try:
            return self._store.tags(run_id).get(ROLE) == "refit"
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise

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
