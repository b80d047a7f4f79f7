"""Checks that a tracking server answers, before anything heavy is imported."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from search.errors import InputError
from search.values.uri import user_apart, without_credentials

ANSWER_TIMEOUT_S = 6.0

# where MLflow's client looks for credentials (its documentation, "Authentication")
USER, PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"

# with these a proxy refuses, or finds no server behind it
PROXY_REFUSALS = (407, 502, 503, 504)

# what to do about a server's refusal, by its HTTP status
HINTS = {
    401: f"set {USER} and {PASSWORD} to those of one of its users",
    403: "ask whoever runs it to grant what a search needs: docs/tracking-server.md",
}


def prepare(tracking_uri: str) -> None:
    """Check that something answers at the URI, and set how MLflow asks it; before its import.

    :raises InputError: nothing answers, in time.
    """
    disable_telemetry()
    bypass_proxy_on_loopback(tracking_uri)
    check(tracking_uri)


def disable_telemetry() -> None:
    """Switch MLflow's telemetry off, before its import starts it.

    Its thread also changes the environment while requests read it.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


def bypass_proxy_on_loopback(tracking_uri: str) -> None:
    """Bypass the proxy for a server on this machine, which a proxy cannot reach."""
    # MLflow's client for S3 asks the proxy, too
    uris = (tracking_uri, os.environ.get("MLFLOW_S3_ENDPOINT_URL", ""))
    hosts = [host for host in map(_host, uris) if _is_loopback(host)]
    if not hosts:
        return
    # the lower case wins; if it is empty, urllib takes it and requests takes the upper case
    kept = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    if kept.strip() == "*":
        return
    # requests wants ::1, urllib [::1]
    names = [name for host in hosts for name in ([host, f"[{host}]"] if ":" in host else [host])]
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join([*filter(None, [kept]), *names])


def check(tracking_uri: str) -> None:
    """Check that something answers HTTP at the URI; the store judges what it answers.

    :raises InputError: nothing does, in time.
    """
    if not tracking_uri.lower().startswith(("http://", "https://")):
        return
    import http.client
    import ssl
    import urllib.error
    import urllib.request

    shown = without_credentials(tracking_uri)
    # the proxy that MLflow's client takes; urllib by itself knows no ALL_PROXY
    proxy = _proxy(shown)
    if proxy is not None and proxy.startswith("socks"):
        return  # urllib cannot ask it
    handler = urllib.request.ProxyHandler({} if proxy is None else {"http": proxy, "https": proxy})
    try:
        opener = urllib.request.build_opener(handler)
        with opener.open(shown.rstrip("/") + "/health", timeout=ANSWER_TIMEOUT_S):
            return
    except urllib.error.HTTPError as error:
        if proxy is None or error.code not in PROXY_REFUSALS:
            return  # a refusal is an answer
        raise unusable(tracking_uri, f"HTTP {error.code} {error.reason}") from error
    except http.client.BadStatusLine as error:
        raise unusable(tracking_uri, "what answers there does not speak HTTP") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLError):
            return  # there is a server; MLflow has settings of its own for certificates
        if isinstance(reason, TimeoutError):
            reason = f"no answer within {ANSWER_TIMEOUT_S:.0f} s"
        raise unusable(tracking_uri, str(reason) or type(reason).__name__) from error


def unusable(tracking_uri: str, reason: str, status: int | None = None) -> InputError:
    """Return the error that a server or store cannot be used. ``status``: its HTTP status."""
    shown = without_credentials(tracking_uri)
    if tracking_uri.startswith("sqlite:"):
        return InputError(f"tracking store {shown}: {reason}; is --tracking-uri right?")
    if status not in HINTS and (proxy := _proxy(shown)) is not None:
        return InputError(
            f"tracking server {shown} cannot be used: {reason}; it was asked through the proxy "
            f"{without_credentials(proxy)}: if it can be reached directly, add "
            f"{_host(tracking_uri)} to no_proxy"
        )
    hint = HINTS.get(status or 0, "is it running, and is --tracking-uri right?")
    return InputError(f"tracking server {shown} cannot be used: {reason}; {hint}")


def credentials_apart(uri: str) -> tuple[str, dict[str, str]]:
    """Return an HTTP URI without user and password, and the variables that hold them.

    MLflow's client reads them there, so its errors, which name the URI, do not show them.
    """
    if not uri.lower().startswith(("http://", "https://")):
        return uri, {}
    bare, user, password = user_apart(uri)
    return (uri, {}) if user is None else (bare, {USER: user, PASSWORD: password})


def _proxy(uri: str) -> str | None:
    """Return the proxy through which MLflow's client asks for the URI, if there is one."""
    may_have = any(name.lower().endswith("_proxy") for name in os.environ)
    if not may_have or not uri.lower().startswith(("http://", "https://")):
        return None  # without importing requests
    from requests.utils import get_environ_proxies, select_proxy

    proxy = select_proxy(uri, get_environ_proxies(uri))
    if not proxy:
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _host(uri: str) -> str:
    try:
        return urlsplit(uri).hostname or ""
    except ValueError:  # not a URI
        return ""


def _is_loopback(host: str) -> bool:
    if host.rstrip(".").lower() == "localhost" or host.rstrip(".").lower().endswith(".localhost"):
        return True
    import ipaddress

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
