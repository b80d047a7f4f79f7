"""A search space of any form that hyperopt takes, read from the nodes of its expression.

A point is what ``hyperopt.fmin`` returns and ``points_to_evaluate`` takes: a number for each active
label, a choice by its index. What the objective receives (functions, estimators, arrays) need not
fit into JSON, the point always does.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from hyperopt.pyll import as_apply, scope
from hyperopt.pyll.base import Apply, Literal, dfs

from search.errors import InputError
from search.suggest.evaluation import Evaluation, argument
from search.suggest.space import bounds, check_bounds, is_number, plain
from search.values.trial import Point

LONGEST_SHOWN = 250  # characters of an option that is shown by its value
DEFINED_BY = ("hyperopt", "builtins", "operator", "_operator")  # modules whose symbols workers have


@dataclass(frozen=True, eq=False)
class LabelSpace:
    """A search space in hyperopt's terms.

    :raises InputError: hyperopt cannot read it, or two hyperparameters have the same label.
    """

    expression: Any
    root: Apply = field(init=False, repr=False)

    def __post_init__(self) -> None:
        try:
            root = as_apply(self.expression)
        except Exception as error:
            raise InputError(f"the search space: {type(error).__name__}: {error}") from error
        object.__setattr__(self, "root", root)
        seen: set[str] = set()
        for label in (_label(node) for node in _parameters(root)):
            if not isinstance(label, str):
                raise InputError(f"the search space: the label {label!r} is no text; write a str")
            if label in seen:
                raise InputError(
                    f"the search space: two hyperparameters have the label {label!r}; "
                    "give each its own"
                )
            seen.add(label)

    @cached_property
    def labels(self) -> list[str]:
        """The names of what is drawn."""
        return sorted(self._distributions)

    @cached_property
    def digest(self) -> str:
        """32 hex digits: equal for spaces that draw the same points, in any process."""
        known: dict[Apply, str] = {}
        for node in dfs(self.root):  # inputs first
            known[node] = hashlib.sha256(_text(node, known).encode()).hexdigest()
        return known[self.root][:32]

    def point(self, labels: Mapping[str, Any]) -> Point:
        """Return the point for a value of each active label."""
        return {label: plain(value) for label, value in labels.items()}

    def labels_of(self, point: Any) -> dict[str, Any]:
        """Return the values of the active labels, as hyperopt would have drawn them.

        :raises InputError: the point does not lie in the space; says at which label and why.
        """
        if not isinstance(point, Mapping):
            raise InputError(f"point: an object of label and value wanted, found {point!r}")
        if unknown := [label for label in point if label not in self._distributions]:
            known = ", ".join(self.labels) or "none"
            raise InputError(f"{unknown[0]}: no label of the search space; labels: {known}")
        found: dict[str, Any] = {}
        self._collect(self.root, point, found, set())
        return found

    def params(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """Return the point as people read it: a choice by its value where that is plain."""
        return {self._keys[label]: self._shown(label, point[label]) for label in sorted(point)}

    def argument(self, point: Mapping[str, Any]) -> Any:
        """Return what the objective receives; see :func:`search.suggest.evaluation.argument`."""
        return argument(self.root, point)

    @property
    def evaluation(self) -> Evaluation:
        """What evaluates points in a worker."""
        # private to hyperopt; without it, a worker has the user's symbols only if it imports them
        known = getattr(scope, "_impls", {})
        functions = {node.name: known[node.name] for node in dfs(self.root) if node.name in known}
        return Evaluation(self.root, {n: f for n, f in functions.items() if _is_users(f)})

    @cached_property
    def _distributions(self) -> dict[str, Apply]:
        return {_label(node): node.arg["obj"] for node in _parameters(self.root)}

    @cached_property
    def _choices(self) -> dict[str, list[Apply]]:
        """The options of each label that is a choice."""
        switches = [node for node in dfs(self.root) if node.name == "switch"]
        return {
            _label(node.pos_args[0]): node.pos_args[1:]
            for node in switches
            if node.pos_args[0].name == "hyperopt_param"
        }

    @cached_property
    def _whole(self) -> set[str]:
        """The labels whose values the objective gets as whole numbers."""
        found = {label for label, drawn in self._distributions.items() if drawn.name == "randint"}
        for node in dfs(self.root):
            if node.name == "int":
                (inner,) = node.pos_args
                while inner.name in ("int", "float"):
                    (inner,) = inner.pos_args
                if inner.name == "hyperopt_param":
                    found.add(_label(inner))
        return found

    @cached_property
    def _keys(self) -> dict[str, str]:
        """The key of each label in MLflow, each once."""
        keys: dict[str, str] = {}
        for label in self.labels:
            key, count = _key(label), 1
            while key in keys.values():
                count += 1
                key = f"{_key(label)}_{count}"
            keys[label] = key
        return keys

    def _collect(
        self, node: Apply, point: Mapping[str, Any], found: dict[str, Any], seen: set[Apply]
    ) -> None:
        """Add the labels of what is evaluated below ``node``."""
        if node in seen:
            return
        seen.add(node)
        if node.name == "hyperopt_param":
            label = _label(node)
            found[label] = self._drawn(label, point)
        if node.name != "switch":
            for part in node.inputs():
                self._collect(part, point, found, seen)
            return
        chooser, *options = node.pos_args
        self._collect(chooser, point, found, seen)
        index = argument(chooser, found)
        if not 0 <= index < len(options):
            raise InputError(f"point: it chooses option {index} of {len(options)}")
        self._collect(options[int(index)], point, found, seen)

    def _drawn(self, label: str, point: Mapping[str, Any]) -> int | float:
        """Return a label's value as hyperopt would have drawn it.

        :raises InputError: it is missing, or hyperopt cannot draw it.
        """
        drawn, options = self._distributions[label], self._choices.get(label)
        if label not in point:
            raise InputError(f"{label}: missing; a point gives a value for each active label")
        value = plain(point[label])
        if options is not None or drawn.name == "categorical":
            return _index(label, value, options)
        if not is_number(value):
            raise InputError(f"{label}: a number wanted, found {value!r}")
        low, high, _ = bounds(drawn)
        # not checked: whether it is a multiple of its step, as hyperopt does not mind
        if drawn.name == "randint" and value != int(value):
            raise InputError(f"{label}: a whole number wanted, found {value!r}")
        check_bounds(value, low, high, label)
        return int(value) if drawn.name == "randint" else float(value)

    def _shown(self, label: str, value: Any) -> Any:
        value = plain(value)
        if label in self._choices:
            shown = _constant(self._choices[label][int(value)])
            return value if shown is _NOT_PLAIN else shown
        is_whole = label in self._whole and is_number(value) and value == int(value)
        return int(value) if is_whole else value


_NOT_PLAIN = object()


def _parameters(root: Apply) -> Iterator[Apply]:
    return (node for node in dfs(root) if node.name == "hyperopt_param")


def _label(parameter: Apply) -> Any:
    return parameter.arg["label"].obj


def _index(label: str, value: Any, options: Sequence[Apply] | None) -> int:
    is_whole = is_number(value) and value == int(value)
    if is_whole and value >= 0 and (options is None or value < len(options)):
        return int(value)
    if options is None:
        raise InputError(f"{label}: an index wanted (0, 1, ...), found {value!r}")
    hint = ""
    for index, option in enumerate(options):
        shown = _constant(option)
        if type(shown) is type(value) and shown == value:
            hint = f"; write {index} for {value!r}"
    raise InputError(
        f"{label}: a choice is given by its index, 0 to {len(options) - 1}, found {value!r}{hint}"
    )


def _constant(option: Apply) -> Any:
    """Return an option's value if it is plain and short."""
    if any(node.name not in ("literal", "pos_args", "dict") for node in dfs(option)):
        return _NOT_PLAIN
    try:
        value = argument(option, {})
    except Exception:  # noqa: BLE001  what cannot be evaluated is not shown
        return _NOT_PLAIN
    if not _is_plain(value):
        return _NOT_PLAIN
    value = plain(value)
    return value if len(json.dumps(value)) <= LONGEST_SHOWN else _NOT_PLAIN


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(name, str) and _is_plain(part) for name, part in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float | np.number | np.bool_)


