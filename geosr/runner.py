"""Running a function over items under Dask, on threads or in other processes. Knows nothing of rasters or torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import dask.threaded

_AT_ONCE = 1024  # items given to Dask together: it keeps kilobytes for each until all are done

Item = TypeVar("Item")
Result = TypeVar("Result")


class Pool(Protocol):
    """Where items are worked on; several threads may give it items at once."""

    @property
    def workers(self) -> int:
        """Items in progress at once."""

    def run(
        self,
        function: Callable[[Item], Result],
        items: Sequence[Item],
        *,
        on_done: Callable[[Result], None],
        on_lost: Callable[[Item, str], Result],
        tell: Callable[[str], None],
        at_once: int | None = None,
    ) -> list[Result]:
        """`function` of every item; what it raises, or an interruption, ends the run at once.

        Args:
            function: called from several threads or processes at once.
            items: each is started once, in whatever order Dask finds; again only if its process died.
            on_done: called in the caller's thread with each result as it comes.
            on_lost: the result of an item whose processes died or hung, and why in a sentence.
            tell: called in the caller's thread with a sentence when a worker that had its items is ended.
            at_once: no more than so many in progress or on their way to it; as many as there are workers when None.

        Returns:
            The results in the order of the items.
        """


@dataclass(frozen=True)
class Threads:
    """`workers` threads of this process for each caller."""

    workers: int

    def run(
        self,
        function: Callable[[Item], Result],
        items: Sequence[Item],
        *,
        on_done: Callable[[Result], None] = lambda result: None,
        on_lost: Callable[[Item, str], Result] | None = None,
        tell: Callable[[str], None] | None = None,
        at_once: int | None = None,
    ) -> list[Result]:
        """As `Pool.run`. When it ends by an error, what is still in progress on other threads is left behind."""

        def pass_on(key: str, result: Result, *_: Any) -> None:
            on_done(result)

        callbacks = [(None, None, None, pass_on, None)]  # registered with Dask, it would hear of other threads' runs
        results: list[Result] = []
        for first in range(0, len(items), _AT_ONCE):
            batch = enumerate(items[first : first + _AT_ONCE])
            graph = {f"item-{position}": (partial(function, item),) for position, item in batch}
            workers = at_once or self.workers
            results += dask.threaded.get(graph, list(graph), num_workers=workers, callbacks=callbacks)
        return results
