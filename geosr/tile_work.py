"""The work on a tile, or on a group fitted together: from reading to the files in the run folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from geosr import methods
from geosr.assess import WITHOUT_GUIDE
from geosr.consistency import spread
from geosr.encoding import Encoding
from geosr.errors import ChangedInputError, InputError, OutOfMemoryError, TileError
from geosr.options import Layer
from geosr.pair import Pair, Stats
from geosr.placement import Placement
from geosr.plan import Plan
from geosr.tile_run import Group
from geosr.tile_store import TileResult, TileStore
from geosr.tiling import Tile

if TYPE_CHECKING:
    from geosr.methods.base import Method
    from geosr.methods.solve import Fit, Solution


def upscale_group(plan: Plan, placement: Placement, stats: Stats, store: TileStore, group: Group) -> list[TileResult]:
    """Tiles from reading to their files in the run folder: a pure function of plan, statistics and tiles.

    What is wrong with a tile alone (it cannot be read, the fit diverges, memory runs out) becomes its failure.

    Raises:
        UsageError, OutputError, ChangedInputError: what would fail for every tile.
    """
    if len(group) > 1:
        for tile in group:  # an earlier attempt may have fitted it with fewer others
            store.discard(tile)
    pairs = [_read(plan, tile) for tile in group]
    fits = fit_group(plan, placement, stats, group, pairs) if len(group) > 1 else {}
    return [
        _upscale_tile(plan, placement, stats, store, tile, pair, fits.get(tile.index))
        for tile, pair in zip(group, pairs, strict=True)
    ]


def _read(plan: Plan, tile: Tile) -> Pair | Exception | None:
    """The tile's pair, or what is wrong with it."""
    try:
        pair = plan.read(tile)
        if pair:
            Encoding.choose(plan.scene.source, plan.recipe.dtype).check(pair.source[pair.source_valid])
    except ChangedInputError:
        raise
    except (InputError, TileError, MemoryError) as error:
        return error
    return pair


def fit_group(
    plan: Plan,
    placement: Placement,
    stats: Stats,
    group: Sequence[Tile],
    pairs: Sequence[Pair | Exception | None],
) -> dict[int, Fit]:
    """By index, the fits of those tiles that the method is asked for."""
    from geosr.device import torch_threads
    from geosr.methods.solve import Fit, asks, fit_together, prepare, stats_for

    with torch_threads(placement.threads):
        try:
            patches = {
                tile: prepare(pair, stats_for(plan.method, pair, stats), plan.consistency)
                for tile, pair in zip(group, pairs, strict=True)
                if isinstance(pair, Pair)
            }
        except (OutOfMemoryError, MemoryError) as error:
            found = OutOfMemoryError(str(error) or "out of memory")
            return {tile.index: Fit(found) for tile in group}
        asking = {tile: patch for tile, patch in patches.items() if asks(patch, plan.method)}
        seeds = [_seed(plan, tile) for tile in asking]
        fits = fit_together([*asking.values()], plan.method, seeds, placement.device)
    return {tile.index: fit for tile, fit in zip(asking, fits, strict=True)}


def _upscale_tile(
    plan: Plan,
    placement: Placement,
    stats: Stats,
    store: TileStore,
    tile: Tile,
    pair: Pair | Exception | None,
    fit: Fit | None,
) -> TileResult:
    """One tile of a group, fitted there or now."""
    if pair is None:
        return store.save(TileResult(tile))
    try:
        if isinstance(pair, Exception):
            raise pair
        found = fit.found if fit else plan.state
        if isinstance(found, TileError):
            raise found
        solution = solve_tile(plan.method, replace(plan, state=found), placement, stats, pair, tile)
    except (InputError, TileError, MemoryError) as error:
        # a fit that diverged would do so again: it has the same seed
        passing = isinstance(error, InputError | OutOfMemoryError | MemoryError)
        return TileResult(tile, failure=str(error) or "out of memory", retry=passing)
    valid, seen = _counts(pair, tile)
    expected = _expected_square(pair, tile, solution)
    batch = fit.batch if fit else None
    spikes = _count_spikes(stats, pair, tile) if plan.method.statistics == "scene" else 0
    result = TileResult(tile, solution.centre, seen / max(valid, 1), valid, expected, spikes, batch=batch)
    return _save(plan, store, result, solution)


