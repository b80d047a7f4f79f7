"""``python -m search.run``: from the command line to an exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from search import server
from search.errors import Interrupted, SearchError
from search.settings import Settings, parse
from search.state import own_folder
from search.terminal import libraries_silenced, open_streams, told


def main(argv: Sequence[str]) -> int:
    """Run one search; return the exit code (INTERFACE: 0, 1, 2 or 130)."""
    open_streams()
    try:
        return _conducted(parse(argv))
    except KeyboardInterrupt:
        return told(Interrupted("interrupted before the search had begun"))
    except SearchError as error:
        return told(error)


def _conducted(settings: Settings) -> int:
    with own_folder(settings.state_dir, settings.name) as folder:
        server.check(settings.tracking_uri)
        server.disable_telemetry()
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
