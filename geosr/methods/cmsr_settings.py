"""CMSR's settings, without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from geosr.methods.settings import check_choices, check_positive, check_ranges

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
        ranges = {
            "steps": (1, math.inf),
            "crop": (32, math.inf),
            "channels": (1, math.inf),
            "layers": (2, 32),
            "upsampling": (0, 1),
            "points": (2, 16),
            "ensemble": (1, 8),
            "back_projections": (0, math.inf),
        }
        check_ranges(self, ranges)
        check_positive(self, "learning_rate", "affine_rate", "smooth_rate")


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
