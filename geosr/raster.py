"""A raster that was described, and its values with a valid mask; a guide's on another grid.

Every pixel that leaves here is either valid or False in the mask that comes with it, with 0 stored under it.
Nodata values, NaN, infinities, mask bands and alpha bands all end here.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.windows import Window as RasterioWindow

from geosr import coordinates, mosaic, warp
from geosr import raster_guard as guard
from geosr.consistency import pool, pool_measured
from geosr.displacement import Displacement
from geosr.errors import ChangedInputError, InputError
from geosr.gdal import dataset_of, gdal_environment, translated
from geosr.grid import Window
from geosr.raster_guard import Fingerprint, show

_MOST_OPEN = 8  # files of a folder, for each thread that reads

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Raster:
    """What a raster is, a file or a folder of files: everything needed to read it again, without an open handle.

    Attributes:
        path: absolute path.
        driver: GDAL's name of the format, the only one it is opened as; of a folder that of its files.
        geobox: its grid, with the horizontal (2-D) CRS or None. Columns first in the affine, as GDAL has it.
        crs_wkt: the whole CRS as WKT 2, vertical part included; None without one.
        georeferenced: False where the file places itself nowhere (identity affine, no CRS).
        bands: 1-based bands that are read, alpha excluded; exactly one for a source.
        dtype: data type of the first of them.
        nodata: the value that means "no data" in the first band: the file's, else its sidecar's, else the user's.
        nodatas: what the file or its sidecar declares for each of `bands`.
        further_nodata: the user's.
        scale, offset: physical value = stored value * scale + offset, of the first band.
        units, description: of the first band, None where the file says nothing.
        tags, band_tags: metadata of the file and of its first band, without statistics.
        area_or_point: what a pixel's position means. The geobox is that of areas either way.
        colorinterp: GDAL's name of each band's colour ("gray", "red", "palette", ...).
        palette: (entries, 4) colours of a palette raster, to be expanded into red, green, blue.
        alpha: 1-based index of the alpha band.
        alpha_opaque: what counts as fully opaque in it (1, 255 or 65535); less than half of it is invalid.
        masked: whether the file has a mask band, internal or in a `.msk` file.
        block_shape: (rows, columns) stored together.
        fingerprint: size, modification time and inode when it was described; of a folder, its files' sizes summed.
        options: open options of the driver.
        pooled: the file's pixels to one of the grid along a side; above 1 only where `describe_source` was told to.
        warnings: lines for the user about what was found.
        displacement: how far from where the file says a guide is looked for, place by place; see `coregister`.
        parts: of a folder, its files by name, each with where it lies in the grid's pixels; where several have a
            valid pixel the first holds. What is said above of bands and values holds for all of them, but for `nodatas`
            and the alpha band, which each has of its own; `nodata` is None where they differ.
    """

    path: Path
    driver: str
    geobox: GeoBox
    crs_wkt: str | None
    georeferenced: bool
    bands: tuple[int, ...]
    dtype: str
    nodata: float | None
    nodatas: tuple[float | None, ...]
    scale: float
    offset: float
    units: str | None
    description: str | None
    tags: dict[str, str]
    band_tags: dict[str, str]
    area_or_point: str
    colorinterp: tuple[str, ...]
    palette: tuple[tuple[int, int, int, int], ...] | None
    alpha: int | None
    alpha_opaque: float
    masked: bool
    block_shape: tuple[int, int]
    fingerprint: Fingerprint
    options: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    further_nodata: float | None = None
    pooled: int = 1
    displacement: Displacement | None = None
    parts: tuple[tuple[Window, Raster], ...] = ()

    @property
    def files(self) -> tuple[Raster, ...]:
        """What lies on the disk: itself, or a folder's files."""
        return tuple(part for _, part in self.parts) or (self,)

    @property
    def places(self) -> tuple[Window, ...]:
        """Of a folder, where each file lies in the grid's pixels; empty for a file."""
        return tuple(place for place, _ in self.parts)

    def reaches(self, window: Window) -> bool:
        """Whether there are pixels in a window of the grid, valid or not."""
        return not self.parts or any(mosaic.pieces(self.places, window.times(self.pooled)))

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        rows, cols = self.geobox.shape
        return int(rows), int(cols)

    @property
    def channels(self) -> int:
        """Bands that `read_guide` gives: three for a palette, else one for each of `bands`."""
        return 3 if self.palette else len(self.bands)


def value_text(value: float, dtype: str) -> str:
    """A stored value as a person can type it: in the fewest digits that tell it from all others of its type."""
    value = float(value)
    if dtype == "float32" and abs(value) <= float(np.finfo(dtype).max):
        value = float(str(np.float32(value)))
    return f"{value:.0f}" if value.is_integer() and abs(value) < 1e15 else repr(value)


def check_unchanged(raster: Raster) -> None:
    """See that the file, or those of a folder, are still those that were described.

    Raises:
        ChangedInputError: one is another.
        InputError: one is gone.
    """
    for file in raster.files:
        if guard.fingerprint(file.path) != file.fingerprint:
            raise ChangedInputError(f"{show(file.path)}: the file has changed since the run began; start again")


