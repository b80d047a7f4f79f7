"""Everything outside ``search/tasks`` works on any task: it knows nothing of taxis."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import toy

import search
from search.tasks.base import Task
from search.tasks.green_taxi.kind import GREEN_TAXI
from search.tasks.kinds import Request, default_kind, kinds

TOP = Path(search.__file__).parent
# what only the taxi task may speak of
TAXI_WORDS = re.compile(
    r"rmse|minute|\btrips?\b|dictvectorizer|taxi|\bzones?\b"
    r"|trainables?\b|boost|parquet|\bmonths?\b|made sample",
    re.IGNORECASE,
)
# where such a word means something else
ALLOWED = {
    # what Ray Tune calls that which it runs
    "execute/controller.py": r"validate_trainable|get_trainable_cls",
    "execute/stock_tune.py": r"trainable",
    "execute/trials.py": r"trainable",
    "execute/worker.py": r"Tune's own trainable",
    # a form of files and tables, whatever is in them
    "model/scoring_process.py": r"parquet",
    "tasks/download.py": r"parquet",
    # the package, which a task may import
    "tasks/__init__.py": r"``trainables``",
    # the one line that names the kind
    "tasks/kinds.py": r"search\.tasks\.green_taxi\.kind:GREEN_TAXI",
}
DOOR = ("tasks/__init__.py", "tasks/base.py", "tasks/kinds.py", "tasks/download.py")
OUTSIDE = sorted(
    file.relative_to(TOP).as_posix()
    for file in TOP.rglob("*.py")
    if file.relative_to(TOP).parts[0] != "tasks" or file.relative_to(TOP).as_posix() in DOOR
)


def opened(**changes: object) -> Task:
    values = {
        option.name: option.read(option.spec.get("default") or [])
        for option in GREEN_TAXI.options
        if option.name != "data_dir"
    }
    values |= {"data_dir": Path("data"), "trainable": "lasso", **changes}
    return GREEN_TAXI.open(Request(values, seed=42, threads=1))


@pytest.mark.parametrize("file", OUTSIDE)
def test_rooms_know_nothing_of_taxis(file: str) -> None:
    """Neither code nor comments speak of RMSE, minutes, trips, zones, months or XGBoost."""
    text = re.sub(ALLOWED.get(file, "(?!)"), "", (TOP / file).read_text())
    found = [line.strip() for line in text.splitlines() if TAXI_WORDS.search(line)]
    assert found == []


def test_there_are_rooms_to_look_into() -> None:
    """The test above looks at the whole package."""
    assert len(OUTSIDE) > 50
    assert {"run.py", "conduct/search.py", "record/store.py", "execute/worker.py"} <= set(OUTSIDE)
    assert set(OUTSIDE) >= {*DOOR, *ALLOWED}


@pytest.mark.parametrize("file", ALLOWED)
def test_allowed_word_is_there(file: str) -> None:
    """An exception that nothing needs any more would hide the next mistake."""
    assert re.search(ALLOWED[file], (TOP / file).read_text())


def test_taxis_are_the_default_kind() -> None:
    """Without any option that asks for another kind, taxis are searched."""
    assert default_kind() is kinds()["taxi"] is GREEN_TAXI


@pytest.mark.parametrize("task", [toy.Toy(), opened()], ids=["toy", "taxi"])
def test_task_has_all_that_a_search_asks_for(task: Task) -> None:
    """Every attribute of the protocol is there, with a value of its type."""
    assert (type(task.kind), type(task.model)) == (str, str)
    assert task.metric.direction in ("minimize", "maximize")
    assert task.space.labels
    assert task.rounds is None or task.rounds > 0
    assert all(isinstance(name, str) for name in task.params)
    assert task.warmup is None or isinstance(task.warmup, str)
