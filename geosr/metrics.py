"""How far a raster lies from the truth: formulas on numpy arrays, summed up over blocks of any number.

All errors are prediction - truth, in the truth's units, over the pixels that are valid in both. What is stored under
the others has no influence. Nothing here knows of files; `geosr.evaluation` brings two files onto one grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from geosr.grid import Window
from geosr.neighbours import sums_3x3

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

HALO = 5
"""Pixels around a block's core that its metrics look at: half of SSIM's window."""

NEAR = 2
"""Pixels from a step within which a pixel counts as near it."""

ASPECT_SLOPE = 5.0
"""Degrees of slope from which a direction is worth comparing."""

_DROPPED = 11
"""Bits of a float32 that `_Histogram` leaves out: bins are 1/4096 of a value wide."""
_BINS = 1 << (32 - _DROPPED)


@dataclass(frozen=True)
class Block:
    """A part of two rasters on one grid.

    Attributes:
        prediction: (rows, columns).
        truth: (rows, columns), in the same units.
        valid: (rows, columns), where both are.
        core: the pixels to be counted; `HALO` more lie around it, fewer where the raster ends.
        guide: (bands, rows, columns) or None.
        guide_valid: (rows, columns) or None.
    """

    prediction: Array
    truth: Array
    valid: Mask
    core: Window
    guide: Array | None = None
    guide_valid: Mask | None = None

    @classmethod
    def whole(cls, prediction: Array, truth: Array) -> Block:
        """Two arrays as one block; what is not finite in either of them is invalid."""
        valid = np.isfinite(prediction) & np.isfinite(truth)
        prediction, truth = (np.where(valid, values, 0.0) for values in (prediction, truth))
        return cls(prediction, truth, valid, Window(0, 0, *truth.shape))


@dataclass(frozen=True)
class Scores:
    """What was measured; None where it is not defined or was not asked for.

    Attributes:
        pixels: compared ones.
        rmse: root of the mean squared error.
        mae: mean absolute error.
        bias: mean error.
        nmad: 1.4826 times the median absolute deviation of the errors from their median (Hoehle and Hoehle 2009):
            the standard deviation of normal errors, but blind to outliers.
        le90: 90 % of the absolute errors are no larger.
        psnr: 20 log10(range / RMSE) in dB, the range that of the compared truth; None for a constant truth or RMSE 0.
        ssim: mean of `ssim_map`, with the same range; None where no window of 11 x 11 pixels is valid.
        step: height from which a difference between two neighbours of the truth is an edge.
        edge_share: of the pixels that lie within 2 pixels of one, 0 to 1.
        edge_rmse: of those.
        flat_rmse: of the others.
        slope_rmse: of the slope in degrees, see `slope_and_aspect`.
        aspect_rmse: of the aspect in degrees, differences within half a turn, where both slopes are at least 5 degrees.
        guide_copied: the largest correlation, in size, between the detail (pixel minus the mean of its 3 x 3
            neighbourhood) of the errors and that of a guide band, on the pixels away from edges: 0 where nothing of
            the guide's texture was printed into the prediction, towards 1 or -1 where nothing else is wrong.
        consistency_rms: of the prediction's mean over each source pixel minus that pixel, in the source's units.
        consistency_max: the largest, in size.
    """

    pixels: int
    rmse: float | None = None
    mae: float | None = None
    bias: float | None = None
    nmad: float | None = None
    le90: float | None = None
    psnr: float | None = None
    ssim: float | None = None
    step: float | None = None
    edge_share: float | None = None
    edge_rmse: float | None = None
    flat_rmse: float | None = None
    slope_rmse: float | None = None
    aspect_rmse: float | None = None
    guide_copied: float | None = None
    consistency_rms: float | None = None
    consistency_max: float | None = None


def score(
    blocks: Callable[[], Iterable[Block]],
    *,
    step: float | None = None,
    spacing: tuple[float, float] | None = None,
) -> Scores:
    """All metrics of a prediction, from two passes over its blocks.

    Quantiles come from histograms with bins of 1/4096 of a value, 32 MB each for any number of pixels and the same in
    any order of the blocks. The first pass sorts errors by their distance from 0 (LE90, right to 0.025 %), the second
    by their distance from the median so found (NMAD, right to 0.05 % and, at worst, 2e-7 of the median error).

    Args:
        blocks: gives the blocks each time it is called, in any order; their cores cover each pixel once.
        step: height of an edge, in the truth's units; twice the root of the mean squared difference between
            neighbours of the truth when None: that finds steps among slopes and flats, and no edges on a plane.
        spacing: length of a column step and of a row step on the ground, in the units of the values; gives slope and
            aspect, for elevations.
    """
    overall = _Overall()
    for block in blocks():
        overall.add(block)
    if overall.count == 0:
        return Scores(0)
    step = overall.step if step is None else step
    details = _Details(overall, step, spacing)
    for block in blocks():
        details.add(block)
    return details.finish()


def score_arrays(prediction: Array, truth: Array) -> Scores:
    """`score` of two arrays (rows, columns), invalid where either is not finite."""
    block = Block.whole(prediction, truth)
    return score(lambda: [block])


# --- formulas ------------------------------------------------------------------------------------------------


def ssim_map(prediction: Array, truth: Array, valid: Mask, span: float) -> tuple[Array, Mask]:
    """Structural similarity (Wang et al. 2004, Eq. 13) and where it is known.

    Means and variances under a Gaussian of standard deviation 1.5 on 11 x 11 pixels, population covariances, K1 0.01,
    K2 0.03, for values whose range is `span`. A pixel is known where all 11 x 11 are valid and inside.

    Args:
        prediction: (rows, columns).
        truth: the same shape and units.
        valid: the same shape.
        span: largest minus smallest value, above 0.

    Returns:
        (rows - 10, columns - 10) float64 and bool.
    """
    # around their medians: of values far from 0, mean squares would leave no digit of a variance
    level_a, level_b = (float(np.median(values[valid])) if valid.any() else 0.0 for values in (prediction, truth))
    a, b = (np.where(valid, values - level, 0.0) for values, level in ((prediction, level_a), (truth, level_b)))
    mean_a, mean_b, aa, bb, ab = (_gaussian(image) for image in (a, b, a * a, b * b, a * b))
    known = _gaussian((~valid).astype(np.float64)) == 0
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    var_a, var_b, covariance = aa - mean_a**2, bb - mean_b**2, ab - mean_a * mean_b
    mean_a, mean_b = mean_a + level_a, mean_b + level_b
    similarity = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    similarity /= (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    return similarity, known


def _gaussian(image: Array) -> Array:
    """Weighted means over 11 x 11 pixels, without a rim of 5."""
    weights = np.exp(-0.5 * (np.arange(-HALO, HALO + 1) / 1.5) ** 2)
    weights /= weights.sum()
    rows, cols = (side - 2 * HALO for side in image.shape)
    image = sum((w * image[i : i + rows] for i, w in enumerate(weights)), np.zeros((rows, image.shape[1])))
    return sum((w * image[:, i : i + cols] for i, w in enumerate(weights)), np.zeros((rows, cols)))


def near_steps(truth: Array, valid: Mask, step: float) -> Mask:
    """Pixels within 2 rows and columns of a pair of valid 4-neighbours that differ by more than `step`."""
    tall = np.zeros(truth.shape, bool)
    for first, second in _NEIGHBOURS:
        high = (np.abs(truth[second] - truth[first]) > step) & valid[first] & valid[second]
        tall[first] |= high
        tall[second] |= high
    padded = np.pad(tall, NEAR)
    rows, cols = truth.shape
    down = np.logical_or.reduce([padded[i : i + rows] for i in range(2 * NEAR + 1)])
    return np.asarray(np.logical_or.reduce([down[:, i : i + cols] for i in range(2 * NEAR + 1)]))


_ALL = slice(None)
_NEIGHBOURS = (((_ALL, slice(None, -1)), (_ALL, slice(1, None))), ((slice(None, -1), _ALL), (slice(1, None), _ALL)))


def slope_and_aspect(heights: Array, spacing: tuple[float, float]) -> tuple[Array, Array]:
    """Slope in degrees from the horizontal, and direction of the steepest ascent in degrees (Horn 1981).

    The direction is the angle from the column axis towards the row axis. The axes are taken to be at right angles.

    Args:
        heights: (rows, columns).
        spacing: length of a column step and of a row step, in the heights' units.

    Returns:
        Two arrays (rows - 2, columns - 2).
    """
    across = heights[:, 2:] - heights[:, :-2]
    down = heights[2:] - heights[:-2]
    x = (across[:-2] + 2 * across[1:-1] + across[2:]) / (8 * spacing[0])
    y = (down[:, :-2] + 2 * down[:, 1:-1] + down[:, 2:]) / (8 * spacing[1])
    return np.degrees(np.arctan(np.hypot(x, y))), np.degrees(np.arctan2(y, x))


def quantile(values: Array, counts: NDArray[np.int64], share: float) -> float:
    """The quantile of values that occur `counts` times, linear between the two nearest as numpy has it."""
    order = np.argsort(values)
    values, ends = values[order], counts[order].cumsum()
    place = share * (int(ends[-1]) - 1)
    low, high = (
        float(values[np.searchsorted(ends, whole, side="right")]) for whole in (math.floor(place), math.ceil(place))
    )
    return low + (high - low) * (place - math.floor(place))


# --- sums over blocks ----------------------------------------------------------------------------------------


@dataclass
class _Mean:
    """A sum and how many it is of."""

    total: float = 0.0
    count: int = 0

    def add(self, values: NDArray[np.floating]) -> None:
        self.total += float(values.sum())
        self.count += values.size

    @property
    def value(self) -> float | None:
        return self.total / self.count if self.count else None

    @property
    def root(self) -> float | None:
        return None if self.value is None else math.sqrt(self.value)


def _inside(core: Window, rim: int, shape: tuple[int, int]) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """The core's part that lies `rim` pixels inside the array: in the array, and in one without that rim."""
    spans = []
    for first, length, size in zip((core.row, core.col), core.shape, shape, strict=True):
        spans.append((max(first, rim), max(min(first + length, size - rim), rim)))
    (top, bottom), (left, right) = spans
    return (
        (slice(top, bottom), slice(left, right)),
        (slice(top - rim, bottom - rim), slice(left - rim, right - rim)),
    )


