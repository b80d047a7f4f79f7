"""Writes the git commit into the wheel, so that an installed search knows its code version."""

import os
import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithCommit(build_py):
    """Builds the packages, and the file search/_commit.txt with the commit."""

    def run(self) -> None:
        """Build the packages, then write the commit."""
        super().run()
        if commit := os.environ.get("SEARCH_GIT_COMMIT") or _checked_out():
            # search/record/provenance.py reads it there
            file = Path(self.build_lib) / "search" / "_commit.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(commit + "\n")


def _checked_out() -> str:
    try:
        result = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:  # no git here
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""


setup(cmdclass={"build_py": BuildWithCommit})