def interpolate_tile(
    plan: Plan, placement: Placement, stats: Stats, store: TileStore, failed: TileResult
) -> TileResult:
    """The source interpolated, as where there is no guide, in place of a tile that failed; it keeps its failure.

    A tile whose source cannot be read, or for which the memory does not suffice even so, stays failed.
    """
    tile = failed.tile
    try:
        pair = _read_without_guide(plan, tile)
        if pair is None:
            return store.save(TileResult(tile))
        solution = solve_tile(methods.create(WITHOUT_GUIDE), plan, placement, stats, pair, tile)
    except ChangedInputError:
        raise
    except (InputError, TileError, MemoryError):
        return failed
    expected = _expected_square(pair, tile, solution)
    valid, spikes = _counts(pair, tile)[0], _count_spikes(stats, pair, tile)
    interpolated = replace(failed, centre=solution.centre, valid=valid, expected=expected, spikes=spikes)
    return _save(plan, store, interpolated, solution)


def _read_without_guide(plan: Plan, tile: Tile) -> Pair | None:
    """The tile with the guide missing everywhere; None where the source has no valid pixel."""
    source, valid = plan.scene.read_source(tile.window)
    if not valid.any():
        return None
    source = plan.confine(source)
    Encoding.choose(plan.scene.source, plan.recipe.dtype).check(source[valid])
    rows, cols = tile.window.times(plan.scene.grids.scale).shape
    bands = plan.scene.guide.channels if plan.reads_guide else 0
    nowhere = np.zeros((rows, cols), bool)
    return Pair(np.zeros((bands, rows, cols), np.float32), nowhere, source, valid)


def solve_tile(method: Method, plan: Plan, placement: Placement, stats: Stats, pair: Pair, tile: Tile) -> Solution:
    """`method` on one tile as the plan has it, with the threads and the seed that the tile gets."""
    from geosr.device import torch_threads
    from geosr.methods.solve import solve, stats_for

    with torch_threads(placement.threads):
        solution = solve(
            pair,
            method,
            stats=stats_for(method, pair, stats),
            consistency=plan.consistency,
            seed=_seed(plan, tile),
            device=placement.device,
            state=plan.state,
            influence=Layer.INFLUENCE in plan.layers,
        )
    rounding = Encoding.choose(plan.scene.source, plan.recipe.dtype).rounding
    return replace(solution, deviation=np.hypot(solution.deviation, rounding)) if rounding else solution


def _seed(plan: Plan, tile: Tile) -> int:
    return int(np.random.SeedSequence([plan.recipe.seed, tile.index]).generate_state(1, np.uint64)[0] >> 1)


def _save(plan: Plan, store: TileStore, result: TileResult, solution: Solution) -> TileResult:
    """All of a tile's rasters; what makes it a finished one last."""
    values = {Layer.INFLUENCE: solution.influence, Layer.UNCERTAINTY: solution.deviation}
    for layer in plan.layers:
        store.layer(layer).save(replace(result, centre=0.0), values[layer])
    return store.save(result, solution.values)


def _counts(pair: Pair, tile: Tile) -> tuple[int, float]:
    """Valid source pixels of the tile's core, and how many of them the guide covers."""
    core = tile.core.relative_to(tile.window)
    valid = pair.source_valid[core.slices]
    if not len(pair.guide):
        return int(valid.sum()), 0.0
    covered = pair.guide_valid[core.times(pair.scale).slices] & spread(valid, pair.scale)
    return int(valid.sum()), float(covered.sum()) / pair.scale**2


def _count_spikes(stats: Stats, pair: Pair, tile: Tile) -> int:
    """In the tile's core."""
    return int(stats.spikes(pair)[tile.core.relative_to(tile.window).slices].sum())


def _expected_square(pair: Pair, tile: Tile, solution: Solution) -> float:
    """Mean square of the estimated error over the core's valid pixels."""
    core = tile.core.relative_to(tile.window)
    valid = spread(pair.source_valid[core.slices], pair.scale)
    deviation = solution.deviation[core.times(pair.scale).slices]
    return float((deviation[valid] ** 2).sum()) / max(int(valid.sum()), 1)
