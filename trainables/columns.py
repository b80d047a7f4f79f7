"""Private parts of XGBoost 2.1 to 3.2: its model as JSON, for the least matrix that gives it.

The cost of a tree grows with columns x nodes, and nearly all columns of one-hot data are
empty. Two forms of the data have the very model of the plain form, at less cost:

*Pruned.* A split needs hessians of at least ``min_child_weight`` on either side. A row's hessian
has a bound by the objective, :data:`GREATEST_HESSIAN`, and one side of any split on a column holds
only rows that have a value in it: a column with too few values for its least weight is never
split, and is left out. ``subsample`` leaves it fewer still.

*Bundled.* Columns of ones of which a row has at most one exclude each other, and are the codes
of one categorical column (exclusive feature bundling: Ke et al. 2017, LightGBM, section 4).
Split one code against the rest, as ``max_cat_to_onehot`` asks for, it has the same candidates,
gains and order as the one-hot columns. A row without a code has one that no tree knows.

Either model is rewritten to the whole matrix's columns (:meth:`Form.restored`), for which XGBoost
has no public way. With releases outside :data:`PROVEN` the whole matrix is used. Which form is
cheaper is measured: docs/decisions/0003-lossless-columns.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import xgboost
from numpy.typing import NDArray

from trainables.base import Params, Settings
from trainables.dataset import Dataset, Rows

PROVEN = ((2, 1), (3, 2))  # the first and the last minor release

# Where both forms apply, pruning wins once it leaves less than this share of the columns.
PRUNED_SHARE = 0.2

# Columns beside the bundle are held dense, so there may be only so many.
MOST_DENSE = 64

# The greatest hessian a row can have, by objective (their second derivatives): without one
# nothing is left out.
GREATEST_HESSIAN = {
    "reg:squarederror": 1.0,
    "reg:pseudohubererror": 1.0,
    "reg:logistic": 0.25,
    "binary:logistic": 0.25,
}

# Parameters that keep the proofs above: none samples columns, weighs rows or constrains splits.
# With any other, nothing is left out and nothing bundled.
KEEP_THE_MODEL = {
    *("max_depth", "learning_rate", "reg_alpha", "reg_lambda", "min_child_weight", "gamma"),
    "subsample",
}


@dataclass(frozen=True)
class Form:
    """The data in one form, what XGBoost must be told of it, and the way back."""

    train: xgboost.DMatrix
    valid: xgboost.DMatrix
    options: dict[str, Any]
    rewrite: Callable[[dict[str, Any]], None] | None  # changes the model's JSON in place

    def restored(self, model: bytes) -> bytes:
        """Return the model (UBJSON) on the columns of the whole matrix."""
        if self.rewrite is None:
            return model
        booster = xgboost.Booster(model_file=bytearray(model))
        tree = json.loads(booster.save_raw("json"))
        self.rewrite(tree["learner"])
        whole = xgboost.Booster(model_file=bytearray(json.dumps(tree).encode()))
        return bytes(whole.save_raw("ubj"))


def cheapest(params: Params, data: Dataset, settings: Settings, objective: str) -> Form:
    """Return the cheapest form in which XGBoost's fit of ``params`` gives the plain fit's model."""
    method, hessian = settings["tree_method"], GREATEST_HESSIAN.get(objective)
    if method == "approx" or hessian is None or not set(params) <= KEEP_THE_MODEL:
        return plain(data)
    if not is_proven():
        return plain(data)
    kept = splittable(data, float(params.get("min_child_weight", 1.0)), hessian)
    if not len(kept):
        return plain(data)
    if method == "hist" and len(kept) > PRUNED_SHARE * data.train.features.shape[1]:
        bundle = data.derived("bundle", lambda: bundled(data))
        if bundle is not None:
            return bundle
    return pruned(data, kept)


def is_proven() -> bool:
    """Tell whether this release of XGBoost writes its models in the form that is known here."""
    first, last = PROVEN
    numbers = tuple(int(number) for number in xgboost.__version__.split(".")[:2])
    return first <= numbers <= last


def splittable(
    data: Dataset, min_child_weight: float, greatest_hessian: float = 1.0
) -> NDArray[np.int64]:
    """Return the columns, ascending, that a split may use under this least weight."""
    features = data.train.features
    values = data.derived(
        "values per column", lambda: np.bincount(features.indices, minlength=features.shape[1])
    )
    # XGBoost reads the weight in single precision: what it has may be a little lower
    return np.flatnonzero(values * greatest_hessian >= min_child_weight * (1 - 1e-6))


def plain(data: Dataset) -> Form:
    """Return the matrix as it is."""
    return data.derived(
        "plain", lambda: Form(_matrix(data.train), _matrix(data.valid), {}, rewrite=None)
    )


def pruned(data: Dataset, kept: NDArray[np.int64]) -> Form:
    """Return the matrix without the columns that are not in ``kept`` (sorted)."""
    columns = int(data.train.features.shape[1])

    def rewrite(learner: dict[str, Any]) -> None:
        _set_columns(learner, columns)
        for tree in _trees(learner):
            tree["split_indices"] = kept[tree["split_indices"]].tolist()

    return Form(
        _matrix(Rows(data.train.features[:, kept], data.train.target)),
        _matrix(Rows(data.valid.features[:, kept], data.valid.target)),
        {},
        rewrite,
    )


def leading_codes(data: Dataset) -> int:
    """Return how many of the first columns are the codes of one: a row has a one in one of them.

    None where they do not exclude each other, a training row has none, or too many other
    columns are left. A validation row may lack a code: it is one that no tree knows.
    """
    return data.derived("leading codes", lambda: _leading_codes(data))


def _leading_codes(data: Dataset) -> int:
    features = data.train.features
    # XGBoost breaks a tie of two gains by the column's place, so only columns that stand before
    # all others may be taken for one
    ones = _leading_ones(features)
    if features.shape[1] - ones > MOST_DENSE:
        return 0
    if not all(_exclude_each_other(rows.features, ones) for rows in (data.train, data.valid)):
        return 0
    # a training row's absent code would be one that a tree can split on
    return ones if _all_have_one(features, ones) else 0


def bundled(data: Dataset) -> Form | None:
    """Return the matrix with its one-hot columns as one categorical column, first; if it can be."""
    if not (ones := leading_codes(data)):
        return None
    features = data.train.features
    columns = int(features.shape[1])
    dense = np.arange(ones, columns)
    types = ["c"] + ["float"] * len(dense)

    def rewrite(learner: dict[str, Any]) -> None:
        _set_columns(learner, columns)
        learner["feature_types"] = []
        for tree in _trees(learner):
            _uncategorise(tree, dense)

    return Form(
        _matrix(Rows(codes_and_rest(features, ones), data.train.target), types),
        _matrix(Rows(codes_and_rest(data.valid.features, ones), data.valid.target), types),
        # more codes than this would be split as sets, which one-hot columns cannot;
        # the cache of histograms grows by 16 bytes x bins x nodes: as many as do not page
        {"max_cat_to_onehot": ones + 2, "max_cached_hist_node": 256},
        rewrite,
    )


def codes_and_rest(features: Any, ones: int) -> NDArray[np.float32]:
    """Return [rows, 1 + rest]: the code of each row, and the other columns, NaN where absent."""
    rows, columns = features.shape
    dense = np.full((rows, 1 + columns - ones), np.nan, dtype=np.float32)
    dense[:, 0] = ones  # no code: one that no training row has, and no tree splits on
    place = np.where(features.indices < ones, 0, features.indices - ones + 1)
    value = np.where(features.indices < ones, features.indices, features.data)
    dense[_row_of_each(features), place] = value
    return dense


def _matrix(rows: Rows, types: list[str] | None = None) -> xgboost.DMatrix:
    return xgboost.DMatrix(
        rows.features, rows.target, feature_types=types, enable_categorical=types is not None
    )


def _leading_ones(features: Any) -> int:
    """Return how many of the first columns hold nothing but ones."""
    others = np.unique(features.indices[features.data != 1.0])
    return int(others[0]) if len(others) else int(features.shape[1])


def _exclude_each_other(features: Any, ones: int) -> bool:
    in_bundle = features.indices < ones
    per_row = np.bincount(_row_of_each(features)[in_bundle], minlength=features.shape[0])
    return bool(np.all(per_row <= 1) and np.all(features.data[in_bundle] == 1.0))


def _all_have_one(features: Any, ones: int) -> bool:
    return int(np.count_nonzero(features.indices < ones)) == int(features.shape[0])


def _row_of_each(features: Any) -> NDArray[np.int64]:
    return np.repeat(np.arange(features.shape[0]), np.diff(features.indptr))


def _trees(learner: dict[str, Any]) -> list[dict[str, Any]]:
    trees: list[dict[str, Any]] = learner["gradient_booster"]["model"]["trees"]
    return trees


def _set_columns(learner: dict[str, Any], columns: int) -> None:
    learner["learner_model_param"]["num_feature"] = str(columns)
    for tree in _trees(learner):
        tree["tree_param"]["num_feature"] = str(columns)


def _uncategorise(tree: dict[str, Any], dense: NDArray[np.int64]) -> None:
    """Rewrite each split on a code into one on the code's own column."""
    leaf = -1
    code_of = dict(zip(tree["categories_nodes"], tree["categories"], strict=True))
    for node, left in enumerate(tree["left_children"]):
        if left == leaf:
            tree["split_indices"][node] = 0
        elif node in code_of:
            tree["split_indices"][node] = code_of[node]
            tree["split_conditions"][node] = 1.0  # the column's one is not below it: right
            tree["default_left"][node] = 1  # every other code is a missing value: left
        else:
            tree["split_indices"][node] = int(dense[tree["split_indices"][node] - 1])
    nodes = len(tree["left_children"])
    tree["split_type"] = [0] * nodes
    for part in ("", "_nodes", "_segments", "_sizes"):
        tree[f"categories{part}"] = []
