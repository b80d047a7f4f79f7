"""``python -m search.run``: from the command line to an exit code."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

from search import server
from search.errors import InputError, Interrupted, SearchError
from search.settings import Settings, parse
from search.terminal import libraries_silenced, open_streams


def main(argv: Sequence[str]) -> int:
    """Run one search; return the exit code (INTERFACE: 0, 1, 2 or 130)."""
    open_streams()
    try:
        settings = parse(argv)
        folder = _own_folder(settings)
    except SearchError as error:
        return _told(error)
    try:
        return _conducted(settings, folder)
    except KeyboardInterrupt:
        return _told(Interrupted("interrupted; no trial had been started or all are kept"))
    except SearchError as error:
        return _told(error)


def _conducted(settings: Settings, folder: Path) -> int:
    server.check(settings.tracking_uri)
    # everything heavy is imported here, behind `--help` and behind what options can be wrong in
    from search.progress import Clock, Teller
    from search.stopping import Stop

    clock = Clock()
    with Stop() as stop, libraries_silenced(folder / "log.txt") as terminal:
        from search.conductor import conduct

        report = conduct(settings, folder, Teller(terminal.story), stop, clock)
        if settings.json:
            print(report.json(), file=terminal.result, flush=True)
            if terminal.result.lost is not None:
                raise SearchError(
                    f"stdout did not take the report: {terminal.result.lost.strerror}; "
                    f"search {settings.name!r} is done, and all of it is in MLflow"
                )
    return 0


def _own_folder(settings: Settings) -> Path:
    """Make the search's own folder in the state folder, for this user only."""
    folder = settings.state_dir / _file_name(settings.name)
    try:
        # A folder that is there already keeps its mode: it may be more than ours.
        settings.state_dir.parent.mkdir(parents=True, exist_ok=True)
        settings.state_dir.mkdir(mode=0o700, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"--state-dir {settings.state_dir}: {error.strerror}; give a folder that can be written"
        ) from error
    return folder


def _file_name(name: str) -> str:
    """Return the name itself where it is a plain file name, else one that is no other's."""
    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name):
        return name
    return f"{quote(name, safe='')[:80]}-{sha256(name.encode()).hexdigest()[:8]}"


def _told(error: SearchError) -> int:
    print(f"search: {error}", file=sys.stderr, flush=True)
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
