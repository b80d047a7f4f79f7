"""``fmin``: hyperopt's, on all cores or machines, recorded in MLflow and resumable.

Light: Ray and MLflow are imported once a search begins, after the environment that they read.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from hyperopt import JOB_STATE_NEW, Domain, Trials, space_eval
from hyperopt.base import validate_loss_threshold, validate_timeout
from hyperopt.exceptions import InvalidAnnotatedParameter
from hyperopt.pyll.base import Apply

from search.conduct.fmin_trials import Ending, FminTrials, loaded
from search.conduct.spark_trials import SparkTrials
from search.errors import InputError, NothingFinished, SearchError
from search.suggest.algorithms import name_of
from search.suggest.labels import LabelSpace
from search.suggest.seeds import HIGHEST, HyperoptSeeds
from search.suggest.space import plain

if TYPE_CHECKING:
    from search.options.settings import Settings

CUSTOM = "custom"  # an algorithm that only the script has
UNLIMITED = 10**9  # trials of a search that something else ends


def fmin(
    fn: Callable[..., Any],
    space: Any,
    algo: Any = None,
    max_evals: int | None = None,
    timeout: float | None = None,
    loss_threshold: float | None = None,
    trials: Trials | None = None,
    rstate: Any = None,
    allow_trials_fmin: bool = True,  # noqa: ARG001 - hyperopt's
    pass_expr_memo_ctrl: bool | None = None,
    catch_eval_exceptions: bool = False,
    verbose: bool = True,
    return_argmin: bool = True,
    points_to_evaluate: list[dict[str, Any]] | None = None,
    max_queue_len: int = 1,  # noqa: ARG001 - hyperopt's
    show_progressbar: bool = True,
    early_stop_fn: Callable[..., Any] | None = None,
    trials_save_file: str = "",
    *,
    name: str | None = None,
    resume: str | None = None,
    experiment_name: str | None = None,
    tracking_uri: str | None = None,
    address: str | None = None,
    max_concurrent: int | None = None,
    cpus_per_trial: int | None = None,
    scheduler: str | None = None,
    warm_start: Sequence[str] | None = None,
    state_dir: str | Path | None = None,
    seed: int | None = None,
    max_steps: int | None = None,
    keep_models: str | None = None,
    changed_objective: bool | None = None,
    registered_model: str | None = None,
    working_dir: str | Path | None = None,
) -> Any:
    """Minimise ``fn`` over ``space``, with several trials at once; return hyperopt's argmin.

    The parameters before ``name`` are those of ``hyperopt.fmin``, and so are the result, the
    exceptions and what is left in ``trials``. The others are the options of
    ``python -m search.run`` of the same names.

    :param max_queue_len: has no effect: as many points are ready as there are slots.
    :param resume: the name of a search that goes on.
    :raises InputError: something that is given cannot be used; no trial was started.
    :raises SearchError: the search failed; an exception of ``fn`` is raised as it is.
    :raises Interrupted: the user ended it; ``resume=`` goes on with it.
    """
    _check_supported(fn, trials, pass_expr_memo_ctrl)
    time_budget = None
    if isinstance(trials, SparkTrials):
        catch_eval_exceptions = True
        time_budget = timeout or trials.timeout
        timeout = None
        loss_threshold = trials.loss_threshold if loss_threshold is None else loss_threshold
        max_concurrent = max_concurrent or trials.parallelism
    call = Call(
        fn=fn,
        space=space,
        algo=algo,
        max_evals=max_evals,
        timeout=timeout,
        points=tuple(points_to_evaluate or ()),
        rstate=rstate,
        trials=trials,
        save_file=trials_save_file,
        ending=Ending(loss_threshold, early_stop_fn, raises=not catch_eval_exceptions),
        is_quiet=not (verbose and show_progressbar),
        own=_given(
            time_budget=time_budget,
            name=name,
            resume=resume,
            experiment_name=experiment_name,
            tracking_uri=tracking_uri,
            address=address,
            max_concurrent=max_concurrent,
            cpus_per_trial=cpus_per_trial,
            scheduler=scheduler,
            warm_start=None if warm_start is None else tuple(warm_start),
            state_dir=None if state_dir is None else Path(state_dir),
            seed=seed,
            max_steps=max_steps,
            keep_models=keep_models,
            changed_objective=changed_objective,
            registered_model=registered_model,
            working_dir=None if working_dir is None else Path(working_dir),
        ),
    )
    found = call.run()
    if not return_argmin:
        return space_eval(call.expression, found.argmin) if len(found) else None
    if not len(found):
        raise Exception("There are no evaluation tasks, cannot return argmin of task losses.")
    return found.argmin


@dataclass(frozen=True)
class Call:
    """One call of :func:`fmin`, as asked for."""

    fn: Callable[..., Any]
    space: Any
    algo: Any
    max_evals: int | None
    timeout: float | None
    points: tuple[dict[str, Any], ...]
    rstate: Any
    trials: Trials | None
    save_file: str
    ending: Ending
    is_quiet: bool
    own: Mapping[str, Any]  # our own keywords that were given

    def run(self) -> Trials:
        """Search, and return the trials, filled.

        :raises InputError, SearchError, Interrupted: as :func:`fmin`.
        """
        validate_timeout(self.timeout)
        validate_loss_threshold(self.ending.loss_threshold)
        Domain(self.fn, self.expression)  # hyperopt's own exceptions for spaces that it refuses
        trials = self._opened_trials()
        self._check(trials)
        points = self.points if self.trials is None and not len(trials) else _pending(trials)
        left = self._wanted + len(points) - len(trials)
        if left > 0:
            heard = FminTrials(
                trials, LabelSpace(self.expression), self.ending, self.save_file, self.timeout
            )
            self._search(heard, min(left, UNLIMITED), points)
        return trials

    @property
    def expression(self) -> Any:
        """The search space as hyperopt's expression.

        :raises InvalidAnnotatedParameter: a parameter of the function has no distribution.
        """
        if not self._is_annotated:
            return self.space
        annotations: dict[str, Any] = inspect.getfullargspec(self.fn).annotations
        if not all(isinstance(each, Apply) for each in annotations.values()):
            raise InvalidAnnotatedParameter(
                'space="annotated" needs a distribution of hyperopt\'s as the annotation of each '
                "parameter"
            )
        return annotations

    @property
    def objective(self) -> Callable[[Any], Any]:
        """The function of a point."""
        return functools.partial(_with_names, self.fn) if self._is_annotated else self.fn

    @property
    def _is_annotated(self) -> bool:
        return isinstance(self.space, str) and self.space == "annotated"

    @property
    def _wanted(self) -> int:
        if self.max_evals is None or self.max_evals >= UNLIMITED:
            return UNLIMITED
        return int(self.max_evals)

    def _opened_trials(self) -> Trials:
        if self.trials is not None:
            return self.trials
        return loaded(self.save_file) if os.path.exists(self.save_file) else Trials()

    def _check(self, trials: Trials) -> None:
        pairs = [
            ("seed", "seed" in self.own, "rstate", self.rstate is not None),
            ("resume", "resume" in self.own, "a filled trials", bool(len(trials))),
            ("resume", "resume" in self.own, "trials_save_file", bool(self.save_file)),
            ("resume", "resume" in self.own, "name", "name" in self.own),
        ]
        for one, has_one, other, has_other in pairs:
            if has_one and has_other:
                raise InputError(f"fmin: {one} and {other} contradict each other; give one of them")

    def _search(self, heard: FminTrials, left: int, points: Sequence[Mapping[str, Any]]) -> None:
        from search.execute import environment
        from search.record import server
        from search.record.state_folder import own_folder

        seeds = self._seeds(heard.first_id, len(points))
        settings = self._settings(left, seeds, points)

        def begin(stop: Any) -> None:
            heard.stop = stop

        with _mlflow_variables_kept(), own_folder(settings.state_dir, settings.name) as folder:
            server.prepare(settings.tracking.uri)
            environment.prepare(folder)
            # what is heavy comes after the environment that it reads
            from search.conduct.interactive import conducted
            from search.present.progress import Display

            try:
                conducted(
                    settings,
                    functools.partial(self._task, heard, seeds),
                    folder,
                    Display(io.StringIO() if self.is_quiet else None),
                    begin,
                )
            except NothingFinished:
                pass  # hyperopt's own exceptions say so
            except SearchError as error:
                if heard.error is None:
                    raise
                heard.error.add_note(str(error))
        if heard.error is not None:
            raise heard.error

    def _settings(
        self, left: int, seeds: HyperoptSeeds, points: Sequence[Mapping[str, Any]]
    ) -> Settings:
        from search.options.command_line import from_python
        from search.tasks.objective.kind import OBJECTIVE
        from search.tasks.objective.live import reference_of

        given = {
            **_said_to_mlflow(),
            "objective": reference_of(self.fn),
            "num_samples": left,
            **self.own,
        }
        if self.algo is not None:
            given["algorithm"] = self._algorithm
        if "resume" not in given:
            given |= {"initial_points": plain(list(points)), "generator": seeds.as_json()}
        return from_python(OBJECTIVE, given)

    @property
    def _algorithm(self) -> str:
        if isinstance(self.algo, str):
            return self.algo
        return name_of(self.algo) or CUSTOM

    def _seeds(self, first_id: int, points: int) -> HyperoptSeeds:
        rstate = self.rstate
        if rstate is None:
            drawn = os.environ.get("HYPEROPT_FMIN_SEED") or _drawn_seed()
            rstate = int(self.own.get("seed", drawn))
        return HyperoptSeeds(rstate, first_id=first_id, points=points)

    def _task(self, heard: FminTrials, seeds: HyperoptSeeds, settings: Settings) -> Any:
        from search.conduct.plan import request_of
        from search.tasks.base import LikeFmin
        from search.tasks.objective.live import live
        from search.tasks.objective.task import Objective

        custom = self.algo if self._algorithm == CUSTOM else None
        if settings.resume and settings.generator is not None:
            seeds = HyperoptSeeds.from_json(settings.generator)
        request = request_of(settings)
        loaded = live(self.objective, self.expression, settings.task["working_dir"])
        like_fmin = LikeFmin(seeds, custom, heard.past())
        return Objective.of(loaded, request, like_fmin, heard)


def _with_names(fn: Callable[..., Any], point: Mapping[str, Any]) -> Any:
    return fn(**point)


def _given(**keywords: Any) -> dict[str, Any]:
    return {name: plain(value) for name, value in keywords.items() if value is not None}


def _pending(trials: Trials) -> list[dict[str, Any]]:
    """Take the points that wait in ``trials`` out of them, as initial points.

    ``hyperopt.fmin.generate_trials_to_calculate`` puts them there.
    """
    new = [doc for doc in trials._dynamic_trials if doc["state"] == JOB_STATE_NEW]
    trials._dynamic_trials = [doc for doc in trials._dynamic_trials if doc not in new]
    trials.refresh()
    return [
        {label: values[0] for label, values in doc["misc"]["vals"].items() if values} for doc in new
    ]


@contextlib.contextmanager
def _mlflow_variables_kept() -> Iterator[None]:
    """Leave the script's own variables of MLflow as they were: time-outs, credentials."""
    before = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}
    try:
        yield
    finally:
        for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
            del os.environ[name]
        os.environ.update(before)


