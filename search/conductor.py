"""One search, from the data to the registered model, in the order in which it happens."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mlflow.exceptions import MlflowException

from search import doctor, engine, months, provenance, resume, trips
from search.beforehand import beforehand
from search.errors import InputError, Interrupted, SearchError, TakenOver
from search.facts import Facts, facts
from search.journal import Journal
from search.ledger import Ledger, LoggedRefit, LoggedSearch
from search.nodes import Nodes
from search.notes import Outcome, best, hopeless
from search.parent import driven, see_name_is_free
from search.plan import Plan, planned
from search.progress import Clock, State, Teller
from search.refit import RefitJob
from search.report import Report, counted, end_lines, nothing_finished_line, trials_line
from search.resume import Before
from search.searcher import Past, Proposal, TPESearch, trial_id
from search.sender import Sender
from search.settings import Settings, resumed
from search.stopping import Stop
from search.store import CONNECT_TIMEOUT_S, SUPERSEDED, Score, Store, now_ms, refusal, within
from search.tracker import TrialTracker
from search.trial import SCORE, Shared
from search.trips import Prepared
from search.writer import TrialRuns, Writer

READ_BACK_S = 15.0  # for a tracking server that is away when it is asked first


def conduct(asked: Settings, folder: Path, tell: Teller, stop: Stop, clock: Clock) -> Report:
    """Run the whole search. ``folder`` is its own, and is left with its log only.

    ``clock`` was started when the command was, so that imports count.

    :raises InputError: something the user gave cannot be used; no trial was started.
    :raises SearchError: no trial finished, the refit failed, or the server stayed away.
    :raises Interrupted: the user ended it.
    """
    # the sender is forked, so it comes before the first thread
    with Sender() as sender, contextlib.ExitStack() as stack:
        return _conducted(asked, folder, tell, stop, clock, sender, stack)


def _conducted(
    asked: Settings,
    folder: Path,
    tell: Teller,
    stop: Stop,
    clock: Clock,
    sender: Sender,
    stack: contextlib.ExitStack,
) -> Report:
    store, search = _found(asked) if asked.resume else (None, None)
    plan = planned(asked if search is None else resumed(asked, search.options or {}))
    settings = plan.settings
    cluster = engine.Cluster(settings.address, folder)
    is_ours = settings.address == "local"
    ready = stack.enter_context(beforehand(plan.made_once if is_ours else None))
    located = months.locate(
        *(settings.train_data, settings.valid_data, settings.test_data),
        *(settings.data_dir, tell),
    )
    prepared = trips.prepare(located.train, located.valid, located.test)
    tell.say_all(_rows_lines(prepared))
    if store is None:
        stack.enter_context(cluster)  # starts while the store is reached: a new one takes seconds
        store = _new(asked)
    said = facts(plan, prepared, located.origin, search.params if search else {})
    if not said.commit_is_known:
        variable = provenance.COMMIT_VARIABLE
        tell.say(f"warning: the git commit of the code is unknown; set {variable} to it")
    try:
        done, told = _known(store.patient(tell.say, READ_BACK_S), plan, search, said, tell)
    except MlflowException as error:
        raise refusal(store.uri, error) from error
    patient = store.patient(tell.say)
    if search is not None and search.status == "FINISHED" and _is_whole(done, plan):
        tell.say(f"search {settings.name!r} is complete: nothing is left to do")
        return _report(plan, prepared, said, store, search.run_id, done, clock, {}, tell)
    if search is not None:
        stack.enter_context(cluster)
    cluster.join()
    ready()
    stop.listen()
    nodes = _nodes(settings, is_ours, tell)
    shared = engine.share(prepared.dataset)
    seconds = {"start_up": clock.lap()}
    with driven(patient, plan, said, search, stop) as (parent_run_id, journal):
        runs = TrialRuns(
            *(store, settings.name, parent_run_id), *(said.params, said.tags, said.data)
        )
        if search is not None:
            done = _caught_up(runs, journal, search, tell, stop)
        trials = Trials(plan, runs, journal, sender, shared, nodes, folder, tell, stop)
        done = trials.run(done, told)
        seconds["search"] = clock.lap()
        chosen = _best_or_error(done, stop)
        if done.refit is None or done.refit.best_trial_id != chosen.trial_id:
            job = RefitJob(
                plan, said, prepared, shared, patient, parent_run_id, tell, stop, cluster
            )
            done = dataclasses.replace(done, refit=_refitted(job, chosen, done, patient))
        found = {"search.best_trial_id": chosen.trial_id}
        patient.score(parent_run_id, [Score("rmse", chosen.rmse or 0.0, now_ms())], found)
        seconds["refit"] = clock.lap()
    stack.close()
    return _report(plan, prepared, said, store, parent_run_id, done, clock, seconds, tell)


def _nodes(settings: Settings, is_ours: bool, tell: Teller) -> Nodes:
    """Look at the cluster's nodes, and whether they are what the driver is.

    :raises InputError: no node has room for a trial, or a trial would depend on its node.
    """
    nodes = Nodes(
        *(settings.cpus_per_trial, settings.max_concurrent),
        grows=not is_ours,
        say=tell.say,
        joined=lambda new: tell.say_all(doctor.examine(new).told()),
    )
    if not is_ours:  # our own node is this machine, with this environment
        examined = doctor.examine(nodes.there)
        tell.say_all(examined.told() or examined.verdict())
        examined.see_the_same()
    return nodes


def _new(asked: Settings) -> Store:
    """Reach the store of a new search, and see that its name is free."""
    store = Store.connect(asked.tracking_uri, asked.experiment_name)
    patient = store.patient(lambda _: None, READ_BACK_S)
    within(CONNECT_TIMEOUT_S, lambda: see_name_is_free(patient, asked), asked.tracking_uri)
    return store


def _found(asked: Settings) -> tuple[Store, LoggedSearch]:
    """Reach the store of a search that is to be gone on with, and find it there."""
    store = Store.connect(asked.tracking_uri, asked.experiment_name, create=False)
    patient = store.patient(lambda _: None, READ_BACK_S)
    search = within(
        CONNECT_TIMEOUT_S, lambda: resume.found(patient, asked.name), asked.tracking_uri
    )
    return store, search


def _known(
    store: Store, plan: Plan, search: LoggedSearch | None, said: Facts, tell: Teller
) -> tuple[Before, list[Past]]:
    """Read what this search has done before, and what other searches have to tell."""
    started_ms = search.started_ms if search else None
    told = resume.warm(store, plan.settings, plan.space, started_ms, tell.say)
    if search is None:
        return Before(), told
    resume.see_the_same(search, plan, said.data.digest)
    resume.see_nobody_drives(store, search, tell.say)
    done = resume.before(store, search)
    ended, wanted = len(done.ended), plan.settings.num_samples
    if ended > plan.wanted:
        raise InputError(
            f"--num-samples {wanted}: {ended} trials of the search {search.name!r} have ended; "
            f"give {ended} or more"
        )
    tell.say(f"going on with {search.name!r}: {ended} of {plan.wanted} trials have ended")
    return done, told


def _is_whole(done: Before, plan: Plan) -> bool:
    chosen = best(done.ended)
    return (
        len(done.ended) == plan.wanted
        and done.refit is not None
        and chosen is not None
        and done.refit.best_trial_id == chosen.trial_id
    )


def _caught_up(
    runs: TrialRuns, journal: Journal, search: LoggedSearch, tell: Teller, stop: Stop
) -> Before:
    """Send what an earlier start could not, then read what the search has done."""
    if journal.damaged:
        tell.say(f"warning: {journal.damaged} lines of the journal are damaged and left out")
    over = {t.outcome.trial_id for t in Ledger(runs.store).trials(search) if t.is_over}
    for number, note in list(journal.waiting.items()):
        if note.trial_id in over:  # also when another machine has gone on with it meanwhile
            journal.cross_off(number)
    if journal.waiting:
        tell.say(f"sending {len(journal.waiting)} notes that an earlier start could not send")
        with Writer(runs, journal, say=tell.say, interrupted=lambda: stop.interrupted):
            pass
    resume.end_what_runs(runs.store, search)
    done = resume.before(runs.store, search)
    runs.remove_doubles(done.run_ids)
    return done


@dataclass(frozen=True)
class Trials:
    """What the trials of one search need; :meth:`run` is the whole of it."""

    plan: Plan
    runs: TrialRuns
    journal: Journal
    sender: Sender
    shared: Shared
    nodes: Nodes
    folder: Path
    tell: Teller
    stop: Stop

    def run(self, done: Before, told: Sequence[Past]) -> Before:
        """Run the trials that are left; leave every one of them ended in MLflow.

        :raises SearchError: the server did not take all of it, or going on is pointless.
        """
        left = self.plan.wanted - len(done.ended)
        if not left:
            return done
        say, stop = self.tell.say, self.stop
        writer = Writer(
            *(self.runs, self.journal),
            ask=partial(self.sender.ask, self.runs),
            known=done.run_ids,
            say=say,
            fail=stop.fail,
            interrupted=lambda: stop.interrupted,
            hurried=lambda: stop.hurried,
            abandoned=lambda: isinstance(stop.failure, TakenOver),
        )
        tracker = TrialTracker(
            writer.put,
            has_rounds=self.plan.rounds is not None,
            rungs=self.plan.job.rungs,
            before=done.ended,
            rounds=done.rounds,
        )
        stop.after(self.plan.settings.time_budget_s)
        watch = self.tell.watch(_watched(tracker, writer, self.nodes, self.plan.wanted))
        with self.nodes, watch, stop.gently(), writer:
            try:
                self._run(done, told, left, tracker)
            finally:
                if not isinstance(stop.failure, TakenOver):
                    tracker.interrupt()
                shutil.rmtree(self.folder / "tune", ignore_errors=True)
        if writer.doubtful:
            self.runs.remove_doubles(writer.run_ids)
        say(trials_line(tracker.outcomes, out_of_time=stop.out_of_time))
        return dataclasses.replace(done, ended=tracker.outcomes, run_ids=writer.run_ids)

    def _run(self, done: Before, told: Sequence[Past], left: int, tracker: TrialTracker) -> None:
        plan = self.plan
        searcher, only = None, None
        if plan.space.labels:
            searcher = TPESearch(
                plan.space,
                seed=plan.settings.seed,
                score=SCORE,
                first=plan.first,
                past=[*told, *done.past],
                again=done.in_flight[:left],
            )
            if surplus := len(plan.first[plan.wanted :]):
                self.tell.say(
                    f"note: {surplus} of {len(plan.first)} initial points come after the last trial"
                )
        else:
            only = Proposal(trial_id(1), plan.space.point({})).config()
            self.tell.say(f"{plan.settings.trainable}: nothing left to search, one trial is run")
        engine.run_trials(
            data=self.shared,
            job=plan.job,
            rounds=plan.rounds or 1,
            searcher=searcher,
            only=only,
            wanted=left,
            cpus_each=self.plan.settings.cpus_per_trial,
            nodes=self.nodes,
            callbacks=[tracker],
            stop=lambda: self._must_end(tracker),
            folder=self.folder,
            rungs_before=done.rungs,
        )

    def _must_end(self, tracker: TrialTracker) -> bool:
        if not self.stop() and (reason := hopeless(tracker.fresh)):
            self.stop.fail(
                SearchError(
                    f"the first {len(tracker.fresh)} trials all failed the same way: {reason!r}; "
                    "the traceback is an artifact of each one's run"
                )
            )
        return self.stop()


def _watched(
    tracker: TrialTracker, writer: Writer, nodes: Nodes, wanted: int
) -> Callable[[], State]:
    started, ended_before = time.monotonic(), len(tracker.outcomes)

    def state() -> State:
        ended, leader = tracker.outcomes, tracker.best
        return State(
            done=len(ended),
            wanted=wanted,
            running=tracker.running,
            failed=sum(outcome.status == "failed" for outcome in ended),
            best=leader.rmse if leader else None,
            elapsed_s=time.monotonic() - started,
            ended_before=ended_before,
            waiting=writer.waiting,
            obstacle=writer.obstacle,
            workers=nodes.workers if nodes.grows else None,  # one machine has what it has
        )

    return state


def _best_or_error(done: Before, stop: Stop) -> Outcome:
    if stop.failure is not None:
        raise stop.failure
    if stop.interrupted:
        raise Interrupted("interrupted: the ended trials are kept in MLflow, no refit was made")
    if (chosen := best(done.ended)) is None:
        raise SearchError(nothing_finished_line(done.ended))
    return chosen


def _refitted(job: RefitJob, chosen: Outcome, done: Before, store: Store) -> LoggedRefit:
    """Refit; then mark the refits that this one takes the place of."""
    refit = job.run(chosen)
    former = [run_id for run_id, _ in done.broken_refits]
    former += [done.refit.run_id] if done.refit else []
    for run_id in former:
        store.describe(run_id, tags={SUPERSEDED: refit.run_id})
    return refit


def _report(
    plan: Plan,
    prepared: Prepared,
    said: Facts,
    store: Store,
    parent_run_id: str,
    done: Before,
    clock: Clock,
    seconds: dict[str, float],
    tell: Teller,
) -> Report:
    chosen, refit = best(done.ended), done.refit
    assert chosen is not None, "a search without a best trial has ended before"
    assert refit is not None, "the best trial was refitted"
    parts = {"start_up": 0.0, "search": 0.0, "refit": 0.0, **seconds, "total": clock.total}
    report = Report(
        search=plan.settings.name,
        experiment_id=store.experiment_id,
        parent_run_id=parent_run_id,
        data={
            "origin": said.origin,
            "train_rows": len(prepared.train.minutes),
            "valid_rows": len(prepared.valid.minutes),
            "dropped": prepared.dropped,
            "digest": said.data.digest,
        },
        trials=counted(done.ended),
        best={
            "trial_id": chosen.trial_id,
            "run_id": done.run_ids[chosen.trial_id],
            "rmse": chosen.rmse,
            "params": dict(chosen.params),
        },
        refit={
            "run_id": refit.run_id,
            "model_uri": f"models:/{plan.settings.registered_model}/{refit.version}",
            "version": refit.version,
            "alias": refit.alias,
            "rmse": refit.rmse,
            "test_rmse": refit.test_rmse,
        },
        seconds={part: round(s, 3) for part, s in parts.items()},
    )
    tell.say_all(end_lines(report, plan.settings, refit.reason))
    return report


def _rows_lines(prepared: Prepared) -> Iterator[str]:
    for role, used in prepared.by_role.items():
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in used.dropped.items())
        yield (f"{role}: {len(used.minutes):,} trips of {used.path}; dropped: {reasons or 'none'}")
