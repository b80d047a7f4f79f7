"""What is said of a trial while it runs, and what became of it: plain values, and their JSON.

Each note says all it has to say, its time included, so that sending one again changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

# This many failures, all alike and nothing but them, are the trainable's or the data's, not the
# points': a space of which half fails gets that far once in a thousand searches.
HOPELESS_AFTER = 10


@dataclass(frozen=True)
class Started:
    """A trial began."""

    trial_id: str
    params: Mapping[str, Any]
    at_ms: int


@dataclass(frozen=True)
class Progressed:
    """A trial has a further piece of its curve."""

    trial_id: str
    start: int  # the round, from 0, of the first value
    curve: tuple[float, ...]
    at_ms: int


@dataclass(frozen=True)
class Ended:
    """A trial has its outcome."""

    trial_id: str
    status: str  # finished, stopped, failed or interrupted
    at_ms: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    rungs: Mapping[str, float] = field(default_factory=dict)  # round -> lowest score by then
    failure: str = ""
    traceback: str = ""
    start: int = 0  # of the rest of the curve, as in a Progressed
    curve: tuple[float, ...] = ()


Note = Started | Progressed | Ended
KINDS: dict[str, type[Started | Progressed | Ended]] = {
    kind.__name__: kind for kind in (Started, Progressed, Ended)
}


def to_json(note: Note) -> dict[str, Any]:
    """Return a note as JSON has it."""
    return {"kind": type(note).__name__, **asdict(note)}


def from_json(said: Mapping[str, Any]) -> Note:
    """Return the note that :func:`to_json` took.

    :raises KeyError, TypeError: it is none.
    """
    fields = dict(said)
    kind = KINDS[fields.pop("kind")]
    if "curve" in fields:
        fields["curve"] = tuple(fields["curve"])
    return kind(**fields)


@dataclass(frozen=True)
class Outcome:
    """What became of a trial."""

    trial_id: str
    params: Mapping[str, Any]
    status: str
    rmse: float | None
    best_iteration: int | None
    failure: str


def best(outcomes: Sequence[Outcome]) -> Outcome | None:
    """Return the trial with the lowest score, the lowest number of equals."""
    scored = [outcome for outcome in outcomes if outcome.rmse is not None]
    return min(scored, key=lambda each: (each.rmse or 0.0, each.trial_id), default=None)


def hopeless(outcomes: Sequence[Outcome]) -> str:
    """Return the failure that the first trials all had; nothing where one had another end."""
    first = outcomes[:HOPELESS_AFTER]
    # numbers differ from trial to trial, in a message that is otherwise the same
    reasons = {re.sub(r"[-+.\w]*\d[-+.\w]*", "#", outcome.failure) for outcome in first}
    alike = len(first) == HOPELESS_AFTER and len(reasons) == 1
    failed = alike and all(outcome.status == "failed" for outcome in first)
    return first[0].failure if failed else ""
