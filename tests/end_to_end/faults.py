"""The fault campaign: searches that lose a process, a server or a disk at a random moment.

``python tests/end_to_end/faults.py --faults 50 --json faults.json`` runs the long form;
``test_faults.py`` runs each kind once. After each fault the search is resumed until it is complete.
MLflow must then hold what a search without a fault leaves there.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from command import (
    Command,
    Result,
    few_trips,
    free_port,
    processes,
    start_search,
    venv_environment,
    wait_until,
    write_trips,
)
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

# the checks here need not wait for a dead server
os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"

NAME = "fault"
TRIALS, ROUNDS = 6, 12
END_S = 240.0  # the longest that one command may take
AT_ONCE = 4  # one of them only waits for a server that stays away
TMPFS_BYTES = 96 << 20

# Each trial takes at least 0.6 s, so that one is running at a random moment.
STEPWISE = f"""
import time
from typing import Any, ClassVar

from hyperopt import hp
from trainables.linear import LINEAR


class Stepwise:
    name = "stepwise"
    flavor = "sklearn"
    artifact = "models/model.bin"
    settings: ClassVar[dict[str, Any]] = {{}}
    search_space = {{"x": hp.uniform("x", -1, 1), "y": hp.uniform("y", -1, 1)}}

    def rounds(self, settings):
        return {ROUNDS}

    def train(self, params, data, settings, on_round):
        curve = []
        for number in range({ROUNDS}):
            time.sleep(0.05)
            curve.append(params["x"] ** 2 + (params["y"] - 0.3) ** 2 + 1 / (number + 1))
            on_round(curve)
        return curve

    def refit(self, params, data, settings, rounds):
        return LINEAR.refit({{}}, data, settings, rounds)

    def load(self, model):
        return LINEAR.load(model)

    def predict(self, model, features):
        return LINEAR.predict(model, features)


class Failing(Stepwise):
    def train(self, params, data, settings, on_round):
        if params["x"] > 0:
            raise ArithmeticError("x is on the failing side")
        return super().train(params, data, settings, on_round)


class NotANumber(Stepwise):
    def train(self, params, data, settings, on_round):
        curve = super().train(params, data, settings, on_round)
        return curve if params["x"] <= 0 else [float("nan")] * len(curve)


STEPWISE, FAILING, NOT_A_NUMBER = Stepwise(), Failing(), NotANumber()
"""


@dataclass
class Scenario:
    """One search in its own folder, the results of its commands, and the random times of faults."""

    folder: Path
    rng: random.Random
    uri: str = ""
    model: str = "STEPWISE"
    results: list[Result] = field(default_factory=list)
    ended: dict[str, tuple[object, ...]] = field(default_factory=dict)  # trials, as first seen
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.uri = self.uri or f"sqlite:///{self.folder / 'mlflow.db'}"
        (self.folder / "stepwise.py").write_text(STEPWISE)
        write_trips(few_trips(), self.folder / "trips.parquet")

    def start(self, trials: int = TRIALS, name: str = NAME, *more: str) -> Command:
        """Start the search."""
        data = ("--train-data", "trips.parquet", "--valid-data", "trips.parquet")
        what = ("--trainable", f"stepwise:{self.model}", "--num-samples", str(trials))
        how = ("--max-concurrent", "1", "--seed", "7", "--name", name)
        options = [*data, *what, *how, *more, "--tracking-uri", self.uri]
        return start_search(options, self.folder)

    def resume(self) -> Command:
        """Resume the search."""
        return start_search(["--resume", NAME, "--tracking-uri", self.uri], self.folder)

    def wait(self, command: Command, *codes: int) -> int:
        """Wait until a command ends; return its exit code, which must be one of ``codes``."""
        result = command.wait(END_S)
        self.results.append(result)
        last_lines = result.stderr_lines[-3:]
        if result.code not in codes:
            self.problems.append(f"exit code {result.code}, not one of {codes}: {last_lines}")
        if "Traceback" in result.stderr:
            self.problems.append(f"a traceback on stderr: {last_lines}")
        with contextlib.suppress(MlflowException):  # its server may be away
            for trial_id, run in self.trials().items():
                if run.data.tags.get("search.status") in ("finished", "stopped", "failed"):
                    self.ended.setdefault(trial_id, fixed_content(run))
        return result.code

    def finish(self) -> None:
        """Resume the search until it is complete."""
        for _ in range(3):
            with self.resume() as command:
                if self.wait(command, 0, 1) == 0:
                    return

    def runs(self) -> list[Run]:
        """Return every run of the store; if its file does not exist yet, do not create it."""
        file = self.uri.removeprefix("sqlite:///")
        if file != self.uri and not Path(file).exists():
            return []
        client = MlflowClient(self.uri)
        ids = [each.experiment_id for each in client.search_experiments()]
        return list(client.search_runs(ids, max_results=1_000))

    def trials(self) -> dict[str, Run]:
        """Return the trials' runs by trial id; a trial with two runs is a problem."""
        found: dict[str, Run] = {}
        for run in self.runs():
            if run.data.tags.get("search.role") == "trial":
                trial_id = run.data.tags["search.trial_id"]
                if trial_id in found:
                    self.problems.append(f"trial {trial_id} has two runs")
                found[trial_id] = run
        return found

    def wait_for_parent(self, command: Command) -> None:
        """Wait until the search has its parent run."""

        def has_parent() -> bool:
            with contextlib.suppress(MlflowException):
                if any(run.data.tags.get("search.role") == "search" for run in self.runs()):
                    return True
            assert command.running, f"the search ended: {command.stderr}"
            return False

        wait_until(has_parent, 120, "a parent run")

    def wait_random_time(self, longest_s: float = 10.0) -> None:
        """Sleep for a random time: only the moments of faults are random."""
        time.sleep(self.rng.uniform(0, longest_s))


