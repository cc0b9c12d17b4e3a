"""What a few tiles tell of the whole scene: its statistics, and a fit that holds for all of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain, islice
from typing import TYPE_CHECKING

import numpy as np

from geosr.errors import InputError
from geosr.pair import Pair, Stats
from geosr.placement import Placement
from geosr.plan import Plan
from geosr.raster_guard import show
from geosr.scene import find_valid
from geosr.tiling import Tile

if TYPE_CHECKING:
    from geosr.methods.base import Patch, State

FIT_TILES = 4  # tiles that a method is fitted on for a whole scene
_SAMPLE_TILES = 32  # tiles whose pixels make the scene's statistics


def measure_scene(plan: Plan) -> Stats:
    """Statistics over a fixed, evenly spread sample of the tiles that hold valid pixels.

    Raises:
        InputError: no source pixel is valid, or the guide is missing everywhere.
    """
    sampled = sample(plan.tiles)
    pairs = _pairs(plan, sampled)  # one at a time: of a guide with many bands 32 would take gigabytes
    if not any(pair.guide_valid.any() for pair in _pairs(plan, sampled)):
        pairs = islice((pair for pair in _pairs(plan, plan.tiles) if pair.guide_valid.any()), _SAMPLE_TILES)
    first = next(pairs, None)
    if first is None:
        find_valid(plan.scene, plan.tiles)
        raise InputError(
            f"the guide {show(plan.scene.guide.path.name)} has no valid pixel where the source has one; "
            "check its nodata and the extents with geosr info"
        )
    return Stats.measure(chain([first], pairs), noise=True)


def _pairs(plan: Plan, tiles: Iterable[Tile]) -> Iterator[Pair]:
    """The tiles with a valid source pixel; what cannot be read will fail as a tile, by its name."""
    for tile in tiles:
        with suppress(InputError):
            if pair := plan.read(tile):
                yield pair


def sample(tiles: list[Tile]) -> list[Tile]:
    """Tiles spread evenly over the scene, always the same."""
    step = max(len(tiles) // _SAMPLE_TILES, 1)
    return tiles[step // 2 :: step]


def fit_scene(plan: Plan, placement: Placement, stats: Stats) -> State:
    """The method fitted on a few tiles drawn from the scene; empty if none tells anything.

    It takes all threads where the scene has the machine to itself.

    Raises:
        TileError: the fit failed.
    """
    from geosr.device import memory_told, torch_threads

    patches = draw_patches(plan, stats, FIT_TILES)
    if not patches:
        return {}
    with torch_threads(placement.fit_threads), memory_told(placement.device):
        return plan.method.fit(patches, plan.recipe.seed, placement.device)


def draw_patches(plan: Plan, stats: Stats, count: int) -> list[Patch]:
    """As many patches of the scene in which there is anything to be made out, drawn by the recipe's seed."""
    from geosr.methods.solve import prepare, tells

    drawn = [plan.tiles[place] for place in np.random.default_rng(plan.recipe.seed).permutation(len(plan.tiles))]
    patches = (prepare(pair, stats, plan.consistency) for pair in _pairs(plan, drawn))
    return [*islice((patch for patch in patches if tells(patch)), count)]
