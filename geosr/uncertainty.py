"""How far an answer may be off, pixel by pixel, judged by the answer itself.

Where a result varies from pixel to pixel it may be wrong; where it is smooth it rarely is. How much wrong was measured
on the pairs of `shared/data` (benchmarks/uncertainty.py, which also says how often the truth lies where it should).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

KNOTS = np.array([0.003, 0.01, 0.03, 0.1, 0.3, 1.0])
"""Standard deviations of the answer in 3 x 3 pixels, in standard deviations of the source."""

SCALES = np.array([2.0, 4.0, 8.0])

TABLE = np.log(
    [
        [[0.0062, 0.0202, 0.0464, 0.1197, 0.2151, 0.3110], [0.0009, 0.0113, 0.0149, 0.0483, 0.1191, 0.1857]],
        [[0.0304, 0.0635, 0.1326, 0.2774, 0.4373, 0.5947], [0.0035, 0.0176, 0.0303, 0.0946, 0.2081, 0.3287]],
        [[0.1020, 0.1844, 0.3455, 0.5738, 0.7306, 1.0098], [0.0108, 0.0269, 0.0559, 0.1630, 0.2962, 0.5035]],
    ]
)
"""(scales, 2, knots): logarithm of the error's standard deviation, where the guide's edges are not believed (texture:
errors are about normal) and where they are (most edges are right, and a few are off by all of their height)."""


def standard_deviation(
    values: Array, valid: Mask, spread: float, belief: NDArray[np.floating] | float, scale: int
) -> Array:
    """Of the error of an answer, in the source's units.

    Calibrated so that 60 to 76 % of the truth lies within one of it and 90 to 98 % within two, over a scene, and that
    its root mean square is the root mean square error. Beyond x8 the table is continued in the logarithm of the scale.

    Args:
        values: (H, W) the answer, in the source's units; a constant may be missing.
        valid: (H, W) pixels over a valid source. The others have no say, and get what their neighbours show.
        spread: standard deviation of the scene's source.
        belief: how far the guide's edges were believed, from 0 to 1, for all or for each pixel.
        scale: output pixels to one source pixel along a side.

    Returns:
        (H, W) float64, positive; 0 where the source does not vary at all.
    """
    smooth, sharp = _rows(scale)
    where = np.log(np.maximum(local_spread(values, valid) / max(spread, 1e-30), KNOTS[0] / 10))
    logs = [np.interp(where, np.log(KNOTS), row) for row in (smooth, sharp)]
    return np.asarray(spread * np.exp(logs[0] + belief * (logs[1] - logs[0])))


def _rows(scale: int) -> Array:
    """The table's two rows at a scale: by straight lines in the logarithm of the scale."""
    at = np.log2(scale) - np.log2(SCALES[0])
    below = int(np.clip(at, 0, len(SCALES) - 2))
    return np.asarray(TABLE[below] + (at - below) * (TABLE[below + 1] - TABLE[below]))


def local_spread(values: Array, valid: Mask) -> Array:
    """Standard deviation over the valid ones of each pixel's 3 x 3; 0 where there is none."""
    middle = values[valid].mean() if valid.any() else 0.0  # small numbers, so that squares keep their digits
    known = np.where(valid, values - middle, 0.0)
    count = np.maximum(_box(valid.astype(np.float64)), 1)
    mean = _box(known) / count
    return np.sqrt(np.maximum(_box(known * known) / count - mean * mean, 0.0))


def _box(values: Array) -> Array:
    """Sums over 3 x 3 pixels; nothing beyond the edge."""
    padded = np.pad(values, 1)
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    return np.asarray(rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:])
