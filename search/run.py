"""``python -m search.run``: from the command line to an exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from search.errors import Interrupted, SearchError
from search.options.command_line import parse
from search.options.settings import Settings
from search.present.terminal import (
    libraries_silenced,
    open_streams,
    report_error,
    restore_cursor,
)

if TYPE_CHECKING:
    from search.conduct.supervisor import Death


def main(argv: Sequence[str]) -> int:
    """Run one search; return the exit code: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    open_streams()
    try:
        settings = parse(argv)
    except KeyboardInterrupt:
        return report_error(Interrupted("interrupted before the search had begun"))
    except SearchError as error:
        return report_error(error)
    # what follows is imported after `--help` and wrong options
    from search.conduct.supervisor import supervised

    return supervised(partial(_run, settings), partial(_died, settings))


def _run(settings: Settings) -> int:
    try:
        return _search(settings)
    except KeyboardInterrupt:
        return report_error(Interrupted("interrupted before the search had begun"))
    except SearchError as error:
        return report_error(error)


def _died(settings: Settings, death: Death) -> int:
    from search.conduct.abandoned import report

    restore_cursor()
    return report_error(report(settings, death.cause, was_signalled=death.was_signalled))


def _search(settings: Settings) -> int:
    from search.execute import environment
    from search.record import server
    from search.record.state_folder import own_folder

    with own_folder(settings.state_dir, settings.name) as folder:
        server.prepare(settings.tracking.uri)
        environment.prepare(folder)
        # everything heavy comes after the environment that it reads
        from search.execute.stop_signal import StopSignal
        from search.present.progress import Display

        with StopSignal() as stop, libraries_silenced(folder / "log.txt") as terminal:
            from search.conduct.clock import Clock

            clock = Clock()

            from search.conduct.search import conduct
            from search.conduct.session import Session

            session = Session(folder, Display(terminal.messages), stop, clock)
            summary = conduct(settings, session)
            if settings.json:
                print(summary.json(), file=terminal.result, flush=True)
                if terminal.result.lost is not None:
                    raise SearchError(
                        f"stdout did not take the report: {terminal.result.lost.strerror}; "
                        f"search {settings.name!r} is done, and all of it is in MLflow"
                    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
