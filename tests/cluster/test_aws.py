"""docs/cluster.md and cluster.yaml on a fake AWS, from the first command to the last.

moto answers for AWS, and its machines are virtual hosts (ec2.py); the user has a host too. One
search on real trips loses a worker while it runs a trial, then its head with its disk.

Differences from AWS: nothing is installed, because the hosts use this machine's environment; no
security group and no policy is enforced.
"""

from __future__ import annotations

import fnmatch
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import cached_property
from pathlib import Path
from typing import Any

import ec2
import pytest
import yaml  # type: ignore[import-untyped]
from command import REPOSITORY, wait_until, write_months
from document import Commands, User
from mlflow import MlflowClient
from mlflow.entities import Run

from benchmarks import hosts

TOOLS = ("aws", "git", "perl", "curl", "openssl")
PATH = f"{sys.prefix}/bin:{sys.base_prefix}/bin:{hosts.PATH}"  # the user's

USER, HEAD = "USER", "HEAD"  # access keys: of the user, and of the head's role
ADDRESS = "172.31.255.9"  # the user's
ADDRESS_COMMAND = "$(curl -fsS https://checkip.amazonaws.com)"  # finds it in the document
MLFLOW = "http://127.0.0.1:5000"  # through the tunnel
SUBMIT = "ray job submit --working-dir . --submission-id first"
RESUME = "ray job submit --working-dir . --submission-id second"
DOCTOR = "ray job submit --working-dir . -- python -m search.doctor"

WORKERS = 2  # at most; one at first
TRIALS = 16  # enough for a replacement worker that starts late
OPTIONS = (  # each trial takes some seconds, so that a machine can be lost while it runs
    f"--num-samples {TRIALS} --scheduler none --set num_boost_round=400 "
    "--set early_stopping_rounds=400 --train-data /home/ubuntu/trips/train.parquet "
    "--valid-data /home/ubuntu/trips/valid.parquet"
)
REPLACEMENTS = {
    ADDRESS_COMMAND: ADDRESS,
    "--num-samples 100": OPTIONS,
    "--max-concurrent 32": f"--max-concurrent {WORKERS}",
}


def _unusable() -> str | None:
    if reason := hosts.unusable() or ec2.unusable():
        return reason
    if missing := [tool for tool in TOOLS if shutil.which(tool, path=PATH) is None]:
        return f"the commands of docs/cluster.md need {', '.join(missing)}"
    return None if (REPOSITORY / ".git").exists() else "needs a git checkout, which has a commit"


UNUSABLE = _unusable()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(UNUSABLE is not None, reason=str(UNUSABLE)),
]


class Runs:
    """The runs of the search, read from MLflow's database."""

    def __init__(self, database: ec2.Database) -> None:
        self._uri = database.uri

    @cached_property
    def _client(self) -> MlflowClient:
        return MlflowClient(self._uri)  # would create the tables: so not before the head has

    def of_role(self, role: str) -> list[Run]:
        """Return the runs of a role: ``search``, ``trial`` or ``refit``."""
        named = self._client.search_experiments(filter_string="name = 'nyc-taxi-experiment'")
        ids = [experiment.experiment_id for experiment in named]
        return list(self._client.search_runs(ids, f"tags.`search.role` = '{role}'")) if ids else []

    def trials(self, status: str) -> set[str]:
        """Return the run ids of the trials with this status."""
        return {run.info.run_id for run in self.of_role("trial") if run.info.status == status}

    def rounds(self, run: Run) -> list[int]:
        """Return the rounds of a trial's curve, in the order in which they were written."""
        history = self._client.get_metric_history(run.info.run_id, "validation-rmse")
        return [point.step for point in history]


