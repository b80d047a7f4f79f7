"""Eight searches of two users share a tracking server, set up as docs/tracking-server.md says."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
from command import (
    REPOSITORY,
    Command,
    Result,
    few_trips,
    free_port,
    processes,
    run_search,
    start_search,
    venv_environment,
    wait_until,
    write_trips,
)
from mlflow import MlflowClient
from mlflow.entities import Run
from postgres import HAS_POSTGRES, NO_POSTGRES, Postgres, postgres

from search.errors import InputError
from search.record.connection import connect
from search.record.store import now_ms
from search.values.data import DataDescription

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not HAS_POSTGRES, reason=NO_POSTGRES),
    pytest.mark.timeout(600),
]

EXPERIMENT, MODEL = "shared", "shared-duration"
USERS, SEEDS = ("ada", "ben"), (1, 2, 3, 4)
TRIALS, ROUNDS = 4, 6
TIMEOUT_S = 400.0  # for eight searches at once; on two cores each has a quarter of a core
REFUSED_S = 15.0
WRONG_PASSWORD = "no-password-at-all"

# The refit has the RMSE of its trial, and no two points have the same: exactly one is the best.
SHIFTED = f"""
import pickle

from hyperopt import hp
from trainables.base import rmse
from trainables.linear import LINEAR


class Shifted:
    name, flavor, artifact, settings = "shifted", "sklearn", "models/model.bin", {{}}
    search_space = {{"shift": hp.uniform("shift", 1, 9)}}

    def rounds(self, settings):
        return {ROUNDS}

    def train(self, params, data, settings, on_round):
        curve = []
        for number in range(1, {ROUNDS} + 1):
            model = self._fitted(params, data, settings, number)
            curve.append(rmse(self.predict(model, data.valid.features), data.valid.target))
            on_round(curve)
        return curve

    def refit(self, params, data, settings, rounds):
        return pickle.dumps(self._fitted(params, data, settings, rounds))

    def load(self, model):
        return pickle.loads(model)

    def predict(self, model, features):
        return LINEAR.predict(model, features)

    def _fitted(self, params, data, settings, rounds):
        model = pickle.loads(LINEAR.refit({{}}, data, settings, rounds))
        model.intercept_ += params["shift"] * (1 + 1 / rounds)
        return model


SHIFTED = Shifted()
"""
OPTIONS = ["--trainable", "shifted:SHIFTED", "--num-samples", str(TRIALS)]
OPTIONS += ["--max-concurrent", "1", "--scheduler", "none"]
OPTIONS += ["--train-data", "trips.parquet", "--valid-data", "trips.parquet"]
OPTIONS += ["--experiment-name", EXPERIMENT, "--registered-model", MODEL, "--json"]


def prepared(folder: Path) -> Path:
    """Make a folder with the files of a search; return it."""
    folder.mkdir()
    (folder / "shifted.py").write_text(SHIFTED)
    write_trips(few_trips(), folder / "trips.parquet")
    return folder


@dataclass
class Document:
    """The commands of docs/tracking-server.md, with this test's ports and home folder."""

    home: Path
    port: int
    database: Postgres
    blocks: list[str] = field(init=False)
    running: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def __post_init__(self) -> None:
        text = (REPOSITORY / "docs" / "tracking-server.md").read_text()
        text = text.replace("127.0.0.1:5000", f"127.0.0.1:{self.port}")
        text = text.replace("--port 5000", f"--port {self.port}")
        text = text.replace("127.0.0.1:5432", f"127.0.0.1:{self.database.port}")
        self.blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)

    @property
    def uri(self) -> str:
        """The server's address."""
        return f"http://127.0.0.1:{self.port}"

    def run(self, block: str, timeout_s: float = 30) -> Result:
        """Run a block to its end; the processes that it leaves end when ``running`` is closed."""
        environment = {**venv_environment(), "HOME": str(self.home)}
        if block.startswith("psql"):  # as PostgreSQL's administrator
            environment = {**self.database.environment, "HOME": str(self.home)}
        command = Command(["bash", "-euo", "pipefail", "-c", block], self.home, environment)
        result = self.running.enter_context(command).wait(timeout_s)
        assert result.code == 0, f"{block}\n{result.stderr}\n{self.log}"
        return result

    @property
    def log(self) -> str:
        """The server's log."""
        file = self.home / "tracking" / "server.log"
        return file.read_text() if file.exists() else ""


