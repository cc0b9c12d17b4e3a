"""What a run will do: the scene, the method and the tiles, decided before the first tile is worked on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from geosr import methods
from geosr.consistency import Consistency
from geosr.encoding import rounds
from geosr.errors import InputError, UsageError
from geosr.options import Inputs, Layer, Recipe
from geosr.pair import Pair
from geosr.raster_guard import show
from geosr.scene import Scene, open_scene, suspicions
from geosr.tiling import SIDE, Tile, cut, smallest_tile

if TYPE_CHECKING:
    from geosr.methods.base import Method, State


@dataclass(frozen=True)
class Plan:
    """Everything decided before the first tile is worked on.

    `reads_guide`: whether the method uses it. `fit` is `scene` or `tile`; `state` is that of the method fitted on the
    scene; None where it is fitted on each tile. `layers` are the rasters to be made beside the output.
    `digests` are the output's tags that tell its files from others, taken before the first tile is.
    """

    inputs: Inputs
    scene: Scene
    recipe: Recipe
    method: Method
    consistency: Consistency
    tiles: list[Tile]
    fit: str
    reads_guide: bool = True
    state: State | None = None
    layers: tuple[Layer, ...] = ()
    digests: Mapping[str, str] = field(default_factory=dict)

    def read(self, tile: Tile) -> Pair | None:
        """As `Scene.read`, with what the method uses, and the source within the output's limits."""
        pair = self.scene.read(tile, with_guide=self.reads_guide)
        return replace(pair, source=self.confine(pair.source)) if pair else None

    def confine(self, source: NDArray[np.float64]) -> NDArray[np.float64]:
        """Source values, set to the output's limits where they lie beyond: errors, most of the time.

        Cut off in the output only, they would have their say in the pixels around them.
        """
        return np.clip(source, *self.recipe.limits)

    @property
    def fits_scene(self) -> bool:
        """Whether there is a fit to be made before the tiles."""
        return self.fit == "scene" and self.method.needs_fit and len(self.tiles) > 1


def make_plan(inputs: Inputs, recipe: Recipe, scene: Scene | None = None) -> Plan:
    """Decide method and tiles; torch is not loaded. The scene is opened unless it is given."""
    method = methods.create(recipe.method, recipe.preset, recipe.settings, recipe.weights)
    fit = recipe.fit or method.fit_scope
    if fit == "scene" and method.fit_scope == "tile":
        raise UsageError(
            f"a fit of {method.name} with preset {recipe.preset} holds for its own tile only and is of no use to "
            "the others; use --fit tile"
        )
    if inputs.scale not in method.scales:
        raise UsageError(f"{_named(method)} works at scale {_spelled(method.scales)}; --scale is {inputs.scale}")
    scene = scene or open_scene(inputs)
    if method.bands not in (None, scene.guide.channels):
        raise InputError(
            f"{_named(method)} takes a guide of {method.bands} bands; {show(scene.guide.path.name)} has "
            f"{scene.guide.channels}"
        )
    size = tile_size(recipe, method, inputs.scale)
    tiles = cut(scene.grids.low.shape, inputs.scale, size=size, halo=method.halo(inputs.scale))
    tiles = [tile for tile in tiles if scene.may_hold(tile.window)] or tiles
    recipe = replace(recipe, tile=size)
    consistency = recipe.consistency or Consistency.parse(method.consistency)
    return Plan(inputs, scene, recipe, method, consistency, tiles, fit, method.uses_guide)


def notes_on(plan: Plan) -> Iterator[str]:
    """What the user should know of a plan before the work: of the pair, and of what the output cannot hold."""
    yield from plan.scene.notes
    yield from suspicions(plan.scene, limited=plan.recipe.limited)
    dtype = plan.recipe.dtype
    if rounds(plan.scene.source, dtype):
        yield f"--dtype {dtype} and a source without a scale: values are rounded to whole units"


def tile_size(recipe: Recipe, method: Method, scale: int) -> int:
    """A tile's side in output pixels: what was asked for, else `SIDE` or the least that method and scale allow."""
    return recipe.tile or max(SIDE, smallest_tile(scale, method.halo(scale)))


def _named(method: Method) -> str:
    """With its weights, which decide what it takes."""
    return f"{method.name} with {show(method.weights.path.name)}" if method.weights else method.name


def _spelled(scales: range) -> str:
    return ", ".join(str(scale) for scale in scales)
