"""The parent run of a search: made or taken over, kept alive, ended with what really happened."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from mlflow.exceptions import MlflowException

from search import provenance, resume
from search.driver import Driver, Heartbeat
from search.errors import InputError, Interrupted, SearchError, TakenOver
from search.facts import Facts
from search.journal import Journal
from search.ledger import Ledger, LoggedSearch
from search.plan import Plan
from search.settings import Settings
from search.stopping import Stop
from search.store import (
    BEAT,
    DRIVER,
    OPTIONS,
    ROLE,
    STATE_DIR,
    Store,
    Unwritable,
    first_line,
    is_outage,
    long_tag,
    now_ms,
    refusal,
)


def see_name_is_free(store: Store, settings: Settings) -> None:
    """See that the experiment has no search of this name.

    :raises InputError: it has one.
    """
    if Ledger(store).search(settings.name) is not None:
        raise InputError(
            f"--name {settings.name}: the experiment {settings.experiment_name!r} has a search of "
            "this name; take another, leave --name out for one made up, or go on with that one: "
            f"{settings.resume_command}"
        )


@contextlib.contextmanager
def driven(
    store: Store, plan: Plan, said: Facts, search: LoggedSearch | None, stop: Stop
) -> Iterator[tuple[str, Journal]]:
    """Make the parent run, or take over that of ``search``; yield its id and its journal.

    :raises InputError: the name is taken, or another process drives the search.
    :raises SearchError: the server does not take what must be kept.
    :raises Interrupted: a signal came.
    """
    settings = plan.settings
    driver = Driver.this()
    claim = {DRIVER: driver.written(), BEAT: str(now_ms()), STATE_DIR: str(settings.state_dir)}
    claim |= long_tag(OPTIONS, json.dumps(settings.kept))
    with _said_how_to_go_on(settings), contextlib.ExitStack() as stack:
        if search is None:
            see_name_is_free(store, settings)
            tags = {**said.tags, **provenance.machine(), **claim, ROLE: "search"}
            with stop.unbroken():
                run_id = _created(store, settings.name, tags)
                stack.enter_context(store.closing(run_id, stop.unbroken))
            journal = stack.enter_context(Journal(_journal(settings.state_dir, run_id)))
        else:
            run_id = search.run_id
            former = resume.state_folder(search, settings.state_dir)
            journal = stack.enter_context(Journal(_journal(former, run_id)))
            store.describe(run_id, tags={**claim, **said.tags, STATE_DIR: str(former)})
            with stop.unbroken():
                store.reopen(run_id)
                stack.enter_context(store.closing(run_id, stop.unbroken))

        def beat() -> str:
            tags = store.tags(run_id)
            store.describe(run_id, tags={BEAT: str(now_ms())})
            return tags.get(DRIVER, "")

        def lost(other: Driver) -> None:
            stop.fail(TakenOver(f"{other} has taken over the search {settings.name!r}"))

        stack.enter_context(Heartbeat(driver, beat, lost))
        _describe(store, run_id, plan, said)
        yield run_id, journal


def _created(store: Store, name: str, tags: Mapping[str, str]) -> str:
    """Make the parent run; a server that lets us read but not write says so here."""
    try:
        return store.create(name, tags, now_ms())
    except MlflowException as error:
        if is_outage(error):
            raise
        raise refusal(store.uri, error) from error


def _journal(state_dir: Path, run_id: str) -> Path:
    return resume.journal_file(state_dir, run_id)


def _describe(store: Store, run_id: str, plan: Plan, said: Facts) -> None:
    digest = {"data.digest": said.data.digest}
    store.describe(run_id, {**said.params, **plan.options(), **digest}, data=said.data)
    try:
        store.write_text(run_id, provenance.requirements(), "environment/requirements.txt")
    except Unwritable as error:
        raise InputError(
            f"{error}; see that the tracking store's artifact folder can be written from here"
        ) from error


@contextlib.contextmanager
def _said_how_to_go_on(settings: Settings) -> Iterator[None]:
    """Give what ends a search early the words for the user."""
    go_on = f"go on with: {settings.resume_command}"
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted: what has ended is kept; {go_on}") from None
    except Interrupted as error:
        raise Interrupted(f"{error}; {go_on}") from error
    except (InputError, TakenOver):
        raise
    except MlflowException as error:
        raise SearchError(f"the tracking server: {first_line(error)}; {go_on}") from error
    except SearchError as error:
        raise SearchError(f"{error}; {go_on}") from error
