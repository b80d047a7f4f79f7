"""Connecting to a tracking store: within a time limit, and without creating anything twice."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from search.errors import InputError
from search.record import database
from search.record.request_retries import RETRY_AFTER_S
from search.record.server import credentials_apart, unusable
from search.record.store import CLIENT_RETRIES, Store
from search.record.store_errors import first_line, refusal

# For the first requests. That there is a server is known by then (search/record/server.py); if
# many searches begin at once, all of it is slow.
CONNECT_TIMEOUT_S = 60.0
REQUEST_TIMEOUT_S = 10  # later on, when others wait
DATABASE_TIMEOUT_S = 12.0  # MLflow itself asks a database again and again
CREATE_TIMEOUT_S = 120.0  # a new database goes through all of MLflow's migrations

REQUEST_TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"

# sqlite's messages about a migration that another process has done or is doing
MADE_TWICE = ("already exists", "duplicate column name", "database is locked", "no such table")

# has `mlflow ui` open the experiment as model training, not as generative AI
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}

T = TypeVar("T")


def connect(uri: str, experiment_name: str, *, create: bool = True) -> Store:
    """Reach the store, and find the experiment or make it.

    :raises InputError: the store cannot be reached in time, or refuses; or the experiment was
        deleted, or does not exist and ``create`` is false.
    """
    uri = _client_prepared(uri)
    with _requests_of(int(CONNECT_TIMEOUT_S)):
        reached = within(_timeout_s(uri), lambda: _reached(uri, experiment_name, create), uri)
    os.environ.setdefault(REQUEST_TIMEOUT, str(REQUEST_TIMEOUT_S))
    return Store(uri, reached)


def answers(uri: str) -> bool:
    """Check that the store answers and accepts our credentials, without creating anything.

    Return whether it exists yet.

    :raises InputError: it cannot be reached in time, or refuses.
    """
    uri = _client_prepared(uri)

    def ask() -> bool:
        if not database.check_usable(uri):
            return False
        with database.alone(uri) as has_tables:
            if has_tables:
                MlflowClient(uri).search_experiments(max_results=1)
            return has_tables

    with _requests_of(REQUEST_TIMEOUT_S):
        return within(_timeout_s(uri), ask, uri)


def within(seconds: float, ask: Callable[[], T], uri: str) -> T:
    """Return what ``ask`` returns. It runs on a thread, so a server that hangs hangs only that.

    :raises InputError: there is no answer in time, or it is a refusal.
    """
    results: list[T] = []
    failures: list[Exception] = []

    def run() -> None:
        try:
            results.append(ask())
        except Exception as error:  # noqa: BLE001 - raised again on the asking thread
            failures.append(error)

    thread = threading.Thread(target=run, name="connect", daemon=True)
    thread.start()
    thread.join(seconds)
    if results:
        return results[0]
    if not failures:
        raise unusable(uri, f"no answer within {seconds:.0f} s")
    raise refusal(uri, failures[0])


@contextlib.contextmanager
def _requests_of(seconds: int) -> Iterator[None]:
    """Give each request so long while inside, unless the user has set a time-out."""
    if REQUEST_TIMEOUT in os.environ:
        yield
        return
    os.environ[REQUEST_TIMEOUT] = str(seconds)
    try:
        yield
    finally:
        del os.environ[REQUEST_TIMEOUT]


def _client_prepared(uri: str) -> str:
    """Set how MLflow's client asks; return the URI without credentials, which go elsewhere."""
    # The client would try an absent server for a long time, and a POST whose answer was lost
    # would make a second run. Where we try again, we first look up what was made.
    os.environ[CLIENT_RETRIES] = "0"
    os.environ.setdefault("PGCONNECT_TIMEOUT", str(REQUEST_TIMEOUT_S))
    # the client would read each run that it ends, to print where it is
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    uri, credentials = credentials_apart(uri)
    os.environ.update(credentials)
    return uri


def _reached(uri: str, name: str, create: bool) -> str:
    """Return the experiment's id, even if another process is making the same database.

    Searches make a sqlite file aside, and take turns in PostgreSQL. A database that `mlflow ui` is
    making is waited for.
    """
    if not database.check_usable(uri) and not create:
        raise InputError(
            f"tracking store {uri}: it does not exist, so there is no search to go on with; "
            "is --tracking-uri right?"
        )
    database.make_whole(uri)
    with database.alone(uri):
        for wait_s in RETRY_AFTER_S if uri.startswith("sqlite:") else ():
            try:
                return _experiment_id(uri, name, create)
            except Exception as error:  # of whichever layer the migration had come to
                # a table may be read back without the column that it was about to get
                misses_a_column = isinstance(error, AttributeError | KeyError)
                if not (misses_a_column or any(words in str(error) for words in MADE_TWICE)):
                    raise
            time.sleep(wait_s)
        return _experiment_id(uri, name, create)


def _timeout_s(uri: str) -> float:
    if uri.startswith(("sqlite:", *database.POSTGRESQL)):
        return CREATE_TIMEOUT_S
    return CONNECT_TIMEOUT_S if uri.startswith("http") else DATABASE_TIMEOUT_S


def _experiment_id(uri: str, name: str, create: bool) -> str:
    client = MlflowClient(uri, registry_uri=uri)
    found = client.get_experiment_by_name(name)
    if found is None and not create:
        raise InputError(
            f"--experiment-name {name!r}: there is no such experiment; is --tracking-uri right?"
        )
    if found is None:
        try:
            return str(client.create_experiment(name, tags=EXPERIMENT_TAGS))
        except MlflowException as error:
            # two searches may start at once, and the other one made it
            if (found := client.get_experiment_by_name(name)) is None:
                raise InputError(f"--experiment-name {name!r}: {first_line(error)}") from error
    if found.lifecycle_stage != "active":
        raise InputError(
            f"experiment {name!r} was deleted: restore it with "
            f"`mlflow experiments restore -x {found.experiment_id}`, or use another "
            "--experiment-name"
        )
    return str(found.experiment_id)
