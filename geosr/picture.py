"""Values as pictures: of which kind they are, a stretch that outliers do not spoil, colours, relief. Numpy alone.

Pictures are uint8 (4, rows, columns): red, green, blue and alpha, which is 0 where nothing is known.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geosr.units import KELVINS, METRES, metres_of

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Picture = NDArray[np.uint8]

KINDS = ("elevation", "temperature", "other")

_NAMES = {
    "elevation": {
        "dem",
        "dsm",
        "dtm",
        "chm",
        "ndsm",
        "vhm",
        "agl",
        "elevation",
        "height",
        "heights",
        "altitude",
        "canopy",
    },
    "temperature": {"temperature", "temp", "thermal", "lst", "tir", "kelvin", "celsius"},
}

RAMPS = {
    "elevation": ("#4d7f73", "#8fb083", "#d6d6a4", "#d2b07a", "#b58768", "#f3efe9"),
    "temperature": ("#1d1147", "#5c1a6e", "#a42c6a", "#e2574b", "#f79d3f", "#fbe89c"),
    "other": ("#22315a", "#2c6781", "#3f9c84", "#9dc667", "#f4e872"),
}
"""Colours from the low to the high end, evenly spaced. Those of elevations are light: relief goes on top of them."""

_LIGHT = np.array([-0.5, -0.5, 0.5**0.5])  # towards the light along columns, rows and up: upper left, 45 degrees high
_STEEP = 0.6  # the slope that nine tenths of the shown relief stay below
_TAILS = (2.0, 98.0)  # percentiles


@dataclass(frozen=True)
class Kind:
    """What values are, as far as their file tells.

    Attributes:
        name: one of `KINDS`.
        reason: what says so.
        units: of the values; empty where nothing names them.
    """

    name: str
    reason: str
    units: str = ""

    @property
    def metres(self) -> float:
        """Length of a unit of height; 1 where the values are no heights, or in unknown units."""
        return metres_of(self.units)


def decide_kind(units: str | None, name: str | None, *, vertical: bool, source: str, stem: str) -> Kind:
    """Elevations, temperatures or something else: by unit, band name, CRS and file names, in that order.

    Args:
        units: of the band.
        name: of the band.
        vertical: whether the CRS has a vertical part.
        source: name, without its ending, of the file that it was made from; empty where none is known.
        stem: the file's own.
    """
    given, unit = units or "", (units or "").strip().lower()
    if unit in METRES:
        return Kind("elevation", f"its unit, {given}", given)
    if unit in KELVINS:
        return Kind("temperature", f"its unit, {given}", given)
    if kind := _by_words(name or ""):
        return Kind(kind, f"its band's name, {name}", given)
    if vertical:
        return Kind("elevation", "the vertical part of its CRS", given)
    if kind := _by_words(source):
        return Kind(kind, f"the name of its source, {source}", given)
    if kind := _by_words(stem):
        return Kind(kind, "its file's name", given)
    return Kind("other", "nothing in the file that says more", given)


def _by_words(text: str) -> str | None:
    words = set(re.findall("[a-z]+", re.sub("([a-z])([A-Z])", r"\1 \2", text).lower()))
    words |= set(re.findall("[a-z]+", text.lower()))
    return next((kind for kind, names in _NAMES.items() if words & names), None)


def around(value: float) -> tuple[float, float]:
    """Half a unit to either side, or as much more as float64 needs to tell them apart."""
    half = max(0.5, 64 * float(np.spacing(abs(value))))
    return value - half, value + half


@dataclass(frozen=True)
class Stretch:
    """The values at the two ends of a ramp."""

    low: float
    high: float

    @classmethod
    def measure(cls, values: NDArray[np.floating], valid: Mask) -> Stretch:
        """The 2nd and 98th percentile of the valid values; where those are one, the extremes, or half a unit about."""
        known = values[valid]
        if not known.size:
            return cls(0.0, 1.0)
        low, high = (float(p) for p in np.percentile(known, _TAILS))
        if low == high:
            low, high = float(known.min()), float(known.max())
        return cls(low, high) if low < high else cls(*around(low))

    def apply(self, values: NDArray[np.floating]) -> Array:
        """0 at the low end and below, 1 at the high end and above."""
        return np.clip((values - self.low) / (self.high - self.low), 0.0, 1.0)


def colours(kind: str) -> Array:
    """(number, 3) red, green and blue of a ramp, 0 to 255."""
    return np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in RAMPS[kind]], float)


def paint(values: Array, valid: Mask, kind: str, stretch: Stretch, shade: Array | None = None) -> Picture:
    """Colours of a ramp, made lighter and darker by relief if there is any.

    Args:
        values: (rows, columns).
        valid: of the same shape; the rest is transparent.
        kind: whose ramp.
        stretch: its ends.
        shade: from `hillshade`.
    """
    ramp = colours(kind)
    position = stretch.apply(np.where(valid, values, stretch.low)) * (len(ramp) - 1)
    rgb = np.stack([np.interp(position, np.arange(len(ramp)), channel) for channel in ramp.T])
    if shade is not None:
        rgb *= 0.4 + 0.6 * shade / _LIGHT[2]  # flat ground keeps its colour
    return _with_alpha(rgb, valid)


def paint_relief(shade: Array, valid: Mask) -> Picture:
    """`hillshade` in greys."""
    return _with_alpha(np.broadcast_to(255 * shade, (3, *shade.shape)), valid)


def paint_image(bands: NDArray[np.floating], valid: Mask, stretch: Stretch) -> Picture:
    """One band in greys, or three as red, green and blue.

    Args:
        bands: (1 or 3, rows, columns).
        valid: (rows, columns).
        stretch: black and white; one for all bands, so that hues stay.
    """
    scaled = 255 * stretch.apply(np.where(valid, bands, 0))
    return _with_alpha(np.broadcast_to(scaled, (3, *valid.shape)), valid)


def _with_alpha(rgb: Array, valid: Mask) -> Picture:
    rgba = np.empty((4, *valid.shape), np.uint8)
    rgba[:3] = np.where(valid, np.clip(np.rint(rgb), 0, 255), 0)
    rgba[3] = np.where(valid, 255, 0)
    return rgba


def hillshade(values: Array, valid: Mask, steps: tuple[float, float]) -> tuple[Array, float]:
    """How bright a surface is, lit from the picture's upper left, and by how much its relief was exaggerated.

    Slopes are Horn's (1981) of 3 x 3 pixels; an unknown neighbour counts as level with the pixel itself. Relief is
    exaggerated (or flattened) until nine tenths of it are less steep than 0.6, so that plains and towns show theirs.

    Args:
        values: (rows, columns).
        valid: of the same shape.
        steps: length of a column step and of a row step, in the unit of the values.

    Returns:
        0 (dark) to 1, 0.71 on level ground; the factor, 1 where all is level.
    """
    known = np.pad(valid, 1)
    padded = np.pad(np.where(valid, values, 0.0), 1)
    rows, cols = valid.shape

    def beside(down: int, across: int) -> Array:
        part = slice(1 + down, 1 + down + rows), slice(1 + across, 1 + across + cols)
        return np.where(known[part], padded[part], values)

    across = sum(weight * (beside(i, 1) - beside(i, -1)) for i, weight in ((-1, 1), (0, 2), (1, 1))) / (8 * steps[0])
    down = sum(weight * (beside(1, i) - beside(-1, i)) for i, weight in ((-1, 1), (0, 2), (1, 1))) / (8 * steps[1])
    slope = np.hypot(across, down)[valid]
    usual = float(np.percentile(slope, 90)) or float(slope.max()) if slope.size else 0.0
    factor = _STEEP / usual if usual > 0 else 1.0
    normal = np.stack([-factor * across, -factor * down, np.ones_like(across)])
    shade = np.tensordot(_LIGHT, normal, 1) / np.sqrt((normal**2).sum(axis=0))
    return np.where(valid, np.clip(shade, 0.0, 1.0), 0.0), factor
