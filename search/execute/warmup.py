"""The warm-up: what the first fit on a machine would wait for is done while the search starts."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator

LONGEST_S = 60.0  # then the first fits do it themselves


@contextlib.contextmanager
def warmup(module: str | None) -> Iterator[Callable[[], None]]:
    """Run a module in a process of its own, if one is named; yield a function that waits for it."""
    if module is None:
        yield lambda: None
        return
    process = subprocess.Popen([sys.executable, "-m", module], stdin=subprocess.DEVNULL)

    def wait() -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(LONGEST_S)

    try:
        yield wait
    finally:
        process.kill()
        process.wait()
