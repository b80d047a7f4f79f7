"""Where trips come from: files, globs, URLs, TLC's published months, or generated ones.

What the user names is never replaced: if it cannot be found or read, that is an error. Only the
default months fall back to generated trips, and the user is told.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from search.errors import InputError
from search.tasks import download
from search.tasks.base import Display
from search.tasks.green_taxi import sample, usable_trips
from search.tasks.green_taxi.usable_trips import Trips

Origin = Literal["files", "tlc", "sample"]

TLC_URL = "https://d37ci6vzurychx.cloudfront.net/trip-data"
DEFAULT_TRAIN = ("green:2021-01",)
DEFAULT_VALID = ("green:2021-02",)
SAMPLE = "sample"


@dataclass(frozen=True)
class Located:
    """The trips of a search, role by role, and where they come from.

    The origin is ``sample`` as soon as one role's trips are generated, ``tlc`` if training and
    validation are TLC's months throughout, else ``files``.
    """

    train: Trips
    valid: Trips
    test: Trips | None
    origin: Origin


@dataclass(frozen=True)
class Source:
    """Where months and URLs are downloaded from and to."""

    data_dir: Path
    display: Display
    tlc_url: str = TLC_URL
    timeout_s: float = download.TIMEOUT_S


def locate(
    train: Sequence[str], valid: Sequence[str], test: Sequence[str], source: Source
) -> Located:
    """Find, download where needed, and read what the options name; nothing named is the default.

    :raises InputError: something named cannot be read.
    """
    test_trips = _read(test, "2021-03", source) if test else None
    if not train:
        train, valid = _default_months(source)
    return Located(
        train=_read(train, "2021-01", source),
        valid=_read(valid, "2021-02", source),
        test=test_trips,
        origin=_origin([*train, *valid], test),
    )


def resolve(named: Sequence[str], source: Source) -> list[Path]:
    """Return the local files behind files, globs, URLs and months, in the order named.

    A glob's files are sorted. URLs and months are downloaded into ``source.data_dir`` and kept.
    """
    paths: list[Path] = []
    for name in named:
        for path in _resolved(name, source):
            if path in paths:
                raise InputError(f"{path}: named twice, its trips would count twice; name it once")
            paths.append(path)
    return paths


def _read(named: Sequence[str], month: sample.Month, source: Source) -> Trips:
    if SAMPLE in named:
        if len(named) > 1:
            raise InputError(f"{' '.join(named)}: 'sample' goes alone; name it or files")
        return usable_trips.from_frame(sample.made_month(month), SAMPLE)
    return usable_trips.read(resolve(named, source))


def _default_months(source: Source) -> tuple[Sequence[str], Sequence[str]]:
    try:
        for named in (DEFAULT_TRAIN, DEFAULT_VALID):
            resolve(named, source)
    except download.OutOfReach as error:
        source.display.say(f"WARNING: {error}")
        source.display.say(
            "WARNING: this search learns from MADE-UP trips (the sample), not from real ones"
        )
        return (SAMPLE,), (SAMPLE,)
    return DEFAULT_TRAIN, DEFAULT_VALID


def _resolved(name: str, source: Source) -> list[Path]:
    if _is_month(name):
        file = _month_file(name)
        url = f"{source.tlc_url.rstrip('/')}/{file}"
    elif "://" in name:
        file, url = download.file_name(name), name
    else:
        return _files(name)
    return [download.kept(url, source.data_dir / file, source.display, source.timeout_s)]


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
        return [path]  # usable_trips.read says what is wrong with it
    matches = map(Path, glob.glob(str(path), recursive=True))
    found = sorted(match for match in matches if match.is_file())
    if not found:
        raise InputError(f"{name}: no file matches; check the pattern")
    return found


def _is_pattern(name: str) -> bool:
    return any(mark in name for mark in "*?[")