def fixed_content(run: Run) -> tuple[object, ...]:
    """Return the parts of an ended trial's run that must not change any more."""
    metrics = repr(sorted(run.data.metrics.items()))  # as text, because NaN is not equal to NaN
    return (run.info.run_id, run.info.start_time, metrics, run.data.params)


def find_problems(scenario: Scenario, expected: Mapping[str, object] | None) -> list[str]:
    """Return every difference from what a search without a fault leaves.

    ``expected``: the outcomes of its trials; None: they are not compared.
    """
    problems = scenario.problems
    trials, runs = scenario.trials(), scenario.runs()
    if sorted(trials) != [f"{i + 1:04d}" for i in range(TRIALS)]:
        problems.append(f"the trials are {sorted(trials)}")
    problems += [f"run {r.info.run_name} is RUNNING" for r in runs if r.info.status == "RUNNING"]
    for trial_id, before in scenario.ended.items():
        if trial_id in trials and fixed_content(trials[trial_id]) != before:
            problems.append(f"trial {trial_id} had ended and has changed")
    client = MlflowClient(scenario.uri)
    for trial_id, run in trials.items():
        curve = client.get_metric_history(run.info.run_id, "validation-rmse")
        steps = Counter(point.step for point in curve)
        if any(count > 1 for count in steps.values()) or len(steps) != max(steps, default=-1) + 1:
            problems.append(f"trial {trial_id}: its curve has the steps {dict(steps)}")
    by_role = Counter(
        run.data.tags.get("search.role") for run in runs if "search.superseded" not in run.data.tags
    )
    if by_role["search"] != 1 or by_role["refit"] != 1:
        problems.append(f"valid runs by role: {dict(by_role)}")
    if expected is not None and (found := trial_outcomes(trials)) != expected:
        problems.append(f"other trials than without a fault: {found} is not {expected}")
    marks = [result.mark for result in scenario.results]
    with contextlib.suppress(AssertionError):
        wait_until(lambda: not any(processes(mark) for mark in marks), 30, "the end of processes")
    problems += [f"still running: {line}" for mark in marks for _, line in processes(mark)]
    return problems


def trial_outcomes(trials: Mapping[str, Run]) -> dict[str, object]:
    """Return status, point, score and rungs of each trial."""
    return {
        trial_id: (
            run.data.tags["search.status"],
            run.data.tags["search.point"],
            run.data.metrics.get("rmse"),
            run.data.tags.get("search.rungs"),
        )
        for trial_id, run in trials.items()
    }


@contextlib.contextmanager
def tracking_server(scenario: Scenario) -> Iterator[Callable[[], Command]]:
    """Give the scenario a server's address; yield a function that starts the server there."""
    port, servers = free_port(), contextlib.ExitStack()
    scenario.uri = f"http://127.0.0.1:{port}"
    home = scenario.folder / "server"
    home.mkdir()
    module = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
    options = ["--backend-store-uri", f"sqlite:///{home / 'mlflow.db'}", "--port", str(port)]
    # without job execution: its seven processes take four times as long to start as the server
    environment = {**venv_environment(), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}

    def start() -> Command:
        server = servers.enter_context(Command([*module, *options], home, environment))

        def answers() -> bool:
            assert server.running, f"the server ended: {server.stderr}"
            return _status(port) == 200

        wait_until(answers, 120, "the tracking server")
        return server

    with servers:
        yield start


