"""Files from URLs: fetched once, whole or not at all, and kept."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import re
import secrets
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from search.errors import InputError
from search.tasks.base import Display
from search.values.uri import without_credentials

TIMEOUT_S = 10.0  # for the connection and for each read


class OutOfReach(InputError):
    """The URL cannot be reached, or does not return the file."""


def file_name(url: str) -> str:
    """Return the name under which a URL's file is kept: its own, and a mark of the whole address.

    :raises InputError: the URL names no file, or its scheme is neither http nor https.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        host = parts.hostname
    except ValueError as error:
        raise InputError(f"not a URL: {error}; name one as https://host/file.csv") from error
    if parts.scheme not in ("http", "https"):
        raise InputError(
            f"{without_credentials(url)}: cannot read {parts.scheme}://; use http, https or a file"
        )
    name = PurePosixPath(urllib.parse.unquote(parts.path)).name
    if not host or not re.fullmatch(r"[\w][\w.=+-]{0,150}", name):
        raise InputError(
            f"{without_credentials(url)}: names no file; name one as https://host/file.csv"
        )
    # Two addresses may end in the same name.
    mark = hashlib.sha256(url.encode()).hexdigest()[:8]
    stem, dot, suffix = name.partition(".")
    return f"{stem}-{mark}{dot}{suffix}"


def kept(url: str, target: Path, display: Display, timeout_s: float = TIMEOUT_S) -> Path:
    """Return ``target``, after downloading it from ``url`` if it is not there yet.

    :raises OutOfReach: it cannot be downloaded.
    :raises InputError: it cannot be written.
    """
    if not target.exists():
        try:
            _download(url, target, display, timeout_s)
        except OSError as error:
            raise InputError(
                f"{target}: cannot be written: {error.strerror or error}; "
                "make room there or choose another --data-dir"
            ) from error
    return target


def _download(url: str, target: Path, display: Display, timeout_s: float) -> None:
    with contextlib.closing(_opened(url, target, timeout_s)) as answer:
        target.parent.mkdir(parents=True, exist_ok=True)
        # A name of its own: two searches may download the same file at once.
        aside = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
        length = _length(answer)
        try:
            with (
                aside.open("xb") as file,
                display.downloading(without_credentials(url), target.name, length) as advance,
            ):
                for block in _blocks(answer, url, target, timeout_s):
                    file.write(block)
                    advance(len(block))
                file.flush()
                os.fsync(file.fileno())
            _check_whole(aside, length, url, target)
            aside.replace(target)
        finally:
            aside.unlink(missing_ok=True)


def _opened(url: str, target: Path, timeout_s: float) -> Any:
    # urllib rather than requests: it is typed, in the standard library, and handles redirects,
    # proxies and time-outs. Compressed, the length would not be the file's.
    with _network(url, target, timeout_s):
        request = urllib.request.Request(url, headers={"Accept-Encoding": "identity"})
        return urllib.request.urlopen(request, timeout=timeout_s)


def _blocks(answer: Any, url: str, target: Path, timeout_s: float) -> Iterator[bytes]:
    while True:
        with _network(url, target, timeout_s):
            block: bytes = answer.read(1 << 16)
        if not block:
            return
        yield block


@contextlib.contextmanager
def _network(url: str, target: Path, timeout_s: float) -> Iterator[None]:
    """Turn whatever goes wrong between here and the server, and only that, into one error."""
    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        raise _out_of_reach(url, target, f"HTTP {error.code} {error.reason}") from error
    except TimeoutError as error:
        raise _out_of_reach(url, target, f"no answer within {timeout_s:g} s") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            reason = f"no answer within {timeout_s:g} s"
        raise _out_of_reach(url, target, str(reason) or type(error).__name__) from error


def _out_of_reach(url: str, target: Path, reason: str) -> OutOfReach:
    return OutOfReach(
        f"{without_credentials(url)}: cannot be downloaded: {' '.join(reason.split())}; "
        f"check the address and the network, or put the file at {target}"
    )


def _length(answer: Any) -> int | None:
    length = answer.headers.get("Content-Length", "")
    return int(length) if re.fullmatch(r"[0-9]{1,18}", length) else None


def _check_whole(aside: Path, length: int | None, url: str, target: Path) -> None:
    size = aside.stat().st_size
    if length is not None and size != length:
        raise _out_of_reach(url, target, f"{size} of {length} bytes came")
    if target.suffix == ".parquet":
        # A log-in page sent in place of the file must not be kept as the file.
        with aside.open("rb") as file:
            head = file.read(4)
            file.seek(-min(4, size), os.SEEK_END)
            tail = file.read(4)
        if head != b"PAR1" or tail != b"PAR1":
            raise _out_of_reach(url, target, f"the {size} bytes that came are no parquet file")
