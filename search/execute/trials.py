"""Running trials with Ray Tune, and the final fit as a Ray task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray

from search.errors import Interrupted, SearchError
from search.execute import stock_tune
from search.execute.halving import Halving, InOrder
from search.execute.nodes import Nodes
from search.execute.trial_retries import WORKER_DEATHS
from search.execute.worker import Fit, Job, Shared, Worker, run_fit
from search.values.model import Fitted
from search.values.trial import Point

LOOK_EVERY_S = 0.2  # whether the final fit is to be stopped


@dataclass(frozen=True)
class TrialRun:
    """The trials to run: ``wanted`` of them, as many at once as ``nodes`` have room for."""

    job: Job
    shared: Shared
    nodes: Nodes
    cpus_each: int
    wanted: int
    searcher: Any | None  # None: one trial, of the config ``only``
    only: Mapping[str, Any] = field(default_factory=dict)
    rungs_before: Mapping[str, Mapping[int, float]] = field(default_factory=dict)  # by trial, round

    def run(self, callbacks: Sequence[Any], stop: Callable[[], bool], folder: Path) -> None:
        """Run them. All end as soon as ``stop`` is true; ``callbacks`` hear what became of each.

        :raises SearchError: ``folder`` cannot be written: its disk is full, say.
        """
        options = {
            "config": dict(self.only),
            "search_alg": self.searcher,
            "num_samples": self.wanted,
            "resources_per_trial": {"cpu": self.cpus_each},
            "scheduler": self._scheduler(),
            "reuse_actors": True,  # a process per trial costs seconds of imports each
            "max_failures": WORKER_DEATHS,
            "raise_on_failed_trial": False,
            "callbacks": list(callbacks),
            "stop": _until(stop),
            "storage_path": str(folder),
            "name": "tune",
            "verbose": 0,
        }
        try:
            self._run_with_tune(options)
        except OSError as error:  # Tune's own files: a trial's folder, a dead worker's error
            reason = error.strerror or error
            raise SearchError(f"--state-dir {folder.parent}: {reason}") from error

    def _run_with_tune(self, options: Mapping[str, Any]) -> None:
        from ray import tune

        if stock_tune.is_needed():
            trainable = stock_tune.trainable(self.job, self.shared)
            tune.run(trainable, max_concurrent_trials=self.nodes.width, **options)
            return
        from search.execute import controller

        with controller.kept(Worker, self.nodes, job=self.job, shared=self.shared):
            tune.run(_placeholder, **options)  # the workers know what to run

    def _scheduler(self) -> Any:
        if not self.job.rungs:
            return InOrder()
        return Halving(self.job.metric, self.job.rungs, self.rungs_before)


@dataclass(frozen=True)
class FinalFit:
    """The best configuration, to be fitted again on a worker."""

    fit: Fit
    shared: Shared
    cpus: int

    def run(self, point: Point, rounds: int, stop: Callable[[], bool]) -> Fitted:
        """Fit; the model's bytes come back through the object store.

        :raises SearchError: the fit failed.
        :raises Interrupted: ``stop`` became true.
        """
        task = ray.remote(run_fit).options(num_cpus=self.cpus, max_retries=WORKER_DEATHS)
        result = task.remote(self.fit, point, rounds, self.shared)
        while not ray.wait([result], timeout=LOOK_EVERY_S)[0] and not stop():
            pass
        if stop():
            ray.cancel(result, force=True)
            raise Interrupted("interrupted: all trials are kept in MLflow, no refit was made")
        try:
            fitted: Fitted = ray.get(result)
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None) or error
            reason = (str(cause).strip().splitlines() or [""])[0]
            message = f"the refit failed: {type(cause).__name__}: {reason[:300]}"
            raise SearchError(message) from error
        return fitted


def _placeholder(config: dict[str, Any]) -> None:
    """Stand in for the trainable that Tune asks for."""


def _until(stop: Callable[[], bool]) -> Any:
    from ray.tune import Stopper

    class Until(Stopper):  # type: ignore[misc]
        """Ends the whole experiment by asking ``stop`` at each turn of Tune's loop."""

        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            return False

        def stop_all(self) -> bool:
            return stop()

        def __reduce__(self) -> tuple[type[str], tuple[()]]:
            # Tune pickles a copy for its own restore, which nobody uses
            return str, ()

    return Until()
