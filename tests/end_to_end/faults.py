"""Searches that lose a part of what they stand on, at a random moment, and what is left of them.

``python tests/end_to_end/faults.py --faults 50 --json faults.json`` runs the long form; the test
beside it runs each kind once. After each fault the search is gone on with until it is done, and
then MLflow must hold what an undisturbed search leaves there.
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
    Ended,
    activated,
    few_trips,
    free_port,
    processes,
    search,
    wait_until,
    written,
)
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"  # who looks on need not wait for a dead server

NAME = "fault"
TRIALS, ROUNDS = 6, 12
END_S = 240.0  # the longest that one command may take
AT_ONCE = 4  # one of them waits, for a server that stays away
TMPFS_BYTES = 96 << 20

# Each trial takes a good half second, so that a random moment finds one under way.
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
class Scene:
    """One search in a folder of its own, its commands so far, and the chance that disturbs it."""

    folder: Path
    chance: random.Random
    uri: str = ""
    model: str = "STEPWISE"
    ends: list[Ended] = field(default_factory=list)
    whole: dict[str, tuple[object, ...]] = field(default_factory=dict)  # trials that had ended
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.uri = self.uri or f"sqlite:///{self.folder / 'mlflow.db'}"
        (self.folder / "stepwise.py").write_text(STEPWISE)
        written(few_trips(), self.folder / "trips.parquet")

    def start(self, trials: int = TRIALS, name: str = NAME, *more: str) -> Command:
        """Start the search."""
        trips = ("--train-data", "trips.parquet", "--valid-data", "trips.parquet")
        chosen = ("--trainable", f"stepwise:{self.model}", "--num-samples", str(trials))
        alone = ("--max-concurrent", "1", "--seed", "7", "--name", name)
        options = [*trips, *chosen, *alone, *more, "--tracking-uri", self.uri]
        return search(options, self.folder)

    def resume(self) -> Command:
        """Go on with it."""
        return search(["--resume", NAME, "--tracking-uri", self.uri], self.folder)

    def end(self, command: Command, *codes: int) -> int:
        """Wait for a command's end, which must be one of ``codes``."""
        ended = command.ended(END_S)
        self.ends.append(ended)
        if ended.code not in codes:
            self.complaints.append(f"exit {ended.code}, not one of {codes}: {ended.said[-3:]}")
        if "Traceback" in ended.stderr:
            self.complaints.append(f"a traceback on stderr: {ended.said[-3:]}")
        with contextlib.suppress(MlflowException):  # its server may be away
            for trial_id, run in self.trials().items():
                if run.data.tags.get("search.status") in ("finished", "stopped", "failed"):
                    self.whole.setdefault(trial_id, remains(run))
        return ended.code

    def finish(self) -> None:
        """Go on with the search until it is done."""
        for _ in range(3):
            with self.resume() as command:
                if self.end(command, 0, 1) == 0:
                    return

    def runs(self) -> list[Run]:
        """Return every run of the store; a file that is not there yet is the search's to make."""
        file = self.uri.removeprefix("sqlite:///")
        if file != self.uri and not Path(file).exists():
            return []
        client = MlflowClient(self.uri)
        ids = [each.experiment_id for each in client.search_experiments()]
        return list(client.search_runs(ids, max_results=1_000))

    def trials(self) -> dict[str, Run]:
        """Return the trials' runs by the trials' ids; complain of a trial with two."""
        found: dict[str, Run] = {}
        for run in self.runs():
            if run.data.tags.get("search.role") == "trial":
                trial_id = run.data.tags["search.trial_id"]
                if trial_id in found:
                    self.complaints.append(f"trial {trial_id} has two runs")
                found[trial_id] = run
        return found

    def wait_for_parent(self, command: Command) -> None:
        """Wait until the search has begun."""

        def begun() -> bool:
            with contextlib.suppress(MlflowException):
                if any(run.data.tags.get("search.role") == "search" for run in self.runs()):
                    return True
            assert command.running, f"the search ended: {command.stderr}"
            return False

        wait_until(begun, 120, "a parent run")

    def some_time(self, longest_s: float = 10.0) -> None:
        """Let a random time pass: the moment of a fault is the one thing that is drawn."""
        time.sleep(self.chance.uniform(0, longest_s))


def remains(run: Run) -> tuple[object, ...]:
    """Return what must not change any more of a trial that has ended."""
    metrics = repr(sorted(run.data.metrics.items()))  # as text: no NaN equals another
    return (run.info.run_id, run.info.start_time, metrics, run.data.params)


