"""The one door to Ray: a cluster to run on, the trials, and the refit job."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray

from search import actors
from search.errors import InputError, Interrupted, SearchError
from search.nodes import Nodes
from search.trial import ROUND, SCORE, Job, Refitted, Shared, Worker, refit
from trainables.dataset import Dataset

# A trial is run again this often when its worker process dies while its node lives; what the
# trial itself raises is an outcome and never reaches Tune (search/trial.py).
WORKER_DEATHS = 2

# Halving by asynchronous rungs (Li et al. 2018, arXiv:1810.05934): of the trials that reach a
# rung, the best in REDUCTION go on.
REDUCTION = 2
GRACE_SHARE = 8  # of the cap, before anything is judged (docs/decisions/0007-halving.md)
LEAST_GRACE = 10  # rounds

PROBE_TIMEOUT_S = 5.0  # for a cluster's port to open

# Unix sockets end at 107 bytes, and Ray's names below its folder need 64 of them.
LONGEST_RAY_FOLDER = 43

QUIET = {
    "RAY_DEDUP_LOGS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # silences a warning about a coming default
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing leaves the machine
    # CSV, JSON and TensorBoard files of each trial: nobody reads them, MLflow holds it all
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # search/run.py decides what Ctrl-C means
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a failed trial reports no score
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",  # Tune's own checkpoints serve its own restore only
    "TUNE_WARN_THRESHOLD_S": "1000000",
}
TOKEN_HINT = ", set RAY_AUTH_MODE=token where it asks for one"


def rungs(rounds: int) -> tuple[int, ...]:
    """Return the rounds at which trials are judged, ascending, the cap not among them."""
    grace = max(LEAST_GRACE, rounds // GRACE_SHARE)
    found = []
    while grace < rounds:
        found.append(grace)
        grace *= REDUCTION
    return tuple(found)


class Cluster:
    """A Ray of our own, or a running one, that starts and ends while something else is done.

    One thread does both and lives in between: Ray's processes are killed with the thread that
    started them (PR_SET_PDEATHSIG, prctl(2)).
    """

    def __init__(self, address: str, state_dir: Path) -> None:
        """Name the cluster: ``local`` for one of our own below ``state_dir``."""
        self._address, self._state_dir = address, state_dir
        self._failure: BaseException | None = None
        self._has_started, self._is_over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._live, name="cluster", daemon=True)

    def __enter__(self) -> Cluster:
        os.environ.update({name: os.environ.get(name, value) for name, value in QUIET.items()})
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.end()
        self._thread.join()

    def join(self) -> None:
        """Wait until it has started.

        :raises InputError: there is no cluster at the address.
        :raises SearchError: Ray does not start here.
        """
        self._has_started.wait()
        if self._failure is not None:
            raise self._failure

    def end(self) -> None:
        """Begin to leave it, or to end it if it is ours: nothing more is asked of it."""
        self._is_over.set()

    def _live(self) -> None:
        with contextlib.ExitStack() as stack:
            try:
                self._start(stack)
            except BaseException as error:  # noqa: BLE001 - carried over to who joins
                self._failure = error
                return
            finally:
                self._has_started.set()
            self._is_over.wait()

    def _start(self, stack: contextlib.ExitStack) -> None:
        shared = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
        if self._address == "local":
            session = self._state_dir / "ray"
            short = stack.enter_context(_short_folder(session))
            _start({"include_dashboard": False, "_temp_dir": short, **shared})
        else:
            try:
                _probe(self._address)
                ray.init(self._address, **shared)
            except (OSError, RuntimeError, ValueError) as error:
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
                # Ray does not say that it was a token which it missed
                token = "" if "RAY_AUTH_MODE" in os.environ else TOKEN_HINT
                raise InputError(
                    f"--address {self._address}: no Ray cluster answers ({reason[:200]}); start "
                    f"one with `ray start --head` or `ray up`{token}, or leave --address out for "
                    "one of its own"
                ) from error
        stack.callback(ray.shutdown)


def share(data: Dataset) -> Shared:
    """Put the data into the object store, once; each node fetches it once."""
    return Shared(data.digest, ray.put(data))


def run_trials(
    *,
    data: Shared,
    job: Job,
    rounds: int,
    searcher: Any | None,
    only: dict[str, Any] | None,
    wanted: int,
    cpus_each: int,
    nodes: Nodes,
    callbacks: Sequence[Any],
    stop: Callable[[], bool],
    folder: Path,
    rungs_before: Mapping[str, Mapping[int, float]],
) -> None:
    """Run ``wanted`` trials, as many at once as ``nodes`` have room for at each moment.

    They all end as soon as ``stop`` answers true. With no ``searcher`` there is one trial, of
    the config ``only``. What became of the trials is told to ``callbacks``. ``rungs_before``: the
    scores of earlier trials, by trial and round.

    :raises SearchError: ``folder`` cannot be written, its disk is full, say.
    """
    from ray import tune

    try:
        with actors.kept(Worker, nodes, data=data, job=job):
            tune.run(
                _nothing,  # the workers know what to run
                config=only or {},
                search_alg=searcher,
                num_samples=wanted,
                resources_per_trial={"cpu": cpus_each},
                scheduler=_scheduler(job.rungs, rounds, rungs_before),
                reuse_actors=True,  # a process per trial costs seconds of imports each
                max_failures=WORKER_DEATHS,
                raise_on_failed_trial=False,
                callbacks=list(callbacks),
                stop=_until(stop),
                storage_path=str(folder),
                name="tune",
                verbose=0,
            )
    except OSError as error:  # Tune's own files: a trial's folder, its word on a dead worker
        raise SearchError(f"--state-dir {folder.parent}: {error.strerror or error}") from error


def run_refit(
    *,
    params: dict[str, Any],
    rounds: int,
    job: Job,
    data: Shared,
    cpus: int,
    stop: Callable[[], bool],
) -> Refitted:
    """Refit on a worker; its bytes come back through the object store.

    :raises SearchError: the fit failed.
    :raises Interrupted: ``stop`` answered true.
    """
    task = ray.remote(refit).options(num_cpus=cpus, max_retries=WORKER_DEATHS)
    made = task.remote(params, rounds, job, data)
    while not ray.wait([made], timeout=0.2)[0] and not stop():
        pass
    if stop():
        ray.cancel(made, force=True)
        raise Interrupted("interrupted: all trials are kept in MLflow, no refit was made")
    try:
        refitted: Refitted = ray.get(made)
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        reason = (str(cause).strip().splitlines() or [""])[0]
        raise SearchError(f"the refit failed: {type(cause).__name__}: {reason[:300]}") from error
    return refitted


def _nothing(config: dict[str, Any]) -> None:
    """Stand for the trainable that Tune asks for."""


def _start(options: Mapping[str, Any]) -> None:
    """Start a Ray of our own; a second time where a busy machine let the first run out of time."""
    for is_last in (False, True):
        try:
            ray.init("local", **options)
            return
        except Exception as error:  # Ray raises nothing more special than this
            ray.shutdown()
            if is_last:
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
                raise SearchError(
                    f"Ray does not start on this machine: {reason[:200]}; its own words are in the "
                    "log beside the journal, try again when the machine is less busy"
                ) from error


def _probe(address: str) -> None:
    """See that something listens at HOST:PORT: Ray itself would try for minutes."""
    if address == "auto":
        return
    host, colon, port = address.rpartition(":")
    if not (host and colon and port.isdigit()):
        raise ValueError("write auto, local or HOST:PORT")
    socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_TIMEOUT_S).close()


def _scheduler(
    milestones: Sequence[int], rounds: int, before: Mapping[str, Mapping[int, float]]
) -> Any:
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    class FirstLive:
        """Looks for the next trial among those that have not ended, not among all there were."""

        def choose_trial_to_run(self, controller: Any) -> Any:
            return next((t for t in controller.get_live_trials() if t.status == "PENDING"), None)

    class OneAfterTheOther(FirstLive, FIFOScheduler):  # type: ignore[misc]
        pass

    class Halving(FirstLive, ASHAScheduler):  # type: ignore[misc]
        pass

    if not milestones:
        return OneAfterTheOther()
    scheduler = Halving(
        time_attr=ROUND,
        metric=SCORE,
        mode="min",
        max_t=rounds,
        grace_period=milestones[0],
        reduction_factor=REDUCTION,
        stop_last_trials=False,  # a trial that reached the last round is finished, not stopped
    )
    # Ray has no public way to tell ASHA of earlier trials. Rewards are negated scores, each
    # trial's told from its first rung on.
    (bracket,) = scheduler._brackets
    for trial_id, scores in before.items():
        for milestone in sorted(scores):
            bracket.on_result(
                SimpleNamespace(trial_id=f"before-{trial_id}"), milestone, -scores[milestone]
            )
    return scheduler


def _until(stop: Callable[[], bool]) -> Any:
    from ray.tune import Stopper

    class Until(Stopper):  # type: ignore[misc]
        """Ends the whole experiment by asking ``stop`` at each turn of Tune's loop."""

        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            return False

        def stop_all(self) -> bool:
            return stop()

        def __reduce__(self) -> tuple[type[str], tuple[()]]:
            # Tune keeps a copy for its own restore, which nobody uses
            return str, ()

    return Until()


@contextlib.contextmanager
def _short_folder(folder: Path) -> Iterator[str]:
    """Yield a name of ``folder`` that is short enough for the sockets Ray makes below it."""
    folder.mkdir(parents=True, exist_ok=True)
    if len(str(folder)) <= LONGEST_RAY_FOLDER:
        yield str(folder)
        return
    with tempfile.TemporaryDirectory(prefix="search-") as short:
        link = Path(short) / "ray"
        link.symlink_to(folder)
        yield str(link)
