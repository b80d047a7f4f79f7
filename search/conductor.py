"""One search, from the data to the registered model, in the order in which it happens."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException

from search import engine, months, provenance, trips
from search.errors import InputError, Interrupted, SearchError
from search.facts import Facts, facts
from search.plan import Plan, planned
from search.progress import Clock, State, Teller
from search.refit import Refit, RefitJob
from search.report import Report, counted, end_lines, nothing_finished_line, trials_line
from search.searcher import Proposal, TPESearch, trial_id
from search.settings import Settings
from search.stopping import Stop
from search.store import ROLE, Score, Store, first_line, now_ms
from search.tracker import Outcome, TrialRuns, TrialTracker, Writer
from search.trial import SCORE, Shared
from search.trips import Prepared


def conduct(settings: Settings, folder: Path, tell: Teller, stop: Stop, clock: Clock) -> Report:
    """Run the whole search. ``folder`` is its own, and is left with its log only.

    ``clock`` was started when the command was, so that imports count.

    :raises InputError: something the user gave cannot be used; no trial was started.
    :raises SearchError: no trial finished, the refit failed, or the server stayed away.
    :raises Interrupted: the user ended it.
    """
    plan = planned(settings)
    located = months.locate(
        *(settings.train_data, settings.valid_data, settings.test_data),
        *(settings.data_dir, tell),
    )
    prepared = trips.prepare(located.train, located.valid, located.test)
    for line in _rows_lines(prepared):
        tell.say(line)
    said = facts(plan, prepared, located.origin)
    if not said.commit_is_known:
        variable = provenance.COMMIT_VARIABLE
        tell.say(f"warning: the git commit of the code is unknown; set {variable} to it")
    store = _store(settings)
    with _refusals_of_the_server(), engine.cluster(settings.address, folder):
        stop.listen()
        slots = engine.slots(settings.cpus_per_trial, settings.max_concurrent, plan.wanted)
        shared = engine.share(prepared.dataset)
        start_up_s = clock.lap()
        tags = {**said.tags, **provenance.machine(), ROLE: "search"}
        with store.run(settings.name, tags, tell.say) as parent_run_id:
            store.describe(parent_run_id, {**said.params, **plan.options()}, data=said.data)
            installed = provenance.requirements()
            store.write_text(parent_run_id, installed, "environment/requirements.txt")
            runs = TrialRuns(
                *(store, settings.name, parent_run_id), *(said.params, said.tags, said.data)
            )
            done = _trials(plan, runs, shared, slots, folder, tell, stop)
            search_s = clock.lap()
            best = _best_or_error(done, settings, stop)
            refit = RefitJob(*(plan, said, prepared, shared, store, parent_run_id, tell, stop)).run(
                best
            )
            found = {"search.best_trial_id": best.trial_id}
            store.score(parent_run_id, [Score("rmse", best.rmse or 0.0, now_ms())], found)
            refit_s = clock.lap()
    seconds = {"start_up": start_up_s, "search": search_s, "refit": refit_s, "total": clock.total}
    report = Report(
        search=settings.name,
        experiment_id=store.experiment_id,
        parent_run_id=parent_run_id,
        data=_data(prepared, said),
        trials=counted(done.outcomes),
        best=_best(best, done.run_ids),
        refit=_refit(refit, settings),
        seconds={part: round(s, 3) for part, s in seconds.items()},
    )
    for line in end_lines(report, settings, refit.registered.standing.reason):
        tell.say(line)
    return report


@dataclass(frozen=True)
class _Trials:
    """What became of the trials, and their runs."""

    outcomes: Sequence[Outcome]
    best: Outcome | None
    run_ids: Mapping[str, str]  # trial id -> run id


def _store(settings: Settings) -> Store:
    store = Store.connect(settings.tracking_uri, settings.experiment_name)
    if store.has_search(settings.name):
        raise InputError(
            f"--name {settings.name}: the experiment {settings.experiment_name!r} has a search of "
            "this name; take another, or leave --name out for one made up"
        )
    return store


def _trials(
    plan: Plan,
    runs: TrialRuns,
    shared: Shared,
    slots: engine.Slots,
    folder: Path,
    tell: Teller,
    stop: Stop,
) -> _Trials:
    """Run all trials; leave every one of them ended in MLflow."""
    settings = plan.settings
    searcher, only = None, None
    if plan.space.labels:
        searcher = TPESearch(plan.space, seed=settings.seed, score=SCORE, first=plan.first)
        if surplus := len(plan.first[plan.wanted :]):
            tell.say(
                f"note: {surplus} of {len(plan.first)} initial points come after the last trial"
            )
    else:
        only = Proposal(trial_id(1), plan.space.point({})).config()
        tell.say(f"{settings.trainable}: nothing left to search, one trial is run")
    with Writer(runs) as writer:
        tracker = TrialTracker(writer.put, has_rounds=plan.rounds is not None)
        state = _watched(tracker, plan.wanted)
        stop.after(settings.time_budget_s)
        try:
            with tell.watch(state), stop.gently():
                engine.run_trials(
                    data=shared,
                    job=plan.job,
                    rounds=plan.rounds or 1,
                    searcher=searcher,
                    only=only,
                    wanted=plan.wanted,
                    slots=slots,
                    callbacks=[tracker],
                    stop=stop,
                    folder=folder,
                )
        finally:
            tracker.interrupt()
            shutil.rmtree(folder / "tune", ignore_errors=True)
    tell.say(trials_line(tracker.outcomes, out_of_time=stop.out_of_time))
    return _Trials(tracker.outcomes, tracker.best, writer.run_ids)


def _watched(tracker: TrialTracker, wanted: int) -> Any:
    started = time.monotonic()

    def state() -> State:
        ended, best = tracker.outcomes, tracker.best
        return State(
            done=len(ended),
            wanted=wanted,
            running=tracker.running,
            failed=sum(outcome.status == "failed" for outcome in ended),
            best=best.rmse if best else None,
            elapsed_s=time.monotonic() - started,
        )

    return state


def _best_or_error(done: _Trials, settings: Settings, stop: Stop) -> Outcome:
    if stop.interrupted:
        raise Interrupted(
            f"interrupted: the ended trials of search {settings.name!r} are kept in MLflow, "
            "no refit was made"
        )
    if done.best is None:
        raise SearchError(nothing_finished_line(done.outcomes))
    return done.best


def _data(prepared: Prepared, said: Facts) -> dict[str, Any]:
    return {
        "origin": said.origin,
        "train_rows": len(prepared.train.minutes),
        "valid_rows": len(prepared.valid.minutes),
        "dropped": prepared.dropped,
        "digest": said.data.digest,
    }


def _best(best: Outcome, run_ids: Mapping[str, str]) -> dict[str, Any]:
    return {
        "trial_id": best.trial_id,
        "run_id": run_ids[best.trial_id],
        "rmse": best.rmse,
        "params": dict(best.params),
    }


def _refit(refit: Refit, settings: Settings) -> dict[str, Any]:
    return {
        "run_id": refit.run_id,
        "model_uri": refit.registered.uri(settings.registered_model),
        "version": refit.registered.version,
        "alias": refit.registered.standing.alias,
        "rmse": refit.rmse,
        "test_rmse": refit.test_rmse,
    }


@contextlib.contextmanager
def _refusals_of_the_server() -> Iterator[None]:
    """Turn what MLflow raises, once the search has begun, into a failure of the search."""
    try:
        yield
    except MlflowException as error:
        raise SearchError(f"the tracking server refused: {first_line(error)}") from error


def _rows_lines(prepared: Prepared) -> Iterator[str]:
    for role, used in prepared.by_role.items():
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in used.dropped.items())
        yield (f"{role}: {len(used.minutes):,} trips of {used.path}; dropped: {reasons or 'none'}")
