"""P2P (PixTransform): a function from a pixel's colour and place to its value (de Lutio et al., ICCV 2019).

`geosr.methods.p2p_network` has the network, which needs torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from geosr.errors import UsageError
from geosr.methods.base import Method, Patch, Prediction, ShortRuns, State
from geosr.methods.p2p_settings import PRESETS, P2pSettings
from geosr.methods.settings import apply_settings

_OVERLAP = 4
"""Source pixels that neighbouring tiles share: each has a function of its own, and the blend needs room."""


@dataclass(frozen=True)
class P2p(Method):
    """The method: one function for the tile, from random weights."""

    settings: P2pSettings = PRESETS["default"]
    name: str = "p2p"
    needs_fit: bool = True
    fit_scope: str = "tile"  # a place means nothing on another tile

    def halo(self, scale: int) -> int:
        """A pixel knows its own colour and place only; what there is serves the blend."""
        return _OVERLAP * scale

    def memory(self, bands: int, shape: tuple[int, int], scale: int) -> int:
        """The pixels' colours and places, three times, some 15 maps, and three times a step's wide features."""
        pixels = shape[0] * shape[1]
        step = min(self.settings.batch * scale**2, pixels)
        return 4 * ((3 * bands + 15) * pixels + 3 * self.settings.hidden * step)

    def trial(self) -> ShortRuns:
        """A few steps, and some more."""
        less, more = (P2p(replace(self.settings, steps=steps)) for steps in (1, 17))
        return ShortRuns(less, more, (self.settings.steps - 1) / 16)

    def fit(self, patches: Sequence[Patch], seed: int, device: str) -> State:
        """Fit a function to one patch.

        Raises:
            UsageError: there is more than one patch.
            TileError: the loss is not finite, or the memory does not suffice.
        """
        from geosr.methods import p2p_network

        if len(patches) != 1:
            raise UsageError(f"p2p fits one tile at a time; there are {len(patches)}")
        return p2p_network.fit(patches[0], self.settings, seed, device)

    def predict(self, patch: Patch, state: State, device: str) -> Prediction:
        """The function at every pixel."""
        from geosr.methods import p2p_network

        return Prediction(p2p_network.predict(patch, state, device))


def create(preset: str, settings: Mapping[str, Any]) -> P2p:
    """`P2p` with a preset's settings, some of them replaced; `UsageError` for what does not exist."""
    return P2p(apply_settings("p2p", PRESETS, preset, settings))
