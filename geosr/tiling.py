"""Cutting a scene into tiles of one size, and the taper weights that put them together again.

Everything here counts source pixels ("blocks"): a tile never cuts one, and a taper is constant inside
one. Then a blend of tiles that each pool to the source pools to the source as well (measured: to 4e-15;
with a taper that varies inside a block, to 0.03 of the data's range).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from geosr.errors import UsageError
from geosr.grid import Window

SIDE = 320
"""High pixels to a tile's side at most, halo included, where nobody asks for others."""


@dataclass(frozen=True)
class Span:
    """One axis of a tile: it is fitted on `start:stop` and answers for `core_start:core_stop`.

    `fade_in` and `fade_out` are the blocks shared with the neighbour's taper on either side of the core's
    edges; both are zero at the scene's border.
    """

    start: int
    stop: int
    core_start: int
    core_stop: int
    fade_in: int
    fade_out: int

    def taper(self) -> NDArray[np.float64]:
        """Weight of every block; neighbouring spans' weights sum to one."""
        blocks = np.arange(self.start, self.stop)
        rising = _ramp(blocks, self.core_start, self.fade_in) if self.fade_in else np.ones(len(blocks))
        falling = _ramp(blocks, self.core_stop, self.fade_out) if self.fade_out else np.zeros(len(blocks))
        return rising * (1.0 - falling)


def _ramp(blocks: NDArray[np.int_], edge: int, half: int) -> NDArray[np.float64]:
    """From 0 to 1 over the `2 * half` blocks about `edge`."""
    return np.clip((blocks - edge + half + 0.5) / (2 * half), 0.0, 1.0)


@dataclass(frozen=True)
class Tile:
    """A tile of the scene, in source pixels."""

    index: int
    rows: Span
    cols: Span

    @property
    def window(self) -> Window:
        """What the tile is fitted on, halo included."""
        rows, cols = self.rows, self.cols
        return Window(rows.start, cols.start, rows.stop - rows.start, cols.stop - cols.start)

    @property
    def core(self) -> Window:
        """What the tile answers for: the cores of all tiles cover the scene, none twice."""
        rows, cols = self.rows, self.cols
        return Window(
            rows.core_start, cols.core_start, rows.core_stop - rows.core_start, cols.core_stop - cols.core_start
        )

    def name(self, scale: int) -> str:
        """For people: the index, and the first output pixel."""
        window = self.window.times(scale)
        return f"tile {self.index} (row {window.row}, column {window.col})"

    def weights(self) -> NDArray[np.float64]:
        """(height, width) of the window: the tile's share of every source pixel."""
        return np.outer(self.rows.taper(), self.cols.taper())


def cut(shape: Sequence[int], scale: int, *, size: int, halo: int) -> list[Tile]:
    """Tiles over a low grid of `shape`, row by row.

    Args:
        shape: rows and columns of the low grid.
        scale: high pixels to one source pixel along a side.
        size: high pixels to a tile's side at most, halo included.
        halo: high pixels at a tile's inner edge that must have no weight.

    Raises:
        UsageError: `size` is too small for the halo.
    """
    edge, margin, smallest = size // scale, -(-halo // scale), smallest_tile(scale, halo)
    if edge < smallest // scale and edge < max(shape):
        raise UsageError(
            f"a tile of {size} pixels is too small for scale {scale} with a halo of {halo}; "
            f"use at least --tile {smallest}"
        )
    rows, cols = (_spans(length, min(edge, length), margin) for length in shape)
    return [Tile(i * len(cols) + j, r, c) for i, r in enumerate(rows) for j, c in enumerate(cols)]


def middle(shape: Sequence[int], scale: int, *, size: int) -> Tile:
    """The tile in the middle of a low grid of `shape`, at most `size` high pixels to a side; it stands alone."""
    edges = [min(size // scale, length) for length in shape]
    starts = [(length - edge) // 2 for length, edge in zip(shape, edges, strict=True)]
    rows, cols = (Span(s, s + edge, s, s + edge, 0, 0) for s, edge in zip(starts, edges, strict=True))
    return Tile(0, rows, cols)


def smallest_tile(scale: int, halo: int) -> int:
    """High pixels to the side of the smallest tile that a larger scene can be cut into."""
    margin = -(-halo // scale)
    return scale * (2 * margin + 6)  # keeps the fades of neighbouring edges apart, so that the weights sum to one


def _spans(length: int, edge: int, margin: int) -> list[Span]:
    """Spans of `edge` blocks spread evenly over `length`, overlapping by two margins and a fade."""
    fade = max(1, min(margin, (edge - 2 * margin) // 8))
    overlap = 2 * (margin + fade)
    count = 1 if length <= edge else -(-(length - overlap) // (edge - overlap))
    starts = [round(i * (length - edge) / max(count - 1, 1)) for i in range(count)]
    edges = [0, *((a + edge + b) // 2 for a, b in pairwise(starts)), length]
    return [
        Span(s, s + edge, a, b, fade if a > 0 else 0, fade if b < length else 0)
        for s, a, b in zip(starts, edges[:-1], edges[1:], strict=True)
    ]


def core_edges(tiles: list[Tile]) -> tuple[list[int], list[int]]:
    """Rows and columns (source pixels) at which one tile's core ends and the next begins."""
    rows = sorted({t.rows.core_start for t in tiles} - {0})
    cols = sorted({t.cols.core_start for t in tiles} - {0})
    return rows, cols
