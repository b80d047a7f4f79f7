"""Eight searches of two users on one tracking server, started as docs/tracking-server.md says."""

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
    Ended,
    activated,
    few_trips,
    free_port,
    processes,
    search,
    searched,
    wait_until,
    written,
)
from mlflow import MlflowClient
from mlflow.entities import Run
from postgres import HAS_POSTGRES, NO_POSTGRES, Postgres, postgres

from search.errors import InputError
from search.store import Data, Store, now_ms

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not HAS_POSTGRES, reason=NO_POSTGRES),
    pytest.mark.timeout(600),
]

EXPERIMENT, MODEL = "shared", "shared-duration"
USERS, SEEDS = ("ada", "ben"), (1, 2, 3, 4)
TRIALS, ROUNDS = 4, 6
TOGETHER_S = 400.0  # for eight searches; on two cores each has a quarter of one
REFUSED_S = 15.0
WRONG = "no-password-at-all"

# The refit has the RMSE of its trial, and no two points the same: there is one best of all.
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
OPTIONS = [
    *("--trainable", "shifted:SHIFTED", "--num-samples", str(TRIALS), "--max-concurrent", "1"),
    *("--train-data", "trips.parquet", "--valid-data", "trips.parquet", "--scheduler", "none"),
    *("--experiment-name", EXPERIMENT, "--registered-model", MODEL, "--json"),
]


def scene(folder: Path) -> Path:
    """Put into a folder what a search there needs."""
    folder.mkdir()
    (folder / "shifted.py").write_text(SHIFTED)
    written(few_trips(), folder / "trips.parquet")
    return folder


@dataclass
class Document:
    """The commands of docs/tracking-server.md, for a machine with other ports and another home."""

    home: Path
    port: int
    database: Postgres
    blocks: list[str] = field(init=False)
    under_way: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

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

    def run(self, block: str, timeout_s: float = 30) -> Ended:
        """Run a block to its end; what it leaves running goes on until ``under_way`` is left."""
        environment = {**activated(), "HOME": str(self.home)}
        if block.startswith("psql"):  # as PostgreSQL's administrator
            environment = {**self.database.environment, "HOME": str(self.home)}
        command = Command(["bash", "-euo", "pipefail", "-c", block], self.home, environment)
        ended = self.under_way.enter_context(command).ended(timeout_s)
        assert ended.code == 0, f"{block}\n{ended.stderr}\n{self.log}"
        return ended

    @property
    def log(self) -> str:
        """What the server has said."""
        file = self.home / "tracking" / "server.log"
        return file.read_text() if file.exists() else ""


@dataclass(frozen=True)
class Shared:
    """The server, and those who have an account there."""

    document: Document
    started: Ended
    passwords: dict[str, str]
    search: str  # the block that starts a search
    keep: str  # the block that makes a copy of everything

    @property
    def uri(self) -> str:
        """Its address."""
        return self.document.uri

    def with_password(self, user: str, password: str) -> dict[str, str]:
        """Return the environment of a search whose URI has user and password in it."""
        return {"MLFLOW_TRACKING_URI": self.uri.replace("://", f"://{user}:{password}@")}

    @property
    def secrets(self) -> set[str]:
        """Every password and key that there is."""
        folder = self.document.home / "tracking"
        settings = (folder / "settings").read_text()
        made = re.findall(r"^export \w+(?:PASSWORD|KEY)=(.*)$", settings, re.MULTILINE)
        assert len(made) == 2
        database = (folder / "pgpass").read_text().strip().rpartition(":")[2]
        return {*self.passwords.values(), *made, database}


@pytest.fixture(scope="module")
def database() -> Iterator[Postgres]:
    """A PostgreSQL for all tests here."""
    with postgres() as server:
        yield server


