"""How much memory a run takes, about, and sharing out what there is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from geosr.errors import UsageError
from geosr.plan import Plan
from geosr.tiling import smallest_tile

PROCESS = 500_000_000
"""Bytes of a process without a tile: 320 MB with bicubic, 490 MB with torch's optimisers (p2p)."""


@dataclass(frozen=True)
class Load:
    """What is in memory at the peak of a run on this machine's processors.

    Attributes:
        plan: of the run.
        workers: groups of tiles in progress at once.
        batch: tiles to a group.
        processes: whether each worker is a process of its own, beside the coordinating one.
    """

    plan: Plan
    workers: int
    batch: int = 1
    processes: bool = False

    @property
    def peak(self) -> int:
        """Bytes, about; where a scene's fit leaves the tiles to be predicted only, it is less."""
        at_once = min(self.workers, -(-len(self.plan.tiles) // self.batch))
        return PROCESS + at_once * self._worker(self.plan.tiles[0].window.shape)

    def most_workers(self, limit: int) -> int:
        """As many as `limit` bytes hold, at least 1."""
        return max((limit - PROCESS) // self._worker(self.plan.tiles[0].window.shape), 1)

    def check(self, limit: int) -> None:
        """See that it is no more than `limit` bytes.

        Raises:
            UsageError: it is; with the options that would do, those that change the output last.
        """
        if self.peak > limit:
            raise UsageError(
                f"the run needs about {self.peak / 1e9:,.2f} GB of memory and {limit / 1e9:,.2f} GB are there; "
                f"{self._advice(limit)}"
            )

    def _worker(self, shape: tuple[int, int]) -> int:
        """Bytes of a worker whose tiles have so many source pixels."""
        scale, bands = self.plan.scene.grids.scale, self.plan.scene.guide.channels
        tile = self.plan.method.memory(bands, (scale * shape[0], scale * shape[1]), scale)
        return max(self.batch * tile + self.processes * PROCESS, 1)

    def _advice(self, limit: int) -> str:
        fewer = replace(self, workers=self.most_workers(limit))
        if fewer.peak <= limit:
            return f"--workers {fewer.workers} would do"
        for batch in range(self.batch - 1, 0, -1):
            if replace(fewer, batch=batch).peak <= limit:
                return f"--workers 1 --batch {batch} would do"
        if side := replace(fewer, batch=1)._largest_tile(limit):
            return f"--workers 1 {'--batch 1 ' * (self.batch > 1)}--tile {side} would do"
        return f"no smaller tile of {self.plan.method.name} would do"

    def _largest_tile(self, limit: int) -> int | None:
        """Output pixels to the side of the largest tile that one worker has memory for; None where there is none."""
        scale, (rows, cols) = self.plan.scene.grids.scale, self.plan.scene.grids.low.shape
        smallest = smallest_tile(scale, self.plan.method.halo(scale))
        for side in range(max(self.plan.tiles[0].window.shape), smallest // scale - 1, -1):
            if PROCESS + self._worker((min(side, rows), min(side, cols))) <= limit:
                return side * scale
        return None


class Memory:
    """What there is for the tiles of several runs together, each run on a thread of its own."""

    def __init__(self, size: int) -> None:
        """`size` in bytes."""
        self.size = size
        self._free = size
        self._changed = threading.Condition()

    @contextmanager
    def part(self, size: int, on_wait: Callable[[], None]) -> Iterator[None]:
        """`size` bytes of it, at most all, for the block; other runs are waited for until so many are free.

        `on_wait` is called in the caller's thread before it waits.
        """
        with self._changed:
            if self._free < size:
                on_wait()
            self._changed.wait_for(lambda: self._free >= size)
            self._free -= size
        try:
            yield
        finally:
            with self._changed:
                self._free += size
                self._changed.notify_all()


def most_processes(limit: int) -> int:
    """As many worker processes as `limit` bytes hold if the tiles of each take as much as itself, at least 1."""
    return max((limit - PROCESS) // (2 * PROCESS), 1)