class Scenario:
    """The steps in their order; what they observe is checked by the tests."""

    def __init__(self, cloud: ec2.Cloud, user: User, checkout: Path) -> None:
        self.cloud, self.user, self.checkout = cloud, user, checkout
        self.ec2 = cloud.client("ec2")

    def run(self) -> None:
        steps = (
            self.prepare,
            self.start,
            self.submit,
            self.disconnect_and_return,
            self.lose_worker,
            self.stop,
            self.lose_head,
            self.start,
            self.resume,
            self.end,
        )
        for step in steps:
            started = time.monotonic()
            step()
            print(f"{step.__name__}: {time.monotonic() - started:.0f} s")

    def prepare(self) -> None:
        self.user.run(self.user.commands.blocks_until("perl "))
        _adapt(self.checkout / "cluster.yaml", self.cloud)
        (database,) = self.cloud.databases.values()
        self.password, self.runs = database.password, Runs(database)
        config = (self.checkout / "cluster.yaml").read_text()
        (self.bucket,) = re.findall("s3://(search-[^/]*)", config)
        self.policy = self.cloud.client("iam").get_role_policy(
            RoleName="search-head", PolicyName="search-head"
        )["PolicyDocument"]

    def start(self) -> None:
        """Start a cluster, open tunnels to it, and copy the user's trips to its head."""
        self.user.run_block("ray up", 240)
        attach = self.user.commands.block("ray attach")
        self.user.open(f"tail -f /dev/null | {attach}", "attach")  # with an open, silent stdin
        self.user.run_block("ray rsync-up")
        health = ["curl", "-fsS", "-o", "/dev/null", f"{MLFLOW}/health"]
        wait_until(lambda: self.user.host.run(health).returncode == 0, 60, "the tunnel")
        wait_until(lambda: any(map(_has_ray, self.workers.values())), 120, "a worker")

    def submit(self) -> None:
        """Check the nodes, and start a search, for which the cluster grows."""
        self.doctor_output = self.user.run_block(DOCTOR)
        self.workers_at_first = len(self.workers)
        self.job = self.user.open(self.user.commands.block(SUBMIT), "submit")
        self._wait(lambda: bool(self.runs.trials("FINISHED")), "the first trial")

    def disconnect_and_return(self) -> None:
        self.job.interrupt()
        self.job = self.user.open(self.user.commands.block("ray job logs"), "logs")
        self._wait(lambda: sum(map(_runs_a_trial, self.workers.values())) == WORKERS, "two workers")
        self.status = self.user.run_block("ray exec cluster.yaml 'ray status'")

    def lose_worker(self) -> None:
        """Terminate a worker while each worker runs a trial."""
        before = self.workers
        self._wait(lambda: len(self.runs.trials("RUNNING")) == WORKERS, "a trial on each worker")
        self.interrupted = self.runs.trials("RUNNING")
        self.lost_worker = min(before)
        self.ec2.terminate_instances(InstanceIds=[self.lost_worker])
        self._wait(lambda: len(self.workers) == WORKERS, "a new worker in EC2")
        (self.new_worker,) = self.workers.keys() - before.keys()
        new = self.workers[self.new_worker]
        self._wait(lambda: _runs_a_trial(new), "a trial on the new worker")
        self.secrets = {
            name: _files_with(self.password, host)
            for name, host in {"head": self.head, "worker": new}.items()
        }
        mode = "stat -c %a ~/.ray/auth_token"
        self.modes = {host.run(mode).stdout.strip() for host in (self.head, new)}
        self.head_processes = self.head.run("cat /proc/[0-9]*/cmdline | tr '\\0' ' '").stdout
        self.home_of_worker = new.run("ls -A /home/ubuntu").stdout.split()

    def stop(self) -> None:
        self.user.run_block("ray job stop")
        self.job.wait(60)
        (self.stopped,) = self.runs.of_role("search")

    def lose_head(self) -> None:
        """Terminate the head, with its disk."""
        self.trials_before = {run.info.run_id: run for run in self.runs.of_role("trial")}
        (self.lost_head,) = self._running("head")
        self.kept_workers = set(self.workers)
        self.ec2.terminate_instances(InstanceIds=[self.lost_head])

    def resume(self) -> None:
        self.output = self.user.run_block(RESUME, 300)
        self.searches, self.trials = self.runs.of_role("search"), self.runs.of_role("trial")
        (self.refit,) = self.runs.of_role("refit")
        self.rounds = {run.info.run_id: self.runs.rounds(run) for run in self.trials}
        query = f"run_id={self.refit.info.run_id}&path=models"
        self.listing = self.user.run(f"curl -fsS '{MLFLOW}/api/2.0/mlflow/artifacts/list?{query}'")
        query = f"run_uuid={self.refit.info.run_id}&path=models/model.ubj"
        self.size = int(self.user.run(f"curl -fsS '{MLFLOW}/get-artifact?{query}' | wc -c"))
        machines = self._described({"instance-state-name": ["running"]})
        self.roles = {_tag(one, "ray-node-type"): "IamInstanceProfile" in one for one in machines}
        profiles = self.cloud.client("iam").list_instance_profiles()["InstanceProfiles"]
        self.profiles = [each["InstanceProfileName"] for each in profiles]
        self.reused_workers = self.kept_workers & set(self.workers)
        listed = self.cloud.client("s3").list_objects_v2(Bucket=self.bucket)
        self.objects = {each["Key"]: each["Size"] for each in listed["Contents"]}

    def end(self) -> None:
        self.user.run_block("ray exec cluster.yaml 'pkill")
        wait_until(lambda: not self._server_runs(), 30, "the tracking server's end")
        self.user.run_block("ray down")
        self.left_running = [*self._running("head"), *self._running("worker")]
        self.machines = self._described()
        self.user.run_block("aws rds delete-db-instance")
        self.databases_left = list(self.cloud.databases)
        self.user.run(self.user.commands.blocks_until("perl "))  # a second time, from the start
        self.second_config = (self.checkout / "cluster.yaml").read_text()

    def _server_runs(self) -> bool:
        return self.head.run(["pgrep", "-f", "mlflow server"]).returncode == 0

    def _wait(self, ready: Callable[[], bool], what: str) -> None:
        """Wait until ``ready`` returns true while the job runs."""
        self.job.wait_until(ready, 120, what)

    @property
    def workers(self) -> dict[str, hosts.Host]:
        """The running workers, by instance id."""
        return self._running("worker")

    @property
    def head(self) -> hosts.Host:
        """The running head."""
        (head,) = self._running("head").values()
        return head

    def _running(self, kind: str) -> dict[str, hosts.Host]:
        running = {"tag:ray-node-type": [kind], "instance-state-name": ["running"]}
        ids = [each["InstanceId"] for each in self._described(running)]
        return {each: self.cloud.instances[each] for each in ids}

    def _described(self, filters: Mapping[str, list[str]] | None = None) -> list[dict[str, Any]]:
        listed = [{"Name": name, "Values": values} for name, values in (filters or {}).items()]
        answer = self.ec2.describe_instances(Filters=listed)
        return [each for some in answer["Reservations"] for each in some["Instances"]]


