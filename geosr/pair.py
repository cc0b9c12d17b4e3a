"""`Pair`: source and guide of one tile as aligned arrays, and the statistics that normalise them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geosr.methods.base import BoolArray, FloatArray, Patch
from geosr.moments import Moments
from geosr.neighbours import sums_3x3
from geosr.noise import LEAST, white_noise
from geosr.spikes import ANY, Range, common_range, find_spikes

_RINGS = 16  # the guide branch looks 6 pixels far, the widest filter 5 more: filled values beyond have no effect

_THINNED = 1 << 16  # values of a pair that tell how its bands go together
_LEAST_SIGNAL = 0.05  # of a noisy band's variance that is taken as signal: nothing is blown up out of noise alone


@dataclass(frozen=True)
class Pair:
    """One tile in physical units.

    Attributes:
        guide: (bands, s*h, s*w) float32, on the tile's high grid.
        guide_valid: (s*h, s*w) bool.
        source: (h, w) float64.
        source_valid: (h, w) bool.
        origin: row and column of the first output pixel in the scene.
    """

    guide: FloatArray
    guide_valid: BoolArray
    source: NDArray[np.float64]
    source_valid: BoolArray
    origin: tuple[int, int] = (0, 0)

    @property
    def scale(self) -> int:
        """High pixels to one source pixel along a side."""
        return int(self.guide.shape[1] // self.source.shape[0])


@dataclass(frozen=True)
class Stats:
    """What normalises pairs.

    Attributes:
        source_centre, source_spread: mean and standard deviation over the source's valid pixels.
        guide_centres, guide_spreads: the same of each guide band.
        guide_noise: standard deviation of each guide band's white noise over its spread; 0 where it is small.
        guide_covariance: of the normalised guide's bands; empty where there is no noise.
        source_range: beyond which a source pixel that stands alone is a spike; a method does not see those.
    """

    source_centre: float
    source_spread: float
    guide_centres: tuple[float, ...]
    guide_spreads: tuple[float, ...]
    guide_noise: tuple[float, ...]
    guide_covariance: tuple[tuple[float, ...], ...] = ()
    source_range: Range = ANY

    @classmethod
    def robust(cls, pairs: Sequence[Pair]) -> Stats:
        """As a run measures its scene: with the guide's noise, and without the source's spikes."""
        values = (known_values(pair.source, pair.source_valid) for pair in pairs)
        return cls.measure(pairs, noise=True, source_range=common_range(values))

    @classmethod
    def measure(cls, pairs: Iterable[Pair], *, noise: bool = False, source_range: Range = ANY) -> Stats:
        """From the valid pixels of `pairs`, in float64.

        With `noise` the guide's is looked for, to be removed. Source pixels that stand alone beyond `source_range` have
        no part in mean and spread. The paper takes noise and spikes as they are.

        A constant band becomes zeros, and not rounding errors blown up to unit variance: a spread is never below
        what its type can tell from its centre, 1e-12 of it for the source (float64), 1e-6 for the guide (float32).
        """
        source, guide = Moments(1), None
        noises, samples = [], []
        for pair in pairs:
            guide = guide or Moments(len(pair.guide))
            spikes = find_spikes(pair.source, pair.source_valid, source_range)
            source.add(pair.source[pair.source_valid & ~spikes][None])
            guide.add(pair.guide[:, pair.guide_valid])
            noises.append([white_noise(band, pair.guide_valid) if noise else 0.0 for band in pair.guide])
            if noise:
                samples.append(_thinned(pair.guide[:, pair.guide_valid]))
        if guide is None:
            raise ValueError("no pairs to measure")
        (centre,), (spread,) = source.finish(1e-12)
        centres, spreads = guide.finish(1e-6)
        shares = np.median(noises, axis=0) / spreads
        shares = np.where(shares < LEAST, 0.0, shares)
        covariance = _covariance(np.concatenate(samples, axis=1) / np.array(spreads)[:, None]) if shares.any() else ()
        return cls(centre, spread, centres, spreads, tuple(shares.tolist()), covariance, source_range)

    def spikes(self, pair: Pair) -> BoolArray:
        """Which of a pair's source pixels are spikes (h, w)."""
        return find_spikes(pair.source, pair.source_valid, self.source_range)

    def normal(self, source: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values of the source in its standard deviations from its mean."""
        return (source - self.source_centre) / self.source_spread

    def physical(self, normal: NDArray[np.floating]) -> NDArray[np.float64]:
        """Normalised values in the source's units."""
        return normal.astype(np.float64) * self.source_spread + self.source_centre

    def normal_guide(self, guide: FloatArray) -> NDArray[np.float64]:
        """(bands, rows, cols), each band in its standard deviations from its mean."""
        centres, spreads = (np.array(x)[:, None, None] for x in (self.guide_centres, self.guide_spreads))
        return np.asarray((guide - centres) / spreads)


def known_values(source: NDArray[np.float64], valid: BoolArray) -> NDArray[np.float64]:
    """At most 65536 of a source's valid values, from pixels spread evenly."""
    values: NDArray[np.float64] = _thinned(source[valid][None])[0]
    return values


def _thinned(values: NDArray[Any]) -> NDArray[Any]:
    """At most 65536 of the values of (bands, pixels), from pixels spread evenly."""
    return values[:, :: max(-(-values.size // _THINNED), 1)]


def _covariance(values: NDArray[np.float64]) -> tuple[tuple[float, ...], ...]:
    """Of (bands, pixels)."""
    centred = values - values.mean(axis=1, keepdims=True)
    products = np.einsum("in,jn->ij", centred, centred)  # not by BLAS: whose sums depend on the number of threads
    return tuple(map(tuple, (products / max(values.shape[1], 1)).tolist()))


def normalise(pair: Pair, stats: Stats) -> Patch:
    """The patch of `pair`: by centre and spread, a noisy guide smoothed, invalid pixels filled from valid neighbours.

    Spikes of the source are invalid, so that neither a fit nor a judgement depends on them: in one scene of 22 500
    source pixels two made the error of all others 0.51 m instead of 0.31 m.
    A noisy band's spread is that of what is not noise, so that its edges are as high as without it.
    """
    source = stats.normal(pair.source).astype(np.float32)
    guide = fill(stats.normal_guide(pair.guide).astype(np.float32), pair.guide_valid)
    if any(stats.guide_noise):
        from geosr.denoise import remove_noise

        noise = np.array(stats.guide_noise)
        guide = remove_noise(guide, noise, np.array(stats.guide_covariance), pair.origin)
        guide /= np.sqrt(np.maximum(1 - noise**2, _LEAST_SIGNAL)).astype(np.float32)[:, None, None]
    known = pair.source_valid & ~stats.spikes(pair)
    return Patch(
        guide=guide,
        guide_valid=pair.guide_valid,
        source=fill(source[None], known)[0],
        source_valid=known,
        noise=max(stats.guide_noise, default=0.0),
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
    sums = sums_3x3(np.pad(stack, ((0, 0), (1, 1), (1, 1))))
    return sums[:-1], sums[-1]
