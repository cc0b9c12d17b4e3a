"""The one wrapper around every method: physical arrays in and out, gaps of the guide, source consistency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from geosr.consistency import Consistency, project, spread
from geosr.device import memory_told
from geosr.errors import OutOfMemoryError, TileError
from geosr.methods.base import BoolArray, FloatArray, Method, Patch, Prediction, State
from geosr.pair import Pair, Stats, normalise
from geosr.uncertainty import standard_deviation


@dataclass(frozen=True)
class Solution:
    """A tile's answer.

    Attributes:
        values: (s*h, s*w) float64 in the source's units, minus `centre`.
        centre: what to add; kept apart so that the values survive float32 however far they lie from zero
            (float32 loses up to 0.49 at 4.5 million).
        deviation: (s*h, s*w) float64, standard deviation of the values' error, estimated (`geosr.uncertainty`).
        influence: (s*h, s*w) float64, the values less those of the interpolated source, projected in the same way;
            0 where there is no guide. None where it was not asked for.
    """

    values: NDArray[np.float64]
    centre: float
    deviation: NDArray[np.float64]
    influence: NDArray[np.float64] | None = None


def solve(
    pair: Pair,
    method: Method,
    *,
    stats: Stats,
    consistency: Consistency,
    seed: int,
    device: str,
    state: State | None = None,
    influence: bool = False,
) -> Solution:
    """Super-resolve one pair.

    Where a method that uses the guide has none the interpolated source takes over, with a transition one source pixel
    wide.
    A source that is constant over the tile needs no method: the constant is the answer.

    Args:
        pair: the tile.
        method: fitted on this pair alone, unless there is a state.
        stats: what normalises the tile for this method, see `stats_for`.
        consistency: how near the source the pooled values must come.
        seed: of this tile.
        device: `cpu` or `cuda`, as torch names it.
        state: of the method fitted elsewhere.
        influence: whether to tell what the guide changed.

    Raises:
        TileError: the method's answer has the wrong shape or is not finite.
    """
    patch = prepare(pair, stats, consistency)
    share, prediction = predict(patch, method, seed, device, state)

    def physical(values: FloatArray) -> NDArray[np.float64]:
        everywhere, source = np.ones(values.shape, dtype=bool), pair.source - stats.source_centre
        scaled = values.astype(np.float64) * stats.source_spread
        return project(scaled, everywhere, source, pair.source_valid, consistency)

    values, valid = physical(prediction.values), spread(pair.source_valid, pair.scale)
    size = 1 + share * (prediction.error_factor - 1)
    deviation = standard_deviation(values, valid, stats.source_spread, share * prediction.belief, pair.scale, size)
    if not influence:
        return Solution(values, stats.source_centre, deviation)
    unguided = physical(interpolate(patch.source, patch.scale)) if method.uses_guide else values
    return Solution(values, stats.source_centre, deviation, values - unguided)


def stats_for(method: Method, pair: Pair, scene: Stats) -> Stats:
    """What normalises a pair for a method: the scene's statistics, or the pair's own with a noisy guide as it is.

    The latter is what the papers do.
    """
    return Stats.measure([pair]) if method.statistics == "tile" else scene


def prepare(pair: Pair, stats: Stats, consistency: Consistency) -> Patch:
    """What a method sees of a pair.

    Raises:
        OutOfMemoryError: the memory does not suffice.
    """
    with memory_told("cpu"):
        return replace(normalise(pair, stats), tolerance=consistency.tolerance / stats.source_spread)


@dataclass(frozen=True)
class Fit:
    """What became of a tile's own fit.

    Attributes:
        found: the method's state, or why there is none.
        batch: how many tiles it was fitted together with, itself included, where memory forced fewer than were meant
            to be; else None.
    """

    found: State | TileError
    batch: int | None = None


def fit_together(patches: Sequence[Patch], method: Method, seeds: Sequence[int], device: str) -> list[Fit]:
    """To each patch a fit of its own, all at once; where memory runs out half as many, a quarter, down to one.

    Args:
        patches: the method is asked for each of them (`asks`); of one shape.
        method: that fits together.
        seeds: of each.
        device: as torch names it.
    """
    fits: list[Fit] = []
    size = len(patches)
    while len(fits) < len(patches):
        part = slice(len(fits), len(fits) + size)
        found = _fit_each(patches[part], method, seeds[part], device)
        if size > 1 and any(isinstance(each, OutOfMemoryError) for each in found):
            size = -(-size // 2)
            continue
        fits += [Fit(each, len(found) if len(found) < len(patches) else None) for each in found]
    return fits


def _fit_each(
    patches: Sequence[Patch], method: Method, seeds: Sequence[int], device: str
) -> Sequence[State | TileError]:
    """`Method.fit_each`, what it raises in every patch's place."""
    try:
        with memory_told(device):
            return method.fit_each(patches, seeds, device)
    except (TileError, MemoryError) as error:  # a new one: this one's traceback would keep the batch's tensors
        kind = type(error) if isinstance(error, TileError) else OutOfMemoryError
        return [kind(str(error) or "out of memory")] * len(patches)


def asks(patch: Patch, method: Method) -> bool:
    """Whether the method is used for the answer, and is to be fitted."""
    return tells(patch) if method.uses_guide else _varies(patch)


def tells(patch: Patch) -> bool:
    """Whether there is anything to be made out: a source that is not constant, and a guide over it."""
    inside = spread(patch.source_valid, patch.scale)
    return _varies(patch) and bool(patch.guide_valid[inside].any())


def _varies(patch: Patch) -> bool:
    known = patch.source[patch.source_valid]
    return bool(known.max() > known.min())


def predict(
    patch: Patch, method: Method, seed: int, device: str, state: State | None = None
) -> tuple[FloatArray | float, Prediction]:
    """The method's answer, and its share: where it uses the guide and there is none, the source is interpolated.

    Raises:
        TileError: the answer has the wrong shape or is not finite, or the fit failed.
    """
    if not asks(patch, method):
        return 0.0, Prediction(interpolate(patch.source, patch.scale))
    with memory_told(device):
        state = method.fit([patch], seed, device) if state is None else state
        prediction = method.predict(patch, state, device)
    values = prediction.values
    if values.shape != patch.guide_valid.shape or not np.isfinite(values).all():
        raise TileError(f"{method.name} returned {values.shape} values, some of them not finite")
    if not method.uses_guide or patch.guide_valid.all():
        return 1.0, prediction
    share = _guide_share(patch.guide_valid, patch.scale)
    return share, replace(prediction, values=share * values + (1 - share) * interpolate(patch.source, patch.scale))


def _guide_share(valid: BoolArray, reach: int) -> FloatArray:
    """0 at invalid pixels, rising to 1 at `reach` pixels from a straight edge of the valid part."""
    mask = torch.from_numpy(valid.astype(np.float32))[None, None]
    near = F.avg_pool2d(mask, 2 * reach + 1, stride=1, padding=reach, count_include_pad=False)
    share: FloatArray = (2 * near - 1).clamp(0, 1).mul(mask)[0, 0].numpy()
    return share


def interpolate(source: FloatArray, scale: int) -> FloatArray:
    """Cubic convolution (a = -0.75, edges repeated) of a filled source (h, w) to (scale*h, scale*w)."""
    low = torch.from_numpy(np.ascontiguousarray(source))[None, None]
    high: FloatArray = F.interpolate(low, scale_factor=scale, mode="bicubic", align_corners=False)[0, 0].numpy()
    return high
