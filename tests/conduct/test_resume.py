"""Going on with a search: only with the named one, unchanged, and not driven by another process."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hyperopt import hp

from search.conduct import resume
from search.conduct.plan import Plan, planned
from search.conduct.session import Session
from search.errors import InputError
from search.execute.stop_signal import StopSignal
from search.options.command_line import parse
from search.present.progress import Display
from search.record.connection import connect
from search.record.driver import Driver
from search.record.ledger import LoggedSearch
from search.record.run_metadata import RunMetadata
from search.record.store import Store
from search.record.tags import BEAT, DIRECTION, DRIVER, METRIC, OPTIONS
from search.record.trial_runs import SearchRuns, TrialRuns
from search.suggest.space import Space
from search.values.data import DataDescription
from search.values.events import Ended, Started
from search.values.metric import Metric
from search.values.trial import PastTrial

RMSE = Metric("rmse", "minimize", label="RMSE")
SPACE = Space({"x": hp.uniform("x", 0, 10)})
SPACE_OF_TWO = Space({"x": hp.uniform("x", 0, 10), "y": hp.uniform("y", 0, 10)})
ELSEWHERE = Driver(
    host="elsewhere",
    machine="m",
    boot="b",
    processes="pid:[1]",
    pid=7,
    started="99",
    claim="0123456789abcdef",
)
BEGUN_WITH = {OPTIONS: json.dumps({"num_samples": 5})}
NewStore = Callable[[Path], str]


class Recorder(Display):
    """Keeps the messages, and does something whenever there is one."""

    def __init__(self, action: Callable[[], None] = lambda: None) -> None:
        super().__init__(io.StringIO())
        self.messages: list[str] = []
        self._action = action

    def say(self, line: str) -> None:
        self.messages.append(line)
        self._action()


@pytest.fixture
def store(new_store: NewStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    return connect(new_store(tmp_path), "taxis")


@pytest.fixture
def display() -> Recorder:
    return Recorder()


@pytest.fixture
def session(display: Recorder, tmp_path: Path) -> Session:
    return session_with(display, tmp_path)


def session_with(display: Display, folder: Path) -> Session:
    return Session(folder, display, StopSignal())


def write_parent(store: Store, name: str = "s1", tags: Mapping[str, str] = BEGUN_WITH) -> str:
    """Write a search's parent run; return its id."""
    return store.create(name, {"search.role": "search", **tags}, 1_000)


def runs_of(store: Store, parent_run_id: str) -> TrialRuns:
    data = DataDescription("trips", "ab" * 16, {"train": "a.parquet"}, {"rows": 3})
    metadata = RunMetadata(params={}, tags={}, data=data)
    return TrialRuns(store, SearchRuns("s1", parent_run_id, metadata, RMSE.curve))


def write_start(runs: TrialRuns, number: int, params: Mapping[str, Any]) -> str:
    """Write a trial that runs; return its run."""
    return runs.create(Started(f"{number:04d}", params, 1_000 + number))


def write_trial(
    runs: TrialRuns,
    number: int,
    params: Mapping[str, Any],
    status: str = "finished",
    score: float = 7.0,
    at_ms: int = 4_000,
) -> None:
    """Write a trial that has ended."""
    run_id = write_start(runs, number, params)
    has_score = status in ("finished", "stopped")
    metrics = {"rmse": score, "best_iteration": 0.0} if has_score else {}
    event = Ended(f"{number:04d}", status, at_ms, metrics, {"1": score})
    runs.score(run_id, event)
    runs.end(run_id, event)


def logged(params: Mapping[str, str] | None = None, started_ms: int = 1_000) -> LoggedSearch:
    """Return a search as read from its parent run."""
    return LoggedSearch(
        run_id="r",
        name="s1",
        status="FAILED",
        started_ms=started_ms,
        params=params or {},
        options={},
        metric="rmse",
        direction="minimize",
        driver=None,
        beat="",
        state_dir="",
    )


def check_message(error: pytest.ExceptionInfo[InputError], *parts: str) -> None:
    """Check that an error is one line with these parts."""
    message = str(error.value)
    assert "\n" not in message
    assert [part for part in parts if part not in message] == []


