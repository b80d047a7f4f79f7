"""Is there a tracking server at all? Asked before anything heavy is imported."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote, urlsplit, urlunsplit

from search.errors import InputError

ANSWER_TIMEOUT_S = 6.0

# where MLflow's client looks for credentials (its documentation, "Authentication")
USER, PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"

# what to do about a server's refusal, by its HTTP status
HINTS = {
    401: f"set {USER} and {PASSWORD} to a user and a password that it knows",
    403: "whoever runs it grants what a search needs: docs/tracking-server.md",
}

# A database's user and password, as SQLAlchemy reads them: the password may hold any sign but @.
DATABASE_USER = re.compile(r"^(?!https?:)([a-z0-9+.-]+://)[^:/@]*(:[^@]*)?@", re.IGNORECASE)


def disable_telemetry() -> None:
    """Have MLflow tell its makers nothing of what is called; before its import, which begins it.

    Its thread also changes the environment while requests read it.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


def check(tracking_uri: str) -> None:
    """See that something answers HTTP at the URI; what it answers is the store's to judge.

    :raises InputError: nothing does, in time.
    """
    if not tracking_uri.lower().startswith(("http://", "https://")):
        return
    import http.client
    import ssl
    import urllib.error
    import urllib.request

    shown = without_credentials(tracking_uri)
    try:
        with urllib.request.urlopen(shown.rstrip("/") + "/health", timeout=ANSWER_TIMEOUT_S):
            return
    except urllib.error.HTTPError:
        return  # a refusal is an answer
    except http.client.BadStatusLine as error:
        raise unusable(tracking_uri, "what answers there does not speak HTTP") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLError):
            return  # there is a server; MLflow has settings of its own for certificates
        said = f"no answer within {ANSWER_TIMEOUT_S:.0f} s" if _timed_out(reason) else str(reason)
        raise unusable(tracking_uri, said or type(reason).__name__) from error


def unusable(tracking_uri: str, reason: str, status: int | None = None) -> InputError:
    """Return the error that a server or store cannot be used. ``status``: its answer in HTTP."""
    shown = without_credentials(tracking_uri)
    if tracking_uri.startswith("sqlite:"):
        return InputError(f"tracking store {shown}: {reason}; is --tracking-uri right?")
    hint = HINTS.get(status or 0, "is it running, and is --tracking-uri right?")
    return InputError(f"tracking server {shown} cannot be used: {reason}; {hint}")


def without_credentials(uri: str) -> str:
    """Return the URI as it may be shown and kept: no user's password, no signed query."""
    uri = DATABASE_USER.sub(r"\1", uri)
    try:
        parts = urlsplit(uri)
        _ = parts.port
    except ValueError:  # no URI, as http://[::1 and http://bob:p/w@host
        return re.sub(r"//.*@", "//", uri)
    if not parts.netloc:
        return uri
    query = "..." if parts.query else ""
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=query))


def credentials_apart(uri: str) -> tuple[str, dict[str, str]]:
    """Return an HTTP URI without its user and password, and the variables that hold them.

    MLflow's client reads them there; an error of its own that names the URI tells nobody then.
    """
    if not uri.lower().startswith(("http://", "https://")):
        return uri, {}
    parts = urlsplit(uri)
    if parts.username is None:
        return uri, {}
    said = {USER: unquote(parts.username), PASSWORD: unquote(parts.password or "")}
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])), said


def scrubbed(text: str) -> str:
    """Return a text with no user or password in any URI it names."""
    return re.sub(r"://[^\s@]*@", "://", text)


def _timed_out(reason: object) -> bool:
    return isinstance(reason, TimeoutError)
