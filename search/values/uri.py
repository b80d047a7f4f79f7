"""URIs without credentials: as they may be shown and kept, and as a client is given them."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

# A database's user and password, as SQLAlchemy reads them: the password may hold any sign but @.
DATABASE_USER = re.compile(r"^(?!https?:)([a-z0-9+.-]+://)[^:/@]*(:[^@]*)?@", re.IGNORECASE)


def without_credentials(uri: str) -> str:
    """Return the URI without user, password and signed query."""
    uri = DATABASE_USER.sub(r"\1", uri)
    try:
        parts = urlsplit(uri)
        _ = parts.port
    except ValueError:  # not a URI, as http://[::1 and http://bob:p/w@host
        return re.sub(r"//.*@", "//", uri)
    if not parts.netloc:
        return uri
    return urlunsplit(_without_user(parts)._replace(query="..." if parts.query else ""))


def user_apart(uri: str) -> tuple[str, str | None, str]:
    """Return a URI without user and password, and these two; None as the user: it has none."""
    parts = urlsplit(uri)
    user = None if parts.username is None else unquote(parts.username)
    return urlunsplit(_without_user(parts)), user, unquote(parts.password or "")


def scrubbed(text: str) -> str:
    """Return a text without user and password in any URI that it names."""
    return re.sub(r"://[^\s@]*@", "://", text)


def _without_user(parts: SplitResult) -> SplitResult:
    return parts._replace(netloc=parts.netloc.rpartition("@")[2])
