"""What an attempt logged becomes one run's, and nothing of it is lost or takes another's place."""

from __future__ import annotations

import pytest

from search.values.logged import Logged, Measured, RunLog, merged, one_run, says_the_same

OWN = ("loss", "validation-loss", "fit_seconds", "best_iteration")


def point(key: str, value: float, step: int = 0) -> Measured:
    return Measured(key, value, 1_000, step)


class TestOneRun:
    def test_keys_of_several_runs_stand_side_by_side(self) -> None:
        """Runs that use different keys are one run with all of them."""
        runs = [RunLog({"a": "1"}, {"m": (point("m", 1.0),)}, {"t": "x"}), RunLog({"b": "2"})]
        logged = one_run(runs)
        assert logged == Logged({"a": "1", "b": "2"}, (point("m", 1.0),), {"t": "x"})

    def test_second_value_of_a_param_has_its_own_key(self) -> None:
        """The first run keeps the key; each other value is kept once, as KEY.2, KEY.3."""
        runs = [RunLog({"depth": text}) for text in ("1", "2", "1", "2", "3")]
        assert one_run(runs).params == {"depth": "1", "depth.2": "2", "depth.3": "3"}

    def test_numbered_key_that_is_taken_is_passed_over(self) -> None:
        """A KEY.2 that the author uses is not overwritten."""
        runs = [RunLog({"a": "1", "a.2": "mine"}), RunLog({"a": "2"})]
        assert one_run(runs).params == {"a": "1", "a.2": "mine", "a.3": "2"}

    def test_curves_of_two_runs_are_not_mixed(self) -> None:
        """A metric that two runs log is two metrics, each with its own steps."""
        first = (point("auc", 0.5, 0), point("auc", 0.6, 1))
        second = (point("auc", 0.7, 0),)
        logged = one_run([RunLog(metrics={"auc": first}), RunLog(metrics={"auc": second})])
        assert logged.metrics == (*first, point("auc.2", 0.7, 0))


class TestMerged:
    @pytest.mark.parametrize("text", ["7", "7.0", "7e0"])
    def test_param_that_says_what_the_search_says_is_dropped(self, text: str) -> None:
        """A hyperparameter that the objective logs itself is in the run once."""
        assert merged(Logged(params={"depth": text}), {"depth": 7}, OWN).params == {}

    def test_param_that_says_something_else_is_kept_aside(self) -> None:
        """The hyperparameter keeps its key, the objective's value is ``objective.KEY``."""
        logged = Logged(params={"depth": "8", "other": "1"})
        assert merged(logged, {"depth": 7}, OWN).params == {"objective.depth": "8", "other": "1"}

    def test_own_metric_keys_are_kept_aside_with_their_steps(self) -> None:
        """An objective's ``loss`` does not mix with the trial's."""
        logged = Logged(metrics=(point("loss", 3.0, 0), point("loss", 2.0, 1), point("auc", 0.5)))
        assert merged(logged, {}, OWN).metrics == (
            point("objective.loss", 3.0, 0),
            point("objective.loss", 2.0, 1),
            point("auc", 0.5),
        )

    def test_tags_that_hold_a_search_together_are_kept_aside(self) -> None:
        """An objective cannot make its run look like another's; its other tags stand."""
        names = ("search.role", "mlflow.runName", "mlflow.parentRunId", "mlflow.source.git.commit")
        logged = Logged(tags={**dict.fromkeys(names, "x"), "model": "mine", "team": "a"})
        expected = {f"objective.{name}": "x" for name in names} | {"model": "mine", "team": "a"}
        assert merged(logged, {}, OWN).tags == expected

    def test_renamed_key_does_not_overwrite_the_author_s(self) -> None:
        """An author may use ``objective.KEY``, too."""
        logged = Logged(params={"depth": "8", "objective.depth": "mine"})
        expected = {"objective.depth": "mine", "objective.depth.2": "8"}
        assert merged(logged, {"depth": 7}, OWN).params == expected


@pytest.mark.parametrize(
    ("text", "value", "same"),
    [
        ("0.1", 0.1, True),
        ("1", True, True),
        ("None", None, True),
        ("[1, 2]", [1, 2], True),
        ("nan", float("nan"), True),
        ("gini", "entropy", False),
        ("8", None, False),
    ],
)
def test_values_are_compared_as_text_and_as_numbers(text: str, value: object, same: bool) -> None:
    """MLflow keeps text only, so 7 and "7.0" are the same."""
    assert says_the_same(text, value) is same
