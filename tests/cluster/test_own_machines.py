"""A real search on own machines: a worker is lost, then the head with its system disk."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from command import HAS_REAL_DATA, wait_until
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from own_machines import (
    CERTIFICATES,
    COMMIT,
    CONFIG,
    HEAD,
    STRANGER,
    TOKEN,
    TRIPS,
    WORKERS,
    Machines,
    Runs,
    adapted,
    listening,
    machines,
    venv_environment,
    wait_for_nodes,
)

from benchmarks import hosts
from benchmarks.hosts import Host

UNUSABLE = hosts.unusable()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(UNUSABLE is not None, reason=str(UNUSABLE)),
]

PREFIX = "own"
# Enough trials that, also on a fast machine, some are left when the lost trial has run again.
NAME, TRIALS, ROUNDS = "night", 12, 200 if HAS_REAL_DATA else 1000
OPTIONS = ["--name", NAME, "--num-samples", str(TRIALS), "--scheduler", "none"]
OPTIONS += ["--set", f"num_boost_round={ROUNDS}", "--set", f"early_stopping_rounds={ROUNDS}"]
OPTIONS += ["--train-data", f"{TRIPS}/train.parquet", "--valid-data", f"{TRIPS}/valid.parquet"]
NOTICED_S = 8.0  # cluster-local.yaml has 3 health checks of 3 s each
TRACE = "/tmp/was-here"  # file that the stranger's job makes


@dataclass(frozen=True)
class PortAnswers:
    """The answers of a port to a stranger, from stranger.py."""

    page: tuple[int, str] | None
    health: str
    methods: dict[str, dict[str, int]]


@dataclass
class Observed:
    """What the scenario has observed."""

    modes: dict[str, str] = field(default_factory=dict)  # of the token file, by host
    worker_sees_trips: bool = True
    worker_lost_ms: float = 0
    ended_before: list[Run] = field(default_factory=list)  # trials, when the head was lost
    answers: dict[str, dict[str, str]] = field(default_factory=dict)  # entry -> token -> answer
    traces: dict[str, bool] = field(default_factory=dict)  # token -> a job had run before it
    ports: dict[str, PortAnswers] = field(default_factory=dict)  # to a stranger
    code: int = -1  # exit code of the resumed search
    searches: list[Run] = field(default_factory=list)
    trials: list[Run] = field(default_factory=list)
    refits: list[Run] = field(default_factory=list)
    versions: list[ModelVersion] = field(default_factory=list)
    models: list[str] = field(default_factory=list)  # the refit's, on the disk
    copied: list[str] = field(default_factory=list)  # files from the disk, on the laptop
    unused_blocks: list[str] = field(default_factory=list)  # of the document
    left: list[str] = field(default_factory=list)  # processes, links and namespaces at the end


def run_scenario(folder: Path) -> Observed:
    """Run the scenario on virtual hosts; remove them; return what was observed."""
    seen = Observed()
    with machines(folder, PREFIX) as cluster:
        lose_worker_and_head(cluster, cluster.runs, seen)
    seen.left += [link for link in hosts.links() if link.startswith(PREFIX)]
    seen.left += [each.name for each in hosts.NAMESPACES.glob(f"{PREFIX}-*")]
    return seen


@pytest.fixture(scope="module")
def observed(cluster_scenarios: Mapping[str, Future[Any]]) -> Observed:
    seen: Observed = cluster_scenarios["test_own_machines"].result()
    return seen


def lose_worker_and_head(cluster: Machines, runs: Runs, seen: Observed) -> None:
    laptop = cluster.laptop
    head, first, second = cluster.head("head", HEAD), cluster.worker(1), cluster.worker(2)
    laptop.write(adapted(head.address), CONFIG)
    laptop.bring_up()
    wait_for_nodes(head)
    seen.modes = {each.name: mode_of_token(each) for each in (head, first, second)}
    seen.worker_sees_trips = first.run(["ls", TRIPS]).returncode == 0
    job = laptop.submit("first", OPTIONS)

    job.wait_until(lambda: len(runs.running()) == 2, 90, "a running trial on each worker")
    first.power_off()
    seen.worker_lost_ms = time.time() * 1000

    def lost_trial_has_ended() -> bool:
        ended = runs.ended()
        again = any(ran_again(run, seen.worker_lost_ms) for run in ended)
        return again and len(ended) > len(WORKERS) and bool(runs.running())

    job.wait_until(lost_trial_has_ended, 90, "the end of the lost trial, and another running")
    head.power_off()
    seen.ended_before = runs.ended()

    spare, _ = cluster.head("spare", HEAD), cluster.worker(1)
    laptop.run_block("rm -f /tmp/ray/")
    laptop.bring_up()
    # The workers join while the search waits for a heartbeat of its lost driver.
    job = laptop.submit("resumed", ["--resume", NAME])
    wait_for_nodes(spare)
    seen.modes["spare"] = mode_of_token(spare)
    stranger = cluster.hosts.add("stranger", STRANGER)
    try_entries(Entries(stranger, head=spare, worker=second), laptop.token, seen)
    seen.code = job.wait(180)

    seen.searches, seen.trials = runs.of_role("search"), runs.of_role("trial")
    seen.refits, seen.versions = runs.of_role("refit"), list(runs.client.search_model_versions())
    models = (Path(*file.parts[-2:]) for file in cluster.disk.rglob("model.ubj"))
    seen.models = [str(each) for each in models if each.parent.name == "models"]
    laptop.run_block("ray rsync-down")
    seen.copied = laptop.host.run("cd ~/search-backup && find mlflow -type f").stdout.split()
    laptop.run_block("ray exec")
    wait_until(lambda: not spare.run("pgrep -f 'mlflow server'").stdout, 30, "the server's end")
    laptop.run_block("ray down")
    seen.left += spare.run("pgrep -a 'raylet|gcs_server'").stdout.splitlines()
    seen.unused_blocks = laptop.commands.unused


def mode_of_token(host: Host) -> str:
    return host.run(f"stat -c %a {TOKEN}").stdout.strip()


@dataclass(frozen=True)
class Entries:
    """The ways to run code on the cluster or to read results from it."""

    stranger: Host  # has no token
    head: Host
    worker: Host

    def all(self) -> dict[str, Callable[[str], str]]:
        """Return each way as a function of a token that returns how it was answered."""
        return {
            "a job for the head's agent": self._job_for(self.head),
            "a job for a worker's agent": self._job_for(self.worker),
            "the list of jobs, for another user of the head": self._http(
                self.head, "http://127.0.0.1:8265/api/jobs/"
            ),
            "the list of nodes, from the GCS": self._gcs_status,
        }

    def _http(self, client: Host, *request: str) -> Callable[[str], str]:
        def answer(token: str) -> str:
            header = ["-H", f"Authorization: Bearer {token}"] if token else []
            silent = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}"]
            code = client.run([*silent, *header, *request]).stdout
            return {"200": "accepted", "401": "refused", "403": "refused"}.get(code, code)

        return answer

    def _job_for(self, host: Host) -> Callable[[str], str]:
        url = f"http://{host.address}:52365/api/job_agent/jobs/"
        job = json.dumps({"entrypoint": f"touch {TRACE}"})
        return self._http(self.stranger, "--json", job, url)

    def _gcs_status(self, token: str) -> str:
        with_token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
        mode = with_token if token else {"RAY_AUTH_MODE": "disabled"}
        command = ["ray", "status", "--address", f"{self.head.address}:6379"]
        result = self.stranger.run(command, environment={**venv_environment(), **mode})
        if "AuthenticationError" in result.stderr:
            return "refused"
        return "accepted" if result.returncode == 0 else result.stderr


def try_entries(entries: Entries, token: str, seen: Observed) -> None:
    """Try all ways without a token, with a wrong one and, to show that they work, the right one."""
    stranger, head, worker = entries.stranger, entries.head, entries.worker
    for kind, each in (("none", ""), ("wrong", "0123" * 16), ("right", token)):
        seen.traces[kind] = head.run(["ls", TRACE]).returncode == 0
        for entry, answer in entries.all().items():
            seen.answers.setdefault(entry, {})[kind] = answer(each)
    wait_until(lambda: head.run(["ls", TRACE]).returncode == 0, 60, "the job with the right token")
    targets = [*listening(head), *listening(worker), f"{head.address}:8265", f"{head.address}:5000"]
    program = str(Path(__file__).with_name("stranger.py"))
    result = stranger.run([sys.executable, program, *targets])
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    seen.ports = {port: PortAnswers(**answers) for port, answers in found.items()}


def test_all_trials_finish_exactly_once(observed: Observed) -> None:
    """After the loss of a worker and of the head, each trial has one run, and all have ended."""
    assert observed.code == 0
    assert [run.data.tags["search.trial_id"] for run in by_trial(observed.trials)] == [
        f"{number + 1:04d}" for number in range(TRIALS)
    ]
    assert {run.data.tags["search.status"] for run in observed.trials} == {"finished"}
    all_runs = [*observed.searches, *observed.trials, *observed.refits]
    assert {run.info.status for run in all_runs} == {"FINISHED"}
    assert [run.info.run_name for run in observed.searches] == [NAME]


def test_trial_of_lost_worker_runs_again_in_the_same_run(observed: Observed) -> None:
    """Its run keeps its first start. It had ended before the head was lost."""
    (run,) = [run for run in observed.ended_before if ran_again(run, observed.worker_lost_ms)]
    assert run.info.start_time < observed.worker_lost_ms


def test_ended_trials_do_not_change_when_the_head_is_lost(observed: Observed) -> None:
    """MLflow's runs on the disk stay as they were."""
    now = {run.info.run_id: fixed_content(run) for run in observed.trials}
    before = {run.info.run_id: fixed_content(run) for run in observed.ended_before}
    assert len(observed.ended_before) > len(WORKERS)
    assert len(observed.ended_before) < TRIALS
    assert before.items() <= now.items()


