"""The notes' features: the zone pair and the distance, through a DictVectorizer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.feature_extraction import DictVectorizer

from search.errors import InputError
from search.tasks.green_taxi.served_model import feature_rows, vectorize
from search.tasks.green_taxi.usable_trips import Trips, digest
from trainables.dataset import Dataset, Rows


@dataclass(frozen=True)
class TaxiData:
    """Trips and the matrices made of them."""

    dataset: Dataset  # what trials work on
    vectorizer: DictVectorizer  # fitted on the training rows only
    train: Trips
    valid: Trips
    test: Trips | None
    test_rows: Rows | None

    @property
    def by_role(self) -> dict[str, Trips]:
        """The trips of each role there is: train, valid and, if given, test."""
        roles = {"train": self.train, "valid": self.valid, "test": self.test}
        return {role: trips for role, trips in roles.items() if trips is not None}

    @property
    def dropped(self) -> dict[str, int]:
        """How many rows were left out of all files, by reason."""
        total: dict[str, int] = {}
        for trips in self.by_role.values():
            for reason, count in trips.dropped.items():
                total[reason] = total.get(reason, 0) + count
        return total


def prepare(train: Trips, valid: Trips, test: Trips | None = None) -> TaxiData:
    """Make the feature matrices. The vectorizer learns its columns from the training rows.

    :raises InputError: no validation or test trip has a zone pair that training knows.
    """
    vectorizer = DictVectorizer()
    train_features = feature_rows(train.frame)
    vectorizer.fit(train_features)
    dataset = Dataset(
        train=Rows(vectorize(vectorizer, train_features), train.minutes),
        valid=_rows(vectorizer, valid, "validation"),
        digest=digest(train, valid),
    )
    test_rows = None if test is None else _rows(vectorizer, test, "test")
    return TaxiData(dataset, vectorizer, train, valid, test, test_rows)


def _rows(vectorizer: DictVectorizer, trips: Trips, role: str) -> Rows:
    matrix = vectorize(vectorizer, feature_rows(trips.frame))
    # Every row has its distance; a second entry is its zone pair, if training had it.
    if (np.diff(matrix.indptr) < 2).all():
        pairs = feature_rows(trips.frame.head(1))[0]["PU_DO"]
        raise InputError(
            f"{trips.path}: none of the {len(trips.minutes)} {role} trips has a zone pair known "
            f"from training (found {pairs}, ...); give {role} and training trips of the same city"
        )
    return Rows(matrix, trips.minutes)
