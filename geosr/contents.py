"""What a raster's bands are and hold: names and units, the range of the values, how many pixels are valid."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from geosr.gdal import translated
from geosr.grid import Window
from geosr.moments import Moments
from geosr.preflight import windows
from geosr.raster import Array, Mask, Raster, read_stored, reopened
from geosr.raster_guard import show

_MOST = 1 << 27  # samples that are read: all of a raster of 11 000 x 11 000 pixels
_AT_ONCE = 1 << 22  # samples of a window, about
_CHUNK = 1 << 20  # samples that are float64 at once


@dataclass(frozen=True)
class Band:
    """One band.

    Attributes:
        number: from 1.
        name: its description, else its colour; empty where the file gives neither.
        units: of the values; empty where the file says nothing.
        scale, offset: physical value = stored value * scale + offset.
        nodata: what the file or its sidecar declares, stored; None for nothing.
        low, high, mean, deviation: physical, of the valid pixels; NaN where there is none.
    """

    number: int
    name: str
    units: str
    scale: float
    offset: float
    nodata: float | None
    low: float
    high: float
    mean: float
    deviation: float


@dataclass(frozen=True)
class Contents:
    """All bands, and how many pixels are valid.

    Attributes:
        bands: all but alpha.
        valid: pixels with a value in every band.
        pixels: that were looked at.
        sampled: whether they are a sample of windows spread over the raster, and not all of it.
    """

    bands: tuple[Band, ...]
    valid: int
    pixels: int
    sampled: bool


def measure_contents(raster: Raster) -> Contents:
    """Read a raster, or a sample of it where it is large, window by window.

    Raises:
        InputError: it cannot be read, or is not the one that was described.
    """
    moments, pixels = Moments(len(raster.bands)), 0
    step = -(-math.prod(raster.shape) * len(raster.bands) // _MOST)
    with reopened(raster) as dataset, np.errstate(over="ignore", invalid="ignore"):  # float64 to 1e308
        for window in _spread(windows(raster, math.isqrt(_AT_ONCE // len(raster.bands))), step):
            stored, valid = read_stored(raster, dataset, window)
            pixels += valid.size
            for part in _chunks(stored, valid):
                moments.add(part)
    return Contents(tuple(_bands(raster, moments)), moments.count, pixels, pixels < math.prod(raster.shape))


def _spread(every: Iterator[Window], step: int) -> Iterator[Window]:
    """One of every `step`, drawn but always the same: an even step may see the same columns only."""
    rng, drawn = np.random.default_rng(0), 0
    for number, window in enumerate(every):
        if number and number % step == 0:
            drawn = number + int(rng.integers(step))
        if number == drawn:
            yield window


def _chunks(stored: Array, valid: Mask) -> Iterator[Array]:
    """The valid values (bands, some pixels) of a window, few at a time: they are made float64."""
    rows = max(_CHUNK // (len(stored) * valid.shape[1]), 1)
    for row in range(0, len(valid), rows):
        part = slice(row, row + rows)
        yield stored[:, part][:, valid[part]]


def _bands(raster: Raster, found: Moments) -> Iterator[Band]:
    """What the file says of each band, and what was found in it."""
    file = raster.files[0]  # what it says of bands holds for all files of a folder
    with reopened(file) as dataset, translated(file.path, "described"):
        for place, number in enumerate(raster.bands):
            at = number - 1
            colour = file.colorinterp[at]
            name = dataset.descriptions[at] or ("" if colour in ("gray", "undefined") else colour)
            units = (raster.units if place == 0 else dataset.units[at]) or ""
            scale, offset = float(dataset.scales[at]), float(dataset.offsets[at])
            values = _physical(found, place, scale, offset)
            yield Band(number, show(name, 40), show(units, 40), scale, offset, raster.nodatas[place], *values)


def _physical(found: Moments, place: int, scale: float, offset: float) -> tuple[float, float, float, float]:
    """A band's smallest and largest value, mean and standard deviation; NaN of no values."""
    if not found.count:
        return (math.nan,) * 4
    low, high, mean = (float(each[place]) * scale + offset for each in (found.low, found.high, found.mean))
    return min(low, high), max(low, high), mean, abs(scale) * float(found.deviation[place])
