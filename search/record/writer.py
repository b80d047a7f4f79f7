"""A thread that sends events to MLflow, beside Tune's loop.

An event is written to the journal first, and acknowledged there once the server has it. Sending
one twice changes nothing, so a server that was away gets later what it missed, from this process or
from the next one that goes on with the search.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException

from search.errors import Interrupted, SearchError
from search.record.journal import Journal
from search.record.logged_folder import remove
from search.record.request_retries import RETRY_AFTER_S
from search.record.store_errors import Unwritable, first_line, is_outage
from search.values.events import Ended, Event, Progressed, Started

DRAIN_S = 120.0  # at the end of a search, for a server that does not answer
HURRIED_S = 5.0  # the same, if the user does not want to wait
ARTIFACT_TRIES = 4  # the last one writes a tag, which needs no artifact store

Ask = Callable[..., Any]  # (name of a method of TrialRuns, *its arguments)


@dataclass(frozen=True)
class Hooks:
    """What a writer tells the search, and what it asks."""

    say: Callable[[str], None] = field(default=lambda _: None)
    fail: Callable[[SearchError], None] = field(default=lambda _: None)  # going on is pointless
    interrupted: Callable[[], bool] = field(default=lambda: False)  # wait for no absent server
    hurried: Callable[[], bool] = field(default=lambda: False)  # wait for no server at all
    abandoned: Callable[[], bool] = field(default=lambda: False)  # the runs are another driver's


class Writer:
    """Sends events in order, and waits for a server that is away."""

    def __init__(
        self,
        ask: Ask,
        journal: Journal,
        *,
        known: Mapping[str, str] | None = None,
        hooks: Hooks | None = None,
    ) -> None:
        """Send what ``journal`` still holds, then what is put.

        ``ask`` calls a method of the search's TrialRuns, maybe in another process. ``known``: the
        runs that exist, by trial.
        """
        self._ask, self._journal = ask, journal
        self._hooks = hooks or Hooks()
        self.run_ids: dict[str, str] = dict(known or {})  # trial id -> run id
        self.doubtful: set[str] = set()  # trials whose run may have been made twice
        self._refused: set[str] = set()  # trials of which an event was refused; said once each
        self._events: queue.SimpleQueue[tuple[int, Event] | None] = queue.SimpleQueue()
        self._replayed = {event.trial_id for event in journal.waiting.values()}
        self._put = self._taken = 0
        self._obstacle: Exception | None = None  # why the server does not take the next event
        self._closing = threading.Event()
        self._give_up_at: float | None = None  # monotonic seconds; set at the end
        for number, event in journal.waiting.items():
            self._events.put((number, event))
            self._put += 1
        self._thread = threading.Thread(target=self._send_all, name="writer", daemon=True)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Send what is left; wait for a server that is away, up to :data:`DRAIN_S`.

        :raises SearchError: the server did not take all of it; the journal holds the rest.
        :raises Interrupted: the same, if the user has ended the search.
        """
        self._give_up_at = time.monotonic() + DRAIN_S
        self._events.put(None)
        self._closing.set()
        hooks = self._hooks
        while self._thread.is_alive():
            if hooks.hurried():
                self._give_up_at = min(self._give_up_at, time.monotonic() + HURRIED_S)
                self._thread.join(HURRIED_S)
                break
            if hooks.interrupted() and self._obstacle is not None:
                self._give_up_at = min(self._give_up_at, time.monotonic() + HURRIED_S)
            self._thread.join(0.1)
        if self.waiting and not hooks.abandoned():
            reason = (
                first_line(self._obstacle) if self._obstacle else "the search did not wait for it"
            )
            kind = Interrupted if hooks.interrupted() or hooks.hurried() else SearchError
            raise kind(
                f"{self.waiting} events of the trials are not in the tracking store yet ({reason})"
            ) from self._obstacle

    @property
    def waiting(self) -> int:
        """How many events the server has not taken yet."""
        return self._put - self._taken

    @property
    def obstacle(self) -> str:
        """Why they wait; empty while they are being taken."""
        error = self._obstacle
        return "" if error is None else first_line(error)

    def put(self, event: Event) -> None:
        """Write an event to the journal, to be sent; never waits for the server."""
        try:
            number = self._journal.append(event)
        except OSError as error:
            number = 0  # in no journal; it is sent all the same
            self._hooks.fail(SearchError(f"the journal cannot be written: {error.strerror}"))
        self._put += 1
        self._events.put((number, event))

    def _send_all(self) -> None:
        while (item := self._events.get()) is not None:
            number, event = item
            self._journal.sync(number)
            if not self._send_until_taken(event):
                return
            self._obstacle = None
            if number:
                self._journal.acknowledge(number)
            if isinstance(event, Ended) and event.logged:
                remove(Path(event.logged))
            self._taken += 1

    def _send_until_taken(self, event: Event) -> bool:
        attempt = unwritten = 0
        while not self._hooks.abandoned():
            try:
                self._send(event, again=attempt > 0, last_try=unwritten + 1 >= ARTIFACT_TRIES)
            except Unwritable as error:
                unwritten += 1  # all else of the event was taken
                failure: Exception = error
            except Exception as error:  # noqa: BLE001 - whatever a server may answer
                if self._is_about_this_run(error, event):
                    self._drop(event, error)
                    return True
                failure = error
            else:
                return True
            self._obstacle = failure
            if not isinstance(failure, Unwritable) and self._must_give_up(failure):
                return False
            wait_s = RETRY_AFTER_S[min(attempt, len(RETRY_AFTER_S) - 1)]
            attempt += 1
            if self._closing.is_set():
                time.sleep(min(wait_s, 1.0))
            else:
                self._closing.wait(wait_s)
        return False

    def _send(self, event: Event, *, again: bool, last_try: bool) -> None:
        match event:
            case Started():
                self._start(event, again=again)
            case Progressed():
                self._ask("progress", self._run_of(event), event)
            case Ended():
                run_id = self._run_of(event)
                self._ask("score", run_id, event)
                if event.status == "failed":
                    self._ask("keep_traceback", run_id, event, last_try)
                if event.logged:
                    self._keep_logged(run_id, event, last_try)
                self._ask("end", run_id, event)
                if event.supersedes:
                    self._replace_models(event.supersedes, run_id)

    def _keep_logged(self, run_id: str, event: Ended, last_try: bool) -> None:
        """Write what the trial logged, and say what is not kept."""
        lost = self._ask("keep_logged", run_id, event.logged, event.keep_models, last_try)
        for reason in lost:
            self._hooks.say(f"warning: trial {event.trial_id}: {reason}")

    def _replace_models(self, former_trial: str, run_id: str) -> None:
        """Remove the models of a trial, if those of a better one's run are in the store."""
        former = self.run_ids.get(former_trial) or self._ask("find", former_trial)
        if former is not None and self._ask("has_models", run_id):  # None: it was deleted
            self._ask("drop_models", former)

    def _start(self, event: Started, *, again: bool) -> None:
        """Make the trial's run, or reopen the one that it has."""
        if event.trial_id not in self.run_ids and (again or event.trial_id in self._replayed):
            # the answer may have been lost after the run was made, or it may still be made
            self.doubtful.add(event.trial_id)
            found = self._ask("find", event.trial_id)
            self.run_ids |= {} if found is None else {event.trial_id: found}
        if (run_id := self.run_ids.get(event.trial_id)) is not None:
            self._ask("reopen", run_id)
        else:
            run_id = self.run_ids[event.trial_id] = self._ask("create", event)
        self._ask("describe", run_id, event)

    def _run_of(self, event: Event) -> str:
        if event.trial_id not in self.run_ids:
            found = self._ask("find", event.trial_id)
            if found is None:
                raise _NoRun(f"trial {event.trial_id} has no run")
            self.run_ids[event.trial_id] = found
        return self.run_ids[event.trial_id]

    def _is_about_this_run(self, error: Exception, event: Event) -> bool:
        """Tell whether the server refuses this event and no other."""
        if isinstance(error, _NoRun):
            return True
        refused = isinstance(error, MlflowException) and not is_outage(error)
        return (
            refused
            and event.trial_id in self.run_ids
            and getattr(error, "error_code", "")
            in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST")
        )

    def _drop(self, event: Event, error: Exception) -> None:
        if event.trial_id not in self._refused:
            self._refused.add(event.trial_id)
            self._hooks.say(
                f"warning: trial {event.trial_id}: the tracking store does not take what its run "
                f"should hold ({first_line(error)}); the search goes on without it"
            )

    def _must_give_up(self, error: Exception) -> bool:
        if self._give_up_at is None:
            return False
        return not is_outage(error) or time.monotonic() > self._give_up_at


class _NoRun(Exception):
    """A trial has no run, and none can be made from what is known."""
