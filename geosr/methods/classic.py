"""Interpolations of the source, which do not look at the guide.

They interpolate the filled source (`geosr.pair.fill`), so that what is stored under invalid pixels has no influence,
and repeat it beyond its edges. Made exactly consistent they are no longer what other tools call by these names: that is
`--consistency off`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from geosr.methods.base import FloatArray, Method, Patch, Prediction, State
from geosr.methods.settings import NoSettings, apply_settings

_PAD = 3
"""Source pixels, the widest kernel's reach."""


@dataclass(frozen=True)
class Interpolation(Method):
    """The source interpolated by a kernel that reaches `reach` source pixels to each side."""

    name: str
    reach: int
    settings: NoSettings = field(default_factory=NoSettings)
    uses_guide: bool = False

    def halo(self, scale: int) -> int:
        """What the kernel reaches."""
        return self.reach * scale

    def memory(self, bands: int, shape: tuple[int, int], scale: int) -> int:
        """The patch, and some 20 maps in float32 with its estimated error."""
        return 4 * (bands + 20) * shape[0] * shape[1]

    def predict(self, patch: Patch, state: State, device: str) -> Prediction:
        """The interpolated source."""
        return Prediction(_interpolate(self.name, patch.source, patch.scale))


def _interpolate(name: str, source: FloatArray, scale: int) -> FloatArray:
    if name == "bicubic":
        from geosr.methods.solve import interpolate

        return interpolate(source, scale)
    kernel = {
        "nearest": Image.Resampling.NEAREST,
        "bilinear": Image.Resampling.BILINEAR,
        "lanczos": Image.Resampling.LANCZOS,
    }[name]
    rows, cols = source.shape
    # Pillow leaves kernels off at the image's edge; here the edge is repeated as everywhere in geosr
    padded = Image.fromarray(np.pad(source, _PAD, mode="edge"))
    high = padded.resize(((cols + 2 * _PAD) * scale, (rows + 2 * _PAD) * scale), kernel)
    inside = slice(_PAD * scale, -_PAD * scale)
    return np.array(high, np.float32)[inside, inside]


def _creator(name: str, reach: int) -> Callable[[str, Mapping[str, Any]], Interpolation]:
    def create(preset: str, settings: Mapping[str, Any]) -> Interpolation:
        """The method; `UsageError` for any setting, and for a preset but `default`."""
        return Interpolation(name, reach, apply_settings(name, {"default": NoSettings()}, preset, settings))

    return create


create_nearest = _creator("nearest", 0)
create_bilinear = _creator("bilinear", 1)
create_bicubic = _creator("bicubic", 2)
create_lanczos = _creator("lanczos", 3)
