"""Private parts of XGBoost 3.2: the arithmetic of its ``hist`` trees, on codes for one-hot columns.

One-hot columns of which each row has exactly one are the codes of one column (exclusive feature
bundling: Ke et al. 2017, LightGBM, section 4). XGBoost's histograms have a place for each code at
each node, although a node of n rows has at most n codes. This module grows the same trees (Chen and
Guestrin 2016, section 3.3, with XGBoost's cuts, gains, precision and ties) at the cost of each
node's own rows. Base score and cuts are taken from XGBoost.

XGBoost adds gradients in its own order. Here the order is another, so a round is only grown here if
no sum of its gradients is rounded, because then the order cannot matter
(:func:`trainables.growth.sums_are_exact`). Otherwise :class:`Inexact` is raised, and XGBoost fits.

Proven for the releases in :data:`PROVEN`. With any other, XGBoost fits, at many times the cost.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xgboost
from numpy.typing import NDArray

from trainables import columns
from trainables.base import Params
from trainables.dataset import Dataset, Rows

if TYPE_CHECKING:
    from trainables.growth import Columns, Regularised, Side, Slots, Tree

# What the trees depend on. With any other parameter XGBoost does something that is not done here.
UNDERSTOOD = {"max_depth", "learning_rate", "reg_alpha", "reg_lambda", "min_child_weight"}
PROVEN = ("3.2.",)  # how their version numbers begin


class Inexact(Exception):
    """A sum of gradients would be rounded: the trees could depend on the order of the rows."""


@dataclass(frozen=True)
class Coded:
    """Rows as codes and bins, sorted by code, with XGBoost's cuts, base score and empty model."""

    columns: Columns
    base_score: np.float32
    model: dict[str, Any]  # XGBoost's JSON, without trees
    train: Part
    valid: Part


@dataclass(frozen=True)
class Part:
    """The rows of one side, sorted by code."""

    code: NDArray[np.int32]  # [rows] ascending; -1: one that no training row has
    bins: NDArray[np.int16]  # [dense, rows]; -1: absent
    target: NDArray[np.float32]  # [rows] as given
    place: NDArray[np.int32]  # [rows] where each given row is among the sorted

    def side(self, base_score: np.float32) -> Side:
        """Return what a kernel works on."""
        from trainables.growth import Side

        rows = len(self.code)
        return Side(
            self.code,
            self.bins,
            np.arange(rows, dtype=np.int32),
            np.full(rows, base_score, dtype=np.float32),
        )


def coded(data: Dataset) -> Coded | None:
    """Return the data in this form; None if XGBoost has to fit.

    That is so if the data has no such form, XGBoost's release is not proven, or the kernel can be
    neither compiled nor loaded here.
    """
    codes = columns.leading_codes(data)
    if not codes or not is_proven() or not compiles():
        return None
    from trainables.growth import Columns

    dense = columns.codes_and_rest(data.train.features, codes)[:, 1:]
    asked = dense if dense.shape[1] else np.zeros((len(dense), 1), dtype=np.float32)
    matrix = xgboost.DMatrix(asked, data.train.target)
    options = {"max_depth": 1, "tree_method": "hist", "nthread": 1, "verbosity": 0}
    booster = xgboost.train(options, matrix, num_boost_round=1)
    first_bin, cuts = matrix.get_quantile_cut()
    first_bin = first_bin[: dense.shape[1] + 1]
    model = json.loads(booster.save_raw("json"))
    (base_score,) = json.loads(model["learner"]["learner_model_param"]["base_score"])
    width = data.train.features.shape[1]
    model["learner"]["learner_model_param"]["num_feature"] = str(width)

    def part(rows: Rows) -> Part:
        both = columns.codes_and_rest(rows.features, codes)
        code = np.where(both[:, 0] == codes, -1, both[:, 0]).astype(np.int32)
        order = np.argsort(code, kind="stable")
        place = np.empty(len(order), dtype=np.int32)
        place[order] = np.arange(len(order), dtype=np.int32)
        bins = _binned(both[order, 1:], cuts, first_bin)
        return Part(code[order], bins, rows.target.astype(np.float32), place)

    return Coded(
        columns=Columns(codes, cuts.astype(np.float32), first_bin.astype(np.int64)),
        base_score=np.float32(base_score),
        model=model,
        train=part(data.train),
        valid=part(data.valid),
    )


def is_proven() -> bool:
    """Tell whether trees are grown as this release of XGBoost grows them."""
    return bool(xgboost.__version__.startswith(PROVEN))


def is_compiled() -> bool:
    """Tell, without importing numba, whether the compiled kernel is kept beside the source."""
    source = Path(__file__).with_name("growth.py")
    kept = (source.parent / "__pycache__").glob("growth.*.nbi")
    return any(each.stat().st_mtime > source.stat().st_mtime for each in kept)


