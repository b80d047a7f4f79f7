"""One tree of XGBoost's ``hist``, grown over codes instead of one-hot columns.

Compiled by numba the first time a fit needs it, and kept on disk from then on. All sums of
gradients are exact (:func:`sums_are_exact`), so that the order in which they are made, and
whether a sum is added up or is the difference of two others, changes nothing. That is what
lets a node cost its rows, codes and bins, where XGBoost's costs all columns there are.
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
    order: NDArray[np.int32]  # [rows] of the nodes' rows, each node's by code
    predicted: NDArray[np.float32]  # [rows] the sum of the leaves so far


class Regularised(NamedTuple):
    """A point's parameters, at XGBoost's precision."""

    max_depth: int  # 0: no limit
    learning_rate: np.float32
    reg_alpha: np.float32
    reg_lambda: np.float32
    min_child_weight: np.float32


class Slots(NamedTuple):
    """What is known of the nodes that wait: sums by bin, and by code of those that may split.

    A node's smaller child takes the next slot and is done first, its larger child takes its
    own: there are never more than log2(rows) + 2 of them.
    """

    bin_gradient: NDArray[np.float64]  # [slots, bins]
    bin_rows: NDArray[np.int64]  # [slots, bins]
    codes: NDArray[np.int64]  # [slots] how many of the following there are
    code: NDArray[np.int32]  # [slots, codes] ascending
    code_gradient: NDArray[np.float64]  # [slots, codes]
    code_rows: NDArray[np.int64]  # [slots, codes]
    node: NDArray[np.int64]  # [slots, 6] node, first and last row of both sides, depth
    gradient: NDArray[np.float64]  # [slots]
    moved: NDArray[np.int32]  # [rows] of a node while they are parted


class Tree(NamedTuple):
    """A tree's nodes [nodes], the root first; leaves have no children."""

    left: NDArray[np.int32]  # -1: a leaf
    right: NDArray[np.int32]
    parent: NDArray[np.int32]  # -1: the root
    split: NDArray[np.int32]  # a code, or the number of codes + that of a dense column
    condition: NDArray[np.float32]  # left where the value is below it; of a leaf: its value
    absent_left: NDArray[np.uint8]
    gain: NDArray[np.float32]
    weight: NDArray[np.float32]
    rows: NDArray[np.float32]  # the node's sum of hessians


def compiled(function: Function) -> Function:
    """Have numba compile a function, and keep what it made where there is a place to keep it."""
    try:
        made: Function = njit(cache=True, error_model="numpy")(function)
    except RuntimeError:  # neither beside the source nor in the user's folder
        made = njit(error_model="numpy")(function)
    return made


@compiled
def sums_are_exact(values: NDArray[np.float32]) -> bool:
    """Tell whether every sum of some of ``values`` [rows] is exact in double precision.

    It is if all are whole multiples of one power of two, of which their magnitudes add up to
    no more than 2**53.
    """
    total = 0.0
    for value in values:
        total += abs(np.float64(value))
    if not total < 2.0**100:  # or no number
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
def _gain(gradient: float, rows: float, alpha: float, regularised: Regularised) -> np.float32:
    # XGBoost rounds the square and the denominator before it divides
    if rows <= 0.0:
        return np.float32(0.0)
    beyond = _beyond(gradient, alpha)
    return np.float32(beyond * beyond) / np.float32(rows + np.float64(regularised.reg_lambda))


@compiled
def _weight(gradient: float, rows: float, alpha: float, regularised: Regularised) -> np.float32:
    if rows < np.float64(regularised.min_child_weight) or rows <= 0.0:
        return np.float32(0.0)
    beyond = _beyond(gradient, alpha)
    return np.float32(-beyond / (rows + np.float64(regularised.reg_lambda)))


@compiled
def grow(
    train: Side,
    valid: Side,
    gradient: NDArray[np.float32],
    cuts: NDArray[np.float32],
    first_bin: NDArray[np.int64],
    regularised: Regularised,
    slots: Slots,
    tree: Tree,
    codes: int,
) -> int:
    """Grow a tree on ``gradient`` [rows]; add its leaves to both sides' predictions.

    ``cuts`` [bins] are the upper ends of the dense columns' bins, of which column d's begin at
    ``first_bin[d]``. Returns the number of the tree's nodes.
    """
    alpha = np.float64(regularised.reg_alpha)
    least = np.float64(regularised.min_child_weight)
    tree.parent[0] = -1
    _set(slots, 0, 0, 0, train.order.size, 0, valid.order.size, 0)
    slots.gradient[0] = _begin(train, gradient, slots, least)
    nodes, slot = 1, 0
    while slot >= 0:
        node, depth = slots.node[slot, 0], slots.node[slot, 5]
        start, stop = slots.node[slot, 1], slots.node[slot, 2]
        valid_start, valid_stop = slots.node[slot, 3], slots.node[slot, 4]
        total, rows = slots.gradient[slot], np.float64(stop - start)
        weight = _weight(total, rows, alpha, regularised)
        tree.rows[node] = np.float32(rows)
        gain, split, last_bin, part, absent_left = np.float32(0.0), -1, -1, 0.0, 0
        if _may_split(rows, depth, least, regularised.max_depth):
            gain, split, last_bin, part, absent_left = _best_split(
                slot, slots, total, rows, least, alpha, regularised, first_bin, codes
            )
        if not gain > LEAST_GAIN:
            value = weight * regularised.learning_rate
            _end(tree, node, value)
            _add(train, start, stop, value)
            _add(valid, valid_start, valid_stop, value)
            slot -= 1
            continue
        left, right = nodes, nodes + 1
        nodes += 2
        tree.left[node], tree.right[node] = left, right
        tree.parent[left] = tree.parent[right] = node
        tree.split[node], tree.gain[node], tree.weight[node] = split, gain, weight
        if split < codes:
            # the column's one is not below it: right; all other codes are absent values: left
            tree.condition[node], tree.absent_left[node] = 1.0, 1
            middle = _part_code(train, start, stop, split, slots.moved)
            valid_middle = _part_code(valid, valid_start, valid_stop, split, slots.moved)
            left_total, right_total = total - part, part
        else:
            tree.condition[node], tree.absent_left[node] = cuts[last_bin], absent_left
            column = split - codes
            middle = _part_bins(train, start, stop, column, last_bin, absent_left, slots.moved)
            valid_middle = _part_bins(
                valid, valid_start, valid_stop, column, last_bin, absent_left, slots.moved
            )
            left_total, right_total = part, total - part
        # the larger child takes this slot, the smaller one the next
        at_left = slot if middle - start >= stop - middle else slot + 1
        at_right = 2 * slot + 1 - at_left
        _set(slots, at_left, left, start, middle, valid_start, valid_middle, depth + 1)
        _set(slots, at_right, right, middle, stop, valid_middle, valid_stop, depth + 1)
        slots.gradient[at_left], slots.gradient[at_right] = left_total, right_total
        larger = np.float64(slots.node[slot, 2] - slots.node[slot, 1])
        if _may_split(larger, depth + 1, least, regularised.max_depth):
            _take_out(train, gradient, slots, slot, least)
        slot += 1
    return nodes


