"""MMSR's settings, without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from geosr.errors import UsageError
from geosr.methods.diffusion_settings import BELIEFS
from geosr.methods.settings import check_choices, check_fractions, check_positive

CHOICES: dict[str, tuple[str, ...]] = {
    "variant": (
        "mutual",  # the paper's MMSR; with 11/11 its Model3
        "none",  # Model0: features fused as they are
        "guide-to-source",  # Model1
        "source-to-guide",  # Model2
        "convolution",  # Model4: a plain convolution on each branch instead of its filter
        "joint-convolution",  # Model5: one plain convolution on both branches together
        "self",  # Model6: filters whose target is the pixel itself
    ),
    "fusion": ("conv", "sum", "attention-sum", "attention-conv"),
    "neighbourhoods": ("fixed", "judged"),
    "optimiser": ("adam", "muon"),
    "schedule": ("step", "cosine"),
    "refine": ("diffusion", "none"),
    "belief": BELIEFS,
    "statistics": ("scene", "tile"),
    "consistency": ("exact", "off"),
}


@dataclass(frozen=True)
class MmsrSettings:
    """Everything that changes the result; the defaults are the paper's for depth (x4 and x8).

    Attributes:
        source_to_guide: n, odd side of the neighbourhood that modulates the source's features.
        guide_to_source: m, odd side of the neighbourhood that modulates the guide's features.
        neighbourhoods: `fixed` takes these two always; `judged` takes the paper's for heights, 5 and 3, where less than
            half of the guide's edges are believed: there what counts is how each pixel of the guide looks. Not where
            the source is too small to tell by steps as large as the scale, or 4.
        channels: features in every layer.
        variant: the paper's ablation (Tables 2 and 3).
        fusion: how the two modulated features are joined (supplement, Table I).
        epochs: times that a step looks at each patch.
        crop: side, in output pixels, of the random square of each patch that a step looks at; 0 is one whole
            patch, as in the paper. A step on squares of n patches is n times as long.
        optimiser: `adam` as in the paper; `muon` makes the steps of the matrices between features orthogonal
            (`geosr.methods.muon`) and leaves the rest to Adam: as good after 1000 steps as Adam after 2000.
        learning_rate: of both.
        schedule: `step` multiplies the rate by `lr_decay` every `lr_decay_every` epochs; `cosine` brings
            it to zero at the last epoch after a linear `warmup`.
        lr_decay: factor of the `step` schedule.
        lr_decay_every: epochs between two decays.
        warmup: share of the epochs in which the `cosine` schedule rises.
        weight_decay: L2 penalty, on the guide branch only.
        refine: `diffusion` makes the network's prediction the start and a further guide of the guided
            diffusion, which decides on which side of an edge a pixel lies; `none` in the paper.
        belief: of that diffusion, see its settings. Where its edges are not believed, the network's own detail is
            taken over as far as it proves itself one scale lower.
        statistics: normalise by the `scene`'s or, as in the paper, by the `tile`'s own.
        consistency: what is done to the output when nothing else is asked for; `off` in the paper.
    """

    source_to_guide: int = 11
    guide_to_source: int = 5
    neighbourhoods: str = "fixed"
    channels: int = 64
    variant: str = "mutual"
    fusion: str = "conv"
    epochs: int = 1000
    crop: int = 0
    optimiser: str = "adam"
    learning_rate: float = 0.002
    schedule: str = "step"
    lr_decay: float = 0.9998
    lr_decay_every: int = 5
    warmup: float = 0.0
    weight_decay: float = 0.0005
    refine: str = "none"
    belief: str = "judged"
    statistics: str = "tile"
    consistency: str = "off"

    def __post_init__(self) -> None:
        check_choices(self, CHOICES)
        for name in ("source_to_guide", "guide_to_source"):
            size = getattr(self, name)
            if not 1 <= size <= 31 or size % 2 == 0:
                raise UsageError(f"{name} is {size}; it must be odd, from 1 to 31")
        check_positive(self, "channels", "epochs", "learning_rate", "lr_decay", "lr_decay_every")
        if self.crop < 0:
            raise UsageError(f"crop is {self.crop}; it must be 0 (the whole patch) or a side in pixels")
        check_fractions(self, "warmup", "weight_decay")

    def rate(self, epoch: float) -> float:
        """The learning rate at `epoch` (from 0, fractional) as a share of `learning_rate`."""
        if self.schedule == "step":
            return float(self.lr_decay ** (int(epoch) // self.lr_decay_every))
        rise = self.warmup * self.epochs
        if epoch < rise:
            return (epoch + 1) / (rise + 1)
        return 0.5 * (1 + math.cos(math.pi * (epoch - rise) / max(self.epochs - rise, 1)))


PRESETS = {
    "default": MmsrSettings(
        neighbourhoods="judged",
        channels=32,
        epochs=1000,
        crop=64,
        optimiser="muon",
        learning_rate=0.001,
        schedule="cosine",
        warmup=0.05,
        refine="diffusion",
        statistics="scene",
        consistency="exact",
    ),
    "paper-depth": MmsrSettings(),
    "paper-dem": MmsrSettings(source_to_guide=5, guide_to_source=3),
}
