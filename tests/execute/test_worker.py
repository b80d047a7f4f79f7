"""What a trial reports from its worker."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from search.execute import worker as module
from search.execute.worker import Job, Shared, StoppedAtRung, Unresponsive, Worker, run_trial
from search.values.metric import Metric

MINIMIZED = Metric("rmse", "minimize")
MAXIMIZED = Metric("roc-auc", "maximize")
RUNGS = (2, 5)
CONFIG = {"trial_id": "0001", "params": {}}
FALLING = [9.0, 8.0, 7.0, 6.0, 5.0, 5.5, 5.25]

Report = Callable[[list[float]], None]


@dataclass
class Scripted:
    """A trial whose curve is given; it may raise after its last round."""

    curve: list[float]
    raises: BaseException | None = None
    got: tuple[Any, ...] = ()

    def __call__(self, point: Any, shared: Any, report: Report) -> list[float]:
        self.got = (point, shared)
        for rounds in range(1, len(self.curve or []) + 1):
            report(self.curve[:rounds])
        if self.raises is not None:
            raise self.raises
        return self.curve


@pytest.fixture(autouse=True)
def _new_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process be a worker that has no data yet; a reference is what it refers to."""
    monkeypatch.setattr("ray.get", lambda reference: reference)
    monkeypatch.setattr(module, "_KEPT", {})


def run(trial: Any, metric: Metric = MINIMIZED, point: Any = None) -> list[dict[str, Any]]:
    """Run a trial; return its reports."""
    reports: list[dict[str, Any]] = []
    config = {"trial_id": "0001", "params": point or {}}
    run_trial(config, Job(trial, metric, RUNGS), shared(), reports.append)
    return reports


def shared() -> Shared:
    """Return a reference to data; each call has other objects with the same key."""
    return Shared("d" * 32, {"rows": [1.0, 2.0]})


def test_trial_reports_at_rungs_and_at_its_end_only() -> None:
    """The scheduler is asked at each rung; nothing is sent between."""
    assert [report["round"] for report in run(Scripted(FALLING))] == [2, 5, 7]


def test_pieces_of_the_curve_add_up() -> None:
    """Each round is reported once, with the report that follows it."""
    whole: list[float] = []
    for report in run(Scripted(FALLING)):
        assert report["curve_start"] == len(whole)
        whole += report["curve"]
    assert whole == FALLING


@pytest.mark.parametrize(
    ("metric", "curve"),
    [(MINIMIZED, FALLING), (MAXIMIZED, [-score for score in FALLING])],
    ids=lambda value: str(value.direction) if isinstance(value, Metric) else "",
)
def test_each_report_has_the_best_score_so_far(metric: Metric, curve: list[float]) -> None:
    """A trial is judged by its best round, not by its last."""
    reports = run(Scripted(curve), metric)
    found = [(report["score"], report["best_iteration"]) for report in reports]
    assert found == [(curve[1], 1), (curve[4], 4), (curve[4], 4)]


def test_only_the_last_report_is_final() -> None:
    """So the driver distinguishes a trial's end from a rung."""
    assert [report.get("final", False) for report in run(Scripted(FALLING))] == [False, False, True]


def test_end_on_a_rung_is_reported_as_the_end() -> None:
    """The last piece of the curve is empty then."""
    last = run(Scripted(FALLING[:5]))[-1]
    assert (last["final"], last["curve"], last["score"]) == (True, [], 5.0)


def test_fit_seconds_grow() -> None:
    """Each report has the time since the trial began."""
    seconds = [report["fit_seconds"] for report in run(Scripted(FALLING))]
    assert 0.0 <= seconds[0] <= seconds[1] <= seconds[2] < 10.0


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.array, Decimal, Fraction])
def test_scores_of_any_numeric_type_become_json_numbers(kind: Callable[[float], Any]) -> None:
    """A model library may give numpy's numbers, or an array of one."""
    reports = run(Scripted([kind(score) for score in FALLING]))
    assert [report["score"] for report in reports] == [8.0, 5.0, 5.0]
    parsed = json.loads(json.dumps(reports))
    assert [score for report in parsed for score in report["curve"]] == FALLING


def test_trial_without_rounds_reports_once() -> None:
    """One score is one report."""
    (only,) = run(Scripted([7.5]))
    assert (only["curve"], only["score"], only["final"]) == ([7.5], 7.5, True)


def test_trial_gets_its_point_and_the_data() -> None:
    scripted = Scripted(FALLING)
    run(scripted, point={"a": 1})
    assert scripted.got == ({"a": 1}, {"rows": [1.0, 2.0]})


def test_worker_keeps_its_data() -> None:
    """A second trial gets what the first derived from the data."""
    first, second = Scripted(FALLING), Scripted(FALLING)
    run(first)
    run(second)
    assert first.got[1] is second.got[1]


def test_worker_fetches_other_data() -> None:
    """It keeps one data set at a time."""
    Shared("a", [1.0]).fetched()
    assert Shared("b", [2.0]).fetched() == [2.0]
    assert list(module._KEPT) == ["b"]


class TestFailure:
    def test_curve_so_far_is_kept(self) -> None:
        """The rounds since the last rung are reported with the failure."""
        made = run(Scripted([9.0, 8.0, 7.0, 6.0], raises=ValueError("late")))
        assert [score for report in made for score in report["curve"]] == [9.0, 8.0, 7.0, 6.0]
        assert made[-1]["failure"] == "ValueError: late"

    def test_failure_is_the_error_without_its_notes(self) -> None:
        """Notes that are added to an exception are in its traceback."""
        error = ValueError("the reason")
        error.add_note("")
        assert run(Scripted([], raises=error))[-1]["failure"] == "ValueError: the reason"

    def test_trial_that_returns_nothing_failed(self) -> None:
        made = run(Scripted(None))  # type: ignore[arg-type]
        assert made[-1]["failure"].startswith("TypeError")

    def test_failure_is_reported_as_an_outcome(self) -> None:
        """The last report has the exception and its traceback."""
        last = run(Scripted(FALLING[:3], raises=ValueError("bad luck")))[-1]
        assert last["failure"] == "ValueError: bad luck"
        assert last["traceback"].startswith("Traceback")
        assert (last["final"], "score" in last) == (True, False)

    def test_failure_is_one_short_line(self) -> None:
        """It is the first line of the message."""
        last = run(Scripted([], raises=RuntimeError("first\nsecond " + "x" * 1000)))[-1]
        assert last["failure"] == "RuntimeError: first"
        assert "second" in last["traceback"]

    @pytest.mark.parametrize("curve", [[], [math.nan], [math.nan, math.inf], [math.inf] * 3])
    @pytest.mark.parametrize("metric", [MINIMIZED, MAXIMIZED])
    def test_trial_without_a_finite_score_failed(self, curve: list[float], metric: Metric) -> None:
        """NaN and infinity are no scores."""
        last = run(Scripted(curve), metric)[-1]
        assert f"no finite score in {len(curve)} rounds" in last["failure"]
        assert "score" not in last

    def test_score_that_is_no_number_is_a_failure(self) -> None:
        """The scores before it are kept."""
        curve: Any = [9.0, 8.0, 7.0, "low", 6.0, 5.0]
        found = run(Scripted(curve))
        assert "low" in found[-1]["failure"]
        assert [score for report in found for score in report["curve"]] == [9.0, 8.0, 7.0]

    @pytest.mark.parametrize("metric", [MINIMIZED, MAXIMIZED])
    def test_nan_is_never_the_best_score(self, metric: Metric) -> None:
        """The best round is the best of those with a number."""
        last = run(Scripted([math.nan, 3.0, math.nan]), metric)[-1]
        assert (last["score"], last["best_iteration"]) == (3.0, 1)

    def test_report_at_a_rung_has_no_score_if_there_is_none_yet(self) -> None:
        """The scheduler does not judge it."""
        first = run(Scripted([math.nan, math.nan, 3.0]))[0]
        assert (first["round"], "score" in first) == (2, False)

    def test_stop_at_a_rung_is_no_failure(self) -> None:
        """The exception that stops a trial at a report is not the trial's own."""

        def stop(_: dict[str, Any]) -> None:
            raise StoppedAtRung

        with pytest.raises(StoppedAtRung):
            run_trial(CONFIG, Job(Scripted(FALLING), MINIMIZED, RUNGS), shared(), stop)

    @pytest.mark.parametrize("kind", [KeyboardInterrupt, GeneratorExit, asyncio.CancelledError])
    def test_every_exception_of_a_trial_is_an_outcome(self, kind: type[BaseException]) -> None:
        """No signal arrives on a fit's thread: an interrupt there is the trial's own."""
        last = run(Scripted(FALLING[:1], raises=kind()))[-1]
        assert (last["failure"], last["final"]) == (kind.__name__, True)

    @pytest.mark.parametrize("code", [0, 3, "no licence"])
    def test_trial_that_exits_failed(self, code: int | str) -> None:
        """A model that calls `sys.exit` ends its trial, not its worker."""
        last = run(Scripted(FALLING[:1], raises=SystemExit(code)))[-1]
        assert (last["failure"], last["final"]) == (f"SystemExit: {code}", True)


