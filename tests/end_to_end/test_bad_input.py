"""What a user is told who gives something that cannot be used.

Each case is a process of its own; those of the selected tests run side by side, once.
"""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from command import Ended, few_trips, free_port, search, written
from conftest import NewStore

AT_ONCE = 3
ANSWER_WITHIN_S = 15  # INTERFACE: a tracking server that is not there
TIMEOUT_S = 60
POINT = {
    **{"max_depth": 10, "learning_rate": 0.1, "reg_alpha": 0.1, "reg_lambda": 0.1},
    "min_child_weight": 1.0,
}
QUOTED = "somebody's"


@dataclass(frozen=True)
class Case:
    """A command line that cannot be used. ``{...}`` stands for what the world holds."""

    name: str
    arguments: str
    mentions: tuple[str, ...]  # what the one line says, letter case apart
    environment: Mapping[str, str] = field(default_factory=dict)
    runs: int = 0  # in the store beforehand
    heavy: bool = True  # it loads the libraries before it ends


def light(name: str, arguments: str, *mentions: str) -> Case:
    """Return a case that ends while the command line is read."""
    return Case(name, arguments, mentions, heavy=False)


def heavy(name: str, arguments: str, *mentions: str) -> Case:
    """Return a case that ends later."""
    return Case(name, arguments, mentions)


GOOD = "--train-data {folder}/train.csv --valid-data {folder}/valid.parquet"

CASES = (
    light("no-trials", "--num-samples 0", "--num-samples", "0"),
    light("trials-in-words", "--num-samples many", "--num-samples", "many"),
    light("unknown-option", "--num-sample 5", "--num-sample"),
    light("unknown-scheduler", "--scheduler best", "--scheduler", "best", "asha"),
    light("no-duration", "--time-budget soon", "--time-budget", "soon"),
    light("no-seed", "--seed -1", "--seed", "-1"),
    light("no-cpus", "--cpus-per-trial 0", "--cpus-per-trial"),
    light("set-without-value", "--set max_depth", "--set", "max_depth", "NAME=VALUE"),
    light("train-alone", "--train-data {folder}/train.csv", "--train-data", "--valid-data"),
    light("valid-alone", "--valid-data {folder}/valid.parquet", "--train-data", "--valid-data"),
    light("state-dir-is-a-file", f"{GOOD} --state-dir {{folder}}/train.csv", "train.csv"),
    light("tracking-uri-is-a-path", f"{GOOD} --tracking-uri ./mlflow.db", "--tracking-uri"),
    heavy(
        "missing-file",
        "--train-data {folder}/absent.parquet --valid-data {folder}/valid.parquet",
        "absent.parquet",
    ),
    heavy(
        "name-of-the-folder-above",
        "--name .. --train-data {folder}/absent.parquet --valid-data {folder}/valid.parquet",
    ),
    heavy(
        "empty-file",
        "--train-data {folder}/empty.parquet --valid-data {folder}/valid.parquet",
        *("empty.parquet", "empty"),
    ),
    heavy(
        "not-parquet",
        "--train-data {folder}/train.csv --valid-data {folder}/text.parquet",
        *("text.parquet", "parquet"),
    ),
    heavy(
        "missing-column",
        "--train-data {folder}/no-pickup.parquet --valid-data {folder}/valid.parquet",
        *("no-pickup.parquet", "lpep_pickup_datetime", "PULocationID"),
    ),
    heavy(
        "no-row-left",
        "--train-data {folder}/standing.csv --valid-data {folder}/valid.parquet",
        *("standing.csv", "30", "1 minute"),
    ),
    heavy(
        "no-known-zone-pair",
        "--train-data {folder}/train.csv --valid-data {folder}/elsewhere.parquet",
        *("elsewhere.parquet", "zone pair"),
    ),
    heavy("unknown-trainable", f"{GOOD} --trainable forest", "forest", "xgboost, lasso"),
    heavy("trainable-that-raises", f"{GOOD} --trainable raises:MODEL", "raises"),
    heavy("unknown-set-name", f"{GOOD} --set colour=red", "colour", "max_depth"),
    heavy("set-setting-in-words", f"{GOOD} --set num_boost_round=many", "num_boost_round", "many"),
    heavy(
        "point-outside",
        f"{GOOD} --initial-points {{folder}}/outside.json",
        *("outside.json", "point 2", "max_depth", "500", "100"),
    ),
    heavy("points-no-json", f"{GOOD} --initial-points {{folder}}/text.parquet", "text.parquet"),
    heavy(
        "server-absent",
        f"{GOOD} --tracking-uri http://127.0.0.1:{{closed}}",
        "{closed}",
    ),
    Case(
        *("server-of-the-environment-refuses", GOOD, ("{refusing}", "403")),
        {"MLFLOW_TRACKING_URI": "http://127.0.0.1:{refusing}"},
    ),
    heavy("server-hangs", f"{GOOD} --tracking-uri http://127.0.0.1:{{hanging}}", "{hanging}"),
    heavy(
        "store-no-database",
        f"{GOOD} --tracking-uri sqlite:///{{folder}}/train.csv",
        *("train.csv", "database"),
    ),
    heavy(
        "experiment-deleted",
        f"{GOOD} --experiment-name 'gone for good'",
        *("gone for good", "deleted", "restore"),
    ),
    Case("name-taken", f"{GOOD} --name taken", ("taken", "--name"), runs=2),
    Case("name-with-a-quote-taken", f'{GOOD} --name "{QUOTED}"', (QUOTED, "--name"), runs=2),
    heavy(
        "more-cpus-than-there-are",
        "--train-data {folder}/train.csv {folder}/nan.csv --valid-data {folder}/valid.parquet "
        "--cpus-per-trial 10000 --num-samples 1",
        *("--cpus-per-trial", "10000"),
    ),
    heavy(
        "no-cluster-there",
        f"{GOOD} --address 127.0.0.1:1 --trainable linear",
        *("--address", "127.0.0.1:1"),
    ),
    heavy(
        "model-name-mlflow-refuses",
        f"{GOOD} --registered-model taxi/duration --trainable lasso --set alpha=1",
        *("--registered-model", "taxi/duration"),
    ),
)
EVERY = [
    pytest.param(case.name, id=case.name, marks=[pytest.mark.slow] if case.heavy else [])
    for case in CASES
]