def compiles() -> bool:
    """Tell whether trees can be grown here, by growing one of two rows."""
    part = Part(
        code=np.zeros(2, dtype=np.int32),
        bins=np.zeros((1, 2), dtype=np.int16),
        target=np.zeros(2, dtype=np.float32),
        place=np.arange(2, dtype=np.int32),
    )
    try:
        from trainables.growth import Columns

        one = Columns(1, np.ones(1, dtype=np.float32), np.array([0, 1], dtype=np.int64))
        next(boosted({}, Coded(one, np.float32(0), {}, part, part)))
    except Exception as error:  # noqa: BLE001 - numba's, LLVM's, those of a full disk or a damaged cache
        warnings.warn(f"trees are not grown here, XGBoost fits: {error!r}", stacklevel=2)
        return False
    return True


def understood(params: Params) -> bool:
    """Tell whether these parameters, and no others, shape the trees that are grown here."""
    return set(params) <= UNDERSTOOD


def boosted(params: Params, data: Coded) -> Iterator[tuple[float, Tree]]:
    """Yield the validation RMSE and the tree of each round, without end.

    A tree is overwritten by the next one; to keep it, take a :func:`copy`.

    :raises Inexact: the next tree might not be XGBoost's.
    :raises xgboost.core.XGBoostError: a parameter has a value that XGBoost refuses.
    """
    from trainables import growth

    train, valid = data.train.side(data.base_score), data.valid.side(data.base_score)
    target = np.empty_like(data.train.target)
    target[data.train.place] = data.train.target
    regularised = _as_xgboost_reads(params)
    slots, room = _slots(data), _tree(2 * len(target) + 1)
    while True:
        gradient = train.predicted - target
        if not growth.sums_are_exact(gradient):
            raise Inexact
        for side in (train, valid):
            side.order[:] = np.arange(len(side.order), dtype=np.int32)
        nodes = growth.grow(train, valid, gradient, data.columns, regularised, slots, room)
        error = growth.squared_error(valid.predicted, data.valid.target, data.valid.place)
        tree = growth.Tree._make(part[:nodes] for part in room)
        yield math.sqrt(error / len(data.valid.target)), tree


def copy(tree: Tree) -> Tree:
    """Return a tree of its own."""
    return type(tree)._make(part.copy() for part in tree)


def _as_xgboost_reads(params: Params) -> Regularised:
    """Return the parameters as XGBoost reads them: from text, in its own way."""
    from trainables.growth import Regularised

    matrix = xgboost.DMatrix(np.zeros((1, 1)), np.zeros(1))
    booster = xgboost.Booster({**params, "tree_method": "hist", "verbosity": 0}, [matrix])
    read = json.loads(booster.save_config())["learner"]["gradient_booster"]["tree_train_param"]
    single = {name: np.float32(text) for name, text in read.items() if name in UNDERSTOOD}
    return Regularised(
        max_depth=int(read["max_depth"]),
        learning_rate=single["learning_rate"],
        reg_alpha=float(single["reg_alpha"]),
        reg_lambda=float(single["reg_lambda"]),
        min_child_weight=float(single["min_child_weight"]),
    )


def _binned(dense: NDArray[np.float32], cuts: Any, first_bin: Any) -> NDArray[np.int16]:
    """Return [dense, rows]: the bin of each value, one past the last if it is above all."""
    bins = np.empty(dense.shape[::-1], dtype=np.int16)
    for column, values in enumerate(dense.T):
        first, last = int(first_bin[column]), int(first_bin[column + 1])
        found = first + np.searchsorted(cuts[first:last], values, side="right")
        bins[column] = np.where(np.isnan(values), -1, found)
    return bins


def _slots(data: Coded) -> Slots:
    from trainables.growth import Slots

    rows = max(len(data.train.code), len(data.valid.code))
    slots, bins = max(2, rows.bit_length() + 2), len(data.columns.cuts)
    return Slots(
        bin_gradient=np.zeros((slots, bins)),
        bin_rows=np.zeros((slots, bins), dtype=np.int64),
        codes=np.zeros(slots, dtype=np.int64),
        code=np.zeros((slots, data.columns.codes), dtype=np.int32),
        code_gradient=np.zeros((slots, data.columns.codes)),
        code_rows=np.zeros((slots, data.columns.codes), dtype=np.int64),
        node=np.zeros((slots, 6), dtype=np.int64),
        gradient=np.zeros(slots),
        moved=np.zeros(rows, dtype=np.int32),
    )


def _tree(nodes: int) -> Tree:
    from trainables.growth import Tree

    kinds = (*[np.int32] * 4, np.float32, np.uint8, *[np.float32] * 3)
    return Tree._make(np.zeros(nodes, dtype=kind) for kind in kinds)


if __name__ == "__main__":
    from trainables.trees import compiles as make_and_keep  # by the name under which it is used

    make_and_keep()
