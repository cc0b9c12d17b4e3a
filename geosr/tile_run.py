"""The stage of the tiles: keep what an earlier run stored, work on the rest, try again, say how it goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from geosr.errors import OutputError
from geosr.options import Event, Note, Progress, TileFailed
from geosr.runner import Pool
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
    scale: int,
    pool: Pool,
    on_event: Callable[[Event], None],
) -> TileRun:
    """`work` on every tile that is not in `store` already.

    A tile whose failure may pass gets a second attempt when all others are done, one at a time: what failed for
    want of memory has the machine to itself then.

    Args:
        work: stores the tile, or gives its failure; called from several threads or processes at once. What it
            raises ends the run.
        tiles: all of the scene.
        store: what an earlier run left.
        scale: output pixels to one source pixel along a side.
        pool: where the tiles are worked on.
        on_event: told of every tile.
    """
    stored = _stored(tiles, store, on_event)
    tally = _Tally(len(tiles), stored, scale, on_event)
    rest = [tile for tile in tiles if tile.index not in stored]
    pool.run(work, rest, on_done=tally.add, on_lost=_lost)
    again = [result.tile for result in tally.results.values() if result.retry]
    pool.run(work, again, on_done=tally.add_again, on_lost=_lost, at_once=1)
    return TileRun([tally.results[tile.index] for tile in tiles], len(stored))


def _lost(tile: Tile, why: str) -> TileResult:
    return TileResult(tile, failure=why)


class _Tally:
    """Results by tile index as they come, each told of."""

    def __init__(
        self, total: int, stored: dict[int, TileResult], scale: int, on_event: Callable[[Event], None]
    ) -> None:
        self.results = dict(stored)
        self._total, self._stored, self._scale, self._on_event = total, len(stored), scale, on_event
        self._failed: set[int] = set()
        self._retried = 0
        self._started = time.monotonic()
        on_event(Progress(self._stored, total))

    def add(self, result: TileResult) -> None:
        """The first attempt's result."""
        self.results[result.tile.index] = result
        self._tell(result, retry=result.retry)

    def add_again(self, result: TileResult) -> None:
        """The second attempt's, which is the last."""
        self.results[result.tile.index] = result
        self._retried += 1
        self._tell(result, retry=False)

    def _tell(self, result: TileResult, *, retry: bool) -> None:
        index = result.tile.index
        if result.failure is None:
            self._failed.discard(index)
        else:
            self._failed.add(index)
            window = result.tile.window.times(self._scale)
            self._on_event(TileFailed(index, window.row, window.col, result.failure, retry))
        rate = (len(self.results) - self._stored) / (time.monotonic() - self._started)
        done, failed = len(self.results) - len(self._failed), len(self._failed)
        self._on_event(Progress(done, self._total, failed, self._retried, rate))


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
