"""A search whose driver process died: its runs are closed, and the user is told."""

from __future__ import annotations

from search.errors import InputError, Interrupted, SearchError
from search.options.settings import Settings

CLOSE_S = 30.0  # for the tracking store, which may have died, too


def report(settings: Settings, cause: str, *, was_signalled: bool) -> SearchError:
    """Close the runs that the driver left open, and return the error that ends the command.

    ``cause``: how its process ended. ``was_signalled``: the user had asked it to end.
    """
    go_on = f"go on with: {settings.resume_command}"
    try:
        exists = _close(settings)
    except (InputError, OSError) as error:  # the store: --resume closes them
        exists, go_on = True, f"{go_on} (the runs could not be closed: {error})"
    if was_signalled:
        if not exists:
            return Interrupted("interrupted before the search had begun")
        return Interrupted(f"interrupted: what has ended is kept; {go_on}")
    if not exists:
        return SearchError(f"the search's process died before the first trial ({cause})")
    log = settings.state_dir / settings.name / "log.txt"
    return SearchError(f"the search's process died ({cause}), see {log}; {go_on}")


def _close(settings: Settings) -> bool:
    """End the search's open runs; tell whether there is such a search."""
    from search.record import server
    from search.record.connection import connect, within
    from search.record.ledger import Ledger
    from search.record.prior_work import end_open_runs
    from search.record.store import Store, now_ms

    server.disable_telemetry()
    server.bypass_proxy_on_loopback(settings.tracking.uri)
    uri = settings.tracking.uri

    def close(store: Store) -> bool:
        search = Ledger(store).search(settings.name)
        if search is None:
            return False
        if search.status == "RUNNING":
            end_open_runs(store, search)
            store.end(search.run_id, "KILLED", now_ms())
        return True

    try:
        store = connect(uri, settings.tracking.experiment_name, create=False)
    except InputError:
        if settings.resume:
            raise
        return False  # it had not even made its experiment
    return within(CLOSE_S, lambda: close(store), uri)