@dataclass(frozen=True)
class Server:
    """A tracking server that is none, and when each connection to it was made."""

    port: int
    met_s: list[float]  # seconds since the epoch


@pytest.fixture(scope="module")
def hanging() -> Iterator[Server]:
    met_s: list[float] = []
    kept: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    kept.append(listening.accept()[0])  # and never a word
                    met_s.append(time.time())

        threading.Thread(target=accept, daemon=True).start()
        yield Server(listening.getsockname()[1], met_s)
    for connection in kept:
        connection.close()


@pytest.fixture(scope="module")
def refusing() -> Iterator[Server]:
    class Refusal(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(403, "Invalid Host header")

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusal) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield Server(listening.server_port, [])
        listening.shutdown()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    good = few_trips()
    written(good, folder / "train.csv")
    written(good, folder / "valid.parquet")
    written(good.drop(columns="lpep_pickup_datetime"), folder / "no-pickup.parquet")
    written(few_trips(minutes=0), folder / "standing.csv")
    written(few_trips(first_zone=201), folder / "elsewhere.parquet")
    distances = good["trip_distance"].mask(good.index < 2)
    written(good.assign(trip_distance=distances), folder / "nan.csv")
    (folder / "empty.parquet").touch()
    (folder / "text.parquet").write_text("these are no trips\n")
    (folder / "outside.json").write_text(json.dumps([POINT, {**POINT, "max_depth": 500}]))
    return folder