@pytest.fixture(scope="module")
def shared(database: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """The server of the document: all of its blocks are run, here or by who asks for it."""
    document = Document(tmp_path_factory.mktemp("home"), free_port(), database)
    secrets, psql, start, accounts, search_block, keep = document.blocks
    with document.under_way:
        document.run(secrets)
        document.run(psql)
        started = document.run(start, 130)
        told = document.run(accounts).stdout.split()
        passwords = dict(zip(told[::2], told[1::2], strict=True))
        assert tuple(passwords) == USERS
        yield Shared(document, started, passwords, search_block, keep)


@dataclass(frozen=True)
class Together:
    """Eight searches that ran at once."""

    ends: dict[tuple[str, int], Ended]
    arguments: set[str]  # the command lines of all their processes
    store: MlflowClient

    @property
    def reports(self) -> dict[tuple[str, int], dict[str, Any]]:
        """What each printed."""
        return {key: json.loads(ended.stdout) for key, ended in self.ends.items()}

    def runs(self, wanted: str) -> list[Run]:
        """Return runs of the experiment, of all searches."""
        experiment = self.store.get_experiment_by_name(EXPERIMENT)
        assert experiment is not None
        return list(self.store.search_runs([experiment.experiment_id], wanted, max_results=500))


@pytest.fixture(scope="module")
def together(shared: Shared, tmp_path_factory: pytest.TempPathFactory) -> Together:
    """The searches of both users, a seed each: ada's as the document says, ben's by a URI."""
    top = tmp_path_factory.mktemp("together")
    (top / "password").write_text(shared.passwords["ada"] + "\n")
    lines: set[str] = set()
    with contextlib.ExitStack() as stack:
        commands = {}
        for seed in SEEDS:
            more = ["--seed", str(seed), "--name", f"ada-{seed}", "--developer", "ada"]
            whole = shared.search.replace("--num-samples 8", " ".join([*OPTIONS, *more]))
            commands["ada", seed] = Command(
                ["bash", "-euc", f"exec < {top}/password\n{whole}"],
                scene(top / f"ada-{seed}"),
                {**activated(), "PYTHONPATH": str(REPOSITORY)},
            )
            stack.enter_context(commands["ada", seed])
            more = ["--seed", str(seed), "--name", f"ben-{seed}", "--developer", "ben"]
            uri = shared.with_password("ben", shared.passwords["ben"])
            commands["ben", seed] = search([*OPTIONS, *more], scene(top / f"ben-{seed}"), uri)
            stack.enter_context(commands["ben", seed])

        def all_ended() -> bool:
            for command in commands.values():
                lines.update(line for _, line in processes(command.mark))
            return not any(command.running for command in commands.values())

        wait_until(all_ended, TOGETHER_S, "the end of eight searches", every_s=2)
        ends = {key: command.ended(10) for key, command in commands.items()}
    return Together(ends, lines, MlflowClient(shared.document.database.uri("mlflow")))


def test_every_search_ends_well(together: Together, shared: Shared) -> None:
    """Exit 0 each, and no traceback, not even on the server."""
    for ended in together.ends.values():
        assert ended.code == 0, ended.stderr
        assert "Traceback" not in ended.stderr
    assert "Traceback" not in shared.document.log


def test_every_search_has_its_own_trials(together: Together) -> None:
    """As many as asked, one run each, ended, with curves in which each round is once."""
    for report in together.reports.values():
        trials = together.runs(
            f"tags.`mlflow.parentRunId` = '{report['parent_run_id']}' "
            "and tags.`search.role` = 'trial'"
        )
        ids = sorted(run.data.tags["search.trial_id"] for run in trials)
        assert ids == [f"{number:04d}" for number in range(1, TRIALS + 1)]
        for run in trials:
            assert run.info.status == "FINISHED"
            assert run.data.tags["search.status"] == "finished"
            curve = together.store.get_metric_history(run.info.run_id, "validation-rmse")
            assert sorted(point.step for point in curve) == list(range(ROUNDS))


def test_there_is_nothing_else(together: Together) -> None:
    """One experiment, in it a parent, its trials and a refit each; all have ended."""
    runs = together.runs("")
    assert len(runs) == len(together.ends) * (1 + TRIALS + 1)
    assert {run.info.status for run in runs} == {"FINISHED"}
    names = {each.name for each in together.store.search_experiments()}
    assert names == {"Default", EXPERIMENT}


def test_no_search_tells_another_what_to_try(together: Together) -> None:
    """Both users' searches with one seed have the same trials: none has learned from elsewhere."""

    def points(user: str, seed: int) -> list[tuple[str, str]]:
        parent = together.reports[user, seed]["parent_run_id"]
        found = together.runs(f"tags.`mlflow.parentRunId` = '{parent}'")
        tags = [run.data.tags for run in found if run.data.tags["search.role"] == "trial"]
        return sorted((each["search.trial_id"], each["search.point"]) for each in tags)

    for seed in SEEDS:
        assert points("ada", seed) == points("ben", seed)
    assert points("ada", 1) != points("ada", 2)


def test_the_best_of_all_is_the_champion(together: Together) -> None:
    """Eight versions with numbers of their own, and the alias where it belongs."""
    versions = together.store.search_model_versions(f"name = '{MODEL}'")
    assert sorted(int(each.version) for each in versions) == list(range(1, 9))
    refits = {report["refit"]["version"]: report["refit"] for report in together.reports.values()}
    assert sorted(refits, key=int) == [str(number) for number in range(1, 9)]
    champion = together.store.get_model_version_by_alias(MODEL, "champion")
    best = min(refit["rmse"] for refit in refits.values())
    assert refits[str(champion.version)]["rmse"] == pytest.approx(best, abs=1e-9)
    aliases = together.store.get_registered_model(MODEL).aliases
    assert set(aliases) <= {"champion", "challenger"}
    crowned = [v for v in sorted(refits, key=int) if refits[v]["alias"] == "champion"]
    by_number = [refits[version]["rmse"] for version in crowned]
    assert by_number == sorted(by_number, reverse=True), "each champion was better than the last"
    assert str(champion.version) == crowned[-1]


def test_no_secret_is_shown(together: Together, shared: Shared) -> None:
    """Not on a command line, nor on a terminal, nor in a log, nor in what MLflow keeps."""
    server = {line for _, line in processes(shared.started.mark)}
    assert any("uvicorn" in line for line in server)
    assert any("search.run" in line for line in together.arguments)
    shared.document.run(shared.keep)
    dump = subprocess.run(
        ["pg_restore", "-f", "-", str(shared.document.home / "tracking" / "mlflow.dump")],
        env=shared.document.database.environment,
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    assert "ben-4-refit" in dump
    told = [*server, *together.arguments, shared.document.log, dump]
    for ended in together.ends.values():
        told += [ended.stdout, ended.stderr, *logs(ended.folder)]
    for secret in shared.secrets:
        assert not any(secret in text for text in told)


def logs(folder: Path) -> list[str]:
    """Return every text that a search has left in its state folder."""
    found = [path.read_text(errors="replace") for path in folder.glob(".search/**/*.txt")]
    assert found
    return found


def test_the_copy_has_the_files(shared: Shared, together: Together) -> None:
    """The artifacts went through the server into its folder, and nowhere else."""
    if not (copy := shared.document.home / "tracking" / "artifacts-copy").exists():
        shared.document.run(shared.keep)
    assert len(list(copy.glob("**/model.bin"))) == len(together.ends)
    assert not any((ended.folder / "mlruns").exists() for ended in together.ends.values())


def answer(uri: str, **headers: str) -> int:
    """Return the status with which a server answers."""
    try:
        with urllib.request.urlopen(urllib.request.Request(uri, headers=headers), timeout=30) as it:
            return int(it.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_the_server_lets_in_only_whom_it_knows(shared: Shared) -> None:
    """Anybody sees that it lives; nothing else without an account, or by another name."""

    def basic(user: str, password: str) -> str:
        return "Basic " + b64encode(f"{user}:{password}".encode()).decode()

    ada = basic("ada", shared.passwords["ada"])
    runs = f"{shared.uri}/api/2.0/mlflow/experiments/search?max_results=1"
    assert answer(f"{shared.uri}/health") == 200
    assert answer(runs, Authorization=ada) == 200
    assert answer(runs, Authorization=ada, Host="tracking.example.org") == 200
    assert answer(runs) == 401
    assert answer(runs, Authorization=basic("admin", "password1234")) == 401
    assert answer(runs, Authorization=basic("ada", "password1234")) == 401
    assert answer(runs, Authorization=ada, Host="elsewhere.example.org") == 403


@pytest.fixture(scope="module")
def refused(shared: Shared, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ended]:
    """Two searches that have no password, and a wrong one."""
    top = tmp_path_factory.mktemp("refused")
    ways = {
        "none": {"MLFLOW_TRACKING_URI": shared.uri},
        "wrong": shared.with_password("ada", WRONG),
    }
    # one after the other: how soon each is told is measured
    return {way: searched(OPTIONS, scene(top / way), given) for way, given in ways.items()}


@pytest.mark.parametrize("way", ["none", "wrong"])
def test_who_is_not_let_in_reads_what_to_do(way: str, refused: dict[str, Ended]) -> None:
    """Exit 2, soon, and a last line that names what is to be set."""
    ended = refused[way]
    assert ended.code == 2, ended.stderr
    assert ended.ended_s - ended.started_s < REFUSED_S
    assert "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in ended.said[-1]
    assert "Traceback" not in ended.stderr
    assert WRONG not in ended.stderr


def test_a_database_that_refuses_is_told(database: Postgres) -> None:
    """MLflow would ask it again and again, for longer than anybody waits."""
    began = time.monotonic()
    with pytest.raises(InputError, match="password authentication failed") as error:
        Store.connect(database.uri("mlflow").replace(database.password, WRONG), EXPERIMENT)
    assert time.monotonic() - began < REFUSED_S
    assert WRONG not in str(error.value)


def test_the_server_ends_when_told(shared: Shared) -> None:
    """SIGTERM to the process whose id the document keeps ends all of it; the last test here."""
    pid = int((shared.document.home / "tracking" / "server.pid").read_text())
    mark = shared.started.mark
    assert pid in [each for each, _ in processes(mark)]
    subprocess.run(["kill", f"-{signal.SIGTERM.value}", str(pid)], check=True)
    wait_until(lambda: not processes(mark), 30, "the server's end")


DIGESTS = [f"{number:032d}" for number in range(20)]  # as often are rows new to the database


def begun(uri: str, ready: Barrier) -> None:
    """Begin a search as others do just now: the first to have this database, and these rows."""
    ready.wait(60)
    store = Store.connect(uri, EXPERIMENT)
    run_id = store.create("begun", {}, now_ms())
    for digest in DIGESTS:
        ready.wait(60)
        store.describe(run_id, data=Data("trips", digest, {"train": "trips.parquet"}, {}))


@pytest.fixture(scope="module")
def made_at_once(database: Postgres) -> str:
    """A database that eight processes have made and used at once."""
    fork = multiprocessing.get_context("fork")  # spawned, each would import MLflow
    uri, ready = database.made("at-once"), fork.Barrier(8)
    each = [fork.Process(target=begun, args=(uri, ready)) for _ in range(8)]
    for process in each:
        process.start()
    for process in each:
        process.join(120)
    assert [process.exitcode for process in each] == [0] * 8
    return uri


def test_a_database_is_made_by_all_at_once(made_at_once: str) -> None:
    """One experiment, a run each, and in each of them the same data."""
    client = MlflowClient(made_at_once)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    inputs = [run.inputs.dataset_inputs if run.inputs else [] for run in runs]
    digests = [sorted(each.dataset.digest for each in used) for used in inputs]
    assert digests == [DIGESTS] * 8


def test_a_search_straight_on_postgresql(
    made_at_once: str, database: Postgres, tmp_path: Path
) -> None:
    """No server is needed, and the password goes nowhere."""
    folder = scene(tmp_path / "straight")
    options = [*OPTIONS, "--experiment-name", "straight"]  # the files go where it is made
    ended = searched(options, folder, {"MLFLOW_TRACKING_URI": made_at_once})
    assert ended.code == 0, ended.stderr
    report = json.loads(ended.stdout)
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
    for text in (ended.stdout, ended.stderr, dump, *logs(folder)):
        assert database.password not in text