@dataclass(frozen=True)
class Shared:
    """The server and its accounts."""

    document: Document
    started: Result
    passwords: dict[str, str]
    search_block: str  # starts a search
    backup_block: str  # copies the database and the artifacts

    @property
    def uri(self) -> str:
        """The server's address."""
        return self.document.uri

    def with_password(self, user: str, password: str) -> dict[str, str]:
        """Return the environment of a search whose tracking URI has user and password."""
        return {"MLFLOW_TRACKING_URI": self.uri.replace("://", f"://{user}:{password}@")}

    @property
    def secrets(self) -> set[str]:
        """All passwords and keys."""
        folder = self.document.home / "tracking"
        settings = (folder / "settings").read_text()
        exported = re.findall(r"^export \w+(?:PASSWORD|KEY)=(.*)$", settings, re.MULTILINE)
        assert len(exported) == 2
        database = (folder / "pgpass").read_text().strip().rpartition(":")[2]
        return {*self.passwords.values(), *exported, database}


@pytest.fixture(scope="module")
def database() -> Iterator[Postgres]:
    """A PostgreSQL server for all tests of this module."""
    with postgres() as server:
        yield server


@pytest.fixture(scope="module")
def shared(database: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """The tracking server of the document. Some of its blocks run here, the others in tests."""
    document = Document(tmp_path_factory.mktemp("home"), free_port(), database)
    secrets, psql, start, accounts, search_block, backup_block = document.blocks
    with document.running:
        document.run(secrets)
        document.run(psql)
        started = document.run(start, 130)
        words = document.run(accounts).stdout.split()
        passwords = dict(zip(words[::2], words[1::2], strict=True))
        assert tuple(passwords) == USERS
        yield Shared(document, started, passwords, search_block, backup_block)


@dataclass(frozen=True)
class Searches:
    """Eight searches that ran at once."""

    results: dict[tuple[str, int], Result]  # by user and seed
    command_lines: set[str]  # of all their processes
    store: MlflowClient

    @property
    def reports(self) -> dict[tuple[str, int], dict[str, Any]]:
        """The JSON object of each search."""
        return {key: json.loads(result.stdout) for key, result in self.results.items()}

    def runs(self, wanted: str) -> list[Run]:
        """Return the runs of all searches that match the filter ``wanted``."""
        experiment = self.store.get_experiment_by_name(EXPERIMENT)
        assert experiment is not None
        return list(self.store.search_runs([experiment.experiment_id], wanted, max_results=500))


@pytest.fixture(scope="module")
def searches(shared: Shared, tmp_path_factory: pytest.TempPathFactory) -> Searches:
    """Four searches of each user: ada gives the password as the document says, ben in the URI."""
    top = tmp_path_factory.mktemp("searches")
    (top / "password").write_text(shared.passwords["ada"] + "\n")
    command_lines: set[str] = set()
    with contextlib.ExitStack() as stack:
        commands = {}
        for seed in SEEDS:
            more = ["--seed", str(seed), "--name", f"ada-{seed}", "--developer", "ada"]
            options = " ".join([*OPTIONS, *more])
            script = shared.search_block.replace("--num-samples 8", options)
            commands["ada", seed] = Command(
                ["bash", "-euc", f"exec < {top}/password\n{script}"],
                prepared(top / f"ada-{seed}"),
                {**venv_environment(), "PYTHONPATH": str(REPOSITORY)},
            )
            stack.enter_context(commands["ada", seed])
            more = ["--seed", str(seed), "--name", f"ben-{seed}", "--developer", "ben"]
            environment = shared.with_password("ben", shared.passwords["ben"])
            folder = prepared(top / f"ben-{seed}")
            commands["ben", seed] = start_search([*OPTIONS, *more], folder, environment)
            stack.enter_context(commands["ben", seed])

        def all_ended() -> bool:
            for command in commands.values():
                command_lines.update(line for _, line in processes(command.mark))
            return not any(command.running for command in commands.values())

        wait_until(all_ended, TIMEOUT_S, "the end of eight searches", every_s=2)
        results = {key: command.wait(10) for key, command in commands.items()}
    store = MlflowClient(shared.document.database.uri("mlflow"))
    return Searches(results, command_lines, store)


def test_every_search_ends_with_0(searches: Searches, shared: Shared) -> None:
    """There is no traceback, not even in the server's log."""
    for result in searches.results.values():
        assert result.code == 0, result.stderr
        assert "Traceback" not in result.stderr
    assert "Traceback" not in shared.document.log


def test_every_search_has_its_own_trials(searches: Searches) -> None:
    """Each search has all its trials, one run each; all have ended; curves have each round once."""
    for report in searches.reports.values():
        trials = searches.runs(
            f"tags.`mlflow.parentRunId` = '{report['parent_run_id']}' "
            "and tags.`search.role` = 'trial'"
        )
        ids = sorted(run.data.tags["search.trial_id"] for run in trials)
        assert ids == [f"{number:04d}" for number in range(1, TRIALS + 1)]
        for run in trials:
            assert run.info.status == "FINISHED"
            assert run.data.tags["search.status"] == "finished"
            curve = searches.store.get_metric_history(run.info.run_id, "validation-rmse")
            assert sorted(point.step for point in curve) == list(range(ROUNDS))


def test_there_are_no_other_runs(searches: Searches) -> None:
    """There is one experiment; each search has a parent, its trials and a refit; all have ended."""
    runs = searches.runs("")
    assert len(runs) == len(searches.results) * (1 + TRIALS + 1)
    assert {run.info.status for run in runs} == {"FINISHED"}
    names = {each.name for each in searches.store.search_experiments()}
    assert names == {"Default", EXPERIMENT}


def test_searches_do_not_influence_each_other(searches: Searches) -> None:
    """The searches of both users with the same seed have the same trials."""

    def points(user: str, seed: int) -> list[tuple[str, str]]:
        parent = searches.reports[user, seed]["parent_run_id"]
        found = searches.runs(f"tags.`mlflow.parentRunId` = '{parent}'")
        tags = [run.data.tags for run in found if run.data.tags["search.role"] == "trial"]
        return sorted((each["search.trial_id"], each["search.point"]) for each in tags)

    for seed in SEEDS:
        assert points("ada", seed) == points("ben", seed)
    assert points("ada", 1) != points("ada", 2)


def test_best_of_all_searches_is_champion(searches: Searches) -> None:
    """There are eight versions, and the best one has the alias."""
    versions = searches.store.search_model_versions(f"name = '{MODEL}'")
    assert sorted(int(each.version) for each in versions) == list(range(1, 9))
    refits = {report["refit"]["version"]: report["refit"] for report in searches.reports.values()}
    assert sorted(refits, key=int) == [str(number) for number in range(1, 9)]
    champion = searches.store.get_model_version_by_alias(MODEL, "champion")
    best = min(refit["rmse"] for refit in refits.values())
    assert refits[str(champion.version)]["rmse"] == pytest.approx(best, abs=1e-9)
    aliases = searches.store.get_registered_model(MODEL).aliases
    assert set(aliases) <= {"champion", "challenger"}
    champions = [v for v in sorted(refits, key=int) if refits[v]["alias"] == "champion"]
    scores = [refits[version]["rmse"] for version in champions]
    assert scores == sorted(scores, reverse=True), "each champion was better than the one before"
    assert str(champion.version) == champions[-1]


def test_no_secret_is_shown(searches: Searches, shared: Shared) -> None:
    """No password or key is on a command line, on a terminal, in a log or in the database."""
    server_lines = {line for _, line in processes(shared.started.mark)}
    assert any("uvicorn" in line for line in server_lines)
    assert any("search.run" in line for line in searches.command_lines)
    shared.document.run(shared.backup_block)
    dump = subprocess.run(
        ["pg_restore", "-f", "-", str(shared.document.home / "tracking" / "mlflow.dump")],
        env=shared.document.database.environment,
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    assert "ben-4-refit" in dump
    texts = [*server_lines, *searches.command_lines, shared.document.log, dump]
    for result in searches.results.values():
        texts += [result.stdout, result.stderr, *logs(result.folder)]
    for secret in shared.secrets:
        assert not any(secret in text for text in texts)


def logs(folder: Path) -> list[str]:
    """Return all text files in the state folder of a search."""
    found = [path.read_text(errors="replace") for path in folder.glob(".search/**/*.txt")]
    assert found
    return found


def test_backup_has_the_artifacts(shared: Shared, searches: Searches) -> None:
    """The artifacts go through the server into its folder, and nowhere else."""
    if not (copy := shared.document.home / "tracking" / "artifacts-copy").exists():
        shared.document.run(shared.backup_block)
    assert len(list(copy.glob("**/model.bin"))) == len(searches.results)
    assert not any((each.folder / "mlruns").exists() for each in searches.results.values())


def http_status(uri: str, **headers: str) -> int:
    """Return the HTTP status of a server's answer."""
    request = urllib.request.Request(uri, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_server_needs_an_account_and_a_known_host_name(shared: Shared) -> None:
    """Only the health page answers without an account."""

    def basic(user: str, password: str) -> str:
        return "Basic " + b64encode(f"{user}:{password}".encode()).decode()

    ada = basic("ada", shared.passwords["ada"])
    runs = f"{shared.uri}/api/2.0/mlflow/experiments/search?max_results=1"
    assert http_status(f"{shared.uri}/health") == 200
    assert http_status(runs, Authorization=ada) == 200
    assert http_status(runs, Authorization=ada, Host="tracking.example.org") == 200
    assert http_status(runs) == 401
    assert http_status(runs, Authorization=basic("admin", "password1234")) == 401
    assert http_status(runs, Authorization=basic("ada", "password1234")) == 401
    assert http_status(runs, Authorization=ada, Host="elsewhere.example.org") == 403


@pytest.fixture(scope="module")
def refused(shared: Shared, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    """A search without a password, and one with a wrong password."""
    top = tmp_path_factory.mktemp("refused")
    ways = {
        "none": {"MLFLOW_TRACKING_URI": shared.uri},
        "wrong": shared.with_password("ada", WRONG_PASSWORD),
    }
    # one after the other, because the test measures how long each takes
    return {
        way: run_search(OPTIONS, prepared(top / way), environment)
        for way, environment in ways.items()
    }


@pytest.mark.parametrize("way", ["none", "wrong"])
def test_refused_login_says_what_to_do(way: str, refused: dict[str, Result]) -> None:
    """The command ends soon with 2; its last line names the variables to set."""
    result = refused[way]
    assert result.code == 2, result.stderr
    assert result.ended_s - result.started_s < REFUSED_S
    assert "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in result.stderr_lines[-1]
    assert "Traceback" not in result.stderr
    assert WRONG_PASSWORD not in result.stderr


def test_database_that_refuses_the_login_is_reported(database: Postgres) -> None:
    """MLflow alone would retry the login for minutes."""
    uri = database.uri("mlflow").replace(database.password, WRONG_PASSWORD)
    started = time.monotonic()
    with pytest.raises(InputError, match="password authentication failed") as error:
        connect(uri, EXPERIMENT)
    assert time.monotonic() - started < REFUSED_S
    assert WRONG_PASSWORD not in str(error.value)


def test_sigterm_ends_the_server(shared: Shared) -> None:
    """SIGTERM to the process in the pid file ends all processes. No later test uses the server."""
    pid = int((shared.document.home / "tracking" / "server.pid").read_text())
    mark = shared.started.mark
    assert pid in [each for each, _ in processes(mark)]
    subprocess.run(["kill", f"-{signal.SIGTERM.value}", str(pid)], check=True)
    wait_until(lambda: not processes(mark), 30, "the server's end")


DIGESTS = [f"{number:032d}" for number in range(20)]  # each one new to the database


def make_database_and_run(uri: str, ready: Barrier) -> None:
    """Make the database, a run and its data, each at the same moment as other processes do."""
    ready.wait(60)
    store = connect(uri, EXPERIMENT)
    run_id = store.create("at once", {}, now_ms())
    for digest in DIGESTS:
        ready.wait(60)
        data = DataDescription(
            name="trips", digest=digest, source={"train": "trips.parquet"}, profile={}
        )
        store.describe(run_id, data=data)


@pytest.fixture(scope="module")
def concurrently_made(database: Postgres) -> str:
    """The URI of a database that eight processes have made and used at once."""
    fork = multiprocessing.get_context("fork")  # a spawned process would have to import MLflow
    uri, ready = database.create("at-once"), fork.Barrier(8)
    makers = [fork.Process(target=make_database_and_run, args=(uri, ready)) for _ in range(8)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join(120)
    assert [maker.exitcode for maker in makers] == [0] * 8
    return uri


def test_eight_processes_can_make_the_database_at_once(concurrently_made: str) -> None:
    """There is one experiment, a run for each process, and each run has the same data."""
    client = MlflowClient(concurrently_made)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    inputs = [run.inputs.dataset_inputs if run.inputs else [] for run in runs]
    digests = [sorted(each.dataset.digest for each in used) for used in inputs]
    assert digests == [DIGESTS] * 8


def test_search_can_use_postgresql_directly(
    concurrently_made: str, database: Postgres, tmp_path: Path
) -> None:
    """No tracking server is needed, and the password is shown nowhere."""
    folder = prepared(tmp_path / "direct")
    # artifacts go to the folder in which the experiment is made
    options = [*OPTIONS, "--experiment-name", "direct"]
    result = run_search(options, folder, {"MLFLOW_TRACKING_URI": concurrently_made})
    assert result.code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["trials"]["finished"] == TRIALS
    assert report["refit"]["alias"] == "champion"
    assert list((folder / "mlruns").glob("**/model.bin"))
    dump = subprocess.run(
        ["pg_dump", "-d", "at-once"],
        env=database.environment,
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    assert report["search"] in dump
    for text in (result.stdout, result.stderr, dump, *logs(folder)):
        assert database.password not in text
