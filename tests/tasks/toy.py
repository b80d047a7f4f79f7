"""A second task, to prove that the door is a door: a hill of two numbers, to be climbed.

No data, no model, a metric that is maximised. ``python -m toy OPTIONS`` searches it as
``python -m search.run OPTIONS`` searches taxis. The environment says how it behaves:
``TOY_FAIL_BELOW=X`` has trials with ``x < X`` raise, ``TOY_SECONDS=S`` lets a round take S seconds,
``TOY_STOCK=1`` takes all versions of Ray, hyperopt and MLflow for unknown.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from hyperopt import hp

from search import run
from search.execute import stock_tune
from search.record import mlflow_schema
from search.suggest import algorithms
from search.suggest.space import Space
from search.tasks import kinds
from search.tasks.base import Display, Prepared, Task
from search.tasks.kinds import Kind, Request
from search.values.metric import Metric
from search.values.trial import Point

ROUNDS = 40
TOP = 5.0  # the height at (1, -2)


def height(x: float, y: float, rounds: int = ROUNDS) -> float:
    """Return how high the hill is at (x, y), as seen after some rounds of looking."""
    return TOP - (x - 1) ** 2 - (y + 2) ** 2 - 1 / rounds


@dataclass(frozen=True)
class ToyTrial:
    """Looks at one point, round after round."""

    def __call__(
        self, point: Point, shared: None, report: Callable[[list[float]], None]
    ) -> list[float]:
        """Return the heights seen."""
        if point["x"] < float(os.environ.get("TOY_FAIL_BELOW", "-inf")):
            raise ValueError(f"no ground at x = {point['x']:.3f}")
        seen: list[float] = []
        for rounds in range(1, ROUNDS + 1):
            time.sleep(float(os.environ.get("TOY_SECONDS", "0")))
            seen.append(height(point["x"], point["y"], rounds))
            report(seen)
        return seen


@dataclass(frozen=True)
class Toy:
    """The hill."""

    kind: ClassVar[str] = "toy"
    model: ClassVar[str] = "hill"
    metric: ClassVar[Metric] = Metric("height", "maximize")
    rounds: ClassVar[int] = ROUNDS
    warmup: ClassVar[None] = None
    params: ClassVar[Mapping[str, Any]] = {"top": TOP}

    @property
    def space(self) -> Space:
        """A square around the top, not in its middle."""
        return Space({"x": hp.uniform("x", -4, 4), "y": hp.uniform("y", -4, 4)})

    def prepare(self, display: Display) -> Prepared:
        """Prepare nothing: there is no data."""
        display.say("the hill is there")
        return Prepared(trial=ToyTrial(), refit=None)


def open_toy(_: Request) -> Task:
    """Open the task, whatever is asked."""
    return Toy()


KIND = Kind(
    name="toy",
    options=(),
    experiment_name="hills",
    registered_model="hill",
    stem=lambda _: "hill",
    check=lambda _: None,
    open=open_toy,
)


if __name__ == "__main__":
    kinds.PLACES = ("toy:KIND",)  # this module by its name, so that workers can import it
    if os.environ.get("TOY_STOCK"):  # as with versions of libraries that nobody has tested
        stock_tune.CONTROLLER_PROVEN = ((0, 0), (0, 0))
        algorithms.PROVEN = ("0", "0")
        mlflow_schema.PROVEN = ((0, 0), (0, 0))
    sys.exit(run.main(sys.argv[1:]))