def test_best_trial_is_refitted_and_registered_once(observed: Observed) -> None:
    """The registered version is the refit's, and its model is on the disk."""
    (refit,), (version,) = observed.refits, observed.versions
    assert version.run_id == refit.info.run_id
    assert observed.models == ["models/model.ubj"]
    (search,) = observed.searches
    best = min(observed.trials, key=lambda run: float(run.data.metrics["rmse"]))
    assert search.data.tags["search.best_trial_id"] == best.data.tags["search.trial_id"]
    assert refit.data.metrics["rmse"] == pytest.approx(best.data.metrics["rmse"], abs=1e-4)


def test_every_run_has_the_commit_from_the_variable(observed: Observed) -> None:
    """The job's copy of the checkout has no .git."""
    all_runs = [*observed.searches, *observed.trials, *observed.refits]
    assert {run.data.tags["mlflow.source.git.commit"] for run in all_runs} == {COMMIT}


def test_workers_do_not_need_the_data_files(observed: Observed) -> None:
    """The data comes through Ray from the head, the only machine that has the files."""
    assert not observed.worker_sees_trips


def test_token_file_is_readable_by_its_user_only_on_every_node(observed: Observed) -> None:
    assert observed.modes == dict.fromkeys(("head", "w1", "w2", "spare"), "600")


