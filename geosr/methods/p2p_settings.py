"""P2P's settings, without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from geosr.methods.settings import check_choices, check_fractions, check_positive

CHOICES: dict[str, tuple[str, ...]] = {
    "schedule": ("constant", "cosine"),
    "statistics": ("scene", "tile"),
    "consistency": ("exact", "off"),
}


@dataclass(frozen=True)
class P2pSettings:
    """Everything that changes the result; the defaults are the paper's.

    Attributes:
        steps: of the optimiser.
        batch: source pixels that a step looks at.
        hidden: features of the wide layer.
        channels: features of the narrow layers before and behind it.
        learning_rate: of Adam.
        schedule: `constant`, or `cosine` to zero at the last step.
        position_decay: L2 penalty in Adam on what looks at the pixel's place.
        guide_decay: the same on what looks at its colour.
        head_decay: the same on what follows both.
        statistics: normalise by the `scene`'s or, as in the paper, by the `tile`'s own.
        consistency: what is done to the output when nothing else is asked for; `off` in the paper.
    """

    steps: int = 32768
    batch: int = 32
    hidden: int = 2048
    channels: int = 32
    learning_rate: float = 0.001
    schedule: str = "constant"
    position_decay: float = 0.0001
    guide_decay: float = 0.001
    head_decay: float = 0.0001
    statistics: str = "tile"
    consistency: str = "off"

    def __post_init__(self) -> None:
        check_choices(self, CHOICES)
        check_positive(self, "steps", "batch", "hidden", "channels", "learning_rate")
        check_fractions(self, "position_decay", "guide_decay", "head_decay")

    def rate(self, step: int) -> float:
        """The learning rate at `step` (from 0) as a share of `learning_rate`."""
        return 1.0 if self.schedule == "constant" else 0.5 * (1 + math.cos(math.pi * step / self.steps))


PRESETS = {
    "default": P2pSettings(steps=4096, hidden=512, schedule="cosine", statistics="scene", consistency="exact"),
    "paper": P2pSettings(),
}