def lost(scene: Scene, undisturbed: Mapping[str, object] | None) -> list[str]:
    """Return what is not as an undisturbed search leaves it."""
    found = scene.complaints
    trials, runs = scene.trials(), scene.runs()
    if sorted(trials) != [f"{i + 1:04d}" for i in range(TRIALS)]:
        found.append(f"the trials are {sorted(trials)}")
    found += [f"run {r.info.run_name} is RUNNING" for r in runs if r.info.status == "RUNNING"]
    for trial_id, before in scene.whole.items():
        if trial_id in trials and remains(trials[trial_id]) != before:
            found.append(f"trial {trial_id} had ended and has changed")
    client = MlflowClient(scene.uri)
    for trial_id, run in trials.items():
        curve = client.get_metric_history(run.info.run_id, "validation-rmse")
        steps = Counter(point.step for point in curve)
        if any(count > 1 for count in steps.values()) or len(steps) != max(steps, default=-1) + 1:
            found.append(f"trial {trial_id}: its curve has the steps {dict(steps)}")
    by_role = Counter(
        run.data.tags.get("search.role") for run in runs if "search.superseded" not in run.data.tags
    )
    if by_role["search"] != 1 or by_role["refit"] != 1:
        found.append(f"runs that stand: {dict(by_role)}")
    if undisturbed is not None and (now := told(trials)) != undisturbed:
        found.append(f"not the trials of the undisturbed search: {now} is not {undisturbed}")
    marks = [ended.mark for ended in scene.ends]
    with contextlib.suppress(AssertionError):
        wait_until(lambda: not any(processes(mark) for mark in marks), 30, "the end of all")
    found += [f"still there: {line}" for mark in marks for _, line in processes(mark)]
    return found


def told(trials: Mapping[str, Run]) -> dict[str, object]:
    """Return what the searcher and the scheduler made of each trial."""
    return {
        trial_id: (
            *(run.data.tags["search.status"], run.data.tags["search.point"]),
            *(run.data.metrics.get("rmse"), run.data.tags.get("search.rungs")),
        )
        for trial_id, run in trials.items()
    }


@contextlib.contextmanager
def tracking_server(scene: Scene) -> Iterator[Callable[[], Command]]:
    """Give the scene a server's address; yield what starts the server there, again and again."""
    port, started = free_port(), contextlib.ExitStack()
    scene.uri = f"http://127.0.0.1:{port}"
    home = scene.folder / "server"
    home.mkdir()
    module = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
    place = ["--backend-store-uri", f"sqlite:///{home / 'mlflow.db'}", "--port", str(port)]
    # which would be seven processes more, whose start takes four times the server's
    environment = {**activated(), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}

    def start() -> Command:
        served = started.enter_context(Command([*module, *place], home, environment))

        def answers() -> bool:
            assert served.running, f"the server ended: {served.stderr}"
            return _status(port) == 200

        wait_until(answers, 120, "the tracking server")
        return served

    with started:
        yield start