def test_requests_need_the_token(observed: Observed) -> None:
    """With the right token they are accepted, so they were refused because of the token."""
    expected = {"none": "refused", "wrong": "refused", "right": "accepted"}
    assert observed.answers == dict.fromkeys(observed.answers, expected)
    assert len(observed.answers) == 4
    assert observed.traces == dict.fromkeys(expected, False), "a refused job has run"


def test_all_methods_of_all_ports_need_the_token(observed: Observed) -> None:
    """All of Ray's methods are refused on every port, without a token and with a wrong one.

    The port of Ray's client is one of them.
    """
    for token in ("none", "wrong"):
        counts = {
            port: answers.methods[token]
            for port, answers in observed.ports.items()
            if answers.methods
        }
        with_grpc = {port: count for port, count in counts.items() if set(count) != {"UNAVAILABLE"}}
        assert {f"{HEAD}:{port}" for port in (6379, 8076, 10001)} < set(with_grpc)
        for port, count in with_grpc.items():
            assert set(count) == {"UNAUTHENTICATED", "UNIMPLEMENTED"}, port


def test_dashboard_and_tracking_server_cannot_be_reached(observed: Observed) -> None:
    """They listen on the head's loopback only."""
    for port in (8265, 5000):
        assert set(observed.ports[f"{HEAD}:{port}"].methods["none"]) == {"UNAVAILABLE"}


def test_only_metrics_and_health_checks_need_no_token(observed: Observed) -> None:
    """Without the token only those ports answer that docs/own-machines.md lists."""
    pages = [answers.page for answers in observed.ports.values() if answers.page]
    assert {status for status, _ in pages} == {200, 401}
    assert all(line.startswith("# HELP") for status, line in pages if status == 200)
    healthy = {port for port, answers in observed.ports.items() if answers.health == "OK"}
    assert {f"{HEAD}:6379", f"{HEAD}:8076", f"{HEAD}:52365"} <= healthy


def test_all_commands_of_the_document_are_used(observed: Observed) -> None:
    """The block of the certificates is used by test_tls.py."""
    (certificates,) = observed.unused_blocks
    assert certificates.startswith(CERTIFICATES)


def test_backup_has_runs_and_models(observed: Observed) -> None:
    assert "mlflow/mlflow.db" in observed.copied
    assert any(file.endswith("models/model.ubj") for file in observed.copied)


def test_nothing_is_left(observed: Observed) -> None:
    """After `ray down` no process of Ray is on the head; no host is left on this machine."""
    assert observed.left == []


def by_trial(runs: list[Run]) -> list[Run]:
    return sorted(runs, key=lambda run: str(run.data.tags["search.trial_id"]))


def ran_again(run: Run, lost_ms: float) -> bool:
    """Tell whether a run started before the worker was lost, and its fit after that."""
    fit_start_ms = run.info.end_time - run.data.metrics["fit_seconds"] * 1000
    return bool(run.info.start_time < lost_ms < fit_start_ms - NOTICED_S * 1000)


def fixed_content(run: Run) -> tuple[object, ...]:
    """Return the parts of an ended trial's run that must not change any more."""
    info, data = run.info, run.data
    status = data.tags["search.status"]
    return (info.start_time, info.end_time, info.status, data.metrics, data.params, status)
