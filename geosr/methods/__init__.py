"""The methods by name. Importing this module does not import torch; `create` does, for methods that need it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from geosr.errors import UnavailableError

if TYPE_CHECKING:
    from geosr.methods.base import Method


@dataclass(frozen=True)
class Entry:
    """Where a method lives: `module:factory`, called as `factory(preset, settings)`."""

    name: str
    loader: str
    summary: str
    presets: tuple[str, ...] = ("default",)


_REGISTRY = {
    entry.name: entry
    for entry in (
        Entry(
            "mmsr",
            "geosr.methods.mmsr:create",
            "mutual modulation network fitted on the pair itself (Dong et al., ECCV 2022)",
            ("default", "paper-depth", "paper-dem"),
        ),
        Entry(
            "diffusion",
            "geosr.methods.diffusion:create",
            "guided anisotropic diffusion: seconds a tile, for scenes whose edges the guide shows",
        ),
        Entry(
            "bicubic",
            "geosr.methods.classic:create",
            "cubic convolution of the source; the guide is not used",
        ),
    )
}


def names() -> tuple[str, ...]:
    """Names of all methods."""
    return tuple(_REGISTRY)


def entry(name: str) -> Entry:
    """The entry of a method; `UnavailableError` when there is none of that name."""
    if name not in _REGISTRY:
        raise UnavailableError(f"no method is called {name!r}; there are: {', '.join(_REGISTRY)}")
    return _REGISTRY[name]


def create(name: str, preset: str = "default", settings: Mapping[str, Any] | None = None) -> Method:
    """The method `name` with a preset's settings, some of them replaced by `settings`.

    Raises:
        UnavailableError: unknown method.
        UsageError: unknown preset or setting, or a value out of range.
    """
    module, _, factory = entry(name).loader.partition(":")
    return cast("Method", getattr(import_module(module), factory)(preset, dict(settings or {})))
