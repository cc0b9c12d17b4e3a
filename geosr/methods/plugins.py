"""Methods of other packages, which offer an `Entry` each in the entry point group `geosr.methods`.

Another package's fault is an error that names that package, told when its method is asked for; nothing here can keep
geosr's own methods from working.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points

from geosr.errors import UnavailableError
from geosr.methods.entry import Entry

GROUP = "geosr.methods"


def offered() -> dict[str, list[EntryPoint]]:
    """What installed packages offer, by name; nothing of theirs is imported."""
    found = defaultdict(list)
    for point in entry_points(group=GROUP):
        found[point.name].append(point)
    return dict(sorted(found.items()))


def conflict(name: str, points: list[EntryPoint], own: Collection[str]) -> str | None:
    """Why a name that is offered cannot be had, in a sentence; None where it can."""
    packages = " and ".join(sorted(_package(point) for point in points))
    if name in own:
        return f"{packages}: the method {name!r} is not used, for geosr has one of its own of that name"
    if len(points) > 1:
        return f"{packages} both offer a method {name!r}: remove one of them"
    return None


def load(point: EntryPoint) -> Entry:
    """The entry behind an entry point.

    Raises:
        UnavailableError: it cannot be imported, or is none.
    """
    try:
        found = point.load()
    except Exception as error:
        raise UnavailableError(
            f"{_package(point)}: the method {point.name!r} cannot be loaded: {told(error)}"
        ) from error
    if not isinstance(found, Entry) or found.name != point.name:
        raise UnavailableError(
            f"{_package(point)}: {point.value} is not a geosr.methods.Entry of the name {point.name!r}"
        )
    return replace(found, package=_package(point))


def told(error: Exception) -> str:
    """An error of someone else's code in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _package(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.module
