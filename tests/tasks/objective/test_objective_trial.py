"""One trial of an objective, and what is kept of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
from hyperopt import hp
from hyperopt.exceptions import InvalidLoss, InvalidResultStatus

from search.suggest.labels import LabelSpace
from search.tasks.objective.output import LONGEST_OUTPUT, output_kept
from search.tasks.objective.task import Records
from search.tasks.objective.trial import Extra, as_result
from search.values.logged import Logged, LoggedModel
from search.values.trial import Outcome

SPACE = LabelSpace({"x": hp.uniform("x", 0, 1)})
MODEL = LoggedModel(name="model", flavors=("sklearn",), folder="m-1")


class TestResult:
    @pytest.mark.parametrize(
        "returned",
        [2, 2.0, np.float32(2), np.int64(2), np.array([2.0]), {"loss": 2, "status": "ok"}],
    )
    def test_loss_is_a_number(self, returned: Any) -> None:
        """Numbers, numpy's numbers, arrays of length 1 and dictionaries are results."""
        assert as_result(returned) == {"loss": 2.0, "status": "ok"}
        assert type(as_result(returned)["loss"]) is float

    def test_what_is_returned_beside_the_loss_is_kept(self) -> None:
        """A model, other values, and a loss that belongs to a failure."""
        returned = {"status": "fail", "loss": "none", "other": {"a": 1}}
        assert as_result(returned) == returned

    def test_wrong_results_are_hyperopts_exceptions(self) -> None:
        """A script that catches them still does."""
        with pytest.raises(InvalidResultStatus):
            as_result({"loss": 1.0, "status": "good"})
        for loss in (None, [1.0]):
            with pytest.raises(InvalidLoss):
                as_result({"loss": loss, "status": "ok"})


class TestOutput:
    def test_output_of_the_process_and_its_children_is_kept(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """Nothing of it reaches the terminal, and the terminal is back afterwards."""
        with output_kept(tmp_path) as output:
            print("from Python")
            os.write(2, b"from C\n")
            subprocess.run([sys.executable, "-c", "print('from a child')"], check=True)
            assert "from Python" in output.text()
            kept = output.text()
        print("afterwards")
        assert sorted(kept.splitlines()) == ["from C", "from Python", "from a child"]
        assert capfd.readouterr().out == "afterwards\n"

    def test_only_the_end_of_a_long_output_is_kept(self, tmp_path: Path) -> None:
        """An objective that prints for hours does not fill the memory."""
        with output_kept(tmp_path) as output:
            print("x" * LONGEST_OUTPUT)
            print("the end")
            kept = output.text()
        assert kept.endswith("the end\n")
        assert len(kept) < LONGEST_OUTPUT + 100


def outcome(number: int, score: float | None) -> Outcome:
    status = "failed" if score is None else "finished"
    return Outcome(f"{number:04d}", {"x": 0.5}, status, score, None, "")


def packed(**extra: Any) -> bytes:
    logged = Logged(params={"x": "0.5", "depth": "3"}, models=(MODEL,), models_archive=b"tar")
    return bytes(cloudpickle.dumps(Extra(**{"logged": logged, **extra})))


class TestRecords:
    def test_best_model_takes_the_place_of_the_former_best(self) -> None:
        """By default only one model is in the store; a trial that is worse sends none."""
        records = Records(SPACE, "best", None)
        kept = [records.ended(outcome(n, loss), packed()) for n, loss in enumerate((3.0, 4.0, 2.0))]
        assert [(each.keep_models, each.supersedes) for each in kept] == [
            (True, ""),
            (False, ""),
            (True, "0000"),
        ]

    @pytest.mark.parametrize(("keep_models", "kept"), [("all", True), ("none", False)])
    def test_all_models_or_none_are_kept_if_asked_for(self, keep_models: str, kept: bool) -> None:
        """Then none takes the place of another."""
        records = Records(SPACE, keep_models, None)
        for number, loss in enumerate((3.0, 4.0, 2.0)):
            found = records.ended(outcome(number, loss), packed())
            assert (found.keep_models, found.supersedes) == (kept, "")

    def test_best_of_an_earlier_start_counts(self) -> None:
        """After a resume a worse trial's model does not come into the store."""
        records = Records(SPACE, "best", None)
        records.recovered([outcome(1, 1.0), outcome(2, None)])
        assert not records.ended(outcome(3, 2.0), packed()).keep_models
        assert records.ended(outcome(4, 0.5), packed()).supersedes == "0001"

    def test_registered_model_is_kept_whatever_is_asked_for(self) -> None:
        """Its author asked for it in the objective."""
        registered = LoggedModel("model", ("sklearn",), "m-1", registered_as="taxis")
        logged = Logged(models=(registered,), models_archive=b"tar")
        records = Records(SPACE, "none", None)
        kept = records.ended(outcome(1, 1.0), packed(logged=logged))
        assert kept.logged is not None
        assert kept.logged.models == (registered,)

    def test_param_that_repeats_a_hyperparameter_is_left_out(self) -> None:
        """The run has it already."""
        kept = Records(SPACE, "none", None).ended(outcome(1, 1.0), packed())
        assert kept.logged is not None
        assert kept.logged.params == {"depth": "3"}

    def test_plain_values_of_the_result_are_kept(self) -> None:
        """A resumed search has them in `trials.results`; what JSON cannot hold is left out."""
        result = {"loss": 1.0, "status": "ok", "other": {"a": [1, 2]}, "model": object()}
        kept = Records(SPACE, "none", None).ended(outcome(1, 1.0), packed(result=result))
        assert kept.result == '{"other": {"a": [1, 2]}}'

    def test_trial_whose_worker_died_has_nothing_to_keep(self) -> None:
        """Its report never came."""
        kept = Records(SPACE, "best", None).ended(outcome(1, None), b"")
        assert (kept.logged, kept.result) == (None, "")
