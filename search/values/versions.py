"""Versions of libraries, compared by their first two numbers."""

from __future__ import annotations

import re

Minor = tuple[int, ...]  # (3, 17)


def is_between(version: str, first: Minor, last: Minor) -> bool:
    """Tell whether a version is a release of one of the minor versions from first to last."""
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    return first <= numbers <= last
