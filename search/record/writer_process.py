"""The process that makes the writer's calls to MLflow.

The calls hold the interpreter's lock for most of their time, some 36 ms a trial with sqlite, and
Tune's loop needs it: in one process each would wait for the other (docs/decisions/0006-slots.md).
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException

from search.record.store import Store
from search.record.store_errors import first_line
from search.record.trial_runs import TrialRuns

END_S = 2.0  # for the process to end by itself
PACKAGES = Path(__file__).parents[2]  # where this package is imported from


class WriterProcess:
    """Makes the calls of :class:`TrialRuns` in a process of its own, one after another.

    The process is forked, so it has all imports at once. Make it before any thread and before the
    store is connected, neither of which survives a fork. It ends when this process ends, however
    that happens.
    """

    def __init__(self) -> None:
        self._pipe, self._theirs = multiprocessing.Pipe()
        self._lock = threading.Lock()
        self._serves: TrialRuns | None = None

    def __enter__(self) -> WriterProcess:
        self._start()
        self._theirs.close()  # so that each side notices the other's end
        return self

    def __exit__(self, *exception: object) -> None:
        self._pipe.close()
        self._end(END_S)  # one that waits for a server would wait on

    def _start(self) -> None:
        context = multiprocessing.get_context("fork")
        self._process = context.Process(target=_serve, args=(self._theirs, self._pipe), daemon=True)
        self._process.start()

    def _end(self, within_s: float) -> None:
        self._process.join(within_s)
        self._process.kill()

    def ask(self, runs: TrialRuns, name: str, *args: Any) -> Any:
        """Return what the method ``name`` of ``runs`` returns; raise what it raises.

        :raises ConnectionError: the process was killed meanwhile; the call may have been made.
        """
        with self._lock:
            try:
                if self._serves is not runs:
                    self._send(None, (runs.store.uri, runs.store.experiment_id, runs.runs))
                    self._answer()
                    self._serves = runs
                self._send(name, args)
            except BrokenPipeError:
                # the process was killed; make the call here, which slows the search down
                return getattr(runs, name)(*args)
            return self._answer()

    def _send(self, name: str | None, arguments: Any) -> None:
        self._pipe.send((name, arguments, _environment()))

    def _answer(self) -> Any:
        try:
            answer, failure = self._pipe.recv()
        except EOFError:
            # an outage to the writer, which looks up what was made before it tries again
            raise ConnectionError("the process that writes the runs was killed") from None
        if failure is not None:
            raise failure
        return answer


class NewWriterProcess(WriterProcess):
    """The same in a new interpreter, for a process that has threads and connections already.

    It takes seconds to import what it needs; calls wait for it meanwhile.
    """

    _child: subprocess.Popen[bytes] | None = None

    @property
    def is_alive(self) -> bool:
        """Tell whether it was started and has not ended."""
        return self._child is not None and self._child.poll() is None

    def _start(self) -> None:
        path = os.pathsep.join([str(PACKAGES), *filter(None, [os.environ.get("PYTHONPATH")])])
        descriptor = self._theirs.fileno()
        self._child = subprocess.Popen(
            [sys.executable, "-m", __name__, str(descriptor)],
            pass_fds=[descriptor],
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
        )

    def _end(self, within_s: float) -> None:
        assert self._child is not None, "it was started"
        try:
            self._child.wait(within_s)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()


def _serve(pipe: Connection, theirs: Connection | None) -> None:
    """Answer until the other process closes its end."""
    if theirs is not None:
        theirs.close()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the driver decides what they mean
    runs: TrialRuns | None = None
    while True:
        try:
            name, arguments, environment = pipe.recv()
        except (EOFError, OSError):
            return
        os.environ.update(environment)
        answer, failure = None, None
        try:
            if name is None:
                uri, experiment_id, search_runs = arguments
                runs = TrialRuns(Store(uri, experiment_id), search_runs)
            else:
                answer = getattr(runs, name)(*arguments)
        except Exception as error:  # noqa: BLE001 - raised again by the other process
            failure = _portable(error)
        try:
            pipe.send((answer, failure))
        except OSError:
            return


def _environment() -> dict[str, str]:
    """Return the variables that MLflow's client and its artifact stores read."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("MLFLOW_", "AWS_", "PG")) or name.lower().endswith("_proxy")
    }


def _portable(error: Exception) -> Exception:
    """Return the error in a form that can be sent."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - an exception's constructor may want anything
        return MlflowException(first_line(error))
    return error


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])), None)
    os._exit(0)  # Python would take a second to take the libraries apart
