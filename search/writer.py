"""From notes to runs in MLflow, on a thread beside Tune's loop.

A note goes to the journal first and is crossed off when the server has it. Sending one twice
changes nothing, so a server that was away is told later what it missed, by this process or by
the next one that goes on with the search.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mlflow.exceptions import MlflowException

from search.errors import Interrupted, SearchError
from search.journal import Journal
from search.ledger import Ledger
from search.notes import Ended, Note, Progressed, Started
from search.store import (
    CURVE,
    PARENT,
    POINT,
    RETRY_AFTER_S,
    ROLE,
    RUN_STATUS,
    RUNGS,
    STATUS,
    TRIAL_ID,
    Data,
    Score,
    Store,
    Unwritable,
    first_line,
    is_outage,
    long_tag,
)

DRAIN_S = 120.0  # at the end of a search, for a server that does not answer
HURRIED_S = 5.0  # the same, when the user does not want to wait
TRACEBACK_TRIES = 3  # then it becomes a tag, which needs no artifact store
LONGEST_TRACEBACK_TAG = 5_000  # characters, of its end


@dataclass(frozen=True)
class TrialRuns:
    """How a trial's notes become its run: what all trials of the search share."""

    store: Store
    search: str  # the search's name
    parent_run_id: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    data: Data

    def written(self) -> tuple[Any, ...]:
        """Return what makes the same of it in another process: the store's parts come first."""
        store = (self.store.uri, self.store.experiment_id)
        return (*store, self.search, self.parent_run_id, self.params, self.tags, self.data)

    def reopen(self, run_id: str) -> None:
        """Have a run that ended run on."""
        self.store.reopen(run_id)

    def find(self, trial_id: str) -> str | None:
        """Return the run of a trial, if there is one."""
        return Ledger(self.store).trial_run(self.parent_run_id, trial_id)

    def remove_doubles(self, run_ids: Mapping[str, str]) -> None:
        """Delete the runs of these trials that are not the ones named here.

        A server that makes a run after its client gave up waiting makes it a second time.
        """
        for trial_id, run_id in Ledger(self.store).trial_runs(self.parent_run_id):
            if run_ids.get(trial_id, run_id) != run_id:
                self.store.delete(run_id)

    def create(self, note: Started) -> str:
        """Create the trial's run, named by the trial's id in the creating call."""
        named = {PARENT: self.parent_run_id, ROLE: "trial", TRIAL_ID: note.trial_id}
        point = long_tag(POINT, json.dumps(dict(note.params)))
        tags = {**self.tags, **named, **point}
        return self.store.create(f"{self.search}-{note.trial_id}", tags, note.at_ms)

    def describe(self, run_id: str, note: Started) -> None:
        """Write what the trial is."""
        self.store.describe(run_id, {**note.params, **self.params}, data=self.data)

    def progress(self, run_id: str, note: Progressed) -> None:
        """Write a piece of the curve."""
        self.store.score(run_id, _curve(note))

    def score(self, run_id: str, note: Ended) -> None:
        """Write the outcome, and the rest of the curve."""
        tags = {STATUS: note.status}
        if note.failure:
            tags["search.failure"] = note.failure
        if note.rungs:
            tags[RUNGS] = json.dumps(dict(note.rungs))
        scores = [Score(key, value, note.at_ms) for key, value in note.metrics.items()]
        self.store.score(run_id, [*_curve(note), *scores], tags)

    def end(self, run_id: str, note: Ended) -> None:
        """End the run."""
        self.store.end(run_id, RUN_STATUS[note.status], note.at_ms)

    def keep_traceback(self, run_id: str, note: Ended, as_tag: bool) -> None:
        """Write a failure's traceback, as an artifact or, shortened, as a tag."""
        text = note.traceback or note.failure
        if as_tag:
            self.store.describe(run_id, tags={"search.traceback": text[-LONGEST_TRACEBACK_TAG:]})
        else:
            self.store.write_text(run_id, text, "traceback.txt")


Ask = Callable[..., Any]  # (name of a method of TrialRuns, *its arguments)


