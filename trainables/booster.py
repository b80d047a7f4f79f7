"""Private parts of XGBoost 3.2: its model file, written from trees that were grown elsewhere.

Parts and names are those of XGBoost's model schema. The form is UBJSON (ubjson.org), with arrays of
numbers as they are in memory, since a thousand trees of ten thousand nodes are too much for text.
Used only for the releases in ``trees.PROVEN``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from trainables.growth import Tree

ROOT_PARENT = 2**31 - 1  # as XGBoost has it


def model(empty: Mapping[str, Any], trees: Sequence[Tree]) -> bytes:
    """Return XGBoost's model (UBJSON) of these trees.

    ``empty`` is such a model as JSON, on the same columns; its own trees are ignored.
    """
    learner = empty["learner"]
    boosting = learner["gradient_booster"]
    columns = learner["learner_model_param"]["num_feature"]
    count = len(trees)
    grown = {
        **boosting["model"],
        "gbtree_model_param": {
            **boosting["model"]["gbtree_model_param"],
            "num_trees": str(count),
        },
        "iteration_indptr": list(range(count + 1)),
        "tree_info": [0] * count,
        "trees": [_written(tree, number, columns) for number, tree in enumerate(trees)],
    }
    boosting = {**boosting, "model": grown}
    return b"".join(_ubjson({**empty, "learner": {**learner, "gradient_booster": boosting}}))


def _written(tree: Tree, number: int, columns: str) -> dict[str, Any]:
    """Return a tree in the form of XGBoost's models."""
    nodes = len(tree.left)
    none = np.zeros(0, dtype=np.int32)
    return {
        "base_weights": tree.weight,
        "categories": none,
        "categories_nodes": none,
        "categories_segments": none.astype(np.int64),
        "categories_sizes": none.astype(np.int64),
        "default_left": tree.absent_left,
        "id": number,
        "left_children": tree.left,
        "loss_changes": tree.gain,
        "parents": np.where(tree.parent < 0, ROOT_PARENT, tree.parent).astype(np.int32),
        "right_children": tree.right,
        "split_conditions": tree.condition,
        "split_indices": tree.split,
        "split_type": np.zeros(nodes, dtype=np.uint8),
        "sum_hessian": tree.rows,
        "tree_param": {
            "num_deleted": "0",
            "num_feature": columns,
            "num_nodes": str(nodes),
            "size_leaf_vector": "1",
        },
    }


_TYPED = {
    np.dtype(np.uint8): b"U",
    np.dtype(np.int32): b"l",
    np.dtype(np.int64): b"L",
    np.dtype(np.float32): b"d",
}


def _ubjson(value: Any) -> Iterator[bytes]:
    """Yield a value as UBJSON (ubjson.org); a numpy array as a typed one."""
    match value:
        case dict():
            yield b"{"
            for name, each in value.items():
                yield _text(name)
                yield from _ubjson(each)
            yield b"}"
        case np.ndarray():
            yield b"[$" + _TYPED[value.dtype] + b"#" + _long(len(value))
            yield value.astype(value.dtype.newbyteorder(">")).tobytes()
        case list():
            yield b"["
            for each in value:
                yield from _ubjson(each)
            yield b"]"
        case str():
            yield b"S" + _text(value)
        case bool():
            yield b"T" if value else b"F"
        case int():
            yield _long(value)
        case float():
            yield b"d" + struct.pack(">f", value)
        case _:
            raise TypeError(f"no UBJSON for {type(value).__name__}")


def _text(text: str) -> bytes:
    content = text.encode()
    return _long(len(content)) + content


def _long(value: int) -> bytes:
    return b"L" + struct.pack(">q", value)
