"""Resuming a search, and starting from the trials of others: what is allowed, and what is read."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mlflow.exceptions import MlflowException

from search.conduct.plan import Plan
from search.conduct.session import Session
from search.errors import InputError
from search.options.command_line import resumed
from search.options.settings import Settings
from search.record import database, prior_work
from search.record.connection import CONNECT_TIMEOUT_S, answers, connect, within
from search.record.driver import SILENCE_S
from search.record.ledger import Ledger, LoggedSearch, experiments_with
from search.record.prior_work import PriorWork
from search.record.run_metadata import RunMetadata
from search.record.search_run import Drive
from search.record.store import Store
from search.record.store_errors import refusal
from search.record.tags import CODE_DIGEST, DATA_DIGEST, SPACE_DIGEST
from search.record.trial_runs import TrialRuns
from search.record.writer import Hooks, Writer
from search.suggest.space import SearchSpace
from search.values.metric import Metric
from search.values.trial import Outcome, PastTrial

READ_BACK_S = 15.0  # for a tracking server that is away when it is asked first
LOOK_EVERY_S = 2.0  # for a heartbeat


@dataclass(frozen=True)
class Location:
    """Where a search is recorded."""

    store: Store
    search: LoggedSearch | None  # None: it is new
    experiment_name: str | None = None  # found by the search's name; None: the one asked for


@dataclass(frozen=True)
class Known:
    """What is known before the first trial of this start."""

    prior: PriorWork
    others: Sequence[PastTrial]  # of the searches that it starts from


def find(asked: Settings) -> Location:
    """Find the search that ``--resume`` names.

    :raises InputError: the store cannot be reached, or has no such search.
    """
    tracking, found = asked.tracking, _found_experiment(asked)
    store = connect(tracking.uri, found or tracking.experiment_name, create=False)
    patient = store.patient(lambda _: None, READ_BACK_S)
    search = within(CONNECT_TIMEOUT_S, lambda: named(patient, asked.name), tracking.uri)
    return Location(store, search, found)


def _found_experiment(asked: Settings) -> str | None:
    """Look for the search's name in the whole store; None: where the options say, or nowhere.

    :raises InputError: two experiments have it.
    """
    uri = asked.tracking.uri
    if "experiment_name" in asked.given or not answers(uri):
        return None
    found = within(CONNECT_TIMEOUT_S, lambda: experiments_with(uri, asked.name), uri)
    if len(found) > 1:
        raise InputError(
            f"--resume {asked.name}: the experiments {' and '.join(map(repr, found))} have such a "
            "search; say which with --experiment-name"
        )
    return next((name for name in found if name != asked.tracking.experiment_name), None)


def reach_new(settings: Settings) -> Location:
    """Reach the store of a new search, and check that its name is free.

    :raises InputError: the store cannot be reached, or the name is taken.
    """
    tracking = settings.tracking
    store = connect(tracking.uri, tracking.experiment_name)
    patient = store.patient(lambda _: None, READ_BACK_S)
    within(CONNECT_TIMEOUT_S, lambda: check_name_is_free(patient, settings), tracking.uri)
    return Location(store, None)


def settings_of(location: Location | None, asked: Settings) -> Settings:
    """Return what was asked for; of a search that goes on, what it was begun with.

    :raises InputError: something is asked for that is not what it was.
    """
    if location is None or location.search is None:
        return asked
    if location.experiment_name is not None:
        given = {**asked.given, "experiment_name": location.experiment_name}
        asked = dataclasses.replace(asked, given=given)
    return resumed(asked, location.search.options or {})


def named(store: Store, name: str) -> LoggedSearch:
    """Return the search of this name.

    :raises InputError: there is none, or it cannot be resumed.
    """
    ledger = Ledger(store)
    search = ledger.search(name)
    if search is None:
        names = ", ".join(repr(each) for each in ledger.names()[:5]) or "none"
        raise InputError(
            f"--resume {name}: the experiment has no search of this name; it has {names}"
        )
    if search.options is None:
        raise InputError(
            f"--resume {name}: its parent run does not hold the options it was started with; "
            f"start a new search with --warm-start {name}"
        )
    return search


def check_name_is_free(store: Store, settings: Settings) -> None:
    """Check that the experiment has no search of this name.

    :raises InputError: it has one.
    """
    if Ledger(store).search(settings.name) is not None:
        raise InputError(
            f"--name {settings.name}: the experiment {settings.tracking.experiment_name!r} has a "
            "search of this name; take another, leave --name out for one made up, or go on with "
            f"that one: {settings.resume_command}"
        )


def known(location: Location, plan: Plan, metadata: RunMetadata, session: Session) -> Known:
    """Read what the search has done before, and the trials of the searches it starts from.

    :raises InputError: it cannot go on, or the store refuses.
    """
    store = location.store.patient(session.say, READ_BACK_S)
    if note := database.note(store.uri):
        session.say(note)
    try:
        others = other_searches(store, plan, location.search, session)
        if location.search is None:
            return Known(PriorWork(), others)
        return Known(_prior(store, location.search, plan, metadata, session), others)
    except MlflowException as error:
        raise refusal(store.uri, error) from error


def _prior(
    store: Store, search: LoggedSearch, plan: Plan, metadata: RunMetadata, session: Session
) -> PriorWork:
    check_unchanged(search, plan, metadata)
    check_not_driven(store, search, session)
    prior = prior_work.read(store, search, plan.task.metric)
    ended, wanted = len(prior.ended), plan.settings.num_samples
    if ended > plan.wanted:
        raise InputError(
            f"--num-samples {wanted}: {ended} trials of the search {search.name!r} have ended; "
            f"give {ended} or more"
        )
    session.say(f"going on with {search.name!r}: {ended} of {plan.wanted} trials have ended")
    return prior


def check_unchanged(search: LoggedSearch, plan: Plan, metadata: RunMetadata) -> None:
    """Check that what is searched, and on which rows, is what it was.

    :raises InputError: it is not.
    """
    if not search.params:
        return  # it was killed before its first trial, so nothing can differ
    metric = plan.task.metric
    if not search.is_scored_by(metric):
        raise InputError(
            f"--resume {search.name}: its metric is {search.metric} ({search.direction}), not "
            f"{metric.name} ({metric.direction}); start a new search"
        )
    digest = "" if metadata.data is None else metadata.data.digest
    pairs = (
        (SPACE_DIGEST, plan.task.space.digest, "its search space"),
        (DATA_DIGEST, digest, "its data"),
    )
    for name, now, what in pairs:
        if (before := search.params.get(name, "")) != now:
            raise InputError(
                f"--resume {search.name}: {what} has changed ({name} is {now}, was {before}); "
                f"start a new search, with --warm-start {search.name} if it may help"
            )
    code = metadata.tags.get(CODE_DIGEST, "")
    if search.code_digest != code and not plan.settings.task.get("changed_objective"):
        raise InputError(
            f"--resume {search.name}: the code of its objective has changed (digest {code}, was "
            f"{search.code_digest}), so old scores may not compare with new ones; go on all the "
            "same with --changed-objective, or start a new search"
        )


def check_not_driven(
    store: Store, search: LoggedSearch, session: Session, silence_s: float = SILENCE_S
) -> None:
    """Check that no other process drives the search; if it cannot be seen, wait for a heartbeat.

    :raises InputError: one does.
    """
    driver = search.driver
    if search.status != "RUNNING" or driver is None:
        return
    is_alive = driver.is_alive()
    if is_alive is None:
        session.say(
            f"{driver} drove the search {search.name!r}: waiting {silence_s:.0f} s for a heartbeat"
        )
        is_alive = _beats(store, search, silence_s)
    if is_alive:
        raise InputError(
            f"--resume {search.name}: {driver} drives the search; wait for its end, or stop it"
        )


def other_searches(
    store: Store, plan: Plan, search: LoggedSearch | None, session: Session
) -> list[PastTrial]:
    """Return the scored trials of the searches that ``--warm-start`` names, if they fit this space.

    A search that goes on is not told of what ended after it began: it was not told then either.

    :raises InputError: there is no such search, or none of its trials fits.
    """
    ledger, metric = Ledger(store), plan.task.metric
    started_ms = None if search is None else search.started_ms
    past: list[PastTrial] = []
    for name in plan.settings.warm_start:
        other = ledger.search(name)
        if other is None:
            raise InputError(f"--warm-start {name}: the experiment has no search of this name")
        _check_metric(other, metric)
        scored = [
            trial.outcome
            for trial in ledger.trials(other, metric)
            if trial.outcome.score is not None
            and (started_ms is None or trial.ended_ms <= started_ms)
        ]
        fitting = list(_fitting(scored, plan.task.space))
        if not fitting and started_ms is None:
            raise InputError(
                f"--warm-start {name}: none of its {len(scored)} scored trials lies in the search "
                "space; leave it out"
            )
        session.say(f"warm start: {len(fitting)} of {len(scored)} scored trials of {name!r}")
        past += [PastTrial(dict(each.params), each.score) for each in fitting]
    return past


def catch_up(
    runs: TrialRuns, drive: Drive, search: LoggedSearch, metric: Metric, session: Session
) -> PriorWork:
    """Send what an earlier start could not, then read what the search has done."""
    journal, stop = drive.journal, session.stop
    if journal.damaged:
        session.say(f"warning: {journal.damaged} lines of the journal are damaged and left out")
    over = {t.outcome.trial_id for t in Ledger(runs.store).trials(search, metric) if t.is_over}
    for number, event in list(journal.waiting.items()):
        if event.trial_id in over:  # also if it went on on another machine meanwhile
            journal.acknowledge(number)
    if journal.waiting:
        count = len(journal.waiting)
        session.say(f"sending {count} events that an earlier start could not send")
        hooks = Hooks(say=session.say, interrupted=lambda: stop.interrupted)
        with Writer(lambda name, *args: getattr(runs, name)(*args), journal, hooks=hooks):
            pass
    prior_work.end_open_runs(runs.store, search)
    prior = prior_work.read(runs.store, search, metric)
    runs.remove_doubles(prior.run_ids)
    return prior


def _check_metric(other: LoggedSearch, metric: Metric) -> None:
    if not other.is_scored_by(metric):
        raise InputError(
            f"--warm-start {other.name}: its metric is {other.metric} ({other.direction}), this "
            f"search's is {metric.name} ({metric.direction}); leave it out"
        )


def _fitting(outcomes: Sequence[Outcome], space: SearchSpace) -> Iterator[Outcome]:
    for outcome in outcomes:
        with contextlib.suppress(InputError):
            space.labels_of(dict(outcome.params))
            yield outcome


def _beats(store: Store, search: LoggedSearch, silence_s: float) -> bool:
    """Tell whether the driver gives a heartbeat."""
    give_up_at = time.monotonic() + silence_s
    while time.monotonic() < give_up_at:
        time.sleep(LOOK_EVERY_S)
        now = Ledger(store).search(search.name)
        if now is None or now.status != "RUNNING":
            return False
        if now.beat != search.beat or now.driver != search.driver:
            return True
    return False
