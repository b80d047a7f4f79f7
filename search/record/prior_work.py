"""What a search has done before this start, as MLflow has it; and closing runs left open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from search.record.ledger import Ledger, LoggedRefit, LoggedSearch
from search.record.store import Store, now_ms
from search.record.tags import RUN_STATUS, STATUS
from search.values.metric import Metric
from search.values.trial import ENDED, Outcome, PastTrial, Proposal, best


@dataclass(frozen=True)
class PriorWork:
    """What a search has done before."""

    ended: Sequence[Outcome] = ()
    in_flight: Sequence[Proposal] = ()  # to run again, by number
    run_ids: Mapping[str, str] = field(default_factory=dict)  # trial id -> run id
    rounds: Mapping[str, int] = field(default_factory=dict)  # of the curves of those in flight
    rungs: Mapping[str, Mapping[int, float]] = field(default_factory=dict)  # of the ended
    refit: LoggedRefit | None = None
    broken_refits: Sequence[tuple[str, str]] = ()  # run and status of those not completed

    @property
    def past(self) -> list[PastTrial]:
        """What the searcher is told."""
        return [PastTrial(dict(o.params), o.score, int(o.trial_id)) for o in self.ended]

    def is_refitted(self, metric: Metric) -> bool:
        """Tell whether the best trial has been refitted."""
        chosen = best(self.ended, metric)
        return (
            chosen is not None
            and self.refit is not None
            and self.refit.best_trial_id == chosen.trial_id
        )


def read(store: Store, search: LoggedSearch, metric: Metric) -> PriorWork:
    """Read what the search has done."""
    ledger = Ledger(store)
    trials = ledger.trials(search, metric)
    in_flight = [trial for trial in trials if not trial.has_ended]
    refit, broken = ledger.refits(search, metric)
    return PriorWork(
        ended=[trial.outcome for trial in trials if trial.has_ended],
        in_flight=[Proposal(t.outcome.trial_id, dict(t.outcome.params)) for t in in_flight],
        run_ids={trial.outcome.trial_id: trial.run_id for trial in trials},
        rounds={t.outcome.trial_id: ledger.rounds(t.run_id, metric) for t in in_flight},
        rungs={trial.outcome.trial_id: trial.rungs for trial in trials if trial.has_ended},
        refit=refit,
        broken_refits=broken,
    )


def end_open_runs(store: Store, search: LoggedSearch) -> None:
    """End the runs that a dead driver left open, each with its true status.

    A trial that runs again reopens its run. One that does not run again would stay open otherwise.
    """
    for run in Ledger(store).open_runs(search):
        if run.role == "refit":
            store.end(run.run_id, "FAILED", now_ms())
            continue
        if run.status not in ENDED:
            store.describe(run.run_id, tags={STATUS: "interrupted"})
        status = run.status if run.status in ENDED else "interrupted"
        store.end(run.run_id, RUN_STATUS[status], now_ms())
