"""What is known of a method before it is loaded: enough to list it, and to find it."""

from __future__ import annotations

import re
from dataclasses import dataclass

COSTS = {
    "instant": "less than a second a tile",
    "seconds": "seconds a tile",
    "minutes": "half a minute or more a tile",
}
"""Classes of cost, for a tile of 320 x 320 pixels on a processor."""


@dataclass(frozen=True)
class Entry:
    """A method by name.

    Attributes:
        name: lower-case letters, digits and dashes, as `--method` takes it.
        loader: where the method lives: `module:factory`, called as `factory(preset, settings)`.
        summary: what it does.
        source: the paper or library that it comes from.
        use: when to choose it.
        cost: one of `COSTS`.
        presets: names of its sets of settings, `default` among them.
        automatic: whether `--method auto` and `geosr assess` try it without being asked to.
        libraries: distributions that it needs beyond those that geosr always has; an output depends on their versions.
        extra: of geosr, that installs them.
        needs_weights: whether it is a trained network, whose weights are given as a file; the factory is then called as
            `factory(preset, settings, weights)`.
        package: the distribution that it comes from, with its version; empty for geosr's own.
    """

    name: str
    loader: str
    summary: str
    source: str
    use: str
    cost: str
    presets: tuple[str, ...] = ("default",)
    automatic: bool = False
    libraries: tuple[str, ...] = ()
    extra: str = ""
    needs_weights: bool = False
    package: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch("[a-z][a-z0-9-]*", self.name) or self.name == "auto":
            raise ValueError(f"the name {self.name!r} is not one of lower-case letters, digits and dashes")
        if not re.fullmatch(r"[\w.]+:\w+", self.loader):
            raise ValueError(f"the loader {self.loader!r} is not of the form module:factory")
        if self.cost not in COSTS:
            raise ValueError(f"the cost {self.cost!r} is not one of {', '.join(COSTS)}")
        if "default" not in self.presets:
            raise ValueError("there is no preset 'default'")
