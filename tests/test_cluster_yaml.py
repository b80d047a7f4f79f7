"""The cluster files are what Ray accepts, and keep their promises about safety. Needs no AWS."""

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

CHECKOUT = Path(__file__).resolve().parents[1]
FILES = ("cluster.yaml", "cluster-local.yaml")
TOKEN = "~/.ray/auth_token"  # where Ray looks for it on every node
STORE = "~/.mlflow-store"  # the database's URI, with its password
START_COMMANDS = ("head_start_ray_commands", "worker_start_ray_commands")


@pytest.fixture(params=FILES)
def config(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Each file as its author wrote it."""
    return loaded(request.param)


@pytest.fixture
def aws() -> dict[str, Any]:
    return loaded("cluster.yaml")


@pytest.fixture
def local() -> dict[str, Any]:
    return loaded("cluster-local.yaml")


def loaded(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((CHECKOUT / name).read_text())
    return found


def test_ray_accepts_the_file(config: dict[str, Any]) -> None:
    """The two steps `ray up` takes before it asks anybody anything: fill in defaults, check."""
    validate_config(prepare_config(config))


def test_ray_refuses_an_unknown_key(config: dict[str, Any]) -> None:
    """The check above can fail: a key Ray does not know is an error, not a shrug."""
    config["max_wrokers"] = 4
    with pytest.raises(ValidationError, match="max_wrokers"):
        validate_config(prepare_config(config))


def test_ray_refuses_an_unknown_key_of_a_node_type(aws: dict[str, Any]) -> None:
    """Further down, too."""
    aws["available_node_types"]["worker"]["max_wrokers"] = 4
    with pytest.raises(ValidationError, match="max_wrokers"):
        validate_config(prepare_config(aws))


def test_ray_refuses_a_head_that_is_not_among_the_node_types(aws: dict[str, Any]) -> None:
    """Nor does a misspelt node type pass."""
    aws["head_node_type"] = "haed"
    with pytest.raises((ValueError, KeyError)):
        validate_config(prepare_config(aws))


def test_the_head_takes_no_trials_and_the_workers_do(aws: dict[str, Any]) -> None:
    """A trial on the head would starve the driver; no worker at all leaves nothing to size by."""
    prepared = prepare_config(copy.deepcopy(aws))
    types = prepared["available_node_types"]
    assert types[prepared["head_node_type"]]["resources"] == {"CPU": 0}
    worker = types["worker"]
    assert worker["resources"].get("CPU") != 0
    assert 1 <= worker["min_workers"] <= worker["max_workers"] <= prepared["max_workers"]


def test_an_own_head_takes_no_trials_and_all_workers_of_the_list_are_used(
    local: dict[str, Any],
) -> None:
    """Here it is the start command that says so; autoscaler v2 leaves the last worker out."""
    start = the_command(local["head_start_ray_commands"], "ray start --head")
    assert option(start, "--num-cpus") == "0"
    assert start.index("export RAY_enable_autoscaler_v2=0") < start.index("ray start")
    assert "--num-cpus" not in the_command(local["worker_start_ray_commands"], "ray start")
    prepared = prepare_config(copy.deepcopy(local))
    (node_type,) = prepared["available_node_types"].values()
    workers = len(local["provider"]["worker_ips"])
    assert node_type["min_workers"] == node_type["max_workers"] == workers


def test_ray_makes_no_security_group_and_no_profile(aws: dict[str, Any]) -> None:
    """Ray's own group opens ssh to the world and its own role may do anything in EC2 and S3."""
    for name, node_type in aws["available_node_types"].items():
        assert node_type["node_config"]["SecurityGroupIds"], name
    head = aws["available_node_types"][aws["head_node_type"]]["node_config"]
    assert head["IamInstanceProfile"]["Name"]
    assert "IamInstanceProfile" not in aws["available_node_types"]["worker"]["node_config"]


def test_the_dashboard_listens_on_loopback(config: dict[str, Any]) -> None:
    """The dashboard takes jobs, which is to say code."""
    command = the_command(config["head_start_ray_commands"], "ray start --head")
    assert option(command, "--dashboard-host") == "127.0.0.1"


def test_the_tracking_server_listens_on_loopback(config: dict[str, Any]) -> None:
    """It asks for no password; and it starts none of the processes that only jobs would need."""
    command = the_command(config["head_start_ray_commands"], "mlflow server")
    assert option(command, "--host") == "127.0.0.1"
    assert "export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false" in command
    assert not any("mlflow server" in line for line in config["worker_start_ray_commands"])


def test_every_node_runs_with_the_token(config: dict[str, Any]) -> None:
    """Each gets the file, closes it to others, and starts Ray in token mode."""
    assert config["file_mounts"][TOKEN] == TOKEN
    setup = config["setup_commands"]
    assert f"chmod 600 {TOKEN}" in the_command(setup, "chmod")
    assert "RAY_AUTH_MODE=token" in the_command(setup, "cat > ~/env.sh").split()
    for key in START_COMMANDS:
        for command in config[key]:
            assert command.startswith(". ~/env.sh && "), f"{key}: {command}"


def test_spot_workers_are_one_comment_away(aws: dict[str, Any]) -> None:
    """The line is where it belongs, and Ray takes it."""
    written = (CHECKOUT / "cluster.yaml").read_text()
    assert written.count("# InstanceMarketOptions:") == 1
    spot = yaml.safe_load(written.replace("# InstanceMarketOptions:", "InstanceMarketOptions:"))
    validate_config(prepare_config(copy.deepcopy(spot)))
    worker = aws["available_node_types"]["worker"]["node_config"]
    worker["InstanceMarketOptions"] = {"MarketType": "spot"}
    assert spot == aws


def test_machines_are_terminated(aws: dict[str, Any]) -> None:
    """A stopped one is billed for its volume, and nothing it keeps is needed."""
    assert aws["provider"]["cache_stopped_nodes"] is False


def test_what_the_tracking_server_keeps_outlives_the_head(aws: dict[str, Any]) -> None:
    """A database elsewhere, its password on no command line; artifacts in S3, by the server."""
    command = the_command(aws["head_start_ray_commands"], "mlflow server")
    assert aws["file_mounts"][STORE] == STORE
    assert "MLFLOW_BACKEND_STORE_URI=$(cat store) " in command
    assert "--backend-store-uri" not in command
    assert "--serve-artifacts --artifacts-destination s3://" in command


def test_the_password_leaves_its_mount_before_there_are_workers(aws: dict[str, Any]) -> None:
    """Ray copies every mount to every worker."""
    commands = aws["setup_commands"]
    moved = commands.index(the_command(commands, f"cp {STORE} ~/mlflow/store"))
    assert commands[moved].splitlines()[-1] == f": > {STORE}"
    slow = ("apt-get", "pip install")
    assert moved < min(commands.index(the_command(commands, each)) for each in slow)


def test_the_driver_finds_the_tracking_server(aws: dict[str, Any]) -> None:
    """By a variable on the head, so that no submitted command has to name it; not on workers."""
    assert "MLFLOW_TRACKING_URI=http://127.0.0.1:5000" in " ".join(aws["head_setup_commands"])
    assert "MLFLOW_TRACKING_URI" not in " ".join(aws["setup_commands"])


def test_nodes_get_extras_that_exist(aws: dict[str, Any]) -> None:
    """pip only warns of an extra it does not know."""
    install = the_command(aws["setup_commands"], "pip install")
    (wanted,) = re.findall(r"'\.\[([a-z,]+)\]'", install)
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    assert set(wanted.split(",")) <= project["optional-dependencies"].keys()


def test_runs_models_and_registry_are_on_the_named_disk(local: dict[str, Any]) -> None:
    """The head's own disk may be lost."""
    command = the_command(local["head_start_ray_commands"], "mlflow server")
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
            *("/dev/shm", 0),
            marks=pytest.mark.skipif(
                not (os.path.ismount("/dev/shm") and os.access("/dev/shm", os.W_OK)),
                reason="nothing that can be written is mounted at /dev/shm",
            ),
        ),
    ],
)
def test_a_head_without_its_disk_is_refused_in_one_line(
    disk: str, code: int, local: dict[str, Any], tmp_path: Path
) -> None:
    """It comes before anything is written, and names what is missing and what to do."""
    place = disk if disk.startswith("/") else str(tmp_path)
    (tmp_path / "env.sh").write_text(f"export SEARCH_DISK={shlex.quote(place)}\n")
    first = local["head_start_ray_commands"][0]
    home = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    ended = subprocess.run(["bash", "-c", first], env=home, capture_output=True, text=True)
    assert ended.returncode == code
    lines = ended.stderr.splitlines()
    assert len(lines) == code
    assert all(place in line and "mount" in line for line in lines)


