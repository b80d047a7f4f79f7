"""docs/cluster.md and cluster.yaml as their user has them, from the first command to the last.

moto stands in for AWS and virtual hosts for its machines (ec2.py); the user has a host too. One
search on real trips loses a worker in mid-trial, and then its head with all that is on it.

What differs from AWS: nothing is installed, the hosts see this machine's environment instead; and
no security group and no policy is enforced.
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
from command import REPOSITORY, put_months, wait_until
from document import Commands, Reader
from mlflow import MlflowClient
from mlflow.entities import Run

from benchmarks import hosts

TOOLS = ("aws", "git", "perl", "curl", "openssl")
PATH = f"{sys.prefix}/bin:{sys.base_prefix}/bin:{hosts.PATH}"  # the user's

USER, HEAD = "USER", "HEAD"  # access keys: the user's, and the one that the head's role gives
ADDRESS = "172.31.255.9"  # the user's
ASKED_FOR = "$(curl -fsS https://checkip.amazonaws.com)"  # how the document finds it
MLFLOW = "http://127.0.0.1:5000"  # through the tunnel
SUBMIT = "ray job submit --working-dir . --submission-id first"
RESUME = "ray job submit --working-dir . --submission-id second"
DOCTOR = "ray job submit --working-dir . -- python -m search.doctor"

WORKERS = 2  # at most; one at first
TRIALS = 16  # so many that a worker which is replaced late finds some left
OPTIONS = (  # each trial goes on for some seconds: something can be taken away in the middle of it
    f"--num-samples {TRIALS} --scheduler none --set num_boost_round=400 "
    "--set early_stopping_rounds=400 --train-data /home/ubuntu/trips/train.parquet "
    "--valid-data /home/ubuntu/trips/valid.parquet"
)
INSTEAD = {
    ASKED_FOR: ADDRESS,
    "--num-samples 100": OPTIONS,
    "--max-concurrent 32": f"--max-concurrent {WORKERS}",
}


def _unusable() -> str | None:
    if reason := hosts.unusable() or ec2.unusable():
        return reason
    if missing := [tool for tool in TOOLS if shutil.which(tool, path=PATH) is None]:
        return f"the commands of docs/cluster.md need {', '.join(missing)}"
    return None if (REPOSITORY / ".git").exists() else "only a checkout has a commit to hand over"


UNUSABLE = _unusable()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(UNUSABLE is not None, reason=str(UNUSABLE)),
]


class Found:
    """What the database has of the search."""

    def __init__(self, database: ec2.Database) -> None:
        self._uri = database.uri

    @cached_property
    def _client(self) -> MlflowClient:
        return MlflowClient(self._uri)  # makes the tables where there are none: not before the head

    def runs(self, role: str) -> list[Run]:
        """Return the runs of a role: ``search``, ``trial`` or ``refit``."""
        named = self._client.search_experiments(filter_string="name = 'nyc-taxi-experiment'")
        ids = [experiment.experiment_id for experiment in named]
        return list(self._client.search_runs(ids, f"tags.`search.role` = '{role}'")) if ids else []

    def trials(self, status: str) -> set[str]:
        """Return the run ids of the trials with this status."""
        return {run.info.run_id for run in self.runs("trial") if run.info.status == status}

    def rounds(self, run: Run) -> list[int]:
        """Return the rounds of a trial's curve, as they were written."""
        history = self._client.get_metric_history(run.info.run_id, "validation-rmse")
        return [point.step for point in history]


