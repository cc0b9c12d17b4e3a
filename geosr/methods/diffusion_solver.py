"""The diffusion's steady state among the values that pool to the source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from geosr.consistency import spread
from geosr.device import torch_threads
from geosr.methods import compiled, gpu_kernels
from geosr.methods.base import FloatArray, Patch
from geosr.methods.diffusion_settings import DiffusionSettings
from geosr.methods.solve import interpolate

_SMALLEST, _LARGEST = 0.02, 2.0
"""Eigenvalues that the iteration damps. Of 0.02, 0.05, 0.1 and 0.2 below, the first gave the least error."""

_HINT_CONTRAST, _HINT_POWER, _HINTED_GUIDE_POWER = 0.05, 0.3, 0.2
"""K_H, and what the powers of hint and guide are where the hint is fully trusted."""

_NOISY_GUIDE = 0.5
"""By what share the latter sinks where all of a guide was noise: the network sees through noise better than pixels do.
With noise of 50/255 the default's mean RMSE on the seven Middlebury samples sinks from 1.113 to 1.103 (x4)."""

_TRUST_RESIDUAL, _TRUST_WINDOW = 1.6, 5
"""Standard deviations summed over a source pixel's block, and source pixels, of `_trust`."""


def diffuse(patch: Patch, settings: DiffusionSettings, device: str, hint: FloatArray | None = None) -> FloatArray:
    """Values that pool to the source and are smooth where guide, hint and they themselves have no edge.

    Minimises the sum over pairs of near pixels of `conductivity * difference^2` under the constraint that each
    valid source pixel is the mean of its block (within the patch's tolerance, as near the start's means as
    that allows). The conductivities are recomputed from the result in every round. 16 rounds of 10 conjugate
    gradient steps reached what 16 rounds of 150 explicit ones did (RMSE 1.407 against 1.421 on the seven
    Middlebury samples, x4) in a sixth of the time; see `_relax` for why Chebyshev's steps took their place.

    A hint is used where it explains the source (`_trust`): there it is the start, and its edges count more than the
    guide's. Elsewhere it is ignored.

    Args:
        patch: guide and source. Where the guide is invalid it says nothing about edges.
        settings: see there.
        device: as torch names it.
        hint: (s*h, s*w) another method's prediction. Without one the start is the interpolated source.

    Returns:
        (s*h, s*w) float32. Values over invalid source pixels keep their start and have no influence.
    """
    with torch_threads(1):  # the maps are small: with two threads on a busy machine, waiting cost ten times the work
        return _diffuse(patch, settings, device, hint)


def _diffuse(patch: Patch, settings: DiffusionSettings, device: str, hint: FloatArray | None) -> FloatArray:
    known = torch.from_numpy(spread(patch.source_valid, patch.scale)).to(device)
    source = torch.from_numpy(patch.source.copy()).to(device)
    rows, cols = known.shape
    links = tuple(_Link(*step) for step in settings.steps if step[0] < rows and abs(step[1]) < cols)
    guide = _guide_edges(patch, settings.guide_contrast, links, device)
    values = torch.from_numpy(interpolate(patch.source, patch.scale)).to(device)
    values = _settle(values, source, known, guide**settings.guide_power, patch.tolerance, settings)
    if hint is not None:
        further = torch.from_numpy(hint.copy()).to(device)
        trust = _trust(further, source, torch.from_numpy(patch.source_valid.copy()).to(device))
        hinted = _HINTED_GUIDE_POWER * (1 - _NOISY_GUIDE * patch.noise)
        power = settings.guide_power + (hinted - settings.guide_power) * trust
        edges = guide ** _lesser(power, links) * _edges(further, _HINT_CONTRAST, links) ** _lesser(
            _HINT_POWER * trust, links
        )
        values = torch.lerp(values, further, trust)
        values = _settle(values, source, known, edges, patch.tolerance, settings)
    result: FloatArray = values.cpu().numpy()
    return result


