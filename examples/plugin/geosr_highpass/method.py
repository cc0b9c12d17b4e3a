"""High-pass injection: what the guide shows beyond the source's resolution, times how steeply the source follows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from geosr.consistency import pool
from geosr.errors import UsageError
from geosr.methods.base import FloatArray, Method, Patch, Prediction, State
from geosr.methods.settings import apply_settings
from geosr.methods.solve import interpolate


@dataclass(frozen=True)
class HighpassSettings:
    """What `--set gain=0.5` changes.

    Attributes:
        gain: factor on the detail.
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.gain <= 10:
            raise UsageError(f"gain is {self.gain}; it must be from 0 to 10")


@dataclass(frozen=True)
class Highpass(Method):
    """Nothing to fit, any scale, any number of bands: `Method` declares that for all who do not say otherwise."""

    settings: HighpassSettings = field(default_factory=HighpassSettings)
    name: str = "highpass"

    def halo(self, scale: int) -> int:
        """The interpolation's two source pixels."""
        return 2 * scale

    def memory(self, bands: int, shape: tuple[int, int], scale: int) -> int:
        """The guide and a few maps."""
        return 4 * (bands + 8) * shape[0] * shape[1]

    def predict(self, patch: Patch, state: State, device: str) -> Prediction:
        """Normalised as the patch is; only `source_valid` and `guide_valid` pixels may have a say."""
        start = interpolate(patch.source, patch.scale)
        return Prediction(start + np.float32(self.settings.gain / len(patch.guide)) * _detail(patch))


def _detail(patch: Patch) -> FloatArray:
    """Sum over the bands of what each shows within source pixels; the source is normalised, so a slope is 1 at most."""
    total = np.zeros(patch.guide_valid.shape, np.float32)
    for band in patch.guide:
        means, _ = pool(band, patch.guide_valid, patch.scale)
        total += band - interpolate(means.astype(np.float32), patch.scale)
    return total


def create(preset: str, settings: Mapping[str, Any]) -> Highpass:
    """What `ENTRY` names: the method with a preset's settings, some replaced by what the user asks for."""
    return Highpass(apply_settings("highpass", {"default": HighpassSettings()}, preset, settings))
