"""A smooth displacement over a grid: straight lines and cosines with few half waves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

Floats = NDArray[np.float64]

_WAVES = 6  # half waves at most, along both sides together: one period along each has 2 + 2
_COSINES = tuple((i, j) for i in range(_WAVES) for j in range(_WAVES) if 0 < i + j <= _WAVES)


def terms(down: Floats, across: Floats) -> Floats:
    """(places, terms): a constant, two slopes, and cosines (Ashburner and Friston 1999), each at most 1 in size.

    Args:
        down: (places,) from 0 to 1 over the grid's rows; what lies outside is taken to its edge.
        across: (places,) the same over its columns.
    """
    y, x = np.clip(down, 0, 1), np.clip(across, 0, 1)
    rows, cols = (np.cos(np.pi * t * np.arange(_WAVES)[:, None]) for t in (y, x))
    return np.stack([np.ones_like(x), 2 * y - 1, 2 * x - 1, *(rows[i] * cols[j] for i, j in _COSINES)], axis=1)


def bending() -> Floats:
    """(terms,): the bending energy of each term of size 1, up to a factor: 0 for the first three."""
    return np.array([0.0, 0.0, 0.0, *((i * i + j * j) ** 2 for i, j in _COSINES)])


@dataclass(frozen=True)
class Displacement:
    """How far from each place of a grid that is to be looked for which belongs there.

    Attributes:
        grid: the whole grid, in whose pixels the displacement counts.
        rows: what each of `terms` adds down the grid.
        cols: what it adds along its rows.
    """

    grid: GeoBox
    rows: tuple[float, ...]
    cols: tuple[float, ...]

    def at(self, col: Floats, row: Floats) -> tuple[Floats, Floats]:
        """Columns and rows to be added at columns and rows of the grid (corners at whole numbers), any one shape."""
        high, wide = self.grid.shape
        shapes = terms(np.ravel(row) / high, np.ravel(col) / wide)
        along, down = (np.reshape(shapes @ np.array(each), np.shape(col)) for each in (self.cols, self.rows))
        return along, down

    def moved(self, target: GeoBox, col: Floats, row: Floats) -> tuple[Floats, Floats]:
        """Columns and rows of `target`, any grid of the same CRS, with the displacement there added."""
        there = ~self.grid.affine * target.affine
        along, down = self.at(there.a * col + there.b * row + there.c, there.d * col + there.e * row + there.f)
        back = ~there
        return col + back.a * along + back.b * down, row + back.d * along + back.e * down

    @property
    def farthest(self) -> float:
        """The longest displacement, in pixels of the grid, as found on a lattice of 33 x 33 places."""
        high, wide = self.grid.shape
        col, row = np.meshgrid(np.linspace(0, wide, 33), np.linspace(0, high, 33))
        return float(np.hypot(*self.at(col, row)).max())
