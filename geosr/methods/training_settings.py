"""How FDSR, FDKN and DKN are trained, without torch; `geosr.methods.supervised` does it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from geosr.errors import UsageError
from geosr.methods.settings import apply_settings, check_positive


@dataclass(frozen=True)
class TrainingSettings:
    """How a network is trained, and how large it is.

    Attributes:
        steps: of the optimiser.
        batch: crops that a step looks at.
        crop: side of a crop in output pixels at most; cut to whole source pixels.
        learning_rate: of Adam, at the start.
        decay_every: steps after which the learning rate is multiplied by `decay`, again and again.
        decay: that factor.
        augment: whether crops are mirrored and turned at random.
        tiles: of 320 x 320 pixels (or of a crop's size) that a pair gives at most, spread evenly over it.
        validate_every: steps between two validations, each followed by a checkpoint.
        features: of the first layer; the published networks have 32.
    """

    steps: int
    batch: int
    crop: int
    learning_rate: float
    decay_every: int
    decay: float
    augment: bool = True
    tiles: int = 32
    validate_every: int = 250
    features: int = 32

    def __post_init__(self) -> None:
        check_positive(self, "steps", "batch", "crop", "learning_rate", "decay_every", "tiles", "validate_every")
        if not 0 < self.decay <= 1:
            raise UsageError(f"decay is {self.decay}; it must be above 0 and at most 1")
        if self.features % 4 or not 4 <= self.features <= 256:
            raise UsageError(f"features is {self.features}; it must be a multiple of 4 from 4 to 256")

    def rate(self, step: int) -> float:
        """The learning rate at `step`, from 0."""
        return float(self.learning_rate * self.decay ** (step // self.decay_every))

    def network(self, bands: int) -> dict[str, int]:
        """What shapes the network beyond its method and the guide's `bands`.

        Raises:
            UsageError: the network cannot take such a guide.
        """
        return {"features": self.features}


@dataclass(frozen=True)
class FdsrSettings(TrainingSettings):
    """As `TrainingSettings`, and what FDSR sees of the guide.

    Attributes:
        colour: all bands of it; else its luminance alone (of red, green and blue), as published.
    """

    colour: bool = True

    def network(self, bands: int) -> dict[str, int]:
        """As for every network, and `colour`."""
        if not self.colour and bands != 3:
            raise UsageError(f"colour=false takes the luminance of red, green and blue; the guides have {bands} bands")
        return super().network(bands) | {"colour": int(self.colour)}


_SHORT: dict[str, Any] = {"steps": 6000, "batch": 8, "crop": 96, "decay": 0.5}

TRAINING: dict[str, dict[str, TrainingSettings]] = {
    "fdsr": {
        "default": FdsrSettings(**_SHORT, learning_rate=0.0005, decay_every=1500),
        # 1000 epochs over 1000 images, one a step, halved every 80 000 steps
        "paper": FdsrSettings(1_000_000, 1, 256, 0.0005, 80_000, 0.5, augment=False, colour=False, validate_every=1000),
    },
    "fdkn": {
        "default": TrainingSettings(**_SHORT, learning_rate=0.001, decay_every=1500),
        "paper": TrainingSettings(40_000, 1, 256, 0.001, 10_000, 0.2, augment=False, validate_every=1000),
    },
    "dkn": {  # a step on the same crops would take 20 times as long as FDKN's
        "default": TrainingSettings(**_SHORT | {"batch": 2, "crop": 64}, learning_rate=0.001, decay_every=1500),
        "paper": TrainingSettings(40_000, 1, 256, 0.001, 10_000, 0.2, augment=False, validate_every=1000),
    },
}
"""By method and preset; `paper` is the published schedule."""


def training_settings(method: str, preset: str, changes: Mapping[str, Any]) -> TrainingSettings:
    """A preset's settings, some of them replaced.

    Raises:
        UsageError: there is no such method to be trained, no such preset or setting, or a value is out of range.
    """
    if method not in TRAINING:
        raise UsageError(f"{method} is not trained; there are: {', '.join(TRAINING)}")
    return apply_settings(method, TRAINING[method], preset, changes)
