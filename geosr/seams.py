"""Do tile edges show? A number for it, gathered while the mosaic is written strip by strip."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

_REACH = 16  # pixels: how far from an edge its reference lines may lie
_BINS = 1 << 15


class SeamMeter:
    """How often the step across a tile edge is larger than one beside it, against how often by chance: 0 to 2.

    Of all pairs of a step across an edge and one across a nearby line, the share in which the edge's is the larger,
    times two; of equal ones half counts. 1 says that nothing shows, 2 that every step at an edge is larger than all
    beside it. What counts is which is larger and not by how much: a wall that happens to lie on an edge has large steps
    but few, and made a mean of steps 2.9 where there is no seam.

    On 15 rasters as they are, at edges of 225 cuts into tiles, it was 0.87 to 1.12, and 1.23 where a scene has two
    edges; with four or more, nine in ten between 0.94 and 1.06. With every other tile raised by 5 % of the spread, or
    by 0.2 m, towns had 1.67 and more; rough canopies and noisy temperatures 0.92 to 1.28 (docs/accuracy.md).

    Steps across the borders of source pixels are larger anywhere in a consistent output, so an edge is
    compared only with lines at the same position modulo the scale, within 16 pixels (or the nearest one).
    """

    def __init__(self, rows: Iterable[int], cols: Iterable[int], scale: int) -> None:
        """Edges in high pixels: an edge at x lies between x - 1 and x."""
        reach = max(_REACH // scale, 1) * scale
        offsets = [d for d in range(-reach, reach + 1, scale) if d]
        self._lines = {0: _references(rows, offsets), 1: _references(cols, offsets)}
        self._counts = np.zeros((2, _BINS), np.int64)
        self._last: NDArray[np.floating] | None = None

    def add(self, top: int, values: NDArray[np.floating]) -> None:
        """The strip whose first row is `top`; strips come in order, invalid pixels are NaN."""
        self._measure(values, self._lines[1])
        above = values[:1] if self._last is None else self._last
        rows = {line - top + 1: kind for line, kind in self._lines[0].items() if top <= line < top + len(values)}
        self._measure(np.concatenate([above, values]).T, {line: kind for line, kind in rows.items() if line + top > 1})
        self._last = values[-1:].copy()

    def _measure(self, values: NDArray[np.floating], lines: dict[int, int]) -> None:
        for kind, counts in enumerate(self._counts):
            at = np.array([line for line, of in lines.items() if of == kind and 0 < line < values.shape[1]], int)
            steps = np.abs(values[:, at] - values[:, at - 1])
            counts += np.bincount(_bins(steps[np.isfinite(steps)]), minlength=_BINS)

    @property
    def ratio(self) -> float | None:
        """The number; None where there is no edge or nothing to compare."""
        edge, beside = self._counts
        if not edge.any() or not beside.any():
            return None
        smaller = (np.cumsum(beside) - beside / 2) / beside.sum()
        return float(2 * (edge @ smaller) / edge.sum())  # each a share: of a national mosaic int64 holds no product


def _bins(steps: NDArray[np.floating]) -> NDArray[np.integer]:
    """Numbers in the order of the steps, equal for those that agree in 8 binary digits: the upper half of a float32."""
    with np.errstate(over="ignore"):
        return steps.astype(np.float32).view(np.uint32) >> 16


def _references(edges: Iterable[int], offsets: list[int]) -> dict[int, int]:
    """Lines to measure: 0 for an edge, 1 for a reference."""
    edges = list(edges)
    return {e + d: 1 for e in edges for d in offsets} | dict.fromkeys(edges, 0)