class TestNamed:
    def test_search_is_found_by_its_name(self, store: Store) -> None:
        """It comes with the options it was begun with."""
        run_id = write_parent(store)
        write_parent(store, "s2")
        search = resume.named(store, "s1")
        assert (search.run_id, search.options) == (run_id, {"num_samples": 5})

    def test_error_about_an_unknown_name_has_the_newest_names(self, store: Store) -> None:
        """So a user sees a typing error; there are at most five names."""
        for number in range(7):
            role = {"search.role": "search", **BEGUN_WITH}
            store.create(f"search-{number}", role, 1_000 + number)
        with pytest.raises(InputError) as error:
            resume.named(store, "s1")
        check_message(error, "--resume s1", *(f"'search-{number}'" for number in range(2, 7)))
        assert "search-1" not in str(error.value)

    def test_error_about_an_empty_experiment_says_so(self, store: Store) -> None:
        """So a user sees that it is the wrong store or experiment."""
        with pytest.raises(InputError) as error:
            resume.named(store, "s1")
        check_message(error, "--resume s1", "it has none")

    def test_search_without_options_cannot_go_on(self, store: Store) -> None:
        """This program did not begin it; another search may start from it."""
        write_parent(store, tags={})
        with pytest.raises(InputError) as error:
            resume.named(store, "s1")
        check_message(error, "--resume s1", "--warm-start s1")


class TestNameIsFree:
    def test_unused_name_is_free(self, store: Store) -> None:
        write_parent(store, "s2")
        resume.check_name_is_free(store, parse(["--name", "s1"]))

    def test_used_name_is_refused(self, store: Store) -> None:
        """The message has the command that goes on with the search of this name."""
        write_parent(store)
        with pytest.raises(InputError) as error:
            resume.check_name_is_free(store, parse(["--name", "s1"]))
        check_message(error, "--name s1", "python -m search.run --resume s1")


class TestUnchanged:
    @pytest.fixture(scope="class")
    def plan(self) -> Plan:
        return planned(parse(["--trainable", "lasso"]))

    @pytest.fixture
    def metadata(self) -> RunMetadata:
        data = DataDescription("trips", "cd", {"train": "a.parquet"}, {"rows": 3})
        return RunMetadata(params={}, tags={}, data=data)

    def test_search_with_equal_digests_goes_on(self, plan: Plan, metadata: RunMetadata) -> None:
        digests = {"space.digest": plan.task.space.digest, "data.digest": "cd"}
        resume.check_unchanged(logged(digests), plan, metadata)

    def test_another_space_is_refused(self, plan: Plan, metadata: RunMetadata) -> None:
        """The trainable was changed meanwhile, so its trials would not belong together."""
        with pytest.raises(InputError) as error:
            resume.check_unchanged(
                logged({"space.digest": "ab", "data.digest": "cd"}), plan, metadata
            )
        digest = plan.task.space.digest
        check_message(error, "--resume s1", "search space", "ab", digest, "--warm-start s1")

    def test_other_data_is_refused(self, plan: Plan, metadata: RunMetadata) -> None:
        """Scores on other rows cannot be compared."""
        digests = {"space.digest": plan.task.space.digest, "data.digest": "ef"}
        with pytest.raises(InputError) as error:
            resume.check_unchanged(logged(digests), plan, metadata)
        check_message(error, "--resume s1", "its data", "cd", "ef", "--warm-start s1")

    def test_search_without_a_space_digest_is_refused(
        self, plan: Plan, metadata: RunMetadata
    ) -> None:
        """Its space is not known to be equal."""
        with pytest.raises(InputError, match="search space"):
            resume.check_unchanged(logged({"data.digest": "cd"}), plan, metadata)

    def test_search_killed_before_its_description_goes_on(
        self, plan: Plan, metadata: RunMetadata
    ) -> None:
        """The parent run is made first and described next; it has no trials in between."""
        resume.check_unchanged(logged(), plan, metadata)

    def test_task_without_data_goes_on(self, plan: Plan) -> None:
        """Its parent run has no digest of data."""
        metadata = RunMetadata(params={}, tags={}, data=None)
        resume.check_unchanged(logged({"space.digest": plan.task.space.digest}), plan, metadata)

    def test_other_metric_is_refused(self, plan: Plan, metadata: RunMetadata) -> None:
        """Its scores cannot be compared with those of earlier trials."""
        digests = {"space.digest": plan.task.space.digest, "data.digest": "ab"}
        search = replace(logged(digests), metric="roc-auc", direction="maximize")
        with pytest.raises(InputError) as error:
            resume.check_unchanged(search, plan, metadata)
        check_message(error, "--resume s1", "roc-auc (maximize)", "rmse (minimize)")


