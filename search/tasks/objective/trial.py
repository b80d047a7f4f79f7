"""One trial of an objective. Worker code: the user's function is called here, and nowhere else."""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np

from search.tasks.objective import mlflow_capture
from search.tasks.objective.code import Code, hint, is_own
from search.tasks.objective.output import Output, output_kept
from search.tasks.objective.threads import limit_threads
from search.trial import listening
from search.values.failure import RETURNED, last_line
from search.values.logged import Logged
from search.values.trial import Point, Result

STATUSES = ("new", "running", "suspended", "ok", "fail")  # hyperopt's
SHOWN_LINES = 20  # of what a trial printed, in the report of its failure

_arrived: dict[str, Call] = {}  # in this worker, by the code's key; one at a time

Call = Callable[[Point], Any]


@dataclass(frozen=True)
class Shared:
    """What all trials of a search share."""

    key: str
    code: Code
    evaluation: bytes  # cloudpickle's, of the Evaluation of the search space
    empty_store: bytes  # a database of the installed MLflow
    threads: int  # of the libraries that an objective uses


@dataclass(frozen=True)
class Extra:
    """What a trial hands over beside its score."""

    result: Mapping[str, Any] = field(default_factory=dict)  # as hyperopt's Trials keep it
    error: bytes = b""  # the exception that ended it, pickled; empty: none did
    logged: Logged | None = None


class ObjectiveTrial:
    """Calls the objective once."""

    def __call__(self, point: Point, shared: Shared, report: Any) -> Result:
        """Return the loss, as a result; what is reported may end the trial."""
        call = _call(shared)
        attempt = f"attempt of {os.getpid()} at {time.time():.3f}"
        with output_kept(_folder()) as output, mlflow_capture.capture(attempt) as captured:

            def snapshot(loss: float) -> bytes:
                result = {"loss": loss, "status": "ok"}
                return _packed(Extra(result, b"", captured.so_far()))

            def hear(loss: float, step: int) -> None:
                report.at(step, loss, lambda: snapshot(loss))

            with listening(hear):
                ended = _ended(call, point, output)
        extra = Extra(ended.result, ended.error, captured.logged)
        return Result(ended.score, _packed(extra), ended.failure, ended.traceback)


@dataclass(frozen=True)
class _End:
    score: float | None
    result: Mapping[str, Any]
    failure: str = ""
    traceback: str = ""
    error: bytes = b""


def _ended(call: Call, point: Point, output: Output) -> _End:
    try:
        result = as_result(call(point))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it raises is its outcome
        return _End(
            score=None,
            result={},
            failure=last_line(error),
            traceback=_report(error, output.text()),
            error=_pickled(error),
        )
    if result["status"] != "ok":
        return _End(None, result, f"{RETURNED}the status {result['status']!r}")
    if not math.isfinite(result["loss"]):
        return _End(None, result, f"{RETURNED}the loss {result['loss']}")
    return _End(result["loss"], result)


def as_result(returned: Any) -> dict[str, Any]:
    """Return what an objective returned as hyperopt's ``Domain.evaluate`` does.

    :raises InvalidResultStatus, InvalidLoss: hyperopt's, if it is no result.
    """
    if isinstance(returned, int | float | np.number) or getattr(returned, "size", 0) == 1:
        return {"loss": _number(returned), "status": "ok"}
    result = dict(returned)
    if result["status"] not in STATUSES:
        from hyperopt.exceptions import InvalidResultStatus

        raise InvalidResultStatus(result)
    if result["status"] == "ok":
        try:
            result["loss"] = _number(result["loss"])
        except (TypeError, KeyError) as error:
            from hyperopt.exceptions import InvalidLoss

            raise InvalidLoss(result) from error
    return result


def _number(value: Any) -> float:
    # an array of length 1 was a loss in older versions of hyperopt
    return float(value.item() if isinstance(value, np.ndarray) and value.size == 1 else value)


def _call(shared: Shared) -> Call:
    """Return the objective as a function of a point; its code arrives once in a worker."""
    if shared.key not in _arrived:
        limit_threads(shared.threads)
        mlflow_capture.install(shared.empty_store, _folder())
        objective = shared.code.load()
        evaluate = cloudpickle.loads(shared.evaluation)
        _arrived.clear()
        _arrived[shared.key] = lambda point: objective(evaluate(point))
    return _arrived[shared.key]


def _folder() -> Path:
    """Return this user's folder for what trials print and log, on this machine."""
    folder = Path(tempfile.gettempdir()) / f"search-{os.getuid()}"
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700)
    if is_own(folder):
        return folder
    return Path(tempfile.mkdtemp(prefix="search-"))  # somebody else has taken the name


def _report(error: BaseException, printed: str) -> str:
    parts = ["".join(traceback.format_exception(error)), hint(error) or ""]
    if lines := printed.splitlines()[-SHOWN_LINES:]:
        parts.append("The last lines that it printed:\n" + "\n".join(lines))
    return "\n".join(filter(None, parts))


def _packed(extra: Extra) -> bytes:
    try:
        return bytes(cloudpickle.dumps(extra))
    except Exception:  # noqa: BLE001 - an object in the result that cannot be pickled
        result = {name: value for name, value in extra.result.items() if _is_picklable(value)}
        return bytes(cloudpickle.dumps(Extra(result, extra.error, extra.logged)))


def _is_picklable(value: Any) -> bool:
    with contextlib.suppress(Exception):
        cloudpickle.dumps(value)
        return True
    return False


def _pickled(error: BaseException) -> bytes:
    """Return the exception, without its traceback; empty if it cannot be rebuilt."""
    with contextlib.suppress(Exception):  # a user's exception may want anything
        pickled = bytes(cloudpickle.dumps(error))
        cloudpickle.loads(pickled)
        return pickled
    return b""
