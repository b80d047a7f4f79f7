"""What a search did is read back from MLflow as it was."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from search.driver import Driver
from search.ledger import Ledger, LoggedSearch
from search.notes import Ended, Outcome, Progressed, Started
from search.store import Data, Score, Store, long_tag
from search.writer import TrialRuns

PARAMS = {"max_depth": 7, "learning_rate": 0.125}
DRIVER = Driver("elsewhere", "m", "b", "pid:[1]", 7, "99", "0123456789abcdef")
NewStore = Callable[[Path], str]


@pytest.fixture
def store(new_store: NewStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    return Store.connect(new_store(tmp_path), "taxis")


@pytest.fixture
def ledger(store: Store) -> Ledger:
    return Ledger(store)


def parent(
    store: Store, name: str = "s1", at_ms: int = 1_000, tags: Mapping[str, str] | None = None
) -> str:
    """Make a search's parent run; return its id."""
    return store.create(name, {"search.role": "search", **(tags or {})}, at_ms)


def child_runs(store: Store, parent_run_id: str) -> TrialRuns:
    data = Data("trips", "ab" * 16, {"train": "a.parquet", "valid": "b.parquet"}, {"rows": 3})
    return TrialRuns(store, "s1", parent_run_id, {}, {"developer": "me"}, data)


def begun(
    runs: TrialRuns, trial_id: str, at_ms: int = 1_000, params: Mapping[str, Any] = PARAMS
) -> str:
    """Write a trial that runs; return its run."""
    note = Started(trial_id, params, at_ms)
    run_id = runs.create(note)
    runs.describe(run_id, note)
    return run_id


def ended(runs: TrialRuns, trial_id: str, status: str = "finished", **more: Any) -> str:
    """Write a trial that has ended; return its run."""
    run_id = begun(runs, trial_id)
    scored = {"rmse": 7.0, "best_iteration": 2.0} if status in ("finished", "stopped") else {}
    note = Ended(trial_id, status, 4_000, **{"metrics": scored, **more})
    runs.score(run_id, note)
    runs.end(run_id, note)
    return run_id


def refitted(store: Store, parent_run_id: str, at_ms: int, **tags: str) -> str:
    """Write a refit that was registered as version 3; return its run."""
    role = {"search.role": "refit", "mlflow.parentRunId": parent_run_id}
    run_id = store.create("s1-refit", role, at_ms)
    store.score(run_id, [Score("rmse", 6.5, at_ms)])
    said = {
        "search.best_trial_id": "0002",
        "search.version": "3",
        "search.alias": "champion",
        "search.standing": "the first",
    }
    store.describe(run_id, tags={**said, **tags})
    store.end(run_id, "FINISHED", at_ms + 1)
    return run_id


def found(ledger: Ledger, name: str = "s1") -> LoggedSearch:
    search = ledger.search(name)
    assert search is not None
    return search


class TestSearch:
    def test_there_is_none_of_a_name_that_nobody_took(self, store: Store, ledger: Ledger) -> None:
        """No part of a name is a name, and nothing but a search is a search."""
        run_id = parent(store, "s1")
        begun(child_runs(store, run_id), "0001")
        assert ledger.search("s1-0001") is None
        assert ledger.search("s") is None
        assert ledger.search("S1") is None

    def test_it_is_what_was_written(self, store: Store, ledger: Ledger) -> None:
        """What going on needs is there, however long it is."""
        options = {"num_samples": 5, "set": {"x": "ü" * 20_000}, "initial_points": [{"a": 0.1}]}
        tags = {
            "search.driver": DRIVER.written(),
            "search.heartbeat": "12345",
            "search.state_dir": "/var/state",
            **long_tag("search.options", json.dumps(options)),
        }
        run_id = parent(store, tags=tags, at_ms=1_234)
        store.describe(run_id, {"space.digest": "ab", "data.digest": "cd"})
        search = found(ledger)
        assert search == LoggedSearch(
            run_id=run_id,
            name="s1",
            status="RUNNING",
            started_ms=1_234,
            params={"space.digest": "ab", "data.digest": "cd"},
            options=options,
            driver=DRIVER,
            beat="12345",
            state_dir="/var/state",
        )

    def test_what_somebody_else_wrote_is_no_error(self, store: Store, ledger: Ledger) -> None:
        """A run that only has the role has no options to go on with, and no driver."""
        parent(store, tags={"search.driver": "me"})
        search = found(ledger)
        assert (search.options, search.driver, search.beat, search.state_dir) == (
            *(None, None),
            *("", ""),
        )

    def test_of_two_of_one_name_it_is_the_first(self, store: Store, ledger: Ledger) -> None:
        """Two that began at once both exist; the name means the older."""
        runs = {at_ms: parent(store, at_ms=at_ms) for at_ms in (2_000, 1_000, 3_000)}
        assert found(ledger).run_id == runs[1_000]

    def test_one_that_was_deleted_is_none(self, store: Store, ledger: Ledger) -> None:
        """Its name is free again."""
        store.client.delete_run(parent(store))
        assert ledger.search("s1") is None
        assert ledger.names() == []

    def test_names_come_newest_first(self, store: Store, ledger: Ledger) -> None:
        """Who mistyped a name finds the one meant at the front."""
        for name, at_ms in (("middle", 2_000), ("new", 3_000), ("old", 1_000)):
            begun(child_runs(store, parent(store, name, at_ms)), "0001", at_ms=9_000)
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
        parent(store, "another")
        run_id = parent(store, name)
        ended(child_runs(store, run_id), "0001")
        search = found(ledger, name)
        assert (search.run_id, search.name) == (run_id, name)
        assert len(ledger.trials(search)) == 1

    def test_other_experiments_are_others(self, store: Store, ledger: Ledger) -> None:
        """A name counts within its experiment."""
        parent(Store(store.uri, store.client.create_experiment("elsewhere")))
        assert ledger.search("s1") is None