def _status(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/health")
        return connection.getresponse().status
    return 0


class Proxy(ThreadingHTTPServer):
    """An HTTP proxy before a tracking server; ``mode`` says how it fails."""

    daemon_threads = True
    mode = "pass"

    def __init__(self, upstream: int, rng: random.Random) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream, self.rng = upstream, rng  # the server's port
        self.faults = 0


class _Handler(BaseHTTPRequestHandler):
    server: Proxy

    def _answer(self) -> None:
        proxy, mode = self.server, self.server.mode
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if mode == "lost" and proxy.rng.random() < 0.5:
            mode = "pass"  # half of the answers arrive
        proxy.faults += mode != "pass"
        if mode.isdigit():
            self.send_response(int(mode))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if mode == "hang":
            with contextlib.suppress(AssertionError):
                wait_until(lambda: proxy.mode != "hang", 30, "another mode")
            self.close_connection = True
            return
        connection = http.client.HTTPConnection("127.0.0.1", proxy.upstream, timeout=60)
        with contextlib.closing(connection):
            connection.request(self.command, self.path, body, dict(self.headers))
            answer = connection.getresponse()
            content = answer.read()
        if mode == "lost":
            self.close_connection = True  # the request was carried out, but the answer is lost
            return
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def driver_killed(scenario: Scenario) -> None:
    """SIGKILL to the driver, at any time from the creation of the parent run to the refit."""
    with scenario.start() as command:
        scenario.wait_for_parent(command)
        scenario.wait_random_time(14)
        command.signal_alone(signal.SIGKILL)
        scenario.wait(command, -9, 0)
    scenario.finish()


def worker_killed(scenario: Scenario) -> None:
    """SIGKILL to a worker that runs a trial."""
    with scenario.start() as command:
        wait_until(lambda: bool(_workers(command)), 120, "a worker")
        scenario.wait_random_time(3)
        for pid in _workers(command)[:1]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        scenario.wait(command, 0)


def _workers(command: Command) -> list[int]:
    # Ray's own agents have such titles too; if an agent dies, its raylet ends, and so the driver
    return [
        pid
        for pid, line in processes(command.mark)
        if line.startswith("ray::") and "IDLE" not in line and "Agent" not in line
    ]


def interrupted(scenario: Scenario) -> None:
    """One Ctrl-C."""
    _signalled(scenario, [signal.SIGINT])


def interrupted_twice(scenario: Scenario) -> None:
    """Two Ctrl-C, shortly after one another."""
    _signalled(scenario, [signal.SIGINT, signal.SIGINT])


def terminated(scenario: Scenario) -> None:
    """SIGTERM to the driver alone, as `kill` sends it."""
    _signalled(scenario, [signal.SIGTERM])


def _signalled(scenario: Scenario, signals: list[signal.Signals]) -> None:
    with scenario.start() as command:
        scenario.wait_for_parent(command)
        scenario.wait_random_time(8)
        for number in signals:
            with contextlib.suppress(ProcessLookupError):
                if number == signal.SIGTERM:
                    command.signal_alone(number)
                else:
                    command.signal_group(number)
            scenario.wait_random_time(1.5)
        if scenario.wait(command, 130, 0) == 0:
            return
    if any(run.info.status == "RUNNING" for run in scenario.runs()):
        scenario.problems.append("a run is RUNNING after an interrupt")
    scenario.finish()


def half_fails(scenario: Scenario) -> None:
    """A trainable that raises in half of the space."""
    scenario.model = "FAILING"
    _check_failures(scenario, "x is on the failing side")


def not_a_number(scenario: Scenario) -> None:
    """A trainable whose score is NaN in half of the space."""
    scenario.model = "NOT_A_NUMBER"
    _check_failures(scenario, "")


def _check_failures(scenario: Scenario, reason: str) -> None:
    with scenario.start() as command:
        scenario.wait(command, 0)
    for trial_id, run in scenario.trials().items():
        fails = json.loads(run.data.tags["search.point"])["x"] > 0
        if (run.info.status == "FAILED") != fails:
            scenario.problems.append(f"trial {trial_id} is {run.info.status}")
        if fails and reason not in run.data.tags.get("search.failure", ""):
            scenario.problems.append(f"trial {trial_id} does not have the reason of its failure")


def server_killed(scenario: Scenario) -> None:
    """SIGKILL to the tracking server, which is started again after some seconds."""
    with tracking_server(scenario) as start:
        server = start()
        with scenario.start() as command:
            scenario.wait_for_parent(command)
            scenario.wait_random_time(6)
            server.signal_group(signal.SIGKILL)
            scenario.wait_random_time(6)
            start()
            if scenario.wait(command, 0, 1) == 1:
                scenario.finish()
        scenario.problems = find_problems(scenario, None)  # while the server runs


def server_away_to_the_end(scenario: Scenario) -> None:
    """The tracking server ends and stays away: exit 1; the next start sends the other events."""
    with tracking_server(scenario) as start:
        server = start()
        with scenario.start() as command:
            scenario.wait_for_parent(command)
            scenario.wait_random_time(4)
            server.signal_group(signal.SIGKILL)
            scenario.wait(command, 1)
        last_line = scenario.results[-1].stderr_lines[-1]
        if "--resume" not in last_line:
            scenario.problems.append(f"the last line does not name --resume: {last_line}")
        start()
        scenario.finish()
        scenario.problems = find_problems(scenario, None)


def journal_cut(scenario: Scenario) -> None:
    """SIGKILL to the server, then to the driver; the journal's last line is incomplete."""
    with tracking_server(scenario) as start:
        server = start()
        with scenario.start() as command:
            wait_until(lambda: bool(scenario.trials()), 120, "the first trial's run")
            server.signal_group(signal.SIGKILL)

            def lines() -> list[bytes]:
                files = list((scenario.folder / ".search").glob("*.journal"))
                return files[0].read_bytes().splitlines() if files else []

            wait_until(lambda: any(b'"Ended"' in line for line in lines()), 60, "a journal")
            scenario.wait_random_time(2)
            command.signal_alone(signal.SIGKILL)
            scenario.wait(command, -9)
        (file,) = (scenario.folder / ".search").glob("*.journal")
        last = len(lines()[-1])
        os.truncate(file, file.stat().st_size - scenario.rng.randint(1, last))
        start()
        scenario.finish()
        scenario.problems = find_problems(scenario, None)


def failing_server(mode: str) -> Callable[[Scenario], None]:
    """Return the fault of a server that fails for some seconds in the way ``mode`` says."""

    def fault(scenario: Scenario) -> None:
        with tracking_server(scenario) as start:
            start()
            proxy = Proxy(int(scenario.uri.rpartition(":")[2]), scenario.rng)
            threading.Thread(target=proxy.serve_forever, daemon=True).start()
            direct, scenario.uri = scenario.uri, f"http://127.0.0.1:{proxy.server_port}"
            with contextlib.closing(proxy.socket), scenario.start() as command:
                watcher = Scenario(scenario.folder, scenario.rng, direct)
                watcher.wait_for_parent(command)
                scenario.wait_random_time(4)
                proxy.mode = mode
                wait_until(lambda: proxy.faults > 0 or not command.running, 60, "a request")
                scenario.wait_random_time(12 if mode == "lost" else 8)
                proxy.mode = "pass"
                if scenario.wait(command, 0, 1) == 1:
                    scenario.finish()
                proxy.shutdown()
            scenario.uri = direct
            scenario.problems = find_problems(scenario, None)

    fault.__doc__ = f"A server that answers with {mode} for some seconds."
    return fault


def disk_full(scenario: Scenario) -> None:
    """The disk of the state folder is full: one line of error, and the search can be resumed."""
    disk = scenario.folder / ".search"
    disk.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_BYTES},mode=0700", "tmpfs", str(disk)],
        check=True,
    )
    try:
        with scenario.start() as command:
            scenario.wait_for_parent(command)
            scenario.wait_random_time(5)
            filler = disk / "filler"
            with contextlib.suppress(OSError), filler.open("wb") as file:
                while True:
                    file.write(bytes(1 << 16))
            code = scenario.wait(command, 0, 1)
            filler.unlink(missing_ok=True)
        if code == 1:
            last_line = scenario.results[-1].stderr_lines[-1]
            if "No space left" not in last_line:
                scenario.problems.append(f"the last line does not name the reason: {last_line}")
            scenario.finish()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def second_driver(scenario: Scenario) -> None:
    """A second driver is refused while the first one runs; the first one is not disturbed."""
    with scenario.start() as command:
        scenario.wait_for_parent(command)
        scenario.wait_random_time(3)
        with scenario.resume() as second:
            code = scenario.wait(second, 2, 0)  # 0: the first had ended
            if code == 0 and command.running:
                scenario.problems.append("two drivers at once")
        scenario.wait(command, 0)


