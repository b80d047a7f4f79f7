"""The final job: the best configuration fitted again, logged, compared, registered."""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass

from mlflow.exceptions import MlflowException

from search.conduct.plan import Plan
from search.conduct.session import Session
from search.errors import SearchError
from search.execute.cluster import Cluster
from search.execute.trials import FinalFit
from search.execute.worker import Shared
from search.model import logged_model
from search.model.registry import Candidate, Registry
from search.model.scoring_process import ScoringProcess
from search.record.ledger import LoggedRefit
from search.record.prior_work import PriorWork
from search.record.run_metadata import RunMetadata
from search.record.store import Score, Store, now_ms
from search.record.store_errors import first_line
from search.record.tags import BEST_TRIAL, PARENT, ROLE, SEARCH, SUPERSEDED
from search.tasks.base import Refit
from search.values.model import Fitted, Judgement, checked
from search.values.trial import ScoredOutcome


@dataclass(frozen=True)
class RefitJob:
    """What the refit of one search needs; :meth:`run` does it."""

    plan: Plan
    refit: Refit  # the task's
    metadata: RunMetadata
    shared: Shared
    store: Store
    parent_run_id: str
    session: Session
    cluster: Cluster  # left once the model is fitted

    def run(self, best: ScoredOutcome) -> LoggedRefit:
        """Refit the best trial on a worker, log it, register it.

        :raises SearchError: the fit failed, or what was logged is not what was fitted.
        """
        deferred = self.session.stop.deferred
        tags = {**self.metadata.tags, PARENT: self.parent_run_id, ROLE: "refit"}
        name = f"{self.plan.settings.name}-refit"
        with contextlib.ExitStack() as stack:
            with deferred():
                run_id = self.store.create(name, tags, now_ms())
                stack.enter_context(self.store.closing(run_id, deferred))
            try:
                return self._refit(best, run_id)
            except (SearchError, MlflowException):
                raise
            except Exception as error:
                what = f"{type(error).__name__}: {first_line(error)}"
                raise SearchError(f"the refit failed: {what}") from error

    def _refit(self, best: ScoredOutcome, run_id: str) -> LoggedRefit:
        self._describe(best, run_id)
        refit, store = self.refit, self.store
        rows = refit.rows.iloc[checked(len(refit.rows))]
        with ScoringProcess(rows, store.uri, refit.flavor) as process:  # imports meanwhile
            fitted = self._fitted(best)
            self.cluster.end()
            package = refit.package(fitted.model)
            logged = logged_model.log(store, run_id, package, refit.judge)
            logged_model.check(logged, fitted, process)
        self._compare(logged.judgement.score, best)
        self._log_scores(logged.judgement, run_id)
        return self._registered(logged, best, run_id)

    def _describe(self, best: ScoredOutcome, run_id: str) -> None:
        counted = {"rounds": _rounds(best)} if self.plan.task.rounds else {}
        params = {**best.params, **counted, **self.metadata.params}
        self.store.describe(run_id, params, {BEST_TRIAL: best.trial_id}, self.metadata.data)

    def _fitted(self, best: ScoredOutcome) -> Fitted:
        stop = self.session.stop
        cpus = self.plan.settings.machines.cpus_per_trial
        with stop.graceful():
            return FinalFit(self.refit.fit, self.shared, cpus).run(
                dict(best.params), _rounds(best), stop=lambda: stop.interrupted
            )

    def _compare(self, score: float, best: ScoredOutcome) -> None:
        """Say so if the refit, on the same rows with the same seed and rounds, is another model."""
        if not self.plan.task.metric.same(score, best.score):
            self.session.say(
                f"note: the refit has {self.plan.task.metric.shown(score)}, its trial had "
                f"{best.score:.4f}; a fit of this task with the same seed "
                "does not give the same model again"
            )

    def _log_scores(self, judgement: Judgement, run_id: str) -> None:
        metric = self.plan.task.metric
        scores = [Score(metric.name, judgement.score, now_ms())]
        if judgement.test_score is not None:
            scores.append(Score(metric.test, judgement.test_score, now_ms()))
        self.store.score(run_id, scores)

    def _registered(
        self, logged: logged_model.Logged, best: ScoredOutcome, run_id: str
    ) -> LoggedRefit:
        settings, judgement = self.plan.settings, logged.judgement
        registry = Registry(self.store, settings.tracking.registered_model, self.plan.task.metric)
        registered = registry.register(
            Candidate(
                model_uri=logged.served_uri,
                run_id=run_id,
                score=judgement.score,
                digest="" if self.metadata.data is None else self.metadata.data.digest,
                rows=self.refit.rows,
                score_of=self.refit.score,
                made_up_data=self.refit.made_up,
                tags={SEARCH: settings.name},
            )
        )
        self.store.describe(run_id, tags=registered.tags())
        return LoggedRefit(
            run_id=run_id,
            best_trial_id=best.trial_id,
            version=registered.version,
            alias=registered.standing.alias,
            reason=registered.standing.reason,
            score=judgement.score,
            test_score=judgement.test_score,
        )


def refitted(job: RefitJob, best: ScoredOutcome, prior: PriorWork) -> PriorWork:
    """Refit, unless the refit that exists is of this trial; mark those that it replaces."""
    if prior.refit is not None and prior.refit.best_trial_id == best.trial_id:
        return prior
    refit = job.run(best)
    former = [run_id for run_id, _ in prior.broken_refits]
    former += [prior.refit.run_id] if prior.refit else []
    for run_id in former:
        job.store.describe(run_id, tags={SUPERSEDED: refit.run_id})
    return dataclasses.replace(prior, refit=refit)


def _rounds(best: ScoredOutcome) -> int:
    assert best.best_iteration is not None, "a trial with a score has its best round"
    return best.best_iteration + 1