def _settle(
    values: Tensor, source: Tensor, known: Tensor, edges: _Edges, tolerance: float, settings: DiffusionSettings
) -> Tensor:
    """All rounds from a start, with conductivities that do not change and those of the current values."""
    blocks = _Blocks(values.shape[0] // source.shape[0])
    fixed = _fastest(edges * _lesser(1.0 * known, edges.links))
    values = _admit(values, source, known, blocks, tolerance)
    for _ in range(settings.rounds):
        current = fixed.moved(values, settings.value_contrast, settings.value_power)
        values = _relax(values, current, known, blocks, settings.iterations)
    return _admit(values, source, known, blocks, tolerance)


def _trust(hint: Tensor, source: Tensor, valid: Tensor) -> Tensor:
    """How far to believe a hint, 0 to 1 for each of its pixels: where it explains the source, whatever its level.

    In a window of 5 x 5 source pixels the source is fitted by an increasing affine function of the hint's block
    means; trust is `1 / (1 + (residual * s^2 / 1.6)^2)`: the residual of a mean times the pixels of its block says how
    many lie on the wrong side. A network fitted for a minute is often blurred and off in level where its edges are
    right; where it missed an object no such function exists. Means of four Middlebury samples at x4: no hint 1.657,
    trusted everywhere 1.752, by this 1.420; at x8 no hint 1.581, by this 1.519 (docs/accuracy.md).
    """
    scale = hint.shape[0] // source.shape[0]
    means = _Blocks(scale).mean(hint)
    weight = _box(valid.float()).clamp(min=1e-6)

    def mean(x: Tensor) -> Tensor:
        return _box(torch.where(valid, x, 0.0)) / weight

    hint_mean, source_mean = mean(means), mean(source)
    variance = mean(means * means) - hint_mean**2
    shared = mean(means * source) - hint_mean * source_mean
    slope = (shared / (variance + 1e-4)).clamp(0, 3)
    residual = mean(source * source) - source_mean**2 - slope * (2 * shared - slope * variance)
    trust = 1 / (1 + residual.clamp(min=0) * (scale**2 / _TRUST_RESIDUAL) ** 2)
    return F.interpolate(trust[None, None], scale_factor=scale, mode="bilinear", align_corners=False)[0, 0]


def _box(low: Tensor) -> Tensor:
    """Mean over a window, edges repeated."""
    reach = _TRUST_WINDOW // 2
    return F.avg_pool2d(F.pad(low[None, None], (reach,) * 4, mode="replicate"), _TRUST_WINDOW, stride=1)[0, 0]


def _admit(values: Tensor, source: Tensor, known: Tensor, blocks: _Blocks, tolerance: float) -> Tensor:
    """The nearest values whose blocks pool to the source within the tolerance; the iteration keeps these means."""
    residual = source - blocks.mean(values)
    return torch.where(known, values + blocks.up(residual - residual.clamp(-tolerance, tolerance)), values)


@dataclass(frozen=True)
class _Link:
    """From each pixel to the one so many rows and columns on; rows are never negative."""

    rows: int
    cols: int

    def near(self, image: Tensor) -> Tensor:
        """The part of (..., H, W) whose pixels have a far one."""
        height, width = image.shape[-2:]
        return image[..., : height - self.rows, max(-self.cols, 0) : width - max(self.cols, 0)]

    def far(self, image: Tensor) -> Tensor:
        """Those far ones."""
        height, width = image.shape[-2:]
        return image[..., self.rows : height, max(self.cols, 0) : width - max(-self.cols, 0)]


@dataclass(frozen=True)
class _Edges:
    """For each link a number for each pair of pixels it joins."""

    links: tuple[_Link, ...]
    numbers: tuple[Tensor, ...]

    def __mul__(self, other: _Edges) -> _Edges:
        return _Edges(self.links, tuple(a * b for a, b in zip(self.numbers, other.numbers, strict=True)))

    def __pow__(self, power: float | _Edges) -> _Edges:
        if isinstance(power, _Edges):
            return _Edges(self.links, tuple(a**b for a, b in zip(self.numbers, power.numbers, strict=True)))
        return _Edges(self.links, tuple(a**power for a in self.numbers))

    def moved(self, values: Tensor, contrast: float, power: float) -> _Edges:
        """Each times a power of the values' own conductivities."""
        return self * _edges(values, contrast, self.links) ** power

    def flow(self, values: Tensor) -> Tensor:
        """Half the gradient of the sum of `conductivity * difference^2`."""
        if compiled.fits_flow(values, self.numbers):
            return compiled.flow(values, [(link.rows, link.cols) for link in self.links], self.numbers)
        flow = torch.zeros_like(values)
        for link, conductivity in zip(self.links, self.numbers, strict=True):
            along = conductivity * (link.far(values) - link.near(values))
            link.near(flow).sub_(along)
            link.far(flow).add_(along)
        return flow

    def degree(self, like: Tensor) -> Tensor:
        """Sum of the conductivities around each pixel of an image of that shape."""
        degree = torch.zeros_like(like)
        for link, conductivity in zip(self.links, self.numbers, strict=True):
            link.near(degree).add_(conductivity)
            link.far(degree).add_(conductivity)
        return degree


class _Conductivities(Protocol):
    """What the iteration needs of `_Edges`."""

    def moved(self, values: Tensor, contrast: float, power: float) -> _Conductivities: ...

    def flow(self, values: Tensor) -> Tensor: ...

    def degree(self, like: Tensor) -> Tensor: ...


def _fastest(edges: _Edges) -> _Conductivities:
    """The same for the GPU's kernels, where they can be used."""
    if not edges.numbers[0].is_cuda or gpu_kernels.missing():
        return edges
    from geosr.methods import diffusion_triton

    return diffusion_triton.Edges.of([(link.rows, link.cols) for link in edges.links], edges.numbers)


def _edges(image: Tensor, contrast: float, links: tuple[_Link, ...]) -> _Edges:
    """Conductivities `1 / (1 + (d / contrast)^2)`, d the difference of the (H, W) image."""
    return _Edges(links, tuple(1 / (1 + ((link.far(image) - link.near(image)) / contrast) ** 2) for link in links))


def _lesser(pixels: Tensor, links: tuple[_Link, ...]) -> _Edges:
    """The lesser of the two pixels of each pair."""
    return _Edges(links, tuple(torch.minimum(link.near(pixels), link.far(pixels)) for link in links))


def _guide_edges(patch: Patch, contrast: float, links: tuple[_Link, ...], device: str) -> _Edges:
    """The geometric mean of two conductivities, of the pixels themselves and of the 3 x 3 around them.

    The difference d is the largest over the bands, and for the 3 x 3 its root mean square: a pixel's noise weighs
    less there, a thin object less by itself. 1 where the guide is invalid.
    """
    guide = torch.from_numpy(np.ascontiguousarray(patch.guide)).to(device)
    seen = _lesser(torch.from_numpy(1.0 * patch.guide_valid).float().to(device), links)
    return _Edges(
        links,
        tuple(
            _likeness((link.far(guide) - link.near(guide)).abs().amax(0), both, contrast)
            for link, both in zip(links, seen.numbers, strict=True)
        ),
    )


def _likeness(difference: Tensor, seen: Tensor, contrast: float) -> Tensor:
    square = torch.where(seen > 0, (difference / contrast) ** 2, 0.0)
    around = _around(square) / _around(seen).clamp(min=1e-6)
    return torch.where(seen > 0, ((1 + square) * (1 + around)) ** -0.5, 1.0)


def _around(image: Tensor) -> Tensor:
    return F.avg_pool2d(image[None], 3, stride=1, padding=1)[0]


@dataclass(frozen=True)
class _Blocks:
    """Means over source pixels and back."""

    scale: int

    def mean(self, high: Tensor) -> Tensor:
        return F.avg_pool2d(high[None, None], self.scale)[0, 0]

    def up(self, low: Tensor) -> Tensor:
        spread = low[:, None, :, None].expand(-1, self.scale, -1, self.scale)
        return spread.reshape(low.shape[0] * self.scale, -1)


def _relax(values: Tensor, edges: _Conductivities, known: Tensor, blocks: _Blocks, iterations: int) -> Tensor:
    """Chebyshev's semi-iteration towards the least energy, by steps that never change a block's mean.

    The preconditioner is the diagonal, followed by the projection along it onto steps whose block means are
    zero (the constraint preconditioner of Gould, Hribar and Nocedal 2001). Its largest eigenvalue is at most 2.
    Conjugate gradients need no such bound and are as fast, but their step lengths are sums over the tile:
    then a pixel depends on all others (measured: 0.01 of a standard deviation at any distance, here 2e-4 at
    four source pixels and nothing beyond six).
    """
    inverse = 1 / (edges.degree(values) + 1e-6) * known
    inverse_means = blocks.mean(inverse).clamp(min=1e-12)

    def precondition(residual: Tensor) -> Tensor:
        step = inverse * residual
        return step - inverse * blocks.up(blocks.mean(step) / inverse_means)

    centre, radius = (_LARGEST + _SMALLEST) / 2, (_LARGEST - _SMALLEST) / 2
    ratio = radius / centre
    residual = -edges.flow(values)
    step = precondition(residual) / centre
    for _ in range(iterations):
        values = values + step
        residual = residual - edges.flow(step)
        following = 1 / (2 * centre / radius - ratio)
        step = following * ratio * step + 2 * following / radius * precondition(residual)
        ratio = following
    return values
