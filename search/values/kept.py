"""What of a trial is kept beside its score."""

from __future__ import annotations

from dataclasses import dataclass

from search.values.logged import Logged


@dataclass(frozen=True)
class Kept:
    """What goes to a trial's run when it ends."""

    logged: Logged
    keep_models: bool  # of what it logged
    supersedes: str = ""  # the trial whose models go once this one's are there; empty: none's
