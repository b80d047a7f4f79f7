"""Every built-in trainable keeps the protocol of trainables.base."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hyperopt.pyll import as_apply
from hyperopt.pyll.base import dfs
from hyperopt.pyll.stochastic import sample
from sklearn.feature_extraction import DictVectorizer

import trainables
from search.tasks.green_taxi.served_model import vectorize
from trainables.base import Curve, Trainable, best_round, rmse
from trainables.dataset import Dataset, Rows

SHORT = {"num_boost_round": 12, "early_stopping_rounds": 12}  # for trainables with rounds


class Stopped(Exception):
    """An exception that ends a fit out of on_round."""


def ignore(curve: Curve) -> None:
    """Do nothing after a round."""


@pytest.fixture(scope="module")
def vectorizer() -> DictVectorizer:
    return DictVectorizer()


@pytest.fixture(scope="module")
def data(vectorizer: DictVectorizer) -> Dataset:
    """Trips between a few zones: the zone pair one-hot, the distance dense."""
    random = np.random.default_rng(7)

    def trips(rows: int, zones: int) -> tuple[list[dict[str, Any]], Any]:
        pickup, dropoff = random.integers(0, zones, (2, rows))
        miles = random.gamma(2.0, 2.0, rows)
        features = [
            {"PU_DO": f"{p}_{d}", "trip_distance": m}
            for p, d, m in zip(pickup, dropoff, miles, strict=True)
        ]
        return features, 3.0 + 2.5 * miles + (pickup % 3) + random.normal(0.0, 1.0, rows)

    seen, seen_minutes = trips(400, 6)
    more, more_minutes = trips(150, 8)  # with two zones that are not in the training rows
    vectorizer.fit(seen)
    return Dataset(
        Rows(vectorize(vectorizer, seen), seen_minutes),
        Rows(vectorize(vectorizer, more), more_minutes),
        digest="0" * 32,
    )


@pytest.mark.parametrize("name", trainables.BUILT_IN)
class TestTrainable:
    @pytest.fixture
    def trainable(self, name: str) -> Trainable:
        return trainables.get(name)

    @pytest.fixture
    def params(self, trainable: Trainable) -> dict[str, Any]:
        space = dict(trainable.search_space)
        drawn = sample(as_apply(space), rng=np.random.default_rng(3)) if space else {}
        return dict(drawn)

    @pytest.fixture
    def settings(self, trainable: Trainable) -> dict[str, Any]:
        defaults = {name: setting.default for name, setting in trainable.settings.items()}
        short = {name: value for name, value in SHORT.items() if name in defaults}
        return {**defaults, **short, "seed": 42, "threads": 1}

    def test_name_is_the_name_of_the_option(self, trainable: Trainable, name: str) -> None:
        """The tag `model` of a run is the value of --trainable."""
        assert trainable.name == name

    def test_labels_are_the_keys_of_the_space(self, trainable: Trainable) -> None:
        """The names in a point are the names in the search space."""
        space = trainable.search_space
        drawn = {
            key: {
                node.arg["label"].obj
                for node in dfs(as_apply(expression))
                if node.name == "hyperopt_param"
            }
            for key, expression in space.items()
        }
        assert drawn == {key: {key} for key in space}

    def test_settings_and_parameters_have_different_names(self, trainable: Trainable) -> None:
        """`--set NAME` is not ambiguous."""
        reserved = {"seed", "threads"}
        assert not (set(trainable.settings) | reserved) & set(trainable.search_space)

    def test_default_settings_are_valid(self, trainable: Trainable) -> None:
        """A user could give each default as a value."""
        for setting in trainable.settings.values():
            assert not setting.one_of or setting.default in setting.one_of
            assert setting.at_least is None or float(setting.default) >= setting.at_least

    def test_curve_is_no_longer_than_rounds(
        self, trainable: Trainable, params: Any, data: Dataset, settings: Any
    ) -> None:
        """A fit takes at least one round, and at most as many as `rounds` returns."""
        curve = trainable.train(params, data, settings, ignore)
        assert 1 <= len(curve) <= (trainable.rounds(settings) or 1)

    def test_curve_is_finite(
        self, trainable: Trainable, params: Any, data: Dataset, settings: Any
    ) -> None:
        """The score of each round is a finite number."""
        assert all(map(math.isfinite, trainable.train(params, data, settings, ignore)))

    def test_on_round_gets_the_curve_so_far(
        self, trainable: Trainable, params: Any, data: Dataset, settings: Any
    ) -> None:
        """After round n, on_round is called once, with the first n scores."""
        reported: list[Curve] = []
        curve = trainable.train(params, data, settings, lambda c: reported.append(list(c)))
        assert reported == [curve[: n + 1] for n in range(len(curve))]

    def test_exception_of_on_round_ends_the_fit(
        self, trainable: Trainable, params: Any, data: Dataset, settings: Any
    ) -> None:
        """The fit takes no further round."""
        reported: list[int] = []

        def stop(curve: Curve) -> None:
            reported.append(len(curve))
            raise Stopped

        with pytest.raises(Stopped):
            trainable.train(params, data, settings, stop)
        assert reported == [1]

    def test_refit_has_the_score_of_the_best_round(
        self, trainable: Trainable, params: Any, data: Dataset, settings: Any
    ) -> None:
        """The refitted model has the score that its trial reported."""
        curve = trainable.train(params, data, settings, ignore)
        best = best_round(curve)
        model = trainable.load(trainable.refit(params, data, settings, best + 1))
        score = rmse(trainable.predict(model, data.valid.features), data.valid.target)
        assert score == pytest.approx(curve[best], abs=1e-6)

    def test_refit_is_bytes(
        self, trainable: Trainable, params: Any, data: Dataset, settings: Any
    ) -> None:
        """The model can be sent from a worker."""
        assert type(trainable.refit(params, data, settings, 1)) is bytes

    def test_same_seed_gives_the_same_model(
        self, trainable: Trainable, params: Any, data: Dataset, settings: Any
    ) -> None:
        """Two fits of one point, each with its own derived data, give the same model."""
        fresh = Dataset(data.train, data.valid, data.digest)
        first = trainable.load(trainable.refit(params, data, settings, 5))
        second = trainable.load(trainable.refit(params, fresh, settings, 5))
        features = data.valid.features
        assert np.array_equal(
            trainable.predict(first, features), trainable.predict(second, features)
        )

    def test_same_seed_gives_the_same_curve(
        self, trainable: Trainable, params: Any, data: Dataset, settings: Any
    ) -> None:
        """A second fit with the same derived data gives the same curve."""
        once = trainable.train(params, data, settings, ignore)
        assert trainable.train(params, data, settings, ignore) == once

    def test_fit_does_not_change_its_input(
        self, trainable: Trainable, params: Any, data: Dataset, settings: Any
    ) -> None:
        """A trial does not change the data that all trials share."""
        before = data.train.features.copy(), data.train.target.copy(), dict(params), dict(settings)
        trainable.train(params, data, settings, ignore)
        assert (data.train.features != before[0]).nnz == 0
        assert np.array_equal(data.train.target, before[1])
        assert (params, settings) == before[2:]

    def test_predictions_are_one_float_for_each_row(
        self, trainable: Trainable, params: Any, data: Dataset, settings: Any
    ) -> None:
        """Predictions are float64 [rows]."""
        model = trainable.load(trainable.refit(params, data, settings, 3))
        predicted = trainable.predict(model, data.valid.features)
        assert predicted.shape == data.valid.target.shape
        assert predicted.dtype == np.float64

    def test_unseen_zone_pair_is_predicted(
        self,
        trainable: Trainable,
        params: Any,
        data: Dataset,
        settings: Any,
        vectorizer: DictVectorizer,
    ) -> None:
        """The prediction for zones that are not in the training rows is a finite number."""
        model = trainable.load(trainable.refit(params, data, settings, 3))
        unseen = vectorize(vectorizer, [{"PU_DO": "900_901", "trip_distance": 4.0}])
        assert np.isfinite(trainable.predict(model, unseen)).all()
