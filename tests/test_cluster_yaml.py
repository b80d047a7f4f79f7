"""cluster.yaml is what Ray accepts, and keeps the promises it makes about safety. Needs no AWS."""

import copy
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from jsonschema import ValidationError  # type: ignore[import-untyped]
from ray.autoscaler._private.util import prepare_config, validate_config

CHECKOUT = Path(__file__).resolve().parents[1]
TOKEN = "~/.ray/auth_token"  # where Ray looks for it on every node
START_COMMANDS = ("head_start_ray_commands", "worker_start_ray_commands")


@pytest.fixture
def config() -> dict[str, Any]:
    """The file as its author wrote it."""
    loaded: dict[str, Any] = yaml.safe_load((CHECKOUT / "cluster.yaml").read_text())
    return loaded


def test_ray_accepts_the_file(config: dict[str, Any]) -> None:
    """The two steps `ray up` takes before it asks AWS anything: fill in defaults, check."""
    validate_config(prepare_config(config))


@pytest.mark.parametrize("place", ["top", "node type"])
def test_ray_refuses_an_unknown_key(config: dict[str, Any], place: str) -> None:
    """The check above can fail: a key Ray does not know is an error, not a shrug."""
    target = config if place == "top" else config["available_node_types"]["worker"]
    target["max_wrokers"] = 4
    with pytest.raises(ValidationError, match="max_wrokers"):
        validate_config(prepare_config(config))


def test_ray_refuses_a_head_that_is_not_among_the_node_types(config: dict[str, Any]) -> None:
    """Nor does a misspelt node type pass."""
    config["head_node_type"] = "haed"
    with pytest.raises((ValueError, KeyError)):
        validate_config(prepare_config(config))


def test_the_head_takes_no_trials_and_the_workers_do(config: dict[str, Any]) -> None:
    """A trial on the head would starve the driver; no worker at all leaves nothing to size by."""
    prepared = prepare_config(copy.deepcopy(config))
    types = prepared["available_node_types"]
    assert types[prepared["head_node_type"]]["resources"] == {"CPU": 0}
    worker = types["worker"]
    assert worker["resources"].get("CPU") != 0
    assert 1 <= worker["min_workers"] <= worker["max_workers"] <= prepared["max_workers"]


def test_ray_makes_no_security_group_and_no_profile(config: dict[str, Any]) -> None:
    """Ray's own group opens ssh to the world and its own role may do anything in EC2 and S3."""
    for name, node_type in config["available_node_types"].items():
        assert node_type["node_config"]["SecurityGroupIds"], name
    head = config["available_node_types"][config["head_node_type"]]["node_config"]
    assert head["IamInstanceProfile"]["Name"]
    assert "IamInstanceProfile" not in config["available_node_types"]["worker"]["node_config"]


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


def test_every_mount_exists_in_the_checkout(config: dict[str, Any]) -> None:
    """`ray up` stops at a missing path; only the token may come from outside the checkout."""
    sources = [source for source in config["file_mounts"].values() if source != TOKEN]
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
