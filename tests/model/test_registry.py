"""The best version of a registered model is the champion, also if several searches end at once."""

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

from search.model import registry
from search.model.registry import GIVEN_UP, WAITING, Candidate, Registry, standing
from search.record.connection import connect
from search.record.store import Score, Store
from search.record.tags import ROLE, STANDING
from search.values.metric import Metric

RMSE = Metric("rmse", "minimize", label="RMSE")
AUC = Metric("auc", "maximize")
METRICS = pytest.mark.parametrize("metric", [RMSE, AUC], ids=["rmse", "auc"])
NewStore = Callable[[Path], str]
MODEL = "it's a model"  # MLflow's filters cannot express this name


class TestStanding:
    @pytest.mark.parametrize(
        ("metric", "score", "champion_score", "alias"),
        [
            (RMSE, 6.5, None, "champion"),  # the first version
            (RMSE, 6.4, 6.5, "champion"),  # a better one
            (RMSE, 6.5, 6.5, "challenger"),  # an equal one is not better
            (RMSE, 6.6, 6.5, "challenger"),
            # a champion that has no score here cannot be compared, so it stays
            (RMSE, 6.4, math.nan, "challenger"),
            (RMSE, math.nan, 6.5, "challenger"),
            (AUC, 0.7, None, "champion"),
            (AUC, 0.8, 0.7, "champion"),
            (AUC, 0.7, 0.7, "challenger"),
            (AUC, 0.6, 0.7, "challenger"),
            (AUC, 0.6, math.nan, "challenger"),
            (AUC, math.nan, 0.7, "challenger"),
        ],
    )
    def test_better_version_is_champion(
        self, metric: Metric, score: float, champion_score: float | None, alias: str
    ) -> None:
        """The first version and each better one is champion; all others are challengers."""
        assert standing(score, champion_score, metric).alias == alias

    @pytest.mark.parametrize("score", [6.4321, 6.6543])
    def test_reason_has_metric_and_both_scores(self, score: float) -> None:
        """A reader of the reason sees what was compared."""
        reason = standing(score, 6.5432, RMSE).reason
        assert f"RMSE {score:.4f}" in reason
        assert "6.5432" in reason


class FakeScoringProcess:
    """Stands in for the process that scores a champion; predicts the score of its refit."""

    def __init__(self, rows: object, tracking_uri: str) -> None:
        self._client = MlflowClient(tracking_uri)

    def __enter__(self) -> FakeScoringProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        """Do nothing: no process was started."""

    def predictions(self, model_uri: str) -> NDArray[np.float64]:
        version = self._client.get_model_version(MODEL, model_uri.rpartition("/")[2])
        assert version.run_id is not None
        (score,) = self._client.get_run(version.run_id).data.metrics.values()
        return np.full(3, score)


class FailingScoringProcess(FakeScoringProcess):
    def predictions(self, model_uri: str) -> NDArray[np.float64]:
        raise RuntimeError("no module")


