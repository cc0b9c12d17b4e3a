"""Rasters beside each other on one grid, taken for one: where each lies, and which of them has what of a window."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox

from geosr.errors import InputError
from geosr.grid import Window

_OFF = 0.01
"""Pixels by which a raster may lie off the others' grid, at any of its corners."""


def lay_out(boxes: Sequence[GeoBox], names: Sequence[str]) -> tuple[GeoBox, list[Window]]:
    """The grid that holds all of `boxes`, and where on it each lies; the first decides where pixels begin.

    Args:
        boxes: one or more, in the same CRS.
        names: of the rasters, for a message.

    Raises:
        InputError: one has pixels of another size or direction, or begins between the first one's pixels: somewhere
            they are a hundredth of a pixel apart or more.
    """
    first = boxes[0].affine
    windows = []
    for box, name in zip(boxes, names, strict=True):
        rows, cols = box.shape
        step = ~first * box.affine
        col, row = round(step.c), round(step.f)
        nested = Affine.translation(col, row)
        off = max(np.hypot(*np.subtract(step * corner, nested * corner)) for corner in _corners(rows, cols))
        if not off < _OFF:
            raise InputError(
                f"{name} does not lie on the grid of {names[0]}: {_apart(step, off)}; bring the files onto one grid "
                "first, with gdalwarp -tr and -tap"
            )
        windows.append(Window(row, col, rows, cols))
    top, left = min(w.row for w in windows), min(w.col for w in windows)
    bottom, right = max(w.row + w.height for w in windows), max(w.col + w.width for w in windows)
    grid = GeoBox((bottom - top, right - left), first * Affine.translation(left, top), boxes[0].crs)
    return grid, [w.shifted(-top, -left) for w in windows]


def _corners(rows: int, cols: int) -> tuple[tuple[int, int], ...]:
    return (0, 0), (cols, 0), (0, rows), (cols, rows)


def _apart(step: Affine, off: float) -> str:
    """What is wrong with a raster whose pixels are `step` of the first one's."""
    size = (np.hypot(step.a, step.d), np.hypot(step.b, step.e))
    if np.allclose((step.a, step.b, step.d, step.e), (1, 0, 0, 1), atol=1e-6):
        return f"its pixels begin {off:.2f} of a pixel beside the others"
    return f"its pixels are {size[0]:.6g} x {size[1]:.6g} of the other's, or turned"


def overlaps(windows: Sequence[Window]) -> Iterator[tuple[int, int, Window]]:
    """Pairs of `windows` that share pixels, by place, the later one's never falling; and what they share."""
    edges = np.array([(w.row, w.col, w.row + w.height, w.col + w.width) for w in windows])
    for place in range(1, len(windows)):
        start = np.maximum(edges[:place, :2], edges[place, :2])
        sides = np.minimum(edges[:place, 2:], edges[place, 2:]) - start
        for other in np.flatnonzero((sides > 0).all(axis=1)):
            (row, col), (height, width) = start[other].tolist(), sides[other].tolist()
            yield int(other), place, Window(row, col, height, width)


def doubles(windows: Sequence[Window]) -> Iterator[tuple[int, int, Window]]:
    """Those of `overlaps` that are more than half of the smaller window."""
    for one, other, shared in overlaps(windows):
        if 2 * shared.pixels > min(windows[one].pixels, windows[other].pixels):
            yield one, other, shared


def pieces(windows: Sequence[Window], asked: Window) -> Iterator[tuple[int, Window]]:
    """Which of `windows` meet `asked`, in their order: place in the sequence, and the part that they share."""
    for place, window in enumerate(windows):
        if (shared := window.intersection(asked)).pixels:
            yield place, shared


def shrunk(part: Window, whole: Window, shape: tuple[int, int]) -> Window:
    """Where `part` of `whole` lies in an array of `shape` that shows all of `whole`; parts that touch still do.

    Edges are rounded, so that a part may lie up to half a pixel of the array off, and a thin one be gone.
    """
    (row, height), (col, width) = (
        _between(start - origin, length, whole_length, pixels)
        for start, origin, length, whole_length, pixels in (
            (part.row, whole.row, part.height, whole.height, shape[0]),
            (part.col, whole.col, part.width, whole.width, shape[1]),
        )
    )
    return Window(row, col, height, width)


def _between(start: int, length: int, whole: int, pixels: int) -> tuple[int, int]:
    """First pixel and number of pixels of a stretch of `whole` shown in `pixels`."""
    first, last = ((2 * edge * pixels + whole) // (2 * whole) for edge in (start, start + length))
    return first, last - first
