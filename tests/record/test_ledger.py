"""A search is read back from MLflow as it was written."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from search.record.connection import connect
from search.record.driver import Driver
from search.record.ledger import Ledger, LoggedSearch
from search.record.run_metadata import RunMetadata
from search.record.store import Score, Store
from search.record.tags import long_tag
from search.record.trial_runs import SearchRuns, TrialRuns
from search.values.data import DataDescription
from search.values.events import Ended, Progressed, Started
from search.values.metric import Metric
from search.values.trial import Outcome

PARAMS = {"max_depth": 7, "learning_rate": 0.125}
RMSE = Metric("rmse", "minimize", label="RMSE")
AUC = Metric("auc", "maximize")
DRIVER = Driver(
    host="elsewhere",
    machine="m",
    boot="b",
    processes="pid:[1]",
    pid=7,
    started="99",
    claim="0123456789abcdef",
)
NewStore = Callable[[Path], str]


@pytest.fixture
def store(new_store: NewStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    return connect(new_store(tmp_path), "taxis")


@pytest.fixture
def ledger(store: Store) -> Ledger:
    return Ledger(store)


def write_parent(
    store: Store, name: str = "s1", at_ms: int = 1_000, tags: Mapping[str, str] | None = None
) -> str:
    """Make a search's parent run; return its id."""
    return store.create(name, {"search.role": "search", **(tags or {})}, at_ms)


def runs_of(store: Store, parent_run_id: str, metric: Metric = RMSE) -> TrialRuns:
    data = DataDescription(
        name="trips",
        digest="ab" * 16,
        source={"train": "a.parquet", "valid": "b.parquet"},
        profile={"rows": 3},
    )
    metadata = RunMetadata(params={}, tags={"developer": "me"}, data=data)
    return TrialRuns(store, SearchRuns("s1", parent_run_id, metadata, metric.curve))


def write_start(
    runs: TrialRuns, trial_id: str, at_ms: int = 1_000, params: Mapping[str, Any] = PARAMS
) -> str:
    """Write a trial that runs; return its run."""
    event = Started(trial_id, params, at_ms)
    run_id = runs.create(event)
    runs.describe(run_id, event)
    return run_id


def write_trial(runs: TrialRuns, trial_id: str, status: str = "finished", **more: Any) -> str:
    """Write a trial that has ended; return its run."""
    run_id = write_start(runs, trial_id)
    has_score = status in ("finished", "stopped")
    metrics = {"rmse": 7.0, "best_iteration": 2.0} if has_score else {}
    event = Ended(trial_id, status, 4_000, **{"metrics": metrics, **more})
    runs.score(run_id, event)
    runs.end(run_id, event)
    return run_id


def write_refit(
    store: Store, parent_run_id: str, at_ms: int, metric: str = "rmse", **tags: str
) -> str:
    """Write a refit that was registered as version 3; return its run."""
    role = {"search.role": "refit", "mlflow.parentRunId": parent_run_id}
    run_id = store.create("s1-refit", role, at_ms)
    store.score(run_id, [Score(metric, 6.5, at_ms)])
    registered = {
        "search.best_trial_id": "0002",
        "search.version": "3",
        "search.alias": "champion",
        "search.standing": "the first",
    }
    store.describe(run_id, tags={**registered, **tags})
    store.end(run_id, "FINISHED", at_ms + 1)
    return run_id


def read_search(ledger: Ledger, name: str = "s1") -> LoggedSearch:
    search = ledger.search(name)
    assert search is not None
    return search


