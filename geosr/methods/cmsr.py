"""CMSR: a network fitted on patches of the pair itself, on a guide that it deforms (Shacht et al., CVPR 2021).

`geosr.methods.cmsr_network` has the network; here are its settings, without torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from geosr.errors import UsageError
from geosr.methods.base import Method, Patch, Prediction, State, Trial
from geosr.methods.settings import apply_settings, check_choices

CHOICES: dict[str, tuple[str, ...]] = {
    "fusion": ("sum", "concat"),
    "deformation": ("none", "affine", "smooth"),  # smooth: an affine one, then a thin-plate spline
    "schedule": ("plateau", "cosine"),
    "kernel": ("mean", "bicubic"),
    "statistics": ("scene", "tile"),
    "consistency": ("exact", "off"),
}


@dataclass(frozen=True)
class CmsrSettings:
    """Everything that changes the result; the defaults are the paper's, as far as it and its code tell.

    Attributes:
        steps: of the optimiser at each stage, at most; each stage multiplies the resolution by a prime factor of the
            scale, the smallest first (x8: three times 2).
        crop: side, in pixels, of the part of an image that a step looks at.
        channels: features of the source branch.
        layers: 3x3 convolutions of the source branch.
        fusion: `sum` adds what one branch makes of the guide to what the other one makes of the source, as published;
            `concat` is one branch that sees both.
        upsampling: p, probability that a step takes the up-sampling scheme: the guide at its own scale, the source
            interpolated.
        deformation: of the guide. `smooth` is an `affine` one followed by a thin-plate spline.
        points: control points of the spline along a side.
        learning_rate: of Adam.
        affine_rate: learning rate of the affine deformation, in source pixels.
        smooth_rate: learning rate of the spline's control points, in source pixels.
        schedule: `plateau` divides the rates by 10 where the loss no longer falls, and ends a stage when they have
            become too small; `cosine` brings them to zero at a stage's last step.
        kernel: what takes an image down a stage: `mean` of blocks, or `bicubic` with antialiasing.
        ensemble: of the eight flips and rotations, how many are predicted; the median of them counts.
        back_projections: rounds in which what a prediction lacks of its source is interpolated and added, for each
            member of the ensemble and for the median.
        statistics: normalise by the `scene`'s or by the `tile`'s own.
        consistency: what is done to the output when nothing else is asked for; `off` in the paper.
    """

    steps: int = 800
    crop: int = 48
    channels: int = 64
    layers: int = 8
    fusion: str = "sum"
    upsampling: float = 0.3
    deformation: str = "smooth"
    points: int = 4
    learning_rate: float = 0.0001
    affine_rate: float = 0.01
    smooth_rate: float = 0.002
    schedule: str = "plateau"
    kernel: str = "bicubic"
    ensemble: int = 8
    back_projections: int = 6
    statistics: str = "tile"
    consistency: str = "off"

    def __post_init__(self) -> None:
        check_choices(self, CHOICES)
        for name, least, most in (
            ("steps", 1, math.inf),
            ("crop", 32, math.inf),
            ("channels", 1, math.inf),
            ("layers", 2, 32),
            ("upsampling", 0, 1),
            ("points", 2, 16),
            ("ensemble", 1, 8),
            ("back_projections", 0, math.inf),
        ):
            value = getattr(self, name)
            if not (least <= value <= most and value < math.inf):
                limits = f"at least {least}" if most == math.inf else f"from {least} to {most}"
                raise UsageError(f"{name} is {value}; it must be {limits}")
        for name in ("learning_rate", "affine_rate", "smooth_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be positive")


PRESETS = {
    "default": CmsrSettings(
        steps=600,
        channels=32,
        fusion="concat",
        upsampling=0.0,
        deformation="none",
        learning_rate=0.001,
        affine_rate=0.03,
        smooth_rate=0.01,
        schedule="cosine",
        kernel="mean",
        statistics="scene",
        consistency="exact",
    ),
    "paper": CmsrSettings(),
}


@dataclass(frozen=True)
class Cmsr(Method):
    """The method: one network from random weights for the patches given, no outside data."""

    settings: CmsrSettings = PRESETS["default"]
    name: str = "cmsr"
    needs_fit: bool = True

    @property
    def fits(self) -> str:
        """A deformation belongs to its tile; a network alone may be fitted for the scene."""
        return self.settings.statistics if self.settings.deformation == "none" else "tile"

    def halo(self, scale: int) -> int:
        """Half as many source pixels as layers, and what interpolation and back-projection carry further.

        With eight layers what lies 6 source pixels away changes a pixel by 3e-4 at most, be it a picture or noise.
        """
        return max(6, self.settings.layers // 2 + 2) * scale

    def memory(self, bands: int, shape: tuple[int, int], scale: int) -> int:
        """Three feature maps of a prediction, and the ensemble; a step on a crop takes less."""
        return 4 * shape[0] * shape[1] * (3 * self.settings.channels + 4 * bands + 24) + (64 << 20)

    def trial(self) -> Trial:
        """A few steps, and some more."""
        less, more = (Cmsr(replace(self.settings, steps=steps)) for steps in (1, 9))
        return Trial(less, more, (self.settings.steps - 1) / 8, together=True)  # a step looks at one patch

    def fit(self, patches: Sequence[Patch], seed: int, device: str) -> State:
        """Fit a network to the patches, and a deformation to the one patch.

        Raises:
            UsageError: several patches and a deformation, or patches that differ in scale or number of guide bands.
            TileError: the loss is not finite, or the memory does not suffice.
        """
        from geosr.methods import cmsr_network

        if len(patches) != 1 and self.settings.deformation != "none":
            raise UsageError(f"cmsr deforms the guide of one tile at a time; there are {len(patches)}")
        return cmsr_network.fit(patches, self.settings, seed, device)

    def predict(self, patch: Patch, state: State, device: str) -> Prediction:
        """The network's answer, stage by stage."""
        from geosr.methods import cmsr_network

        return Prediction(cmsr_network.predict(patch, state, self.settings, device))


def create(preset: str, settings: Mapping[str, Any]) -> Cmsr:
    """`Cmsr` with a preset's settings, some of them replaced; `UsageError` for what does not exist."""
    return Cmsr(apply_settings("cmsr", PRESETS, preset, settings))
