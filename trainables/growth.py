"""Arithmetic of XGBoost 3.2's ``hist``: one tree, grown over codes instead of one-hot columns.

Arithmetic and ties are those of XGBoost 3.2 (``trees.PROVEN``). All sums of gradients are exact
(:func:`sums_are_exact`), so it changes nothing in which order they are added, or whether a sum is
the difference of two others. So a node costs its rows, codes and bins, where XGBoost's costs all
columns there are.

numba compiles this module the first time a fit needs it, and keeps the result on disk. It looks for
changes in one file only, so the whole kernel is in this one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

LEAST_GAIN = np.float32(1e-6)  # XGBoost's kRtEps: a split must gain more

Function = TypeVar("Function", bound=Callable[..., Any])


class Side(NamedTuple):
    """Rows that a tree sorts into its leaves: those it learns from, or those it is scored on."""

    code: NDArray[np.int32]  # [rows] ascending; -1: a code that the training rows lack
    bins: NDArray[np.int16]  # [dense, rows] among all dense columns' bins; -1: absent
    order: NDArray[np.int32]  # [rows] the nodes' rows, each node's by code
    predicted: NDArray[np.float32]  # [rows] the sum of the leaves so far


class Columns(NamedTuple):
    """The columns that a tree can split on: one for each code, then the dense ones."""

    codes: int  # how many
    cuts: NDArray[np.float32]  # [bins] upper ends of the dense columns' bins
    first_bin: NDArray[np.int64]  # [dense + 1] where each dense column's bins begin


class Regularised(NamedTuple):
    """A point's parameters, rounded as XGBoost rounds them to single precision."""

    max_depth: int  # 0: no limit
    learning_rate: np.float32
    reg_alpha: float
    reg_lambda: float
    min_child_weight: float


class Slots(NamedTuple):
    """What is known of the nodes that wait: sums by bin, and by code of those that may split.

    A node's smaller child takes the next slot and is done first, its larger child takes its own
    slot: there are never more than log2(rows) + 2 of them.
    """

    bin_gradient: NDArray[np.float64]  # [slots, bins]
    bin_rows: NDArray[np.int64]  # [slots, bins]
    codes: NDArray[np.int64]  # [slots] how many of the following there are
    code: NDArray[np.int32]  # [slots, codes] ascending
    code_gradient: NDArray[np.float64]  # [slots, codes]
    code_rows: NDArray[np.int64]  # [slots, codes]
    node: NDArray[np.int64]  # [slots, 6] node, depth, first and last row of both sides
    gradient: NDArray[np.float64]  # [slots]
    moved: NDArray[np.int32]  # [rows] of a node while they are divided


class Span(NamedTuple):
    """The rows of one node: places in either side's order."""

    start: int
    stop: int
    valid_start: int
    valid_stop: int


class Split(NamedTuple):
    """The best split of a node."""

    gain: np.float32  # 0: there is none
    column: int  # a code, or the number of codes + that of a dense column
    last_bin: int  # of a dense column: the last bin on the left
    gradient: float  # the sum on the left; of a code: its own
    absent_left: int  # of a dense column: 1 if rows without a value go left


class Tree(NamedTuple):
    """A tree's nodes [nodes], the root first; leaves have no children."""

    left: NDArray[np.int32]  # -1: a leaf
    right: NDArray[np.int32]
    parent: NDArray[np.int32]  # -1: the root
    split: NDArray[np.int32]  # a code, or the number of codes + that of a dense column
    condition: NDArray[np.float32]  # left if the value is below it; of a leaf: its value
    absent_left: NDArray[np.uint8]
    gain: NDArray[np.float32]
    weight: NDArray[np.float32]
    rows: NDArray[np.float32]  # the node's sum of hessians


def compiled(function: Function) -> Function:
    """Have numba compile a function, and keep the result if there is a place to keep it."""
    try:
        made: Function = njit(cache=True, error_model="numpy")(function)
    except RuntimeError:  # neither beside the source nor in the user's folder
        made = njit(error_model="numpy")(function)
    return made


@compiled
def sums_are_exact(values: NDArray[np.float32]) -> bool:
    """Tell whether every sum of some of ``values`` [rows] is exact in double precision.

    It is if all are whole multiples of one power of two, and the multiples' magnitudes add up to
    no more than 2**53.
    """
    total = 0.0
    for value in values:
        total += abs(np.float64(value))
    if not total < 2.0**100:  # or not a number
        return False
    unit = 2.0**-126
    while total > unit * 2.0**52:  # 52: `total` itself is rounded
        unit *= 2.0
    for value in values:
        multiple = np.float64(value) / unit
        if multiple != np.floor(multiple):
            return False
    return True


