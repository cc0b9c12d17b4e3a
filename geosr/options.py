"""What is asked for, as values: `Inputs` (what), `Recipe` (how), `Execution` (where)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from geosr.bands import Band
from geosr.consistency import Consistency
from geosr.errors import UnavailableError, UsageError
from geosr.events import Event

DTYPES = ("float32", "float64", "int16", "int32", "uint8", "uint16")
COMPRESSIONS = ("deflate", "zstd")
AUTO = "auto"
"""In place of a method's name: the one that does best one scale lower."""

FITS = ("tile", "scene")
DEVICES = ("auto", "cpu", "cuda")
ON_TILE_ERROR = ("fail", "interpolate")

Bounds = tuple[float, float, float, float]


class Layer(StrEnum):
    """A raster that can be written beside the output.

    Attributes:
        description: of its band.
    """

    INFLUENCE = "influence", "changed by the guide"
    UNCERTAINTY = "uncertainty", "standard deviation"

    description: str

    def __new__(cls, name: str, description: str) -> Self:
        """A member that is `name` where a text is wanted."""
        layer = str.__new__(cls, name)
        layer._value_, layer.description = name, description
        return layer


def check_seed(seed: int) -> None:
    """See that all generators take it; `UsageError` where they do not."""
    if not 0 <= seed < 2**63:
        raise UsageError(f"seed is {seed}; it must be from 0 to 2**63 - 1")


@dataclass(frozen=True)
class Inputs:
    """The two rasters and what their files forgot to say.

    Attributes:
        source: path of the coarse raster, a file or a folder of files on one grid.
        guide: path of the sharp one, likewise.
        scale: high pixels to one source pixel along a side, 2 to 32.
        band: which band of a multi-band source, counted from 1, its wavelength as in `8.2um` and `865nm`, or
            `all` for a run that makes each of them.
        source_nodata: a value to be taken as nodata in the source, beside what the file declares.
        guide_nodata: the same for the guide.
        assume_crs: CRS of the raster that has none.
        allow_ballpark: accept a transformation of unknown accuracy between the two CRS.
        bounds: (left, bottom, right, top) in the source's CRS; only the source pixels that it touches.
        coregister: estimate how far the guide is off from what the two show, as a whole and locally,
            and look for the guide there.
        guide_shift: (x, y) by which the guide is moved first, in the units of the source's CRS, where it is known to
            lie elsewhere than its file says.
        native_resolution: metres that the source's sensor resolves, where its file has smaller pixels: they are first
            averaged to that.
    """

    source: Path
    guide: Path
    scale: int = 4
    band: Band | None = None
    source_nodata: float | None = None
    guide_nodata: float | None = None
    assume_crs: str | None = None
    allow_ballpark: bool = False
    bounds: Bounds | None = None
    coregister: bool = False
    guide_shift: tuple[float, float] | None = None
    native_resolution: float | None = None

    def __post_init__(self) -> None:
        if self.guide_shift is not None and not all(map(math.isfinite, self.guide_shift)):
            raise UsageError(f"the guide's shift is {self.guide_shift}; give two numbers in the source's CRS")


@dataclass(frozen=True)
class Recipe:
    """Everything else that changes the output's bytes.

    Attributes:
        method: name of a method, or `auto`.
        preset: one of the method's sets of settings.
        settings: single settings on top of the preset.
        consistency: how near the pooled output must come to the source; the preset's own when None.
        tile: side of a tile in output pixels at most, halo included; None takes 320, or the least that method and scale
            allow.
        fit: `tile` fits the method on each tile alone, `scene` once on some tiles drawn from the scene; None takes
            `scene` for a method that normalises by the scene's statistics.
        seed: of all random numbers.
        dtype: of the output; an integer one keeps the source's scale and offset.
        compress: `deflate` or `zstd`.
        weights: file of a trained network's, for a method that is one.
        minimum: smallest value that the output may have, in the source's units.
        maximum: largest one.
    """

    method: str = "mmsr"
    preset: str = "default"
    settings: Mapping[str, Any] = field(default_factory=dict)
    consistency: Consistency | None = None
    tile: int | None = None
    fit: str | None = None
    seed: int = 0
    dtype: str = "float32"
    compress: str = "deflate"
    weights: Path | None = None
    minimum: float | None = None
    maximum: float | None = None

    def __post_init__(self) -> None:
        low, high = self.limits
        if not low < high:  # nor if one of them is no number
            raise UsageError(f"the output's limits are {low:g} and {high:g}; the first must be smaller than the second")
        if self.dtype not in DTYPES:
            raise UsageError(f"dtype is {self.dtype!r}; use one of {', '.join(DTYPES)}")
        if self.compress not in COMPRESSIONS:
            raise UsageError(f"compress is {self.compress!r}; use one of {', '.join(COMPRESSIONS)}")
        if self.fit not in (None, *FITS):
            raise UsageError(f"fit is {self.fit!r}; use one of {', '.join(FITS)}")
        if self.tile is not None and self.tile < 1:
            raise UsageError(f"tile is {self.tile}; it must be positive")
        check_seed(self.seed)

    @property
    def limits(self) -> tuple[float, float]:
        """Smallest and largest value that the output may have; infinite where nothing was said."""
        low = -math.inf if self.minimum is None else self.minimum
        return low, math.inf if self.maximum is None else self.maximum

    @property
    def limited(self) -> bool:
        """Whether anything was said of the smallest or largest value."""
        return self.minimum is not None or self.maximum is not None

    @property
    def files(self) -> tuple[Path, ...]:
        """Those that it reads beside source and guide."""
        return () if self.weights is None else (self.weights,)


