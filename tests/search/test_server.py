"""A tracking URI with a password: used, and shown to nobody."""

from __future__ import annotations

import pytest

from search.server import credentials_apart, scrubbed, unusable, without_credentials


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://bob:pw@host:5000/x", "http://host:5000/x"),
        ("postgresql://bob:p%40w@host/db", "postgresql://host/db"),
        ("https://host/x?token=abc", "https://host/x?..."),
        ("postgresql+psycopg://bob:12/p?w#@host:5432/db", "postgresql+psycopg://host:5432/db"),
        ("http://bob:p/w@host:5000", "http://host:5000"),  # no URL, and an error names it
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
        ("sqlite:////a@b/c.db", "sqlite:////a@b/c.db"),
        ("https://host:80/trips@2x.csv", "https://host:80/trips@2x.csv"),
        ("s3://bucket/trips@v1.csv", "s3://bucket/trips@v1.csv"),
    ],
)
def test_what_is_shown_has_no_credentials(uri: str, shown: str) -> None:
    """Neither user nor password nor a signed query is shown."""
    assert without_credentials(uri) == shown


def test_http_credentials_go_by_the_environment() -> None:
    """The client is given a URI that it may name in any error."""
    uri, said = credentials_apart("https://bob:p%40w%3A@host:5000/x")
    assert uri == "https://host:5000/x"
    assert said == {"MLFLOW_TRACKING_USERNAME": "bob", "MLFLOW_TRACKING_PASSWORD": "p@w:"}


@pytest.mark.parametrize("uri", ["http://host:5000", "sqlite:///a.db", "postgresql://b:p@h/d"])
def test_others_are_left_alone(uri: str) -> None:
    """Without credentials there are none; a database's driver reads its own."""
    assert credentials_apart(uri) == (uri, {})


def test_an_error_that_names_a_uri_is_scrubbed() -> None:
    """What a library says is shown without the password in it."""
    said = "API request to http://bob:S3CRET@host/api failed; postgresql://bob:S3/CRET@h/db"
    assert scrubbed(said) == "API request to http://host/api failed; postgresql://h/db"


@pytest.mark.parametrize(
    ("status", "hint"),
    [
        (401, "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
        (403, "docs/tracking-server.md"),
        (None, "is --tracking-uri right?"),
        (500, "is --tracking-uri right?"),
    ],
)
def test_a_refusal_says_what_to_do(status: int | None, hint: str) -> None:
    """Who is not let in reads what to set, not whether the server runs."""
    said = str(unusable("http://bob:S3CRET@host:5000", "no", status))
    assert said.startswith("tracking server http://host:5000 cannot be used: no; ")
    assert hint in said