def two_resumes(scenario: Scenario) -> None:
    """SIGKILL to the driver, then two processes resume its search at the same moment."""
    with scenario.start() as command:
        scenario.wait_for_parent(command)
        scenario.wait_random_time(8)
        command.signal_alone(signal.SIGKILL)
        scenario.wait(command, -9, 0)
    with scenario.resume() as one, scenario.resume() as other, ThreadPoolExecutor(2) as pool:
        codes = sorted(pool.map(lambda each: scenario.wait(each, 0, 2), (one, other)))
    if codes[0] != 0:
        scenario.problems.append(f"neither of the two resumed the search: {codes}")


FAULTS: dict[str, Callable[[Scenario], None]] = {
    "server away to the end": server_away_to_the_end,  # the longest first
    "driver killed": driver_killed,
    "worker killed": worker_killed,
    "tracking server killed": server_killed,
    "interrupted": interrupted,
    "interrupted twice": interrupted_twice,
    "terminated": terminated,
    "half of the space fails": half_fails,
    "loss is not a number": not_a_number,
    "journal cut": journal_cut,
    "server answers 500": failing_server("500"),
    "server answers 429": failing_server("429"),
    "server hangs": failing_server("hang"),
    "answers lost": failing_server("lost"),
    "second driver": second_driver,
    "two resumes": two_resumes,
    "disk full": disk_full,
}
OTHER_TRIALS = ("half of the space fails", "loss is not a number")
NEEDS_ROOT = ("disk full",)
WITH_SERVER = (
    "server away to the end",
    "tracking server killed",
    "journal cut",
    "answers lost",
    "server answers 500",
    "server answers 429",
    "server hangs",
)


