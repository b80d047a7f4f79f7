"""Going on with a search: only with the one that was meant, as it was, and alone."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hyperopt import hp

from search import resume
from search.driver import Driver
from search.errors import InputError
from search.ledger import LoggedSearch
from search.notes import Ended, Outcome, Progressed, Started
from search.plan import Plan, planned
from search.resume import Before
from search.searcher import Past, Proposal
from search.settings import Settings, parse
from search.space import Space
from search.store import PARENT, Data, Score, Store
from search.writer import TrialRuns

SPACE = Space({"x": hp.uniform("x", 0, 10)})
SPACE_OF_TWO = Space({"x": hp.uniform("x", 0, 10), "y": hp.uniform("y", 0, 10)})
ELSEWHERE = Driver("elsewhere", "m", "b", "pid:[1]", 7, "99", "0123456789abcdef")
OPTIONS = {"search.options": json.dumps({"num_samples": 5})}
NewStore = Callable[[Path], str]


@pytest.fixture
def store(new_store: NewStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    return Store.connect(new_store(tmp_path), "taxis")


@pytest.fixture
def said() -> list[str]:
    return []


def parent(store: Store, name: str = "s1", tags: Mapping[str, str] = OPTIONS) -> str:
    """Make a search's parent run; return its id."""
    return store.create(name, {"search.role": "search", **tags}, 1_000)


def runs_of(store: Store, parent_run_id: str) -> TrialRuns:
    data = Data("trips", "ab" * 16, {"train": "a.parquet"}, {"rows": 3})
    return TrialRuns(store, "s1", parent_run_id, {}, {}, data)


def begun(runs: TrialRuns, number: int, params: Mapping[str, Any]) -> str:
    """Write a trial that runs; return its run."""
    return runs.create(Started(f"{number:04d}", params, 1_000 + number))


def ended(
    runs: TrialRuns,
    number: int,
    params: Mapping[str, Any],
    status: str = "finished",
    rmse: float = 7.0,
    at_ms: int = 4_000,
) -> str:
    """Write a trial that has ended; return its run."""
    run_id = begun(runs, number, params)
    scored = {"rmse": rmse, "best_iteration": 0.0} if status in ("finished", "stopped") else {}
    note = Ended(f"{number:04d}", status, at_ms, scored, {"1": rmse})
    runs.score(run_id, note)
    runs.end(run_id, note)
    return run_id


def one_line(error: pytest.ExceptionInfo[InputError], *parts: str) -> None:
    message = str(error.value)
    assert "\n" not in message
    assert [part for part in parts if part not in message] == []


class TestFound:
    def test_it_is_the_one_of_the_name(self, store: Store) -> None:
        """What it was started with comes with it."""
        run_id = parent(store)
        parent(store, "s2")
        search = resume.found(store, "s1")
        assert (search.run_id, search.options) == (run_id, {"num_samples": 5})

    def test_an_unknown_name_is_told_the_known_ones(self, store: Store) -> None:
        """A typing error is seen at once; of many searches the newest five are named."""
        for number in range(7):
            role = {"search.role": "search", **OPTIONS}
            store.create(f"search-{number}", role, 1_000 + number)
        with pytest.raises(InputError) as error:
            resume.found(store, "s1")
        one_line(error, "--resume s1", *(f"'search-{number}'" for number in range(2, 7)))
        assert "search-1" not in str(error.value)

    def test_an_experiment_without_searches_has_none(self, store: Store) -> None:
        """A wrong store or experiment is seen as such."""
        with pytest.raises(InputError) as error:
            resume.found(store, "s1")
        one_line(error, "--resume s1", "it has none")

    def test_a_search_without_options_cannot_be_gone_on_with(self, store: Store) -> None:
        """What kept no options was not started by this program; it may still be started from."""
        parent(store, tags={})
        with pytest.raises(InputError) as error:
            resume.found(store, "s1")
        one_line(error, "--resume s1", "--warm-start s1")


