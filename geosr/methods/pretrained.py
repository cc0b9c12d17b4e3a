"""Networks trained on many pairs, FDSR, FDKN and DKN, as methods, without torch.

`geosr.methods.fdsr_network` and `geosr.methods.dkn_network` have the networks, `geosr.methods.supervised` applies them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from geosr.errors import InputError, UsageError
from geosr.methods.base import Method, Patch, Prediction, State
from geosr.methods.settings import NoSettings, apply_settings
from geosr.methods.training_settings import training_settings
from geosr.methods.weights import Card, WeightsFile, open_weights
from geosr.raster_guard import show

_INTERPOLATION = 2
"""Source pixels that the interpolated source, the networks' start, looks far."""

_REACH = {"fdsr": 50, "fdkn": 27, "dkn": 25}
"""Output pixels that a network looks far; `tests/test_pretrained.py` measures them."""

_FEATURE_MAPS = {"fdsr": 4, "fdkn": 8, "dkn": 28}
"""How often a prediction holds as many maps of output size as its first layer has features; measured at 320 x 320."""


@dataclass(frozen=True)
class Pretrained(Method):
    """A trained network as a method: the interpolated source, and what the network adds to it.

    Attributes:
        file: its weights, of which each process reads the arrays once.
    """

    name: str
    file: WeightsFile
    settings: NoSettings = field(default_factory=NoSettings)

    @property
    def scales(self) -> range:
        """The one that the weights were trained for."""
        return range(self.file.card.scale, self.file.card.scale + 1)

    @property
    def bands(self) -> int | None:
        """Those of the guides that the weights were trained with."""
        return self.file.card.bands

    @property
    def weights(self) -> WeightsFile | None:
        """The file of the weights."""
        return self.file

    def halo(self, scale: int) -> int:
        """What the network and its start look far, whatever the weights are."""
        return _REACH[self.name] + _INTERPOLATION * scale

    def memory(self, bands: int, shape: tuple[int, int], scale: int) -> int:
        """The patch, and the features of the widest layers."""
        features = self.file.card.network["features"]
        return 4 * (4 * bands + 8 + _FEATURE_MAPS[self.name] * features) * shape[0] * shape[1]

    def predict(self, patch: Patch, state: State, device: str) -> Prediction:
        """The network's values.

        Raises:
            InputError: they are for another scale or number of bands, or their file has changed since it was looked at.
        """
        from geosr.methods import supervised

        card = self.file.card
        if (patch.scale, len(patch.guide)) != (card.scale, card.bands):
            raise InputError(
                f"{show(self.file.path.name)} is for x{card.scale} and guides of {card.bands} bands; "
                f"this is x{patch.scale} and {len(patch.guide)}"
            )
        return Prediction(supervised.predict(self.file, patch, device))


def _creator(name: str) -> Callable[[str, Mapping[str, Any], Path], Pretrained]:
    def create(preset: str, settings: Mapping[str, Any], weights: Path) -> Pretrained:
        """The method with the weights of a file.

        Raises:
            UsageError: any setting, or a preset but `default`.
            InputError: the weights are refused, or are those of another method.
        """
        nothing = apply_settings(name, {"default": NoSettings()}, preset, settings)
        file = open_weights(weights)
        _check(name, file.card, weights)
        return Pretrained(name, file, nothing)

    return create


def _check(name: str, card: Card, path: Path) -> None:
    if card.method != name:
        raise InputError(f"{show(path)}: these are weights of {show(card.method)}, not of {name}")
    if not 2 <= card.scale <= 32 or card.bands < 1 or not _is_known(card):
        raise InputError(f"{show(path)}: its model card is of another version of geosr")


def _is_known(card: Card) -> bool:
    """Whether a training makes networks of that shape."""
    shape = {name: bool(value) if name == "colour" else value for name, value in card.network.items()}
    try:
        return training_settings(card.method, "default", shape).network(card.bands) == card.network
    except UsageError:
        return False


create_fdsr = _creator("fdsr")
create_fdkn = _creator("fdkn")
create_dkn = _creator("dkn")
