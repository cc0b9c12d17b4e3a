"""The methods by name. Importing this module does not import torch; `create` does, for methods that need it.

A method is registered by an `Entry`: geosr's own in `geosr.methods.builtin`, those of other packages by an entry point.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from geosr.errors import UnavailableError, UsageError
from geosr.methods import plugins
from geosr.methods.builtin import ENTRIES
from geosr.methods.entry import Entry

if TYPE_CHECKING:
    from geosr.methods.base import Method

__all__ = ["Entry", "candidates", "create", "create_as", "entry", "listing", "names", "versions"]


def names() -> tuple[str, ...]:
    """Names of all methods, geosr's own first; other packages are not imported for it."""
    offered = plugins.offered()
    return (*ENTRIES, *(name for name, points in offered.items() if not plugins.conflict(name, points, ENTRIES)))


def listing() -> tuple[list[Entry], list[str]]:
    """The entries of all methods, and a sentence for each that another package offers and that cannot be had."""
    entries, problems = [*ENTRIES.values()], []
    for name, points in plugins.offered().items():
        if reason := plugins.conflict(name, points, ENTRIES):
            problems.append(reason)
            continue
        try:
            entries.append(plugins.load(points[0]))
        except UnavailableError as error:
            problems.append(str(error))
    return entries, problems


def candidates() -> tuple[str, ...]:
    """Names of the methods that are tried where nobody names one, the default first."""
    return tuple(entry.name for entry in listing()[0] if entry.automatic)


def entry(name: str) -> Entry:
    """The entry of a method.

    Raises:
        UnavailableError: there is none of that name, or another package's cannot be had.
    """
    if name in ENTRIES:
        return ENTRIES[name]
    points = plugins.offered().get(name)
    if not points:
        raise UnavailableError(f"no method is called {name!r}; there are: {', '.join(names())}")
    if reason := plugins.conflict(name, points, ENTRIES):
        raise UnavailableError(reason)
    return plugins.load(points[0])


def create(
    name: str, preset: str = "default", settings: Mapping[str, Any] | None = None, weights: Path | None = None
) -> Method:
    """The method `name` with a preset's settings, some of them replaced by `settings`; a trained one with its weights.

    Raises:
        UnavailableError: unknown method, or one whose package or libraries are missing or broken.
        UsageError: unknown preset or setting, or a value out of range; weights are missing, or given to a method that
            has none.
        InputError: the weights are refused.
    """
    found = entry(name)
    versions(found)  # raises where a library is missing, before any import fails
    if found.needs_weights and weights is None:
        raise UsageError(
            f"{name} is a trained network and needs its weights: geosr upscale --method {name} --weights FILE "
            f"(geosr train --method {name} makes them)"
        )
    if weights is not None and not found.needs_weights:
        raise UsageError(f"{name} has no weights; leave --weights out")
    maker = "geosr.methods.foreign:create" if found.package else found.loader
    module, _, factory = maker.partition(":")
    arguments = (found,) if found.package else ()
    trained = () if weights is None else (weights,)
    return cast("Method", getattr(import_module(module), factory)(*arguments, preset, dict(settings or {}), *trained))


def create_as(name: str, kind: str) -> Method:
    """The method `name` as a list of methods names it: by a preset or, for a trained network, the file of its weights.

    Raises:
        UnavailableError, UsageError, InputError: as `create`.
    """
    return create(name, weights=Path(kind)) if entry(name).needs_weights else create(name, kind)


def versions(found: Entry) -> dict[str, str]:
    """Versions of what an output by this method depends on beyond geosr's own libraries.

    Raises:
        UnavailableError: a library is not installed.
    """
    try:
        libraries = {library: version(library) for library in found.libraries}
    except PackageNotFoundError as error:
        install = f": pip install 'geosr[{found.extra}]'" if found.extra else ""
        raise UnavailableError(
            f"the method {found.name!r} needs {error.name}, which is not installed{install}"
        ) from error
    return libraries | ({"method's package": found.package} if found.package else {})