class TestNotDriven:
    @pytest.fixture(autouse=True)
    def _quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(resume, "LOOK_EVERY_S", 0.02)

    def driven_by(self, store: Store, driver: Driver | None) -> LoggedSearch:
        """Write a search whose parent run names this driver; return it."""
        claim = {DRIVER: driver.written()} if driver else {}
        write_parent(store, tags={BEAT: "1", **BEGUN_WITH, **claim})
        return resume.named(store, "s1")

    def test_running_driver_on_this_machine_is_refused(
        self, store: Store, session: Session, display: Recorder
    ) -> None:
        """Two drivers would run every trial twice. The error has the process, at once."""
        search = self.driven_by(store, Driver.this())
        with pytest.raises(InputError) as error:
            resume.check_not_driven(store, search, session)
        check_message(error, "--resume s1", str(os.getpid()), "stop it")
        assert display.messages == []

    def test_dead_driver_on_this_machine_is_accepted_at_once(
        self, store: Store, session: Session, display: Recorder
    ) -> None:
        """Nobody waits for the heartbeat of a process that is known to be dead."""
        search = self.driven_by(store, replace(Driver.this(), started="1"))
        resume.check_not_driven(store, search, session)
        assert display.messages == []

    def test_driver_elsewhere_without_a_heartbeat_is_accepted(
        self, store: Store, session: Session, display: Recorder
    ) -> None:
        """After a wait, which is announced."""
        search = self.driven_by(store, ELSEWHERE)
        resume.check_not_driven(store, search, session, silence_s=0.1)
        (line,) = display.messages
        assert "process 7 on elsewhere" in line

    @pytest.mark.parametrize(
        "sign",
        [{BEAT: "2"}, {DRIVER: replace(ELSEWHERE, claim="another").written()}],
        ids=["beat", "claim"],
    )
    def test_driver_elsewhere_with_a_heartbeat_is_refused(
        self, sign: Mapping[str, str], store: Store, tmp_path: Path
    ) -> None:
        """A heartbeat, or the claim of another driver, comes during the wait."""
        search = self.driven_by(store, ELSEWHERE)
        beating = Recorder(lambda: store.describe(search.run_id, tags=sign))
        with pytest.raises(InputError) as error:
            resume.check_not_driven(store, search, session_with(beating, tmp_path), silence_s=30)
        check_message(error, "--resume s1", "process 7 on elsewhere")

    def test_end_of_the_search_ends_the_wait(self, store: Store, tmp_path: Path) -> None:
        """Its driver has just ended it."""
        search = self.driven_by(store, ELSEWHERE)
        ending = Recorder(lambda: store.end(search.run_id, "KILLED", 2_000))
        resume.check_not_driven(store, search, session_with(ending, tmp_path), silence_s=30)

    def test_search_that_has_ended_is_not_driven(
        self, store: Store, session: Session, display: Recorder
    ) -> None:
        """Even if its driver runs."""
        search = replace(self.driven_by(store, Driver.this()), status="KILLED")
        resume.check_not_driven(store, search, session)
        assert display.messages == []

    def test_search_without_a_driver_is_not_driven(
        self, store: Store, session: Session, display: Recorder
    ) -> None:
        """Nobody is waited for."""
        resume.check_not_driven(store, self.driven_by(store, None), session)
        assert display.messages == []


def plan_with(*names: str, space: Space = SPACE, metric: Metric = RMSE) -> Plan:
    """Return a plan that starts from these searches."""
    task: Any = SimpleNamespace(space=space, metric=metric)
    settings = parse(["--warm-start", *names] if names else [])
    return Plan(settings=settings, task=task, rungs=(), first=())