def _status(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/health")
        return connection.getresponse().status
    return 0


class Proxy(ThreadingHTTPServer):
    """Stands before a tracking server, and misbehaves in the way that ``mode`` says."""

    daemon_threads = True
    mode = "pass"

    def __init__(self, upstream: int, chance: random.Random) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream, self.chance = upstream, chance
        self.faults = 0


class _Handler(BaseHTTPRequestHandler):
    server: Proxy

    def _answer(self) -> None:
        proxy, mode = self.server, self.server.mode
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if mode == "lost" and proxy.chance.random() < 0.5:
            mode = "pass"  # half of the answers get through
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
            self.close_connection = True  # it was done, and nobody hears of it
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
        """Say nothing."""


def driver_killed(scene: Scene) -> None:
    """Kill -9 of the driver, from the parent run's making to the refit."""
    with scene.start() as command:
        scene.wait_for_parent(command)
        scene.some_time(14)
        command.signal_alone(signal.SIGKILL)
        scene.end(command, -9, 0)
    scene.finish()


def worker_killed(scene: Scene) -> None:
    """Kill -9 of a worker that runs a trial."""
    with scene.start() as command:
        wait_until(lambda: bool(_workers(command)), 120, "a worker")
        scene.some_time(3)
        for pid in _workers(command)[:1]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        scene.end(command, 0)


def _workers(command: Command) -> list[int]:
    # Ray's own agents have such titles too; a raylet whose agent dies ends the driver with it
    return [
        pid
        for pid, line in processes(command.mark)
        if line.startswith("ray::") and "IDLE" not in line and "Agent" not in line
    ]


def interrupted(scene: Scene) -> None:
    """One Ctrl-C."""
    _signalled(scene, [signal.SIGINT])


def interrupted_twice(scene: Scene) -> None:
    """Two of them, shortly after one another."""
    _signalled(scene, [signal.SIGINT, signal.SIGINT])


def terminated(scene: Scene) -> None:
    """SIGTERM, as `kill` sends it: to the driver alone."""
    _signalled(scene, [signal.SIGTERM])


def _signalled(scene: Scene, signals: list[signal.Signals]) -> None:
    with scene.start() as command:
        scene.wait_for_parent(command)
        scene.some_time(8)
        for number in signals:
            with contextlib.suppress(ProcessLookupError):
                if number == signal.SIGTERM:
                    command.signal_alone(number)
                else:
                    command.signal_group(number)
            scene.some_time(1.5)
        if scene.end(command, 130, 0) == 0:
            return
    if any(run.info.status == "RUNNING" for run in scene.runs()):
        scene.complaints.append("a run is RUNNING after an interrupt")
    scene.finish()


def half_fails(scene: Scene) -> None:
    """A trainable that raises on half of the space."""
    scene.model = "FAILING"
    _outcomes_told(scene, "x is on the failing side")


def not_a_number(scene: Scene) -> None:
    """A trainable whose loss is NaN on half of the space."""
    scene.model = "NOT_A_NUMBER"
    _outcomes_told(scene, "")


def _outcomes_told(scene: Scene, reason: str) -> None:
    with scene.start() as command:
        scene.end(command, 0)
    for trial_id, run in scene.trials().items():
        fails = json.loads(run.data.tags["search.point"])["x"] > 0
        if (run.info.status == "FAILED") != fails:
            scene.complaints.append(f"trial {trial_id} is {run.info.status}")
        if fails and reason not in run.data.tags.get("search.failure", ""):
            scene.complaints.append(f"trial {trial_id} does not say why it failed")


def server_killed(scene: Scene) -> None:
    """Kill -9 of the tracking server, which comes back after some seconds."""
    with tracking_server(scene) as start:
        served = start()
        with scene.start() as command:
            scene.wait_for_parent(command)
            scene.some_time(6)
            served.signal_group(signal.SIGKILL)
            scene.some_time(6)
            start()
            if scene.end(command, 0, 1) == 1:
                scene.finish()
        scene.complaints = lost(scene, None)  # while the server is there


def server_away_to_the_end(scene: Scene) -> None:
    """The tracking server goes and stays away: exit 1, and the rest is sent on the next start."""
    with tracking_server(scene) as start:
        served = start()
        with scene.start() as command:
            scene.wait_for_parent(command)
            scene.some_time(4)
            served.signal_group(signal.SIGKILL)
            scene.end(command, 1)
        if "--resume" not in scene.ends[-1].said[-1]:
            scene.complaints.append(f"no word on how to go on: {scene.ends[-1].said[-1]}")
        start()
        scene.finish()
        scene.complaints = lost(scene, None)


def journal_cut(scene: Scene) -> None:
    """The server dies, then the driver, and the journal's last line is cut short."""
    with tracking_server(scene) as start:
        served = start()
        with scene.start() as command:
            wait_until(lambda: bool(scene.trials()), 120, "the first trial's run")
            served.signal_group(signal.SIGKILL)

            def lines() -> list[bytes]:
                files = list((scene.folder / ".search").glob("*.journal"))
                return files[0].read_bytes().splitlines() if files else []

            wait_until(lambda: any(b'"Ended"' in line for line in lines()), 60, "a journal")
            scene.some_time(2)
            command.signal_alone(signal.SIGKILL)
            scene.end(command, -9)
        (file,) = (scene.folder / ".search").glob("*.journal")
        last = len(lines()[-1])
        os.truncate(file, file.stat().st_size - scene.chance.randint(1, last))
        start()
        scene.finish()
        scene.complaints = lost(scene, None)


def misbehaving(mode: str) -> Callable[[Scene], None]:
    """Make the fault of a server that misbehaves for some seconds."""

    def fault(scene: Scene) -> None:
        with tracking_server(scene) as start:
            start()
            proxy = Proxy(int(scene.uri.rpartition(":")[2]), scene.chance)
            threading.Thread(target=proxy.serve_forever, daemon=True).start()
            direct, scene.uri = scene.uri, f"http://127.0.0.1:{proxy.server_port}"
            with contextlib.closing(proxy.socket), scene.start() as command:
                watcher = Scene(scene.folder, scene.chance, direct)
                watcher.wait_for_parent(command)
                scene.some_time(4)
                proxy.mode = mode
                wait_until(lambda: proxy.faults > 0 or not command.running, 60, "a request")
                scene.some_time(12 if mode == "lost" else 8)
                proxy.mode = "pass"
                if scene.end(command, 0, 1) == 1:
                    scene.finish()
                proxy.shutdown()
            scene.uri = direct
            scene.complaints = lost(scene, None)

    fault.__doc__ = f"A server that answers with {mode} for some seconds."
    return fault


def disk_full(scene: Scene) -> None:
    """The state folder's disk is full: one line, and the search can be gone on with."""
    disk = scene.folder / ".search"
    disk.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_BYTES},mode=0700", "tmpfs", str(disk)],
        check=True,
    )
    try:
        with scene.start() as command:
            scene.wait_for_parent(command)
            scene.some_time(5)
            filler = disk / "filler"
            with contextlib.suppress(OSError), filler.open("wb") as file:
                while True:
                    file.write(bytes(1 << 16))
            code = scene.end(command, 0, 1)
            filler.unlink(missing_ok=True)
        if code == 1:
            if "No space left" not in scene.ends[-1].said[-1]:
                scene.complaints.append(f"not said: {scene.ends[-1].said[-1]}")
            scene.finish()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def second_driver(scene: Scene) -> None:
    """A second driver while the first lives is refused; the first does not notice."""
    with scene.start() as command:
        scene.wait_for_parent(command)
        scene.some_time(3)
        with scene.resume() as second:
            code = scene.end(second, 2, 0)  # 0: the first had ended
            if code == 0 and command.running:
                scene.complaints.append("two drivers")
        scene.end(command, 0)