def run_without_fault(folder: Path) -> dict[str, object]:
    """Run the search without a fault; return the outcomes of its trials."""
    scenario = Scenario(folder, random.Random(0))
    with scenario.start() as command:
        scenario.wait(command, 0)
    problems = find_problems(scenario, None)
    assert not problems, problems
    return trial_outcomes(scenario.trials())


def run_with_fault(kind: str, folder: Path, seed: int, expected: Mapping[str, object]) -> list[str]:
    """Run one search with one fault; return the problems found."""
    scenario = Scenario(folder, random.Random(seed))
    FAULTS[kind](scenario)
    if kind in WITH_SERVER:  # the other checks were made while its server ran
        same = outcomes_in_file(scenario) == expected
        return scenario.problems + ([] if same else ["other trials than without a fault"])
    return find_problems(scenario, None if kind in OTHER_TRIALS else expected)


def outcomes_in_file(scenario: Scenario) -> dict[str, object]:
    """Return the trials' outcomes from the file of a server that has ended."""
    scenario.uri = f"sqlite:///{scenario.folder / 'server' / 'mlflow.db'}"
    return trial_outcomes(scenario.trials())


def kinds() -> list[str]:
    """Return the kinds of fault that this process has the rights for."""
    return [kind for kind in FAULTS if kind not in NEEDS_ROOT or os.geteuid() == 0]


def main() -> int:
    """Run as many faults as requested; print the problems of each, and write a summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=list(FAULTS), nargs="*")
    parser.add_argument("--at-once", type=int, default=AT_ONCE)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    started = time.monotonic()
    top = Path(tempfile.mkdtemp(prefix="faults-"))
    expected = run_without_fault(top / "no-fault")
    order = list(itertools.islice(itertools.cycle(given.only or kinds()), given.faults))
    counts: dict[str, dict[str, int]] = {kind: {"faults": 0, "losses": 0} for kind in order}

    def run(number: int) -> None:
        kind, folder = order[number], top / f"{number:03d}"
        fault_started = time.monotonic()
        try:
            problems = run_with_fault(kind, folder, given.seed + number, expected)
        except Exception as error:  # noqa: BLE001 - a fault that could not be run is a failure
            problems = [f"{type(error).__name__}: {error}"]
        counts[kind]["faults"] += 1
        counts[kind]["losses"] += bool(problems)
        outcome = "; ".join(problems) or "nothing lost"
        took_s = time.monotonic() - fault_started
        print(f"{number:3d} {kind} ({took_s:.0f} s): {outcome}", flush=True)
        if not problems:
            shutil.rmtree(folder)

    with ThreadPoolExecutor(given.at_once) as pool:
        list(pool.map(run, range(len(order))))
    losses = sum(count["losses"] for count in counts.values())
    summary: dict[str, Any] = {
        "faults": len(order),
        "losses": losses,
        "seconds": round(time.monotonic() - started),
        "by_kind": counts,
        "machine": {"cores": os.cpu_count(), "platform": platform.platform()},
    }
    print(json.dumps(summary))
    if given.json:
        given.json.write_text(json.dumps(summary, indent=1) + "\n")
    if not losses:
        shutil.rmtree(top)
    return int(losses > 0)


if __name__ == "__main__":
    sys.exit(main())
