"""Machines as they are: no home, a read-only home, proxies, variables that are meant for others."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import toy
from command import REPOSITORY, Command, Result, free_port, run_search, venv_environment, wait_until
from toy_command import search

pytestmark = pytest.mark.slow

DEAD_PROXY = "http://user:secret@127.0.0.1:9"

# root that must heed the permissions of files, as every other user
UNPRIVILEGED = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override"]
# a user id without a name, as in many containers
NAMELESS = ["unshare", "--user", "--map-user=12345", "--map-group=12345"]


def unusable(prefix: Sequence[str]) -> str:
    """Return why commands cannot be run so here; empty if they can."""
    try:
        done = subprocess.run([*prefix, "true"], capture_output=True, text=True, check=False)
    except OSError as error:
        return str(error)
    return done.stderr if done.returncode else ""


def searched(prefix: Sequence[str], folder: Path, home: Path | None) -> Result:
    """Search as another user, whose HOME is this one, or not set."""
    path = f"{REPOSITORY}:{Path(toy.__file__).parent}"
    as_user = [*prefix, "env", "-u", "HOME", *([] if home is None else [f"HOME={home}"])]
    argv = [*as_user, sys.executable, "-m", "toy", "--num-samples", "2"]
    with Command(argv, folder, {"PYTHONPATH": path}) as command:
        return command.wait(180)


@pytest.mark.skipif(bool(unusable(UNPRIVILEGED)), reason=unusable(UNPRIVILEGED))
@pytest.mark.parametrize("name", ["", "absent"], ids=["read-only", "absent"])
def test_home_that_cannot_be_written(name: str, tmp_path: Path) -> None:
    """A read-only container: nothing is written to the home, and it need not exist."""
    home = tmp_path / "home"
    home.mkdir(mode=0o555)
    assert subprocess.run([*UNPRIVILEGED, "touch", home / "x"], check=False).returncode
    result = searched(UNPRIVILEGED, tmp_path, home / name)
    assert result.code == 0, result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.skipif(bool(unusable(NAMELESS)), reason=unusable(NAMELESS))
def test_user_without_a_name_and_a_home(tmp_path: Path) -> None:
    """Neither HOME nor the system says where the home is."""
    result = searched(NAMELESS, tmp_path, None)
    assert result.code == 0, result.stderr
    assert "Traceback" not in result.stderr


def test_token_of_our_own_ray_is_private(tmp_path: Path) -> None:
    """Only this user can read it, it is in the search's folder, and goes with the search."""
    home = tmp_path / "home"
    home.mkdir()
    modes: set[int] = set()
    path = f"{REPOSITORY}:{Path(toy.__file__).parent}"
    environment = {"PYTHONPATH": path, "HOME": str(home)}
    argv = [sys.executable, "-m", "toy", "--num-samples", "2", "--name", "private"]
    token = tmp_path / ".search" / "private" / "ray" / "token"
    with Command(argv, tmp_path, environment) as command:
        wait_until(token.exists, 60, "Ray's token is there")
        modes.add(token.stat().st_mode & 0o777)
        result = command.wait(120)
    assert result.code == 0, result.stderr
    assert modes == {0o600}
    assert not token.exists()
    assert list(home.iterdir()) == []


BREAKING = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_ADDRESS": "10.255.255.1:6379",
    "RAY_REDIS_ADDRESS": "127.0.0.1:9",
    "RAY_RUNTIME_ENV_HOOK": "no_such_module.hook",
    "RAY_JOB_CONFIG_JSON_ENV_VAR": "{no json",
    "RAY_USE_TLS": "1",
    "RAY_OVERRIDE_RESOURCES": '{"CPU": 0}',
    "PYTHONWARNINGS": "error",
    "PYTHONOPTIMIZE": "1",
    "TUNE_RESULT_DIR": "/nonexistent",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "0",
    "TERM": "dumb",
    "LC_ALL": "C",
    "NO_COLOR": "1",
}


def test_variables_that_are_meant_for_others(tmp_path: Path) -> None:
    """Variables of another cluster, and settings that break libraries, do not reach our own Ray."""
    result = search(["--num-samples", "2"], tmp_path, BREAKING)
    assert result.code == 0, result.stderr
    assert "Traceback" not in result.stderr


def test_python_without_docstrings_is_refused(tmp_path: Path) -> None:
    """Ray reads its own docstrings at import; the line says what to unset; exit code 2."""
    result = search(["--num-samples", "2"], tmp_path, {"PYTHONOPTIMIZE": "2"})
    assert result.code == 2
    assert "PYTHONOPTIMIZE" in result.stderr_lines[-1]
    assert "Traceback" not in result.stderr


def test_proxy_is_not_asked_for_loopback(tmp_path: Path) -> None:
    """A proxy for the world beyond cannot reach a tracking server on this machine."""
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    server = ["mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    environment = {**venv_environment(), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with Command(server, tmp_path, environment) as command:

        def answers() -> bool:
            assert command.running, command.stderr
            asked = ["curl", "--noproxy", "*", "-fs", f"{uri}/health"]
            return subprocess.run(asked, capture_output=True, check=False).returncode == 0

        wait_until(answers, 120, "the tracking server answers")
        proxies = {"http_proxy": DEAD_PROXY, "ALL_PROXY": DEAD_PROXY, "no_proxy": "example.org"}
        result = search(["--num-samples", "2", "--tracking-uri", uri], tmp_path, proxies)
    assert result.code == 0, result.stderr


def test_error_names_the_proxy(tmp_path: Path) -> None:
    """A server beyond a dead proxy: the line names the proxy, not its password; exit code 2."""
    options = ["--tracking-uri", "http://tracking.example.org:5000"]
    result = run_search(options, tmp_path, {"http_proxy": DEAD_PROXY})
    assert result.code == 2
    (line,) = result.stderr_lines
    assert "tracking.example.org:5000" in line
    assert "through the proxy http://127.0.0.1:9" in line
    assert "secret" not in line
