"""A text of any length is kept in tags, and read back as it was."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from search.record import tags as tags_module
from search.record.connection import connect
from search.record.store import CLIENT_RETRIES
from search.record.tags import long_tag, read_long_tag

NewStore = Callable[[Path], str]


@pytest.mark.parametrize(
    "name", ["DATA_DIGEST", "SPACE_DIGEST", "TRACEBACK", "COMMIT", "STANDING", "BEST_TRIAL"]
)
def test_persisted_name_is_spelled_in_one_place(name: str) -> None:
    """Whoever changes it sees what else relies on it."""
    here = Path(tags_module.__file__)
    text = f'"{getattr(tags_module, name)}"'
    files = [file for file in here.parents[1].rglob("*.py") if text in file.read_text()]
    assert files == [here]


@settings(
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(text=st.text(max_size=20), other=st.text(max_size=20))
def test_text_is_read_back(text: str, other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text is cut to the length of a tag and joined again, also over the tags of another."""
    monkeypatch.setattr(tags_module, "LONGEST_TAG", 4)
    tags = long_tag("search.point", text)
    assert max(map(len, tags.values())) <= 4
    assert read_long_tag({**tags, "search.point.x": "x"}, "search.point") == text
    assert read_long_tag({**long_tag("search.point", other), **tags}, "search.point") == text


def test_short_text_is_one_tag() -> None:
    """A text that fits has the plain name."""
    assert long_tag("search.point", "{}") == {"search.point": "{}"}


def test_missing_tag_is_an_empty_text() -> None:
    """A tag whose name only begins the same is another tag."""
    assert read_long_tag({"search.pointer": "x"}, "search.point") == ""


def test_store_takes_the_longest_tags(
    new_store: NewStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part is as long as MLflow allows, in any script."""
    for name in (CLIENT_RETRIES, "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    store = connect(new_store(tmp_path), "taxis")
    run_id = store.create("s1", long_tag("search.point", "検" * 20_001), 1_000)
    store.describe(run_id, tags=long_tag("search.options", "😀" * 16_000))
    tags = store.tags(run_id)
    assert read_long_tag(tags, "search.point") == "検" * 20_001
    assert read_long_tag(tags, "search.options") == "😀" * 16_000