@contextmanager
def reopened(raster: Raster) -> Iterator[Any]:
    """`raster`'s dataset, if the file is still the one that was described; those of a folder as `_Handles`.

    Raises:
        ChangedInputError: it is another one.
    """
    with gdal_environment(), _Handles() if raster.parts else _unchanged(raster) as opened:
        yield opened


@contextmanager
def _unchanged(file: Raster) -> Iterator[Any]:
    check_unchanged(file)
    with dataset_of(file.path, file.driver, file.options) as dataset:
        yield dataset


class _Handles(AbstractContextManager["_Handles"]):
    """A folder's files, opened when they are read; the last few stay open for the next window."""

    def __init__(self) -> None:
        self._open: OrderedDict[Path, tuple[Any, ExitStack]] = OrderedDict()

    def dataset(self, file: Raster) -> Any:
        """The file's, if it is still the one that was described."""
        if file.path not in self._open:
            if len(self._open) >= _MOST_OPEN:
                self._open.popitem(last=False)[1][1].close()
            stack = ExitStack()
            self._open[file.path] = stack.enter_context(_unchanged(file)), stack
        self._open.move_to_end(file.path)
        return self._open[file.path][0]

    def __exit__(self, *_: object) -> None:
        for _, stack in self._open.values():
            stack.close()


def read_source(raster: Raster, window: Window | None = None) -> tuple[npt.NDArray[np.float64], Mask]:
    """Physical values of a source and where they are valid.

    Args:
        raster: from `describe_source`.
        window: in pixels of its grid, inside the raster; None for all of it.

    Returns:
        Float64 (rows, columns) with scale and offset applied, 0 where invalid; bool of the same shape.

    Raises:
        InputError: the file cannot be read, or is not the one that was described.
    """
    window = (window or Window(0, 0, *raster.shape)).times(raster.pooled)
    with reopened(raster) as dataset:
        values, valid = _physical(raster, *read_stored(raster, dataset, window))
    return (values, valid) if raster.pooled == 1 else pool_measured(values, valid, raster.pooled)


def _physical(raster: Raster, stored: Array, valid: Mask) -> tuple[npt.NDArray[np.float64], Mask]:
    with np.errstate(invalid="ignore", over="ignore"):  # signalling NaNs in files; float64 nodata of 1e308
        values = stored[0].astype(np.float64) * raster.scale + raster.offset
    valid &= np.isfinite(values)
    values[~valid] = 0.0
    return values, valid


