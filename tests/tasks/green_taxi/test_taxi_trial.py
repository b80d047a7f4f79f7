"""The worker code of the taxi task: one trial, and the final fit."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_matrix

import trainables
from search.execute import worker
from search.execute.worker import Job, Shared, run_trial
from search.present.progress import Display
from search.tasks.green_taxi.task import GreenTaxi
from search.tasks.green_taxi.trial import TaxiFit, TaxiTrial
from search.tasks.kinds import Request
from search.values.metric import Metric
from trainables.base import Curve, OnRound
from trainables.dataset import Dataset, Rows

RMSE = Metric("rmse", "minimize")


class Recording:
    """A trainable that keeps what it got."""

    def __init__(self) -> None:
        self.got: tuple[Any, ...] = ()

    def train(self, params: Any, data: Any, settings: Any, on_round: OnRound) -> Curve:
        self.got = (params, data, settings)
        on_round([7.5])
        return [7.5]


def dataset() -> Dataset:
    """Return rows on which a line fits exactly."""
    features = np.arange(6.0).reshape(6, 1)
    rows = Rows(csr_matrix(features), 3.0 * features[:, 0] + 1.0)
    return Dataset(rows, rows, digest="d" * 32)


def test_trainable_gets_point_data_and_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Searched parameters and settings are separate arguments. The curve is the trainable's."""
    trainable, data, curves = Recording(), dataset(), list[list[float]]()
    monkeypatch.setattr(trainables, "get", lambda _: trainable)
    curve = TaxiTrial("recording", {"seed": 3})({"a": 1}, data, curves.append)
    assert trainable.got == ({"a": 1}, data, {"seed": 3})
    assert (curve, curves) == ([7.5], [[7.5]])


def test_trainable_that_cannot_be_imported_is_an_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    """It fails the trial, not the worker."""
    monkeypatch.setattr(worker, "_KEPT", {"data": dataset()})
    reports: list[dict[str, Any]] = []
    run_trial(
        {"trial_id": "0001", "params": {}},
        Job(TaxiTrial("no_such_module_of_ours:X", {}), RMSE, (2, 5)),
        Shared("data", None),
        reports.append,
    )
    assert "no_such_module_of_ours" in reports[-1]["failure"]


def test_final_fit_has_predictions_of_the_model() -> None:
    """They are compared with those of the model after each step of its way."""
    data = dataset()
    fitted = TaxiFit("linear", {"seed": 3, "threads": 1})({}, 1, data)
    model = trainables.get("linear").load(fitted.model)
    assert fitted.answers.tolist() == model.predict(data.valid.features).tolist()
    assert fitted.answers == pytest.approx(data.valid.target)


@pytest.mark.parametrize("part", [TaxiTrial("linear", {"seed": 3}), TaxiFit("linear", {"seed": 3})])
def test_worker_code_can_be_pickled(part: Any) -> None:
    """Ray brings it to the workers."""
    assert pickle.loads(pickle.dumps(part)) == part


@pytest.mark.parametrize(
    ("trainable", "modules"),
    [("lasso", {"trainables"}), ("fits_of_mine:LASSO", {"trainables", "fits_of_mine"})],
)
def test_nodes_are_asked_for_the_trainable_of_the_user(
    trainable: str, modules: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its source changes scores as that of the built-in ones does."""
    (tmp_path / "fits_of_mine.py").write_text("from trainables.linear import LASSO")
    monkeypatch.syspath_prepend(tmp_path)
    values = {
        **{"trainable": trainable, "set": {}, "data_dir": tmp_path},
        **{"train_data": ["sample"], "valid_data": ["sample"], "test_data": []},
    }
    task = GreenTaxi.open(Request(values, seed=1, threads=1))
    prepared = task.prepare(Display(io.StringIO()))
    assert set(prepared.fitted_with.modules) == modules
    assert {"xgboost", "scikit-learn", "numba"} <= set(prepared.fitted_with.packages)
