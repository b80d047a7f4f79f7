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
from scipy.sparse import csr_matrix

import trainables
from search import trial
from search.trial import Deaf, EndedAtRung, Job, Shared, Worker, run_trial
from trainables.base import Curve, OnRound
from trainables.dataset import Dataset, Rows

RUNGS = (2, 5)
CONFIG = {"trial_id": "0001", "params": {}}
FALLING = [9.0, 8.0, 7.0, 6.0, 5.0, 5.5, 5.25]


@dataclass
class Scripted:
    """A trainable whose curve is written down beforehand; it may raise after its last round."""

    curve: Curve
    raises: BaseException | None = None
    got: tuple[Any, ...] = ()

    def train(self, params: Any, data: Any, settings: Any, on_round: OnRound) -> Curve:
        self.got = (params, data, settings)
        for rounds in range(1, len(self.curve or []) + 1):
            on_round(self.curve[:rounds])
        if self.raises is not None:
            raise self.raises
        return self.curve


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What was reported to Tune, and a worker that has no data yet."""
    made: list[dict[str, Any]] = []
    monkeypatch.setattr("ray.get", lambda reference: reference)
    monkeypatch.setattr(trial, "_KEPT", {})
    return made


@pytest.fixture
def run(
    reports: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> Callable[[Scripted], list[dict[str, Any]]]:
    def run(scripted: Scripted) -> list[dict[str, Any]]:
        monkeypatch.setattr(trainables, "get", lambda _: scripted)
        config = {"trial_id": "0001", "params": {"a": 1}}
        run_trial(config, shared(), Job("scripted", {"seed": 3}, RUNGS), reports.append)
        return reports

    return run


Run = Callable[[Scripted], list[dict[str, Any]]]


def rows() -> Dataset:
    some = Rows(csr_matrix(np.ones((2, 1))), np.ones(2))
    return Dataset(some, some, digest="d" * 32)


def shared() -> Shared:
    return Shared("d" * 32, rows())


def test_reports_at_rungs_and_at_the_end_only(run: Run) -> None:
    """The scheduler is asked at each rung; nothing is sent between."""
    assert [report["round"] for report in run(Scripted(FALLING))] == [2, 5, 7]


def test_curve_pieces_add_up(run: Run) -> None:
    """Each round is reported once, in the piece it belongs to."""
    whole: Curve = []
    for report in run(Scripted(FALLING)):
        assert report["curve_start"] == len(whole)
        whole += report["curve"]
    assert whole == FALLING


def test_each_report_has_the_lowest_score_so_far(run: Run) -> None:
    """A trial is judged by its best round, not by its last."""
    found = [(report["rmse"], report["best_iteration"]) for report in run(Scripted(FALLING))]
    assert found == [(8.0, 1), (5.0, 4), (5.0, 4)]


def test_only_the_last_report_is_final(run: Run) -> None:
    """The driver can tell the end from a rung."""
    assert [report.get("final", False) for report in run(Scripted(FALLING))] == [False, False, True]


def test_end_on_a_rung_is_reported_as_the_end(run: Run) -> None:
    """A trial whose last round is a rung ends with an empty last piece."""
    last = run(Scripted(FALLING[:5]))[-1]
    assert (last["final"], last["curve"], last["rmse"]) == (True, [], 5.0)


def test_fit_seconds_grow(run: Run) -> None:
    """Each report says how long the fit has taken."""
    seconds = [report["fit_seconds"] for report in run(Scripted(FALLING))]
    assert 0.0 <= seconds[0] <= seconds[1] <= seconds[2] < 10.0


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.array, Decimal, Fraction])
def test_numbers_of_any_kind_are_reported_as_json_has_them(
    run: Run, kind: Callable[[float], Any]
) -> None:
    """A trainable's scores are what its library makes: numpy's numbers, an array of one."""
    found = run(Scripted([kind(score) for score in FALLING]))
    assert [report["rmse"] for report in found] == [8.0, 5.0, 5.0]
    said = json.loads(json.dumps(found))
    assert [score for report in said for score in report["curve"]] == FALLING


def test_model_without_rounds_reports_once(run: Run) -> None:
    """One score is one report."""
    (only,) = run(Scripted([7.5]))
    assert (only["curve"], only["rmse"], only["final"]) == ([7.5], 7.5, True)


def test_trainable_gets_point_data_and_settings(run: Run) -> None:
    """What is searched and what is set reach the fit apart from each other."""
    scripted = Scripted(FALLING)
    run(scripted)
    params, data, settings = scripted.got
    assert (params, data.digest, settings) == ({"a": 1}, "d" * 32, {"seed": 3})


def test_worker_keeps_its_data(run: Run) -> None:
    """A second trial finds what the first derived from the data."""
    first, second = Scripted(FALLING), Scripted(FALLING)
    run(first)
    run(second)
    assert first.got[1] is second.got[1]


class TestFailure:
    def test_keeps_the_curve_so_far(self, run: Run) -> None:
        """The rounds since the last rung are reported with the failure."""
        made = run(Scripted([9.0, 8.0, 7.0, 6.0], raises=ValueError("late")))
        assert [score for report in made for score in report["curve"]] == [9.0, 8.0, 7.0, 6.0]
        assert made[-1]["failure"] == "ValueError: late"

    def test_names_the_error_not_its_notes(self, run: Run) -> None:
        """What is added to an exception is for its traceback."""
        error = ValueError("the reason")
        error.add_note("")
        assert run(Scripted([], raises=error))[-1]["failure"] == "ValueError: the reason"

    def test_no_curve_at_all_is_one(self, run: Run) -> None:
        """A trainable that returns nothing failed."""
        made = run(Scripted(None))  # type: ignore[arg-type]
        assert made[-1]["failure"].startswith("TypeError")

    def test_is_reported_as_an_outcome(self, run: Run) -> None:
        """What the trainable raises is told in its last report, with its traceback."""
        last = run(Scripted(FALLING[:3], raises=ValueError("bad luck")))[-1]
        assert last["failure"] == "ValueError: bad luck"
        assert last["traceback"].startswith("Traceback")
        assert (last["final"], "rmse" in last) == (True, False)

    def test_is_one_short_line(self, run: Run) -> None:
        """A failure of many lines is named by its first."""
        last = run(Scripted([], raises=RuntimeError("first\nsecond " + "x" * 1000)))[-1]
        assert last["failure"] == "RuntimeError: first"
        assert "second" in last["traceback"]

    def test_in_finding_the_trainable_is_an_outcome(
        self, reports: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A module that the worker cannot import fails the trial, not the worker."""
        job = Job("no_such_module_of_ours:X", {}, RUNGS)
        run_trial({"trial_id": "0001", "params": {}}, shared(), job, reports.append)
        assert "no_such_module_of_ours" in reports[-1]["failure"]

    @pytest.mark.parametrize("curve", [[], [math.nan], [math.nan, math.inf], [math.inf] * 3])
    def test_no_finite_score_is_one(self, run: Run, curve: Curve) -> None:
        """NaN is not a score, and no score is a failure."""
        last = run(Scripted(curve))[-1]
        assert f"no finite score in {len(curve)} rounds" in last["failure"]
        assert "rmse" not in last

    def test_what_is_no_number_is_one(self, run: Run) -> None:
        """What came before it is kept."""
        curve: Any = [9.0, 8.0, 7.0, "low", 6.0, 5.0]
        found = run(Scripted(curve))
        assert "low" in found[-1]["failure"]
        assert [score for report in found for score in report["curve"]] == [9.0, 8.0, 7.0]

    def test_nan_among_scores_is_not_the_best(self, run: Run) -> None:
        """The best round is the lowest that is a number."""
        last = run(Scripted([math.nan, 3.0, math.nan]))[-1]
        assert (last["rmse"], last["best_iteration"]) == (3.0, 1)

    def test_rung_without_a_score_is_not_judged(self, run: Run) -> None:
        """Until there is a number, the scheduler is given none."""
        first = run(Scripted([math.nan, math.nan, 3.0]))[0]
        assert (first["round"], "rmse" in first) == (2, False)

    def test_end_at_a_rung_passes_through(
        self, reports: list[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """How a trial is stopped, out of its report, is no failure of the trial's own."""
        monkeypatch.setattr(trainables, "get", lambda _: Scripted(FALLING))

        def stopped(_: dict[str, Any]) -> None:
            raise EndedAtRung

        job = Job("scripted", {}, RUNGS)
        with pytest.raises(EndedAtRung):
            run_trial({"trial_id": "0001", "params": {}}, shared(), job, stopped)

    @pytest.mark.parametrize("kind", [KeyboardInterrupt, GeneratorExit, asyncio.CancelledError])
    def test_whatever_a_trainable_raises_is_an_outcome(
        self, run: Run, kind: type[BaseException]
    ) -> None:
        """No signal arrives on a fit's thread: an interrupt there is the trainable's own."""
        last = run(Scripted(FALLING[:1], raises=kind()))[-1]
        assert (last["failure"], last["final"]) == (kind.__name__, True)

    @pytest.mark.parametrize("code", [0, 3, "no licence"])
    def test_trainable_that_exits_failed(self, run: Run, code: int | str) -> None:
        """A model that calls `sys.exit` ends its trial, not its worker."""
        last = run(Scripted(FALLING[:1], raises=SystemExit(code)))[-1]
        assert (last["failure"], last["final"]) == (f"SystemExit: {code}", True)


class TestWorker:
    @pytest.fixture
    def fits(self, reports: list[Any], monkeypatch: pytest.MonkeyPatch) -> list[Scripted]:
        """What the next trials run, one after another."""
        made: list[Scripted] = []
        monkeypatch.setattr(trainables, "get", lambda _: made.pop(0))
        return made

    @pytest.fixture
    def worker(self) -> Worker:
        return Worker(shared(), Job("scripted", {}, RUNGS))

    def test_reports_one_after_another(self, worker: Worker, fits: list[Scripted]) -> None:
        """Each call waits for one report, the first for the first rung."""
        fits.append(Scripted(FALLING))
        said = [worker.begin(CONFIG), worker.go_on(), worker.go_on()]
        assert [report["round"] for report in said] == [2, 5, 7]

    def test_stands_still_at_a_rung(self, worker: Worker, fits: list[Scripted]) -> None:
        """Until it is judged a trial takes no further round."""
        told: Curve = []

        class Telling(Scripted):
            def train(self, params: Any, data: Any, settings: Any, on_round: OnRound) -> Curve:
                for rounds in range(1, len(self.curve) + 1):
                    told.append(self.curve[rounds - 1])
                    on_round(self.curve[:rounds])
                return self.curve

        fits.append(Telling(FALLING))
        worker.begin(CONFIG)
        worker.stop()
        assert told == FALLING[: RUNGS[0]]

    def test_next_trial_ends_the_one_at_a_rung(self, worker: Worker, fits: list[Scripted]) -> None:
        """A stopped trial is out of the way, and no later report is its."""
        fits += [Scripted(FALLING), Scripted([1.0])]
        worker.begin(CONFIG)
        assert worker.begin(CONFIG)["curve"] == [1.0]

    def test_trial_after_a_failed_one(self, worker: Worker, fits: list[Scripted]) -> None:
        """A failure leaves the worker whole."""
        fits += [Scripted([], raises=ValueError("bad luck")), Scripted([1.0])]
        assert worker.begin(CONFIG)["failure"] == "ValueError: bad luck"
        assert worker.begin(CONFIG)["rmse"] == 1.0

    def test_what_is_no_outcome_is_raised(
        self, worker: Worker, fits: list[Scripted], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whoever waits for a report hears of an end without one: a defect of ours, say."""
        fits.append(Scripted(FALLING[:1], raises=ValueError()))
        monkeypatch.setattr(trial, "_last_line", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            worker.begin(CONFIG)

    def test_fit_that_does_not_end_is_told(
        self, worker: Worker, fits: list[Scripted], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A trainable that swallows its end costs its process, not the next trial's place."""
        monkeypatch.setattr(trial, "END_S", 0.1)
        released = threading.Event()

        class Stubborn(Scripted):
            def train(self, params: Any, data: Any, settings: Any, on_round: OnRound) -> Curve:
                with contextlib.suppress(BaseException):
                    on_round(self.curve[:2])
                released.wait(30)
                return self.curve

        fits.append(Stubborn(FALLING))
        worker.begin(CONFIG)
        with pytest.raises(Deaf, match="did not end"):
            worker.stop()
        released.set()


def test_worker_imports_neither_tune_nor_hyperopt() -> None:
    """What a worker imports before its first trial is what every slot waits for."""
    code = """
import sys
import search.trial, trainables
for name in trainables.BUILT_IN:
    trainables.get(name)
print(*{"hyperopt", "mlflow", "ray.tune"} & sys.modules.keys())
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []
