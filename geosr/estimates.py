"""What a run will take: disk, memory and time, about."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from geosr.errors import TileError
from geosr.machine import memory_limit, processors
from geosr.memory import Load
from geosr.options import Execution
from geosr.outputs import LAYER_ENCODING
from geosr.pair import Pair, Stats
from geosr.placement import Placement, place_plan
from geosr.plan import Plan
from geosr.sampling import FIT_TILES
from geosr.scene import find_valid
from geosr.tile_work import fit_group, solve_tile
from geosr.tiling import Tile

if TYPE_CHECKING:
    from geosr.methods.base import Method


def scratch_bytes(plan: Plan) -> int:
    """Disk that a run takes until its end, about: the tiles, a mosaic before compression, and the outputs.

    An output with its overviews (a third more pixels, which GDAL makes in a file of their own first) is taken as if it
    could not be compressed.
    """
    scale, rows, cols = plan.scene.grids.scale, *plan.scene.grids.high.shape
    tiles = sum(tile.window.pixels for tile in plan.tiles) * scale**2 * 4
    mosaic = rows * cols * np.dtype(plan.recipe.dtype).itemsize
    further = tiles + rows * cols * np.dtype(LAYER_ENCODING.dtype).itemsize * 4 // 3
    return tiles + mosaic + mosaic * 5 // 3 + len(plan.layers) * further


def memory_load(plan: Plan, execution: Execution) -> Load:
    """What is in memory at the peak of a run; torch is not loaded, and a batch that a GPU would decide is 1."""
    batch = min(execution.batch or 1, len(plan.tiles))
    load = Load(plan, execution.workers or processors(), batch, execution.scheduler == "processes")
    limit = memory_limit()
    if execution.workers or limit is None:
        return load
    return replace(load, workers=min(load.workers, load.most_workers(limit)))


def run_seconds(plan: Plan, execution: Execution) -> float:
    """About how long a run will take here, from a small part of one batch's work that is done and timed.

    Raises:
        UsageError, UnavailableError: as `place_plan`.
        InputError: no pixel of the source is valid.
        TileError: the work failed.
    """
    placement, trial = place_plan(plan, execution), plan.method.trial()
    group = plan.tiles[: placement.batch]
    _, pair = find_valid(plan.scene, plan.tiles, with_guide=plan.reads_guide)  # stands for each of the group
    stats = Stats.robust([pair])

    def seconds(method: Method) -> float:
        started = time.monotonic()
        _solve_group(replace(plan, method=method), placement, stats, group, pair)
        return time.monotonic() - started

    seconds(trial.less)  # not counted: loading and first allocations
    less, more = seconds(trial.less), seconds(trial.more)
    fit = trial.times * max(more - less, 0)
    turns = -(-len(plan.tiles) // (len(group) * placement.workers))
    if plan.fits_scene:
        threads = placement.fit_threads if trial.threaded and placement.device == "cpu" else 1
        at_once = FIT_TILES if trial.together else threads
        return fit * -(-min(FIT_TILES, len(plan.tiles)) // at_once) + less * turns
    return (less + fit) * turns


def _solve_group(plan: Plan, placement: Placement, stats: Stats, group: Sequence[Tile], pair: Pair) -> None:
    """The work on tiles that all hold the same pair."""
    fits = fit_group(plan, placement, stats, group, [pair] * len(group)) if len(group) > 1 else {}
    for tile in group:
        found = fits[tile.index].found if tile.index in fits else None
        if isinstance(found, TileError):
            raise found
        solve_tile(plan.method, replace(plan, state=found), placement, stats, pair, tile)
