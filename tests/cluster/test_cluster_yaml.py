"""Ray accepts the cluster files, and they are secure. Needs no AWS."""

import copy
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from jsonschema import ValidationError  # type: ignore[import-untyped]
from ray.autoscaler._private.util import prepare_config, validate_config

CHECKOUT = Path(__file__).resolve().parents[2]
FILES = ("cluster.yaml", "cluster-local.yaml")
TOKEN = "~/.ray/auth_token"  # where Ray reads it on every node
STORE = "~/.mlflow-store"  # the database's URI, with its password
START_COMMANDS = ("head_start_ray_commands", "worker_start_ray_commands")


@pytest.fixture(params=FILES)
def config(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Each file."""
    return load(request.param)


@pytest.fixture
def aws() -> dict[str, Any]:
    return load("cluster.yaml")


@pytest.fixture
def local() -> dict[str, Any]:
    return load("cluster-local.yaml")


def load(name: str) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((CHECKOUT / name).read_text())
    return config


def test_ray_accepts_the_file(config: dict[str, Any]) -> None:
    """`ray up` first fills in defaults and checks the file; both steps succeed."""
    validate_config(prepare_config(config))


def test_ray_refuses_an_unknown_key(config: dict[str, Any]) -> None:
    """Ray's check refuses a key that it does not know."""
    config["max_wrokers"] = 4
    with pytest.raises(ValidationError, match="max_wrokers"):
        validate_config(prepare_config(config))


def test_ray_refuses_an_unknown_key_of_a_node_type(aws: dict[str, Any]) -> None:
    """The check also covers nested keys."""
    aws["available_node_types"]["worker"]["max_wrokers"] = 4
    with pytest.raises(ValidationError, match="max_wrokers"):
        validate_config(prepare_config(aws))


def test_ray_refuses_an_unknown_node_type_of_the_head(aws: dict[str, Any]) -> None:
    """A misspelt node type is refused."""
    aws["head_node_type"] = "haed"
    with pytest.raises((ValueError, KeyError)):
        validate_config(prepare_config(aws))


def test_head_has_no_cpus_for_trials_and_workers_have(aws: dict[str, Any]) -> None:
    """A trial on the head would slow the driver down; without a worker no trial can start."""
    prepared = prepare_config(copy.deepcopy(aws))
    types = prepared["available_node_types"]
    assert types[prepared["head_node_type"]]["resources"] == {"CPU": 0}
    worker = types["worker"]
    assert worker["resources"].get("CPU") != 0
    assert 1 <= worker["min_workers"] <= worker["max_workers"] <= prepared["max_workers"]


def test_own_head_has_no_cpus_for_trials_and_all_listed_workers_are_used(
    local: dict[str, Any],
) -> None:
    """The start command sets it; autoscaler v2 is off because it omits the last worker."""
    start = command_with(local["head_start_ray_commands"], "ray start --head")
    assert option(start, "--num-cpus") == "0"
    assert start.index("export RAY_enable_autoscaler_v2=0") < start.index("ray start")
    assert "--num-cpus" not in command_with(local["worker_start_ray_commands"], "ray start")
    prepared = prepare_config(copy.deepcopy(local))
    (node_type,) = prepared["available_node_types"].values()
    workers = len(local["provider"]["worker_ips"])
    assert node_type["min_workers"] == node_type["max_workers"] == workers


def test_file_names_security_group_and_profile(aws: dict[str, Any]) -> None:
    """Otherwise Ray makes a group that opens ssh to the world, and a role with all rights."""
    for name, node_type in aws["available_node_types"].items():
        assert node_type["node_config"]["SecurityGroupIds"], name
    head = aws["available_node_types"][aws["head_node_type"]]["node_config"]
    assert head["IamInstanceProfile"]["Name"]
    assert "IamInstanceProfile" not in aws["available_node_types"]["worker"]["node_config"]


def test_dashboard_listens_on_loopback(config: dict[str, Any]) -> None:
    """The dashboard accepts jobs, so it can run any code."""
    command = command_with(config["head_start_ray_commands"], "ray start --head")
    assert option(command, "--dashboard-host") == "127.0.0.1"


def test_tracking_server_listens_on_loopback(config: dict[str, Any]) -> None:
    """It needs no password. It does not start the processes for jobs."""
    command = command_with(config["head_start_ray_commands"], "mlflow server")
    assert option(command, "--host") == "127.0.0.1"
    assert "export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false" in command
    assert not any("mlflow server" in line for line in config["worker_start_ray_commands"])


def test_every_node_uses_the_token(config: dict[str, Any]) -> None:
    """Each node gets the file, with mode 600, and starts Ray in token mode."""
    assert config["file_mounts"][TOKEN] == TOKEN
    setup = config["setup_commands"]
    assert f"chmod 600 {TOKEN}" in command_with(setup, "chmod")
    assert "RAY_AUTH_MODE=token" in command_with(setup, "cat > ~/env.sh").split()
    for key in START_COMMANDS:
        for command in config[key]:
            assert command.startswith(". ~/env.sh && "), f"{key}: {command}"


def test_spot_workers_need_one_comment_removed(aws: dict[str, Any]) -> None:
    """The commented line is at the right place, and Ray accepts it."""
    text = (CHECKOUT / "cluster.yaml").read_text()
    assert text.count("# InstanceMarketOptions:") == 1
    spot = yaml.safe_load(text.replace("# InstanceMarketOptions:", "InstanceMarketOptions:"))
    validate_config(prepare_config(copy.deepcopy(spot)))
    worker = aws["available_node_types"]["worker"]["node_config"]
    worker["InstanceMarketOptions"] = {"MarketType": "spot"}
    assert spot == aws


def test_machines_are_terminated_not_stopped(aws: dict[str, Any]) -> None:
    """A stopped machine is billed for its volume, and its disk is not needed."""
    assert aws["provider"]["cache_stopped_nodes"] is False


def test_tracking_server_stores_nothing_on_the_head(aws: dict[str, Any]) -> None:
    """The database is remote, its password on no command line; artifacts go into S3."""
    command = command_with(aws["head_start_ray_commands"], "mlflow server")
    assert aws["file_mounts"][STORE] == STORE
    assert "MLFLOW_BACKEND_STORE_URI=$(cat store) " in command
    assert "--backend-store-uri" not in command
    assert "--serve-artifacts --artifacts-destination s3://" in command


def test_password_is_removed_from_its_mount_before_workers_start(aws: dict[str, Any]) -> None:
    """Ray would copy the mount to every worker."""
    commands = aws["setup_commands"]
    moved = commands.index(command_with(commands, f"cp {STORE} ~/mlflow/store"))
    assert commands[moved].splitlines()[-1] == f": > {STORE}"
    slow = ("apt-get", "pip install")
    assert moved < min(commands.index(command_with(commands, each)) for each in slow)


def test_head_has_the_uri_of_the_tracking_server(aws: dict[str, Any]) -> None:
    """It is in a variable, so that submitted commands need no option; workers do not have it."""
    assert "MLFLOW_TRACKING_URI=http://127.0.0.1:5000" in " ".join(aws["head_setup_commands"])
    assert "MLFLOW_TRACKING_URI" not in " ".join(aws["setup_commands"])


def test_installed_extras_exist(aws: dict[str, Any]) -> None:
    """pip only prints a warning about an unknown extra."""
    install = command_with(aws["setup_commands"], "pip install")
    (wanted,) = re.findall(r"'\.\[([a-z,]+)\]'", install)
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    assert set(wanted.split(",")) <= project["optional-dependencies"].keys()


def test_tracking_server_stores_everything_on_the_named_disk(local: dict[str, Any]) -> None:
    """The head's system disk may be lost."""
    command = command_with(local["head_start_ray_commands"], "mlflow server")
    store = option(command, "--backend-store-uri")
    assert store.startswith("sqlite:///$SEARCH_DISK/")
    assert option(command, "--artifacts-destination").startswith("$SEARCH_DISK/")
    assert 'cd "$SEARCH_DISK/' in command


@pytest.mark.parametrize(
    ("disk", "code"),
    [
        ("/nowhere", 1),
        ("a folder of the head's own disk", 1),
        pytest.param(
            "/dev/shm",
            0,
            marks=pytest.mark.skipif(
                not (os.path.ismount("/dev/shm") and os.access("/dev/shm", os.W_OK)),
                reason="needs a writable disk that is mounted at /dev/shm",
            ),
        ),
    ],
)
def test_head_without_its_disk_is_refused_with_one_line(
    disk: str, code: int, local: dict[str, Any], tmp_path: Path
) -> None:
    """The line names the disk and says what to do; nothing was written before."""
    folder = disk if disk.startswith("/") else str(tmp_path)
    (tmp_path / "env.sh").write_text(f"export SEARCH_DISK={shlex.quote(folder)}\n")
    first = local["head_start_ray_commands"][0]
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    command = ["bash", "-c", first]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == code
    lines = result.stderr.splitlines()
    assert len(lines) == code
    assert all(folder in line and "mount" in line for line in lines)


def test_every_mount_exists_in_the_checkout(config: dict[str, Any]) -> None:
    """`ray up` fails at a missing path; only secrets come from outside the checkout."""
    sources = [each for each in config["file_mounts"].values() if each not in (TOKEN, STORE)]
    assert [s for s in sources if Path(s).is_absolute() or s.startswith(("~", ".", "$"))] == []
    assert [s for s in sources if not (CHECKOUT / s).exists()] == []


def test_installed_packages_are_pinned(config: dict[str, Any]) -> None:
    """Every installation uses the lock file, and the lock file is mounted."""
    commands = config["setup_commands"] + config["head_setup_commands"]
    installs = [command for command in commands if "pip install" in command]
    assert installs
    for command in installs:
        constraints = option(command, "-c")
        assert constraints.removeprefix("~/checkout/") == "requirements.lock"
    assert config["file_mounts"]["~/checkout/requirements.lock"] == "requirements.lock"


@pytest.mark.slow
@pytest.mark.skipif(
    "SEARCH_TEST_CLEAN_ENV" not in os.environ,
    reason="installs packages from the network: set SEARCH_TEST_CLEAN_ENV=1",
)
def test_mounted_files_are_enough_to_install(config: dict[str, Any], tmp_path: Path) -> None:
    """On a node, `pip install` has the mounted files of the checkout only."""
    mounted = tmp_path / "checkout"
    mounted.mkdir()
    for target, source in config["file_mounts"].items():
        if target.startswith("~/checkout/"):
            copy_ = shutil.copytree if (CHECKOUT / source).is_dir() else shutil.copy
            copy_(CHECKOUT / source, mounted / target.removeprefix("~/checkout/"))
    build = ["pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(mounted)]
    subprocess.run([sys.executable, "-m", *build], check=True, timeout=200)
    (wheel,) = tmp_path.glob("search-*.whl")
    assert "search/run.py" in zipfile.ZipFile(wheel).namelist()


def command_with(commands: list[str], part: str) -> str:
    """Return the one command that contains this part."""
    (found,) = [command for command in commands if part in command]
    return found


def option(command: str, name: str) -> str:
    """Return the value of an option that is given once, as `--name value` or `--name=value`."""
    words = shlex.split(command)
    values = [words[i + 1] for i, word in enumerate(words) if word == name]
    values += [word.removeprefix(f"{name}=") for word in words if word.startswith(f"{name}=")]
    (value,) = values
    return value
