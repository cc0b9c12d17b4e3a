"""Where a run does its work: device, workers, threads, tiles fitted together, and what runs them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from geosr.errors import UsageError
from geosr.events import Note
from geosr.fitness import make_look
from geosr.machine import memory_limit, processors
from geosr.memory import PROCESS, Load, Memory, most_processes
from geosr.options import Execution
from geosr.plan import Plan
from geosr.runner import Pool, Threads

_LARGEST_BATCH = 32  # tiles planned to be fitted together at most: a kill costs all of them


@dataclass(frozen=True)
class Placement:
    """Where tiles are worked on: `workers` at once, each with `threads` of the processor, and one of `gpus` if any.

    A fit for the scene has the `fit_threads`.
    `batch` tiles are fitted together; `planned` says that the free memory decided how many.
    The tiles in progress take about `memory` bytes of this machine; None where that is not known.
    """

    device: str
    workers: int
    threads: int
    fit_threads: int
    gpus: tuple[str, ...] = ()
    batch: int = 1
    planned: bool = False
    memory: int | None = None


@dataclass(frozen=True)
class Crew:
    """Workers that several runs share, each run on a thread of its own.

    Attributes:
        pool: the workers.
        runs: at once at most.
        workers: for the tiles of one run at most.
        memory: for the tiles of all runs; None where they are not on this machine's processors, or nobody can tell.
    """

    pool: Pool
    runs: int
    workers: int
    memory: Memory | None

    def room(self, placement: Placement, execution: Execution) -> AbstractContextManager[None]:
        """Memory for the tiles of a run, for the block; it may have to wait for other runs."""
        if self.memory is None or placement.memory is None:
            return nullcontext()

        def tell() -> None:
            execution.on_event(Note("this pair waited until others freed memory"))

        return self.memory.part(placement.memory, tell)

    def at_once(self, placement: Placement) -> int | None:
        """Groups of tiles in progress at once at most, where they are fewer than there are workers."""
        return placement.workers if placement.workers < self.pool.workers else None


def place(tiles: int, execution: Execution) -> Placement:
    """Decide device, workers and threads.

    Threads a tile are those of `execution`, or follow from the number of tiles and the machine; never from the
    workers, so that the number of workers changes no bit of the output.

    Raises:
        UnavailableError: the device asked for is not there, or has no memory left.
    """
    from geosr.device import pick_device, pick_gpus

    cores = processors()
    fit_threads = execution.threads or cores
    if execution.gpus is not None:
        gpus = pick_gpus(execution.gpus)
        return Placement("cuda", len(gpus), 1, fit_threads, gpus)
    device = pick_device(execution.device)
    if device != "cpu":
        return Placement(device, execution.workers or 1, 1, fit_threads)
    threads = execution.threads or max(1, cores // tiles)
    return Placement(device, execution.workers or max(1, cores // threads), threads, fit_threads)


def place_plan(plan: Plan, execution: Execution, crew: Crew | None = None) -> Placement:
    """Decide device, workers, threads, and how many tiles are fitted together.

    Args:
        plan: of the run.
        execution: of the run, or of all that share the crew.
        crew: whose workers it gets; workers of its own when None.

    Raises:
        UnavailableError: the device asked for is not there, or has no memory left.
        UsageError: a batch was asked for and would change nothing, or there is too little memory.
    """
    from geosr.device import free_memory

    check_batch(plan, execution)
    tiles, device = len(plan.tiles), place(len(plan.tiles), execution).device
    planned = execution.batch is None and device != "cpu" and plan.method.fits_together and plan.fit == "tile"
    batch = tiles_that_fit(plan, free_memory(execution.gpus)) if planned else min(execution.batch or 1, tiles)
    placement = replace(place(-(-tiles // batch), execution), batch=batch, planned=planned)
    processes = execution.scheduler == "processes"
    limit = _limit(device, execution)
    if crew:
        placement = replace(placement, workers=crew.workers)
        processes = False  # they are counted already
        limit = None if crew.memory is None else crew.memory.size + PROCESS
    return placement if limit is None else _within(limit, plan, placement, execution, processes=processes)


def _limit(device: str, execution: Execution) -> int | None:
    """Bytes that there are for the work; None where it is not on this machine's processors, or nobody can tell."""
    elsewhere = device != "cpu" or execution.scheduler.startswith("tcp://")
    return None if elsewhere else memory_limit()


def _within(limit: int, plan: Plan, placement: Placement, execution: Execution, *, processes: bool) -> Placement:
    """As many workers as there is memory for, if nobody asked for more: they change no bit of the output."""
    load = Load(plan, placement.workers, placement.batch, processes)
    if execution.workers is None:
        load = replace(load, workers=min(load.workers, load.most_workers(limit)))
    load.check(limit)
    return replace(placement, workers=load.workers, memory=load.peak - PROCESS)


