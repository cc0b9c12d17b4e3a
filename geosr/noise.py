"""Noise in the guide: how much there is, and non-local means against it (Buades, Coll and Morel 2005).

Noise as large as the guide's own contrast puts an edge between every two pixels. Gaussian noise of 50 on the 8-bit
guides of the Middlebury samples (the test of MMSR's paper) costs the diffusion 28 to 96 %; of Gaussian blur, total
variation and non-local means the last is the best or next to it (docs/accuracy.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

LEAST = 0.2
"""Noise below this share of a band's standard deviation is left alone: the guides of `shared/data` have 0.01 to 0.25,
fine texture counted as noise."""

_WHITE = 0.7
"""Pooled 2 x 2 white noise is half as large; what the eighteen guides show there becomes 0.6 to 4 times as large, and
all above `LEAST` more than 1.0."""

_FEWEST = 100  # pixels that tell how large the noise is
_PATCH, _REACH = 7, 11
_STRENGTH = 0.5
"""Sides of the squares compared, pixels to each side among which they are looked for, and the weights' decay in
standard deviations of the noise; as scikit-image's documentation advises for its faster form."""


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


def remove_noise(bands: FloatArray, valid: BoolArray, noise: NDArray[np.float64]) -> FloatArray:
    """Each pixel the mean of those whose surroundings look alike in all bands together.

    The weight of a pixel is `exp(-max(d - 2, 0) / 0.25)`, d the mean squared difference of the two 7 x 7 squares in
    units of the noise's variance, which is 2 between equal ground.

    Args:
        bands: (bands, H, W).
        valid: (H, W). Other pixels are kept as they are and have no part in any mean.
        noise: (bands,) standard deviation of each band's noise; bands without any are kept, and do not take part.
    """
    import torch

    noisy = noise > 0
    scale = torch.from_numpy(noise[noisy].astype(np.float32))[:, None, None]
    known = torch.from_numpy(valid.astype(np.float32))
    values = torch.from_numpy(bands[noisy]) / scale * known
    rows, cols = valid.shape
    total, weights = values.clone(), known.clone()
    for down in range(_REACH + 1):
        for right in range(-_REACH if down else 1, _REACH + 1):
            if down >= rows or abs(right) >= cols:
                continue
            here = (..., slice(0, rows - down), slice(max(-right, 0), cols - max(right, 0)))
            there = (..., slice(down, rows), slice(max(right, 0), cols + min(right, 0)))
            weight = _likeness(values[here], values[there]) * known[here] * known[there]
            total[here] += weight * values[there]
            total[there] += weight * values[here]
            weights[here] += weight
            weights[there] += weight
    smooth = (total / weights.clamp(min=1e-6) * scale).numpy()
    found = bands.copy()
    found[noisy] = np.where(valid, smooth, bands[noisy])
    return found


def _likeness(first: Tensor, second: Tensor) -> Tensor:
    """Weights of one image for another, shifted one, from the squares around each pixel; edges count what is there."""
    import torch.nn.functional as F

    difference = ((first - second) ** 2).mean(0)
    alike = F.avg_pool2d(difference[None], _PATCH, stride=1, padding=_PATCH // 2, count_include_pad=False)[0]
    return ((2 - alike).clamp(max=0) / _STRENGTH**2).exp()
