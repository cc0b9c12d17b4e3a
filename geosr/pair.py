"""`Pair`: source and guide of one tile as aligned arrays, and the statistics that normalise them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geosr.methods.base import BoolArray, FloatArray, Patch

_RINGS = 16  # the guide branch looks 6 pixels far, the widest filter 5 more: filled values beyond have no effect


@dataclass(frozen=True)
class Pair:
    """One tile in physical units.

    Attributes:
        guide: (bands, s*h, s*w) float32, on the tile's high grid.
        guide_valid: (s*h, s*w) bool.
        source: (h, w) float64.
        source_valid: (h, w) bool.
    """

    guide: FloatArray
    guide_valid: BoolArray
    source: NDArray[np.float64]
    source_valid: BoolArray

    @property
    def scale(self) -> int:
        """High pixels to one source pixel along a side."""
        return int(self.guide.shape[1] // self.source.shape[0])


@dataclass(frozen=True)
class Stats:
    """Centre and spread (mean and standard deviation over valid pixels) of the source and each guide band."""

    source_centre: float
    source_spread: float
    guide_centres: tuple[float, ...]
    guide_spreads: tuple[float, ...]

    @classmethod
    def measure(cls, pairs: Iterable[Pair]) -> Stats:
        """From the valid pixels of `pairs`, in float64.

        A spread is never below 1e-6 of its centre's size (or 1e-12), so that a constant band becomes zeros
        and not noise blown up to unit variance.
        """
        source, guide = _Moments(1), None
        for pair in pairs:
            guide = guide or _Moments(len(pair.guide))
            source.add(pair.source[pair.source_valid][None])
            guide.add(pair.guide[:, pair.guide_valid])
        if guide is None:
            raise ValueError("no pairs to measure")
        (centre,), (spread,) = source.finish()
        return cls(centre, spread, *guide.finish())


class _Moments:
    """Mean and variance of several bands over chunks (Chan, Golub and LeVeque 1983), safe far from zero."""

    def __init__(self, bands: int) -> None:
        self.count = 0
        self.mean = np.zeros(bands)
        self.squares = np.zeros(bands)

    def add(self, values: NDArray[np.floating]) -> None:
        count = values.shape[1]
        if count == 0:
            return
        mean = values.mean(axis=1, dtype=np.float64)
        squares = ((values - mean[:, None]) ** 2).sum(axis=1, dtype=np.float64)
        total, shift = self.count + count, mean - self.mean
        self.squares += squares + shift**2 * (self.count * count / total)
        self.mean += shift * (count / total)
        self.count = total

    def finish(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        spread = np.sqrt(self.squares / max(self.count, 1))
        floor = np.maximum(1e-6 * np.abs(self.mean), 1e-12)
        return tuple(self.mean.tolist()), tuple(np.maximum(spread, floor).tolist())


def normalise(pair: Pair, stats: Stats) -> Patch:
    """The patch of `pair`: by centre and spread, invalid pixels filled from their valid neighbours."""
    centres, spreads = (np.array(x)[:, None, None] for x in (stats.guide_centres, stats.guide_spreads))
    source = ((pair.source - stats.source_centre) / stats.source_spread).astype(np.float32)
    guide = ((pair.guide - centres) / spreads).astype(np.float32)
    return Patch(
        guide=fill(guide, pair.guide_valid),
        guide_valid=pair.guide_valid,
        source=fill(source[None], pair.source_valid)[0],
        source_valid=pair.source_valid,
    )


def fill(bands: FloatArray, valid: BoolArray) -> FloatArray:
    """`bands` (bands, rows, cols) with each invalid pixel set to the mean of its valid 3 x 3 neighbours.

    Repeated ring by ring; what is more than 16 pixels from any valid pixel becomes 0. What is stored under
    invalid pixels has no influence.
    """
    filled = np.where(valid, bands, np.float32(0))
    known = valid
    for _ in range(_RINGS):
        if known.all() or not known.any():
            break
        total, count = _neighbour_sums(filled, known)
        new = ~known & (count > 0)
        filled[:, new] = total[:, new] / count[new]
        known = known | new
    return filled


def _neighbour_sums(bands: FloatArray, known: BoolArray) -> tuple[FloatArray, FloatArray]:
    """Sums over the 3 x 3 neighbourhood of the known values, and how many they are."""
    stack = np.concatenate([bands * known, known[None].astype(np.float32)])
    padded = np.pad(stack, ((0, 0), (1, 1), (1, 1)))
    rows = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    sums = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    return sums[:-1], sums[-1]