def test_every_mount_exists_in_the_checkout(config: dict[str, Any]) -> None:
    """`ray up` stops at a missing path; only secrets come from outside the checkout."""
    sources = [each for each in config["file_mounts"].values() if each not in (TOKEN, STORE)]
    assert [s for s in sources if Path(s).is_absolute() or s.startswith(("~", ".", "$"))] == []
    assert [s for s in sources if not (CHECKOUT / s).exists()] == []


def test_the_environment_is_the_pinned_one(config: dict[str, Any]) -> None:
    """Every installation obeys the lock, and the lock is among the files sent."""
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
    reason="builds a package with what the network has: set SEARCH_TEST_CLEAN_ENV=1",
)
def test_what_is_sent_is_enough_to_install(config: dict[str, Any], tmp_path: Path) -> None:
    """`pip install` on a node sees the mounts and nothing else of the checkout."""
    sent = tmp_path / "checkout"
    sent.mkdir()
    for place, source in config["file_mounts"].items():
        if place.startswith("~/checkout/"):
            copy_ = shutil.copytree if (CHECKOUT / source).is_dir() else shutil.copy
            copy_(CHECKOUT / source, sent / place.removeprefix("~/checkout/"))
    build = ["pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(sent)]
    subprocess.run([sys.executable, "-m", *build], check=True, timeout=200)
    (wheel,) = tmp_path.glob("search-*.whl")
    assert "search/run.py" in zipfile.ZipFile(wheel).namelist()


def the_command(commands: list[str], part: str) -> str:
    """The one command that contains this part."""
    (found,) = [command for command in commands if part in command]
    return found


def option(command: str, name: str) -> str:
    """The value of an option, written `--name value` or `--name=value`; given exactly once."""
    words = shlex.split(command)
    values = [words[i + 1] for i, word in enumerate(words) if word == name]
    values += [word.removeprefix(f"{name}=") for word in words if word.startswith(f"{name}=")]
    (value,) = values
    return value