class _Histogram:
    """How often values occur, by the leading bits of their difference from `centre` as a float32."""

    def __init__(self, centre: float) -> None:
        self._centre = centre
        self._counts = np.zeros(_BINS, np.int64)
        self._sums = np.zeros(_BINS)

    def add(self, values: Array) -> None:
        away = values - self._centre
        bins = away.astype(np.float32).view(np.uint32) >> _DROPPED
        np.add.at(self._counts, bins, 1)
        np.add.at(self._sums, bins, away)

    def table(self) -> tuple[Array, NDArray[np.int64]]:
        """The mean of each bin in use, and how many values are in it."""
        used = np.flatnonzero(self._counts)
        return self._sums[used] / self._counts[used] + self._centre, self._counts[used]


@dataclass
class _Overall:
    """The first pass: what the second has to know before it begins."""

    count: int = 0
    low: float = math.inf
    high: float = -math.inf
    errors: _Histogram = field(default_factory=lambda: _Histogram(0.0))
    differences: _Mean = field(default_factory=_Mean)

    def add(self, block: Block) -> None:
        core = block.core.slices
        truth = block.truth[core][block.valid[core]]
        if truth.size == 0:
            return
        self.errors.add(block.prediction[core][block.valid[core]] - truth)
        self.count += truth.size
        self.low, self.high = min(self.low, float(truth.min())), max(self.high, float(truth.max()))
        for first, second in _NEIGHBOURS:
            both = block.valid[first] & block.valid[second]
            apart = block.truth[second] - block.truth[first]
            self.differences.add(apart[core][both[core]] ** 2)  # pairs whose first pixel is in the core

    @property
    def span(self) -> float:
        return self.high - self.low

    @property
    def step(self) -> float:
        return 2 * (self.differences.root or 0.0)


