"""URIs as they may be shown and kept: without credentials."""

from __future__ import annotations

import re
from urllib.parse import urlsplit, urlunsplit

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
    query = "..." if parts.query else ""
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=query))


def scrubbed(text: str) -> str:
    """Return a text without user and password in any URI that it names."""
    return re.sub(r"://[^\s@]*@", "://", text)
