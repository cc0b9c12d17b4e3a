"""Do tile edges show? A number for it, gathered while the mosaic is written strip by strip."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

_REACH = 16  # pixels: how far from an edge its reference lines may lie


class SeamMeter:
    """Mean absolute step across tile edges over that across nearby lines of the same phase.

    Steps across the borders of source pixels are larger anywhere in a consistent output, so an edge is
    compared only with lines at the same position modulo the scale, within 16 pixels (or the nearest one).
    1.0, or less, says that nothing shows.
    """

    def __init__(self, rows: Iterable[int], cols: Iterable[int], scale: int) -> None:
        """Edges in high pixels: an edge at x lies between x - 1 and x."""
        reach = max(_REACH // scale, 1) * scale
        offsets = [d for d in range(-reach, reach + 1, scale) if d]
        self._lines = {0: _references(rows, offsets), 1: _references(cols, offsets)}
        self._sums = np.zeros(2)
        self._counts = np.zeros(2)
        self._last: NDArray[np.floating] | None = None

    def add(self, top: int, values: NDArray[np.floating]) -> None:
        """The strip whose first row is `top`; strips come in order, invalid pixels are NaN."""
        self._measure(values, self._lines[1])
        above = values[:1] if self._last is None else self._last
        rows = {line - top + 1: kind for line, kind in self._lines[0].items() if top <= line < top + len(values)}
        self._measure(np.concatenate([above, values]).T, {line: kind for line, kind in rows.items() if line + top > 1})
        self._last = values[-1:].copy()

    def _measure(self, values: NDArray[np.floating], lines: dict[int, int]) -> None:
        for line, kind in lines.items():
            if 0 < line < values.shape[1]:
                steps = np.abs(values[:, line] - values[:, line - 1])
                known = steps[np.isfinite(steps)]
                self._sums[kind] += known.sum()
                self._counts[kind] += known.size

    @property
    def ratio(self) -> float | None:
        """Step at the edges over step beside them; None where there is no edge or nothing to compare."""
        if not self._counts.all() or not self._sums[1]:
            return None
        edge, beside = self._sums / self._counts
        return float(edge / beside)


def _references(edges: Iterable[int], offsets: list[int]) -> dict[int, int]:
    """Lines to measure: 0 for an edge, 1 for a reference."""
    edges = list(edges)
    return {e + d: 1 for e in edges for d in offsets} | dict.fromkeys(edges, 0)