def run_scenario(folder: Path) -> Scenario:
    """Run the scenario on virtual hosts; remove them; return what was observed."""
    keep = [Path(sys.prefix), Path(sys.base_prefix)]
    checkout, trips = _checkout(folder / "checkout"), write_months(folder / "trips")
    with (
        hosts.Hosts(folder, prefix="aws", network=ec2.VPC, keep=keep) as network,
        ec2.Cloud(network) as cloud,
    ):
        disks = [hosts.Disk(checkout, "/root/checkout"), hosts.Disk(trips, "/root/trips")]
        commands = Commands(checkout / "docs" / "cluster.md", REPLACEMENTS)
        environment = {**cloud.environment(USER), "PATH": PATH}
        host = network.add("user", ADDRESS, disks=disks)
        user = User(host, "/root/checkout", commands, environment, folder)
        scenario = Scenario(cloud, user, checkout)
        scenario.run()
        return scenario


@pytest.fixture(scope="module")
def scenario(cluster_scenarios: Mapping[str, Future[Any]]) -> Scenario:
    done: Scenario = cluster_scenarios["test_aws"].result()
    return done


def test_all_commands_of_the_document_are_used(scenario: Scenario) -> None:
    """The document has no block of commands that is not tested."""
    assert scenario.user.commands.unused == []


def test_doctor_finds_no_difference_between_nodes(scenario: Scenario) -> None:
    """It checks the head and the first worker, and reaches the tracking server."""
    expected = "checked 2 nodes: Python, packages and code are the driver's"
    assert expected in scenario.doctor_output
    assert f"tracking store {MLFLOW} answers" in scenario.doctor_output


