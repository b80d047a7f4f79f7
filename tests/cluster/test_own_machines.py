"""A real search on machines one owns: a worker is lost, then the head with its own disk."""

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
    Books,
    Machines,
    activated,
    adapted,
    listening,
    machines_at_hand,
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
# So many trials that on a fast machine, too, some are left when the lost one has been made good.
NAME, TRIALS, ROUNDS = "night", 12, 200 if HAS_REAL_DATA else 1000
OPTIONS = [
    *("--name", NAME, "--num-samples", str(TRIALS), "--scheduler", "none"),
    *("--set", f"num_boost_round={ROUNDS}", "--set", f"early_stopping_rounds={ROUNDS}"),
    *("--train-data", f"{TRIPS}/train.parquet", "--valid-data", f"{TRIPS}/valid.parquet"),
]
NOTICED_S = 8.0  # health checks of cluster-local.yaml: 3 that are missed, of 3 s each
TRACE = "/tmp/was-here"  # of a job that a stranger sends


@dataclass(frozen=True)
class Heard:
    """What a port answered a stranger, as stranger.py has it."""

    page: tuple[int, str] | None
    health: str
    methods: dict[str, dict[str, int]]


@dataclass
class Story:
    """What was seen on the way."""

    modes: dict[str, str] = field(default_factory=dict)  # of the token file, by host
    worker_sees_trips: bool = True
    worker_lost_ms: float = 0
    kept: list[Run] = field(default_factory=list)  # what had ended when the head was lost
    answers: dict[str, dict[str, str]] = field(default_factory=dict)  # door -> token -> answer
    traces: dict[str, bool] = field(default_factory=dict)  # whether a job had run before these
    ports: dict[str, Heard] = field(default_factory=dict)  # what a stranger heard at each
    code: int = -1  # of the search that was gone on with
    searches: list[Run] = field(default_factory=list)
    trials: list[Run] = field(default_factory=list)
    refits: list[Run] = field(default_factory=list)
    versions: list[ModelVersion] = field(default_factory=list)
    models: list[str] = field(default_factory=list)  # the refit's, on the disk
    copied: list[str] = field(default_factory=list)  # of the named disk, to the laptop
    untyped: list[str] = field(default_factory=list)  # blocks of the document
    left: list[str] = field(default_factory=list)  # after `ray down`, and after everything


def told_in(folder: Path) -> Story:
    """All of it, on hosts that are gone afterwards."""
    seen = Story()
    with machines_at_hand(folder, PREFIX) as machines:
        tell(machines, machines.books, seen)
    seen.left += [link for link in hosts.links() if link.startswith(PREFIX)]
    seen.left += [each.name for each in hosts.NAMED.glob(f"{PREFIX}-*")]
    return seen


@pytest.fixture(scope="module")
def story(told: Mapping[str, Future[Any]]) -> Story:
    seen: Story = told["test_own_machines"].result()
    return seen


def tell(machines: Machines, books: Books, seen: Story) -> None:
    laptop = machines.laptop
    head, first, second = machines.head("head", HEAD), machines.worker(1), machines.worker(2)
    laptop.write(adapted(head.address), CONFIG)
    laptop.bring_up()
    wait_for_nodes(head)
    seen.modes = {each.name: mode_of_token(each) for each in (head, first, second)}
    seen.worker_sees_trips = first.run(["ls", TRIPS]).returncode == 0
    job = laptop.submit("begun", OPTIONS)

    job.wait_until(lambda: len(books.running()) == 2, 90, "a trial under way on each worker")
    first.power_off()
    seen.worker_lost_ms = time.time() * 1000

    def its_trial_has_ended() -> bool:
        ended = books.ended()
        again = any(ran_again(run, seen.worker_lost_ms) for run in ended)
        return again and len(ended) > len(WORKERS) and bool(books.running())

    job.wait_until(its_trial_has_ended, 90, "the end of the lost trial, and another under way")
    head.power_off()
    seen.kept = books.ended()

    spare, _ = machines.head("spare", HEAD), machines.worker(1)
    laptop.types("rm -f /tmp/ray/")
    laptop.bring_up()
    # The workers join while the search waits for a sign of life of its lost driver.
    job = laptop.submit("gone-on-with", ["--resume", NAME])
    wait_for_nodes(spare)
    seen.modes["spare"] = mode_of_token(spare)
    try_the_doors(machines.hosts.add("stranger", STRANGER), spare, second, laptop.token, seen)
    seen.code = job.ended(180)

    seen.searches, seen.trials = books.runs("search"), books.runs("trial")
    seen.refits, seen.versions = books.runs("refit"), list(books.client.search_model_versions())
    models = (Path(*file.parts[-2:]) for file in machines.disk.rglob("model.ubj"))
    seen.models = [str(each) for each in models if each.parent.name == "models"]
    laptop.types("ray rsync-down")
    seen.copied = laptop.host.run("cd ~/search-backup && find mlflow -type f").stdout.split()
    laptop.types("ray exec")
    wait_until(lambda: not spare.run("pgrep -f 'mlflow server'").stdout, 30, "the server's end")
    laptop.types("ray down")
    seen.left += spare.run("pgrep -a 'raylet|gcs_server'").stdout.splitlines()
    seen.untyped = laptop.commands.left


