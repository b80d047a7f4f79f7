"""Which version of the registered model is the champion."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from numpy.typing import NDArray

from search import registry
from search.registry import DIGEST, GIVEN_UP, STANDING, WAITING, Registered, Registry, standing
from search.store import ROLE, Score, Store

NewStore = Callable[[Path], str]
MODEL = "it's a model"  # a name that cannot be written in MLflow's filters


@pytest.mark.parametrize(
    ("rmse", "champion", "made_up", "alias"),
    [
        (6.5, None, False, "champion"),  # the first version
        (6.4, 6.5, False, "champion"),  # a better one
        (6.5, 6.5, False, "challenger"),  # as good is not better
        (6.6, 6.5, False, "challenger"),
        (6.4, math.nan, False, "challenger"),  # nothing is better than what cannot be compared
        (math.nan, 6.5, False, "challenger"),
        (1.0, None, True, "challenger"),  # a made sample makes no champion, not even the first
        (1.0, 6.5, True, "challenger"),
    ],
)
def test_alias(rmse: float, champion: float | None, made_up: bool, alias: str) -> None:
    """The first version and each better one is champion, any other challenger."""
    assert standing(rmse, champion, made_up_data=made_up).alias == alias


def test_reason_gives_both_scores() -> None:
    """Who reads the reason sees what was compared."""
    reason = standing(6.4321, 6.5432, made_up_data=False).reason
    assert "6.4321" in reason
    assert "6.5432" in reason


def test_reason_names_the_sample() -> None:
    """A version made from the sample says so."""
    assert "sample" in standing(6.4, 6.5, made_up_data=True).reason


class Known:
    """Stands where a process that scores a champion does: each version has its refit's RMSE."""

    def __init__(self, trips: object, tracking_uri: str) -> None:
        self._client = MlflowClient(tracking_uri)

    def __enter__(self) -> Known:
        return self

    def __exit__(self, *exception: object) -> None:
        """Nothing was started."""

    def predictions(self, model_uri: str) -> NDArray[np.float64]:
        version = self._client.get_model_version(MODEL, model_uri.rpartition("/")[2])
        assert version.run_id is not None
        return np.full(3, self._client.get_run(version.run_id).data.metrics["rmse"])


class Unloadable(Known):
    def predictions(self, model_uri: str) -> NDArray[np.float64]:
        raise RuntimeError("no module")


class TestTurns:
    @pytest.fixture
    def store(
        self, new_store: NewStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[Store]:
        monkeypatch.setattr(registry, "Scoring", Known)
        monkeypatch.setattr(registry, "LOOK_AGAIN_S", 0.01)
        uri = new_store(tmp_path)
        mlflow.set_tracking_uri(uri)  # MLflow looks the logged model up there
        yield Store.connect(uri, "taxis")
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]

    def logged(self, store: Store, score: float) -> tuple[str, str]:
        """Log a refit that has this RMSE; return its model and its run."""
        run_id = store.create("refit", {ROLE: "refit"}, 1_000)
        store.score(run_id, [Score("rmse", score, 1_000)])
        model = store.client.create_logged_model(
            store.experiment_id, name="raw-trips", source_run_id=run_id
        )
        store.client.finalize_logged_model(model.model_id, "READY")
        return f"models:/{model.model_id}", run_id

    def registered(self, store: Store, score: float, digest: str = "d") -> Registered:
        return Registry(store, MODEL).register(
            *(*self.logged(store, score), score),
            *(None, np.zeros(3)),
            made_up_data=False,
            tags={DIGEST: digest},
        )

    def standings(self, store: Store) -> dict[int, str]:
        found = store.client.search_model_versions()
        return {int(each.version): each.tags[STANDING] for each in found}

    @pytest.mark.parametrize("same_rows", [True, False])
    def test_the_best_of_those_that_end_at_once_is_champion(
        self, *, same_rows: bool, store: Store
    ) -> None:
        """Whoever sets its alias last: each is compared with the one before it."""
        scores = [6.5, 6.2, 6.8, 6.1, 6.4, 6.3]
        at_once = threading.Barrier(len(scores))

        def search(score: float) -> Registered:
            at_once.wait(30)
            return self.registered(store, score, "d" if same_rows else f"d{score}")

        with ThreadPoolExecutor(len(scores)) as pool:
            ended = dict(zip(scores, pool.map(search, scores), strict=True))
        champion = store.client.get_model_version_by_alias(MODEL, "champion")
        assert str(champion.version) == ended[6.1].version
        assert sorted(int(each.version) for each in ended.values()) == [1, 2, 3, 4, 5, 6]
        by_number = sorted(ended, key=lambda score: int(ended[score].version))
        for number, score in enumerate(by_number):
            better = score == min(by_number[: number + 1])
            assert ended[score].standing.alias == ("champion" if better else "challenger")
        assert self.standings(store) == {
            int(each.version): each.standing.reason for each in ended.values()
        }

    def test_a_champion_on_the_same_rows_is_not_loaded(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its refit has said what it is worth; on other rows only the model can."""
        assert self.registered(store, 6.5).standing.alias == "champion"
        monkeypatch.setattr(registry, "Scoring", Unloadable)
        assert self.registered(store, 6.6).standing.alias == "challenger"
        assert self.registered(store, 6.4).standing.alias == "champion"
        told = self.registered(store, 6.3, digest="other").standing
        assert (told.alias, told.reason) == (
            "challenger",
            "champion 3 could not be scored: no module",
        )

    def test_a_champion_of_others_is_not_loaded(self, store: Store) -> None:
        """A model is code; whose it is nobody knows."""
        assert self.registered(store, 6.5).standing.alias == "champion"
        champion = store.client.get_model_version(MODEL, "1")
        store.describe(str(champion.run_id), tags={ROLE: "theirs"})
        told = self.registered(store, 6.4).standing
        assert (told.alias, "not loaded" in told.reason) == ("challenger", True)

    def test_a_version_whose_search_was_killed_is_given_up(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It holds the next ones up once, for a time that has an end."""
        monkeypatch.setattr(registry, "TURN_S", 0.1)
        store.client.create_registered_model(MODEL)
        model, run_id = self.logged(store, 6.0)
        store.client.create_model_version(MODEL, model, run_id, {STANDING: WAITING})
        assert self.registered(store, 6.5).standing.alias == "champion"
        assert self.standings(store)[1] == GIVEN_UP

    def test_other_models_and_later_versions_are_not_waited_for(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A turn is one model's, and goes by the number."""
        monkeypatch.setattr(registry, "TURN_S", math.inf)
        client, (model, run_id) = store.client, self.logged(store, 6.0)
        client.create_registered_model("another")
        client.create_model_version("another", model, run_id, {STANDING: WAITING})
        real = client.create_model_version

        def overtaken(*args: object, **named: object) -> object:
            made = real(*args, **named)  # type: ignore[arg-type]
            real(MODEL, model, run_id, {STANDING: WAITING})
            return made

        monkeypatch.setattr(client, "create_model_version", overtaken)
        assert self.registered(store, 6.5).version == "1"
        assert self.standings(store)[2] == WAITING