class TestTrials:
    @pytest.fixture
    def runs(self, store: Store) -> TrialRuns:
        return child_runs(store, parent(store))

    def test_they_come_by_number(self, runs: TrialRuns, ledger: Ledger) -> None:
        """The order is that of the proposals, not of the starts, nor that of text."""
        for trial_id in ("0010", "10000", "0002", "9999", "0001"):
            begun(runs, trial_id)
        trials = ledger.trials(found(ledger))
        assert [trial.outcome.trial_id for trial in trials] == [
            *("0001", "0002", "0010", "9999", "10000")
        ]

    def test_other_searches_trials_are_not_theirs(
        self, runs: TrialRuns, store: Store, ledger: Ledger
    ) -> None:
        """Only a search's own children count, and of them only the trials."""
        begun(runs, "0001")
        begun(child_runs(store, parent(store, "s2")), "0002")
        refitted(store, runs.parent_run_id, 5_000)
        assert [trial.outcome.trial_id for trial in ledger.trials(found(ledger))] == ["0001"]

    def test_of_two_runs_of_one_trial_it_is_the_first(
        self, runs: TrialRuns, ledger: Ledger
    ) -> None:
        """Two drivers may have made two; everyone takes the same one."""
        made = {at_ms: begun(runs, "0001", at_ms) for at_ms in (3_000, 1_000, 2_000)}
        assert [trial.run_id for trial in ledger.trials(found(ledger))] == [made[1_000]]

    @pytest.mark.parametrize(
        ("status", "rmse", "best_iteration", "has_ended"),
        [
            ("finished", 7.0, 2, True),
            ("stopped", 7.0, 2, True),
            ("failed", None, None, True),
            ("interrupted", None, None, False),
        ],
    )
    def test_an_outcome_is_what_it_was(
        self,
        *,
        status: str,
        rmse: float | None,
        best_iteration: int | None,
        has_ended: bool,
        runs: TrialRuns,
        ledger: Ledger,
    ) -> None:
        """An interrupted trial runs again; every other end stays."""
        run_id = ended(runs, "0001", status, failure="E: x" if status == "failed" else "")
        (trial,) = ledger.trials(found(ledger))
        failure = "E: x" if status == "failed" else ""
        assert trial.outcome == Outcome("0001", PARAMS, status, rmse, best_iteration, failure)
        assert (trial.run_id, trial.ended_ms) == (run_id, 4_000)
        assert (trial.has_ended, trial.is_over) == (has_ended, has_ended)

    def test_a_trial_that_runs_has_not_ended(self, runs: TrialRuns, ledger: Ledger) -> None:
        """What a killed search left running runs again, whatever it had reported."""
        run_id = begun(runs, "0001")
        runs.progress(run_id, Progressed("0001", 0, (9.0, 8.0), 2_000))
        (trial,) = ledger.trials(found(ledger))
        assert (trial.has_ended, trial.is_over) == (False, False)
        assert (trial.outcome.status, trial.outcome.rmse, trial.ended_ms) == ("", None, 0)

    def test_an_outcome_whose_run_is_still_open_is_not_over(
        self, runs: TrialRuns, ledger: Ledger
    ) -> None:
        """It need not run again; that it ended is yet to be said."""
        run_id = begun(runs, "0001")
        runs.score(run_id, Ended("0001", "finished", 4_000, {"rmse": 7.0}))
        (trial,) = ledger.trials(found(ledger))
        assert (trial.has_ended, trial.is_over) == (True, False)

    def test_a_trial_opened_again_keeps_its_outcome_until_the_next(
        self, runs: TrialRuns, store: Store, ledger: Ledger
    ) -> None:
        """An interrupted trial that runs again and is killed is still one to run again."""
        store.reopen(ended(runs, "0001", "interrupted"))
        (trial,) = ledger.trials(found(ledger))
        assert (trial.run_status, trial.has_ended) == ("RUNNING", False)

    def test_a_point_is_the_same_to_the_last_bit(self, runs: TrialRuns, ledger: Ledger) -> None:
        """Numbers stay numbers, lists lists, and long text is whole."""
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
        begun(runs, "0001", params=point)
        (trial,) = ledger.trials(found(ledger))
        assert trial.outcome.params == point
        assert {name: type(value) for name, value in trial.outcome.params.items()} == {
            name: type(value) for name, value in point.items()
        }

    def test_a_score_is_the_same_to_the_last_bit(self, runs: TrialRuns, ledger: Ledger) -> None:
        """A search that goes on is told what it would have known."""
        score = 6.123456789012345
        ended(runs, "0001", metrics={"rmse": score}, rungs={"1": score, "16": 5.1 / 3})
        (trial,) = ledger.trials(found(ledger))
        assert (trial.outcome.rmse, trial.rungs) == (score, {1: score, 16: 5.1 / 3})

    def test_there_may_be_more_than_one_answer_holds(
        self, runs: TrialRuns, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A server answers page by page."""
        for number in range(1, 8):
            begun(runs, f"{number:04d}")
        real, asked = MlflowClient.search_runs, []

        def two_at_once(*args: Any, **named: Any) -> Any:
            asked.append(named)
            return real(*args, **{**named, "max_results": 2})

        monkeypatch.setattr(MlflowClient, "search_runs", two_at_once)
        assert len(ledger.trials(found(ledger))) == 7
        assert len(asked) >= 5

    def test_the_run_of_one_trial(self, runs: TrialRuns, store: Store, ledger: Ledger) -> None:
        """It is the one of this search, and none where there is none."""
        begun(child_runs(store, parent(store, "s2")), "0001")
        assert ledger.trial_run(runs.parent_run_id, "0001") is None
        run_id = begun(runs, "0001")
        assert ledger.trial_run(runs.parent_run_id, "0001") == run_id

    def test_rounds_are_counted_once(self, runs: TrialRuns, ledger: Ledger) -> None:
        """A piece of the curve that came twice is there once."""
        run_id = begun(runs, "0001")
        assert ledger.rounds(run_id) == 0
        for note in (
            Progressed("0001", 0, (9.0, 8.0), 2_000),
            Progressed("0001", 0, (9.0, 8.0), 2_000),
            Progressed("0001", 1, (8.0, 7.0), 3_000),
        ):
            runs.progress(run_id, note)
        assert ledger.rounds(run_id) == 3


class TestRefits:
    @pytest.fixture
    def run_id(self, store: Store) -> str:
        return parent(store)

    def test_there_may_be_none(self, run_id: str, store: Store, ledger: Ledger) -> None:
        """A search that has not come so far has no refit, whatever other searches have."""
        refitted(store, parent(store, "s2"), 5_000)
        assert ledger.refits(found(ledger)) == (None, [])
        assert found(ledger).run_id == run_id

    def test_it_is_what_was_written(self, run_id: str, store: Store, ledger: Ledger) -> None:
        """A report of a search that is complete says what it said then."""
        made = refitted(store, run_id, 5_000)
        refit, broken = ledger.refits(found(ledger))
        assert refit is not None
        assert (refit.run_id, refit.best_trial_id, refit.version) == (made, "0002", "3")
        assert (refit.alias, refit.reason) == ("champion", "the first")
        assert (refit.rmse, refit.test_rmse) == (6.5, None)
        assert broken == []
        store.score(made, [Score("test-rmse", 6.75, 5_000)])
        again, _ = ledger.refits(found(ledger))
        assert again is not None
        assert again.test_rmse == 6.75

    def test_what_came_to_no_end_is_broken(self, run_id: str, store: Store, ledger: Ledger) -> None:
        """One that was killed, failed or never registered is made anew."""
        role = {"search.role": "refit", "mlflow.parentRunId": run_id}
        made = [store.create("s1-refit", role, at_ms) for at_ms in (5_000, 6_000, 7_000)]
        store.end(made[1], "FAILED", 8_000)
        store.end(made[2], "FINISHED", 8_000)
        refit, broken = ledger.refits(found(ledger))
        assert refit is None
        assert sorted(broken) == sorted(zip(made, ("RUNNING", "FAILED", "FINISHED"), strict=True))

    def test_superseded_ones_are_history(self, run_id: str, store: Store, ledger: Ledger) -> None:
        """What a later refit took the place of counts neither as whole nor as broken."""
        newest = refitted(store, run_id, 6_000)
        refitted(store, run_id, 7_000, **{"search.superseded": newest})
        role = {"search.role": "refit", "mlflow.parentRunId": run_id}
        store.create("s1-refit", {**role, "search.superseded": newest}, 5_000)
        refit, broken = ledger.refits(found(ledger))
        assert refit is not None
        assert (refit.run_id, broken) == (newest, [])

    def test_of_two_the_newest_stands(self, run_id: str, store: Store, ledger: Ledger) -> None:
        """A start that was killed before it marked the older one leaves two."""
        newest = refitted(store, run_id, 6_000)
        refitted(store, run_id, 5_000)
        refit, _ = ledger.refits(found(ledger))
        assert refit is not None
        assert refit.run_id == newest