def test_cluster_grows_with_the_search(scenario: Scenario) -> None:
    """The search starts on the minimum of workers, and uses those that join."""
    assert scenario.workers_at_first == 1
    assert "2 worker" in scenario.status


def test_machines_have_the_users_group_and_only_the_head_has_a_role(scenario: Scenario) -> None:
    """Ray made no group, which would open port 22 to the world, and no profile."""
    groups = {each["GroupName"] for one in scenario.machines for each in one["SecurityGroups"]}
    assert groups == {"search"}
    assert scenario.roles == {"head": True, "worker": False}
    assert scenario.profiles == ["search-head"]


def test_policy_allows_exactly_what_the_head_does(scenario: Scenario) -> None:
    """All requests with the head's key are allowed, and all allowed requests were made."""
    used = {(call.right, call.resource) for call in scenario.cloud.calls if call.key == HEAD}
    allowed = [
        (right, resource)
        for statement in scenario.policy["Statement"]
        for right in _as_list(statement["Action"])
        for resource in _as_list(statement["Resource"])
    ]
    assert [each for each in used if not any(_covers(one, each) for one in allowed)] == []
    unused = {one[0] for one in allowed if not any(_covers(one, each) for each in used)}
    # moto does not resolve the image for a client, and no worker is idle for long enough
    assert unused == {"ssm:GetParameters", "ec2:TerminateInstances"}


def test_only_the_head_has_the_password(scenario: Scenario) -> None:
    """It is in one file that its user alone can read; on no command line, in no log."""
    assert scenario.secrets == {"head": ["600 /root/mlflow/store"], "worker": []}
    assert "mlflow server" in scenario.head_processes
    assert scenario.password not in scenario.head_processes


def test_token_file_is_readable_by_its_user_only(scenario: Scenario) -> None:
    assert scenario.modes == {"600"}


def test_lost_worker_is_replaced_and_its_trial_runs_again(scenario: Scenario) -> None:
    """The trial has the same run as before; all trials that were running have finished."""
    ended = {run.info.run_id: run.info for run in scenario.trials}
    assert scenario.interrupted <= ended.keys()
    assert {ended[run_id].status for run_id in scenario.interrupted} == {"FINISHED"}


def test_stopped_job_ends_its_parent_run(scenario: Scenario) -> None:
    """The driver has enough time to end its runs."""
    assert scenario.stopped.info.status == "KILLED"


def test_ended_trials_do_not_change_when_the_head_is_lost(scenario: Scenario) -> None:
    """Their runs stay as they were, and the new head uses the workers of the lost one."""
    now = {run.info.run_id: run for run in scenario.trials}
    before = [run for run in scenario.trials_before.values() if run.info.status == "FINISHED"]
    assert before
    for run in before:
        assert now[run.info.run_id].to_dictionary() == run.to_dictionary()
    assert scenario.reused_workers == scenario.kept_workers


def test_all_trials_finish_exactly_once(scenario: Scenario) -> None:
    """Each trial has one run, each curve has each round once, and the search has finished."""
    assert len(scenario.trials) == TRIALS
    assert len({run.data.tags["search.trial_id"] for run in scenario.trials}) == TRIALS
    assert {run.data.tags["search.status"] for run in scenario.trials} == {"finished"}
    assert {run.info.status for run in [*scenario.searches, *scenario.trials]} == {"FINISHED"}
    assert len(scenario.searches) == 1
    for rounds in scenario.rounds.values():
        assert sorted(rounds) == list(range(len(rounds)))


def test_model_is_registered_and_in_the_bucket(scenario: Scenario) -> None:
    """The bucket has the refit's artifacts and the served model; the user can read them."""
    assert "champion" in scenario.output
    run_id = scenario.refit.info.run_id
    (name,) = [each for each in scenario.objects if f"/{run_id}/artifacts/models/" in each]
    assert name.endswith("/model.ubj")
    assert "models/model.ubj" in scenario.listing
    assert scenario.size == scenario.objects[name] > 0
    assert any(name.endswith("/artifacts/MLmodel") for name in scenario.objects)


def test_every_run_has_the_commit(scenario: Scenario) -> None:
    """The job's copy of the checkout has no .git."""
    commit = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=REPOSITORY, text=True)
    runs = [*scenario.searches, *scenario.trials, scenario.refit]
    assert {run.data.tags["mlflow.source.git.commit"] for run in runs} == {commit.strip()}