class TestSearch:
    def test_unknown_name_has_no_search(self, store: Store, ledger: Ledger) -> None:
        """A part of a name and the name of a trial's run are not the name of a search."""
        run_id = write_parent(store, "s1")
        write_start(runs_of(store, run_id), "0001")
        assert ledger.search("s1-0001") is None
        assert ledger.search("s") is None
        assert ledger.search("S1") is None

    def test_search_is_read_back(self, store: Store, ledger: Ledger) -> None:
        """All that a resume needs is there, at any length."""
        options = {"num_samples": 5, "set": {"x": "ü" * 20_000}, "initial_points": [{"a": 0.1}]}
        tags = {
            "search.metric": "auc",
            "search.direction": "maximize",
            "search.driver": DRIVER.written(),
            "search.heartbeat": "12345",
            "search.state_dir": "/var/state",
            **long_tag("search.options", json.dumps(options)),
        }
        run_id = write_parent(store, tags=tags, at_ms=1_234)
        store.describe(run_id, {"space.digest": "ab", "data.digest": "cd"})
        assert read_search(ledger) == LoggedSearch(
            run_id=run_id,
            name="s1",
            status="RUNNING",
            started_ms=1_234,
            params={"space.digest": "ab", "data.digest": "cd"},
            options=options,
            metric="auc",
            direction="maximize",
            driver=DRIVER,
            beat="12345",
            state_dir="/var/state",
        )

    def test_foreign_search_is_no_error(self, store: Store, ledger: Ledger) -> None:
        """A run that only has the role has no options, no metric and no driver."""
        write_parent(store, tags={"search.driver": "me"})
        search = read_search(ledger)
        assert search.options is None
        assert search.driver is None
        assert (search.metric, search.direction) == ("", "")
        assert (search.beat, search.state_dir) == ("", "")

    @pytest.mark.parametrize(
        ("tags", "metric", "expected"),
        [
            ({"search.metric": "auc", "search.direction": "maximize"}, AUC, True),
            ({"search.metric": "auc", "search.direction": "minimize"}, AUC, False),
            ({"search.metric": "rmse", "search.direction": "minimize"}, AUC, False),
            ({}, RMSE, True),  # written by a version that had one metric only
        ],
    )
    def test_scores_of_another_metric_are_not_compared(
        self,
        tags: Mapping[str, str],
        metric: Metric,
        *,
        expected: bool,
        store: Store,
        ledger: Ledger,
    ) -> None:
        """Name and direction must be the same; the label may differ."""
        write_parent(store, tags=tags)
        labelled = Metric(metric.name, metric.direction, label="another label")
        assert read_search(ledger).is_scored_by(labelled) is expected

    def test_first_of_two_searches_of_one_name_is_read(self, store: Store, ledger: Ledger) -> None:
        """Two searches that began at once both exist; the name means the older."""
        runs = {at_ms: write_parent(store, at_ms=at_ms) for at_ms in (2_000, 1_000, 3_000)}
        assert read_search(ledger).run_id == runs[1_000]

    def test_deleted_search_is_not_read(self, store: Store, ledger: Ledger) -> None:
        """Its name is free again."""
        store.client.delete_run(write_parent(store))
        assert ledger.search("s1") is None
        assert ledger.names() == []

    def test_names_are_newest_first(self, store: Store, ledger: Ledger) -> None:
        """A user who mistyped a name finds the right one near the front."""
        for name, at_ms in (("middle", 2_000), ("new", 3_000), ("old", 1_000)):
            write_start(runs_of(store, write_parent(store, name, at_ms)), "0001", at_ms=9_000)
        assert ledger.names() == ["new", "middle", "old"]

    @pytest.mark.parametrize(
        "name",
        [
            "somebody's",
            'a "quoted" one',
            "`x`",
            "50%",
            "a_b",
            "検索",
            "x' OR '1'='1",
            "a\\b",
            " s ",
        ],
    )
    def test_any_name_is_found(self, name: str, store: Store, ledger: Ledger) -> None:
        """A quote in a name is a part of the name."""
        write_parent(store, "another")
        run_id = write_parent(store, name)
        write_trial(runs_of(store, run_id), "0001")
        search = read_search(ledger, name)
        assert (search.run_id, search.name) == (run_id, name)
        assert len(ledger.trials(search, RMSE)) == 1

    def test_search_in_another_experiment_is_not_read(self, store: Store, ledger: Ledger) -> None:
        """A name is unique in its experiment only."""
        write_parent(Store(store.uri, store.client.create_experiment("elsewhere")))
        assert ledger.search("s1") is None


