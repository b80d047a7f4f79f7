"""A search in the user's own process: a script or a notebook, which goes on afterwards."""

from __future__ import annotations

import atexit
import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from search.conduct.clock import Clock
from search.conduct.plan import OpenTask
from search.conduct.search import conduct
from search.conduct.session import Session
from search.execute.cluster import Cluster
from search.execute.stop_signal import StopSignal
from search.options.settings import Settings
from search.present.progress import Display
from search.present.summary import Summary
from search.record.state_folder import own_folder
from search.record.writer_process import NewWriterProcess, WriterProcess

# for the next search of this process: Ray, by address, and the process that writes to MLflow
_kept: dict[str, KeptCluster] = {}
_writers: list[KeptWriter] = []


def conducted(
    settings: Settings,
    open_task: OpenTask,
    folder: Path,
    display: Display,
    begin: Callable[[StopSignal], None],
) -> Summary:
    """Run a search. ``begin`` is given what ends it.

    :raises SearchError: as :func:`search.conduct.search.conduct`.
    """
    clock = Clock()
    with StopSignal() as stop:
        begin(stop)
        session = Session(
            folder=folder,
            display=display,
            stop=stop,
            clock=clock,
            cluster=kept_cluster,
            writer_process=kept_writer,
        )
        return conduct(settings, session, open_task)


class KeptCluster(Cluster):
    """A cluster that goes when this process ends."""

    def __init__(self, address: str, state_dir: Path) -> None:
        """Keep its files below ``state_dir``; if it is killed, the next search removes them."""
        self._stack = contextlib.ExitStack()
        # not the search's own folder, whose files go when the search ends
        folder = self._stack.enter_context(own_folder(state_dir, f"fmin-{os.getpid()}"))
        super().__init__(address, folder)
        atexit.register(self.leave)

    def __enter__(self) -> Cluster:
        """Start it, unless it runs."""
        return self if self.has_begun else super().__enter__()

    def __exit__(self, *exception: object) -> None:
        """Leave it running."""
        if self.has_failed:
            _kept.clear()  # the next search tries again

    def end(self) -> None:
        """Leave it running."""

    def _start(self, stack: contextlib.ExitStack) -> None:
        import ray

        if not ray.is_initialized():  # else the script has a Ray of its own, which stays its own
            super()._start(stack)

    def leave(self) -> None:
        """Leave it, or end it if it is ours."""
        if self.has_begun:
            super().end()
            super().__exit__()
        self._stack.close()


def kept_cluster(address: str, folder: Path) -> Cluster:
    """Return the cluster of earlier searches of this process, or a new one.

    ``folder``: the search's own, below the state directory.
    """
    import ray

    kept = _kept.get(address)
    if kept is not None and kept.has_begun and not ray.is_initialized():
        kept.leave()  # the script has called `ray.shutdown`
        del _kept[address]
    if address not in _kept:
        for other in _kept.values():
            other.leave()  # a process is in one cluster at a time
        _kept.clear()
        _kept[address] = KeptCluster(address, folder.parent)
    return _kept[address]


class KeptWriter(NewWriterProcess):
    """A writing process that goes when this process ends."""

    def __enter__(self) -> WriterProcess:
        """Start it, unless it runs."""
        if not self.is_alive:
            super().__enter__()
            atexit.register(super().__exit__)
        return self

    def __exit__(self, *exception: object) -> None:
        """Leave it running."""


def kept_writer() -> WriterProcess:
    """Return the writing process of earlier searches of this process, or a new one."""
    if not (_writers and _writers[-1].is_alive):
        _writers[:] = [KeptWriter()]
    return _writers[-1]
