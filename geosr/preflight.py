"""Looks at a raster's pixels before the work: can they be read, is any valid, does one look like nodata?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from geosr.errors import InputError
from geosr.gdal import translated
from geosr.grid import Window
from geosr.raster import Array, Mask, Raster, read_stored, reopened
from geosr.raster_guard import show

SMALL = 1 << 24
"""Samples up to which a file is read through to see whether it can be."""
MAX_LOOKS = 4096

_SENTINELS = (
    -9999.0,
    -99999.0,
    -10000.0,
    -32768.0,
    -32767.0,
    -999.0,
    9999.0,
    32767.0,
    65535.0,
    -3.4028234663852886e38,
)


def check_readable(raster: Raster) -> None:
    """See before any work that the pixels are there: block offsets against the file's size, small files read.

    Raises:
        InputError: the file is truncated or damaged; the first bad block is named.
    """
    for file in raster.files:
        if file.driver == "GTiff":
            with reopened(file) as dataset, translated(file.path, "read"):
                _check_blocks(file, dataset)
    rows, cols = raster.shape
    if rows * cols * len(raster.bands) <= SMALL:
        with reopened(raster) as dataset, translated(raster.path, "read"):
            for window in windows(raster, 1024):
                read_stored(raster, dataset, window)


def _check_blocks(raster: Raster, dataset: Any) -> None:
    """Compare where a TIFF's blocks end with where the file does, reading no pixel.

    Of a raster with very many blocks a lattice is looked at, its last row and column included: a file that was
    cut short lacks the blocks at its end.
    """
    size = raster.fingerprint[0]
    rows, cols = raster.shape
    height, width = raster.block_shape
    separate = not (dataset.interleaving and dataset.interleaving.name == "pixel")
    for band in raster.bands if separate else raster.bands[:1]:
        for j in _lattice(-(-rows // height)):
            for i in _lattice(-(-cols // width)):
                offset = dataset.get_tag_item(f"BLOCK_OFFSET_{i}_{j}", "TIFF", bidx=band)
                if offset is None:
                    continue  # sparse: nothing stored, reads as nodata or 0
                end = int(offset) + int(dataset.get_tag_item(f"BLOCK_SIZE_{i}_{j}", "TIFF", bidx=band) or 0)
                if end > size:
                    raise InputError(
                        f"{show(raster.path)}: truncated: the block at row {j * height}, column {i * width} "
                        f"should end at byte {end}, the file has {size}; fetch it again"
                    )


def _lattice(count: int) -> list[int]:
    """All of `range(count)`, or 256 of it with both ends."""
    return [int(i) for i in np.unique(np.linspace(0, count - 1, min(count, 256)).round())]


def has_valid(raster: Raster) -> bool:
    """Whether any pixel is valid: looks until it finds one, and takes it for granted after 4096 windows."""
    with reopened(raster) as dataset:
        for looked, window in enumerate(windows(raster, 1024)):
            if looked == MAX_LOOKS or read_stored(raster, dataset, window)[1].any():
                return True
    return False


def windows(raster: Raster, side: int) -> Iterator[Window]:
    """Windows of whole blocks, about `side` x `side` pixels each, that cover the raster."""
    rows, cols = raster.shape
    block_rows, block_cols = raster.block_shape
    width = min(max(side // block_cols, 1) * block_cols, cols)
    height = min(max(side * side // (width * block_rows), 1) * block_rows, rows)
    for row in range(0, rows, height):
        for col in range(0, cols, width):
            yield Window(row, col, min(height, rows - row), min(width, cols - col))


def suspicious_constant(raster: Raster) -> float | None:
    """An exact value among the valid pixels that looks like nodata which nobody declared; None if there is none.

    It is the smallest or the largest value, and either a usual sentinel or an extreme that stands far away from
    the rest, or a collar: at least 1 % of the pixels, nearly all of them in unbroken runs from the raster's edge.
    """
    with reopened(raster) as dataset:
        stored, valid = _glimpse(raster, dataset)
    if valid.sum() < 16:
        return None
    data = stored[:, valid].astype(np.float64)
    for extreme in (float(data.min()), float(data.max())):
        alike = (stored == extreme).all(axis=0) & valid
        rest = data[:, ~(data == extreme).any(axis=0)]
        if alike.sum() < 4 or rest.shape[1] < 16:
            continue
        if _stands_apart(extreme, rest) or _is_collar(alike, valid):
            return extreme
    return None


def suspicion(name: str, value: str) -> str:
    """What to say of a raster with such a constant."""
    return f"{name} contains {value}, which looks like undeclared nodata"


def _stands_apart(value: float, rest: Array) -> bool:
    """Away from all other values by their whole range; by a quarter of it for a usual sentinel."""
    low, high = float(rest.min()), float(rest.max())
    gap = max(low - value, value - high)
    usual = any(math.isclose(value, s, rel_tol=1e-6) for s in _SENTINELS)
    return gap > (high - low) * (0.25 if usual else 3.0) and gap > 1


def _is_collar(alike: Mask, valid: Mask) -> bool:
    """At least 1 % of the pixels, of which 9 in 10 lie in runs that begin at the raster's edge."""
    if alike.sum() < 0.01 * alike.size or alike.sum() > 0.95 * valid.sum():
        return False
    runs = np.zeros_like(alike)
    for axis in (0, 1):
        runs |= np.logical_and.accumulate(alike, axis=axis)
        runs |= np.flip(np.logical_and.accumulate(np.flip(alike, axis), axis=axis), axis)
    return bool(runs.sum() >= 0.9 * alike.sum())


def _glimpse(raster: Raster, dataset: Any) -> tuple[Array, Mask]:
    """The whole raster if it is small, else a 16 x 16 lattice of 64 x 64 windows put side by side."""
    rows, cols = (side * raster.pooled for side in raster.shape)
    if rows * cols * len(raster.bands) <= SMALL:
        return read_stored(raster, dataset, Window(0, 0, rows, cols))
    high, wide = min(64, rows), min(64, cols)
    bands = []
    for row in np.unique(np.linspace(0, rows - high, 16).astype(int)):
        parts = [
            read_stored(raster, dataset, Window(int(row), int(col), high, wide))
            for col in np.unique(np.linspace(0, cols - wide, 16).astype(int))
        ]
        bands.append((np.concatenate([p[0] for p in parts], axis=2), np.concatenate([p[1] for p in parts], axis=1)))
    return np.concatenate([b[0] for b in bands], axis=1), np.concatenate([b[1] for b in bands], axis=0)
