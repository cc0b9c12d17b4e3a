"""Two filters that every guided method is compared with, with masks: invalid pixels have the weight zero.

Libraries have both, for whole images without masks; a gap would reach as far as the window does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geosr.consistency import pool, spread
from geosr.errors import UsageError
from geosr.methods.base import BoolArray, FloatArray, Method, Patch, Prediction, State
from geosr.methods.settings import apply_settings, check_positive

Array = NDArray[np.float64]


_WIDEST = 16  # radius, in source pixels


def _check(settings: GuidedFilterSettings | JointBilateralSettings) -> None:
    check_positive(settings, *asdict(settings))
    if settings.radius > _WIDEST:
        raise UsageError(f"radius is {settings.radius}; it must be at most {_WIDEST} source pixels")


@dataclass(frozen=True)
class GuidedFilterSettings:
    """The guided filter's two numbers.

    Attributes:
        radius: r, half of a window, in source pixels.
        epsilon: what a variance of the guide is held against, in its own units (the guide's variance is 1): where it is
            smaller the answer is a mean, where it is larger an edge.
    """

    radius: float = 1.0
    epsilon: float = 0.001

    def __post_init__(self) -> None:
        _check(self)


@dataclass(frozen=True)
class GuidedFilter(Method):
    """The interpolated source, filtered with the guide."""

    settings: GuidedFilterSettings = field(default_factory=GuidedFilterSettings)
    name: str = "guided-filter"

    def halo(self, scale: int) -> int:
        """Two windows, and the interpolation's two source pixels."""
        return (2 * math.ceil(self.settings.radius) + 2) * scale

    def memory(self, bands: int, shape: tuple[int, int], scale: int) -> int:
        """The covariance of the bands at every pixel, twice, in float64."""
        return 8 * (3 * (bands + 1) ** 2 + 12) * shape[0] * shape[1]

    def predict(self, patch: Patch, state: State, device: str) -> Prediction:
        """The filtered values (He et al. 2013, Eq. 19 to 21)."""
        from geosr.methods.solve import interpolate

        start = interpolate(patch.source, patch.scale)
        radius = max(1, round(self.settings.radius * patch.scale))
        valid = patch.guide_valid & spread(patch.source_valid, patch.scale)
        return Prediction(guided_filter(start, patch.guide, valid, radius, self.settings.epsilon))


def guided_filter(values: FloatArray, guide: FloatArray, valid: BoolArray, radius: int, epsilon: float) -> FloatArray:
    """The values as a linear function of the guide in each window, averaged over the windows that see a pixel.

    Args:
        values: (H, W) to filter.
        guide: (bands, H, W), finite everywhere.
        valid: (H, W); the rest is left out of means and covariances over a window.
        radius: windows have 2 * radius + 1 pixels a side.
        epsilon: ridge on the guide's covariance.

    Returns:
        (H, W); `values` where no valid pixel is near.
    """
    weight, image = valid.astype(np.float64)[None], guide.astype(np.float64)
    near = _box(weight, radius)

    def mean(maps: Array) -> Array:
        return _box(maps * weight, radius) / np.maximum(near, 1)

    centre, level = mean(image), mean(values[None].astype(np.float64))
    across = mean(image * values) - centre * level
    square = np.stack([mean(band * image) for band in image]) - centre[:, None] * centre
    covariance = square.transpose(2, 3, 0, 1) + epsilon * np.eye(len(image))
    slope = np.linalg.solve(covariance, across.transpose(1, 2, 0)[..., None])[..., 0].transpose(2, 0, 1)
    offset = level - (slope * centre).sum(0, keepdims=True)
    seen = (near > 0).astype(np.float64)
    parts = _box(np.concatenate((slope, offset)) * seen, radius) / np.maximum(_box(seen, radius), 1)
    return np.where(near[0] > 0, (parts[:-1] * image).sum(0) + parts[-1], values).astype(np.float32)


def _box(maps: Array, radius: int) -> Array:
    """Sums over windows of (..., H, W), of which what lies outside is zero."""
    for _ in range(2):
        total = np.pad(maps, [(0, 0)] * (maps.ndim - 1) + [(radius + 1, radius)]).cumsum(-1)
        maps = (total[..., 2 * radius + 1 :] - total[..., : -2 * radius - 1]).swapaxes(-1, -2)
    return maps


@dataclass(frozen=True)
class JointBilateralSettings:
    """How weights fall off.

    Attributes:
        radius: source pixels to each side that are used.
        distance: standard deviation of the weight by distance, in source pixels.
        contrast: standard deviation of the weight by the guide's difference (root of the mean square over its bands),
            in the guide's standard deviations.
    """

    radius: int = 2
    distance: float = 0.75
    contrast: float = 0.3

    def __post_init__(self) -> None:
        _check(self)


@dataclass(frozen=True)
class JointBilateral(Method):
    """Joint bilateral upsampling of the source itself, which is not interpolated before."""

    settings: JointBilateralSettings = field(default_factory=JointBilateralSettings)
    name: str = "joint-bilateral"

    def halo(self, scale: int) -> int:
        """The neighbours that are used."""
        return (self.settings.radius + 1) * scale

    def memory(self, bands: int, shape: tuple[int, int], scale: int) -> int:
        """The guide, that of a neighbour and their difference, and sums in float64."""
        return 8 * (3 * bands + 8) * shape[0] * shape[1]

    def predict(self, patch: Patch, state: State, device: str) -> Prediction:
        """Weighted means (Kopf et al. 2007, Eq. 3)."""
        from geosr.methods.solve import interpolate

        return Prediction(joint_bilateral(patch, self.settings, interpolate(patch.source, patch.scale)))


_FAINT = 1e-6
"""Weight of a neighbour of quite another colour: where there are only such, their distance decides."""


def joint_bilateral(patch: Patch, settings: JointBilateralSettings, plain: FloatArray) -> FloatArray:
    """For each output pixel the mean of the valid source pixels about its own, weighted by distance and colour.

    A source pixel's colour is the mean over the valid part of the guide above it.

    Returns:
        (s*h, s*w); `plain` where no valid source pixel with a guide is near.
    """
    scale, radius = patch.scale, settings.radius
    pooled = [pool(band, patch.guide_valid, scale) for band in patch.guide]
    colours, known = np.stack([means for means, _ in pooled]), patch.source_valid & pooled[0][1]
    axes = [np.arange(side) for side in patch.guide_valid.shape]
    total, weights = np.zeros(patch.guide_valid.shape), np.zeros(patch.guide_valid.shape)
    for row in range(-radius, radius + 1):
        for col in range(-radius, radius + 1):
            colour, value, valid = (_shifted(part, row, col) for part in (colours, patch.source, known))
            apart = ((patch.guide - _spread_all(colour, scale)) ** 2).mean(0)
            near = [
                _closeness(axis, step, scale, settings.distance) for axis, step in zip(axes, (row, col), strict=True)
            ]
            weight = near[0][:, None] * near[1] * (np.exp(-apart / (2 * settings.contrast**2)) + _FAINT)
            weight *= spread(valid, scale)
            total += weight * spread(value, scale)
            weights += weight
    return np.where(weights > 0, total / np.where(weights > 0, weights, 1), plain).astype(np.float32)


def _closeness(axis: NDArray[np.int_], step: int, scale: int, distance: float) -> Array:
    """Weight of the source pixel `step` further on, by its centre's distance from each output pixel's."""
    apart = (axis + 0.5) / scale - (axis // scale + step + 0.5)
    return np.exp(-(apart**2) / (2 * distance**2))


def _shifted(low: NDArray[Any], row: int, col: int) -> NDArray[Any]:
    """The value `row` and `col` source pixels further on; zero (False) outside."""
    height, width = low.shape[-2:]
    margin = max(abs(row), abs(col))
    padded = np.pad(low, [(0, 0)] * (low.ndim - 2) + [(margin, margin)] * 2)
    return padded[..., margin + row : margin + row + height, margin + col : margin + col + width]


def _spread_all(low: Array, scale: int) -> Array:
    """Bands (C, h, w) over their blocks."""
    return np.stack([spread(band, scale) for band in low])


def create_guided(preset: str, settings: Mapping[str, Any]) -> GuidedFilter:
    """The method; `UsageError` for a preset or setting that does not exist."""
    return GuidedFilter(apply_settings("guided-filter", {"default": GuidedFilterSettings()}, preset, settings))


def create_bilateral(preset: str, settings: Mapping[str, Any]) -> JointBilateral:
    """The method; `UsageError` for a preset or setting that does not exist."""
    return JointBilateral(apply_settings("joint-bilateral", {"default": JointBilateralSettings()}, preset, settings))