class TestSameSearch:
    @pytest.fixture(scope="class")
    def plan(self) -> Plan:
        return planned(parse(["--trainable", "lasso"]))

    def search(self, **params: str) -> LoggedSearch:
        digests = {name.replace("_", "."): digest for name, digest in params.items()}
        return LoggedSearch("r", "s1", "FAILED", 1_000, digests, {}, None, "", "")

    def test_the_same_is_gone_on_with(self, plan: Plan) -> None:
        """Equal digests are all that is asked."""
        search = self.search(space_digest=plan.space.digest, data_digest="cd")
        resume.see_the_same(search, plan, "cd")

    def test_another_space_is_refused(self, plan: Plan) -> None:
        """A trainable that somebody changed meanwhile would make two searches of one."""
        search = self.search(space_digest="ab", data_digest="cd")
        with pytest.raises(InputError) as error:
            resume.see_the_same(search, plan, "cd")
        one_line(error, "--resume s1", "search space", "ab", plan.space.digest, "--warm-start s1")

    def test_other_data_is_refused(self, plan: Plan) -> None:
        """Scores on other rows cannot be compared."""
        search = self.search(space_digest=plan.space.digest, data_digest="cd")
        with pytest.raises(InputError) as error:
            resume.see_the_same(search, plan, "ef")
        one_line(error, "--resume s1", "its data", "cd", "ef", "--warm-start s1")

    def test_a_search_that_never_said_is_refused(self, plan: Plan) -> None:
        """Where its space is not known, it is not the same."""
        with pytest.raises(InputError, match="search space"):
            resume.see_the_same(self.search(data_digest="cd"), plan, "cd")

    def test_one_killed_before_it_said_anything_is_gone_on_with(self, plan: Plan) -> None:
        """The parent run is made first and described then: what is between has no trials."""
        resume.see_the_same(self.search(), plan, "cd")


class TestLeftOpen:
    """A driver that was killed leaves runs RUNNING; going on leaves none, whatever comes next."""

    def test_runs_end_as_what_their_trials_came_to(self, store: Store) -> None:
        """One that had its outcome has its status; one that was under way is interrupted."""
        parent_run_id = parent(store)
        runs = runs_of(store, parent_run_id)
        wanted = {}
        for number, status in enumerate(("finished", "stopped", "failed", ""), 1):
            run_id = begun(runs, number, {"alpha": 0.1})
            wanted[run_id] = {"failed": "FAILED", "": "KILLED"}.get(status, "FINISHED")
            store.describe(run_id, tags={"search.status": status} if status else {})
        refit = store.create("s1-refit", {PARENT: parent_run_id, "search.role": "refit"}, 5)
        resume.end_what_runs(store, resume.found(store, "s1"))
        found = {run_id: store.client.get_run(run_id).info.status for run_id in wanted}
        assert found == wanted
        assert store.client.get_run(refit).info.status == "FAILED"
        assert resume.before(store, resume.found(store, "s1")).in_flight == [
            Proposal("0004", {"alpha": 0.1})
        ]

    def test_a_second_run_of_a_trial_goes(self, store: Store) -> None:
        """A server may make a run after its client has given up, and made another."""
        parent_run_id = parent(store)
        runs = runs_of(store, parent_run_id)
        meant = begun(runs, 1, {"alpha": 0.1})
        runs.describe(meant, Started("0001", {"alpha": 0.1}, 1_001))
        late = begun(runs, 1, {"alpha": 0.1})
        other = begun(runs, 2, {"alpha": 0.2})
        known = resume.before(store, resume.found(store, "s1")).run_ids
        assert known == {"0001": meant, "0002": other}
        runs.remove_doubles(known)
        stages = {each: store.client.get_run(each).info.lifecycle_stage for each in (meant, late)}
        assert stages == {meant: "active", late: "deleted"}


