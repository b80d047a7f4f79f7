"""Workers that are started once and kept, and Tune's loop without what no search here needs.

Some of Tune's habits cost a search its slots (docs/decisions/0006-slots.md), and none has an
option; its controller is a private part of the one version of Ray that requirements.lock names.
"""

from __future__ import annotations

import contextlib
import importlib
from collections import Counter
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from search.nodes import Nodes
from search.trial import Deaf

# A trial that has lost more nodes than this is what ends them; spot markets take fewer.
EXCUSED = 10


@contextlib.contextmanager
def kept(worker: type, nodes: Nodes, **kwargs: Any) -> Iterator[None]:
    """Have Tune, while inside, run its trials in actors of ``worker(**kwargs)``, and keep those.

    There are as many at once as ``nodes`` say, at each moment.
    """
    # by name: the package holds a function of the module's name
    tune = importlib.import_module("ray.tune.tune")
    trial = importlib.import_module("ray.tune.experiment.trial")
    with (
        _replaced(tune, "TuneController", _controller(tune.TuneController, worker, nodes, kwargs)),
        # asked of the cluster three times a trial, by name; the resources are given anyway
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


def _controller(stock: Any, worker: type, nodes: Nodes, kwargs: dict[str, Any]) -> type:
    import ray

    # of no environment of its own: the processes that Ray has started already may serve
    actor_class = ray.remote(worker)

    class Controller(stock):  # type: ignore[misc]
        """Begins a trial by one call to a worker that stays."""

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self._excused: Counter[str] = Counter()  # by trial

        def on_step_end(self) -> None:
            super().on_step_end()
            nodes.workers = len(self._started_actors)

        def _maybe_update_trial_queue(self) -> None:
            """Have as many trials as there is room for now: nodes come and go."""
            self._max_pending_trials = width = nodes.width
            while len(self._live_trials) < width and not self._search_alg.is_finished():
                if not self._update_trial_queue(blocking=not self._live_trials):
                    break

        def _process_trial_failure(self, trial: Any, exception: Any) -> None:
            """Count neither the loss of a node nor another trial's fit as this one's failure."""
            if _no_fault_of_the_trial(exception):
                self._excused[trial.trial_id] += 1
                if self._excused[trial.trial_id] <= EXCUSED:
                    trial.run_metadata.num_failures -= 1  # what is counted next
            super()._process_trial_failure(trial, exception)

        def _schedule_trial_actor(self, trial: Any) -> None:
            trial.init_local_path()  # where Tune says how a worker died
            if self._maybe_reuse_cached_actor(trial):
                return
            actor = self._actor_manager.add_actor(
                cls=actor_class,
                kwargs=kwargs,
                resource_request=trial.placement_group_factory,
                on_start=self._actor_started,
                on_stop=self._actor_stopped,
                on_error=self._actor_failed,
            )
            self._give(trial, actor)

        def _maybe_reuse_cached_actor(self, trial: Any) -> bool:
            """Give a worker that is free to a trial that has none, before one whose own starts.

            Tune gives it to whichever waits first, and cancels the worker that starts: while
            trials are shorter than starts, the slots never fill. Where all have one that starts,
            it is given: no trial is to come, or their slots were lost with a node.
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
            self._give(trial, actor)
            self._actor_started(actor)
            return True

        def _give(self, trial: Any, actor: Any) -> None:
            self._trial_to_actor[trial], self._actor_to_trial[actor] = actor, trial

        def _actor_started(self, tracked_actor: Any, log: str = "STARTED") -> None:
            trial = self._actor_to_trial[tracked_actor]
            self._started_actors.add(tracked_actor)
            self._unstage_trial_with_resources(trial)
            self._callbacks.on_trial_start(
                iteration=self._iteration, trials=self._trials, trial=trial
            )
            self._set_trial_status(trial, trial.RUNNING)
            self._ask(trial, "begin", trial.config)

        def _schedule_trial_train(self, trial: Any) -> None:
            self._ask(trial, "go_on")

        def _ask(self, trial: Any, name: str, *args: Any) -> None:
            self._schedule_trial_task(
                *(trial, name, args),
                on_result=self._on_training_result,
                on_error=self._trial_task_failure,
            )

        def _mark_trial_to_checkpoint(self, trial: Any) -> None:
            """Keep no trial's state for a restore that nobody makes."""

        def _remove_actor(self, tracked_actor: Any) -> None:
            super()._remove_actor(tracked_actor)
            self._started_actors.discard(tracked_actor)

    return Controller


def _no_fault_of_the_trial(error: Any) -> bool:
    """Tell whether a worker was lost with its node, or still busy with an earlier trial's fit."""
    import ray

    if isinstance(error, ray.exceptions.RayTaskError):
        return isinstance(error.cause, Deaf)
    # Ray says so in words only
    return isinstance(error, ray.exceptions.RayActorError) and "node has died" in str(error)
