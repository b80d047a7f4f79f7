"""``--set NAME=VALUE`` for tasks with trainables: a parameter that is fixed, or a setting."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from search.errors import InputError
from search.suggest.space import Space, constant, is_number
from trainables.base import Setting


def fixed(
    search_space: Mapping[str, Any], settings: Mapping[str, Setting], overrides: Mapping[str, str]
) -> tuple[Space, dict[str, Any]]:
    """Return the space with constants in it, and the trainable's settings.

    :raises InputError: a name is neither, or a value cannot be read or is out of bounds.
    """
    expressions = dict(search_space)
    values = {name: setting.default for name, setting in settings.items()}
    for name, text in overrides.items():
        if name in settings:
            values[name] = _setting(name, text, settings[name])
        elif name in expressions:
            expressions[name] = constant(name, text, expressions[name])
        else:
            known = ", ".join([*expressions, *settings]) or "nothing"
            raise InputError(f"--set {name}={text}: unknown name; may be set: {known}")
    return Space(expressions), values


def _setting(name: str, text: str, setting: Setting) -> int | float | str:
    kind = type(setting.default)
    try:
        value = kind(text)
        if kind is int and not is_number(value):
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