def mode_of_token(host: Host) -> str:
    return host.run(f"stat -c %a {TOKEN}").stdout.strip()


def doors(stranger: Host, head: Host, worker: Host) -> dict[str, Callable[[str], str]]:
    """Return ways to run code or to read a result; each tells how a token was answered."""

    def http(host: Host, *request: str) -> Callable[[str], str]:
        def answer(token: str) -> str:
            header = ["-H", f"Authorization: Bearer {token}"] if token else []
            silent = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}"]
            code = host.run([*silent, *header, *request]).stdout
            return {"200": "served", "401": "refused", "403": "refused"}.get(code, code)

        return answer

    def job_for(host: Host) -> Callable[[str], str]:
        url = f"http://{host.address}:52365/api/job_agent/jobs/"
        return http(stranger, "--json", json.dumps({"entrypoint": f"touch {TRACE}"}), url)

    def ask_gcs(token: str) -> str:
        shown = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
        mode = shown if token else {"RAY_AUTH_MODE": "disabled"}
        command = ["ray", "status", "--address", f"{head.address}:6379"]
        asked = stranger.run(command, environment={**activated(), **mode})
        refused = "AuthenticationError" in asked.stderr
        return "refused" if refused else "served" if asked.returncode == 0 else asked.stderr

    return {
        "a job for the head's agent": job_for(head),
        "a job for a worker's agent": job_for(worker),
        "the jobs, asked by another user of the head": http(
            head, "http://127.0.0.1:8265/api/jobs/"
        ),
        "the nodes, asked of the GCS": ask_gcs,
    }


def try_the_doors(stranger: Host, head: Host, worker: Host, token: str, seen: Story) -> None:
    """Try everything without a token, with a wrong one, and, to see that it can work, the right."""
    for kind, each in (("none", ""), ("wrong", "0123" * 16), ("right", token)):
        seen.traces[kind] = head.run(["ls", TRACE]).returncode == 0
        for door, opened in doors(stranger, head, worker).items():
            seen.answers.setdefault(door, {})[kind] = opened(each)
    wait_until(lambda: head.run(["ls", TRACE]).returncode == 0, 60, "the job with the right token")
    targets = [*listening(head), *listening(worker), f"{head.address}:8265", f"{head.address}:5000"]
    asked = stranger.run([sys.executable, str(Path(__file__).with_name("stranger.py")), *targets])
    assert asked.returncode == 0, asked.stderr
    seen.ports = {at: Heard(**said) for at, said in json.loads(asked.stdout).items()}


def test_all_trials_finished_exactly_once(story: Story) -> None:
    """Through the loss of a worker and of the head: one run a trial, none of them open."""
    assert story.code == 0
    assert [run.data.tags["search.trial_id"] for run in by_trial(story.trials)] == [
        f"{number + 1:04d}" for number in range(TRIALS)
    ]
    assert {run.data.tags["search.status"] for run in story.trials} == {"finished"}
    every = [*story.searches, *story.trials, *story.refits]
    assert {run.info.status for run in every} == {"FINISHED"}
    assert [run.info.run_name for run in story.searches] == [NAME]


def test_the_lost_worker_s_trial_ran_again_elsewhere_in_its_run(story: Story) -> None:
    """Its run keeps its first start. It had ended before the head was lost."""
    (run,) = [run for run in story.kept if ran_again(run, story.worker_lost_ms)]
    assert run.info.start_time < story.worker_lost_ms


def test_nothing_that_had_ended_was_lost_with_the_head_or_done_twice(story: Story) -> None:
    """What MLflow had on the named disk is what it has."""
    now = {run.info.run_id: remains(run) for run in story.trials}
    assert len(story.kept) > len(WORKERS)
    assert len(story.kept) < TRIALS
    assert {run.info.run_id: remains(run) for run in story.kept}.items() <= now.items()


