"""A method's settings from its presets and what the user asks for on top."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from geosr.errors import UsageError

Settings = TypeVar("Settings")


@dataclass(frozen=True)
class NoSettings:
    """Of a method that has none, or whose result is shaped by its weights alone."""


def apply_settings(method: str, presets: Mapping[str, Settings], preset: str, changes: Mapping[str, Any]) -> Settings:
    """A preset with some settings replaced, each converted to the type it has there.

    Raises:
        UsageError: no such preset or setting, or a value of another kind.
    """
    if preset not in presets:
        raise UsageError(f"{method} has no preset {preset!r}; there are: {', '.join(presets)}")
    base = presets[preset]
    known = {field.name: type(getattr(base, field.name)) for field in fields(base)}  # type: ignore[arg-type]
    for name in changes:
        if name not in known:
            there_are = f"there are: {', '.join(known)}" if known else "it has none; leave --set out"
            raise UsageError(f"{method} has no setting {name!r}; {there_are}")
    values = {name: _convert(name, value, known[name]) for name, value in changes.items()}
    return replace(base, **values)  # type: ignore[type-var]


def check_choices(settings: object, choices: Mapping[str, Sequence[str]]) -> None:
    """See that settings have one of the values that they may have.

    Raises:
        UsageError: one has not; named with those that it may have.
    """
    for name, allowed in choices.items():
        if getattr(settings, name) not in allowed:
            raise UsageError(f"{name} is {getattr(settings, name)!r}; use one of {', '.join(allowed)}")


def check_ranges(settings: object, ranges: Mapping[str, tuple[float, float]]) -> None:
    """See that settings are finite, and from the least to the most that they may be.

    Raises:
        UsageError: one is not; named with its range.
    """
    for name, (least, most) in ranges.items():
        value = getattr(settings, name)
        if not (least <= value <= most and value < math.inf):
            limits = f"at least {least}" if most == math.inf else f"from {least} to {most}"
            raise UsageError(f"{name} is {value}; it must be {limits}")


def check_positive(settings: object, *names: str) -> None:
    """See that settings are finite and above 0.

    Raises:
        UsageError: one is not.
    """
    for name in names:
        if not 0 < getattr(settings, name) < math.inf:
            raise UsageError(f"{name} is {getattr(settings, name)}; it must be positive")


def check_fractions(settings: object, *names: str) -> None:
    """See that settings are from 0 to 1, and not 1 itself.

    Raises:
        UsageError: one is not.
    """
    for name in names:
        if not 0 <= getattr(settings, name) < 1:
            raise UsageError(f"{name} is {getattr(settings, name)}; it must be at least 0 and below 1")


def _convert(name: str, value: Any, kind: type) -> Any:
    if isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool):
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    raise UsageError(f"{name} is {value!r}; it must be of type {kind.__name__}")