class _Copied:
    """Correlation between the detail of the errors and of each guide band."""

    def __init__(self) -> None:
        self._sums: Array | None = None

    def add(self, block: Block, flat: Mask) -> None:
        if block.guide is None or block.guide_valid is None or min(block.truth.shape) < 3:
            return
        valid = block.valid & block.guide_valid
        here, there = _inside(block.core, 1, block.truth.shape)
        known = (sums_3x3(valid.astype(np.float64)) == 9)[there] & flat[here]
        errors = block.prediction - block.truth
        error, *bands = (
            (image[1:-1, 1:-1] - sums_3x3(image) / 9)[there][known]
            for image in (np.where(valid, band, 0.0) for band in (errors, *block.guide))
        )
        # details have a mean of zero but for the rims, so raw products will do
        sums = np.array([((error * band).sum(), (error**2).sum(), (band**2).sum()) for band in bands])
        self._sums = sums if self._sums is None else self._sums + sums

    def finish(self) -> float | None:
        if self._sums is None:
            return None
        both, error, band = self._sums.T
        scale = np.sqrt(error * band)
        if not scale.any():
            return None
        found = np.where(scale > 0, both / np.where(scale > 0, scale, 1.0), 0.0)
        return float(found[np.abs(found).argmax()])


class _Details:
    """The second pass."""

    def __init__(self, overall: _Overall, step: float, spacing: tuple[float, float] | None) -> None:
        self._span, self._step, self._spacing = overall.span, step, spacing
        self._errors, self._copied = overall.errors, _Copied()
        self._around_median = _Histogram(quantile(*overall.errors.table(), 0.5))
        self._error, self._absolute, self._edges, self._flats = _Mean(), _Mean(), _Mean(), _Mean()
        self._ssim, self._slopes, self._aspects = _Mean(), _Mean(), _Mean()

    def add(self, block: Block) -> None:
        core = block.core.slices
        valid = block.valid[core]
        errors = (block.prediction - block.truth)[core]
        near = near_steps(block.truth, block.valid, self._step)
        self._error.add(errors[valid])
        self._absolute.add(np.abs(errors[valid]))
        self._edges.add(errors[valid & near[core]] ** 2)
        self._flats.add(errors[valid & ~near[core]] ** 2)
        self._around_median.add(errors[valid])
        self._copied.add(block, ~near)
        self._add_similarity(block)
        self._add_slopes(block)

    def _add_similarity(self, block: Block) -> None:
        if self._span <= 0 or min(block.truth.shape) <= 2 * HALO:
            return
        similarity, known = ssim_map(block.prediction, block.truth, block.valid, self._span)
        part = _inside(block.core, HALO, block.truth.shape)[1]
        self._ssim.add(similarity[part][known[part]])

    def _add_slopes(self, block: Block) -> None:
        if self._spacing is None or min(block.truth.shape) < 3:
            return
        part = _inside(block.core, 1, block.truth.shape)[1]
        known = (sums_3x3(block.valid.astype(np.float64)) == 9)[part]
        (slope, aspect), (true_slope, true_aspect) = (
            (a[part][known] for a in slope_and_aspect(heights, self._spacing))
            for heights in (block.prediction, block.truth)
        )
        self._slopes.add((slope - true_slope) ** 2)
        steep = (slope >= ASPECT_SLOPE) & (true_slope >= ASPECT_SLOPE)
        turned = (aspect - true_aspect + 180) % 360 - 180
        self._aspects.add(turned[steep] ** 2)

    def finish(self) -> Scores:
        values, counts = self._errors.table()
        around, times = self._around_median.table()
        deviations = np.abs(around - quantile(around, times, 0.5))
        total = self._edges.count + self._flats.count
        rmse = math.sqrt((self._edges.total + self._flats.total) / total)
        return Scores(
            pixels=total,
            rmse=rmse,
            mae=self._absolute.value,
            bias=self._error.value,
            nmad=1.4826 * quantile(deviations, times, 0.5),
            le90=quantile(np.abs(values), counts, 0.9),
            psnr=20 * math.log10(self._span / rmse) if self._span > 0 and rmse > 0 else None,
            ssim=self._ssim.value,
            step=self._step,
            edge_share=self._edges.count / total,
            edge_rmse=self._edges.root,
            flat_rmse=self._flats.root,
            slope_rmse=self._slopes.root,
            aspect_rmse=self._aspects.root,
            guide_copied=self._copied.finish(),
        )
