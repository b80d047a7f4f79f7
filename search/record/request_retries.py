"""Requests that are tried again while a tracking server is away."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from mlflow.exceptions import MlflowException

from search.record.store_errors import first_line, is_outage

RETRY_AFTER_S = (0.2, 0.5, 1.0, 2.0, 5.0)  # then the last, again and again

T = TypeVar("T")


@dataclass(frozen=True)
class Patience:
    """How long a server may be away, while nothing else can go on."""

    seconds: float = 0.0
    say: Callable[[str], None] = field(default=lambda _: None)

    def ask(self, request: Callable[[], T]) -> T:
        """Return the answer to a request; ask again while the server is away."""
        give_up_at = time.monotonic() + self.seconds
        for wait_s in itertools.chain(RETRY_AFTER_S, itertools.repeat(RETRY_AFTER_S[-1])):
            try:
                return request()
            except MlflowException as error:
                if not is_outage(error) or time.monotonic() + wait_s > give_up_at:
                    raise
                if wait_s == RETRY_AFTER_S[1]:
                    self.say(f"waiting for the tracking server: {first_line(error)}")
            time.sleep(wait_s)
        raise AssertionError("the waits never end")
