"""Searches of the toy task as a user runs them, and what they leave in MLflow."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import toy
from command import REPOSITORY, Command, Result
from mlflow import MlflowClient
from mlflow.entities import Run


def start(
    options: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None
) -> Command:
    """Start a search of the hill."""
    path = f"{REPOSITORY}:{Path(toy.__file__).parent}"
    argv = [sys.executable, "-m", "toy", *options]
    return Command(argv, folder, {"PYTHONPATH": path, **(environment or {})})


def search(
    options: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None
) -> Result:
    """Search the hill to the end."""
    with start(options, folder, environment) as command:
        return command.wait(180)


def runs_of(folder: Path, role: str) -> list[Run]:
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(toy.EXPERIMENT)
    if experiment is None:  # the search has just begun
        return []
    return list(client.search_runs([experiment.experiment_id], f"tags.`search.role` = '{role}'"))


def scored_trials(folder: Path) -> dict[str, float]:
    """Return the score of each trial that has one."""
    return {
        run.data.tags["search.trial_id"]: run.data.metrics["height"]
        for run in runs_of(folder, "trial")
        if run.data.tags.get("search.status") in ("finished", "stopped")
        and "height" in run.data.metrics  # a run that is read while it is written may lack it
    }
