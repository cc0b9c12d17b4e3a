"""Running a function over items under Dask. Knows nothing of rasters or torch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from geosr.errors import GeosrError

Item = TypeVar("Item")
Result = TypeVar("Result")

_AHEAD = 2  # tasks a worker has queued: enough to stay busy, few enough to hold no scene in memory


def run(function: Callable[[Item], Result], items: Sequence[Item], *, workers: int) -> Iterator[tuple[Item, Result]]:
    """`function` of every item, as they finish, `workers` at a time.

    Work runs on threads of a local Dask scheduler that listens to nobody; with one worker or one item it
    runs right here. The first error ends the run: nothing further is started, and it is raised as it is.

    Args:
        function: called from several threads at once.
        items: in the order in which they are started.
        workers: how many at a time.

    Yields:
        An item and its result, in order of completion.
    """
    if min(workers, len(items)) <= 1:
        for item in items:
            yield item, function(item)
        return
    yield from _run_on_dask(function, items, min(workers, len(items)))


def _run_on_dask(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int
) -> Iterator[tuple[Item, Result]]:
    from distributed import Client, LocalCluster, as_completed

    cluster = LocalCluster(
        processes=False,
        n_workers=1,
        threads_per_worker=workers,
        dashboard_address=None,
        memory_limit=0,
        protocol="inproc://",
        silence_logs=logging.CRITICAL,
    )
    with cluster, Client(cluster) as client:
        waiting = iter(enumerate(items))
        pending: dict[str, Item] = {}

        def submit() -> list[object]:
            for position, item in waiting:
                future = client.submit(_call, function, item, key=f"tile-{position}", pure=False, retries=0)
                pending[future.key] = item
                return [future]
            return []

        futures = as_completed([f for _ in range(workers * _AHEAD) for f in submit()])
        try:
            for future in futures:
                outcome = future.result()
                if isinstance(outcome, BaseException):
                    raise outcome
                yield pending.pop(future.key), outcome
                for following in submit():
                    futures.add(following)
        finally:
            client.cancel(list(futures.futures), force=True)


def _call(function: Callable[[Item], Result], item: Item) -> Result | Exception:
    """Errors travel as values, so that Dask neither retries nor logs what geosr reports itself."""
    try:
        return function(item)
    except GeosrError as error:
        return error
