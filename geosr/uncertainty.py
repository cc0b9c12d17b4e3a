"""How far an answer may be off, pixel by pixel, judged by the answer itself.

Where a result varies from pixel to pixel it may be wrong; where it is smooth it rarely is. How much wrong was measured
on the pairs of `shared/data` (benchmarks/uncertainty.py, which also says how often the truth lies where it should).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from geosr.neighbours import sums_3x3

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

KNOTS = np.array([0.003, 0.01, 0.03, 0.1, 0.3, 1.0])
"""Standard deviations of the answer in 3 x 3 pixels, in standard deviations of the source."""

SCALES = np.array([2.0, 4.0, 8.0, 16.0, 32.0])

TABLE = np.log(
    [
        [[0.0036, 0.0194, 0.0442, 0.1147, 0.2045, 0.2891], [0.0008, 0.0108, 0.0144, 0.0465, 0.1148, 0.1789]],
        [[0.0278, 0.0596, 0.1236, 0.2665, 0.4300, 0.6056], [0.0047, 0.0207, 0.0361, 0.1027, 0.2118, 0.3245]],
        [[0.0980, 0.1771, 0.3320, 0.5557, 0.7125, 0.9736], [0.0104, 0.0259, 0.0538, 0.1571, 0.2855, 0.4852]],
        [[0.2958, 0.3886, 0.553, 0.7967, 1.2084, 1.4439], [0.0242, 0.0631, 0.1315, 0.2442, 0.4417, 0.7177]],
        [[0.3056, 0.5085, 0.8062, 1.13, 1.5039, 1.797], [0.025, 0.0826, 0.1917, 0.3464, 0.5497, 0.8932]],
    ]
)
"""(scales, 2, knots): logarithm of the error's standard deviation, where the guide's edges are not believed (texture:
errors are about normal) and where they are (most edges are right, and a few are off by all of their height).

At x32 no pair is believed, and too few pixels are near the last knot: that knot is larger than the one before it as at
x16, and the second row larger than that of x16 as the first is."""


def standard_deviation(
    values: Array,
    valid: Mask,
    spread: float,
    belief: NDArray[np.floating] | float,
    scale: int,
    size: NDArray[np.floating] | float = 1.0,
) -> Array:
    """Of the error of an answer, in the source's units.

    Calibrated on eighteen pairs: on their mean 69 to 76 % of the truth lies within one of it and 84 to 91 % within two,
    and its root mean square is about the root mean square error. Single pairs scatter widely (docs/accuracy.md).

    Args:
        values: (H, W) the answer, in the source's units; a constant may be missing.
        valid: (H, W) pixels over a valid source. The others are ignored, and get what their neighbours show.
        spread: standard deviation of the scene's source.
        belief: how far the guide's edges were believed, from 0 to 1, for all or for each pixel.
        scale: output pixels to one source pixel along a side.
        size: of the method's errors beside the diffusion's with the same belief, for all or for each pixel.

    Returns:
        (H, W) float64, positive; 0 where the source does not vary at all.
    """
    smooth, sharp = _rows(scale)
    where = np.log(np.maximum(local_spread(values, valid) / max(spread, 1e-30), KNOTS[0] / 10))
    logs = [np.interp(where, np.log(KNOTS), row) for row in (smooth, sharp)]
    return np.asarray(size * spread * np.exp(logs[0] + belief * (logs[1] - logs[0])))


def _rows(scale: int) -> Array:
    """The table's two rows at a scale: by straight lines in the logarithm of the scale."""
    at = np.log2(scale) - np.log2(SCALES[0])
    below = int(np.clip(at, 0, len(SCALES) - 2))
    return np.asarray(TABLE[below] + (at - below) * (TABLE[below + 1] - TABLE[below]))


def local_spread(values: Array, valid: Mask) -> Array:
    """Standard deviation over the valid ones of each pixel's 3 x 3; 0 where there is none."""
    middle = values[valid].mean() if valid.any() else 0.0  # small numbers, so that squares keep their digits
    known = np.pad(np.where(valid, values - middle, 0.0), 1)
    count = np.maximum(sums_3x3(np.pad(valid, 1).astype(np.float64)), 1)
    mean = sums_3x3(known) / count
    return np.sqrt(np.maximum(sums_3x3(known * known) / count - mean * mean, 0.0))
