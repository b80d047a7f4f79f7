"""Going on with a search, and starting from others: from MLflow and the journal alone."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from search.driver import SILENCE_S
from search.errors import InputError
from search.ledger import Ledger, LoggedRefit, LoggedSearch
from search.notes import Outcome
from search.plan import Plan
from search.searcher import Past, Proposal
from search.settings import Settings
from search.space import Space
from search.store import RUN_STATUS, STATUS, Store, now_ms

LOOK_EVERY_S = 2.0


@dataclass(frozen=True)
class Before:
    """What a search has done before this start."""

    ended: Sequence[Outcome] = ()
    in_flight: Sequence[Proposal] = ()  # to run again, by number
    run_ids: Mapping[str, str] = field(default_factory=dict)  # trial id -> run id
    rounds: Mapping[str, int] = field(default_factory=dict)  # of the curves of those in flight
    rungs: Mapping[str, Mapping[int, float]] = field(default_factory=dict)  # of the ended
    refit: LoggedRefit | None = None
    broken_refits: Sequence[tuple[str, str]] = ()  # run and status of those without an end

    @property
    def past(self) -> list[Past]:
        """What the searcher is told."""
        return [Past(dict(o.params), o.rmse, int(o.trial_id)) for o in self.ended]


def found(store: Store, name: str) -> LoggedSearch:
    """Return the search of this name.

    :raises InputError: there is none, or it cannot be gone on with.
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


def see_nobody_drives(
    store: Store, search: LoggedSearch, say: Callable[[str], None], silence_s: float = SILENCE_S
) -> None:
    """See that no other process drives the search; wait where only its silence can tell.

    :raises InputError: one does.
    """
    driver = search.driver
    if search.status != "RUNNING" or driver is None:
        return
    lives = driver.lives()
    if lives is None:
        say(
            f"{driver} drove the search {search.name!r}: "
            f"waiting {silence_s:.0f} s for a sign of its life"
        )
        lives = _beats(store, search, silence_s)
    if lives:
        raise InputError(
            f"--resume {search.name}: {driver} drives the search; wait for its end, or stop it"
        )


def state_folder(search: LoggedSearch, state_dir: Path) -> Path:
    """Return the state folder that holds the search's journal."""
    former = Path(search.state_dir)
    with contextlib.suppress(OSError):  # another user's
        if search.state_dir and journal_file(former, search.run_id).is_file():
            return former
    return state_dir


def journal_file(state_dir: Path, parent_run_id: str) -> Path:
    """Return where the journal of a search is."""
    return state_dir / f"{parent_run_id}.journal"


def see_the_same(search: LoggedSearch, plan: Plan, data_digest: str) -> None:
    """See that what is searched, and on which rows, is what it was.

    :raises InputError: it is not.
    """
    if not search.params:
        return  # it was killed in its first second, before its first trial: nothing can differ
    pairs = (
        ("space.digest", plan.space.digest, "the search space of its trainable"),
        ("data.digest", data_digest, "its data"),
    )
    for name, now, what in pairs:
        if (before := search.params.get(name, "")) != now:
            raise InputError(
                f"--resume {search.name}: {what} is another than it was ({name} {now}, it was "
                f"{before}); start a new search, with --warm-start {search.name} if it may help"
            )


def end_what_runs(store: Store, search: LoggedSearch) -> None:
    """End the runs that a dead driver left open, as what they came to.

    A trial that runs again opens its run again; one that does not, because the search is ended
    once more or needs no more trials, is not left open for ever.
    """
    ledger = Ledger(store)
    for trial in ledger.trials(search):
        if trial.run_status == "RUNNING":
            if not trial.has_ended:
                store.describe(trial.run_id, tags={STATUS: "interrupted"})
            status = trial.outcome.status if trial.has_ended else "interrupted"
            store.end(trial.run_id, RUN_STATUS[status], now_ms())
    for run_id, run_status in ledger.refits(search)[1]:
        if run_status == "RUNNING":
            store.end(run_id, "FAILED", now_ms())


def before(store: Store, search: LoggedSearch) -> Before:
    """Read what the search has done."""
    ledger = Ledger(store)
    trials = ledger.trials(search)
    in_flight = [trial for trial in trials if not trial.has_ended]
    refit, broken = ledger.refits(search)
    return Before(
        ended=[trial.outcome for trial in trials if trial.has_ended],
        in_flight=[Proposal(t.outcome.trial_id, dict(t.outcome.params)) for t in in_flight],
        run_ids={trial.outcome.trial_id: trial.run_id for trial in trials},
        rounds={trial.outcome.trial_id: ledger.rounds(trial.run_id) for trial in in_flight},
        rungs={trial.outcome.trial_id: trial.rungs for trial in trials if trial.has_ended},
        refit=refit,
        broken_refits=broken,
    )


def warm(
    store: Store,
    settings: Settings,
    space: Space,
    started_ms: int | None,
    say: Callable[[str], None],
) -> list[Past]:
    """Return other searches' scored trials, as far as their points lie in this space.

    ``started_ms``: when this search began, if it is gone on with; what ended later is not told,
    as it was not told then.

    :raises InputError: there is no such search, or none of its trials fits.
    """
    ledger = Ledger(store)
    told: list[Past] = []
    for name in settings.warm_start:
        search = ledger.search(name)
        if search is None:
            raise InputError(f"--warm-start {name}: the experiment has no search of this name")
        scored = [
            trial.outcome
            for trial in ledger.trials(search)
            if trial.outcome.rmse is not None
            and (started_ms is None or trial.ended_ms <= started_ms)
        ]
        fitting = list(_fitting(scored, space))
        if not fitting and started_ms is None:
            raise InputError(
                f"--warm-start {name}: none of its {len(scored)} scored trials lies in the search "
                "space; leave it out"
            )
        say(f"warm start: {len(fitting)} of {len(scored)} scored trials of {name!r}")
        told += [Past(dict(each.params), each.rmse) for each in fitting]
    return told


def _fitting(outcomes: Sequence[Outcome], space: Space) -> Iterator[Outcome]:
    for outcome in outcomes:
        with contextlib.suppress(InputError):
            space.labels_of(dict(outcome.params))
            yield outcome


def _beats(store: Store, search: LoggedSearch, silence_s: float) -> bool:
    """Tell whether the driver gives a sign of life."""
    give_up_at = time.monotonic() + silence_s
    while time.monotonic() < give_up_at:
        time.sleep(LOOK_EVERY_S)
        now = Ledger(store).search(search.name)
        if now is None or now.status != "RUNNING":
            return False
        if now.beat != search.beat or now.driver != search.driver:
            return True
    return False