class TestNobodyDrives:
    @pytest.fixture(autouse=True)
    def _quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(resume, "LOOK_EVERY_S", 0.02)

    def driven(self, store: Store, driver: Driver | None) -> LoggedSearch:
        """Write a search that this one drives, as far as it says; return it."""
        claim = {"search.heartbeat": "1", **OPTIONS}
        parent(store, tags=claim | ({"search.driver": driver.written()} if driver else {}))
        return resume.found(store, "s1")

    def test_a_living_one_on_this_machine_is_refused(self, store: Store, said: list[str]) -> None:
        """Two would run every trial twice; the user is told which process it is, at once."""
        search = self.driven(store, Driver.this())
        with pytest.raises(InputError) as error:
            resume.see_nobody_drives(store, search, said.append)
        one_line(error, "--resume s1", str(os.getpid()), "stop it")
        assert said == []

    def test_a_dead_one_on_this_machine_is_no_hindrance(
        self, store: Store, said: list[str]
    ) -> None:
        """A process that was killed is known to be dead without waiting."""
        search = self.driven(store, replace(Driver.this(), started="1"))
        resume.see_nobody_drives(store, search, said.append)
        assert said == []

    def test_a_silent_one_elsewhere_is_no_hindrance(self, store: Store, said: list[str]) -> None:
        """Who gives no sign of life for long enough has none; the user knows what is awaited."""
        search = self.driven(store, ELSEWHERE)
        resume.see_nobody_drives(store, search, said.append, silence_s=0.1)
        (line,) = said
        assert "process 7 on elsewhere" in line

    @pytest.mark.parametrize(
        "sign",
        [
            {"search.heartbeat": "2"},
            {"search.driver": replace(ELSEWHERE, claim="another").written()},
        ],
        ids=["beat", "claim"],
    )
    def test_a_sign_of_life_is_one(self, sign: Mapping[str, str], store: Store) -> None:
        """A beat, or another's claim, while it is waited for: the search is driven."""
        search = self.driven(store, ELSEWHERE)
        with pytest.raises(InputError) as error:
            resume.see_nobody_drives(
                store, search, lambda _: store.describe(search.run_id, tags=sign), silence_s=30
            )
        one_line(error, "--resume s1", "process 7 on elsewhere")

    def test_an_end_while_it_is_waited_for_is_one(self, store: Store) -> None:
        """A driver that just ended its search is not waited for any longer."""
        search = self.driven(store, ELSEWHERE)

        def end(_: str) -> None:
            store.end(search.run_id, "KILLED", 2_000)

        resume.see_nobody_drives(store, search, end, silence_s=30)

    def test_a_search_that_ended_is_nobodys(self, store: Store, said: list[str]) -> None:
        """Whoever drove it, living or not, drives it no more."""
        search = replace(self.driven(store, Driver.this()), status="KILLED")
        resume.see_nobody_drives(store, search, said.append)
        assert said == []

    def test_a_search_without_a_driver_is_nobodys(self, store: Store, said: list[str]) -> None:
        """Where nobody is written, nobody is waited for."""
        resume.see_nobody_drives(store, self.driven(store, None), said.append)
        assert said == []


class TestStateFolder:
    def search(self, state_dir: str) -> LoggedSearch:
        return LoggedSearch("r1", "s1", "FAILED", 1_000, {}, {}, None, "", state_dir)

    def test_it_is_the_former_one_where_a_journal_is(self, tmp_path: Path) -> None:
        """What an earlier start could not send is not left behind."""
        (tmp_path / "r1.journal").touch()
        asked = Path("/elsewhere")
        assert resume.state_folder(self.search(str(tmp_path)), asked) == tmp_path

    @pytest.mark.parametrize("former", ["{tmp}", "{tmp}/gone", "", "{tmp}/plain/below"])
    def test_it_is_the_one_asked_for_where_none_is(self, former: str, tmp_path: Path) -> None:
        """A folder that is empty, or on another machine, has nothing to say."""
        (tmp_path / "plain").touch()
        asked = Path("/elsewhere")
        search = self.search(former.format(tmp=tmp_path))
        assert resume.state_folder(search, asked) == asked


class TestBefore:
    def test_a_search_that_did_nothing_has_done_nothing(self, store: Store) -> None:
        """A search that was killed before its first trial starts with it."""
        parent(store)
        done = resume.before(store, resume.found(store, "s1"))
        assert done == Before(ended=[], in_flight=[], broken_refits=[])

    def test_what_ended_stays_and_the_rest_runs_again(self, store: Store) -> None:
        """Each trial keeps its number, its point and its run; a curve goes on where it was."""
        runs = runs_of(store, parent(store))
        run_ids = {
            "0001": ended(runs, 1, {"x": 1.0}),
            "0002": ended(runs, 2, {"x": 2.0}, "interrupted"),
            "0003": ended(runs, 3, {"x": 3.0}, "failed"),
            "0004": begun(runs, 4, {"x": 4.0}),
            "0005": ended(runs, 5, {"x": 5.0}, "stopped", 8.0),
        }
        runs.progress(run_ids["0002"], Progressed("0002", 0, (9.0, 8.0), 2_000))
        done = resume.before(store, resume.found(store, "s1"))
        assert list(done.ended) == [
            Outcome("0001", {"x": 1.0}, "finished", 7.0, 0, ""),
            Outcome("0003", {"x": 3.0}, "failed", None, None, ""),
            Outcome("0005", {"x": 5.0}, "stopped", 8.0, 0, ""),
        ]
        assert list(done.in_flight) == [Proposal("0002", {"x": 2.0}), Proposal("0004", {"x": 4.0})]
        assert done.run_ids == run_ids
        assert done.rounds == {"0002": 2, "0004": 0}
        assert done.rungs == {"0001": {1: 7.0}, "0003": {1: 7.0}, "0005": {1: 8.0}}
        assert done.past == [
            Past({"x": 1.0}, 7.0, 1),
            Past({"x": 3.0}, None, 3),
            Past({"x": 5.0}, 8.0, 5),
        ]

    def test_a_refit_is_known_and_a_broken_one_too(self, store: Store) -> None:
        """What stands is not made again; what came to no end is."""
        role = {"search.role": "refit", "mlflow.parentRunId": parent(store)}
        whole, broken = (store.create("s1-refit", role, at_ms) for at_ms in (5_000, 6_000))
        store.score(whole, [Score("rmse", 6.5, 5_000)], {"search.version": "3"})
        store.end(whole, "FINISHED", 5_500)
        done = resume.before(store, resume.found(store, "s1"))
        assert done.refit is not None
        assert (done.refit.run_id, done.refit.version) == (whole, "3")
        assert list(done.broken_refits) == [(broken, "RUNNING")]


