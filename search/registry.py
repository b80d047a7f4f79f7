"""Versions of the registered model, and which of them is the champion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from search.score import Scoring
from search.store import ROLE
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

    def __init__(self, uri: str, name: str) -> None:
        self._client = MlflowClient(uri, registry_uri=uri)
        self._uri = uri
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
        """Register a logged model, and set its alias by comparison with the champion.

        ``score`` is its RMSE on ``trips`` (DataFrame [rows]) with ``minutes`` [rows].
        """
        decided = self._standing(score, trips, minutes, made_up_data)
        version = self._create(model_uri, run_id, {**tags, "search.standing": decided.reason})
        self._client.set_registered_model_alias(self._name, decided.alias, version)
        return Registered(version, decided)

    def _standing(self, score: float, trips: Any, minutes: Any, made_up_data: bool) -> Standing:
        champion = self._champion()
        if champion is None or made_up_data:
            return standing(score, None, made_up_data=made_up_data)
        version = champion.version
        if not self._is_ours(champion):
            return Standing(CHALLENGER, f"champion {version} was not made by a search, not loaded")
        try:
            answer = Scoring(f"models:/{self._name}/{version}", trips, self._uri).result()
            return standing(score, rmse(answer, minutes), made_up_data=False)
        except (RuntimeError, ValueError) as error:
            return Standing(CHALLENGER, f"champion {version} could not be scored: {error}"[:500])

    def _champion(self) -> Any | None:
        try:
            return self._client.get_model_version_by_alias(self._name, CHAMPION)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None  # no such model yet, or no such alias
            raise

    def _is_ours(self, version: Any) -> bool:
        """Tell whether a refit of ours logged the version: only then is it loaded at all."""
        if not version.run_id:
            return False
        try:
            run = self._client.get_run(version.run_id)
        except MlflowException:
            return False
        return bool(run.data.tags.get(ROLE) == "refit")

    def _create(self, model_uri: str, run_id: str, tags: Mapping[str, str]) -> str:
        try:
            self._client.create_registered_model(self._name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        model_id = model_uri.removeprefix("models:/")
        made = self._client.create_model_version(
            self._name, model_uri, run_id, dict(tags), model_id=model_id
        )
        return str(made.version)