def test_workers_do_not_need_the_data_files(scenario: Scenario) -> None:
    """Only the head has the trips."""
    assert scenario.home_of_worker == []
    assert {run.data.params["train-data-path"] for run in scenario.trials} == {
        "/home/ubuntu/trips/train.parquet"
    }


def test_ray_down_terminates_all_machines(scenario: Scenario) -> None:
    """No machine is running or stopped; a stopped one would be billed for its volume."""
    assert scenario.left_running == []
    assert {each["State"]["Name"] for each in scenario.machines} == {"terminated"}


def test_setup_works_again_after_everything_was_deleted(scenario: Scenario) -> None:
    """The second setup has another bucket, and nothing of the first one disturbs it."""
    assert scenario.databases_left == []
    buckets = re.findall("s3://(search-[0-9a-f]*)", scenario.second_config)
    assert len(buckets) == 1
    assert buckets != [scenario.bucket]
    assert "REPLACE-ME" not in scenario.second_config


def _adapt(file: Path, cloud: ec2.Cloud) -> None:
    """Adapt cluster.yaml to the virtual hosts, and make the cluster small."""
    config = yaml.safe_load(file.read_text())
    config["provider"]["use_internal_ips"] = True  # the public ones are not reachable
    config["auth"]["ssh_user"] = "root"  # a host has no other user
    config["max_workers"] = WORKERS
    size = {"min_workers": 1, "max_workers": WORKERS, "resources": {"CPU": 1}}
    config["available_node_types"]["worker"].update(size)
    replacements = {
        "apt-get": "mkdir -p /home/ubuntu",  # exists in the image
        # The hosts use the environment of this machine: three installations from the network would
        # take too long.
        "pip install": f"ln -sfn {sys.prefix} ~/venv",
    }
    config["setup_commands"] = [
        next((new for part, new in replacements.items() if part in command), command)
        for command in config["setup_commands"]
    ]
    variables = {
        **cloud.environment(HEAD),  # instead of the credentials of its role
        "AUTOSCALER_MAX_LAUNCH_BATCH": "1",  # moto starts MinCount instances, EC2 up to MaxCount
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    }
    exports = shlex.join(["export", *(f"{name}={value}" for name, value in variables.items())])
    config["head_setup_commands"].append(f"echo {shlex.quote(exports)} >> ~/env.sh")
    file.write_text(yaml.safe_dump(config, width=sys.maxsize))


def _checkout(folder: Path) -> Path:
    """Make a copy of this checkout, with its uncommitted changes."""
    git = ["git", "-C", str(REPOSITORY)]
    subprocess.run(["git", "clone", "-q", "--no-checkout", REPOSITORY, folder], check=True)
    listed = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.check_output([*git, *listed], text=True).split("\0"):
        if name and (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, folder / name)
    return folder


def _has_ray(host: hosts.Host) -> bool:
    return host.run(["pgrep", "-x", "raylet"]).returncode == 0


def _runs_a_trial(host: hosts.Host) -> bool:
    return host.run(["pgrep", "-f", "^ray::Worker"]).returncode == 0


def _files_with(secret: str, host: hosts.Host) -> list[str]:
    """Return the files of a host that contain a secret, each with its mode."""
    disks = "/root /home /tmp /var/tmp /run"
    grep = f'find {disks} -xdev -type f -exec grep -lF -- "$SECRET" {{}} +'
    listed = host.run(f"{grep} | xargs -r stat -c '%a %n'", environment={"SECRET": secret})
    return listed.stdout.splitlines()


def _tag(machine: dict[str, Any], name: str) -> str:
    (value,) = [tag["Value"] for tag in machine["Tags"] if tag["Key"] == name]
    return str(value)


def _as_list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def _covers(allowed: tuple[str, str], used: tuple[str, str]) -> bool:
    """Tell whether an allowed right and resource cover a request; only S3 names its resource."""
    (right, resource), (action, target) = allowed, used
    return fnmatch.fnmatchcase(action, right) and fnmatch.fnmatchcase(target or resource, resource)
