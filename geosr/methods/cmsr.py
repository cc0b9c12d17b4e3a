"""CMSR: a network fitted on patches of the pair itself, on a guide that it deforms (Shacht et al., CVPR 2021).

`geosr.methods.cmsr_network` has the network, which needs torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from geosr.errors import UsageError
from geosr.methods.base import Method, Patch, Prediction, ShortRuns, State
from geosr.methods.cmsr_settings import PRESETS, CmsrSettings
from geosr.methods.settings import apply_settings


@dataclass(frozen=True)
class Cmsr(Method):
    """The method: one network from random weights for the patches given, no outside data."""

    settings: CmsrSettings = PRESETS["default"]
    name: str = "cmsr"
    needs_fit: bool = True

    @property
    def fit_scope(self) -> str:
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

    def trial(self) -> ShortRuns:
        """A few steps, and some more."""
        less, more = (Cmsr(replace(self.settings, steps=steps)) for steps in (1, 9))
        return ShortRuns(less, more, (self.settings.steps - 1) / 8, together=True)  # a step looks at one patch

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
