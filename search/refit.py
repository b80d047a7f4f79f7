"""The final job: the best configuration fitted again, logged, compared, registered."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from mlflow.exceptions import MlflowException

from search import engine, models
from search.errors import SearchError
from search.facts import Facts
from search.ledger import LoggedRefit
from search.notes import Outcome
from search.plan import Plan
from search.progress import Teller
from search.registry import DIGEST, Registered, Registry
from search.score import Scoring
from search.stopping import Stop
from search.store import PARENT, ROLE, Score, Store, first_line, now_ms
from search.trial import Refitted, Shared, checked
from search.trips import Prepared
from trainables.base import rmse

SAME_RMSE = 1e-4  # minutes; a refit on the same rows, seed and rounds is the trial again


@dataclass(frozen=True)
class RefitJob:
    """What the refit of one search needs; :meth:`run` is the whole of it."""

    plan: Plan
    facts: Facts
    prepared: Prepared
    shared: Shared
    store: Store
    parent_run_id: str
    tell: Teller
    stop: Stop
    cluster: engine.Cluster  # left once the model is fitted

    def run(self, best: Outcome) -> LoggedRefit:
        """Refit the best trial on a worker, log it, register it.

        :raises SearchError: the fit failed, or what was logged is not what was fitted.
        """
        assert best.best_iteration is not None, "a trial with a score has its best round"
        rounds = best.best_iteration + 1
        counted = {"rounds": rounds} if self.plan.rounds else {}
        parent = {PARENT: self.parent_run_id, ROLE: "refit"}
        name = f"{self.plan.settings.name}-refit"
        with contextlib.ExitStack() as stack:
            with self.stop.unbroken():
                run_id = self.store.create(name, {**self.facts.tags, **parent}, now_ms())
                stack.enter_context(self.store.closing(run_id, self.stop.unbroken))
            try:
                return self._refit(best, rounds, run_id, {**best.params, **counted})
            except (SearchError, MlflowException):
                raise
            except Exception as error:
                what = f"{type(error).__name__}: {first_line(error)}"
                raise SearchError(f"the refit failed: {what}") from error

    def _refit(
        self, best: Outcome, rounds: int, run_id: str, params: Mapping[str, Any]
    ) -> LoggedRefit:
        chosen = {"search.best_trial_id": best.trial_id}
        self.store.describe(run_id, {**params, **self.facts.params}, chosen, self.facts.data)
        frame, flavor = self.prepared.valid.frame, self.plan.trainable.flavor
        with Scoring(frame.iloc[checked(len(frame))], self.store.uri, flavor) as scoring:
            return self._logged(best, rounds, run_id, scoring)

    def _logged(self, best: Outcome, rounds: int, run_id: str, scoring: Scoring) -> LoggedRefit:
        refitted = self._fitted(best, rounds)
        self.cluster.end()
        logged = models.log(
            *(self.store, run_id, self.plan.trainable, refitted, self.prepared, scoring)
        )
        score = rmse(logged.valid, self.prepared.valid.minutes)
        self._compare(score, best)
        test_score = self._test_score(logged)
        scores = [Score("rmse", score, now_ms())]
        if test_score is not None:
            scores.append(Score("test-rmse", test_score, now_ms()))
        self.store.score(run_id, scores)
        registry = Registry(self.store, self.plan.settings.registered_model)
        registered = self._registered(registry, logged.raw_trips_uri, run_id, score)
        self.store.describe(run_id, tags=registered.tags())
        return LoggedRefit(
            run_id=run_id,
            best_trial_id=best.trial_id,
            version=registered.version,
            alias=registered.standing.alias,
            reason=registered.standing.reason,
            rmse=score,
            test_rmse=test_score,
        )

    def _fitted(self, best: Outcome, rounds: int) -> Refitted:
        with self.stop.gently():
            return engine.run_refit(
                params=dict(best.params),
                rounds=rounds,
                job=self.plan.job,
                data=self.shared,
                cpus=self.plan.settings.cpus_per_trial,
                stop=lambda: self.stop.interrupted,
            )

    def _compare(self, score: float, best: Outcome) -> None:
        assert best.rmse is not None, "only a trial with a score is the best"
        if not abs(score - best.rmse) <= SAME_RMSE:
            self.tell.say(
                f"note: the refit has RMSE {score:.4f}, its trial had {best.rmse:.4f}; "
                "the trainable does not give the same model twice"
            )

    def _test_score(self, logged: models.Logged) -> float | None:
        rows = self.prepared.test_rows
        if rows is None or logged.test is None:
            return None
        return rmse(logged.test, np.asarray(rows.target))

    def _registered(
        self, registry: Registry, model_uri: str, run_id: str, score: float
    ) -> Registered:
        return registry.register(
            *(model_uri, run_id, score),
            *(self.prepared.valid.frame, self.prepared.valid.minutes),
            made_up_data=self.facts.origin == "sample",
            tags={"search": self.plan.settings.name, DIGEST: self.facts.data.digest},
        )
