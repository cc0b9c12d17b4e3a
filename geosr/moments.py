"""Count, range, mean and variance of values that come in chunks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_TINY = 1e-150  # a spread that can still be squared

Floats = NDArray[np.float64]


class Moments:
    """Of several bands over chunks (Chan, Golub and LeVeque 1983), safe far from zero.

    Attributes:
        count: values of each band so far.
        low, high: (bands,) the smallest and the largest; infinities of no values.
        mean: (bands,)
        squares: (bands,) sum of the squared distances from the mean.
    """

    def __init__(self, bands: int) -> None:
        self.count = 0
        self.low, self.high = np.full(bands, np.inf), np.full(bands, -np.inf)
        self.mean = np.zeros(bands)
        self.squares = np.zeros(bands)

    def add(self, values: NDArray[np.generic]) -> None:
        """A chunk: (bands, any number)."""
        count = values.shape[1]
        if count == 0:
            return
        self.low = np.minimum(self.low, values.min(axis=1))
        self.high = np.maximum(self.high, values.max(axis=1))
        mean = values.mean(axis=1, dtype=np.float64)
        squares = ((values - mean[:, None]) ** 2).sum(axis=1, dtype=np.float64)
        total, shift = self.count + count, mean - self.mean
        self.squares += squares + shift**2 * (self.count * count / total)
        self.mean += shift * (count / total)
        self.count = total

    @property
    def deviation(self) -> Floats:
        """(bands,) standard deviations; 0 of no values."""
        return np.sqrt(self.squares / max(self.count, 1))

    def finish(self, resolution: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Means and standard deviations, these at least `resolution` of the mean's size; 0 and 1 of no values."""
        if not self.count:
            return (0.0,) * len(self.mean), (1.0,) * len(self.mean)
        floor = np.maximum(resolution * np.abs(self.mean), _TINY)
        return tuple(self.mean.tolist()), tuple(np.maximum(self.deviation, floor).tolist())