class Play:
    """All of it in its order; what is seen on the way is kept for the tests to judge."""

    def __init__(self, cloud: ec2.Cloud, user: Reader, checkout: Path) -> None:
        self.cloud, self.user, self.checkout = cloud, user, checkout
        self.ec2 = cloud.client("ec2")

    def play(self) -> None:
        acts = (
            *(self.prepare, self.start, self.submit, self.leave_and_come_back),
            *(self.lose_a_worker, self.stop),
            *(self.lose_the_head, self.start, self.go_on, self.end),
        )
        for act in acts:
            started = time.monotonic()
            act()
            print(f"{act.__name__}: {time.monotonic() - started:.0f} s")

    def prepare(self) -> None:
        self.user.run(self.user.commands.take_up_to("perl "))
        _adapt(self.checkout / "cluster.yaml", self.cloud)
        (database,) = self.cloud.databases.values()
        self.password, self.found = database.password, Found(database)
        named = (self.checkout / "cluster.yaml").read_text()
        (self.bucket,) = re.findall("s3://(search-[^/]*)", named)
        self.policy = self.cloud.client("iam").get_role_policy(
            RoleName="search-head", PolicyName="search-head"
        )["PolicyDocument"]

    def start(self) -> None:
        """Have a cluster, tunnels to it, and the user's own trips on its head."""
        self.user.types("ray up", 240)
        attach = self.user.commands.take("ray attach")
        self.user.open(f"tail -f /dev/null | {attach}", "attach")  # nothing is typed into it
        self.user.types("ray rsync-up")
        health = ["curl", "-fsS", "-o", "/dev/null", f"{MLFLOW}/health"]
        wait_until(lambda: self.user.host.run(health).returncode == 0, 60, "the tunnel")
        wait_until(lambda: any(map(_has_ray, self.workers.values())), 120, "a worker")

    def submit(self) -> None:
        """Look at the cluster, and let a search make it as large as it may get."""
        self.checked = self.user.types(DOCTOR)
        self.workers_at_first = len(self.workers)
        self.job = self.user.open(self.user.commands.take(SUBMIT), "submit")
        self._wait(lambda: bool(self.found.trials("FINISHED")), "the first trial")

    def leave_and_come_back(self) -> None:
        self.job.interrupt()
        self.job = self.user.open(self.user.commands.take("ray job logs"), "logs")
        self._wait(lambda: sum(map(_runs_a_trial, self.workers.values())) == WORKERS, "two workers")
        self.status = self.user.types("ray exec cluster.yaml 'ray status'")

    def lose_a_worker(self) -> None:
        """In mid-trial: there is one on each worker."""
        before = self.workers
        self._wait(lambda: len(self.found.trials("RUNNING")) == WORKERS, "a trial on each worker")
        self.interrupted = self.found.trials("RUNNING")
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
        self.user.types("ray job stop")
        self.job.ended(60)
        (self.stopped,) = self.found.runs("search")

    def lose_the_head(self) -> None:
        """And its disk."""
        self.done_before = {run.info.run_id: run for run in self.found.runs("trial")}
        (self.lost_head,) = self._running("head")
        self.kept_workers = set(self.workers)
        self.ec2.terminate_instances(InstanceIds=[self.lost_head])

    def go_on(self) -> None:
        self.said = self.user.types(RESUME, 300)
        self.searches, self.trials = self.found.runs("search"), self.found.runs("trial")
        (self.refit,) = self.found.runs("refit")
        self.rounds = {run.info.run_id: self.found.rounds(run) for run in self.trials}
        named = f"run_id={self.refit.info.run_id}&path=models"
        self.listing = self.user.run(f"curl -fsS '{MLFLOW}/api/2.0/mlflow/artifacts/list?{named}'")
        got = f"run_uuid={self.refit.info.run_id}&path=models/model.ubj"
        self.size = int(self.user.run(f"curl -fsS '{MLFLOW}/get-artifact?{got}' | wc -c"))
        machines = self._described({"instance-state-name": ["running"]})
        self.roles = {_tag(one, "ray-node-type"): "IamInstanceProfile" in one for one in machines}
        profiles = self.cloud.client("iam").list_instance_profiles()["InstanceProfiles"]
        self.profiles = [each["InstanceProfileName"] for each in profiles]
        self.taken_over = self.kept_workers & set(self.workers)
        listed = self.cloud.client("s3").list_objects_v2(Bucket=self.bucket)
        self.objects = {each["Key"]: each["Size"] for each in listed["Contents"]}

    def end(self) -> None:
        self.user.types("ray exec cluster.yaml 'pkill")
        wait_until(lambda: not self._serves(), 30, "the tracking server's end")
        self.user.types("ray down")
        self.left_running = [*self._running("head"), *self._running("worker")]
        self.machines = self._described()
        self.user.types("aws rds delete-db-instance")
        self.databases_left = list(self.cloud.databases)
        self.user.run(self.user.commands.take_up_to("perl "))  # another time, from the beginning
        self.named_again = (self.checkout / "cluster.yaml").read_text()

    def _serves(self) -> bool:
        return self.head.run(["pgrep", "-f", "mlflow server"]).returncode == 0

    def _wait(self, ready: Callable[[], bool], what: str) -> None:
        """Wait for something that the job makes true."""
        self.job.wait_until(ready, 120, what)

    @property
    def workers(self) -> dict[str, hosts.Host]:
        """The workers that run now."""
        return self._running("worker")

    @property
    def head(self) -> hosts.Host:
        """The head that runs now."""
        (head,) = self._running("head").values()
        return head

    def _running(self, kind: str) -> dict[str, hosts.Host]:
        running = {"tag:ray-node-type": [kind], "instance-state-name": ["running"]}
        ids = [each["InstanceId"] for each in self._described(running)]
        return {each: self.cloud.instances[each] for each in ids}

    def _described(self, filters: Mapping[str, list[str]] | None = None) -> list[dict[str, Any]]:
        named = [{"Name": name, "Values": values} for name, values in (filters or {}).items()]
        said = self.ec2.describe_instances(Filters=named)
        return [each for some in said["Reservations"] for each in some["Instances"]]


