"""URIs are shown without user, password and signed query."""

from __future__ import annotations

import pytest

from search.values.uri import scrubbed, user_apart, without_credentials


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://bob:pw@host:5000/x", "http://host:5000/x"),
        ("postgresql://bob:p%40w@host/db", "postgresql://host/db"),
        ("https://host/x?token=abc", "https://host/x?..."),
        ("postgresql+psycopg://bob:12/p?w#@host:5432/db", "postgresql+psycopg://host:5432/db"),
        ("http://bob:p/w@host:5000", "http://host:5000"),  # not a URI, but an error names it
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
        ("sqlite:////a@b/c.db", "sqlite:////a@b/c.db"),
        ("https://host:80/trips@2x.csv", "https://host:80/trips@2x.csv"),
        ("s3://bucket/trips@v1.csv", "s3://bucket/trips@v1.csv"),
    ],
)
def test_shown_uri_has_no_credentials(uri: str, shown: str) -> None:
    """User, password and signed query are removed; an @ in a path stays."""
    assert without_credentials(uri) == shown


def test_uris_in_a_message_are_scrubbed() -> None:
    """A library's message is shown without the passwords in it."""
    message = "API request to http://bob:S3CRET@host/api failed; postgresql://bob:S3/CRET@h/db"
    assert scrubbed(message) == "API request to http://host/api failed; postgresql://h/db"


@pytest.mark.parametrize(
    ("uri", "apart"),
    [
        ("http://bob:p%40w@host:5000/x?a=b", ("http://host:5000/x?a=b", "bob", "p@w")),
        ("http://bob@host", ("http://host", "bob", "")),
        ("http://host/x", ("http://host/x", None, "")),
    ],
)
def test_user_and_password_are_returned_as_they_are_sent(
    uri: str, apart: tuple[str, str | None, str]
) -> None:
    """Not as the URI writes them; the rest of the URI stays, its query too."""
    assert user_apart(uri) == apart