def _drawn_seed() -> int:
    return int(np.random.default_rng().integers(HIGHEST))


def _check_supported(fn: Any, trials: Any, pass_expr_memo_ctrl: bool | None) -> None:
    kind = type(trials)
    runs_them = getattr(kind, "fmin", Trials.fmin) is not Trials.fmin
    if trials is not None and runs_them and not isinstance(trials, SparkTrials):
        raise InputError(
            f"fmin: trials of the class {kind.__name__} run in their own way; give hyperopt's "
            "Trials() or search.SparkTrials()"
        )
    if pass_expr_memo_ctrl or getattr(fn, "fmin_pass_expr_memo_ctrl", False):
        raise InputError(
            "fmin: pass_expr_memo_ctrl hands the objective hyperopt's own trials, which another "
            "process does not have; take a point as the argument, or use hyperopt.fmin"
        )


def _said_to_mlflow() -> dict[str, Any]:
    """Return the store and the experiment that the script named to MLflow, or the environment.

    :raises InputError: there is no such experiment.
    """
    mlflow: Any = sys.modules.get("mlflow")
    said = {}
    if mlflow is not None and mlflow.is_tracking_uri_set():
        said["tracking_uri"] = mlflow.get_tracking_uri()
    experiment_id = os.environ.get("MLFLOW_EXPERIMENT_ID")  # `set_experiment` sets it, too
    if mlflow is not None and experiment_id:
        try:
            said["experiment_name"] = mlflow.get_experiment(experiment_id).name
        except mlflow.MlflowException as error:
            raise InputError(f"MLFLOW_EXPERIMENT_ID={experiment_id}: {error}; unset it") from error
    elif name := os.environ.get("MLFLOW_EXPERIMENT_NAME"):
        said["experiment_name"] = name
    return said
