"""Guided anisotropic diffusion with exact source consistency: smooth, but not across the guide's edges.

After Perona and Malik (1990) and the guided form with a consistency step of Metzger et al. (CVPR 2023). Used alone
(`--method diffusion`) or as the refinement of MMSR, whose prediction then is its start and a further guide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from geosr.methods.base import Method, Patch, Prediction, State
from geosr.methods.diffusion_settings import DiffusionSettings
from geosr.methods.settings import apply_settings

HALO_BLOCKS = 6
"""Source pixels beyond which nothing changes a pixel by a thousandth of a standard deviation."""


@dataclass(frozen=True)
class Diffusion(Method):
    """The diffusion by itself, started from the interpolated source."""

    settings: DiffusionSettings = field(default_factory=DiffusionSettings)
    name: str = "diffusion"
    needs_fit: bool = True

    def halo(self, scale: int) -> int:
        """Block means keep influences near: 4e-3 of a noisy source's spread at four source pixels, 1e-3 at five."""
        return HALO_BLOCKS * scale

    def memory(self, bands: int, shape: tuple[int, int], scale: int) -> int:
        """In float32 the guide, some 20 maps, and 6 for each link (measured with 18 of them: 129 maps in all)."""
        return 4 * (2 * bands + 20 + 6 * len(self.settings.steps)) * shape[0] * shape[1]

    def slowness(self, device: str) -> str | None:
        """On a GPU, its kernels where they cannot be compiled."""
        from geosr.methods import gpu_kernels

        return gpu_kernels.slowness(device)

    def fit(self, patches: Sequence[Patch], seed: int, device: str) -> State:
        """How far the patches' own test one scale lower lets the guide be believed."""
        from geosr.methods.judgement import judge_edges

        return {"belief": judge_edges(patches, self.settings, device)}

    def predict(self, patch: Patch, state: State, device: str) -> Prediction:
        """The diffused values."""
        from geosr.methods.judgement import answer

        belief = float(state["belief"])
        return Prediction(answer(patch, self.settings, belief, device), belief)


def create(preset: str, settings: Mapping[str, Any]) -> Diffusion:
    """The method; `UsageError` for a preset or setting that does not exist."""
    return Diffusion(apply_settings("diffusion", {"default": DiffusionSettings()}, preset, settings))
