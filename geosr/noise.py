"""How much white noise there is in the guide, which `geosr.denoise` removes.

Noise as large as the guide's own contrast puts an edge between every two pixels (docs/accuracy.md).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

LEAST = 0.2
"""Noise below this share of a band's standard deviation is left alone: the guides of `shared/data` have 0.01 to 0.25,
fine texture counted as noise."""

_WHITE = 0.7
"""Pooled 2 x 2 white noise is half as large; what the eighteen guides show there becomes 0.6 to 4 times as large, and
all above `LEAST` more than 1.0."""

_FEWEST = 100  # pixels that tell how large the noise is


def white_noise(band: FloatArray, valid: BoolArray) -> float:
    """Standard deviation of a band's (H, W) white noise, in its units; 0 where what there is is not white.

    From the median of the differences of second differences (after Immerkaer 1996), over valid neighbourhoods.
    """
    fine = _noise(band, valid)
    rows, cols = (side // 2 * 2 for side in band.shape)
    blocks = (rows // 2, 2, cols // 2, 2)
    pooled = band[:rows, :cols].reshape(blocks).mean(axis=(1, 3))
    coarse = _noise(pooled, np.asarray(valid[:rows, :cols].reshape(blocks).all(axis=(1, 3))))
    return fine if coarse < _WHITE * fine else 0.0


def _noise(band: FloatArray, valid: BoolArray) -> float:
    if min(band.shape) < 3:
        return 0.0
    second = band[:, :-2] - 2 * band[:, 1:-1] + band[:, 2:]
    mixed = second[:-2] - 2 * second[1:-1] + second[2:]
    known = valid[:, :-2] & valid[:, 1:-1] & valid[:, 2:]
    differences = np.abs(mixed[known[:-2] & known[1:-1] & known[2:]])
    return float(np.median(differences)) / (6 * 0.6745) if differences.size >= _FEWEST else 0.0