def two_resumes(scene: Scene) -> None:
    """The driver is killed, and two go on with its search at the same moment."""
    with scene.start() as command:
        scene.wait_for_parent(command)
        scene.some_time(8)
        command.signal_alone(signal.SIGKILL)
        scene.end(command, -9, 0)
    with scene.resume() as one, scene.resume() as other, ThreadPoolExecutor(2) as pool:
        codes = sorted(pool.map(lambda each: scene.end(each, 0, 2), (one, other)))
    if codes[0] != 0:
        scene.complaints.append(f"none of both went on: {codes}")


FAULTS: dict[str, Callable[[Scene], None]] = {
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
    "server answers 500": misbehaving("500"),
    "server answers 429": misbehaving("429"),
    "server hangs": misbehaving("hang"),
    "answers lost": misbehaving("lost"),
    "second driver": second_driver,
    "two resumes": two_resumes,
    "disk full": disk_full,
}
OTHER_TRIALS = ("half of the space fails", "loss is not a number")
NEEDS_ROOT = ("disk full",)
SERVED = (
    *("server away to the end", "tracking server killed", "journal cut", "answers lost"),
    *("server answers 500", "server answers 429", "server hangs"),
)


def undisturbed_trials(folder: Path) -> dict[str, object]:
    """Run the search without a fault; return what its trials came to."""
    scene = Scene(folder, random.Random(0))
    with scene.start() as command:
        scene.end(command, 0)
    found = lost(scene, None)
    assert not found, found
    return told(scene.trials())


def suffered(kind: str, folder: Path, seed: int, undisturbed: Mapping[str, object]) -> list[str]:
    """Run one search with one fault; return what was lost."""
    scene = Scene(folder, random.Random(seed))
    FAULTS[kind](scene)
    if kind in SERVED:  # looked at while its server was there
        same = told_by_file(scene) == undisturbed
        return scene.complaints + ([] if same else ["not the trials of the undisturbed search"])
    return lost(scene, None if kind in OTHER_TRIALS else undisturbed)


def told_by_file(scene: Scene) -> dict[str, object]:
    """Return what a stopped server's file holds."""
    scene.uri = f"sqlite:///{scene.folder / 'server' / 'mlflow.db'}"
    return told(scene.trials())


def kinds() -> list[str]:
    """Return the faults that can be made here."""
    return [kind for kind in FAULTS if kind not in NEEDS_ROOT or os.geteuid() == 0]


def main() -> int:
    """Run as many faults as asked, say what each one cost, and write it down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=list(FAULTS), nargs="*")
    parser.add_argument("--at-once", type=int, default=AT_ONCE)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    started = time.monotonic()
    top = Path(tempfile.mkdtemp(prefix="faults-"))
    undisturbed = undisturbed_trials(top / "undisturbed")
    order = list(itertools.islice(itertools.cycle(given.only or kinds()), given.faults))
    counts: dict[str, dict[str, int]] = {kind: {"faults": 0, "losses": 0} for kind in order}

    def run(number: int) -> None:
        kind, folder = order[number], top / f"{number:03d}"
        began = time.monotonic()
        try:
            complaints = suffered(kind, folder, given.seed + number, undisturbed)
        except Exception as error:  # noqa: BLE001 - one that could not be run is not a success
            complaints = [f"{type(error).__name__}: {error}"]
        counts[kind]["faults"] += 1
        counts[kind]["losses"] += bool(complaints)
        outcome = "; ".join(complaints) or "nothing lost"
        print(f"{number:3d} {kind} ({time.monotonic() - began:.0f} s): {outcome}", flush=True)
        if not complaints:
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
