"""Methods that do not look at the guide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from geosr.errors import UsageError
from geosr.methods.base import Patch, Prediction, State, Trial


@dataclass(frozen=True)
class BicubicSettings:
    """Cubic convolution has nothing to set."""


@dataclass(frozen=True)
class Bicubic:
    """Cubic convolution of the source, the answer without a guide."""

    name: str = "bicubic"
    settings: BicubicSettings = BicubicSettings()
    statistics: str = "scene"
    consistency: str = "exact"
    needs_fit: bool = False

    def halo(self, scale: int) -> int:
        """The kernel reaches two source pixels."""
        return 2 * scale

    def memory(self, bands: int, shape: tuple[int, int]) -> int:
        """The patch and its answer."""
        return 4 * (bands + 4) * shape[0] * shape[1]

    def trial(self) -> Trial:
        """All of it: there is nothing smaller."""
        return Trial(self, self, 0.0)

    def fit(self, patches: Sequence[Patch], seed: int, device: str) -> State:
        """Nothing to fit."""
        return {}

    def predict(self, patch: Patch, state: State, device: str) -> Prediction:
        """The interpolated source."""
        from geosr.methods.solve import interpolate

        return Prediction(interpolate(patch.source, patch.scale))


def create(preset: str, settings: Mapping[str, Any]) -> Bicubic:
    """The method, which has one preset and no settings."""
    if preset != "default" or settings:
        raise UsageError(f"bicubic has no preset {preset!r} and no settings; leave --preset and --set away")
    return Bicubic()