def told_in(folder: Path) -> Play:
    """Play all of it, in hosts that are gone afterwards."""
    keep = [Path(sys.prefix), Path(sys.base_prefix)]
    checkout, trips = _checkout(folder / "checkout"), put_months(folder / "trips")
    with (
        hosts.Hosts(folder, prefix="aws", network=ec2.VPC, keep=keep) as network,
        ec2.Cloud(network) as cloud,
    ):
        disks = [hosts.Disk(checkout, "/root/checkout"), hosts.Disk(trips, "/root/trips")]
        commands = Commands(checkout / "docs" / "cluster.md", INSTEAD)
        environment = {**cloud.environment(USER), "PATH": PATH}
        host = network.add("user", ADDRESS, disks=disks)
        user = Reader(host, "/root/checkout", commands, environment, folder)
        play = Play(cloud, user, checkout)
        play.play()
        return play


@pytest.fixture(scope="module")
def played(told: Mapping[str, Future[Any]]) -> Play:
    play: Play = told["test_aws"].result()
    return play


def test_each_command_of_the_document_was_typed(played: Play) -> None:
    """What is in no block that was run has no business in the document."""
    assert played.user.commands.left == []


def test_the_nodes_are_what_the_driver_is(played: Play) -> None:
    """The head, and the worker that there was."""
    assert "checked 2 nodes: Python, packages and code are the driver's" in played.checked
    assert f"tracking store {MLFLOW} answers" in played.checked


def test_a_search_makes_the_cluster_grow(played: Play) -> None:
    """It begins on the minimum, and uses what comes."""
    assert played.workers_at_first == 1
    assert "2 worker" in played.status


def test_machines_are_in_the_users_group_and_only_the_head_has_a_role(played: Play) -> None:
    """Ray made no group of its own, which would open port 22 to the world, and no profile."""
    assert {each["GroupName"] for one in played.machines for each in one["SecurityGroups"]} == {
        "search"
    }
    assert played.roles == {"head": True, "worker": False}
    assert played.profiles == ["search-head"]


def test_the_policy_gives_what_the_head_does_and_no_more(played: Play) -> None:
    """All that its key was used for is allowed, and all that is allowed was used."""
    done = {(call.right, call.resource) for call in played.cloud.calls if call.key == HEAD}
    given = [
        (right, resource)
        for statement in played.policy["Statement"]
        for right in _listed(statement["Action"])
        for resource in _listed(statement["Resource"])
    ]
    assert [each for each in done if not any(_gives(one, each) for one in given)] == []
    unused = {one[0] for one in given if not any(_gives(one, each) for each in done)}
    # moto does not look the image up for who starts it, and no worker is idle for long enough
    assert unused == {"ssm:GetParameters", "ec2:TerminateInstances"}


def test_the_password_is_known_to_the_head_alone(played: Play) -> None:
    """One file of its user's; no command line, no log, no worker."""
    assert played.secrets == {"head": ["600 /root/mlflow/store"], "worker": []}
    assert "mlflow server" in played.head_processes
    assert played.password not in played.head_processes


def test_the_token_is_for_its_user_only(played: Play) -> None:
    assert played.modes == {"600"}


def test_a_worker_lost_in_mid_trial_is_replaced_and_its_trial_runs_again(played: Play) -> None:
    """In the run it had: as many runs as trials, and each of those under way has an end."""
    ended = {run.info.run_id: run.info for run in played.trials}
    assert played.interrupted <= ended.keys()
    assert {ended[run_id].status for run_id in played.interrupted} == {"FINISHED"}


def test_a_stopped_job_leaves_nothing_running(played: Play) -> None:
    """The driver had the time to end its runs."""
    assert played.stopped.info.status == "KILLED"


def test_a_lost_head_takes_nothing_that_was_found(played: Play) -> None:
    """Trials that had ended are as they were; the workers were there for the new head."""
    now = {run.info.run_id: run for run in played.trials}
    before = [run for run in played.done_before.values() if run.info.status == "FINISHED"]
    assert before
    for run in before:
        assert now[run.info.run_id].to_dictionary() == run.to_dictionary()
    assert played.taken_over == played.kept_workers


