"""One search, from the data to the registered model, in the order in which it happens."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.exceptions import MlflowException

from search import engine, models, months, provenance, trips
from search.errors import InputError, Interrupted, SearchError
from search.plan import Plan, planned
from search.progress import Clock, State, Teller
from search.registry import Registered, Registry
from search.report import Report, counted, end_lines, nothing_finished_line, trials_line
from search.searcher import Proposal, TPESearch, trial_id
from search.settings import Settings, os_user
from search.stopping import Stop
from search.store import ROLE, Data, Score, Store, first_line
from search.tracker import Outcome, TrialRuns, TrialTracker, Writer
from search.trial import SCORE, Refitted
from search.trips import Prepared, Trips
from trainables.base import rmse

COMMIT = "mlflow.source.git.commit"
SAME_RMSE = 1e-4  # minutes; a refit on the same rows, seed and rounds is the trial again

PREPROCESSING = "PU_DO + trip_distance, DictVectorizer, trips of 1 to 60 minutes"


def conduct(settings: Settings, folder: Path, tell: Teller, stop: Stop) -> Report:
    """Run the whole search. ``folder`` is its own, and is left with its log only.

    :raises InputError: something the user gave cannot be used; no trial was started.
    :raises SearchError: no trial finished, the refit failed, or the server stayed away.
    :raises Interrupted: the user ended it.
    """
    clock = Clock()
    plan = planned(settings)
    located = months.locate(
        *(settings.train_data, settings.valid_data, settings.test_data),
        *(settings.data_dir, tell),
    )
    prepared = trips.prepare(located.train, located.valid, located.test)
    _say_rows(prepared, tell)
    store = Store.connect(settings.tracking_uri, settings.experiment_name)
    if store.has_search(settings.name):
        raise InputError(
            f"--name {settings.name}: the experiment {settings.experiment_name!r} has a search of "
            "this name; take another, or leave --name out for one made up"
        )
    with _refusals_of_the_server(), engine.cluster(settings.address, folder):
        slots = engine.slots(settings.cpus_per_trial, settings.max_concurrent, plan.wanted)
        conducted = _Search(plan, prepared, located.origin, store, tell, stop)
        start_up_s = clock.lap()
        with conducted.tracked():
            conducted.run_trials(slots, folder)
            search_s = clock.lap()
            registered = conducted.refit_best()
            refit_s = clock.lap()
    seconds = {"start_up": start_up_s, "search": search_s, "refit": refit_s, "total": clock.total}
    return conducted.report(registered, {part: round(s, 3) for part, s in seconds.items()})


class _Search:
    """One search under way: its runs in MLflow, its trials, its refit."""

    def __init__(
        self, plan: Plan, prepared: Prepared, origin: str, store: Store, tell: Teller, stop: Stop
    ) -> None:
        self._plan, self._prepared, self._origin = plan, prepared, origin
        self._store, self._tell, self._stop = store, tell, stop
        self._data = _described(prepared)
        self._shared = engine.share(prepared.dataset)
        self._tags = _tags(plan, origin)
        if self._tags[COMMIT] == provenance.UNKNOWN:
            tell.say(
                f"warning: the code's git commit is unknown; set {provenance.COMMIT_VARIABLE} to it"
            )
        self._params = {
            "train-data-path": prepared.train.path,
            "valid-data-path": prepared.valid.path,
            "preprocessing": PREPROCESSING,
        }
        self._parent_run_id = ""
        self._run_ids: Mapping[str, str] = {}
        self._outcomes: Sequence[Outcome] = []
        self._best: Outcome | None = None
        self._refit: dict[str, Any] = {}

    @contextlib.contextmanager
    def tracked(self) -> Iterator[None]:
        """Open the parent run; end it with the status the search really had."""
        settings = self._plan.settings
        named = {**self._tags, **provenance.machine(), ROLE: "search"}
        self._parent_run_id = self._store.create(settings.name, named, _now_ms())
        status = "FAILED"
        try:
            self._store.describe(
                self._parent_run_id, {**self._params, **self._plan.options()}, {}, self._data
            )
            self._store.write_text(
                self._parent_run_id, provenance.requirements(), "environment/requirements.txt"
            )
            yield
            status = "FINISHED"
        except (Interrupted, KeyboardInterrupt):
            status = "KILLED"
            raise
        finally:
            self._end(self._parent_run_id, status)

    def run_trials(self, slots: engine.Slots, folder: Path) -> None:
        """Run all trials; leave every one of them ended in MLflow.

        :raises Interrupted: the user ended the search.
        :raises SearchError: no trial finished.
        """
        plan, settings = self._plan, self._plan.settings
        searcher = None
        if plan.space.labels:
            searcher = TPESearch(plan.space, seed=settings.seed, score=SCORE, first=plan.first)
        else:
            self._tell.say(f"{settings.trainable}: nothing left to search, one trial is run")
        runs = TrialRuns(
            *(self._store, settings.name, self._parent_run_id),
            *(self._params, self._tags, self._data),
        )
        self._stop.after(settings.time_budget_s)
        started = time.monotonic()
        with Writer(runs) as writer:
            tracker = TrialTracker(writer.put, has_rounds=plan.rounds is not None)

            def state() -> State:
                failed = sum(outcome.status == "failed" for outcome in tracker.outcomes)
                return State(
                    *(len(tracker.outcomes), plan.wanted, tracker.running, failed),
                    tracker.best.rmse if tracker.best else None,
                    time.monotonic() - started,
                )

            try:
                with self._tell.watch(state), self._stop.gently():
                    engine.run_trials(
                        data=self._shared,
                        job=plan.job,
                        rounds=plan.rounds or 1,
                        searcher=searcher,
                        only=None
                        if searcher
                        else Proposal(trial_id(1), plan.space.point({})).config(),
                        wanted=plan.wanted,
                        slots=slots,
                        callbacks=[tracker],
                        stop=self._stop,
                        folder=folder,
                    )
            finally:
                tracker.interrupt()
                shutil.rmtree(folder / "tune", ignore_errors=True)
        self._outcomes, self._run_ids, self._best = tracker.outcomes, writer.run_ids, tracker.best
        self._tell.say(trials_line(self._outcomes, out_of_time=self._stop.out_of_time))
        if self._stop.interrupted:
            raise Interrupted(self._interrupted_line())
        if self._best is None:
            raise SearchError(nothing_finished_line(self._outcomes))

    def refit_best(self) -> Registered:
        """Refit the best trial on a worker, log it, register it.

        :raises SearchError: the fit failed, or what was logged is not what was fitted.
        """
        best, plan, store, now = self._found(), self._plan, self._store, _now_ms()
        assert best.rmse is not None, "only a trial with a score is the best"
        assert best.best_iteration is not None, "and a score has its round"
        rounds = best.best_iteration + 1
        parent = {"mlflow.parentRunId": self._parent_run_id, ROLE: "refit"}
        run_id = store.create(f"{plan.settings.name}-refit", parent, now)
        status = "FAILED"
        try:
            store.describe(
                run_id,
                {**best.params, **self._params, **({"rounds": rounds} if plan.rounds else {})},
                {**self._tags, "search.best_trial_id": best.trial_id},
                self._data,
            )
            refitted = self._refitted(best, rounds)
            score = rmse(refitted.valid, self._prepared.valid.minutes)
            if abs(score - best.rmse) > SAME_RMSE:
                self._tell.say(
                    f"note: the refit has RMSE {score:.4f}, its trial had {best.rmse:.4f}; "
                    "the trainable does not give the same model twice"
                )
            test_score = self._test_score(refitted)
            logged = models.log(store, run_id, plan.trainable, refitted, self._prepared)
            registered = Registry(store.uri, plan.settings.registered_model).register(
                *(logged.raw_trips_uri, run_id, score),
                *(self._prepared.valid.frame, self._prepared.valid.minutes),
                made_up_data=self._origin == "sample",
                tags={"search": plan.settings.name, "data.digest": self._data.digest},
            )
            scores = [Score("rmse", score, _now_ms())]
            if test_score is not None:
                scores.append(Score("test-rmse", test_score, _now_ms()))
            version = {"search.version": registered.version}
            store.score(run_id, scores, {**version, "search.alias": registered.standing.alias})
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise Interrupted(self._interrupted_line()) from None
        finally:
            self._end(run_id, status)
        found = {"search.best_trial_id": best.trial_id}
        store.score(self._parent_run_id, [Score("rmse", best.rmse, _now_ms())], found)
        self._refit = {"run_id": run_id, "rmse": score, "test_rmse": test_score}
        return registered

    def report(self, registered: Registered, seconds: Mapping[str, float]) -> Report:
        """Return what was found, and say where to look and how to serve it."""
        settings, best, prepared = self._plan.settings, self._found(), self._prepared
        uri = registered.uri(settings.registered_model)
        report = Report(
            search=settings.name,
            experiment_id=self._store.experiment_id,
            parent_run_id=self._parent_run_id,
            data={
                "origin": self._origin,
                "train_rows": len(prepared.train.minutes),
                "valid_rows": len(prepared.valid.minutes),
                "dropped": _dropped(prepared),
                "digest": self._data.digest,
            },
            trials=counted(self._outcomes),
            best={
                "trial_id": best.trial_id,
                "run_id": self._run_ids[best.trial_id],
                "rmse": best.rmse,
                "params": dict(best.params),
            },
            refit={
                **self._refit,
                "model_uri": uri,
                "version": registered.version,
                "alias": registered.standing.alias,
            },
            seconds=seconds,
        )
        for line in end_lines(report, settings, registered.standing.reason):
            self._tell.say(line)
        return report

    def _refitted(self, best: Outcome, rounds: int) -> Refitted:
        test = self._prepared.test_rows
        with self._stop.gently():
            return engine.run_refit(
                params=dict(best.params),
                rounds=rounds,
                job=self._plan.job,
                data=self._shared,
                test_features=None if test is None else test.features,
                cpus=self._plan.settings.cpus_per_trial,
                stop=lambda: self._stop.interrupted,
            )

    def _test_score(self, refitted: Refitted) -> float | None:
        rows = self._prepared.test_rows
        if rows is None or refitted.test is None:
            return None
        return rmse(refitted.test, np.asarray(rows.target))

    def _end(self, run_id: str, status: str) -> None:
        """End a run on the way out, without hiding why the search leaves."""
        try:
            self._store.end(run_id, status, _now_ms())
        except MlflowException as error:
            self._tell.say(f"run {run_id} could not be ended: {first_line(error)}")

    def _found(self) -> Outcome:
        assert self._best is not None, "asked for the best before a trial finished"
        return self._best

    def _interrupted_line(self) -> str:
        return (
            f"interrupted: {len(self._outcomes)} trials of search "
            f"{self._plan.settings.name!r} are kept, no refit was made"
        )


@contextlib.contextmanager
def _refusals_of_the_server() -> Iterator[None]:
    """Turn what MLflow raises, once the search has begun, into a failure of the search."""
    try:
        yield
    except MlflowException as error:
        raise SearchError(f"the tracking server refused: {first_line(error)}") from error


def _by_role(prepared: Prepared) -> dict[str, Trips]:
    roles = {"train": prepared.train, "valid": prepared.valid, "test": prepared.test}
    return {role: used for role, used in roles.items() if used is not None}


def _described(prepared: Prepared) -> Data:
    roles = _by_role(prepared)
    return Data(
        name="green-taxi trips",
        digest=prepared.dataset.digest,
        source={role: used.path for role, used in roles.items()},
        profile={
            **{f"{role}_rows": len(used.minutes) for role, used in roles.items()},
            "columns": int(prepared.dataset.train.features.shape[1]),
            "dropped": _dropped(prepared),
        },
    )


def _tags(plan: Plan, origin: str) -> dict[str, str]:
    """Return what every run of the search is tagged with."""
    settings = plan.settings
    return {
        "developer": settings.developer,
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "model": plan.trainable.name,
        "data.origin": origin,
        "mlflow.user": os_user(),
        "mlflow.source.name": "python -m search.run",
        "mlflow.source.type": "LOCAL",
        COMMIT: provenance.git_commit(),
    }


def _dropped(prepared: Prepared) -> dict[str, int]:
    """Return how many rows were left out of all files, by reason."""
    total: dict[str, int] = {}
    for used in _by_role(prepared).values():
        for reason, count in used.dropped.items():
            total[reason] = total.get(reason, 0) + count
    return total


def _say_rows(prepared: Prepared, tell: Teller) -> None:
    for role, used in _by_role(prepared).items():
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in used.dropped.items())
        line = f"{role}: {len(used.minutes):,} trips of {used.path}"
        tell.say(f"{line}; dropped: {reasons or 'none'}")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
