"""What a method is: `Patch` in, `Prediction` out, and nothing of paths, CRS or nodata values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from geosr.errors import TileError
from geosr.methods.weights import WeightsFile

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

State = dict[str, NDArray[Any]]
"""What a fit leaves behind: named arrays, so that it can be stored without pickle."""


class Judgement(NamedTuple):
    """How far a method may go by what it cannot see in the source: each from 0 to 1.

    Attributes:
        belief: in the guide's edges.
        share: of a network's detail that is taken over.
    """

    belief: float
    share: float


@dataclass(frozen=True)
class Patch:
    """One tile as a method sees it: normalised, finite everywhere, with masks.

    Attributes:
        guide: (bands, scale*h, scale*w) float32, each band about zero mean and unit standard deviation.
            Where `guide_valid` is False the values were filled from valid neighbours. No bands for a method that does
            not use the guide.
        guide_valid: (scale*h, scale*w) bool.
        source: (h, w) float32, about zero mean and unit standard deviation; filled where invalid.
        source_valid: (h, w) bool. Losses and pooled means must ignore the rest.
        tolerance: how far the pooled answer may lie from the source; 0 exact, inf unbounded.
        noise: largest share of a guide band's spread that was noise before that was removed, from 0 to 1.
        judged: what is known from elsewhere; None lets the method judge by the patch itself.
    """

    guide: FloatArray
    guide_valid: BoolArray
    source: FloatArray
    source_valid: BoolArray
    tolerance: float = 0.0
    noise: float = 0.0
    judged: Judgement | None = None

    @property
    def scale(self) -> int:
        """High pixels to one source pixel along a side."""
        return int(self.guide.shape[1] // self.source.shape[0])


@dataclass(frozen=True)
class Prediction:
    """A method's answer for one patch.

    Attributes:
        values: (scale*h, scale*w) float32 in the patch's normalised units.
        belief: how far it took the guide's edges for the source's, from 0 to 1; errors are then rare but large.
        error_factor: by which the standard deviation is multiplied that the diffusion's answer with the same belief
            would have.
    """

    values: FloatArray
    belief: float = 0.0
    error_factor: float = 1.0


_listener: ContextVar[Callable[[float], None] | None] = ContextVar("_listener", default=None)


def tell_share(done: float) -> None:
    """For a method: what share of its fit is done, from 0 to 1; cheap, so it may tell after every step."""
    if listener := _listener.get():
        listener(done)


@contextmanager
def told_to(listener: Callable[[float], None]) -> Iterator[None]:
    """What a fit in the block, on this thread, tells of itself is told to the listener."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


@dataclass(frozen=True)
class ShortRuns:
    """Two small parts of the work: all of it takes t(less) + times * (t(more) - t(less)) seconds.

    `together`: several patches that one fit is for take no longer than one. `threaded`: on the CPU they are worked on
    at once, by a thread each.
    """

    less: Method
    more: Method
    times: float
    together: bool = False
    threaded: bool = False


class Method(Protocol):
    """A way to super-resolve patches, cheap to create and picklable.

    Implementations inherit from it what most methods declare, and say what is otherwise: by a property, or as a frozen
    dataclass by a field with a default.

    Attributes:
        name: as registered.
        settings: a frozen dataclass with everything that changes the result; becomes `--set` and provenance tags.
    """

    name: str
    settings: Any

    @property
    def statistics(self) -> str:
        """What normalises a patch: `scene`, or `tile` for the tile's own statistics; its setting, where it has one."""
        return str(getattr(self.settings, "statistics", "scene"))

    @property
    def consistency(self) -> str:
        """The consistency that is meant when none is asked for: `exact` or `off`; its setting, where it has one."""
        return str(getattr(self.settings, "consistency", "exact"))

    @property
    def needs_fit(self) -> bool:
        """Whether `fit` has anything to find out."""
        return False

    @property
    def fit_scope(self) -> str:
        """What one fit holds for: the whole `scene`, or only the `tile` that it was made on."""
        return self.statistics

    @property
    def fits_together(self) -> bool:
        """Whether it has a `fit_each` that fits several tiles at once, which a GPU is meant to do faster."""
        return False

    @property
    def uses_guide(self) -> bool:
        """Whether the guide is used; where it is, gaps of the guide are filled with the interpolated source.

        Where it has none it is not read, and a patch's guide has no bands.
        """
        return True

    @property
    def scales(self) -> range:
        """The scales it works at."""
        return range(2, 33)

    @property
    def bands(self) -> int | None:
        """Bands that the guide must have; None for any number."""
        return None

    @property
    def weights(self) -> WeightsFile | None:
        """Where a trained network's weights lie; None for a method that has none."""
        return None

    def halo(self, scale: int) -> int:
        """High pixels beyond which a patch's surroundings change a pixel by less than 1e-3 std."""

    def memory(self, bands: int, shape: tuple[int, int], scale: int) -> int:
        """Bytes that fitting a patch of `shape` high pixels takes at its peak, about."""

    def slowness(self, device: str) -> str | None:
        """What makes it slower in this installation than it could be, in a sentence; None where nothing does."""
        return None

    def trial(self) -> ShortRuns:
        """The same with little of the work, to estimate the time that all of it takes; here all of it."""
        return ShortRuns(self, self, 0.0)

    def fit(self, patches: Sequence[Patch], seed: int, device: str) -> State:
        """Fit to the patches. Same patches, seed, device kind and threads: the same state, bit for bit."""
        return {}

    def fit_each(self, patches: Sequence[Patch], seeds: Sequence[int], device: str) -> list[State | TileError]:
        """To each patch a fit of its own; all at once where it `fits_together`, and only then called for several.

        Returns:
            For each patch its state, or in its place the error where its fit failed.

        Raises:
            OutOfMemoryError: the memory does not suffice for so many: fewer are tried.
        """
        return [self.fit([patch], seed, device) for patch, seed in zip(patches, seeds, strict=True)]

    def predict(self, patch: Patch, state: State, device: str) -> Prediction:
        """Values on the patch's high grid."""
