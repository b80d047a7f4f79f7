"""What of a trial is kept beside its score."""

from __future__ import annotations

from dataclasses import dataclass

from search.values.logged import Logged


@dataclass(frozen=True)
class Kept:
    """What goes to a trial's run when it ends."""

    result: str = ""  # what it returned beside its score, as JSON; empty: nothing
    logged: Logged | None = None
    keep_models: bool = False  # of what it logged
    supersedes: str = ""  # the trial whose models go once this one's are there; empty: none's
