"""Running a function over items under Dask. Knows nothing of rasters or torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import dask.threaded
from dask.callbacks import Callback

Item = TypeVar("Item")
Result = TypeVar("Result")


def run(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    workers: int,
    on_done: Callable[[Result], None] = lambda result: None,
) -> list[Result]:
    """`function` of every item, `workers` at a time, on Dask's threads.

    No more than `workers` items are in work or waiting in a queue. The first error, or an interruption, ends
    the run at once: nothing further is started, and what is still in work on other threads is left behind.

    Args:
        function: called from several threads at once.
        items: each is started once, in whatever order Dask finds.
        workers: how many at a time.
        on_done: called in the caller's thread with each result as it comes.

    Returns:
        The results in the order of the items.
    """

    def tell(key: str, result: Result, *_: Any) -> None:
        on_done(result)

    graph = {f"item-{position}": (partial(function, item),) for position, item in enumerate(items)}
    with Callback(posttask=tell):
        return list(dask.threaded.get(graph, list(graph), num_workers=workers))