@pytest.fixture(scope="module")
def world(inputs: Path, hanging: Server, refusing: Server) -> dict[str, str]:
    """What the braces in the table stand for."""
    return {
        "folder": str(inputs),
        "closed": str(free_port()),
        "hanging": str(hanging.port),
        "refusing": str(refusing.port),
    }


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    world: Mapping[str, str],
    new_store: NewStore,
) -> dict[str, Ended]:
    """Every case that a selected test asks for, run to its end."""
    from mlflow import MlflowClient

    def prepared(case: Case) -> Path:
        folder = tmp_path_factory.mktemp(case.name)
        client = MlflowClient(new_store(folder))
        if case.name == "experiment-deleted":
            client.delete_experiment(client.create_experiment("gone for good"))
        if case.runs:
            made = client.create_experiment("nyc-taxi-experiment")
            for name in ("taken", QUOTED):
                client.create_run(made, tags={"search.role": "search"}, run_name=name)
        if "raises" in case.arguments:
            (folder / "raises.py").write_text("MODEL = 1 / 0\n")
        return folder

    def run(case: Case, folder: Path) -> Ended:
        arguments = shlex.split(case.arguments.format(**world))
        environment = {name: text.format(**world) for name, text in case.environment.items()}
        with search(arguments, folder, environment) as command:
            return command.ended(TIMEOUT_S)

    asked = {
        item.callspec.params["name"]
        for item in request.session.items
        if item.path == request.path and isinstance(item, pytest.Function)
        if "name" in getattr(getattr(item, "callspec", None), "params", {})
    }
    cases = [case for case in CASES if case.name in asked]
    folders = [prepared(case) for case in cases]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        ended = pool.map(run, cases, folders)
        return {case.name: end for case, end in zip(cases, ended, strict=True)}


@pytest.mark.parametrize("name", EVERY)
def test_bad_input_ends_with_2_and_one_line(
    name: str, outcomes: Mapping[str, Ended], world: Mapping[str, str]
) -> None:
    """The user reads one line that names the thing; a script sees exit code 2 and no output."""
    case, ended = _case(name), outcomes[name]
    assert ended.code == 2, ended.stderr
    assert ended.stdout == ""
    *before, last = ended.said
    assert [line for line in before if not re.match("(train|valid|test): ", line)] == []
    assert not re.search("Traceback|^  File ", ended.stderr, re.MULTILINE)
    for mention in case.mentions:
        assert mention.format(**world).lower() in last.lower()


@pytest.mark.parametrize("name", EVERY)
def test_bad_input_starts_no_trial(name: str, outcomes: Mapping[str, Ended]) -> None:
    """What cannot be used leaves no run behind in MLflow."""
    from mlflow import MlflowClient

    case, ended = _case(name), outcomes[name]
    client = MlflowClient(ended.store)
    experiments = [each.experiment_id for each in client.search_experiments()]
    assert len(client.search_runs(experiments)) == case.runs


@pytest.mark.slow
@pytest.mark.parametrize("name", ["server-absent"])
def test_an_absent_server_is_told_within_15_seconds(
    name: str, outcomes: Mapping[str, Ended]
) -> None:
    """Nobody waits for a server that is not there."""
    ended = outcomes[name]
    assert ended.ended_s - ended.started_s < ANSWER_WITHIN_S


@pytest.mark.slow
@pytest.mark.parametrize("name", ["server-hangs"])
def test_a_hanging_server_is_told_within_15_seconds(
    name: str, outcomes: Mapping[str, Ended], hanging: Server
) -> None:
    """Nobody waits longer for a server that takes the connection and never answers."""
    assert hanging.met_s, "the server was never asked"
    assert outcomes[name].ended_s - hanging.met_s[0] < ANSWER_WITHIN_S


@pytest.mark.slow
@pytest.mark.parametrize("name", ["more-cpus-than-there-are"])
def test_trips_without_distance_are_dropped_and_counted(
    name: str, outcomes: Mapping[str, Ended]
) -> None:
    """A distance that is not there costs its row, and the user is told how many went."""
    line = next(line for line in outcomes[name].said if line.startswith("train: "))
    assert "58 trips" in line
    assert "2 no distance" in line


@pytest.mark.slow
@pytest.mark.parametrize("name", ["name-of-the-folder-above"])
def test_a_name_leads_to_no_other_folder(name: str, outcomes: Mapping[str, Ended]) -> None:
    """Whatever a search is called, it writes, and clears away, in its state folder only."""
    made = {path.name for path in outcomes[name].folder.iterdir()}
    kept = {entry for entry in made if not entry.startswith(("stdout-", "stderr-"))}
    assert kept - {".search"} == {"mlflow.db"}


def _case(name: str) -> Case:
    return next(case for case in CASES if case.name == name)
