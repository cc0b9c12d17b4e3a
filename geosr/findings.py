"""What is found out about an output while it is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geosr.consistency import pool
from geosr.encoding import Encoding
from geosr.grid import GridPair

_CELLS = 256  # to a side of the map of deviations at most

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Deviation:
    """How far the pooled output lies from the source, over all valid source pixels, in its units."""

    largest: float
    rms: float


@dataclass(frozen=True)
class Written:
    """What was found while writing; `deviations` is the `_DeviationMap`'s.

    `cut` counts output pixels beyond the type, `moved` those of an integer type that were moved off its nodata value,
    `beyond` source pixels beyond the limits. `lowest` is the smallest valid value of the source and that of the output.
    """

    deviation: Deviation
    seam_ratio: float | None
    deviations: NDArray[np.float64]
    cut: int
    moved: int
    beyond: int
    lowest: tuple[float, float]


class Findings:
    """Gathers `Written` from strips of whole source rows, from the top down."""

    def __init__(self, grids: GridPair, limits: tuple[float, float], encoding: Encoding) -> None:
        """`limits` are the output's smallest and largest value, `encoding` is how it is stored."""
        self._scale, self._limits, self._encoding = grids.scale, limits, encoding
        self._deviations = _DeviationMap(grids.low.shape)
        self._squares, self._count = 0.0, 0
        self._cut, self._moved, self._beyond = 0, 0, 0
        self._lowest_source = self._lowest_output = np.inf

    def add(self, row: int, source: Array, source_valid: Mask, valid: Mask, values: Array, final: Array) -> None:
        """A strip.

        Args:
            row: its first row of the low grid.
            source: (rows, cols) of the low grid.
            source_valid: of the same shape.
            valid: the same on the high grid, (rows * scale, cols * scale).
            values: (rows * scale, cols * scale), as they were meant.
            final: of the same shape, as they are read from the file.
        """
        difference = np.where(source_valid, pool(final, valid, self._scale)[0] - source, 0.0)
        self._deviations.add(row, np.abs(difference))
        self._squares += float((difference**2).sum())
        self._count += int(source_valid.sum())
        self._beyond += int((source_valid & _beyond(source, self._limits)).sum())
        self._cut += self._encoding.beyond(values, valid)
        self._moved += self._encoding.on_nodata(values, valid)
        self._lowest_source = min(self._lowest_source, source[source_valid].min(initial=np.inf))
        self._lowest_output = min(self._lowest_output, final[valid].min(initial=np.inf))

    def finish(self, seam_ratio: float | None) -> Written:
        """All of it; `seam_ratio` is the `SeamMeter`'s."""
        cells = self._deviations.cells
        deviation = Deviation(float(cells.max()), (self._squares / max(self._count, 1)) ** 0.5)
        lowest = float(self._lowest_source), float(self._lowest_output)
        return Written(deviation, seam_ratio, cells, self._cut, self._moved, self._beyond, lowest)


class _DeviationMap:
    """Where the pooled output lies how far from the source: the largest distance in cells of source pixels."""

    def __init__(self, shape: Sequence[int]) -> None:
        """`shape` is the low grid's."""
        self._step = max(-(-max(shape) // _CELLS), 1)
        self.cells = np.zeros([-(-side // self._step) for side in shape])

    def add(self, top: int, distance: NDArray[np.float64]) -> None:
        """Rows of the low grid from `top` on; 0 where the source is invalid."""
        rows, cols = distance.shape
        row, col = (top + np.arange(rows)) // self._step, np.arange(cols) // self._step
        np.maximum.at(self.cells, (row[:, None], col[None]), distance)


def _beyond(values: NDArray[np.float64], limits: tuple[float, float]) -> NDArray[np.bool_]:
    """Outside of limits by more than float32 rounds them."""
    low, high = (limit - sign * 1e-6 * max(1.0, abs(limit)) for limit, sign in zip(limits, (1, -1), strict=True))
    return np.asarray((values < low) | (values > high))
