"""A method of another package as geosr calls it: what goes wrong in it becomes an error that names the package."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from geosr.errors import GeosrError, TileError, UnavailableError
from geosr.methods.base import Method, Patch, Prediction, ShortRuns, State
from geosr.methods.entry import Entry
from geosr.methods.plugins import told
from geosr.methods.weights import WeightsFile

_DECLARED = (
    "name",
    "settings",
    "statistics",
    "consistency",
    "needs_fit",
    "fit_scope",
    "fits_together",
    "uses_guide",
    "scales",
    "bands",
    "weights",
)


@contextmanager
def _blame(package: str, doing: str, kind: type[GeosrError]) -> Iterator[None]:
    try:
        yield
    except (GeosrError, MemoryError):
        raise
    except Exception as error:
        raise kind(f"{package}: {doing}: {told(error)}") from error


def create(entry: Entry, preset: str, settings: Mapping[str, Any], *weights: Path) -> Foreign:
    """The method of an entry of another package.

    Raises:
        UnavailableError: it cannot be made, or does not declare what a method must.
        UsageError: as the package's own factory has it.
    """
    module, _, factory = entry.loader.partition(":")
    with _blame(entry.package, f"the method {entry.name!r} cannot be made", UnavailableError):
        inner = getattr(import_module(module), factory)(preset, dict(settings), *weights)
        declared = {name: getattr(inner, name) for name in _DECLARED}
        if declared["name"] != entry.name:
            raise ValueError(f"it calls itself {declared['name']!r}")
        asdict(declared["settings"])
        return Foreign(inner, entry.package, **declared)


@dataclass(frozen=True)
class Foreign(Method):
    """Another package's method, with what it declared when it was made."""

    inner: Method
    package: str
    name: str
    settings: Any
    statistics: str = "scene"
    consistency: str = "exact"
    needs_fit: bool = False
    fit_scope: str = "scene"
    fits_together: bool = False
    uses_guide: bool = True
    scales: range = range(2, 33)
    bands: int | None = None
    weights: WeightsFile | None = None

    def halo(self, scale: int) -> int:
        """As the method says."""
        with _blame(self.package, f"the halo of {self.name!r}", UnavailableError):
            return int(self.inner.halo(scale))

    def memory(self, bands: int, shape: tuple[int, int], scale: int) -> int:
        """As the method says."""
        with _blame(self.package, f"the memory of {self.name!r}", UnavailableError):
            return int(self.inner.memory(bands, shape, scale))

    def slowness(self, device: str) -> str | None:
        """As the method says."""
        with _blame(self.package, f"the slowness of {self.name!r}", UnavailableError):
            return self.inner.slowness(device)

    def trial(self) -> ShortRuns:
        """As the method says."""
        with _blame(self.package, f"the trial of {self.name!r}", UnavailableError):
            trial = self.inner.trial()
            return replace(trial, less=replace(self, inner=trial.less), more=replace(self, inner=trial.more))

    def fit(self, patches: Sequence[Patch], seed: int, device: str) -> State:
        """As the method does."""
        with _blame(self.package, f"the fit of {self.name!r} failed", TileError):
            return self.inner.fit(patches, seed, device)

    def fit_each(self, patches: Sequence[Patch], seeds: Sequence[int], device: str) -> list[State | TileError]:
        """As the method does."""
        with _blame(self.package, f"the fit of {self.name!r} failed", TileError):
            return self.inner.fit_each(patches, seeds, device)

    def predict(self, patch: Patch, state: State, device: str) -> Prediction:
        """As the method does, as float32."""
        with _blame(self.package, f"the prediction of {self.name!r} failed", TileError):
            prediction = self.inner.predict(patch, state, device)
            return replace(prediction, values=np.asarray(prediction.values, np.float32))
