"""Where trips come from: files, URLs, TLC's published months, or the made sample.

What the user names is never replaced by anything else: what cannot be had is an error. Only the
default, where nothing is named, falls back to the made sample, and says so.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import http.client
import os
import re
import secrets
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from search import sample, trips
from search.errors import InputError
from search.progress import Teller
from search.server import without_credentials
from search.trips import Trips

Origin = Literal["files", "tlc", "sample"]

TLC_URL = "https://d37ci6vzurychx.cloudfront.net/trip-data"
DEFAULT_TRAIN = ("green:2021-01",)
DEFAULT_VALID = ("green:2021-02",)
SAMPLE = "sample"


@dataclass(frozen=True)
class Located:
    """The trips of a search, role by role, and where they come from.

    The origin is ``sample`` as soon as one role's trips are made up, ``tlc`` when training and
    validation are TLC's months throughout, else ``files``.
    """

    train: Trips
    valid: Trips
    test: Trips | None
    origin: Origin


def locate(
    train: Sequence[str],
    valid: Sequence[str],
    test: Sequence[str],
    data_dir: Path,
    tell: Teller,
    *,
    tlc_url: str = TLC_URL,
    timeout_s: float = 10.0,
) -> Located:
    """Find, download where needed, and read what the options name; none named is the default."""
    if bool(train) != bool(valid):
        given, absent = (
            ("--train-data", "--valid-data") if train else ("--valid-data", "--train-data")
        )
        raise InputError(f"{given} is given without {absent}; give both or neither")

    def read(named: Sequence[str], month: sample.Month) -> Trips:
        if SAMPLE in named:
            if len(named) > 1:
                raise InputError(f"{' '.join(named)}: 'sample' goes alone; name it or files")
            return trips.from_frame(sample.made_month(month), SAMPLE)
        found = resolve(named, data_dir, tell, tlc_url=tlc_url, timeout_s=timeout_s)
        return trips.read(found)

    test_trips = read(test, "2021-03") if test else None
    if not train:
        try:
            train, valid = DEFAULT_TRAIN, DEFAULT_VALID
            for named in (train, valid):
                resolve(named, data_dir, tell, tlc_url=tlc_url, timeout_s=timeout_s)
        except _OutOfReachError as error:
            train = valid = (SAMPLE,)
            tell.say(f"WARNING: {error}")
            tell.say(
                "WARNING: this search learns from MADE-UP trips (the sample), not from real ones"
            )
    return Located(
        train=read(train, "2021-01"),
        valid=read(valid, "2021-02"),
        test=test_trips,
        origin=_origin([*train, *valid], test),
    )


def resolve(
    named: Sequence[str],
    data_dir: Path,
    tell: Teller,
    *,
    tlc_url: str = TLC_URL,
    timeout_s: float = 10.0,
) -> list[Path]:
    """Return the local files behind files, globs, URLs and months, in the order named.

    A glob's files come sorted. URLs and months are downloaded into ``data_dir`` and kept there.
    """
    paths: list[Path] = []
    for name in named:
        if _is_month(name):
            file_name = _month_file(name)
            url = f"{tlc_url.rstrip('/')}/{file_name}"
            found = [_kept(url, data_dir / file_name, tell, timeout_s)]
        elif "://" in name:
            found = [_kept(name, data_dir / _url_file(name), tell, timeout_s)]
        else:
            found = _files(name)
        for path in found:
            if path in paths:
                raise InputError(f"{path}: named twice, its trips would count twice; name it once")
            paths.append(path)
    return paths


class _OutOfReachError(InputError):
    """Nothing answered at the URL, or not with the file."""


def _origin(learned_from: Sequence[str], tested_on: Sequence[str]) -> Origin:
    if SAMPLE in (*learned_from, *tested_on):
        return "sample"
    return "tlc" if all(map(_is_month, learned_from)) else "files"


def _is_month(name: str) -> bool:
    # A colour and a colon; neither "https://..." nor "C:\\trips.parquet".
    return re.match(r"[A-Za-z]{2,}:(?!//)", name) is not None and not os.path.exists(name)


def _month_file(name: str) -> str:
    colour, _, month = name.partition(":")
    if colour != "green":
        raise InputError(f"{name}: only green-taxi months are known; name one as green:2021-01")
    if not re.fullmatch(r"20[0-9]{2}-(0[1-9]|1[0-2])", month) or month < "2013-08":
        raise InputError(f"{name}: no such month; name one from green:2013-08 on, as green:2021-01")
    return f"green_tripdata_{month}.parquet"


def _files(name: str) -> list[Path]:
    path = Path(os.path.expanduser(name))
    if not _is_pattern(name) or os.path.exists(path):
        return [path]  # trips.read says what is wrong with it, should it be
    matches = map(Path, glob.glob(str(path), recursive=True))
    found = sorted(match for match in matches if match.is_file())
    if not found:
        raise InputError(f"{name}: no file matches; check the pattern")
    return found


def _is_pattern(name: str) -> bool:
    return any(mark in name for mark in "*?[")


def _url_file(url: str) -> str:
    """Return the name a URL's file is kept under: its own, and a mark of the whole address."""
    try:
        parts = urllib.parse.urlsplit(url)
        host = parts.hostname
    except ValueError as error:
        raise InputError(f"not a URL: {error}; name one as https://host/trips.parquet") from error
    if parts.scheme not in ("http", "https"):
        raise InputError(
            f"{without_credentials(url)}: cannot read {parts.scheme}://; use http, https or a file"
        )
    name = PurePosixPath(urllib.parse.unquote(parts.path)).name
    if not host or not re.fullmatch(r"[\w][\w.=+-]{0,150}", name):
        raise InputError(
            f"{without_credentials(url)}: names no file; name one as https://host/trips.parquet"
        )
    # Two addresses may end in the same name.
    mark = hashlib.sha256(url.encode()).hexdigest()[:8]
    stem, dot, suffix = name.partition(".")
    return f"{stem}-{mark}{dot}{suffix}"


