"""What a method can be expected to do on a pair, measured on the pair itself one step down.

Source and guide are pooled by the scale; then the source itself is the truth (Wald, Ranchin and Mangolini 1997).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from geosr.methods.base import BoolArray, FloatArray, Method, Patch

WITHOUT_GUIDE = "bicubic"
"""The method that all are compared with: it knows the source only."""


@dataclass(frozen=True)
class Score:
    """One method one step down.

    Attributes:
        method: its name.
        rmse: over all pixels of the samples with a truth, in the source's units.
        seconds: for all samples.
    """

    method: str
    rmse: float
    seconds: float


@dataclass(frozen=True)
class Assessment:
    """Methods one step down, `WITHOUT_GUIDE` first.

    Attributes:
        samples: tiles that were tried.
        pixels: with a truth. Where it is 0 too little of the source is left one step down, and there are no scores.
        scores: one for each method.
    """

    samples: int
    pixels: int
    scores: tuple[Score, ...]

    @property
    def best(self) -> Score | None:
        """The score with the least error; None where nothing can be told."""
        return min(self.scores, key=lambda score: score.rmse, default=None)

    def gain(self, score: Score) -> float:
        """How much smaller the error is than without the guide, as a share of that."""
        plain = self.scores[0].rmse
        return 1 - score.rmse / plain if plain > 0 else 0.0

    @property
    def verdict(self) -> str:
        """In a sentence."""
        if self.best is None:
            return "cannot tell: less than 32 source pixels are left one step down"
        gain = self.gain(self.best)
        if gain < 0.01:
            return "the guide does not help: nothing is expected to be better than bicubic"
        return f"the guide helps: expected gain over bicubic {gain:.0%}, by {self.best.method}"


def assess(patches: Sequence[Patch], methods: Sequence[Method], spread: float, seed: int, device: str) -> Assessment:
    """Every method on every patch one step down, made consistent with the pooled source.

    Args:
        patches: of the pair, normalised by the scene's statistics.
        methods: `WITHOUT_GUIDE` is put before them.
        spread: of the source, to give errors in its units.
        seed: of the fits.
        device: as torch names it.

    Raises:
        TileError: a fit failed.
    """
    from geosr.methods import create
    from geosr.methods.judgement import exact

    lows = steps_down(patches, device)
    pixels = sum(int(known.sum()) for _, _, known in lows)
    scores = []
    for method in (create(WITHOUT_GUIDE), *(method for method in methods if method.name != WITHOUT_GUIDE)):
        started, squares = time.monotonic(), 0.0
        for low, truth, known in lows:
            values = method.predict(low, method.fit([low], seed, device), device).values
            squares += float(((exact(values, low) - truth)[known] ** 2).sum())
        rmse = spread * float(np.sqrt(squares / max(pixels, 1)))
        scores.append(Score(method.name, rmse, time.monotonic() - started))
    return Assessment(len(lows), pixels, tuple(scores) if pixels else ())


def steps_down(patches: Sequence[Patch], device: str) -> list[tuple[Patch, FloatArray, BoolArray]]:
    """The patches one step down that leave enough to tell, each with its truth and where that is known.

    Methods do not judge by a further step down, where nothing would be left: they believe the guide's edges as far as
    the patches themselves let them, and take over all detail of a network, for whose worth this is the test.
    """
    from geosr.methods.diffusion_settings import DiffusionSettings
    from geosr.methods.judgement import judge_edges, one_step_down

    belief = float(judge_edges(patches, DiffusionSettings(), device)) if patches else 0.0
    return [
        (replace(low, judged=(belief, 1.0)), truth, known)
        for patch in patches
        for low, truth, known in one_step_down(patch)
    ]