class TestWarm:
    def settings(self, *names: str) -> Settings:
        return parse(["--warm-start", *names] if names else [])

    def test_without_others_nothing_is_told(self, store: Store, said: list[str]) -> None:
        """A search on its own starts without a past."""
        assert resume.warm(store, self.settings(), SPACE, None, said.append) == []
        assert said == []

    def test_what_fits_is_told_and_counted(self, store: Store, said: list[str]) -> None:
        """Scored trials whose points lie in this space, search by search, without numbers."""
        first, second = (runs_of(store, parent(store, name)) for name in ("s1", "s2"))
        ended(first, 1, {"x": 1.0}, rmse=5.0)
        ended(first, 2, {"x": 11.0})
        ended(first, 3, {"x": 3.0, "y": 1.0})
        ended(first, 4, {"x": 4.0}, "stopped", 6.0)
        ended(first, 5, {"x": 5.0}, "failed")
        ended(first, 6, {"x": 6.0}, "interrupted")
        begun(first, 7, {"x": 7.0})
        ended(second, 1, {"x": 8.0}, rmse=4.0)
        told = resume.warm(store, self.settings("s2", "s1"), SPACE, None, said.append)
        assert told == [Past({"x": 8.0}, 4.0), Past({"x": 1.0}, 5.0), Past({"x": 4.0}, 6.0)]
        assert said == [
            "warm start: 1 of 1 scored trials of 's2'",
            "warm start: 2 of 4 scored trials of 's1'",
        ]

    @pytest.mark.parametrize("count", [0, 3])
    def test_a_search_of_which_none_fits_is_refused(self, count: int, store: Store) -> None:
        """A search that has nothing to tell was named by mistake."""
        runs = runs_of(store, parent(store))
        for number in range(1, count + 1):
            ended(runs, number, {"x": 1.0})
        with pytest.raises(InputError) as error:
            resume.warm(store, self.settings("s1"), SPACE_OF_TWO, None, lambda _: None)
        one_line(error, "--warm-start s1", f"none of its {count} scored trials")

    def test_an_unknown_search_is_refused(self, store: Store) -> None:
        """A name that nobody has is a typing error."""
        with pytest.raises(InputError) as error:
            resume.warm(store, self.settings("nobody"), SPACE, None, lambda _: None)
        one_line(error, "--warm-start nobody", "no search of this name")

    def test_a_search_that_cannot_be_gone_on_with_can_be_started_from(
        self, store: Store, said: list[str]
    ) -> None:
        """Its options are of no interest here."""
        ended(runs_of(store, parent(store, tags={})), 1, {"x": 1.0})
        told = resume.warm(store, self.settings("s1"), SPACE, None, said.append)
        assert told == [Past({"x": 1.0}, 7.0)]

    def test_what_ended_later_is_not_told_on_resume(self, store: Store, said: list[str]) -> None:
        """A search that goes on is told what it was told when it began, and nothing newer."""
        runs = runs_of(store, parent(store))
        for number, at_ms in ((1, 4_999), (2, 5_000), (3, 5_001)):
            ended(runs, number, {"x": float(number)}, at_ms=at_ms)
        told = resume.warm(store, self.settings("s1"), SPACE, 5_000, said.append)
        assert [past.params for past in told] == [{"x": 1.0}, {"x": 2.0}]

    def test_nothing_to_tell_is_no_error_on_resume(self, store: Store, said: list[str]) -> None:
        """A search that has begun goes on, whatever became of what it started from."""
        runs = runs_of(store, parent(store))
        ended(runs, 1, {"x": 1.0}, at_ms=6_000)
        assert resume.warm(store, self.settings("s1"), SPACE, 5_000, said.append) == []
