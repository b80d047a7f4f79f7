"""Which trials are run again, and how often, when their worker is lost.

What a trial itself raises is its outcome, and never a reason to run it again.
"""

from __future__ import annotations

from typing import Any

import ray

from search.execute.worker import Unresponsive

# A trial runs again this often when its worker dies while its node lives.
WORKER_DEATHS = 2
# It runs again this often without being charged. A trial that has lost more nodes than this
# probably kills them; spot markets take fewer.
EXCUSED = 10


def is_excused(error: Any) -> bool:
    """Tell whether a worker's end is not the trial's fault.

    It was lost with its node, or was still busy with an earlier trial's fit.
    """
    if isinstance(error, ray.exceptions.RayTaskError):
        return isinstance(error.cause, Unresponsive)
    # Ray distinguishes a lost node from a dead worker by the message only
    return isinstance(error, ray.exceptions.RayActorError) and "node has died" in str(error)