class TestTrials:
    @pytest.fixture
    def parent_run_id(self, store: Store) -> str:
        return write_parent(store)

    @pytest.fixture
    def runs(self, store: Store, parent_run_id: str) -> TrialRuns:
        return runs_of(store, parent_run_id)

    def test_order_is_by_number(self, runs: TrialRuns, ledger: Ledger) -> None:
        """The order is that of the proposals, not of the starts or of the ids as texts."""
        for trial_id in ("0010", "10000", "0002", "9999", "0001"):
            write_start(runs, trial_id)
        trials = ledger.trials(read_search(ledger), RMSE)
        assert [trial.outcome.trial_id for trial in trials] == (
            ["0001", "0002", "0010", "9999", "10000"]
        )

    def test_runs_of_other_searches_and_refits_are_no_trials(
        self, runs: TrialRuns, parent_run_id: str, store: Store, ledger: Ledger
    ) -> None:
        """Only a search's own children with the role of a trial count."""
        write_start(runs, "0001")
        write_start(runs_of(store, write_parent(store, "s2")), "0002")
        write_refit(store, parent_run_id, 5_000)
        trials = ledger.trials(read_search(ledger), RMSE)
        assert [trial.outcome.trial_id for trial in trials] == ["0001"]

    def test_first_of_two_runs_of_a_trial_counts(self, runs: TrialRuns, ledger: Ledger) -> None:
        """If two drivers made a run each, all readers take the same one."""
        made = {at_ms: write_start(runs, "0001", at_ms) for at_ms in (3_000, 1_000, 2_000)}
        trials = ledger.trials(read_search(ledger), RMSE)
        assert [trial.run_id for trial in trials] == [made[1_000]]

    @pytest.mark.parametrize(
        ("status", "score", "best_iteration", "has_ended"),
        [
            ("finished", 7.0, 2, True),
            ("stopped", 7.0, 2, True),
            ("failed", None, None, True),
            ("interrupted", None, None, False),
        ],
    )
    def test_outcome_is_read_back(
        self,
        *,
        status: str,
        score: float | None,
        best_iteration: int | None,
        has_ended: bool,
        runs: TrialRuns,
        ledger: Ledger,
    ) -> None:
        """An interrupted trial runs again; every other outcome is final."""
        failure = "E: x" if status == "failed" else ""
        run_id = write_trial(runs, "0001", status, failure=failure)
        (trial,) = ledger.trials(read_search(ledger), RMSE)
        assert trial.outcome == Outcome("0001", PARAMS, status, score, best_iteration, failure)
        assert (trial.run_id, trial.ended_ms) == (run_id, 4_000)
        assert (trial.has_ended, trial.is_over) == (has_ended, has_ended)

    def test_score_is_read_under_the_name_of_the_metric(
        self, runs: TrialRuns, ledger: Ledger
    ) -> None:
        """Other metrics of the run do not count; a run without the metric has no score."""
        metrics = {"auc": 0.9, "rmse": 7.0, "best_iteration": 2.0}
        write_trial(runs, "0001", metrics=metrics, rungs={"1": 0.8})
        write_trial(runs, "0002", metrics={"rmse": 7.0})
        search = read_search(ledger)
        first, second = ledger.trials(search, AUC)
        assert (first.outcome.score, first.outcome.best_iteration) == (0.9, 2)
        assert first.rungs == {1: 0.8}
        assert second.outcome.score is None
        assert [trial.outcome.score for trial in ledger.trials(search, RMSE)] == [7.0, 7.0]

    def test_running_trial_has_not_ended(self, runs: TrialRuns, ledger: Ledger) -> None:
        """A trial that a killed search left running runs again, also if it has reported."""
        run_id = write_start(runs, "0001")
        runs.progress(run_id, Progressed("0001", 0, (9.0, 8.0), 2_000))
        (trial,) = ledger.trials(read_search(ledger), RMSE)
        assert (trial.has_ended, trial.is_over) == (False, False)
        assert (trial.outcome.status, trial.outcome.score, trial.ended_ms) == ("", None, 0)

    def test_trial_with_an_outcome_and_an_open_run_is_not_over(
        self, runs: TrialRuns, ledger: Ledger
    ) -> None:
        """It need not run again, but its run is not complete."""
        run_id = write_start(runs, "0001")
        runs.score(run_id, Ended("0001", "finished", 4_000, {"rmse": 7.0}))
        (trial,) = ledger.trials(read_search(ledger), RMSE)
        assert (trial.has_ended, trial.is_over) == (True, False)

    def test_reopened_trial_has_not_ended(
        self, runs: TrialRuns, store: Store, ledger: Ledger
    ) -> None:
        """An interrupted trial that runs again and is killed still has to run again."""
        store.reopen(write_trial(runs, "0001", "interrupted"))
        (trial,) = ledger.trials(read_search(ledger), RMSE)
        assert (trial.run_status, trial.has_ended) == ("RUNNING", False)

    def test_point_is_read_back_exactly(self, runs: TrialRuns, ledger: Ledger) -> None:
        """Numbers stay numbers, lists stay lists, and long text is complete."""
        point = {
            "depth": 7,
            "rate": 0.1 + 0.2,
            "small": 5e-324,
            "large": 1.7976931348623157e308,
            "on": True,
            "none": None,
            "kernel": {"name": "rbf", "sizes": [1, 2.5, "ü"]},
            "text": "検" * 6_000,
        }
        write_start(runs, "0001", params=point)
        (trial,) = ledger.trials(read_search(ledger), RMSE)
        assert trial.outcome.params == point
        assert {name: type(value) for name, value in trial.outcome.params.items()} == {
            name: type(value) for name, value in point.items()
        }

    @pytest.mark.parametrize("metric", [RMSE, AUC])
    def test_score_is_read_back_exactly(
        self, metric: Metric, runs: TrialRuns, ledger: Ledger
    ) -> None:
        """A resumed search knows the same scores, to the last bit."""
        score = 6.123456789012345
        rungs = {"1": score, "16": 5.1 / 3}
        write_trial(runs, "0001", metrics={metric.name: score}, rungs=rungs)
        (trial,) = ledger.trials(read_search(ledger), metric)
        assert (trial.outcome.score, trial.rungs) == (score, {1: score, 16: 5.1 / 3})

    def test_all_pages_are_read(
        self, runs: TrialRuns, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A server answers page by page."""
        for number in range(1, 8):
            write_start(runs, f"{number:04d}")
        real, requests = MlflowClient.search_runs, []

        def two_at_once(*args: Any, **named: Any) -> Any:
            requests.append(named)
            return real(*args, **{**named, "max_results": 2})

        monkeypatch.setattr(MlflowClient, "search_runs", two_at_once)
        assert len(ledger.trials(read_search(ledger), RMSE)) == 7
        assert len(requests) >= 5

    def test_run_of_one_trial(
        self, runs: TrialRuns, parent_run_id: str, store: Store, ledger: Ledger
    ) -> None:
        """It is the run in this search; None if there is none."""
        write_start(runs_of(store, write_parent(store, "s2")), "0001")
        assert ledger.trial_run(parent_run_id, "0001") is None
        run_id = write_start(runs, "0001")
        assert ledger.trial_run(parent_run_id, "0001") == run_id

    @pytest.mark.parametrize("metric", [RMSE, AUC])
    def test_rounds_are_counted_once(
        self, metric: Metric, parent_run_id: str, store: Store, ledger: Ledger
    ) -> None:
        """A piece of the curve that was written twice counts once."""
        runs = runs_of(store, parent_run_id, metric)
        run_id = write_start(runs, "0001")
        assert ledger.rounds(run_id, metric) == 0
        for event in (
            Progressed("0001", 0, (9.0, 8.0), 2_000),
            Progressed("0001", 0, (9.0, 8.0), 2_000),
            Progressed("0001", 1, (8.0, 7.0), 3_000),
        ):
            runs.progress(run_id, event)
        assert ledger.rounds(run_id, metric) == 3


def test_open_runs_are_those_that_have_not_ended(store: Store, ledger: Ledger) -> None:
    """Trials and refits of this search, each trial with its status."""
    parent_run_id = write_parent(store)
    runs = runs_of(store, parent_run_id)
    write_start(runs_of(store, write_parent(store, "s2")), "0001")
    write_trial(runs, "0001")
    running = write_start(runs, "0002")
    scored = write_start(runs, "0003")
    runs.score(scored, Ended("0003", "stopped", 4_000, {"rmse": 7.0}))
    write_refit(store, parent_run_id, 5_000)
    role = {"search.role": "refit", "mlflow.parentRunId": parent_run_id}
    refit = store.create("s1-refit", role, 6_000)
    found = {run.run_id: (run.role, run.status) for run in ledger.open_runs(read_search(ledger))}
    assert found == {
        running: ("trial", ""),
        scored: ("trial", "stopped"),
        refit: ("refit", ""),
    }


class TestRefits:
    @pytest.fixture
    def run_id(self, store: Store) -> str:
        return write_parent(store)

    def test_search_without_a_refit(self, run_id: str, store: Store, ledger: Ledger) -> None:
        """The refits of other searches do not count."""
        write_refit(store, write_parent(store, "s2"), 5_000)
        assert ledger.refits(read_search(ledger), RMSE) == (None, [])
        assert read_search(ledger).run_id == run_id

    @pytest.mark.parametrize("metric", [RMSE, AUC])
    def test_refit_is_read_back(
        self, metric: Metric, run_id: str, store: Store, ledger: Ledger
    ) -> None:
        """The summary of a complete search says the same again."""
        made = write_refit(store, run_id, 5_000, metric.name)
        refit, broken = ledger.refits(read_search(ledger), metric)
        assert refit is not None
        assert (refit.run_id, refit.best_trial_id, refit.version) == (made, "0002", "3")
        assert (refit.alias, refit.reason) == ("champion", "the first")
        assert (refit.score, refit.test_score) == (6.5, None)
        assert broken == []
        store.score(made, [Score(f"test-{metric.name}", 6.75, 5_000)])
        again, _ = ledger.refits(read_search(ledger), metric)
        assert again is not None
        assert again.test_score == 6.75

    def test_incomplete_refits_are_broken(self, run_id: str, store: Store, ledger: Ledger) -> None:
        """A refit that was killed, failed or was never registered is made again."""
        role = {"search.role": "refit", "mlflow.parentRunId": run_id}
        made = [store.create("s1-refit", role, at_ms) for at_ms in (5_000, 6_000, 7_000)]
        store.end(made[1], "FAILED", 8_000)
        store.end(made[2], "FINISHED", 8_000)
        refit, broken = ledger.refits(read_search(ledger), RMSE)
        assert refit is None
        assert sorted(broken) == sorted(zip(made, ("RUNNING", "FAILED", "FINISHED"), strict=True))

    def test_superseded_refits_do_not_count(
        self, run_id: str, store: Store, ledger: Ledger
    ) -> None:
        """A refit that a later one replaced is neither complete nor broken."""
        newest = write_refit(store, run_id, 6_000)
        write_refit(store, run_id, 7_000, **{"search.superseded": newest})
        role = {"search.role": "refit", "mlflow.parentRunId": run_id}
        store.create("s1-refit", {**role, "search.superseded": newest}, 5_000)
        refit, broken = ledger.refits(read_search(ledger), RMSE)
        assert refit is not None
        assert (refit.run_id, broken) == (newest, [])

    def test_newest_of_two_refits_counts(self, run_id: str, store: Store, ledger: Ledger) -> None:
        """A search that was killed before it marked the older one leaves two."""
        newest = write_refit(store, run_id, 6_000)
        write_refit(store, run_id, 5_000)
        refit, _ = ledger.refits(read_search(ledger), RMSE)
        assert refit is not None
        assert refit.run_id == newest