class TestOtherSearches:
    """The trials of the searches that ``--warm-start`` names."""

    def test_without_other_searches_there_are_no_past_trials(
        self, store: Store, session: Session, display: Recorder
    ) -> None:
        assert resume.other_searches(store, plan_with(), None, session) == []
        assert display.messages == []

    def test_scored_trials_in_the_space_are_used_and_counted(
        self, store: Store, session: Session, display: Recorder
    ) -> None:
        """Search by search, without numbers."""
        first, second = (runs_of(store, write_parent(store, name)) for name in ("s1", "s2"))
        write_trial(first, 1, {"x": 1.0}, score=5.0)
        write_trial(first, 2, {"x": 11.0})
        write_trial(first, 3, {"x": 3.0, "y": 1.0})
        write_trial(first, 4, {"x": 4.0}, "stopped", 6.0)
        write_trial(first, 5, {"x": 5.0}, "failed")
        write_trial(first, 6, {"x": 6.0}, "interrupted")
        write_start(first, 7, {"x": 7.0})
        write_trial(second, 1, {"x": 8.0}, score=4.0)
        past = resume.other_searches(store, plan_with("s2", "s1"), None, session)
        assert past == [
            PastTrial({"x": 8.0}, 4.0),
            PastTrial({"x": 1.0}, 5.0),
            PastTrial({"x": 4.0}, 6.0),
        ]
        assert display.messages == [
            "warm start: 1 of 1 scored trials of 's2'",
            "warm start: 2 of 4 scored trials of 's1'",
        ]

    @pytest.mark.parametrize("count", [0, 3])
    def test_search_without_a_trial_in_the_space_is_refused(
        self, count: int, store: Store, session: Session
    ) -> None:
        """It was named by mistake."""
        runs = runs_of(store, write_parent(store))
        for number in range(1, count + 1):
            write_trial(runs, number, {"x": 1.0})
        with pytest.raises(InputError) as error:
            resume.other_searches(store, plan_with("s1", space=SPACE_OF_TWO), None, session)
        check_message(error, "--warm-start s1", f"none of its {count} scored trials")

    def test_unknown_search_is_refused(self, store: Store, session: Session) -> None:
        """Its name is a typing error."""
        with pytest.raises(InputError) as error:
            resume.other_searches(store, plan_with("nobody"), None, session)
        check_message(error, "--warm-start nobody", "no search of this name")

    def test_search_with_another_metric_is_refused(self, store: Store, session: Session) -> None:
        """Its scores say nothing about this search's."""
        tags = {**BEGUN_WITH, METRIC: "rmse", DIRECTION: "minimize"}
        write_trial(runs_of(store, write_parent(store, tags=tags)), 1, {"x": 1.0})
        plan = plan_with("s1", metric=Metric("roc-auc", "maximize"))
        with pytest.raises(InputError) as error:
            resume.other_searches(store, plan, None, session)
        check_message(error, "--warm-start s1", "rmse (minimize)", "roc-auc (maximize)")

    @pytest.mark.parametrize(
        "tags",
        [{METRIC: "rmse", DIRECTION: "minimize"}, {}],
        ids=["equal metric", "no metric"],
    )
    def test_search_without_options_can_be_started_from(
        self, tags: Mapping[str, str], store: Store, session: Session
    ) -> None:
        """They are not needed. A search of an earlier version does not name its metric."""
        write_trial(runs_of(store, write_parent(store, tags=tags)), 1, {"x": 1.0})
        past = resume.other_searches(store, plan_with("s1"), None, session)
        assert past == [PastTrial({"x": 1.0}, 7.0)]

    def test_search_that_goes_on_gets_no_later_trials(self, store: Store, session: Session) -> None:
        """It learns from the trials that had ended when it began, as then."""
        runs = runs_of(store, write_parent(store))
        for number, at_ms in ((1, 4_999), (2, 5_000), (3, 5_001)):
            write_trial(runs, number, {"x": float(number)}, at_ms=at_ms)
        search = logged(started_ms=5_000)
        past = resume.other_searches(store, plan_with("s1"), search, session)
        assert [trial.params for trial in past] == [{"x": 1.0}, {"x": 2.0}]

    def test_search_that_goes_on_needs_no_trials(self, store: Store, session: Session) -> None:
        """It goes on whatever became of the search that it started from."""
        runs = runs_of(store, write_parent(store))
        write_trial(runs, 1, {"x": 1.0}, at_ms=6_000)
        search = logged(started_ms=5_000)
        assert resume.other_searches(store, plan_with("s1"), search, session) == []