def test_each_trial_has_ended_once(played: Play) -> None:
    """One run each, each round of its curve once; the search has its end too."""
    assert len(played.trials) == TRIALS
    assert len({run.data.tags["search.trial_id"] for run in played.trials}) == TRIALS
    assert {run.data.tags["search.status"] for run in played.trials} == {"finished"}
    assert {run.info.status for run in [*played.searches, *played.trials]} == {"FINISHED"}
    assert len(played.searches) == 1
    for rounds in played.rounds.values():
        assert sorted(rounds) == list(range(len(rounds)))


def test_the_model_is_registered_and_in_the_bucket(played: Play) -> None:
    """The refit's own artifacts, also as the user sees them, and the model that is served."""
    assert "champion" in played.said
    run_id = played.refit.info.run_id
    (name,) = [each for each in played.objects if f"/{run_id}/artifacts/models/" in each]
    assert name.endswith("/model.ubj")
    assert "models/model.ubj" in played.listing
    assert played.size == played.objects[name] > 0
    assert any(name.endswith("/artifacts/MLmodel") for name in played.objects)


def test_each_run_names_the_commit(played: Play) -> None:
    """The job has no .git."""
    commit = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=REPOSITORY, text=True)
    runs = [*played.searches, *played.trials, played.refit]
    assert {run.data.tags["mlflow.source.git.commit"] for run in runs} == {commit.strip()}


def test_workers_need_no_file_of_the_data(played: Play) -> None:
    """The trips were on the head only."""
    assert played.home_of_worker == []
    assert {run.data.params["train-data-path"] for run in played.trials} == {
        "/home/ubuntu/trips/train.parquet"
    }


def test_ray_down_leaves_no_machine(played: Play) -> None:
    """Neither running nor stopped: a stopped one is billed for its volume."""
    assert played.left_running == []
    assert {each["State"]["Name"] for each in played.machines} == {"terminated"}


def test_it_can_be_begun_again_when_all_was_deleted(played: Play) -> None:
    """With another bucket; nothing that was there before is in the way."""
    assert played.databases_left == []
    buckets = re.findall("s3://(search-[0-9a-f]*)", played.named_again)
    assert len(buckets) == 1
    assert buckets != [played.bucket]
    assert "REPLACE-ME" not in played.named_again


def _adapt(file: Path, cloud: ec2.Cloud) -> None:
    """Change in cluster.yaml what cannot be here as it is on AWS, and its size."""
    config = yaml.safe_load(file.read_text())
    config["provider"]["use_internal_ips"] = True  # nothing leads to the public ones
    config["auth"]["ssh_user"] = "root"  # a host has no other user
    config["max_workers"] = WORKERS
    size = {"min_workers": 1, "max_workers": WORKERS, "resources": {"CPU": 1}}
    config["available_node_types"]["worker"].update(size)
    instead = {
        "apt-get": "mkdir -p /home/ubuntu",  # which the image has
        # The hosts see the environment of this machine: to install it from the network, three
        # times, is no matter of minutes.
        "pip install": f"ln -sfn {sys.prefix} ~/venv",
    }
    config["setup_commands"] = [
        next((new for part, new in instead.items() if part in command), command)
        for command in config["setup_commands"]
    ]
    variables = {
        **cloud.environment(HEAD),  # for the credentials that its role gives
        "AUTOSCALER_MAX_LAUNCH_BATCH": "1",  # moto starts MinCount, EC2 as many as MaxCount
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    }
    exports = shlex.join(["export", *(f"{name}={value}" for name, value in variables.items())])
    config["head_setup_commands"].append(f"echo {shlex.quote(exports)} >> ~/env.sh")
    file.write_text(yaml.safe_dump(config, width=sys.maxsize))


def _checkout(folder: Path) -> Path:
    """Return a checkout as this one is now, with what is not committed yet."""
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
    """Return the files of a host that hold a secret, each with its mode."""
    disks = "/root /home /tmp /var/tmp /run"
    grep = f'find {disks} -xdev -type f -exec grep -lF -- "$SECRET" {{}} +'
    listed = host.run(f"{grep} | xargs -r stat -c '%a %n'", environment={"SECRET": secret})
    return listed.stdout.splitlines()


def _tag(machine: dict[str, Any], name: str) -> str:
    (value,) = [tag["Value"] for tag in machine["Tags"] if tag["Key"] == name]
    return str(value)


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def _gives(given: tuple[str, str], done: tuple[str, str]) -> bool:
    """Tell whether a right on a resource covers what was done; only S3 says to what."""
    (right, resource), (action, thing) = given, done
    return fnmatch.fnmatchcase(action, right) and fnmatch.fnmatchcase(thing or resource, resource)
