"""Source pixels that stand alone far from all others: a bird, a cloud, a wrong match, but no ground."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

_RARE = 1e-3  # the share of values that may lie beyond each end of what is common, and
_FEW = 4  # so many in any case, less one
_FAR = 3.0  # times the width of what is common, beyond its ends
_REACH = 2  # pixels to each side that are looked at: 5 x 5
_ALONE = 2  # far pixels among them at most, itself included; more are an object
_MEASURED = 1e30  # larger ones are undeclared nodata, and refused
_FEWEST = 8  # valid pixels among them at least: beside gaps nothing is known of a pixel's neighbours

Mask = NDArray[np.bool_]
Range = tuple[float, float]
ANY: Range = (-np.inf, np.inf)


def common_range(values: Iterable[NDArray[np.floating]]) -> Range:
    """What lies beyond it is far from a scene's values: their quantiles of 0.001 and 0.999, three times as far again.

    Of fewer than 4000 values those are left out that are among the three smallest or largest.

    Of houses, trees and hills a scene has more than a thousandth of its pixels, or they are not that high above it.
    Everything is common where most of the scene has one value, such as the sea.
    """
    every = np.concatenate([np.empty(0), *values])
    rare = max(_RARE, _FEW / max(every.size, 1))
    low, high = np.quantile(every, [rare, 1 - rare]).tolist() if rare < 0.25 else (0.0, 0.0)
    return (low - _FAR * (high - low), high + _FAR * (high - low)) if high > low else ANY


def find_spikes(values: NDArray[np.floating], valid: Mask, common: Range) -> Mask:
    """Where a valid pixel of (rows, cols) lies beyond `common` with at most one other such pixel in its 5 x 5.

    Fewer than eight valid pixels there tell nothing. Values from 1e30 on are no spikes but nodata that nobody declared.
    """
    far: Mask = valid & ((values < common[0]) | (values > common[1]))
    if not far.any():
        return far
    alone: Mask = far & (_count(far) <= _ALONE) & (_count(valid) >= _FEWEST) & (np.abs(values) < _MEASURED)
    return alone


def _count(mask: Mask) -> NDArray[np.int64]:
    """Of the pixels around each, itself included."""
    side = 2 * _REACH + 1
    padded = np.pad(mask.astype(np.int64), _REACH)
    count: NDArray[np.int64] = np.lib.stride_tricks.sliding_window_view(padded, (side, side)).sum(axis=(2, 3))
    return count