class Writer:
    """A thread that sends notes to MLflow in order, and waits for a server that is away."""

    def __init__(
        self,
        runs: TrialRuns,
        journal: Journal,
        *,
        ask: Ask | None = None,
        known: Mapping[str, str] | None = None,
        say: Callable[[str], None] = lambda _: None,
        fail: Callable[[SearchError], None] = lambda _: None,
        hurried: Callable[[], bool] = lambda: False,
        interrupted: Callable[[], bool] = lambda: False,
        abandoned: Callable[[], bool] = lambda: False,
    ) -> None:
        """Send what ``journal`` still holds, then what is put.

        ``ask`` calls a method of ``runs``, elsewhere maybe. ``known``: the runs there are, by
        trial. ``fail`` hears what makes going on pointless;
        at the end ``interrupted`` tells that the user waits for no server that is away, and
        ``hurried`` that not even one that answers is waited for; ``abandoned``, that the runs
        are no longer ours to write.
        """
        self._ask: Ask = ask or (lambda name, *args: getattr(runs, name)(*args))
        self._journal = journal
        self._say, self._fail = say, fail
        self._interrupted, self._hurried, self._abandoned = interrupted, hurried, abandoned
        self.run_ids: dict[str, str] = dict(known or {})  # trial id -> run id
        self.doubtful: set[str] = set()  # trials whose run may have been made twice
        self._refused: set[str] = set()  # trials of which a note was refused, each said once
        self._notes: queue.SimpleQueue[tuple[int, Note] | None] = queue.SimpleQueue()
        self._replayed = {note.trial_id for note in journal.waiting.values()}
        self._put = self._taken = 0
        self._obstacle: Exception | None = None  # why the server does not take the next note
        self._closing = threading.Event()
        self._give_up_at: float | None = None  # monotonic seconds; set once there is an end
        for number, note in journal.waiting.items():
            self._notes.put((number, note))
            self._put += 1
        self._thread = threading.Thread(target=self._send_all, name="writer", daemon=True)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Send what is left, and wait for a server that is away, but not for ever.

        :raises SearchError: the server did not take all of it; the journal holds the rest.
        :raises Interrupted: the same, when the user has ended the search.
        """
        self._give_up_at = time.monotonic() + DRAIN_S
        self._notes.put(None)
        self._closing.set()
        while self._thread.is_alive():
            if self._hurried():
                self._give_up_at = min(self._give_up_at, time.monotonic() + HURRIED_S)
                self._thread.join(HURRIED_S)
                break
            if self._interrupted() and self._obstacle is not None:
                self._give_up_at = min(self._give_up_at, time.monotonic() + HURRIED_S)
            self._thread.join(0.1)
        if self.waiting and not self._abandoned():
            reason = first_line(self._obstacle) if self._obstacle else "it was not waited for"
            kind = Interrupted if self._interrupted() or self._hurried() else SearchError
            raise kind(
                f"{self.waiting} notes of the trials are not in the tracking store yet ({reason})"
            ) from self._obstacle

    @property
    def waiting(self) -> int:
        """How many notes the server has not taken yet."""
        return self._put - self._taken

    @property
    def obstacle(self) -> str:
        """Why they wait; nothing while they are being taken."""
        error = self._obstacle
        return "" if error is None else first_line(error)

    def put(self, note: Note) -> None:
        """Write a note down, to be sent; never waits for the server."""
        try:
            number = self._journal.append(note)
        except OSError as error:
            number = 0  # in no journal; it is sent all the same
            self._fail(SearchError(f"the journal cannot be written: {error.strerror}"))
        self._put += 1
        self._notes.put((number, note))

    def _send_all(self) -> None:
        while (item := self._notes.get()) is not None:
            number, note = item
            self._journal.sync(number)
            if not self._send_until_taken(note):
                return
            self._obstacle = None
            if number:
                self._journal.cross_off(number)
            self._taken += 1

    def _send_until_taken(self, note: Note) -> bool:
        attempt = unwritten = 0
        while not self._abandoned():
            try:
                self._send(note, again=attempt > 0, as_tag=unwritten >= TRACEBACK_TRIES)
            except Unwritable as error:
                unwritten += 1  # all else of the note was taken
                failure: Exception = error
            except Exception as error:  # noqa: BLE001 - whatever a server may answer
                if self._is_about_this_run(error, note):
                    self._drop(note, error)
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

    def _send(self, note: Note, *, again: bool, as_tag: bool) -> None:
        match note:
            case Started():
                self._start(note, again=again)
            case Progressed():
                self._ask("progress", self._run_of(note), note)
            case Ended():
                run_id = self._run_of(note)
                self._ask("score", run_id, note)
                if note.status == "failed":
                    self._ask("keep_traceback", run_id, note, as_tag)
                self._ask("end", run_id, note)

    def _start(self, note: Started, *, again: bool) -> None:
        """Make the trial's run, or open again the one it has."""
        if note.trial_id not in self.run_ids and (again or note.trial_id in self._replayed):
            # the answer may have been lost after the run was made, or may still be made
            self.doubtful.add(note.trial_id)
            found = self._ask("find", note.trial_id)
            self.run_ids |= {} if found is None else {note.trial_id: found}
        if (run_id := self.run_ids.get(note.trial_id)) is not None:
            self._ask("reopen", run_id)
        else:
            run_id = self.run_ids[note.trial_id] = self._ask("create", note)
        self._ask("describe", run_id, note)

    def _run_of(self, note: Note) -> str:
        if note.trial_id not in self.run_ids:
            found = self._ask("find", note.trial_id)
            if found is None:
                raise _NoRun(f"trial {note.trial_id} has no run")
            self.run_ids[note.trial_id] = found
        return self.run_ids[note.trial_id]

    def _is_about_this_run(self, error: Exception, note: Note) -> bool:
        """Tell whether the server refuses this note and no other."""
        if isinstance(error, _NoRun):
            return True
        refused = isinstance(error, MlflowException) and not is_outage(error)
        return (
            refused
            and note.trial_id in self.run_ids
            and getattr(error, "error_code", "")
            in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST")
        )

    def _drop(self, note: Note, error: Exception) -> None:
        if note.trial_id not in self._refused:
            self._refused.add(note.trial_id)
            self._say(
                f"warning: trial {note.trial_id}: the tracking store does not take what its run "
                f"is to hold ({first_line(error)}); the search goes on without"
            )

    def _must_give_up(self, error: Exception) -> bool:
        if self._give_up_at is None:
            return False
        return not is_outage(error) or time.monotonic() > self._give_up_at


def _curve(note: Progressed | Ended) -> list[Score]:
    """Return a piece of the curve; step = round, from 0 as `best_iteration` counts them."""
    steps = enumerate(note.curve, start=note.start)
    return [Score(CURVE, value, note.at_ms, step) for step, value in steps]


class _NoRun(Exception):
    """A trial has no run, and none can be made from what is known."""