@compiled
def squared_error(
    predicted: NDArray[np.float32], target: NDArray[np.float32], place: NDArray[np.int32]
) -> float:
    """Return the sum of squared errors, in XGBoost's precision and order of rows."""
    total = 0.0
    for row in range(target.size):
        error = target[row] - predicted[place[row]]
        total += np.float64(error * error)
    return total


@compiled
def _beyond(gradient: float, alpha: float) -> float:
    if gradient > alpha:
        return gradient - alpha
    if gradient < -alpha:
        return gradient + alpha
    return 0.0


@compiled
def _gain(gradient: float, rows: float, regularised: Regularised) -> np.float32:
    # XGBoost rounds the square and the denominator before it divides
    if rows <= 0.0:
        return np.float32(0.0)
    beyond = _beyond(gradient, regularised.reg_alpha)
    return np.float32(beyond * beyond) / np.float32(rows + regularised.reg_lambda)


@compiled
def _weight(gradient: float, rows: float, regularised: Regularised) -> np.float32:
    if rows < regularised.min_child_weight or rows <= 0.0:
        return np.float32(0.0)
    beyond = _beyond(gradient, regularised.reg_alpha)
    return np.float32(-beyond / (rows + regularised.reg_lambda))


@compiled
def grow(
    train: Side,
    valid: Side,
    gradient: NDArray[np.float32],
    columns: Columns,
    regularised: Regularised,
    slots: Slots,
    tree: Tree,
) -> int:
    """Grow a tree on ``gradient`` [rows]; add its leaves to both sides' predictions.

    Returns the number of the tree's nodes.
    """
    tree.parent[0] = -1
    _set(slots, 0, 0, 0, Span(0, train.order.size, 0, valid.order.size))
    slots.gradient[0] = _begin(train, gradient, slots, regularised.min_child_weight)
    nodes, slot = 1, 0
    while slot >= 0:
        node, depth, span = slots.node[slot, 0], slots.node[slot, 1], _span(slots, slot)
        rows = np.float64(span.stop - span.start)
        weight = _weight(slots.gradient[slot], rows, regularised)
        tree.rows[node] = np.float32(rows)
        split = Split(np.float32(0.0), -1, -1, 0.0, 0)
        if _may_split(rows, depth, regularised):
            split = _best_split(slot, slots, rows, columns, regularised)
        if not split.gain > LEAST_GAIN:
            value = weight * regularised.learning_rate
            _end(tree, node, value)
            _add(train, span.start, span.stop, value)
            _add(valid, span.valid_start, span.valid_stop, value)
            slot -= 1
            continue
        tree.weight[node] = weight
        _write(tree, node, nodes, split, columns)
        _divide(train, valid, slots, slot, nodes, split, columns)
        nodes += 2
        larger = np.float64(slots.node[slot, 3] - slots.node[slot, 2])
        if _may_split(larger, depth + 1, regularised):
            _take_out(train, gradient, slots, slot, regularised.min_child_weight)
        slot += 1
    return nodes


@compiled
def _set(slots: Slots, slot: int, node: int, depth: int, span: Span) -> None:
    slots.node[slot, 0], slots.node[slot, 1] = node, depth
    slots.node[slot, 2], slots.node[slot, 3] = span.start, span.stop
    slots.node[slot, 4], slots.node[slot, 5] = span.valid_start, span.valid_stop


@compiled
def _span(slots: Slots, slot: int) -> Span:
    return Span(slots.node[slot, 2], slots.node[slot, 3], slots.node[slot, 4], slots.node[slot, 5])


@compiled
def _may_split(rows: float, depth: int, regularised: Regularised) -> bool:
    is_deep = regularised.max_depth != 0 and depth >= regularised.max_depth
    return rows >= 2.0 * regularised.min_child_weight and not is_deep


@compiled
def _begin(train: Side, gradient: NDArray[np.float32], slots: Slots, least: float) -> float:
    """Fill the root's slot; return the sum of all gradients."""
    _clear_bins(slots, 0)
    total, found, row = 0.0, 0, 0
    while row < train.order.size:
        code, in_code, first = train.code[row], 0.0, row
        while row < train.order.size and train.code[row] == code:
            value = np.float64(gradient[row])
            in_code += value
            for column in range(train.bins.shape[0]):
                each = train.bins[column, row]
                if each >= 0:
                    slots.bin_gradient[0, each] += value
                    slots.bin_rows[0, each] += 1
            row += 1
        total += in_code
        if row - first >= least:
            slots.code[0, found] = code
            slots.code_gradient[0, found] = in_code
            slots.code_rows[0, found] = row - first
            found += 1
    slots.codes[0] = found
    return total


