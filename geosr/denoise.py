"""Non-local Bayes against white noise: each square of an image is estimated from those near it that look alike.

Lebrun, Buades and Morel: A nonlocal Bayesian image denoising algorithm. SIAM J. Imaging Sciences 6(3), 2013. The bands
are brought to their principal components first, which are treated one by one. It takes 4 s of a processor for three
bands of 320 x 320 pixels.

Components and squares are the scene's, not the tile's: 48 pixels from its edges a pixel is the same in every tile that
holds it.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

FloatArray = NDArray[np.float32]

_SIDE, _REACH, _STEP = 6, 10, 3.975
"""Of the squares: pixels along a side, how far away others are looked for, and from one estimated square to the next,
about. Of sides 6, 7 and 8 that gave the least errors of the diffusion on four Middlebury samples (docs/accuracy.md). In
steps of 4 squares begin where the source's pixels do at x4, and three of four samples have 3 % more."""

_ALIKE = (90, 60)
"""How many squares make a group in the two steps."""

_FLAT = 1.1
"""A group that varies by no more than this, in variances of the noise, is taken for one value."""

_LEAST = (1 - (_SIDE**2 / _ALIKE[0]) ** 0.5) ** 2
"""The least variance that a group of nothing but noise has in any direction (Marchenko and Pastur 1967). Where there is
less, the pixels are saturated or filled in, and the published formula would blow them up."""

_AT_ONCE = 512  # groups: some 7 MB for each of their arrays


def remove_noise(
    bands: FloatArray,
    noise: NDArray[np.float64],
    covariance: NDArray[np.float64],
    origin: tuple[int, int] = (0, 0),
) -> FloatArray:
    """The bands without most of their noise.

    Args:
        bands: (bands, H, W), finite everywhere: what is invalid is filled in before, and looked at like the rest.
        noise: (bands,) standard deviation of each band's white noise. Bands without any are kept, and have no part.
        covariance: (bands, bands) of the scene's pixels.
        origin: row and column of the first pixel in the scene.
    """
    noisy = noise > 0
    if not noisy.any() or min(bands.shape[1:]) < _SIDE + _REACH:
        return bands
    levels = noise[noisy]
    shared = covariance[np.ix_(noisy, noisy)] / np.outer(levels, levels)
    axes = torch.from_numpy(np.linalg.eigh(shared)[1][:, ::-1].astype(np.float32))
    scale = torch.from_numpy(levels.astype(np.float32))[:, None, None]
    parts = torch.einsum("bp,bhw->phw", axes, torch.from_numpy(bands[noisy]) / scale)
    squares = _starts(parts.shape[1], origin[0]), _starts(parts.shape[2], origin[1])
    first = _estimate(parts, _groups(parts[:1], squares, _ALIKE[0]))
    second = _estimate(parts, _groups(first, squares, _ALIKE[1]), first)
    found = bands.copy()
    found[noisy] = (torch.einsum("bp,phw->bhw", axes, second) * scale).numpy()
    return found


def _groups(image: Tensor, squares: tuple[Tensor, Tensor], count: int) -> Tensor:
    """The squares most like each of those that are estimated, by the mean squared difference of all components.

    Args:
        image: (components, H, W).
        squares: first rows and first columns of those that are estimated.
        count: how many.

    Returns:
        (squares, count) where the others have their first pixel, in rows of the image.
    """
    height, width = image.shape[1:]
    rows, cols = squares
    around = F.pad(image, (_REACH,) * 4, value=math.inf)
    side = 2 * _REACH + 1
    unlike = torch.empty(side * side, len(rows), len(cols))
    for shift in range(side * side):
        down, right = shift // side, shift % side
        difference = ((image - around[:, down : down + height, right : right + width]) ** 2).sum(0)
        means = F.avg_pool2d(difference[None, None], _SIDE, stride=1)[0, 0]
        unlike[shift] = means[rows[:, None], cols]
    nearest = unlike.flatten(1).T.topk(count, largest=False, sorted=False).indices
    here = (rows[:, None] * width + cols).reshape(-1, 1)
    return here + (nearest // side - _REACH) * width + nearest % side - _REACH


def _starts(length: int, origin: int) -> Tensor:
    """First pixels of the squares along a side: at the steps of the scene, and at both ends of the side."""
    last = length - _SIDE
    steps = (round(step * _STEP) - origin for step in range(int(origin / _STEP), int((origin + last) / _STEP) + 2))
    return torch.tensor(sorted({0, last, *(step for step in steps if 0 <= step <= last)}))


def _estimate(noisy: Tensor, groups: Tensor, pilot: Tensor | None = None) -> Tensor:
    """Each pixel the mean over all squares that hold it, each estimated with its group, a component at a time.

    Args:
        noisy: (components, H, W) with noise of variance 1.
        groups: of `_groups`.
        pilot: what is known of the image already: means and covariances are then taken from it.
    """
    height, width = noisy.shape[1:]
    square = (torch.arange(_SIDE)[:, None] * width + torch.arange(_SIDE)).flatten()
    total, count = torch.zeros(len(noisy), height * width), torch.zeros(height * width)
    for part in torch.split(groups, _AT_ONCE):
        pixels = part[:, :, None] + square
        count.index_add_(0, pixels.flatten(), torch.ones(pixels.numel()))
        for component, values in enumerate(noisy.flatten(1)):
            found = (
                _from_noise(values[pixels])
                if pilot is None
                else _from_pilot(values[pixels], pilot[component].flatten()[pixels])
            )
            total[component].index_add_(0, pixels.flatten(), found.flatten())
    return (total / count).reshape(noisy.shape)


def _from_noise(squares: Tensor) -> Tensor:
    """The paper's first step: m + (C - 1) C^-1 (y - m), m and C of the noisy squares (groups, N, pixels)."""
    mean = squares.mean(1, keepdim=True)
    variances, directions = torch.linalg.eigh(_covariance(squares - mean))
    shrink = directions @ ((1 - 1 / variances.clamp(min=_LEAST))[..., None] * directions.mT)
    level = squares.mean((1, 2), keepdim=True)
    flat = ((squares - level) ** 2).mean((1, 2), keepdim=True) <= _FLAT
    return torch.where(flat, level, mean + (squares - mean) @ shrink)


def _from_pilot(squares: Tensor, pilot: Tensor) -> Tensor:
    """The paper's second step: m + C (C + 1)^-1 (y - m), m and C of the first step's squares."""
    mean = pilot.mean(1, keepdim=True)
    covariance = _covariance(pilot - mean)
    with_noise = torch.linalg.cholesky(covariance + torch.eye(covariance.shape[-1]))
    return mean + (squares - mean) @ torch.cholesky_solve(covariance, with_noise)


def _covariance(centred: Tensor) -> Tensor:
    return centred.mT @ centred / (centred.shape[1] - 1)