@compiled
def _may_split(rows: float, depth: int, least: float, max_depth: int) -> bool:
    return rows >= 2.0 * least and (max_depth == 0 or depth < max_depth)


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
    slot: int,
    slots: Slots,
    total: float,
    rows: float,
    least: float,
    alpha: float,
    regularised: Regularised,
    first_bin: NDArray[np.int64],
    codes: int,
) -> tuple[np.float32, int, int, float, int]:
    """Return gain, split, last bin to the left, gradient of one part, whether absent go left.

    The part is the code's rows, or those to the left. Of equal gains the one of the lowest
    column counts, and in a column the first.
    """
    whole = _gain(total, rows, alpha, regularised)
    best = np.float32(0.0)
    split, last_bin, part, absent_left = -1, -1, 0.0, 0
    for each in range(slots.codes[slot]):
        inside, count = float(slots.code_gradient[slot, each]), float(slots.code_rows[slot, each])
        if count >= least and rows - count >= least:
            gain = _gain(total - inside, rows - count, alpha, regularised)
            gain = gain + _gain(inside, count, alpha, regularised) - whole
            if gain > best:
                best, split, part = gain, int(slots.code[slot, each]), inside
    for column in range(first_bin.size - 1):
        below, under = 0.0, 0.0
        for each in range(first_bin[column], first_bin[column + 1]):
            if slots.bin_rows[slot, each] == 0:
                continue  # the same parting as at the bin before
            below += slots.bin_gradient[slot, each]
            under += slots.bin_rows[slot, each]
            if under >= least and rows - under >= least:
                gain = _gain(below, under, alpha, regularised)
                gain = gain + _gain(total - below, rows - under, alpha, regularised) - whole
                if gain > best:
                    best, split, last_bin, part = gain, codes + column, each, below
                    absent_left = 0
        if under == rows:
            continue  # no row lacks a value
        above, over = 0.0, 0.0
        for each in range(first_bin[column + 1] - 1, first_bin[column], -1):
            if slots.bin_rows[slot, each] == 0:
                continue
            above += slots.bin_gradient[slot, each]
            over += slots.bin_rows[slot, each]
            if over >= least and rows - over >= least:
                gain = _gain(total - above, rows - over, alpha, regularised)
                gain = gain + _gain(above, over, alpha, regularised) - whole
                if gain > best:
                    best, split, last_bin, part = gain, codes + column, each - 1, total - above
                    absent_left = 1
    return best, split, last_bin, part, absent_left


@compiled
def _part_code(side: Side, start: int, stop: int, code: int, moved: NDArray[np.int32]) -> int:
    """Put the rows of ``code`` behind all others, these as they were; return the first's place."""
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
    side: Side,
    start: int,
    stop: int,
    column: int,
    last_bin: int,
    absent_left: int,
    moved: NDArray[np.int32],
) -> int:
    """Put the rows up to ``last_bin`` before all others, either as they were."""
    order, left, count = side.order, start, 0
    for each in range(start, stop):
        row = order[each]
        value = side.bins[column, row]
        goes_left = value <= last_bin if value >= 0 else absent_left == 1
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
    """Fill the slot of the smaller child, and take its sums out of the larger one's."""
    small = slot + 1
    _clear_bins(slots, small)
    row, stop = slots.node[small, 1], slots.node[small, 2]
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
def _set(
    slots: Slots,
    slot: int,
    node: int,
    start: int,
    stop: int,
    valid_start: int,
    valid_stop: int,
    depth: int,
) -> None:
    slots.node[slot, 0], slots.node[slot, 5] = node, depth
    slots.node[slot, 1], slots.node[slot, 2] = start, stop
    slots.node[slot, 3], slots.node[slot, 4] = valid_start, valid_stop


@compiled
def _end(tree: Tree, node: int, value: np.float32) -> None:
    tree.left[node] = tree.right[node] = -1
    tree.split[node], tree.gain[node], tree.absent_left[node] = 0, 0.0, 0
    tree.condition[node] = tree.weight[node] = value


@compiled
def _add(side: Side, start: int, stop: int, value: np.float32) -> None:
    for each in range(start, stop):
        side.predicted[side.order[each]] += value
