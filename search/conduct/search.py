"""One search, from the data to the registered model, in the order in which it happens."""

from __future__ import annotations

import contextlib
import dataclasses

from search.conduct import resume
from search.conduct.opening import Opened, Ready, driven, join_cluster, open_search
from search.conduct.plan import OpenTask, open_task
from search.conduct.refit import RefitJob, refitted
from search.conduct.session import Session
from search.conduct.trials import Trials
from search.errors import Interrupted, NothingFinished
from search.execute.stop_signal import StopSignal
from search.options.settings import Settings
from search.present.summary import RefitSummary, Summary, nothing_finished_line
from search.record.prior_work import PriorWork
from search.record.search_run import Drive
from search.record.store import Score, now_ms
from search.record.tags import BEST_TRIAL
from search.record.trial_runs import SearchRuns, TrialRuns
from search.record.writer_process import WriterProcess
from search.values.metric import Metric
from search.values.trial import ScoredOutcome, best


def conduct(asked: Settings, session: Session, opened_task: OpenTask = open_task) -> Summary:
    """Run the whole search. ``opened_task`` opens the task that the settings ask for.

    :raises InputError: something the user gave cannot be used; no trial was started.
    :raises SearchError: no trial finished, the refit failed, or the server was unreachable.
    :raises Interrupted: the user ended it.
    """
    clock = session.clock
    # the process is forked, so it comes before the first thread
    with session.writer_process() as process, contextlib.ExitStack() as stack:
        search = open_search(asked, opened_task, session, stack)
        if search.is_complete:
            search.prepared.recovered(search.known.prior.ended)
            session.say(f"search {search.plan.settings.name!r} is complete: nothing is left to do")
            return _summary(search, search.known.prior)
        ready = join_cluster(search, stack)
        clock.lap("start_up")
        with driven(search) as drive:
            done = _run_trials(search, ready, drive, process)
            clock.lap("search")
            chosen = _best(done, search.plan.task.metric, session.stop)
            done = _refit(search, ready, drive, chosen, done)
            _record_best(search, drive, chosen)
            clock.lap("refit")
        stack.close()
        return _summary(search, done, drive)


def _run_trials(search: Opened, ready: Ready, drive: Drive, process: WriterProcess) -> PriorWork:
    """Catch up with what an earlier start left undone, then run the trials that are left."""
    plan, session, location = search.plan, search.session, search.location
    metric, known = plan.task.metric, search.known
    common = SearchRuns(plan.settings.name, drive.run_id, search.metadata, metric.curve)
    runs = TrialRuns(location.store, common)
    if location.search is not None:
        prior = resume.catch_up(runs, drive, location.search, metric, session)
        known = dataclasses.replace(known, prior=prior)
    trials = Trials(
        plan=plan,
        prepared=search.prepared,
        shared=ready.shared,
        nodes=ready.nodes,
        runs=runs,
        journal=drive.journal,
        process=process,
        session=session,
    )
    return trials.run(known)


def _best(done: PriorWork, metric: Metric, stop: StopSignal) -> ScoredOutcome:
    """Return the best trial.

    :raises SearchError: no trial finished, or something ended the search.
    :raises Interrupted: the user ended it.
    """
    if stop.failure is not None:
        raise stop.failure
    if stop.interrupted:
        raise Interrupted("interrupted: the ended trials are kept in MLflow, no refit was made")
    if (chosen := best(done.ended, metric)) is None:
        raise NothingFinished(nothing_finished_line(done.ended))
    return chosen


def _refit(
    search: Opened, ready: Ready, drive: Drive, chosen: ScoredOutcome, done: PriorWork
) -> PriorWork:
    if search.prepared.refit is None:
        return done
    job = RefitJob(
        plan=search.plan,
        refit=search.prepared.refit,
        metadata=search.metadata,
        shared=ready.shared,
        store=search.location.store.patient(search.session.say),
        parent_run_id=drive.run_id,
        session=search.session,
        cluster=search.cluster,
    )
    return refitted(job, chosen, done)


def _record_best(search: Opened, drive: Drive, chosen: ScoredOutcome) -> None:
    score = Score(search.plan.task.metric.name, chosen.score, now_ms())
    store = search.location.store.patient(search.session.say)
    store.score(drive.run_id, [score], {BEST_TRIAL: chosen.trial_id})


def _summary(search: Opened, done: PriorWork, drive: Drive | None = None) -> Summary:
    settings, logged = search.plan.settings, search.location.search
    chosen, refit = best(done.ended, search.plan.task.metric), done.refit
    assert chosen is not None, "a search without a best trial has ended before"
    assert drive is not None or logged is not None, "a complete search has its parent run"
    summary = Summary(
        search=settings.name,
        task=search.plan.task.kind,
        metric=search.plan.task.metric,
        tracking_uri=settings.tracking.uri,
        experiment_id=search.location.store.experiment_id,
        parent_run_id=drive.run_id if drive is not None else logged.run_id if logged else "",
        data=search.prepared.summary,
        outcomes=done.ended,
        best=chosen,
        best_run_id=done.run_ids[chosen.trial_id],
        refit=None
        if refit is None
        else RefitSummary(
            run_id=refit.run_id,
            registered_model=settings.tracking.registered_model,
            version=refit.version,
            alias=refit.alias,
            reason=refit.reason,
            score=refit.score,
            test_score=refit.test_score,
        ),
        seconds=search.session.clock.seconds,
    )
    search.session.display.say_all(summary.lines())
    return summary
