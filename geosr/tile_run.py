"""The stage of the tiles: keep what an earlier run stored, work on the rest, try again, say how it goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from geosr.errors import OutputError
from geosr.events import Event, Note, Progress, TileFailed
from geosr.runner import Pool
from geosr.tile_store import TileResult, TileStore
from geosr.tiling import Tile


@dataclass(frozen=True)
class TileRun:
    """What became of the tiles: one result for each, in their order, `resumed` of them from an earlier run."""

    results: list[TileResult]
    resumed: int


Group = tuple[Tile, ...]
"""Tiles that follow each other and are worked on as one."""


def run_tiles(
    work: Callable[[Group], list[TileResult]],
    tiles: Sequence[Tile],
    store: TileStore,
    *,
    batch: int,
    scale: int,
    pool: Pool,
    at_once: int | None = None,
    on_event: Callable[[Event], None],
) -> TileRun:
    """`work` on every group of tiles that is not whole in `store` already.

    A tile whose failure may pass gets a second attempt when all others are done, one at a time: what failed for
    want of memory has the machine to itself then. Its group comes with it, for a tile's rounding follows from what
    it is fitted together with.

    Args:
        work: stores each tile of a group, or gives its failure; called from several threads or processes at
            once. What it raises ends the run.
        tiles: all of the scene.
        store: what an earlier run left.
        batch: tiles to a group.
        scale: output pixels to one source pixel along a side.
        pool: where the tiles are worked on.
        at_once: groups in progress at once at most, where they are to be fewer than the pool's workers.
        on_event: told of every tile.
    """
    groups = [tuple(tiles[first : first + batch]) for first in range(0, len(tiles), batch)]
    stored = _stored(groups, store, on_event)
    tally = _Tally(len(tiles), stored, scale, on_event)
    rest = [group for group in groups if group[0].index not in stored]

    def tell(text: str) -> None:
        on_event(Note(text))

    pool.run(work, rest, on_done=tally.add, on_lost=_lost, tell=tell, at_once=at_once)
    again = [group for group in rest if any(tally.results[tile.index].retry for tile in group)]
    pool.run(work, again, on_done=tally.add_again, on_lost=_lost, tell=tell, at_once=1)
    return TileRun([tally.results[tile.index] for tile in tiles], len(stored))


def _lost(group: Group, why: str) -> list[TileResult]:
    return [TileResult(tile, failure=why) for tile in group]


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

    def add(self, group: list[TileResult]) -> None:
        """The first attempt's results."""
        for result in group:
            self.results[result.tile.index] = result
            self._tell(result, retry=result.retry)

    def add_again(self, group: list[TileResult]) -> None:
        """The second attempt's, which is the last."""
        for result in group:
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
        rate = (len(self.results) - self._stored) / max(time.monotonic() - self._started, 1e-9)
        done, failed = len(self.results) - len(self._failed), len(self._failed)
        self._on_event(Progress(done, self._total, failed, self._retried, rate))


def _stored(groups: Sequence[Group], store: TileStore, on_event: Callable[[Event], None]) -> dict[int, TileResult]:
    """The tiles of an earlier run whose group is whole, each read and compared with its digest.

    A damaged one counts as not done.
    """
    found: dict[int, TileResult] = {}
    damaged = parted = 0
    for group in groups:
        whole = []
        for tile in group:
            try:
                whole += [result] if (result := store.find(tile)) else []
            except OutputError:
                damaged += 1
        if len(whole) == len(group):
            found |= {result.tile.index: result for result in whole}
        else:
            parted += len(whole)
    if found or damaged or parted:
        also = f"; {damaged} more were damaged and are recomputed" if damaged else ""
        also += f"; {parted} more are recomputed with the rest of their batch" if parted else ""
        total = sum(map(len, groups))
        on_event(Note(f"continuing an earlier run: {len(found)} of {total} tiles are done{also}"))
    return found
