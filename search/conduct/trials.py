"""The trials of one search: searcher, cluster and tracker put together."""

from __future__ import annotations

import dataclasses
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata

from search.conduct.plan import Plan
from search.conduct.resume import Known
from search.conduct.session import Session
from search.errors import SearchError, TakenOver
from search.execute import stock_tune
from search.execute.nodes import Nodes
from search.execute.trials import TrialRun
from search.execute.worker import Job, Shared
from search.present.progress import Progress
from search.present.summary import trials_line
from search.record.journal import Journal
from search.record.prior_work import PriorWork
from search.record.tracker import Hooks as TaskHooks
from search.record.tracker import TrialTracker
from search.record.trial_runs import TrialRuns
from search.record.writer import Hooks, Writer
from search.record.writer_process import WriterProcess
from search.suggest import algorithms
from search.suggest.algorithms import MakeAlgorithm
from search.suggest.searcher import TPESearch
from search.tasks.base import Prepared
from search.values.failure import RETURNED
from search.values.trial import Outcome, Proposal, trial_id

# So many failures, all alike and nothing else, are the task's fault, not the
# points': a space of which half fails gets that far once in a thousand searches.
HOPELESS_AFTER = 10


@dataclass(frozen=True)
class Trials:
    """What the trials of one search need; :meth:`run` runs them."""

    plan: Plan
    prepared: Prepared
    shared: Shared
    nodes: Nodes
    runs: TrialRuns
    journal: Journal
    process: WriterProcess
    session: Session

    def run(self, known: Known) -> PriorWork:
        """Run the trials that are left; leave every one of them ended in MLflow.

        :raises SearchError: the server did not take all of it, or going on is pointless.
        """
        prior = known.prior
        left = self.plan.wanted - len(prior.ended)
        self.prepared.recovered(prior.ended)
        if not left:
            return prior
        session, stop = self.session, self.session.stop
        for note in notes_on_versions(self.plan.settings.algorithm):
            session.say(note)
        writer = self._writer(prior)
        tracker = self._tracker(writer, prior)
        stop.after(self.plan.settings.time_budget_s)
        watch = session.display.watch(self._progress(tracker, writer))
        with self.nodes, watch, stop.graceful(), writer:
            try:
                self._trial_run(known, left).run(
                    callbacks=[tracker],
                    stop=lambda: self._must_end(tracker),
                    folder=session.folder,
                )
            finally:
                if not isinstance(stop.failure, TakenOver):
                    tracker.interrupt()
                shutil.rmtree(session.folder / "tune", ignore_errors=True)
        if writer.doubtful:
            self.runs.remove_doubles(writer.run_ids)
        session.say(trials_line(tracker.outcomes, out_of_time=stop.out_of_time))
        return dataclasses.replace(prior, ended=tracker.outcomes, run_ids=writer.run_ids)

    def _writer(self, prior: PriorWork) -> Writer:
        stop = self.session.stop
        return Writer(
            partial(self.process.ask, self.runs),
            self.journal,
            known=prior.run_ids,
            hooks=Hooks(
                say=self.session.say,
                fail=stop.fail,
                interrupted=lambda: stop.interrupted,
                hurried=lambda: stop.hurried,
                abandoned=lambda: isinstance(stop.failure, TakenOver),
            ),
        )

    def _tracker(self, writer: Writer, prior: PriorWork) -> TrialTracker:
        task = self.plan.task
        return TrialTracker(
            writer.put,
            task.metric,
            has_rounds=task.rounds is not None,
            rungs=self.plan.rungs,
            before=prior.ended,
            rounds=prior.rounds,
            task=TaskHooks(
                params=task.space.params,
                ended=self.prepared.ended,
                folder=self.plan.settings.state_dir / f"{self.runs.runs.parent_run_id}.logged",
                fail=lambda why: self.session.stop.fail(SearchError(why)),
            ),
        )

    def _trial_run(self, known: Known, left: int) -> TrialRun:
        plan = self.plan
        run = TrialRun(
            job=Job(self.prepared.trial, plan.task.metric, plan.rungs),
            shared=self.shared,
            nodes=self.nodes,
            cpus_each=plan.settings.machines.cpus_per_trial,
            wanted=left,
            searcher=None,
            rungs_before=known.prior.rungs,
        )
        if plan.task.space.labels:
            return dataclasses.replace(run, searcher=self._searcher(known, left))
        self.session.say(f"{plan.task.model}: nothing left to search, one trial is run")
        only = Proposal(trial_id(1), plan.task.space.point({}))
        return dataclasses.replace(run, only=only.config())

    def _searcher(self, known: Known, left: int) -> TPESearch:
        plan = self.plan
        if surplus := len(plan.first[plan.wanted :]):
            self.session.say(
                f"note: {surplus} of {len(plan.first)} initial points come after the last trial"
            )
        like_fmin = plan.task.like_fmin
        return TPESearch(
            plan.task.space,
            plan.task.metric,
            seed=plan.settings.seed,
            seeds=None if like_fmin is None else like_fmin.seeds,
            algorithm=self._algorithm(),
            first=plan.first,
            past=[
                *(() if like_fmin is None else like_fmin.past),
                *known.others,
                *known.prior.past,
            ],
            again=known.prior.in_flight[:left],
            enough=lambda: self.session.stop.is_enough,
        )

    def _algorithm(self) -> MakeAlgorithm:
        like_fmin = self.plan.task.like_fmin
        if like_fmin is not None and like_fmin.suggest is not None:
            return algorithms.from_hyperopt(like_fmin.suggest)
        return algorithms.named(self.plan.settings.algorithm)

    def _must_end(self, tracker: TrialTracker) -> bool:
        stop = self.session.stop
        if not stop() and (reason := hopeless(tracker.fresh)):
            stop.fail(
                SearchError(
                    f"the first {len(tracker.fresh)} trials all failed the same way: {reason!r}; "
                    "the traceback is an artifact of each one's run"
                )
            )
        return stop()

    def _progress(self, tracker: TrialTracker, writer: Writer) -> Callable[[], Progress]:
        started, ended_before = time.monotonic(), len(tracker.outcomes)
        metric = self.plan.task.metric

        def progress() -> Progress:
            ended, leader = tracker.outcomes, tracker.best
            best_score = None if leader is None else leader.score
            return Progress(
                done=len(ended),
                wanted=self.plan.wanted,
                running=tracker.running,
                failed=sum(outcome.status == "failed" for outcome in ended),
                best="" if best_score is None else metric.shown(best_score),
                elapsed_s=time.monotonic() - started,
                ended_before=ended_before,
                waiting=writer.waiting,
                obstacle=writer.obstacle,
                workers=self.nodes.workers if self.nodes.grows else None,
            )

        return progress


def notes_on_versions(algorithm: str) -> Iterator[str]:
    """Yield what is slower because a library's version is not known here."""
    if stock_tune.is_needed():
        yield stock_tune.NOTE.format(version=metadata.version("ray"))
    if algorithm == "hyperopt" and not algorithms.is_fast():
        yield algorithms.NOTE.format(version=metadata.version("hyperopt"))


def hopeless(outcomes: Sequence[Outcome]) -> str:
    """Return the failure that the first trials all had; empty if one ended otherwise."""
    first = outcomes[:HOPELESS_AFTER]
    # numbers differ from trial to trial in a message that is otherwise the same
    reasons = {re.sub(r"[-+.\w]*\d[-+.\w]*", "#", outcome.failure) for outcome in first}
    alike = len(first) == HOPELESS_AFTER and len(reasons) == 1
    failed = alike and all(outcome.status == "failed" for outcome in first)
    # what a trial returned was meant: points outside a constraint, say
    meant = failed and first[0].failure.startswith(RETURNED)
    return first[0].failure if failed and not meant else ""
