"""The parent run of a search: made or taken over, kept alive, ended with its true status."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException

from search.errors import InputError, SearchError, TakenOver
from search.record import provenance
from search.record.driver import Driver, Heartbeat
from search.record.journal import Journal
from search.record.ledger import LoggedSearch
from search.record.run_metadata import RunMetadata
from search.record.store import Deferred, Store, now_ms
from search.record.store_errors import Unwritable, is_outage, refusal
from search.record.tags import (
    BEAT,
    DIRECTION,
    DRIVER,
    METRIC,
    OPTIONS,
    ROLE,
    STATE_DIR,
    TASK,
    long_tag,
)
from search.values.metric import Metric


@dataclass(frozen=True)
class SearchDescription:
    """What the parent run says of a search."""

    name: str
    task: str  # the kind of task
    metric: Metric
    options: Mapping[str, Any]  # what the command was given, as JSON has it
    params: Mapping[str, Any]
    metadata: RunMetadata
    state_dir: Path
    files: Mapping[str, str] = field(default_factory=dict)  # texts to keep, by artifact path


@dataclass(frozen=True)
class Drive:
    """A search that this process drives."""

    run_id: str  # of the parent run
    journal: Journal


@dataclass(frozen=True)
class ParentRun:
    """Makes or takes over the parent run.

    Signals are deferred while ``deferred`` is entered.
    """

    store: Store
    description: SearchDescription
    deferred: Callable[[], Deferred]

    @contextlib.contextmanager
    def driven(
        self, search: LoggedSearch | None, fail: Callable[[SearchError], None]
    ) -> Iterator[Drive]:
        """Make the run, or take over that of ``search``; yield it, driven by this process.

        ``fail`` is called if another driver takes over.

        :raises InputError: another process drives the search, or the store refuses the run.
        """
        store, driver = self.store, Driver.this()
        claim = {DRIVER: driver.written(), BEAT: str(now_ms())}
        claim |= long_tag(OPTIONS, json.dumps(self.description.options))
        opened = self._begun(claim) if search is None else self._taken_over(search, claim)
        with opened as drive:

            def beat() -> str:
                tags = store.tags(drive.run_id)
                store.describe(drive.run_id, tags={BEAT: str(now_ms())})
                return tags.get(DRIVER, "")

            def lost(other: Driver) -> None:
                name = self.description.name
                fail(TakenOver(f"{other} has taken over the search {name!r}"))

            with Heartbeat(driver, beat, lost):
                self._describe(drive.run_id)
                yield drive

    @contextlib.contextmanager
    def _begun(self, claim: Mapping[str, str]) -> Iterator[Drive]:
        description = self.description
        tags = {
            **description.metadata.tags,
            **provenance.machine(),
            **claim,
            STATE_DIR: str(description.state_dir),
            ROLE: "search",
            TASK: description.task,
            METRIC: description.metric.name,
            DIRECTION: description.metric.direction,
        }
        with contextlib.ExitStack() as stack:
            with self.deferred():
                run_id = self._created(tags)
                stack.enter_context(self.store.closing(run_id, self.deferred))
            file = journal_file(description.state_dir, run_id)
            yield Drive(run_id, stack.enter_context(Journal(file)))

    @contextlib.contextmanager
    def _taken_over(self, search: LoggedSearch, claim: Mapping[str, str]) -> Iterator[Drive]:
        description = self.description
        state_dir = state_dir_of(search, description.state_dir)
        with contextlib.ExitStack() as stack:
            journal = stack.enter_context(Journal(journal_file(state_dir, search.run_id)))
            tags = {**claim, **description.metadata.tags, STATE_DIR: str(state_dir)}
            self.store.describe(search.run_id, tags=tags)
            with self.deferred():
                self.store.reopen(search.run_id)
                stack.enter_context(self.store.closing(search.run_id, self.deferred))
            yield Drive(search.run_id, journal)

    def _created(self, tags: Mapping[str, str]) -> str:
        """Make the run; a server that allows reading but not writing says so here."""
        try:
            return self.store.create(self.description.name, tags, now_ms())
        except MlflowException as error:
            if is_outage(error):
                raise
            raise refusal(self.store.uri, error) from error

    def _describe(self, run_id: str) -> None:
        metadata, params = self.description.metadata, self.description.params
        self.store.describe(run_id, {**metadata.params, **params}, data=metadata.data)
        files = {
            "environment/requirements.txt": provenance.requirements(),
            **self.description.files,
        }
        try:
            for path, text in files.items():
                self.store.write_text(run_id, text, path)
        except Unwritable as error:
            cause = error.__cause__
            if isinstance(cause, MlflowException) and is_outage(cause):
                raise SearchError(str(error)) from error  # the server has gone meanwhile
            raise InputError(
                f"{error}; see that the tracking store's artifact folder can be written from here"
            ) from error


def journal_file(state_dir: Path, parent_run_id: str) -> Path:
    """Return where the journal of a search is."""
    return state_dir / f"{parent_run_id}.journal"


def state_dir_of(search: LoggedSearch, default: Path) -> Path:
    """Return the state directory that holds the search's journal, if it can be read from here."""
    former = Path(search.state_dir)
    with contextlib.suppress(OSError):  # another user's
        if search.state_dir and journal_file(former, search.run_id).is_file():
            return former
    return default
