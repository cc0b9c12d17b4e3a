"""What a few tiles tell of the whole scene: its statistics, and a fit that holds for all of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import chain, groupby, islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from geosr.errors import InputError
from geosr.grid import Window
from geosr.pair import Pair, Stats, known_values
from geosr.placement import Placement
from geosr.plan import Plan
from geosr.raster import value_text
from geosr.raster_guard import show
from geosr.scene import find_valid
from geosr.spikes import ANY, Range, common_range, find_spikes
from geosr.tiling import Tile

if TYPE_CHECKING:
    from geosr.methods.base import Patch, State

FIT_TILES = 4  # tiles that a method is fitted on for a whole scene
_SAMPLE_TILES = 64  # tiles whose pixels make the scene's statistics
_LEAST_RELIEF = 0.25  # of the scene's variance that they must show
_WIDEST = 1e34
"""Standard deviation of a source that can be worked on: tiles are kept as float32, which ends at 3e38, and a million
pixels of which one has a value of that size have a hundred times as much."""

Floats = NDArray[np.float64]


def measure_scene(plan: Plan) -> Stats:
    """Statistics over a fixed sample of the tiles that hold valid pixels: spread evenly, unless that misses the relief.

    Raises:
        InputError: no source pixel is valid, the guide is missing everywhere, or the source's values reach too far.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # what is too large is seen by the spread that comes out
        stats = _measure(plan)
    _check_spread(plan, stats.source_spread)
    return stats


def _measure(plan: Plan) -> Stats:
    even = sample(plan.tiles, _SAMPLE_TILES)
    common = _common(plan, even)
    sampled = _telling(plan, even, common)
    if sampled is not even:
        common = _common(plan, sampled)
    pairs = _pairs(plan, sampled)  # one at a time: of a guide with many bands all would take gigabytes
    if not any(pair.guide_valid.any() for pair in _pairs(plan, sampled)):
        pairs = islice((pair for pair in _pairs(plan, plan.tiles) if pair.guide_valid.any()), _SAMPLE_TILES)
    first = next(pairs, None)
    if first is None:
        find_valid(plan.scene, plan.tiles)
        raise InputError(
            f"the guide {show(plan.scene.guide.path.name)} has no valid pixel where the source has one; "
            "check its nodata and the extents with geosr info"
        )
    return Stats.measure(chain([first], pairs), noise=True, source_range=common)


def _check_spread(plan: Plan, spread: float) -> None:
    """See that float32 can hold the source's differences from its mean; the spread of larger ones may be NaN."""
    if spread <= _WIDEST:
        return
    source, furthest = plan.scene.source, 0.0
    stored = replace(source, scale=1.0, offset=0.0, pooled=1)  # as --source-nodata takes it
    scene = replace(plan.scene, source=stored, origin=plan.scene.origin.times(source.pooled))
    for tile in plan.tiles:
        with suppress(InputError):
            values, valid = scene.read_source(tile.core.times(source.pooled))
            furthest = max((furthest, values[valid].min(initial=0.0), values[valid].max(initial=0.0)), key=abs)
    value = value_text(furthest, source.dtype)
    raise InputError(
        f"the source's values reach {value}, too far for float32; if that is nodata, pass --source-nodata {value}"
    )


def _common(plan: Plan, tiles: Iterable[Tile]) -> Range:
    """What is common among the source's values on those tiles, see `spikes`.

    All is where the output need not come near the source: nothing would bring a spike's own value back.
    """
    if np.isinf(plan.consistency.tolerance):
        return ANY

    def values() -> Iterator[Floats]:
        for tile in tiles:
            with suppress(InputError):  # it will fail by its name
                source, valid = plan.scene.read_source(tile.window)
                yield known_values(plan.confine(source), valid)

    return common_range(values())


def _telling(plan: Plan, sampled: list[Tile], common: Range) -> list[Tile]:
    """The sampled tiles, or as many that differ most from the scene's mean if the sample has too little of its relief.

    An island in the sea may lie in no sampled tile. The spread of what is flat is a rounding error, and nothing of the
    guide but its noise is seen on water.
    """
    if len(sampled) == len(plan.tiles):
        return sampled
    counts, means, squares = _moments_by_tile(plan, common)
    centre = (counts * means).sum() / max(counts.sum(), 1)
    relief = dict(zip(plan.tiles, squares + counts * (means - centre) ** 2, strict=True))
    known = dict(zip(plan.tiles, counts, strict=True))
    seen, whole = (
        sum(relief[tile] for tile in tiles) / max(sum(known[tile] for tile in tiles), 1)
        for tiles in (sampled, plan.tiles)
    )
    _check_spread(plan, np.sqrt(whole))
    if seen >= _LEAST_RELIEF * whole:
        return sampled
    return sorted(sorted(plan.tiles, key=lambda tile: -relief[tile])[:_SAMPLE_TILES], key=lambda tile: tile.index)


def _moments_by_tile(plan: Plan, common: Range) -> tuple[Floats, Floats, Floats]:
    """Of each tile's core: valid source pixels but spikes, their mean, the sum of their squared distances from it."""
    counts, means, squares = np.zeros((3, len(plan.tiles)))
    cols = plan.scene.grids.low.shape[1]
    for _, row in groupby(enumerate(plan.tiles), key=lambda item: item[1].core.row):
        tiles = [*row]
        core = tiles[0][1].core
        with suppress(InputError):  # its tiles will fail by their names
            raw, known = plan.scene.read_source(Window(core.row, 0, core.height, cols))
            values = plan.confine(raw)
            valid = known & ~find_spikes(values, known, common)
            for place, tile in tiles:
                part = np.s_[:, tile.core.col : tile.core.col + tile.core.width]
                found = values[part][valid[part]]
                if found.size:
                    counts[place], means[place], squares[place] = found.size, found.mean(), found.var() * found.size
    return counts, means, squares


def _pairs(plan: Plan, tiles: Iterable[Tile]) -> Iterator[Pair]:
    """The tiles with a valid source pixel; what cannot be read will fail as a tile, by its name."""
    for tile in tiles:
        with suppress(InputError):
            if pair := plan.read(tile):
                yield pair


def sample(tiles: list[Tile], most: int) -> list[Tile]:
    """At most so many tiles spread over the scene, always the same: one drawn from each of as many runs of tiles.

    An even step may see the same columns only: every seventh tile where 14 lie side by side.
    """
    runs = np.linspace(0, len(tiles), min(most, len(tiles)) + 1).astype(int)
    return [tiles[place] for place in np.random.default_rng(0).integers(runs[:-1], runs[1:])]


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
