"""The environment variables with which Ray and the other libraries start, and those removed first.

Ray's processes and workers inherit the driver's variables.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from search.errors import InputError, SearchError

# Unix sockets end at 107 bytes, and Ray's names below its folder need 64 of them.
LONGEST_RAY_FOLDER = 43
OBJECT_STORE_BYTES = 2 * 2**30  # at most, where it is a file and not shared memory
SHARED_MEMORY = Path("/dev/shm")

ALWAYS = {
    "RAY_DEDUP_LOGS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # silences a warning about a coming default
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing leaves the machine
    # under `uv run`, Ray would start each worker by uv, in an environment made anew
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    # no CSV, JSON and TensorBoard files of each trial: MLflow holds it all
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # search/execute/stop_signal.py decides what Ctrl-C means
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a failed trial reports no score
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",  # Tune's own checkpoints serve its own restore only
    "TUNE_WARN_THRESHOLD_S": "1000000",
}
# Tune refuses the first; with the others, libraries that Ray's processes import raise or break
NEVER = ("TUNE_RESULT_DIR", "PYTHONWARNINGS", "PYTHONOPTIMIZE")
# what describes another cluster keeps one of our own from starting, or has it start without CPUs
OF_ANOTHER_CLUSTER = (
    "RAY_ADDRESS",
    "RAY_AUTH_MODE",  # unset, a new Ray asks for a token
    "RAY_AUTH_TOKEN",
    "RAY_JOB_CONFIG_JSON_ENV_VAR",
    "RAY_CLIENT_MODE",
    "RAY_OVERRIDE_JOB_RUNTIME_ENV",
    "RAY_OVERRIDE_RESOURCES",
    "RAY_REDIS_ADDRESS",
    "RAY_RUNTIME_ENV_HOOK",
    "RAY_USE_TLS",
)


def prepare(folder: Path) -> None:
    """Set what every search needs. ``folder`` is the search's own; call before Ray is imported.

    Libraries that ask for a home get ``folder`` if the system knows none, and one for their caches
    if the home cannot be written.

    :raises InputError: Python runs in a mode that Ray cannot run in.
    """
    if sys.flags.optimize > 1:
        raise InputError(
            "Python runs without docstrings (PYTHONOPTIMIZE=2 or -OO), which Ray needs; unset it"
        )
    os.environ.update(ALWAYS)
    for name in NEVER:
        os.environ.pop(name, None)
    if sys.warnoptions:  # the same for this process
        warnings.simplefilter("ignore")
    try:
        home = Path.home()
    except RuntimeError:  # no HOME, and a user id without a name
        os.environ["HOME"] = str(folder)
        home = folder
    if not os.access(home, os.W_OK | os.X_OK):
        # numba keeps what it compiles there, if not beside the source
        os.environ.setdefault("XDG_CACHE_HOME", str(folder.parent / ".cache"))
    try:
        tempfile.gettempdir()
    except FileNotFoundError:  # none of the usual folders can be written
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder)


def options_of_our_own(folder: Path) -> dict[str, Any]:
    """Prepare the environment for a Ray of our own below ``folder``; return options for its start.

    It asks for a token that only this user can read. Ray itself would keep one in the home, which
    may not exist, and readable by all users.
    """
    for name in OF_ANOTHER_CLUSTER:
        os.environ.pop(name, None)
    token = folder / "token"
    token.unlink(missing_ok=True)
    with open(os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)
    if os.access(SHARED_MEMORY, os.W_OK | os.X_OK):
        return {}
    free = shutil.disk_usage(folder).free
    return {
        "_plasma_directory": str(folder),
        "object_store_memory": min(OBJECT_STORE_BYTES, free // 4),
    }


@contextlib.contextmanager
def short_folder(folder: Path) -> Iterator[str]:
    """Yield a name of ``folder`` that is short enough for the sockets that Ray makes below it.

    :raises SearchError: no folder for temporary files is short enough.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if len(str(folder)) <= LONGEST_RAY_FOLDER:
        yield str(folder)
        return
    for place in (tempfile.gettempdir(), SHARED_MEMORY, os.environ.get("XDG_RUNTIME_DIR", "")):
        is_short = len(f"{place}/search-12345678/ray") <= LONGEST_RAY_FOLDER
        if place and is_short and os.access(place, os.W_OK | os.X_OK):
            with tempfile.TemporaryDirectory(prefix="search-", dir=place) as short:
                link = Path(short) / "ray"
                link.symlink_to(folder)
                yield str(link)
            return
    raise SearchError(
        f"Ray's sockets need a short path, and {folder} is too long; set TMPDIR to a folder of at "
        f"most {LONGEST_RAY_FOLDER - len('/search-12345678/ray')} characters that can be written"
    )
