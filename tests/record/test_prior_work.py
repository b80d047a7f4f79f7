"""What a search has done before is read from MLflow, and its open runs are ended there."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from search.record import prior_work
from search.record.connection import connect
from search.record.ledger import Ledger, LoggedRefit, LoggedSearch
from search.record.prior_work import PriorWork
from search.record.run_metadata import RunMetadata
from search.record.store import Score, Store
from search.record.tags import PARENT
from search.record.trial_runs import SearchRuns, TrialRuns
from search.values.data import DataDescription
from search.values.events import Ended, Progressed, Started
from search.values.metric import Metric
from search.values.trial import Outcome, PastTrial, Proposal

RMSE = Metric("rmse", "minimize", label="RMSE")
AUC = Metric("auc", "maximize")
METRICS = pytest.mark.parametrize("metric", [RMSE, AUC], ids=["rmse", "auc"])
NewStore = Callable[[Path], str]


@pytest.fixture
def store(new_store: NewStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    return connect(new_store(tmp_path), "taxis")


def write_parent(store: Store) -> str:
    """Make the parent run of a search; return its id."""
    return store.create("s1", {"search.role": "search"}, 1_000)


def runs_of(store: Store, parent_run_id: str, metric: Metric = RMSE) -> TrialRuns:
    data = DataDescription("trips", "ab" * 16, {"train": "a.parquet"}, {"rows": 3})
    metadata = RunMetadata(params={}, tags={}, data=data)
    return TrialRuns(store, SearchRuns("s1", parent_run_id, metadata, metric.curve))


def write_start(runs: TrialRuns, number: int, params: Mapping[str, Any]) -> str:
    """Write a trial that runs; return its run."""
    return runs.create(Started(f"{number:04d}", params, 1_000 + number))


def write_trial(
    runs: TrialRuns,
    number: int,
    status: str = "finished",
    score: float = 7.0,
    metric: Metric = RMSE,
) -> str:
    """Write a trial that has ended, whose one parameter is its number; return its run."""
    run_id = write_start(runs, number, {"x": float(number)})
    has_score = status in ("finished", "stopped")
    metrics = {metric.name: score, "best_iteration": 0.0} if has_score else {}
    event = Ended(f"{number:04d}", status, 4_000, metrics, {"1": score})
    runs.score(run_id, event)
    runs.end(run_id, event)
    return run_id


def read_search(store: Store) -> LoggedSearch:
    search = Ledger(store).search("s1")
    assert search is not None
    return search


class TestRead:
    def test_search_without_trials(self, store: Store) -> None:
        """A search that was killed before its first trial begins with it."""
        write_parent(store)
        prior = prior_work.read(store, read_search(store), RMSE)
        assert prior == PriorWork(ended=[], in_flight=[], broken_refits=[])

    @METRICS
    def test_ended_trials_stay_and_others_run_again(self, metric: Metric, store: Store) -> None:
        """Each trial keeps its number, its point and its run; its curve goes on where it was."""
        runs = runs_of(store, write_parent(store), metric)
        run_ids = {
            "0001": write_trial(runs, 1, metric=metric),
            "0002": write_trial(runs, 2, "interrupted", metric=metric),
            "0003": write_trial(runs, 3, "failed", metric=metric),
            "0004": write_start(runs, 4, {"x": 4.0}),
            "0005": write_trial(runs, 5, "stopped", 8.0, metric),
        }
        runs.progress(run_ids["0002"], Progressed("0002", 0, (9.0, 8.0), 2_000))
        prior = prior_work.read(store, read_search(store), metric)
        assert list(prior.ended) == [
            Outcome("0001", {"x": 1.0}, "finished", 7.0, 0, ""),
            Outcome("0003", {"x": 3.0}, "failed", None, None, ""),
            Outcome("0005", {"x": 5.0}, "stopped", 8.0, 0, ""),
        ]
        assert list(prior.in_flight) == [
            Proposal("0002", {"x": 2.0}),
            Proposal("0004", {"x": 4.0}),
        ]
        assert prior.run_ids == run_ids
        assert prior.rounds == {"0002": 2, "0004": 0}
        assert prior.rungs == {"0001": {1: 7.0}, "0003": {1: 7.0}, "0005": {1: 8.0}}
        assert prior.past == [
            PastTrial({"x": 1.0}, 7.0, 1),
            PastTrial({"x": 3.0}, None, 3),
            PastTrial({"x": 5.0}, 8.0, 5),
        ]

    @METRICS
    def test_complete_and_broken_refits(self, metric: Metric, store: Store) -> None:
        """A complete refit is not made again; a broken one is."""
        role = {"search.role": "refit", PARENT: write_parent(store)}
        complete, broken = (store.create("s1-refit", role, at_ms) for at_ms in (5_000, 6_000))
        store.score(complete, [Score(metric.name, 6.5, 5_000)], {"search.version": "3"})
        store.end(complete, "FINISHED", 5_500)
        prior = prior_work.read(store, read_search(store), metric)
        assert prior.refit is not None
        assert (prior.refit.run_id, prior.refit.version) == (complete, "3")
        assert prior.refit.score == 6.5
        assert list(prior.broken_refits) == [(broken, "RUNNING")]


class TestIsRefitted:
    ENDED = (
        Outcome("0001", {}, "finished", 0.7, 0, ""),
        Outcome("0002", {}, "failed", None, None, ""),
        Outcome("0003", {}, "stopped", 0.9, 0, ""),
    )

    def refit_of(self, trial_id: str) -> LoggedRefit:
        return LoggedRefit(
            run_id="r",
            best_trial_id=trial_id,
            version="1",
            alias="champion",
            reason="the first version",
            score=0.9,
            test_score=None,
        )

    @pytest.mark.parametrize(("metric", "best"), [(RMSE, "0001"), (AUC, "0003")])
    def test_refit_must_be_of_the_best_trial(self, metric: Metric, best: str) -> None:
        """The lowest RMSE is the best, and the highest AUC; a refit of another trial is old."""
        for outcome in self.ENDED:
            prior = PriorWork(ended=self.ENDED, refit=self.refit_of(outcome.trial_id))
            assert prior.is_refitted(metric) is (outcome.trial_id == best)

    def test_search_without_a_refit_is_not_refitted(self) -> None:
        """The best trial is refitted next."""
        assert not PriorWork(ended=self.ENDED).is_refitted(RMSE)

    def test_search_without_a_score_is_not_refitted(self) -> None:
        """Without a best trial there is nothing to refit."""
        prior = PriorWork(ended=self.ENDED[1:2], refit=self.refit_of("0002"))
        assert not prior.is_refitted(RMSE)


class TestOpenRuns:
    def test_open_runs_get_the_status_of_their_trials(self, store: Store) -> None:
        """A trial with an outcome has its status; a trial that was running is interrupted."""
        parent_run_id = write_parent(store)
        runs = runs_of(store, parent_run_id)
        expected = {}
        for number, status in enumerate(("finished", "stopped", "failed", ""), 1):
            run_id = write_start(runs, number, {"alpha": 0.1})
            expected[run_id] = {"failed": "FAILED", "": "KILLED"}.get(status, "FINISHED")
            store.describe(run_id, tags={"search.status": status} if status else {})
        refit = store.create("s1-refit", {PARENT: parent_run_id, "search.role": "refit"}, 5)
        prior_work.end_open_runs(store, read_search(store))
        found = {run_id: store.client.get_run(run_id).info.status for run_id in expected}
        assert found == expected
        assert store.client.get_run(refit).info.status == "FAILED"
        assert prior_work.read(store, read_search(store), RMSE).in_flight == [
            Proposal("0004", {"alpha": 0.1})
        ]

    def test_second_run_of_a_trial_is_deleted(self, store: Store) -> None:
        """A server may make a run after its client has given up and made another."""
        runs = runs_of(store, write_parent(store))
        written = write_start(runs, 1, {"alpha": 0.1})
        runs.describe(written, Started("0001", {"alpha": 0.1}, 1_001))
        late = write_start(runs, 1, {"alpha": 0.1})
        other = write_start(runs, 2, {"alpha": 0.2})
        known = prior_work.read(store, read_search(store), RMSE).run_ids
        assert known == {"0001": written, "0002": other}
        runs.remove_doubles(known)
        stages = {each: store.client.get_run(each).info.lifecycle_stage for each in (written, late)}
        assert stages == {written: "active", late: "deleted"}
