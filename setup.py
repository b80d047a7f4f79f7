"""Writes the commit a wheel is built from into it: an installed search knows its code version."""

import os
import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithCommit(build_py):
    """Builds the packages, and search/_commit.txt beside them."""

    def run(self) -> None:
        """Build, then write the commit."""
        super().run()
        if commit := os.environ.get("SEARCH_GIT_COMMIT") or _checked_out():
            place = Path(self.build_lib) / "search" / "_commit.txt"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(commit + "\n")


def _checked_out() -> str:
    try:
        asked = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:  # no git here
        return ""
    return asked.stdout.strip() if asked.returncode == 0 else ""


setup(cmdclass={"build_py": BuildWithCommit})
