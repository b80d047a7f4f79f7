"""Errors of a tracking store: an outage, a refusal, and the line that the user reads."""

from __future__ import annotations

import pytest
import requests
from mlflow.exceptions import MlflowException
from mlflow.protos import databricks_pb2 as codes

from search.errors import InputError
from search.record.store_errors import first_line, is_outage, refusal


def failed(message: str, code: int) -> MlflowException:
    """Return MLflow's error with this code."""
    return MlflowException(message, error_code=code)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (failed("no route\nto host", codes.TEMPORARILY_UNAVAILABLE), True),
        (failed("too many", codes.REQUEST_LIMIT_EXCEEDED), True),
        (MlflowException("no code: the client's own, as for a lost connection"), True),
        (failed("x", codes.DEADLINE_EXCEEDED), True),
        (failed("x", codes.RESOURCE_EXHAUSTED), True),
        (failed("not this", codes.INVALID_PARAMETER_VALUE), False),
        (failed("x", codes.UNAUTHENTICATED), False),
        (failed("x", codes.PERMISSION_DENIED), False),
        (failed("x", codes.RESOURCE_DOES_NOT_EXIST), False),
        (failed("x", codes.RESOURCE_ALREADY_EXISTS), False),
        (ConnectionError("reset"), True),
        (TimeoutError(), True),
        (requests.ConnectionError("reset"), True),
        (requests.Timeout("slow"), True),
        (ValueError("ours"), False),
        (KeyError("ours"), False),
    ],
    ids=lambda value: str(value)[:40],
)
def test_outage_is_an_error_that_may_pass(error: Exception, *, expected: bool) -> None:
    """A server that is away or busy may take the same request later; a refusal is final."""
    assert is_outage(error) is expected


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("first\nsecond"), "first"),
        (ValueError("\n\n  first\n"), "first"),
        (ValueError(), "ValueError"),
        (ValueError("x" * 1_000), "x" * 300),
        (ValueError("(raised as a result of Query-invoked autoflush)\nsecond"), "second"),
        (ValueError("http://bob:S3CRET@host: no answer"), "http://host: no answer"),
    ],
)
def test_first_line_is_the_message(error: Exception, line: str) -> None:
    """An error without a message shows its type; no password is shown."""
    assert first_line(error) == line


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            failed("a page of HTML", codes.UNAUTHENTICATED),
            "the user name or password is missing or wrong; set MLFLOW_TRACKING_USERNAME",
        ),
        (
            failed("Permission denied", codes.PERMISSION_DENIED),
            "Permission denied; ask whoever runs it to grant",
        ),
        (ModuleNotFoundError(name="psycopg"), "the package psycopg is missing"),
    ],
    ids=["password", "permission", "package"],
)
def test_refusal_says_what_to_do(error: Exception, message: str) -> None:
    """The user reads what is missing, not the question whether the server runs."""
    refused = refusal("http://me:S3CRET@host:5000", error)
    assert message in str(refused)
    assert "S3CRET" not in str(refused)


def test_refusal_of_bad_input_is_that_error() -> None:
    """An error that already has its message is passed on."""
    known = InputError("--experiment-name: no")
    assert refusal("http://host:5000", known) is known
