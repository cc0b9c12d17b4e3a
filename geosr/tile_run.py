"""The stage of the tiles: keep what an earlier run stored, work on the rest, say how it goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from geosr.errors import OutputError
from geosr.options import Event, Note, Progress
from geosr.runner import run
from geosr.store import TileResult, TileStore
from geosr.tiling import Tile


@dataclass(frozen=True)
class TileRun:
    """What became of the tiles: one result for each, in their order, `resumed` of them from an earlier run."""

    results: list[TileResult]
    resumed: int


def run_tiles(
    work: Callable[[Tile], TileResult],
    tiles: Sequence[Tile],
    store: TileStore,
    *,
    workers: int,
    on_event: Callable[[Event], None],
) -> TileRun:
    """`work` on every tile that is not in `store` already.

    Args:
        work: stores the tile; called from several threads at once.
        tiles: all of the scene.
        store: what an earlier run left.
        workers: tiles in work at once.
        on_event: told of every tile.
    """
    results = _stored(tiles, store, on_event)
    resumed = len(results)

    started = time.monotonic()

    def tell(result: TileResult) -> None:
        results[result.tile.index] = result
        rate = (len(results) - resumed) / (time.monotonic() - started)
        on_event(Progress(len(results), len(tiles), rate))

    on_event(Progress(resumed, len(tiles)))
    run(work, [tile for tile in tiles if tile.index not in results], workers=workers, on_done=tell)
    return TileRun([results[tile.index] for tile in tiles], resumed)


def _stored(tiles: Sequence[Tile], store: TileStore, on_event: Callable[[Event], None]) -> dict[int, TileResult]:
    """The tiles of an earlier run, each read and compared with its digest; a damaged one counts as not done."""
    found, damaged = {}, 0
    for tile in tiles:
        try:
            result = store.find(tile)
        except OutputError:
            damaged += 1
            continue
        if result:
            found[tile.index] = result
    if found or damaged:
        also = f"; {damaged} more were damaged and are made anew" if damaged else ""
        on_event(Note(f"continuing an earlier run: {len(found)} of {len(tiles)} tiles are done{also}"))
    return found
