"""What a method can be expected to do on a pair, measured on the pair itself one scale lower.

Source and guide are pooled by the scale; then the source itself is the truth (Wald, Ranchin and Mangolini 1997).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from geosr import methods
from geosr.errors import UsageError
from geosr.events import Note, Stage
from geosr.options import AUTO, Execution, Inputs, Recipe
from geosr.placement import place
from geosr.plan import Plan, make_plan
from geosr.sampling import draw_patches, measure_scene
from geosr.scene import suspicions
from geosr.tables import Table

if TYPE_CHECKING:
    from geosr.methods.base import BoolArray, FloatArray, Method, Patch

WITHOUT_GUIDE = "bicubic"
"""The method that all are compared with: it knows the source only."""

_TILES = 2  # that methods are tried on


@dataclass(frozen=True)
class Score:
    """One method one scale lower.

    Attributes:
        method: its name.
        rmse: over all pixels of the samples with a truth, in the source's units.
        seconds: for all samples.
        guided: whether the method uses the guide.
    """

    method: str
    rmse: float
    seconds: float
    guided: bool


@dataclass(frozen=True)
class Assessment:
    """Methods one scale lower, `WITHOUT_GUIDE` first.

    Attributes:
        samples: tiles that were tried.
        pixels: with a truth. Where it is 0 too little of the source is left one scale lower, and there are no scores.
        scores: one for each method.
        step: what the pair was pooled by; None where too little of it is left.
        units: of the errors, None where the source's file says nothing.
        notes: on the pair.
    """

    samples: int
    pixels: int
    scores: tuple[Score, ...]
    step: int | None = None
    units: str | None = None
    notes: tuple[str, ...] = ()

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
            return "cannot tell: fewer than 32 source pixels are left one scale lower"
        others = ", ".join(score.method for score in self.scores[1:])
        if not others:
            return f"nothing but {WITHOUT_GUIDE} was tried, which does not use the guide"
        gain = self.gain(self.best)
        if gain < 0.01:
            return f"none of the methods tried ({others}) is clearly better than {WITHOUT_GUIDE}"
        helps = "the guide helps: " if self.best.guided else ""
        return f"{helps}expected gain over {WITHOUT_GUIDE} {gain:.0%}, by {self.best.method}"

    @property
    def table(self) -> Table:
        """A row for each method."""
        rows = ((score.method, score.rmse, self.gain(score), score.seconds) for score in self.scores)
        return Table(("method", "rmse", "gain", "seconds"), tuple(rows))

    def content(self) -> dict[str, object]:
        """For JSON: all of it."""
        table = self.table
        return {
            "scale": self.step,
            "samples": self.samples,
            "pixels": self.pixels,
            "units": self.units,
            "notes": self.notes,
            "verdict": self.verdict,
            "methods": [dict(zip(table.columns, row, strict=True)) for row in table.rows],
        }


def assess(patches: Sequence[Patch], chosen: Sequence[Method], spread: float, seed: int, device: str) -> Assessment:
    """Every method on every patch one scale lower, projected onto the pooled source.

    Args:
        patches: of the pair, normalised by the scene's statistics.
        chosen: `WITHOUT_GUIDE` is put before them.
        spread: of the source, to give errors in its units.
        seed: of the fits.
        device: as torch names it.

    Raises:
        TileError: a fit failed.
    """
    from geosr.methods.judgement import exact

    lows = steps_down(patches, device)
    pixels = sum(int(known.sum()) for _, _, known in lows)
    scores = []
    for method in (methods.create(WITHOUT_GUIDE), *(method for method in chosen if method.name != WITHOUT_GUIDE)):
        started, squares = time.monotonic(), 0.0
        for low, truth, known in lows:
            values = method.predict(low, method.fit([low], seed, device), device).values
            squares += float(((exact(values, low) - truth)[known] ** 2).sum())
        rmse = spread * float(np.sqrt(squares / max(pixels, 1)))
        scores.append(Score(method.name, rmse, time.monotonic() - started, method.uses_guide))
    return Assessment(len(lows), pixels, tuple(scores) if pixels else (), lows[0][0].scale if lows else None)


def steps_down(patches: Sequence[Patch], device: str) -> list[tuple[Patch, FloatArray, BoolArray]]:
    """The patches one scale lower that leave enough to tell, each with its truth and where that is known.

    Methods do not judge by a further scale down, where nothing would be left: they believe the guide's edges as far as
    the patches themselves let them, and take over all detail of a network, for whose worth this is the test.
    """
    from geosr.methods.base import Judgement
    from geosr.methods.diffusion_settings import DiffusionSettings
    from geosr.methods.judgement import judge_edges, one_step_down

    belief = float(judge_edges(patches, DiffusionSettings(), device)) if patches else 0.0
    return [
        (replace(low, judged=Judgement(belief, 1.0)), truth, known)
        for patch in patches
        for low, truth, known in one_step_down(patch)
    ]


def assess_file(inputs: Inputs, recipe: Recipe, execution: Execution, names: Sequence[str]) -> Assessment:
    """Methods one scale lower on a few tiles of the pair; their default presets, nothing is written.

    Raises:
        UsageError, InputError, UnavailableError: as `upscale_file`.
        TileError: a fit failed.
    """
    plan = make_plan(inputs, replace(recipe, method=names[0]))
    found = _assess_plan(plan, execution, names)
    return replace(found, notes=(*plan.scene.notes, *suspicions(plan.scene, limited=True)))


def _assess_plan(plan: Plan, execution: Execution, names: Sequence[str]) -> Assessment:
    from geosr.device import memory_told, torch_threads

    plan = replace(plan, reads_guide=True)  # some of them use it
    placement, stats = place(1, execution), measure_scene(plan)
    patches = draw_patches(plan, stats, _TILES)
    with torch_threads(placement.threads), memory_told(placement.device):
        chosen = [methods.create(name) for name in names]
        found = assess(patches, chosen, stats.source_spread, plan.recipe.seed, placement.device)
    return replace(found, units=plan.scene.source.units)


def decide(inputs: Inputs, recipe: Recipe, execution: Execution) -> Plan:
    """What a run will do; with `auto` by the method that does best one scale lower, by the default where none tells.

    Raises:
        UsageError, InputError, UnavailableError: as `upscale_file`.
        TileError: a fit failed.
    """
    if recipe.method == AUTO and (recipe.preset != "default" or recipe.settings or recipe.weights):
        raise UsageError(
            f"--method {AUTO} chooses among default presets; a preset, settings or weights need a method's name"
        )
    if inputs.coregister:
        execution.on_event(Stage("coregister"))
    if recipe.method != AUTO:
        return make_plan(inputs, recipe)
    names = methods.candidates()
    plan = make_plan(inputs, replace(recipe, method=names[0]))
    execution.on_event(Stage("assessment"))
    found = _assess_plan(plan, execution, names)
    chosen = found.best.method if found.best else names[0]
    execution.on_event(Note(f"{found.verdict}; method {chosen}"))
    return make_plan(inputs, replace(recipe, method=chosen), plan.scene)