@pytest.fixture
def store(new_store: NewStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr(registry, "ScoringProcess", FakeScoringProcess)
    monkeypatch.setattr(registry, "LOOK_AGAIN_S", 0.01)
    uri = new_store(tmp_path)
    mlflow.set_tracking_uri(uri)  # MLflow looks the logged model up there
    yield connect(uri, "taxis")
    mlflow.set_tracking_uri(None)  # type: ignore[arg-type]


def log_model(store: Store, score: float, metric: Metric = RMSE) -> tuple[str, str]:
    """Log a refit that has this score; return its model's URI and its run."""
    run_id = store.create("refit", {ROLE: "refit"}, 1_000)
    store.score(run_id, [Score(metric.name, score, 1_000)])
    model = store.client.create_logged_model(
        store.experiment_id, name="raw-trips", source_run_id=run_id
    )
    store.client.finalize_logged_model(model.model_id, "READY")
    return f"models:/{model.model_id}", run_id


def register(
    store: Store,
    score: float,
    *,
    metric: Metric = RMSE,
    digest: str = "d",
    made_up_data: bool = False,
) -> registry.Registered:
    """Log and register a model that has this score."""
    model_uri, run_id = log_model(store, score, metric)
    candidate = Candidate(
        model_uri=model_uri,
        run_id=run_id,
        score=score,
        digest=digest,
        rows=None,
        score_of=lambda predicted: float(predicted.mean()),
        made_up_data=made_up_data,
        tags={"search": "s1"},
    )
    return Registry(store, MODEL, metric).register(candidate)


def reasons(store: Store) -> dict[int, str]:
    """Return each version's reason for its alias."""
    found = store.client.search_model_versions()
    return {int(each.version): each.tags[STANDING] for each in found}


class TestRegister:
    @pytest.mark.parametrize("digest", ["d", "other"], ids=["same-rows", "other-rows"])
    @pytest.mark.parametrize(
        ("metric", "champion", "better", "worse"),
        [(RMSE, 6.5, 6.25, 6.75), (AUC, 0.5, 0.75, 0.25)],
        ids=["rmse", "auc"],
    )
    def test_better_score_becomes_champion(
        self,
        metric: Metric,
        champion: float,
        better: float,
        worse: float,
        digest: str,
        store: Store,
    ) -> None:
        """The lower RMSE wins, and the higher AUC."""
        assert register(store, champion, metric=metric).standing.alias == "champion"
        second = register(store, worse, metric=metric, digest=digest)
        assert second.standing.alias == "challenger"
        third = register(store, better, metric=metric, digest=digest)
        assert third.standing.alias == "champion"
        assert f"{better:.4f}" in third.standing.reason
        assert f"{champion:.4f}" in third.standing.reason
        found = store.client.get_model_version_by_alias(MODEL, "champion")
        assert str(found.version) == third.version

    def test_version_names_its_rows_and_its_search(self, store: Store) -> None:
        """A later search decides by the digest whether it can compare the recorded scores."""
        version = register(store, 6.5, digest="abc").version
        tags = store.client.get_model_version(MODEL, version).tags
        assert (tags["data.digest"], tags["search"]) == ("abc", "s1")

    def test_model_of_made_up_data_is_never_champion(self, store: Store) -> None:
        """Neither the first version nor a better one; the reason names the sample."""
        versions = [
            register(store, 1.0, made_up_data=True),
            register(store, 6.5),
            register(store, 1.0, made_up_data=True),
        ]
        aliases = [each.standing.alias for each in versions]
        assert aliases == ["challenger", "champion", "challenger"]
        assert "sample" in versions[0].standing.reason
        assert "sample" in versions[2].standing.reason

    @METRICS
    @pytest.mark.parametrize("same_rows", [True, False])
    def test_best_of_several_searches_that_end_at_once_is_champion(
        self, *, same_rows: bool, metric: Metric, store: Store
    ) -> None:
        """Versions are compared one by one, in any order of their registration."""
        scores = [6.5, 6.2, 6.8, 6.1, 6.4, 6.3]
        pick: Callable[[list[float]], float] = min if metric is RMSE else max
        at_once = threading.Barrier(len(scores))

        def search(score: float) -> registry.Registered:
            at_once.wait(30)
            digest = "d" if same_rows else f"d{score}"
            return register(store, score, metric=metric, digest=digest)

        with ThreadPoolExecutor(len(scores)) as pool:
            ended = dict(zip(scores, pool.map(search, scores), strict=True))
        champion = store.client.get_model_version_by_alias(MODEL, "champion")
        assert str(champion.version) == ended[6.1 if metric is RMSE else 6.8].version
        assert sorted(int(each.version) for each in ended.values()) == [1, 2, 3, 4, 5, 6]
        by_number = sorted(ended, key=lambda score: int(ended[score].version))
        for number, score in enumerate(by_number):
            is_best = score == pick(by_number[: number + 1])
            assert ended[score].standing.alias == ("champion" if is_best else "challenger")
        assert reasons(store) == {
            int(each.version): each.standing.reason for each in ended.values()
        }

    def test_champion_on_the_same_rows_is_not_loaded(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its refit has the score on these rows; on other rows the model must predict."""
        assert register(store, 6.5).standing.alias == "champion"
        monkeypatch.setattr(registry, "ScoringProcess", FailingScoringProcess)
        assert register(store, 6.6).standing.alias == "challenger"
        assert register(store, 6.4).standing.alias == "champion"
        decided = register(store, 6.3, digest="other").standing
        assert (decided.alias, decided.reason) == (
            "challenger",
            "champion 3 could not be scored: no module",
        )

    def test_champion_that_no_search_made_is_not_loaded(self, store: Store) -> None:
        """A model is code, and this model's author is unknown."""
        assert register(store, 6.5).standing.alias == "champion"
        champion = store.client.get_model_version(MODEL, "1")
        store.describe(str(champion.run_id), tags={ROLE: "theirs"})
        decided = register(store, 6.4).standing
        assert (decided.alias, "not loaded" in decided.reason) == ("challenger", True)

    def test_champion_of_another_metric_is_not_compared(self, store: Store) -> None:
        """A model that is registered under a name of another metric's becomes a challenger."""
        assert register(store, 6.5, metric=RMSE).standing.alias == "champion"
        decided = register(store, 0.7, metric=AUC).standing
        assert (decided.alias, "another metric" in decided.reason) == ("challenger", True)

    def test_rows_without_a_digest_are_not_the_same_rows(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Two tasks without data have no rows in common: the champion must be scored again."""
        assert register(store, 6.5, digest="").standing.alias == "champion"
        monkeypatch.setattr(registry, "ScoringProcess", FailingScoringProcess)
        assert "could not be scored" in register(store, 6.4, digest="").standing.reason


class TestTurns:
    def test_version_of_a_killed_search_is_given_up(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It delays the next versions once, for a limited time."""
        monkeypatch.setattr(registry, "TURN_S", 0.1)
        store.client.create_registered_model(MODEL)
        model_uri, run_id = log_model(store, 6.0)
        store.client.create_model_version(MODEL, model_uri, run_id, {STANDING: WAITING})
        assert register(store, 6.5).standing.alias == "champion"
        assert reasons(store)[1] == GIVEN_UP

    def test_other_models_and_later_versions_are_not_waited_for(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each model has its own order, by the number of the version."""
        monkeypatch.setattr(registry, "TURN_S", math.inf)
        client, (model_uri, run_id) = store.client, log_model(store, 6.0)
        client.create_registered_model("another")
        client.create_model_version("another", model_uri, run_id, {STANDING: WAITING})
        real = client.create_model_version

        def overtaken(*args: object, **named: object) -> object:
            made = real(*args, **named)  # type: ignore[arg-type]
            real(MODEL, model_uri, run_id, {STANDING: WAITING})
            return made

        monkeypatch.setattr(client, "create_model_version", overtaken)
        assert register(store, 6.5).version == "1"
        assert reasons(store)[2] == WAITING
