"""A Ray cluster: started for this search, or one that runs already."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray

from search.errors import InputError, SearchError
from search.execute import environment
from search.execute.processes import killed_once_terminated
from search.execute.worker import Shared

PROBE_TIMEOUT_S = 5.0  # for a cluster's port to open

TOKEN_HINT = ", set RAY_AUTH_MODE=token where it asks for one"


class Cluster:
    """Starts or joins a cluster in the background; ends or leaves it.

    One thread does both and lives in between: Ray's processes are killed with the thread that
    started them (PR_SET_PDEATHSIG, prctl(2)).
    """

    def __init__(self, address: str, folder: Path) -> None:
        """``address``: ``local`` for a cluster of our own below ``folder``."""
        self._address, self._folder = address, folder
        self._failure: BaseException | None = None
        self._has_started, self._is_over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._live, name="cluster", daemon=True)

    @property
    def has_begun(self) -> bool:
        """Tell whether it was started, or joined."""
        return self._thread.ident is not None

    @property
    def has_failed(self) -> bool:
        """Tell whether it could not be started."""
        return self._failure is not None

    @property
    def is_ours(self) -> bool:
        """Tell whether the cluster is this machine alone, for this search alone."""
        return self._address == "local"

    def __enter__(self) -> Cluster:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.end()
        self._thread.join()

    def join(self) -> None:
        """Wait until it has started.

        :raises InputError: there is no cluster at the address.
        :raises SearchError: Ray does not start here.
        """
        self._has_started.wait()
        if self._failure is not None:
            raise self._failure

    def end(self) -> None:
        """Begin to leave it, or to end it if it is ours. It must not be used any more."""
        self._is_over.set()

    def _live(self) -> None:
        with contextlib.ExitStack() as stack:
            try:
                self._start(stack)
            except BaseException as error:  # noqa: BLE001 - raised again by join
                self._failure = error
                return
            finally:
                self._has_started.set()
            self._is_over.wait()

    def _start(self, stack: contextlib.ExitStack) -> None:
        common = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
        if self.is_ours:
            # Ray's processes inherit this thread's mask, so a batch system that signals all
            # processes does not end them before the driver has ended its trials.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
            folder = stack.enter_context(environment.short_folder(self._folder / "ray"))
            options = environment.options_of_our_own(self._folder / "ray")
            _start({"include_dashboard": False, "_temp_dir": folder, **options, **common})
        else:
            try:
                _probe(self._address)
                ray.init(self._address, **common)
            except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
                raise _no_cluster(self._address, error) from error
        stack.callback(_shut_down)


def share(data: Any) -> Shared:
    """Put what all trials work on into the object store, once; each node fetches it once."""
    reference = ray.put(data)
    return Shared(reference.hex(), reference)


def _start(options: Mapping[str, Any]) -> None:
    """Start a Ray of our own; once again if a busy machine made the first try time out."""
    for is_last in (False, True):
        try:
            ray.init("local", **options)
            return
        except Exception as error:  # Ray raises nothing more specific
            _shut_down()
            if is_last:
                raise SearchError(
                    f"Ray does not start on this machine: {_reason(error)}; its own messages are "
                    "in the log beside the journal, try again when the machine is less busy"
                ) from error


def _shut_down() -> None:
    # Ray terminates its processes one after the other and waits a second for each; ours block that
    with killed_once_terminated():
        ray.shutdown()


def _no_cluster(address: str, error: Exception) -> InputError:
    # Ray does not say that a token is missing
    token = "" if "RAY_AUTH_MODE" in os.environ else TOKEN_HINT
    return InputError(
        f"--address {address}: no Ray cluster answers ({_reason(error)}); start one with "
        f"`ray start --head` or `ray up`{token}, or leave --address out for one of its own"
    )


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _probe(address: str) -> None:
    """Check that something listens at HOST:PORT: Ray itself would try for a long time."""
    if address == "auto":
        return
    host, colon, port = address.rpartition(":")
    if not (host and colon and port.isdigit()):
        raise ValueError("write auto, local or HOST:PORT")
    socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_TIMEOUT_S).close()