def _key(label: str) -> str:
    """Return a label as MLflow takes it for a key."""
    key = re.sub(r"[^\w\-. /]", "_", label) or "_"
    # MLflow refuses what is not its own normal path: "a//b", "/a", "a/", "..", "."
    if posixpath.normpath(key) != key or key.startswith(("/", ".")):
        key = re.sub(r"^\.", "_", key.replace("/", "_"))
    return key


def _is_users(function: Any) -> bool:
    module = getattr(function, "__module__", None) or "builtins"
    return module.partition(".")[0] not in DEFINED_BY


def _text(node: Apply, known: Mapping[Apply, str]) -> str:
    """Return what a node is, for the digest; ``known``: the digests of its inputs."""
    if isinstance(node, Literal):
        return f"literal {_literal(node.obj)}"
    if node.name == "hyperopt_param":
        drawn = node.arg["obj"]
        if isinstance(drawn, Apply) and drawn.name in _DISTRIBUTIONS:
            # however its arguments are written: by place or name, as 0 or 0.0
            parts = {n: known[v] for n, v in drawn.arg.items() if isinstance(v, Apply)}
            numbers = {
                name: float(value.obj)
                for name, value in drawn.arg.items()
                if isinstance(value, Literal) and is_number(plain(value.obj))
            }
            return f"{_label(node)!r} {drawn.name} {sorted((parts | numbers).items(), key=str)}"
    named = [(name, known[part]) for name, part in node.named_args]
    return f"{node.name} {[known[part] for part in node.pos_args]} {named}"


_DISTRIBUTIONS = frozenset(
    [
        *("uniform", "quniform", "loguniform", "qloguniform", "randint", "categorical"),
        *("normal", "qnormal", "lognormal", "qlognormal"),
    ]
)


def _literal(value: Any) -> str:
    """Return the same text for the same value in any process."""
    if isinstance(value, np.ndarray):
        content = str(value.tolist()) if value.dtype.hasobject else _sha(value.tobytes())
        return f"array {value.shape} {value.dtype} {_without_addresses(content)}"
    if isinstance(value, np.generic):
        return _literal(value.item())
    if isinstance(value, set | frozenset):
        return f"set {sorted(map(_literal, value))}"
    if callable(value) and hasattr(value, "__qualname__"):
        return f"function {value.__qualname__}"  # its module is __main__ in the script itself
    if "__repr__" not in _methods(type(value)):
        return f"object {type(value).__qualname__}"
    return f"{type(value).__qualname__} {_without_addresses(repr(value))}"


def _methods(kind: type) -> set[str]:
    """Return what a class and its bases define, ``object`` aside."""
    return {name for each in kind.__mro__[:-1] for name in vars(each)}


def _without_addresses(text: str) -> str:
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
