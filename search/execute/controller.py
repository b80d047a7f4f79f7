"""Private parts of Ray Tune 2.40 to 2.60: its controller, with workers that are kept.

Some of what Tune does leaves slots idle (docs/decisions/0006-slots.md), and no option changes it.
With any other release of Ray, ``stock_tune`` runs the trials.
"""

from __future__ import annotations

import contextlib
import importlib
from collections import Counter
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import ray
from ray.tune.execution.tune_controller import TuneController

from search.execute.nodes import Nodes
from search.execute.trial_retries import EXCUSED, is_excused


@contextlib.contextmanager
def kept(worker: type, nodes: Nodes, **kwargs: Any) -> Iterator[None]:
    """While inside, have Tune run its trials in actors of ``worker(**kwargs)``, and keep those.

    At each moment there are as many as ``nodes`` have room for.
    """
    # by name: the package holds a function of the module's name
    tune = importlib.import_module("ray.tune.tune")
    trial = importlib.import_module("ray.tune.experiment.trial")
    attributes = {
        # without a runtime environment, so that processes which Ray has already started serve
        "actor_class": ray.remote(worker),
        "nodes": nodes,
        "worker_arguments": kwargs,
    }
    with (
        _replaced(tune, "TuneController", type("Controller", (KeepsWorkers,), attributes)),
        # Tune asks the cluster for these three times a trial; the resources are given anyway
        _replaced(trial, "validate_trainable", lambda _: None),
        _replaced(trial, "get_trainable_cls", lambda _: None),
    ):
        yield


@contextlib.contextmanager
def _replaced(module: ModuleType, name: str, ours: Any) -> Iterator[None]:
    stock = getattr(module, name)
    setattr(module, name, ours)
    try:
        yield
    finally:
        setattr(module, name, stock)


class KeepsWorkers(TuneController):  # type: ignore[misc]
    """Begins a trial by one call to a worker that is kept."""

    actor_class: Any
    nodes: Nodes
    worker_arguments: dict[str, Any]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._excused: Counter[str] = Counter()  # by trial

    def on_step_end(self) -> None:
        """Count the workers."""
        super().on_step_end()
        self.nodes.workers = len(self._started_actors)

    def _maybe_update_trial_queue(self) -> None:
        """Have as many trials as there is room for now: nodes join and leave."""
        self._max_pending_trials = width = self.nodes.width
        while len(self._live_trials) < width and not self._search_alg.is_finished():
            if not self._update_trial_queue(blocking=not self._live_trials):
                break

    def _process_trial_failure(self, trial: Any, exception: Any) -> None:
        """Do not count the loss of a node, or another trial's fit, as this trial's failure."""
        if is_excused(exception):
            self._excused[trial.trial_id] += 1
            if self._excused[trial.trial_id] <= EXCUSED:
                trial.run_metadata.num_failures -= 1  # Tune adds 1 next
        super()._process_trial_failure(trial, exception)

    def _schedule_trial_actor(self, trial: Any) -> None:
        trial.init_local_path()  # where Tune writes how a worker died
        if self._maybe_reuse_cached_actor(trial):
            return
        actor = self._actor_manager.add_actor(
            cls=self.actor_class,
            kwargs=self.worker_arguments,
            resource_request=trial.placement_group_factory,
            on_start=self._actor_started,
            on_stop=self._actor_stopped,
            on_error=self._actor_failed,
        )
        self._assign(trial, actor)

    def _maybe_reuse_cached_actor(self, trial: Any) -> bool:
        """Give a free worker to a trial without one, before a trial whose worker is starting.

        Tune gives it to the first trial that waits, and cancels the worker that is starting
        for it: while trials are shorter than starts, the slots never fill. If a worker is
        starting for each trial, the free one is given all the same: no trial is to come, or
        the slots were lost with a node.
        """
        starting = self._trial_to_actor.get(trial)
        if starting is not None and self._pending_trials - self._trial_to_actor.keys():
            return False
        actor = self._actor_cache.pop_cached_object(trial.placement_group_factory)
        if actor is None:
            return False
        if starting is not None:
            self._actor_to_trial.pop(starting)
            self._remove_actor(tracked_actor=starting)
        self._assign(trial, actor)
        self._actor_started(actor)
        return True

    def _assign(self, trial: Any, actor: Any) -> None:
        self._trial_to_actor[trial], self._actor_to_trial[actor] = actor, trial

    def _actor_started(self, tracked_actor: Any, log: str = "STARTED") -> None:
        trial = self._actor_to_trial[tracked_actor]
        self._started_actors.add(tracked_actor)
        self._unstage_trial_with_resources(trial)
        self._callbacks.on_trial_start(iteration=self._iteration, trials=self._trials, trial=trial)
        self._set_trial_status(trial, trial.RUNNING)
        self._ask(trial, "begin", trial.config)

    def _schedule_trial_train(self, trial: Any) -> None:
        self._ask(trial, "go_on")

    def _ask(self, trial: Any, name: str, *args: Any) -> None:
        self._schedule_trial_task(
            trial=trial,
            method_name=name,
            args=args,
            on_result=self._on_training_result,
            on_error=self._trial_task_failure,
        )

    def _mark_trial_to_checkpoint(self, trial: Any) -> None:
        """Keep no state of the trial: nothing restores it."""

    def _remove_actor(self, tracked_actor: Any) -> None:
        super()._remove_actor(tracked_actor)
        self._started_actors.discard(tracked_actor)