def check_batch(plan: Plan, execution: Execution) -> None:
    """See that a batch that is asked for has something to change.

    Raises:
        UsageError: it has not.
    """
    if (execution.batch or 1) == 1:
        return
    if not plan.method.fits_together:
        raise UsageError(f"{plan.method.name} does not fit tiles together; leave --batch out")
    if plan.fit == "scene":
        raise UsageError("--batch fits tiles together that each have a fit of their own: it needs --fit tile")


def tiles_that_fit(plan: Plan, free: int) -> int:
    """How many tiles to fit together in `free` bytes: what half of them hold, for the method's figure is a CPU's.

    A power of two, so that a few bytes more or less make no other batch.
    """
    shape = plan.tiles[0].window.times(plan.scene.grids.scale).shape
    room = free // 2 // max(plan.method.memory(plan.scene.guide.channels, shape, plan.scene.grids.scale), 1)
    return 1 << max(min(room, len(plan.tiles), _LARGEST_BATCH), 1).bit_length() - 1


@contextmanager
def open_pool(
    plan: Plan, placement: Placement, folder: Path, execution: Execution, crew: Crew | None = None
) -> Iterator[Pool]:
    """What the tiles of one run are worked on by: a crew's workers, or its own.

    Raises:
        UnavailableError: it cannot be had.
    """
    rasters = plan.scene.source, plan.scene.guide
    files = {file.path: file.fingerprint[0] for raster in rasters for file in raster.files}
    if weights := plan.method.weights:
        files[weights.path] = weights.size
    if crew:
        yield _looked_at(crew.pool, files, folder, placement.device, plan.method.name)
        return
    own = replace(placement, workers=min(placement.workers, len(plan.tiles)))
    with _open(own, files, folder, execution, plan.method.name) as pool:
        yield pool


def _looked_at(pool: Pool, files: Mapping[Path, int], folder: Path, device: str, method: str) -> Pool:
    """A pool whose workers see to it before they work on this run, where that is not known of them."""
    if isinstance(pool, Threads):
        return pool
    from geosr.cluster import Cluster

    if not isinstance(pool, Cluster) or pool.look is None:
        return pool
    return replace(pool, look=make_look(files, folder, device, method))


@contextmanager
def open_crew(
    runs: int, files: Mapping[Path, int], folder: Path, execution: Execution, method: str | None
) -> Iterator[Crew]:
    """What the tiles of several runs are worked on by, which share its workers and this machine's memory.

    Args:
        runs: how many there are.
        files: what they read, with sizes in bytes: an existing cluster must see them.
        folder: a private one, for what the workers put on disk; an existing cluster must be able to write there.
        execution: for all of them together, with its `threads` set.
        method: of all of them; None where each run has its own.

    Raises:
        UnavailableError: it cannot be had.
        UsageError: more worker processes were asked for than there is memory for.
    """
    placement = place(1, execution)
    limit, processes = _limit(placement.device, execution), execution.scheduler == "processes"
    if processes and limit is not None:
        placement = replace(placement, workers=_as_many_processes(placement.workers, limit, execution))
    memory = None if limit is None else Memory(limit - (1 + processes * placement.workers) * PROCESS)
    with _open(placement, files, folder, execution, method) as pool:
        at_once = max(1, min(pool.workers, runs))
        shared = processes or (execution.workers is None and execution.scheduler != "threads")
        yield Crew(pool, at_once, pool.workers if shared else pool.workers // at_once, memory)


def _as_many_processes(workers: int, limit: int, execution: Execution) -> int:
    """The worker processes, or unasked as many as leave `limit` bytes room for their tiles.

    Raises:
        UsageError: so many were asked for that there is no room for any tile.
    """
    most = most_processes(limit)
    if execution.workers is None:
        return min(workers, most)
    if (1 + workers) * PROCESS >= limit:
        needed, there = (1 + workers) * PROCESS / 1e9, limit / 1e9
        raise UsageError(
            f"{workers} worker processes need about {needed:,.2f} GB of memory without any tile and {there:,.2f} GB "
            f"are there; --workers {most} would leave room for tiles"
        )
    return workers


@contextmanager
def _open(
    placement: Placement, files: Mapping[Path, int], folder: Path, execution: Execution, method: str | None
) -> Iterator[Pool]:
    if execution.scheduler == "threads":
        yield Threads(placement.workers)
        return
    from geosr import cluster  # takes a while

    timeout = execution.tile_timeout
    if execution.scheduler == "processes":
        workers, gpus = placement.workers, placement.gpus[: placement.workers]
        with cluster.start_processes(workers, folder / "workers", gpus=gpus, timeout=timeout) as pool:
            yield pool
        return
    look = make_look(files, folder, placement.device, method)
    with cluster.connect(execution.scheduler, execution.workers, look, timeout=timeout) as pool:
        if address := cluster.dashboard(pool.client):
            execution.on_event(Note(f"Dask's dashboard: {address}"))
        yield pool