def _kept(url: str, target: Path, tell: Teller, timeout_s: float) -> Path:
    if not target.exists():
        try:
            _download(url, target, tell, timeout_s)
        except OSError as error:
            raise InputError(
                f"{target}: cannot be written: {error.strerror or error}; "
                "make room there or choose another --data-dir"
            ) from error
    return target


def _download(url: str, target: Path, tell: Teller, timeout_s: float) -> None:
    """Fetch the URL into ``target``: whole, or not at all."""
    with contextlib.closing(_opened(url, target, timeout_s)) as answer:
        target.parent.mkdir(parents=True, exist_ok=True)
        # A name of its own: two searches may download the same month at once.
        aside = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
        length = _length(answer)
        try:
            with (
                aside.open("xb") as file,
                tell.downloading(without_credentials(url), target.name, length) as advance,
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
    # urllib rather than requests: it is the standard library's and typed, and redirects, proxies
    # and time-outs are all that is needed. Compressed, the length would not be the file's.
    with _network(url, target, timeout_s):
        request = urllib.request.Request(url, headers={"Accept-Encoding": "identity"})
        # The time-out holds for the connection and for each read.
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
    """Turn what goes wrong between here and the server, and only that, into one error."""
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


def _out_of_reach(url: str, target: Path, reason: str) -> _OutOfReachError:
    return _OutOfReachError(
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
        # A log-in page, sent in place of the file, would otherwise be kept as the month.
        with aside.open("rb") as file:
            head = file.read(4)
            file.seek(-min(4, size), os.SEEK_END)
            tail = file.read(4)
        if head != b"PAR1" or tail != b"PAR1":
            raise _out_of_reach(url, target, f"the {size} bytes that came are no parquet file")