@compiled
def _best_split(
    slot: int, slots: Slots, rows: float, columns: Columns, regularised: Regularised
) -> Split:
    """Return the split with the greatest gain.

    Of equal gains the one of the lowest column counts, and in a column the first.
    """
    total, least = slots.gradient[slot], regularised.min_child_weight
    whole = _gain(total, rows, regularised)
    best = Split(np.float32(0.0), -1, -1, 0.0, 0)
    for each in range(slots.codes[slot]):
        inside, count = float(slots.code_gradient[slot, each]), float(slots.code_rows[slot, each])
        if count >= least and rows - count >= least:
            gain = _gain(total - inside, rows - count, regularised)
            gain = gain + _gain(inside, count, regularised) - whole
            if gain > best.gain:
                best = Split(gain, int(np.int64(slots.code[slot, each])), -1, inside, 0)
    for column in range(columns.first_bin.size - 1):
        best = _best_cut(slot, slots, rows, columns, regularised, column, best)
    return best


@compiled
def _best_cut(
    slot: int,
    slots: Slots,
    rows: float,
    columns: Columns,
    regularised: Regularised,
    column: int,
    best: Split,
) -> Split:
    """Return the best cut of a dense column if its gain is greater than that of ``best``."""
    total, least = slots.gradient[slot], regularised.min_child_weight
    whole = _gain(total, rows, regularised)
    first, end = columns.first_bin[column], columns.first_bin[column + 1]
    below, under = 0.0, 0.0
    for each in range(first, end):
        if slots.bin_rows[slot, each] == 0:
            continue  # the same division as at the bin before
        below += slots.bin_gradient[slot, each]
        under += slots.bin_rows[slot, each]
        if under >= least and rows - under >= least:
            gain = _gain(below, under, regularised)
            gain = gain + _gain(total - below, rows - under, regularised) - whole
            if gain > best.gain:
                best = Split(gain, columns.codes + column, each, below, 0)
    if under == rows:
        return best  # no row lacks a value
    above, over = 0.0, 0.0
    for each in range(end - 1, first, -1):
        if slots.bin_rows[slot, each] == 0:
            continue
        above += slots.bin_gradient[slot, each]
        over += slots.bin_rows[slot, each]
        if over >= least and rows - over >= least:
            gain = _gain(total - above, rows - over, regularised)
            gain = gain + _gain(above, over, regularised) - whole
            if gain > best.gain:
                best = Split(gain, columns.codes + column, each - 1, total - above, 1)
    return best


@compiled
def _write(tree: Tree, node: int, left: int, split: Split, columns: Columns) -> None:
    """Write a split node, whose children are ``left`` and the next one."""
    tree.left[node], tree.right[node] = left, left + 1
    tree.parent[left] = tree.parent[left + 1] = node
    tree.split[node], tree.gain[node] = split.column, split.gain
    if split.column < columns.codes:
        # the column's one is not below it: right; all other codes are absent values: left
        tree.condition[node], tree.absent_left[node] = 1.0, 1
    else:
        tree.condition[node] = columns.cuts[split.last_bin]
        tree.absent_left[node] = split.absent_left


@compiled
def _divide(
    train: Side,
    valid: Side,
    slots: Slots,
    slot: int,
    left: int,
    split: Split,
    columns: Columns,
) -> None:
    """Divide a node's rows; its larger child takes this slot, the smaller one the next."""
    span, depth = _span(slots, slot), slots.node[slot, 1] + 1
    middle = _part(train, span.start, span.stop, split, columns.codes, slots.moved)
    valid_middle = _part(
        valid, span.valid_start, span.valid_stop, split, columns.codes, slots.moved
    )
    total, on_left = slots.gradient[slot], split.gradient
    if split.column < columns.codes:
        on_left = total - split.gradient
    at_left = slot if middle - span.start >= span.stop - middle else slot + 1
    at_right = 2 * slot + 1 - at_left
    _set(slots, at_left, left, depth, Span(span.start, middle, span.valid_start, valid_middle))
    _set(slots, at_right, left + 1, depth, Span(middle, span.stop, valid_middle, span.valid_stop))
    slots.gradient[at_left], slots.gradient[at_right] = on_left, total - on_left