def glance_source(raster: Raster, step: int, window: Window | None = None) -> tuple[npt.NDArray[np.float64], Mask]:
    """As `read_source`, at one pixel for `step` x `step`, for a picture: cheap however large the raster is.

    A pixel is the mean of the valid ones of 2 x 2 of those under it, read from the file's overviews where it has
    some. Sides that `step` does not divide are rounded up, their pixels a little smaller.
    """
    window = window or Window(0, 0, *raster.shape)
    if step == 1:
        return read_source(raster, window)
    shape = (-(-window.height // step), -(-window.width // step))
    with reopened(raster) as dataset:
        stored = read_stored(raster, dataset, window.times(raster.pooled), _twice(shape))
    return pool(*_physical(raster, *stored), 2)


def _twice(shape: tuple[int, int]) -> tuple[int, int]:
    return 2 * shape[0], 2 * shape[1]


def read_guide(raster: Raster, target: GeoBox, *, grid: GeoBox | None = None) -> tuple[npt.NDArray[np.float32], Mask]:
    """A guide on another grid: averaged where it is finer, cubic where it is coarser.

    Args:
        raster: from `describe_guide`; its `geobox` is where it lies.
        target: the grid to fill, in any CRS.
        grid: the whole grid that `target` is a window of. It decides how many samples a pixel takes; with it,
            a window read alone equals the same window of a larger read.

    Returns:
        Float32 (channels, rows, columns), 0 where invalid; bool (rows, columns), True where there is a guide.
        Stored numbers: a guide's scale and offset are left out, guides are standardised band by band.

    Raises:
        InputError: the file cannot be read or is not the one described; no way from one CRS to the other.
    """
    plan = warp.plan_sampling(raster.geobox, target if grid is None else grid)
    with reopened(raster) as dataset:

        def read(window: Window) -> tuple[npt.NDArray[np.float32], Mask]:
            return _expand(raster, *read_stored(raster, dataset, window))

        return warp.warp(read, raster.channels, raster.geobox, target, plan, raster.displacement)


def glance_guide(raster: Raster, target: GeoBox) -> tuple[npt.NDArray[np.float32], Mask]:
    """As `read_guide` on a grid that may be much coarser, for a picture: cheap however large the guide is.

    The guide is first brought down to pixels just finer than the target's, each from 2 x 2 of those under it, read
    from the file's overviews where it has some.
    """
    ratio = min(coordinates.step_ratio(target, raster.geobox))
    step = min(int(ratio), *raster.shape) if math.isfinite(ratio) else 1
    if step < 2:
        return read_guide(raster, target)
    rows, cols = (max(side // step, 1) for side in raster.shape)
    coarse = GeoBox((rows, cols), raster.geobox.affine * Affine.scale(step), raster.geobox.crs)
    with reopened(raster) as dataset:

        def read(window: Window) -> tuple[npt.NDArray[np.float32], Mask]:
            bands, known = _expand(raster, *read_stored(raster, dataset, window.times(step), _twice(window.shape)))
            pooled = [pool(band, known, 2) for band in bands]
            return np.stack([values for values, _ in pooled]).astype(np.float32), pooled[0][1]

        plan = warp.plan_sampling(coarse, target)
        return warp.warp(read, raster.channels, coarse, target, plan, raster.displacement)


def read_stored(
    raster: Raster, dataset: Any, window: Window, shape: tuple[int, int] | None = None
) -> tuple[Array, Mask]:
    """Stored values (bands, rows, columns) and validity (rows, columns) of a window, or of `shape` pixels of it."""
    if raster.parts:
        return _read_parts(raster, dataset, window, shape or window.shape)
    bands = (len(raster.bands), *shape) if shape else None
    part = RasterioWindow(window.col, window.row, window.width, window.height)
    where = f"read at row {window.row}, column {window.col}"
    with translated(raster.path, where):
        stored = dataset.read(list(raster.bands), window=part, out_shape=bands)
        valid = _valid(raster, stored)
        if raster.masked:
            valid &= (dataset.read_masks(list(raster.bands), window=part, out_shape=bands) > 0).all(axis=0)
        if raster.alpha is not None and raster.alpha not in raster.bands:
            valid &= dataset.read(raster.alpha, window=part, out_shape=shape) * 2.0 >= raster.alpha_opaque
    if valid.shape != (shape or window.shape):
        raise InputError(f"{show(raster.path)}: {window} reaches over its edge")
    return stored, valid


def _read_parts(raster: Raster, handles: _Handles, window: Window, shape: tuple[int, int]) -> tuple[Array, Mask]:
    """As `read_stored`, from a folder's files: each fills what those before it leave open."""
    stored = np.zeros((len(raster.bands), *shape), raster.dtype)
    valid = np.zeros(shape, bool)
    for number, shared in mosaic.pieces(raster.places, window):
        place, file = raster.parts[number]
        into = mosaic.shrunk(shared, window, shape)
        if into.height and into.width and not valid[into.slices].all():
            size = None if into.shape == shared.shape else into.shape
            values, there = read_stored(file, handles.dataset(file), shared.relative_to(place), size)
            there &= ~valid[into.slices]
            stored[:, *into.slices][:, there] = values[:, there]
            valid[into.slices] |= there
    return stored, valid


def _valid(raster: Raster, stored: Array) -> Mask:
    """Finite in every band, and not nodata.

    A nodata value that ordinary pixels can have in one band (0, or any in 8-bit data) makes a pixel invalid where
    all bands have theirs: black in red alone is a colour. A sentinel (-9999, 65535) does so in any band.
    """
    valid = np.ones(stored.shape[1:], bool)
    for nodatas in (raster.nodatas, (raster.further_nodata,) * len(raster.bands)):
        missing = np.stack([_equals(band, nodata) for band, nodata in zip(stored, nodatas, strict=True)])
        ordinary = nodatas[0] == 0 or stored.dtype.itemsize == 1
        valid &= ~(missing.all(axis=0) if ordinary else missing.any(axis=0))
    if stored.dtype.kind == "f":
        valid &= np.isfinite(stored).all(axis=0)
    return valid


def _equals(band: Array, nodata: float | None) -> Mask:
    """Where `band` holds `nodata`, as far as its type can hold it."""
    if nodata is None or math.isnan(nodata):
        return np.zeros(band.shape, bool)
    if band.dtype.kind == "f":
        with np.errstate(over="ignore"):
            value = band.dtype.type(nodata)
        if abs(nodata) < 1e30:
            return np.asarray(band == value)
        # -3.4028235e38 is written with 5 to 17 digits: equal to 5 of them is meant
        return np.asarray(np.abs(band / value - 1) < 1e-5) if np.isfinite(value) else ~np.isfinite(band)
    info = np.iinfo(band.dtype)
    if not (info.min <= nodata <= info.max and float(nodata).is_integer()):
        return np.zeros(band.shape, bool)
    return np.asarray(band == int(nodata))


def _expand(raster: Raster, stored: Array, valid: Mask) -> tuple[npt.NDArray[np.float32], Mask]:
    """Guide values as float32; indices of a palette as colours, before anything is interpolated."""
    if raster.palette is None:
        with np.errstate(over="ignore"):
            values = stored.astype(np.float32)
        return values, valid & np.isfinite(values).all(axis=0)
    table = np.array(raster.palette, np.float32)
    index = stored[0].astype(np.intp)
    known = index < len(table)
    colours = table[np.where(known, index, 0)]
    return np.moveaxis(colours[..., :3], -1, 0), valid & known & (colours[..., 3] >= 128)
