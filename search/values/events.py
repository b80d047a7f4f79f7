"""What happens to a trial, as events: plain values, and their JSON for the journal.

An event is complete, with its time, so sending it to the tracking store twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Started:
    """A trial began."""

    trial_id: str
    params: Mapping[str, Any]  # the point
    at_ms: int  # milliseconds since the epoch, as in all events
    shown: Mapping[str, Any] | None = None  # its params in MLflow; None: the point itself


@dataclass(frozen=True)
class Progressed:
    """A trial reported another piece of its learning curve."""

    trial_id: str
    start: int  # the round, from 0, of the first value
    curve: tuple[float, ...]
    at_ms: int
    steps: tuple[int, ...] = ()  # of the values; empty: one after the other from ``start``


@dataclass(frozen=True)
class Ended:
    """A trial has its outcome."""

    trial_id: str
    status: str  # finished, stopped, failed or interrupted
    at_ms: int
    metrics: Mapping[str, float] = field(default_factory=dict)  # by MLflow's key
    rungs: Mapping[str, float] = field(default_factory=dict)  # round -> best score by then
    failure: str = ""
    traceback: str = ""
    start: int = 0  # of the rest of the curve, as in Progressed
    curve: tuple[float, ...] = ()
    steps: tuple[int, ...] = ()
    result: str = ""  # what the trial returned beside its score, as JSON
    logged: str = ""  # the folder on this disk that holds what the trial logged; empty: none
    keep_models: bool = False  # of what it logged
    supersedes: str = ""  # the trial whose models are removed once this one's are there


Event = Started | Progressed | Ended
KINDS: dict[str, type[Started | Progressed | Ended]] = {
    kind.__name__: kind for kind in (Started, Progressed, Ended)
}


def to_json(event: Event) -> dict[str, Any]:
    """Return an event as a JSON object."""
    return {"kind": type(event).__name__, **asdict(event)}


def from_json(fields: Mapping[str, Any]) -> Event:
    """Return the event that :func:`to_json` wrote.

    :raises KeyError, TypeError: it is not one.
    """
    values = dict(fields)
    kind = KINDS[values.pop("kind")]
    values |= {name: tuple(values[name]) for name in ("curve", "steps") if name in values}
    return kind(**values)