def test_the_best_is_refitted_and_registered(story: Story) -> None:
    """Once, and the version is the refit's; its model lies on the named disk."""
    (refit,), (version,) = story.refits, story.versions
    assert version.run_id == refit.info.run_id
    assert story.models == ["models/model.ubj"]
    (search,) = story.searches
    best = min(story.trials, key=lambda run: float(run.data.metrics["rmse"]))
    assert search.data.tags["search.best_trial_id"] == best.data.tags["search.trial_id"]
    assert refit.data.metrics["rmse"] == pytest.approx(best.data.metrics["rmse"], abs=1e-4)


def test_every_run_has_the_commit_that_was_handed_over(story: Story) -> None:
    """The job's copy of the checkout has no .git."""
    every = [*story.searches, *story.trials, *story.refits]
    assert {run.data.tags["mlflow.source.git.commit"] for run in every} == {COMMIT}


def test_no_worker_could_see_the_trips(story: Story) -> None:
    """They came through Ray, from the only machine that has them."""
    assert not story.worker_sees_trips


def test_the_token_is_for_its_user_only_on_every_node(story: Story) -> None:
    assert story.modes == dict.fromkeys(("head", "w1", "w2", "spare"), "600")


def test_no_door_opens_without_the_token(story: Story) -> None:
    """Each opens with it, so that it is the token that was missed."""
    expected = {"none": "refused", "wrong": "refused", "right": "served"}
    assert story.answers == dict.fromkeys(story.answers, expected)
    assert len(story.answers) == 4
    assert story.traces == dict.fromkeys(expected, False), "a refused job ran all the same"


def test_no_method_of_any_port_answers_without_the_token(story: Story) -> None:
    """All of Ray's, on every port that can be reached, nor with a wrong one.

    Its client's port is one of them.
    """
    for token in ("none", "wrong"):
        counted = {at: heard.methods[token] for at, heard in story.ports.items() if heard.methods}
        spoken = {at: said for at, said in counted.items() if set(said) != {"UNAVAILABLE"}}
        assert {f"{HEAD}:{port}" for port in (6379, 8076, 10001)} < set(spoken)
        for at, said in spoken.items():
            assert set(said) == {"UNAUTHENTICATED", "UNIMPLEMENTED"}, at


def test_dashboard_and_tracking_server_cannot_be_reached(story: Story) -> None:
    """They are on the head's loopback."""
    for port in (8265, 5000):
        assert set(story.ports[f"{HEAD}:{port}"].methods["none"]) == {"UNAVAILABLE"}


def test_only_metrics_and_health_are_open(story: Story) -> None:
    """What answers without the token is what docs/own-machines.md says it is."""
    answered = [heard.page for heard in story.ports.values() if heard.page]
    assert {status for status, _ in answered} == {200, 401}
    assert all(line.startswith("# HELP") for status, line in answered if status == 200)
    healthy = {at for at, heard in story.ports.items() if heard.health == "OK"}
    assert {f"{HEAD}:6379", f"{HEAD}:8076", f"{HEAD}:52365"} <= healthy


def test_each_command_of_the_document_was_typed(story: Story) -> None:
    """But for the certificates, which test_tls.py makes."""
    (certificates,) = story.untyped
    assert certificates.startswith(CERTIFICATES)


def test_the_copy_has_runs_and_models(story: Story) -> None:
    assert "mlflow/mlflow.db" in story.copied
    assert any(file.endswith("models/model.ubj") for file in story.copied)


def test_nothing_is_left(story: Story) -> None:
    """No Ray on the head after `ray down`, and of the hosts nothing on this machine."""
    assert story.left == []


def by_trial(runs: list[Run]) -> list[Run]:
    return sorted(runs, key=lambda run: str(run.data.tags["search.trial_id"]))


def ran_again(run: Run, lost_ms: float) -> bool:
    """Tell whether a run that was there when the worker was lost holds a fit of later on."""
    fitted_from_ms = run.info.end_time - run.data.metrics["fit_seconds"] * 1000
    return bool(run.info.start_time < lost_ms < fitted_from_ms - NOTICED_S * 1000)


def remains(run: Run) -> tuple[object, ...]:
    """Return what must not change any more of a trial that has ended."""
    return (
        *(run.info.start_time, run.info.end_time, run.info.status),
        *(run.data.metrics, run.data.params, run.data.tags["search.status"]),
    )
