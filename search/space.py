"""A search space: what may be fixed in it, and which points lie in it.

A space is a dictionary in hyperopt's own terms. A point is what the space evaluates to:
plain names and values, nested where the space is. hyperopt itself thinks in *labels*, one value
for each drawn parameter; :meth:`Space.labels_of` is the way from a point back to them.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hyperopt import space_eval
from hyperopt.pyll import as_apply
from hyperopt.pyll.base import Apply, Literal, dfs

from search.errors import InputError
from trainables.base import Setting

Point = dict[str, Any]

MOST = 1e300


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
        """32 hex digits that name this space: equal for spaces that draw the same."""
        return hashlib.sha256(str(self.root).encode()).hexdigest()[:32]

    def point(self, labels: Mapping[str, Any]) -> Point:
        """Return the point that a value for each active label stands for."""
        if not self.expressions:
            return {}  # which hyperopt cannot evaluate
        point: Point = _plain(space_eval(dict(self.expressions), dict(labels)))
        return point

    def labels_of(self, point: Any) -> dict[str, Any]:
        """Return the label values that evaluate to ``point``.

        :raises InputError: the point does not lie in the space; says at which name and why.
        """
        labels: dict[str, Any] = {}
        _match(self.root, point, "", labels)
        return labels


def fixed(
    search_space: Mapping[str, Any], settings: Mapping[str, Setting], overrides: Mapping[str, str]
) -> tuple[Space, dict[str, Any]]:
    """Apply ``--set``: return the space with constants in it, and the trainable's settings.

    :raises InputError: a name is neither, or a value cannot be read or is out of bounds.
    """
    expressions = dict(search_space)
    values = {name: setting.default for name, setting in settings.items()}
    for name, text in overrides.items():
        if name in settings:
            values[name] = _setting(name, text, settings[name])
        elif name in expressions:
            expressions[name] = _constant(name, text, expressions[name])
        else:
            known = ", ".join([*expressions, *settings]) or "nothing"
            raise InputError(f"--set {name}={text}: unknown name; may be set: {known}")
    return Space(expressions), values


def _setting(name: str, text: str, setting: Setting) -> int | float | str:
    kind = type(setting.default)
    try:
        value = kind(text)
        if kind is int and not _is_number(value):
            raise ValueError
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise InputError(f"--set {name}={text}: {text!r} is not {wanted}") from None
    if setting.one_of and value not in setting.one_of:
        raise InputError(f"--set {name}={text}: use one of {', '.join(setting.one_of)}")
    if kind is float and not math.isfinite(float(value)):
        raise InputError(f"--set {name}={text}: {text!r} is not a finite number")
    if setting.at_least is not None and not float(value) >= setting.at_least:
        raise InputError(f"--set {name}={text}: give {setting.at_least} or more")
    return value


def _constant(name: str, text: str, expression: Any) -> Any:
    """Return the value ``text`` stands for; outside its range is allowed, another kind is not."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # the latter: lists in lists in lists
        value = text
    node = as_apply(expression)
    if node.name == "switch":
        return _option(name, text, value, node)
    if node.name == "literal" and isinstance(node.obj, str):
        return text
    if not _is_number(value):
        raise InputError(f"--set {name}={text}: {text!r} is not a number")
    if node.name == "int":
        if value != int(value):
            raise InputError(f"--set {name}={text}: {name} is a whole number")
        return int(value)
    return value


def _option(name: str, text: str, value: Any, node: Apply) -> Any:
    """Return the option of a choice that was meant: 1 or "1", whichever there is."""
    try:
        _match(node, value, name, {})
    except InputError:
        _match(node, text, name, {})
        return text
    return value


def _match(node: Apply, value: Any, where: str, labels: dict[str, Any]) -> None:
    """Walk the space and the point side by side; collect the labels' values on the way."""
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
            if not _is_number(value) or value != int(value):
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
    """Return ``value`` as hyperopt would have drawn it, if it can have."""
    if not _is_number(value):
        raise InputError(f"{where}: a number wanted, found {value!r}")
    arg = {name: node.obj for name, node in drawn.arg.items() if isinstance(node, Literal)}
    low, high, step = -math.inf, math.inf, arg.get("q")
    if drawn.name == "randint":
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
    slack = 1e-9 * max(abs(low), abs(high)) if math.isfinite(low) and math.isfinite(high) else 0.0
    if not low - slack <= value <= high + slack:
        raise InputError(f"{where}: {value!r} is outside {low:.6g} to {high:.6g}")
    if step and abs(value / step - round(value / step)) > 1e-9:
        raise InputError(f"{where}: {value!r} is no multiple of {step:g}")
    return int(value) if drawn.name == "randint" else float(value)


def _plain(value: Any) -> Any:
    """Return the value without hyperopt's tuples and numpy's scalars."""
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value.item() if hasattr(value, "item") else value


def _same(constant: Any, value: Any) -> bool:
    return bool(_plain(constant) == _plain(value)) and isinstance(constant, bool) == isinstance(
        value, bool
    )


def _is_number(value: Any) -> bool:
    # by comparison: an integer of hundreds of digits is no float
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MOST


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name
