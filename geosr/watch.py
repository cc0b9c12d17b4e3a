"""When a worker process counts as hung: judged by what its scheduler has it working on, look after look."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

LEAST = 600.0
"""Seconds that a worker always gets where nobody sets a time."""

RESTART = 10.0
"""Seconds that a worker which was ended always gets to start again, before there is said to be none."""

FIRST = 86400.0
"""Seconds until anything was finished at all: there is nothing to go by yet, and a paper preset takes hours."""

_TIMES = 10  # as long as the longest that any worker took; tiles of one scene differ by less
_STEP = 10.0  # a longer time between two looks is the run's own pause (Ctrl-Z), and not a worker's


class Watch:
    """Workers that have work and finish none of it.

    A worker's clock starts when it gets work and starts again whenever it has finished something; so one with several
    threads is hung only when none of them gets on. Nothing is judged on the first look.
    """

    def __init__(self, timeout: float | None) -> None:
        """`timeout` in seconds; derived from the times that workers take when None."""
        self._timeout = timeout
        self._work: dict[str, tuple[frozenset[str], float]] = {}
        self._longest = 0.0
        self._looked: float | None = None
        self._clock = 0.0
        self._manned = 0.0

    @property
    def limit(self) -> float:
        """Seconds without progress after which a worker is hung."""
        if self._timeout is not None:
            return self._timeout
        return self.limit_alone if self._longest else FIRST

    @property
    def limit_alone(self) -> float:
        """Seconds without any worker after which there will be none."""
        return max(LEAST, _TIMES * self._longest) if self._timeout is None else max(RESTART, self._timeout)

    def look(self, work: Mapping[str, Iterable[str]], now: float) -> list[str]:
        """The workers that are hung.

        Args:
            work: what each worker is at; an idle one is at nothing, one that is gone is not there.
            now: seconds, of a clock that only goes forward.
        """
        self._clock += 0.0 if self._looked is None else min(now - self._looked, _STEP)
        self._looked = now
        if work:
            self._manned = self._clock
        self._work = {worker: self._follow(worker, frozenset(keys)) for worker, keys in work.items()}
        return [worker for worker, (keys, since) in self._work.items() if keys and self._clock - since > self.limit]

    def _follow(self, worker: str, keys: frozenset[str]) -> tuple[frozenset[str], float]:
        """What the worker is at, and since when nothing of its work was finished."""
        before, since = self._work.get(worker, (frozenset(), self._clock))
        if not before:
            return keys, self._clock
        if before <= keys:
            return keys, since
        self._longest = max(self._longest, self._clock - since)
        return keys, self._clock

    @property
    def alone(self) -> bool:
        """There has been no worker for too long."""
        return self._clock - self._manned > self.limit_alone