@compiled
def _part(
    side: Side, start: int, stop: int, split: Split, codes: int, moved: NDArray[np.int32]
) -> int:
    """Put a node's rows in order: left ones before right ones. Return the first right place."""
    if split.column < codes:
        return _part_code(side, start, stop, split.column, moved)
    return _part_bins(side, start, stop, split, split.column - codes, moved)


@compiled
def _part_code(side: Side, start: int, stop: int, code: int, moved: NDArray[np.int32]) -> int:
    """Put the rows of ``code`` behind all others, which keep their order."""
    order = side.order
    low, high = start, stop
    while low < high:
        middle = (low + high) // 2
        if side.code[order[middle]] < code:
            low = middle + 1
        else:
            high = middle
    end = low
    while end < stop and side.code[order[end]] == code:
        moved[end - low] = order[end]
        end += 1
    count = end - low
    for each in range(low, stop - count):
        order[each] = order[each + count]
    for each in range(count):
        order[stop - count + each] = moved[each]
    return stop - count


@compiled
def _part_bins(
    side: Side, start: int, stop: int, split: Split, column: int, moved: NDArray[np.int32]
) -> int:
    """Put the rows up to the split's last bin before all others, both in the order they had."""
    order, left, count = side.order, start, 0
    for each in range(start, stop):
        row = order[each]
        value = side.bins[column, row]
        goes_left = value <= split.last_bin if value >= 0 else split.absent_left == 1
        if goes_left:
            order[left] = row
            left += 1
        else:
            moved[count] = row
            count += 1
    for each in range(count):
        order[left + each] = moved[each]
    return left


@compiled
def _take_out(
    train: Side, gradient: NDArray[np.float32], slots: Slots, slot: int, least: float
) -> None:
    """Fill the slot of the smaller child, and subtract its sums from the larger one's."""
    small = slot + 1
    _clear_bins(slots, small)
    row, stop = slots.node[small, 2], slots.node[small, 3]
    known = slots.codes[slot]
    found = read = kept = 0
    while row < stop:
        code, in_code, first = train.code[train.order[row]], 0.0, row
        while row < stop and train.code[train.order[row]] == code:
            which = train.order[row]
            value = np.float64(gradient[which])
            in_code += value
            for column in range(train.bins.shape[0]):
                each = train.bins[column, which]
                if each >= 0:
                    slots.bin_gradient[small, each] += value
                    slots.bin_rows[small, each] += 1
                    slots.bin_gradient[slot, each] -= value
                    slots.bin_rows[slot, each] -= 1
            row += 1
        count = row - first
        if count >= least:
            slots.code[small, found] = code
            slots.code_gradient[small, found] = in_code
            slots.code_rows[small, found] = count
            found += 1
        while read < known and slots.code[slot, read] < code:
            kept = _keep(slots, slot, read, kept)
            read += 1
        if read < known and slots.code[slot, read] == code:
            slots.code_gradient[slot, read] -= in_code
            slots.code_rows[slot, read] -= count
            # fewer rows than a split needs never become more
            if slots.code_rows[slot, read] >= least and slots.code_rows[slot, read] > 0:
                kept = _keep(slots, slot, read, kept)
            read += 1
    while read < known:
        kept = _keep(slots, slot, read, kept)
        read += 1
    slots.codes[small], slots.codes[slot] = found, kept


@compiled
def _keep(slots: Slots, slot: int, read: int, kept: int) -> int:
    slots.code[slot, kept] = slots.code[slot, read]
    slots.code_gradient[slot, kept] = slots.code_gradient[slot, read]
    slots.code_rows[slot, kept] = slots.code_rows[slot, read]
    return kept + 1


@compiled
def _clear_bins(slots: Slots, slot: int) -> None:
    for each in range(slots.bin_rows.shape[1]):
        slots.bin_gradient[slot, each] = 0.0
        slots.bin_rows[slot, each] = 0


@compiled
def _end(tree: Tree, node: int, value: np.float32) -> None:
    tree.left[node] = tree.right[node] = -1
    tree.split[node], tree.gain[node], tree.absent_left[node] = 0, 0.0, 0
    tree.condition[node] = tree.weight[node] = value


@compiled
def _add(side: Side, start: int, stop: int, value: np.float32) -> None:
    for each in range(start, stop):
        side.predicted[side.order[each]] += value
