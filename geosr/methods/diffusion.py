"""Guided anisotropic diffusion with exact source consistency: smooth, but not across the guide's edges.

After Perona and Malik (1990) and the guided form with a consistency step of Metzger et al. (CVPR 2023). Used alone
(`--method diffusion`) or as the refinement of MMSR, whose prediction then is its start and a further guide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from geosr.errors import UsageError
from geosr.methods.base import Patch, Prediction, State
from geosr.methods.settings import apply_settings

HALO_BLOCKS = 4
"""Source pixels beyond which nothing changes a pixel by a thousandth of a standard deviation."""


@dataclass(frozen=True)
class DiffusionSettings:
    """How the conductivity of the edge between two neighbouring pixels follows from what lies on its sides.

    It is `c(d_G / K_G)^a * c(d_Y / K_Y)^b * c(d_H / K_H)^e` with `c(t) = 1 / (1 + t^2)`; `d` are the
    differences across the edge of the guide (the largest over its bands), of the current values, and of the
    hint (another method's prediction) where there is one. All are in standard deviations.

    Attributes:
        rounds: times that the conductivities are recomputed from the current values.
        iterations: steps of the solver in each round.
        guide_contrast: K_G.
        guide_power: a.
        value_contrast: K_Y.
        value_power: b.
    """

    rounds: int = 24
    iterations: int = 10
    guide_contrast: float = 0.05
    guide_power: float = 0.35
    value_contrast: float = 0.02
    value_power: float = 0.5

    def __post_init__(self) -> None:
        for name in ("rounds", "iterations"):
            if not 1 <= getattr(self, name) <= 100_000:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be from 1 to 100000")
        for name in ("guide_contrast", "value_contrast"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UsageError(f"{name} is {getattr(self, name)}; it must be positive")
        for name in ("guide_power", "value_power"):
            if not 0 <= getattr(self, name) <= 10:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be from 0 to 10")


@dataclass(frozen=True)
class Diffusion:
    """The diffusion by itself, started from the interpolated source."""

    settings: DiffusionSettings = DiffusionSettings()
    name: str = "diffusion"
    statistics: str = "scene"
    consistency: str = "exact"

    def halo(self, scale: int) -> int:
        """Block means keep influences near: 2e-4 of a standard deviation at four source pixels (measured)."""
        return HALO_BLOCKS * scale

    def memory(self, bands: int, shape: tuple[int, int]) -> int:
        """Guide, and some 20 maps in float32."""
        return 4 * (2 * bands + 20) * shape[0] * shape[1]

    def trial(self) -> tuple[Diffusion, float]:
        """A quarter of the rounds."""
        rounds = max(self.settings.rounds // 4, 1)
        return Diffusion(replace(self.settings, rounds=rounds)), self.settings.rounds / rounds

    def fit(self, patches: Sequence[Patch], seed: int, device: str) -> State:
        """Nothing to fit."""
        return {}

    def predict(self, patch: Patch, state: State, device: str) -> Prediction:
        """The diffused values."""
        from geosr.methods.diffusion_solver import diffuse

        return Prediction(diffuse(patch, self.settings, device))


def create(preset: str, settings: Mapping[str, Any]) -> Diffusion:
    """The method; `UsageError` for a preset or setting that does not exist."""
    return Diffusion(apply_settings("diffusion", {"default": DiffusionSettings()}, preset, settings))
