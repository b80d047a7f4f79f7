"""Machines as they are: no home, a read-only home, proxies, variables that are meant for others."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import toy
from command import REPOSITORY, Command, Result, free_port, run_search, venv_environment, wait_until
from conftest import NewStore, selected
from toy_command import search, start

pytestmark = pytest.mark.slow

AT_ONCE = 3
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


def read_only_home(folder: Path) -> Result:
    """Nothing is written to the home of a read-only container."""
    return searched(UNPRIVILEGED, folder, made_read_only(folder))


def absent_home(folder: Path) -> Result:
    """The home need not exist, and cannot be made."""
    return searched(UNPRIVILEGED, folder, made_read_only(folder) / "absent")


def made_read_only(folder: Path) -> Path:
    """Make a folder that a user who heeds permissions cannot write."""
    home = folder / "home"
    home.mkdir(mode=0o555)
    assert subprocess.run([*UNPRIVILEGED, "touch", home / "x"], check=False).returncode
    return home


def neither_name_nor_home(folder: Path) -> Result:
    """Neither HOME nor the system says where the home is."""
    return searched(NAMELESS, folder, None)


def private_token(folder: Path) -> Result:
    """Only this user can read the token of our own Ray; it goes with the search."""
    home = folder / "home"
    home.mkdir()
    token = folder / ".search" / "private" / "ray" / "token"
    options = ["--num-samples", "2", "--name", "private"]
    with start(options, folder, {"HOME": str(home)}) as command:
        wait_until(token.exists, 60, "Ray's token is there")
        mode = token.stat().st_mode & 0o777
        result = command.wait(120)
    assert mode == 0o600
    assert not token.exists()
    assert list(home.iterdir()) == []
    return result


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


def variables_for_others(folder: Path) -> Result:
    """Variables of another cluster, and settings that break libraries, do not reach our own Ray."""
    return search(["--num-samples", "2"], folder, BREAKING)


def proxy_for_the_world_beyond(folder: Path) -> Result:
    """A proxy that cannot reach a tracking server on this machine is not asked for it."""
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    server = ["mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    environment = {**venv_environment(), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with Command(server, folder, environment) as command:

        def answers() -> bool:
            assert command.running, command.stderr
            asked = ["curl", "--noproxy", "*", "-fs", f"{uri}/health"]
            return subprocess.run(asked, capture_output=True, check=False).returncode == 0

        wait_until(answers, 120, "the tracking server answers")
        proxies = {"http_proxy": DEAD_PROXY, "ALL_PROXY": DEAD_PROXY, "no_proxy": "example.org"}
        return search(["--num-samples", "2", "--tracking-uri", uri], folder, proxies)


MACHINES: Mapping[str, Callable[[Path], Result]] = {
    "read-only home": read_only_home,
    "absent home": absent_home,
    "neither name nor home": neither_name_nor_home,
    "private token": private_token,
    "variables for others": variables_for_others,
    "proxy for the world beyond": proxy_for_the_world_beyond,
}
UNUSABLE = {
    "read-only home": unusable(UNPRIVILEGED),
    "absent home": unusable(UNPRIVILEGED),
    "neither name nor home": unusable(NAMELESS),
}


@pytest.fixture(scope="module")
def results(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, new_store: NewStore
) -> Mapping[str, Future[Result]]:
    """The searches that selected tests need, some in parallel."""
    pool, wanted = ThreadPoolExecutor(AT_ONCE), selected(request, "name")

    def begin(name: str) -> Future[Result]:
        folder = tmp_path_factory.mktemp("machine")
        new_store(folder)
        return pool.submit(MACHINES[name], folder)

    return {name: begin(name) for name in MACHINES if name in wanted and not UNUSABLE.get(name)}


@pytest.mark.parametrize("name", MACHINES)
def test_search_ends_well(name: str, results: Mapping[str, Future[Result]]) -> None:
    """What is special about the machine is no reason to fail."""
    if reason := UNUSABLE.get(name):
        pytest.skip(reason)
    result = results[name].result()
    assert result.code == 0, result.stderr
    assert "Traceback" not in result.stderr


def test_python_without_docstrings_is_refused(tmp_path: Path) -> None:
    """Ray reads its own docstrings at import; the line says what to unset; exit code 2."""
    result = search(["--num-samples", "2"], tmp_path, {"PYTHONOPTIMIZE": "2"})
    assert result.code == 2
    assert "PYTHONOPTIMIZE" in result.stderr_lines[-1]
    assert "Traceback" not in result.stderr


def test_error_names_the_proxy(tmp_path: Path) -> None:
    """A server beyond a dead proxy: the line names the proxy, not its password; exit code 2."""
    options = ["--tracking-uri", "http://tracking.example.org:5000"]
    result = run_search(options, tmp_path, {"http_proxy": DEAD_PROXY})
    assert result.code == 2
    (line,) = result.stderr_lines
    assert "tracking.example.org:5000" in line
    assert "through the proxy http://127.0.0.1:9" in line
    assert "secret" not in line