class TestWorker:
    @pytest.fixture
    def trials(self) -> list[Any]:
        """The trials that the worker runs next, in this order."""
        return []

    @pytest.fixture
    def worker(self, trials: list[Any]) -> Worker:
        def next_trial(point: Any, shared: Any, report: Report) -> list[float]:
            scores: list[float] = trials.pop(0)(point, shared, report)
            return scores

        return Worker(Job(next_trial, MINIMIZED, RUNGS), shared())

    def test_each_call_returns_the_next_report(self, worker: Worker, trials: list[Any]) -> None:
        """The first call waits for the first rung."""
        trials.append(Scripted(FALLING))
        reports = [worker.begin(CONFIG), worker.go_on(), worker.go_on()]
        assert [report["round"] for report in reports] == [2, 5, 7]

    def test_trial_waits_at_a_rung(self, worker: Worker, trials: list[Any]) -> None:
        """Until it is judged it does no further round."""
        done: list[float] = []

        class Recording(Scripted):
            def __call__(self, point: Any, shared: Any, report: Report) -> list[float]:
                for rounds in range(1, len(self.curve) + 1):
                    done.append(self.curve[rounds - 1])
                    report(self.curve[:rounds])
                return self.curve

        trials.append(Recording(FALLING))
        worker.begin(CONFIG)
        worker.stop()
        assert done == FALLING[: RUNGS[0]]

    def test_next_trial_ends_the_one_that_waits_at_a_rung(
        self, worker: Worker, trials: list[Any]
    ) -> None:
        """No later report is of the stopped trial."""
        trials += [Scripted(FALLING), Scripted([1.0])]
        worker.begin(CONFIG)
        assert worker.begin(CONFIG)["curve"] == [1.0]

    def test_worker_runs_a_trial_after_a_failed_one(
        self, worker: Worker, trials: list[Any]
    ) -> None:
        trials += [Scripted([], raises=ValueError("bad luck")), Scripted([1.0])]
        assert worker.begin(CONFIG)["failure"] == "ValueError: bad luck"
        assert worker.begin(CONFIG)["score"] == 1.0

    def test_error_of_the_worker_itself_is_raised(
        self, worker: Worker, trials: list[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """If a bug of ours ends a fit without an outcome, the call does not wait for ever."""
        trials.append(Scripted(FALLING[:1], raises=ValueError()))
        monkeypatch.setattr(module, "last_line", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            worker.begin(CONFIG)

    def test_fit_that_does_not_end_makes_its_worker_unresponsive(
        self, worker: Worker, trials: list[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A trial that catches the exception that stops it costs its process, and no slot."""
        monkeypatch.setattr(module, "END_S", 0.1)
        released = threading.Event()

        class Stubborn(Scripted):
            def __call__(self, point: Any, shared: Any, report: Report) -> list[float]:
                with contextlib.suppress(BaseException):
                    report(self.curve[:2])
                released.wait(30)
                return self.curve

        trials.append(Stubborn(FALLING))
        worker.begin(CONFIG)
        with pytest.raises(Unresponsive, match="did not end"):
            worker.stop()
        released.set()


def test_worker_imports_neither_tune_nor_mlflow_nor_hyperopt() -> None:
    """Every slot waits for what a worker imports before its first trial."""
    code = """
import sys
import search.execute.worker, search.execute.node_probe, search.tasks.green_taxi.trial, trainables
for name in trainables.BUILT_IN:
    trainables.get(name)
print(*{"hyperopt", "mlflow", "ray.tune"} & sys.modules.keys())
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []
