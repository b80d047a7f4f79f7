"""What a tracking store's errors mean: an outage that passes, or a refusal."""

from __future__ import annotations

from mlflow.exceptions import MlflowException

from search.errors import InputError, SearchError
from search.record.server import unusable
from search.values.uri import scrubbed, without_credentials

LONGEST_MESSAGE = 300  # characters


class Unwritable(SearchError):
    """The artifact store does not take a file."""


def is_outage(error: Exception) -> bool:
    """Tell whether the same request may succeed later."""
    if not isinstance(error, MlflowException):
        return isinstance(error, OSError)  # the HTTP client's errors are, too
    code: int = error.get_http_status_code()  # type: ignore[no-untyped-call]
    return code >= 500 or code in (408, 429)


def first_line(error: Exception) -> str:
    """Return an error's message on one line, without credentials."""
    # SQLAlchemy puts a line on when it asked before what a database said
    lines = [line for line in str(error).strip().splitlines() if not line.startswith("(raised as")]
    return scrubbed((lines or [type(error).__name__])[0])[:LONGEST_MESSAGE]


def refusal(uri: str, error: Exception) -> InputError:
    """Return the error that a store refused what every search asks first, with what to do."""
    if isinstance(error, InputError):
        return error
    if isinstance(error, ModuleNotFoundError):
        return InputError(
            f"tracking store {without_credentials(uri)}: the package {error.name} is missing; "
            "the extra `server` has what PostgreSQL needs"
        )
    status = None
    if isinstance(error, MlflowException):
        status = error.get_http_status_code()  # type: ignore[no-untyped-call]
    reason = "the user name or password is missing or wrong" if status == 401 else first_line(error)
    return unusable(uri, reason, status)
