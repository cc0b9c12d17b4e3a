"""What a run will take: disk, memory and time, about."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from geosr.options import Execution, processors
from geosr.outputs import LAYER_ENCODING
from geosr.pair import Stats
from geosr.placement import place
from geosr.plan import Plan
from geosr.sampling import FIT_TILES
from geosr.scene import find_valid
from geosr.tile_work import solve_tile

if TYPE_CHECKING:
    from geosr.methods.base import Method


def scratch_bytes(plan: Plan) -> int:
    """Disk that a run takes until its end, about: the tiles, a mosaic before compression, and the outputs.

    An output with its overviews (a third more pixels, which GDAL makes in a file of their own first) is taken as if it
    could not be compressed.
    """
    scale, rows, cols = plan.scene.grids.scale, *plan.scene.grids.high.shape
    tiles = sum(tile.window.height * tile.window.width for tile in plan.tiles) * scale**2 * 4
    mosaic = rows * cols * np.dtype(plan.recipe.dtype).itemsize
    further = tiles + rows * cols * np.dtype(LAYER_ENCODING.dtype).itemsize * 4 // 3
    return tiles + mosaic + mosaic * 5 // 3 + len(plan.layers) * further


def memory_bytes(plan: Plan, execution: Execution) -> int:
    """Memory at the peak of a run, about; torch is not loaded, and a batch that a GPU's memory would decide is 1."""
    batch = min(execution.batch or 1, len(plan.tiles))
    workers = execution.workers or min(processors(), -(-len(plan.tiles) // batch))
    shape = plan.tiles[0].window.times(plan.scene.grids.scale).shape
    return workers * batch * plan.method.memory(plan.scene.guide.channels, shape)


def run_seconds(plan: Plan, execution: Execution) -> float:
    """About how long a run will take here, from a small part of one tile's work that is done and timed.

    Raises:
        UnavailableError: as `place`.
        InputError: no pixel of the source is valid.
        TileError: the work failed.
    """
    placement = place(len(plan.tiles), execution)
    tile, pair = find_valid(plan.scene, plan.tiles, with_guide=plan.reads_guide)
    stats, trial = Stats.measure([pair], noise=True), plan.method.trial()

    def seconds(method: Method) -> float:
        started = time.monotonic()
        solve_tile(method, plan, placement, stats, pair, tile)
        return time.monotonic() - started

    seconds(trial.less)  # not counted: loading and first allocations
    less, more = seconds(trial.less), seconds(trial.more)
    fit, turns = trial.times * max(more - less, 0), -(-len(plan.tiles) // placement.workers)
    if plan.fits_scene:
        return fit * min(FIT_TILES, len(plan.tiles)) + less * turns
    return (less + fit) * turns