@dataclass(frozen=True)
class Execution:
    """Where and how the work runs; only `device`, `threads` and `batch` change a result, by rounding.

    Attributes:
        device: `auto`, `cpu` or `cuda`.
        workers: tiles in progress at once; as many as there are processors (on a GPU: one) when None.
        scheduler: `threads` of this process, worker `processes`, or `tcp://HOST:PORT` of a Dask scheduler.
        overwrite: replace an existing output.
        on_tile_error: what becomes of tiles that fail: `fail`, no output is written; `interpolate`, they hold the
            interpolated source.
        report: a JSON file or a page (`.html`) that says what was done, also where tiles fail; one that exists is
            replaced.
        influence: a GeoTIFF of what the guide changed against the interpolated source.
        uncertainty: a GeoTIFF of the output's standard deviation.
        on_event: called with every `Event`, one at a time, in the caller's thread but for a tile's `Fitting`.
        tile_timeout: seconds without progress after which a worker process is ended as hung, and without any worker
            after which the run ends; derived from the tiles done when None. Threads cannot be ended.
        gpus: `all`, or the numbers of those to use, as in `0,1`: one worker process each.
        style: write a QGIS style beside the output.
        threads: of the processor for a fit and for each tile; all for a fit, and what follows from the number of tiles
            and the machine for a tile, when None.
        batch: tiles that are fitted together, for a method that can and where each tile has a fit of its own; None
            takes as many as a GPU has memory for, and 1 on the CPU. It belongs to a run's record, as it changes
            the result by rounding.
    """

    device: str = "auto"
    workers: int | None = None
    scheduler: str = "threads"
    overwrite: bool = False
    on_tile_error: str = "fail"
    report: Path | None = None
    influence: Path | None = None
    uncertainty: Path | None = None
    on_event: Callable[[Event], None] = lambda event: None
    tile_timeout: float | None = None
    gpus: str | None = None
    style: bool = False
    threads: int | None = None
    batch: int | None = None

    def __post_init__(self) -> None:
        if self.device not in DEVICES:
            raise UnavailableError(f"device is {self.device!r}; use one of {', '.join(DEVICES)}")
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"workers is {self.workers}; it must be at least 1")
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"threads is {self.threads}; it must be at least 1")
        if self.batch is not None and self.batch < 1:
            raise UsageError(f"batch is {self.batch}; it must be at least 1")
        if self.scheduler not in ("threads", "processes") and not self.scheduler.startswith("tcp://"):
            raise UsageError(f"scheduler is {self.scheduler!r}; use threads, processes or tcp://HOST:PORT")
        if self.on_tile_error not in ON_TILE_ERROR:
            raise UsageError(f"on_tile_error is {self.on_tile_error!r}; use one of {', '.join(ON_TILE_ERROR)}")
        self._check_tile_timeout()
        self._check_gpus()

    def _check_tile_timeout(self) -> None:
        if self.tile_timeout is None:
            return
        if not 0 < self.tile_timeout < math.inf:
            raise UsageError(f"tile_timeout is {self.tile_timeout:g}; it must be seconds, more than 0")
        if self.scheduler == "threads":
            raise UsageError(
                "a thread that hangs cannot be ended: --tile-timeout needs --scheduler processes or tcp://"
            )

    def _check_gpus(self) -> None:
        if self.gpus is None:
            return
        if self.device == "cpu":
            raise UsageError("--gpus and --device cpu contradict each other")
        if self.scheduler != "processes":
            raise UsageError("--gpus gives each GPU a worker process of its own: it needs --scheduler processes")
        if self.workers is not None:
            raise UsageError("--gpus says how many workers there are, one a GPU; leave --workers out")
        named = self.gpus.split(",")
        if self.gpus != "all" and not (all(n.isdecimal() for n in named) and len({*map(int, named)}) == len(named)):
            raise UsageError(f"gpus is {self.gpus!r}; use all, or different numbers as in 0,1")

    @property
    def layers(self) -> dict[Layer, Path]:
        """Where rasters are to be written beside the output."""
        asked = {Layer.INFLUENCE: self.influence, Layer.UNCERTAINTY: self.uncertainty}
        return {layer: path for layer, path in asked.items() if path}
