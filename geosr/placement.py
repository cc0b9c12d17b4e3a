"""Where a run does its work: device, workers, threads, tiles fitted together, and what runs them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from geosr.errors import UsageError
from geosr.memory import Load, memory_limit
from geosr.options import Execution, Note, processors
from geosr.plan import Plan
from geosr.runner import Pool, Threads

_LARGEST_BATCH = 32  # tiles planned to be fitted together at most: a kill costs all of them


@dataclass(frozen=True)
class Placement:
    """Where tiles are worked on: `workers` at once, each with `threads` of the processor, and one of `gpus` if any.

    A fit for the scene has the `fit_threads`.
    `batch` tiles are fitted together; `planned` says that the free memory decided how many.
    """

    device: str
    workers: int
    threads: int
    fit_threads: int
    gpus: tuple[str, ...] = ()
    batch: int = 1
    planned: bool = False


def place(tiles: int, execution: Execution) -> Placement:
    """Decide device, workers and threads.

    Threads a tile are those of `execution`, or follow from the number of tiles and the machine; never from the
    workers, so that the number of workers changes no bit of the output.

    Raises:
        UnavailableError: the device asked for is not there.
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


def place_plan(plan: Plan, execution: Execution) -> Placement:
    """Decide device, workers, threads, and how many tiles are fitted together.

    Raises:
        UnavailableError: the device asked for is not there.
        UsageError: a batch was asked for and would change nothing, or there is too little memory.
    """
    from geosr.device import free_memory

    check_batch(plan, execution)
    tiles, device = len(plan.tiles), place(len(plan.tiles), execution).device
    planned = execution.batch is None and device != "cpu" and plan.method.fits_together and plan.fit == "tile"
    batch = plan_batch(plan, free_memory(device)) if planned else min(execution.batch or 1, tiles)
    placement = replace(place(-(-tiles // batch), execution), batch=batch, planned=planned)
    limit = memory_limit()
    elsewhere = device != "cpu" or execution.scheduler.startswith("tcp://")
    return placement if elsewhere or limit is None else _within(limit, plan, placement, execution)


def _within(limit: int, plan: Plan, placement: Placement, execution: Execution) -> Placement:
    """As many workers as there is memory for, if nobody asked for more: they change no bit of the output."""
    load = Load(plan, placement.workers, placement.batch, execution.scheduler == "processes")
    if execution.workers is None:
        load = replace(load, workers=min(load.workers, load.most_workers(limit)))
    load.check(limit)
    return replace(placement, workers=load.workers)


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


def plan_batch(plan: Plan, free: int) -> int:
    """How many tiles to fit together in `free` bytes: what half of them hold, for the method's figure is a CPU's.

    A power of two, so that a few bytes more or less make no other batch.
    """
    shape = plan.tiles[0].window.times(plan.scene.grids.scale).shape
    room = free // 2 // max(plan.method.memory(plan.scene.guide.channels, shape), 1)
    return 1 << max(min(room, len(plan.tiles), _LARGEST_BATCH), 1).bit_length() - 1


@contextmanager
def open_pool(plan: Plan, placement: Placement, folder: Path, execution: Execution) -> Iterator[Pool]:
    """What the tiles are worked on by.

    Raises:
        UnavailableError: it cannot be had.
    """
    if execution.scheduler == "threads":
        yield Threads(placement.workers)
        return
    from geosr import cluster  # takes a while

    timeout = execution.tile_timeout

    def tell(text: str) -> None:
        execution.on_event(Note(text))

    if execution.scheduler == "processes":
        workers = min(placement.workers, len(plan.tiles))
        gpus = placement.gpus[:workers]
        with cluster.start_processes(workers, folder / "workers", gpus=gpus, timeout=timeout, tell=tell) as pool:
            yield pool
        return
    files = {file.path: file.fingerprint[0] for file in (plan.scene.source, plan.scene.guide)}
    if weights := plan.method.weights:
        files[weights.path] = weights.size
    with cluster.connect(execution.scheduler, execution.workers, files, folder, timeout=timeout, tell=tell) as pool:
        if address := cluster.dashboard(pool.client):
            execution.on_event(Note(f"Dask's dashboard: {address}"))
        yield pool
