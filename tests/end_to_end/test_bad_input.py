"""Bad input ends the command with exit code 2 and one line of error, before the first trial.

Each case is one process; there is one for each place of the command that refuses something, and the
tests of that place have the others. The cases of the selected tests run once, some in parallel.
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
from command import Result, few_trips, free_port, start_search, write_trips
from conftest import NewStore, selected

AT_ONCE = 3
ANSWER_WITHIN_S = 15  # INTERFACE: for a tracking server that does not answer
TIMEOUT_S = 60
POINT = {
    "max_depth": 10,
    "learning_rate": 0.1,
    "reg_alpha": 0.1,
    "reg_lambda": 0.1,
    "min_child_weight": 1.0,
}
QUOTED = "somebody's"


@dataclass(frozen=True)
class Case:
    """A command line that is refused. ``{...}`` is replaced from the fixture ``placeholders``."""

    name: str
    arguments: str
    mentions: tuple[str, ...]  # texts in the line of error, upper or lower case
    environment: Mapping[str, str] = field(default_factory=dict)
    runs: int = 0  # in the store before the command
    heavy: bool = True  # the command imports the libraries before it ends


def light(name: str, arguments: str, *mentions: str) -> Case:
    """Return a case that is refused while the command line is parsed."""
    return Case(name, arguments, mentions, heavy=False)


def heavy(name: str, arguments: str, *mentions: str) -> Case:
    """Return a case that is refused later."""
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
        "no-known-zone-pair",
        "--train-data {folder}/train.csv --valid-data {folder}/elsewhere.parquet",
        "elsewhere.parquet",
        "zone pair",
    ),
    heavy("trainable-that-raises", f"{GOOD} --trainable raises:MODEL", "raises"),
    heavy(
        "point-outside",
        f"{GOOD} --initial-points {{folder}}/outside.json",
        "outside.json",
        "point 2",
        "max_depth",
        "500",
        "100",
    ),
    heavy(
        "server-absent",
        f"{GOOD} --tracking-uri http://127.0.0.1:{{closed}}",
        "{closed}",
    ),
    Case(
        "server-of-the-environment-refuses",
        GOOD,
        mentions=("{refusing}", "403"),
        environment={"MLFLOW_TRACKING_URI": "http://127.0.0.1:{refusing}"},
    ),
    heavy("server-hangs", f"{GOOD} --tracking-uri http://127.0.0.1:{{hanging}}", "{hanging}"),
    heavy(
        "store-no-database",
        f"{GOOD} --tracking-uri sqlite:///{{folder}}/train.csv",
        "train.csv",
        "database",
    ),
    Case("name-with-a-quote-taken", f'{GOOD} --name "{QUOTED}"', (QUOTED, "--name"), runs=1),
    heavy(
        "more-cpus-than-there-are",
        "--train-data {folder}/train.csv {folder}/nan.csv --valid-data {folder}/valid.parquet "
        "--cpus-per-trial 10000 --num-samples 1",
        "--cpus-per-trial",
        "10000",
    ),
    heavy(
        "no-cluster-there",
        f"{GOOD} --address 127.0.0.1:1 --trainable linear",
        "--address",
        "127.0.0.1:1",
    ),
    heavy(
        "model-name-mlflow-refuses",
        f"{GOOD} --registered-model taxi/duration --trainable lasso --set alpha=1",
        "--registered-model",
        "taxi/duration",
    ),
)
ALL_CASES = [
    pytest.param(case.name, id=case.name, marks=[pytest.mark.slow] if case.heavy else [])
    for case in CASES
]


@dataclass(frozen=True)
class Server:
    """A port that is no tracking server, and the times of connections to it."""

    port: int
    connected_s: list[float]  # seconds since the epoch


@pytest.fixture(scope="module")
def hanging() -> Iterator[Server]:
    connected_s: list[float] = []
    connections: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connections.append(listening.accept()[0])  # and never answer
                    connected_s.append(time.time())

        threading.Thread(target=accept, daemon=True).start()
        yield Server(listening.getsockname()[1], connected_s)
    for connection in connections:
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
    write_trips(good, folder / "train.csv")
    write_trips(good, folder / "valid.parquet")
    write_trips(few_trips(first_zone=201), folder / "elsewhere.parquet")
    distances = good["trip_distance"].mask(good.index < 2)
    write_trips(good.assign(trip_distance=distances), folder / "nan.csv")
    (folder / "outside.json").write_text(json.dumps([POINT, {**POINT, "max_depth": 500}]))
    return folder


@pytest.fixture(scope="module")
def placeholders(inputs: Path, hanging: Server, refusing: Server) -> dict[str, str]:
    """The values of ``{...}`` in the cases."""
    return {
        "folder": str(inputs),
        "closed": str(free_port()),
        "hanging": str(hanging.port),
        "refusing": str(refusing.port),
    }


@pytest.fixture(scope="module")
def results(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    placeholders: Mapping[str, str],
    new_store: NewStore,
) -> dict[str, Result]:
    """The result of every case that a selected test needs."""
    from mlflow import MlflowClient

    def prepare(case: Case) -> Path:
        folder = tmp_path_factory.mktemp(case.name)
        client = MlflowClient(new_store(folder))
        if case.runs:
            experiment_id = client.create_experiment("nyc-taxi-experiment")
            client.create_run(experiment_id, tags={"search.role": "search"}, run_name=QUOTED)
        if "raises" in case.arguments:
            (folder / "raises.py").write_text("MODEL = 1 / 0\n")
        return folder

    def run(case: Case, folder: Path) -> Result:
        arguments = shlex.split(case.arguments.format(**placeholders))
        environment = {name: text.format(**placeholders) for name, text in case.environment.items()}
        with start_search(arguments, folder, environment) as command:
            return command.wait(TIMEOUT_S)

    wanted = selected(request, "name")
    cases = [case for case in CASES if case.name in wanted]
    folders = [prepare(case) for case in cases]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = pool.map(run, cases, folders)
        return {case.name: result for case, result in zip(cases, found, strict=True)}


@pytest.mark.parametrize("name", ALL_CASES)
def test_bad_input_ends_with_2_and_one_line(
    name: str, results: Mapping[str, Result], placeholders: Mapping[str, str]
) -> None:
    """The last line on stderr names what is wrong; exit code 2; nothing on stdout."""
    case, result = _case(name), results[name]
    assert result.code == 2, result.stderr
    assert result.stdout == ""
    *before, last = result.stderr_lines
    assert [line for line in before if not re.match("(train|valid|test): ", line)] == []
    assert not re.search("Traceback|^  File ", result.stderr, re.MULTILINE)
    for mention in case.mentions:
        assert mention.format(**placeholders).lower() in last.lower()


@pytest.mark.parametrize("name", ALL_CASES)
def test_bad_input_makes_no_run(name: str, results: Mapping[str, Result]) -> None:
    """No run is added to MLflow."""
    from mlflow import MlflowClient

    case, result = _case(name), results[name]
    client = MlflowClient(result.store)
    experiments = [each.experiment_id for each in client.search_experiments()]
    assert len(client.search_runs(experiments)) == case.runs


@pytest.mark.slow
@pytest.mark.parametrize("name", ["server-absent"])
def test_absent_server_is_reported_within_15_seconds(
    name: str, results: Mapping[str, Result]
) -> None:
    """The command does not wait for a server that does not exist."""
    result = results[name]
    assert result.ended_s - result.started_s < ANSWER_WITHIN_S


@pytest.mark.slow
@pytest.mark.parametrize("name", ["server-hangs"])
def test_hanging_server_is_reported_within_15_seconds(
    name: str, results: Mapping[str, Result], hanging: Server
) -> None:
    """A server that accepts the connection and never answers is waited for no longer."""
    assert hanging.connected_s, "the command has never connected to the server"
    assert results[name].ended_s - hanging.connected_s[0] < ANSWER_WITHIN_S


@pytest.mark.slow
@pytest.mark.parametrize("name", ["more-cpus-than-there-are"])
def test_trips_without_distance_are_dropped_and_counted(
    name: str, results: Mapping[str, Result]
) -> None:
    """The message about the training data counts the rows without a distance."""
    lines = results[name].stderr_lines
    line = next(line for line in lines if line.startswith("train: "))
    assert "58 trips" in line
    assert "2 no distance" in line


@pytest.mark.slow
@pytest.mark.parametrize("name", ["name-of-the-folder-above"])
def test_search_name_cannot_leave_the_state_folder(
    name: str, results: Mapping[str, Result]
) -> None:
    """A search writes to and deletes from its state folder only, whatever its name is."""
    names = {path.name for path in results[name].folder.iterdir()}
    kept = {entry for entry in names if not entry.startswith(("stdout-", "stderr-"))}
    assert kept - {".search"} == {"mlflow.db"}


def _case(name: str) -> Case:
    return next(case for case in CASES if case.name == name)
