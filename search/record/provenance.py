"""Where a run came from: code version, author, machine, installed packages."""

from __future__ import annotations

import os
import platform
from pathlib import Path

COMMIT_VARIABLE = "SEARCH_GIT_COMMIT"  # set by those who submit a job without a checkout
BAKED_COMMIT = Path(__file__).parents[1] / "_commit.txt"  # written when a wheel is built
UNKNOWN = "unknown"


def git_commit() -> str:
    """Return the code's commit: the checkout's, else the wheel's, else the variable's."""
    baked = BAKED_COMMIT.read_text().strip() if BAKED_COMMIT.is_file() else ""
    return _checked_out() or baked or os.environ.get(COMMIT_VARIABLE, "").strip() or UNKNOWN


def requirements() -> str:
    """Return every installed distribution with its exact version, one a line."""
    from importlib import metadata

    found = {
        f"{each.metadata['Name']}=={each.version}"
        for each in metadata.distributions()
        if each.metadata["Name"]
    }
    return "\n".join(sorted(found, key=str.lower)) + "\n"


def machine() -> dict[str, str]:
    """Return tags for Python and the platform."""
    return {"python": platform.python_version(), "platform": platform.platform()}


def os_user() -> str:
    """Return the name of the user who runs this process."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in some containers
        return str(os.getuid())


def _checked_out() -> str:
    top = Path(__file__).parents[2]
    if not (top / ".git").exists():
        return ""
    import subprocess

    try:
        asked = subprocess.run(
            ["git", "-C", str(top), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):  # no git on this machine, or a hanging disk
        return ""
    return asked.stdout.strip() if asked.returncode == 0 else ""
