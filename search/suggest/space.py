"""A search space, read from the nodes of hyperopt's expression: its points, and what is fixed.

A space is a dictionary in hyperopt's terms. A point is what the space evaluates to: plain names
and values, nested where the space is. hyperopt works with *labels*, one value for each drawn
parameter; :meth:`Space.labels_of` converts a point back to them. hyperopt has no public way to do
that, so it is read from the expression's nodes, whose names and arguments are those of hyperopt
0.2.7 and 0.3.0. A node that is not known here is refused with its name.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from hyperopt import space_eval
from hyperopt.pyll import as_apply
from hyperopt.pyll.base import Apply, Literal, dfs

from search.errors import InputError
from search.values.trial import Point

LARGEST_NUMBER = 1e300


class SearchSpace(Protocol):
    """Where the points of a search lie."""

    @property
    def root(self) -> Apply:
        """The space as hyperopt's expression."""

    @property
    def labels(self) -> list[str]:
        """The names of what is drawn."""

    @property
    def digest(self) -> str:
        """32 hex digits that identify this space: equal for spaces that draw the same points."""

    def point(self, labels: Mapping[str, Any]) -> Point:
        """Return the point for a value of each active label."""

    def labels_of(self, point: Any) -> dict[str, Any]:
        """Return the label values of ``point``.

        :raises InputError: the point does not lie in the space; says at which name and why.
        """

    def params(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """Return the point as people read it: the params of its trial's run."""


@dataclass(frozen=True)
class Space:
    """A search space with some of its parameters fixed."""

    expressions: Mapping[str, Any]
    root: Apply = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", as_apply(dict(self.expressions)))

    @property
    def labels(self) -> list[str]:
        """The names of what is drawn."""
        return sorted({n.arg["label"].obj for n in dfs(self.root) if n.name == "hyperopt_param"})

    @property
    def digest(self) -> str:
        """32 hex digits that identify this space: equal for spaces that draw the same points."""
        return hashlib.sha256(str(self.root).encode()).hexdigest()[:32]

    def point(self, labels: Mapping[str, Any]) -> Point:
        """Return the point for a value of each active label."""
        if not self.expressions:
            return {}  # hyperopt cannot evaluate an empty space
        point: Point = plain(space_eval(dict(self.expressions), dict(labels)))
        return point

    def labels_of(self, point: Any) -> dict[str, Any]:
        """Return the label values that evaluate to ``point``.

        :raises InputError: the point does not lie in the space; says at which name and why.
        """
        labels: dict[str, Any] = {}
        _match(self.root, point, "", labels)
        return labels

    def params(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """Return the point: its names and values are those that people read."""
        return dict(point)


def constant(name: str, text: str, expression: Any) -> Any:
    """Return the value that ``--set name=text`` fixes ``expression`` at.

    A value outside the range is allowed, one of another kind is not.

    :raises InputError: it is not a value of this kind.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # RecursionError: deeply nested lists
        value = text
    node = as_apply(expression)
    if node.name == "switch":
        return _option(name, text, value, node)
    if node.name == "literal" and isinstance(node.obj, str):
        return text
    if not is_number(value):
        raise InputError(f"--set {name}={text}: {text!r} is not a number")
    if node.name == "int":
        if value != int(value):
            raise InputError(f"--set {name}={text}: {name} is a whole number")
        return int(value)
    return value


def is_number(value: Any) -> bool:
    """Tell whether a value is a number that a parameter can have."""
    # compared, not converted: an integer of hundreds of digits does not fit a float
    is_numeric = isinstance(value, int | float) and not isinstance(value, bool)
    return is_numeric and abs(value) <= LARGEST_NUMBER


def bounds(drawn: Apply) -> tuple[float, float, float | None]:
    """Return the lowest and highest value that a distribution draws, and its step if it has one."""
    arg = {name: node.obj for name, node in drawn.arg.items() if isinstance(node, Literal)}
    low, high, step = -math.inf, math.inf, arg.get("q")
    if drawn.name == "randint" and "low" in arg:
        low, high = (
            (0, arg["low"] - 1) if arg.get("high") is None else (arg["low"], arg["high"] - 1)
        )
        step = 1
    elif "lognormal" in drawn.name:
        low = 0.0
    elif "low" in arg and "high" in arg:
        low, high = float(arg["low"]), float(arg["high"])
        if "log" in drawn.name:
            low, high = math.exp(low), math.exp(high)
        if step:  # drawn, then rounded to a multiple of the step
            low, high = round(low / step) * step, round(high / step) * step
    return low, high, step


def check_bounds(value: float, low: float, high: float, where: str) -> None:
    """Refuse a value outside its range; it may be off its end by a billionth, for rounding.

    :raises InputError: it is outside.
    """
    slack = 1e-9 * max(abs(low), abs(high)) if math.isfinite(low) and math.isfinite(high) else 0.0
    if not low - slack <= value <= high + slack:
        raise InputError(f"{where}: {value!r} is outside {low:.6g} to {high:.6g}")


def plain(value: Any) -> Any:
    """Return the value with lists for hyperopt's tuples and Python numbers for numpy's."""
    if isinstance(value, Mapping):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return value.item() if hasattr(value, "item") and getattr(value, "size", 1) == 1 else value


def _option(name: str, text: str, value: Any, node: Apply) -> Any:
    """Return the option of a choice that is meant: 1 or "1", whichever exists."""
    try:
        _match(node, value, name, {})
    except InputError:
        _match(node, text, name, {})
        return text
    return value


def _match(node: Apply, value: Any, where: str, labels: dict[str, Any]) -> None:
    """Walk the space and the point side by side, and collect the labels' values."""
    match node.name:
        case "dict":
            _match_dict(node, value, where, labels)
        case "pos_args":
            if not isinstance(value, list | tuple) or len(value) != len(node.pos_args):
                raise InputError(f"{where}: a list of {len(node.pos_args)} wanted, found {value!r}")
            for i, (part, item) in enumerate(zip(node.pos_args, value, strict=True)):
                _match(part, item, f"{where}[{i}]", labels)
        case "literal":
            if not _same(node.obj, value):
                raise InputError(f"{where}: is fixed at {node.obj!r}, found {value!r}")
        case "switch":
            _match_choice(node, value, where, labels)
        case "int":
            if not is_number(value) or value != int(value):
                raise InputError(f"{where}: a whole number wanted, found {value!r}")
            _match(node.pos_args[0], value, where, labels)
        case "float":
            _match(node.pos_args[0], value, where, labels)
        case "hyperopt_param":
            label, drawn = node.arg["label"].obj, node.arg["obj"]
            labels[label] = _drawn(drawn, value, where)
        case _:
            raise InputError(f"{where}: a point cannot be checked against {node.name!r}")


def _match_dict(node: Apply, value: Any, where: str, labels: dict[str, Any]) -> None:
    if not isinstance(value, Mapping):
        raise InputError(f"{where or 'point'}: an object wanted, found {value!r}")
    parts = dict(node.named_args)
    if unknown := sorted(set(value) - set(parts)):
        raise InputError(
            f"{_join(where, unknown[0])}: not in the search space; known: {', '.join(parts)}"
        )
    for name, part in parts.items():
        if name in value:
            _match(part, value[name], _join(where, name), labels)
        elif part.name != "literal":  # a constant need not be repeated
            raise InputError(f"{_join(where, name)}: missing; a point gives every parameter")


def _match_choice(node: Apply, value: Any, where: str, labels: dict[str, Any]) -> None:
    chooser, *options = node.pos_args
    reasons = []
    for index, option in enumerate(options):
        inner: dict[str, Any] = {}
        try:
            _match(option, value, where, inner)
        except InputError as error:
            reasons.append(str(error))
            continue
        labels[chooser.arg["label"].obj] = index
        labels.update(inner)
        return
    if all(option.name == "literal" for option in options):
        allowed = ", ".join(repr(option.obj) for option in options)
        raise InputError(f"{where}: one of {allowed} wanted, found {value!r}")
    raise InputError(f"{where}: fits none of its {len(options)} choices ({'; '.join(reasons)})")


def _drawn(drawn: Apply, value: Any, where: str) -> float | int:
    """Return ``value`` as hyperopt would have drawn it.

    :raises InputError: hyperopt cannot draw it.
    """
    if not is_number(value):
        raise InputError(f"{where}: a number wanted, found {value!r}")
    low, high, step = bounds(drawn)
    check_bounds(value, low, high, where)
    if step and abs(value / step - round(value / step)) > 1e-9:
        raise InputError(f"{where}: {value!r} is no multiple of {step:g}")
    return int(value) if drawn.name == "randint" else float(value)


def _same(fixed: Any, value: Any) -> bool:
    are_alike = isinstance(fixed, bool) == isinstance(value, bool)  # 1 == True in Python
    return are_alike and bool(plain(fixed) == plain(value))


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name
