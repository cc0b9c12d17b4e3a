"""What happens in a run, as values that are told to whoever waits: see `options.Execution.on_event`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """Something to tell the person who waits."""


@dataclass(frozen=True)
class Note(Event):
    """A sentence that matters to the result."""

    text: str


@dataclass(frozen=True)
class Planned(Event):
    """It is decided what the run will do.

    Attributes:
        rows: gives the lines of `geosr info` on it as (name, text), less the notes. It takes a while: parts of both
            rasters are read.
    """

    rows: Callable[[], Sequence[tuple[str, str]]]


@dataclass(frozen=True)
class Stage(Event):
    """A stage begins."""

    name: str


@dataclass(frozen=True)
class Fitting(Event):
    """How far the fit to the scene is, or that of a run's only tile.

    Attributes:
        share: of its steps that are done, from 0 to 1; it may end before all are.
        seconds: since it began.
    """

    share: float
    seconds: float

    @property
    def left(self) -> float:
        """Seconds to go, about."""
        return self.seconds * (1 / self.share - 1)


@dataclass(frozen=True)
class TileFailed(Event):
    """A tile failed.

    Attributes:
        index: of the tile.
        row, column: of its first output pixel.
        reason: a sentence.
        retry: it will be tried once more, when all others are done.
    """

    index: int
    row: int
    column: int
    reason: str
    retry: bool


@dataclass(frozen=True)
class Progress(Event):
    """How far the tiles are.

    Attributes:
        done: tiles that have an answer, those of an earlier run included.
        total: tiles of the scene.
        failed: tiles that have failed so far and have no answer.
        retried: attempts beyond each tile's first.
        rate: tiles a second since the run began; None before the first.
    """

    done: int
    total: int
    failed: int = 0
    retried: int = 0
    rate: float | None = None

    @property
    def left(self) -> float | None:
        """Seconds to go, about."""
        return (self.total - self.done) / self.rate if self.rate else None


@dataclass(frozen=True)
class Trained(Event):
    """A step of a training is done.

    Attributes:
        step: how many are, those of an earlier run included.
        steps: of the training.
        rate: steps a second in this run.
    """

    step: int
    steps: int
    rate: float

    @property
    def left(self) -> float:
        """Seconds to go, about."""
        return (self.steps - self.step) / self.rate


@dataclass(frozen=True)
class Validated(Event):
    """A network was scored on the pairs left out.

    Attributes:
        step: after which.
        loss: mean of the training's since the last time.
        rmse: of the result projected onto the source, in standard deviations of the source, mean of the pairs.
        bicubic: the same of bicubic interpolation.
    """

    step: int
    loss: float
    rmse: float
    bicubic: float
