"""The only module that opens rasters: what a file is, its values with a valid mask, a guide on another grid.

Every pixel that leaves here is either valid or False in the mask that comes with it, with 0 stored under it.
Nodata values, NaN, infinities, mask bands and alpha bands all end here.
"""

from __future__ import annotations

import math
import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyproj
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj.exceptions import CRSError, ProjError
from pyproj.transformer import TransformerGroup
from rasterio._err import CPLE_BaseError
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import RasterioError
from rasterio.windows import Window as RasterioWindow

from geosr import mosaic, warp
from geosr import raster_guard as guard
from geosr.bands import Band, nearest, read_band, wavelength_of
from geosr.consistency import pool, pool_measured
from geosr.displacement import Displacement
from geosr.errors import ChangedInputError, GeosrError, InputError, UsageError
from geosr.grid import Window
from geosr.raster_guard import Fingerprint, show
from geosr.sidecar import Sidecar, read_sidecar

GDAL_ERRORS: tuple[type[Exception], ...] = (RasterioError, CPLE_BaseError)
"""What rasterio raises: its own tree, and GDAL's private one that it lets through (at close, for instance)."""

MIN_SIDE = 2
MAX_BANDS = 1024
MAX_BLOCK_BYTES = 256 << 20
MAX_CLAIM = 100_000
"""Times its own size that a file may claim in pixels, beyond a gibibyte: deflate reaches 1032, sparse files more."""
MAX_TAG_BYTES = 1 << 20
MAX_LOOKS = 4096
_MARGIN = 8  # source pixels; a guide is looked for 3 away at most
_MOST_NOTES = 4
_MOST_DOUBLES = 256  # pairs of files that are compared; 3 ms each where they share a frame of 2000 x 2000
_MOST_OPEN = 8  # files of a folder, for each thread that reads
_GLIMPSE = 256  # pixels a side that two files are compared on
SMALL = 1 << 24
"""Samples up to which a file is read through to see whether it can be."""

_CACHE_BYTES = 128 << 20  # rasterio hands the number to GDAL as bytes, whatever its size
_STALE_TAGS = ("AREA_OR_POINT", "scale_factor", "add_offset", "_FillValue", "missing_value", "_Unsigned")
_SENTINELS = (
    -9999.0,
    -99999.0,
    -10000.0,
    -32768.0,
    -32767.0,
    -999.0,
    9999.0,
    32767.0,
    65535.0,
    -3.4028234663852886e38,
)
_opening = threading.Lock()

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

    def reaches(self, window: Window) -> bool:
        """Whether there are pixels in a window of the grid, valid or not."""
        places = [place for place, _ in self.parts]
        return not places or any(mosaic.pieces(places, window.times(self.pooled)))

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        rows, cols = self.geobox.shape
        return int(rows), int(cols)

    @property
    def channels(self) -> int:
        """Bands that `read_guide` gives: three for a palette, else one for each of `bands`."""
        return 3 if self.palette else len(self.bands)


def versions() -> dict[str, str]:
    """Versions of the libraries that read, warp and write."""
    return {
        "rasterio": rasterio.__version__,
        "GDAL": rasterio.__gdal_version__,
        "PROJ": rasterio.__proj_version__,
        "pyproj": pyproj.__version__,
    }


# --- opening -------------------------------------------------------------------------------------------------


@contextmanager
def gdal_environment(cache: int = _CACHE_BYTES) -> Iterator[None]:
    """GDAL settings for all reading and writing: no sidecar metadata, no network, a bounded block cache (bytes)."""
    guard.check_environment()
    with rasterio.Env(
        GDAL_PAM_ENABLED="NO",
        GDAL_CACHEMAX=cache,
        CPL_VSIL_CURL_ALLOWED_EXTENSIONS=".none",
        GDAL_HTTP_MAX_RETRY=0,
    ):
        yield


@contextmanager
def translated(path: Path, doing: str) -> Iterator[None]:
    """Whatever GDAL, rasterio or PROJ raise becomes an `InputError` that names the file."""
    try:
        yield
    except GeosrError:
        raise
    except MemoryError as error:
        raise InputError(f"{show(path)}: cannot be {doing}: it needs more memory than there is") from error
    except Exception as error:
        raise InputError(f"{show(path)}: cannot be {doing}, it may be damaged: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """The innermost text of a chain of exceptions: GDAL's own words sit there."""
    texts: list[str] = []
    seen: BaseException | None = error
    while seen is not None:
        texts.append(str(seen))
        seen = seen.__cause__
    return show(next((text for text in reversed(texts) if text), type(error).__name__))


@contextmanager
def open_file(path: Path, driver: str, options: dict[str, str]) -> Iterator[Any]:
    """An open dataset, errors of opening translated."""
    with gdal_environment(), _dataset(path, driver, options) as dataset:
        yield dataset


@contextmanager
def _dataset(path: Path, driver: str, options: dict[str, str]) -> Iterator[Any]:
    with translated(path, f"opened as {guard.FORMATS[driver]}"), _opening, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the filters are global: one thread at a time
        dataset = rasterio.open(path, driver=driver, sharing=False, **options)
    with dataset:
        yield dataset


@contextmanager
def _reopened(raster: Raster) -> Iterator[Any]:
    """`raster`'s dataset, if the file is still the one that was described; those of a folder as `_Handles`.

    Raises:
        ChangedInputError: it is another one.
    """
    with gdal_environment(), _Handles() if raster.parts else _unchanged(raster) as opened:
        yield opened


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
def _unchanged(file: Raster) -> Iterator[Any]:
    check_unchanged(file)
    with _dataset(file.path, file.driver, file.options) as dataset:
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


# --- describing ----------------------------------------------------------------------------------------------


def describe_source(
    path: str | os.PathLike[str],
    *,
    band: Band | None = None,
    nodata: float | None = None,
    assume_crs: str | None = None,
    native_resolution: float | None = None,
) -> Raster:
    """What the coarse raster at `path` is; it can be read and has at least one valid pixel.

    Args:
        path: a local raster file, or a folder of them that lie on one grid.
        band: 1-based band to read, or its wavelength; needed where there are several besides alpha.
        nodata: a value that means "no data", in stored units, beside what the file declares.
        assume_crs: the CRS of a file that names none.
        native_resolution: metres that the sensor resolves, where the file's pixels are smaller: its pixels are then
            means over the nearest whole number of the file's, see `consistency.pool_measured`; rows and columns
            beyond whole blocks are left out.

    Raises:
        InputError: the file is refused; the message says why.
        UsageError: `band`, `assume_crs` or `native_resolution` makes no sense.
    """
    raster = _describe_any(
        path, lambda file: _describe(file, nodata=nodata, assume_crs=assume_crs, band=band, source=True)
    )
    check_readable(raster)
    if not has_valid(raster):
        declared = "" if raster.nodata is None else f" (nodata is {raster.nodata:g})"
        raise InputError(f"{show(raster.path)}: no pixel is valid{declared}; there is nothing to super-resolve")
    return raster if native_resolution is None else _pool_file(raster, native_resolution)


def _pool_file(raster: Raster, resolution: float) -> Raster:
    """The raster with pixels of about `resolution` metres, to be averaged when they are read."""
    times = pixels_of(raster, resolution)
    geobox = pool_grid(raster.geobox, times)
    note = f"{show(raster.path.name)}: {pooled_text(geobox, times)}, for --native-resolution {resolution:g}"
    return replace(raster, geobox=geobox, pooled=times, warnings=(*raster.warnings, note))


def pixels_of(raster: Raster, resolution: float) -> int:
    """The whole number of the raster's pixels, along a side, whose size comes next to `resolution` metres; 2 or more.

    Raises:
        InputError: it has no CRS.
        UsageError: `resolution` is no coarser than its pixels, or than half of the raster.
    """
    if raster.geobox.crs is None:
        raise InputError(f"{show(raster.path.name)} has no CRS: its pixels have no size in metres")
    step = sum(ground_resolution(raster.geobox)) / 2
    times = round(resolution / step) if 0 < resolution < 1e7 else 0
    if not 2 <= times <= min(raster.shape) // 2:
        raise UsageError(
            f"--native-resolution {resolution:g}: pixels are {step:.3g} m; give metres from one and a half times that "
            "on, to half the raster"
        )
    return times


def pool_grid(geobox: GeoBox, times: int) -> GeoBox:
    """The grid of whole blocks of `times` x `times` pixels, from the same corner."""
    rows, cols = (side // times for side in geobox.shape)
    return GeoBox((rows, cols), geobox.affine * Affine.scale(times, times), geobox.crs)


def pooled_text(geobox: GeoBox, times: int) -> str:
    """For people: what one pixel of `geobox`, from `pool_grid`, is the mean of."""
    x, y = ground_resolution(geobox)
    return f"{times} x {times} pixels averaged to {x:.4g} x {y:.4g} m"


def describe_guide(
    path: str | os.PathLike[str],
    *,
    nodata: float | None = None,
    assume_crs: str | None = None,
    near: GeoBox | None = None,
) -> Raster:
    """What the sharp raster at `path` is; it can be read. All bands but alpha are used.

    Args:
        path: a local raster file, or a folder of them that lie on one grid.
        nodata: a value that means "no data" in every band, beside what the file declares.
        assume_crs: the CRS of a file that names none.
        near: where it is wanted; files of a folder that lie elsewhere are left out.

    Raises:
        InputError: the file is refused; the message says why.
        UsageError: `assume_crs` makes no sense.
    """
    raster = _describe_any(
        path, lambda file: _describe(file, nodata=nodata, assume_crs=assume_crs, band=None, source=False), near
    )
    check_readable(raster)
    return raster


def _describe_any(
    path: str | os.PathLike[str], describe: Callable[[str | os.PathLike[str]], Raster], near: GeoBox | None = None
) -> Raster:
    """A file, or a folder's files as one raster."""
    raster = _describe_folder(path, describe, near) if guard.is_folder(path) else describe(path)
    if min(raster.shape) < MIN_SIDE:
        rows, cols = raster.shape
        raise InputError(f"{show(raster.path)}: is {cols} x {rows} pixels; at least {MIN_SIDE} x {MIN_SIDE} are needed")
    return raster


def _describe_folder(
    path: str | os.PathLike[str], describe: Callable[[str | os.PathLike[str]], Raster], near: GeoBox | None
) -> Raster:
    """Its files as one raster."""
    folder = Path(os.path.abspath(path))
    found = [describe(file) for file in guard.rasters_in(folder)]
    wanted = [file for file in found if near is None or _is_near(file, near)] or found
    _check_alike(wanted)
    names = [show(f"{folder.name}/{file.path.name}") for file in wanted]
    grid, windows = mosaic.lay_out([file.geobox for file in wanted], names)
    _check_apart(wanted, windows)
    first, size = wanted[0], sum(file.fingerprint[0] for file in wanted)
    claimed = math.prod(grid.shape) * len(first.bands) * np.dtype(first.dtype).itemsize
    if _claims_too_much(claimed, size):
        rows, cols = grid.shape
        raise InputError(
            f"{show(folder)}: its files lie so far apart that together they are {cols} x {rows} pixels "
            f"({claimed / 2**30:,.0f} GiB), and they have {size} bytes; one of them may be misplaced"
        )
    notes = [*_folder_notes(folder, found, wanted), *_shortened([note for file in wanted for note in file.warnings])]
    if mixed := len({str(file.nodata) for file in wanted}) > 1:
        notes.append(f"{show(folder.name)}: its files do not declare one nodata value; each file's own holds for it")
    return replace(
        first,
        path=folder,
        geobox=grid,
        nodata=None if mixed else first.nodata,
        units=next((file.units for file in wanted if file.units is not None), None),
        description=first.description if len({file.description for file in wanted}) == 1 else None,
        tags=_common([file.tags for file in wanted]),
        band_tags=_common([file.band_tags for file in wanted]),
        alpha=next((file.alpha for file in wanted if file.alpha is not None), None),
        fingerprint=(size, max(file.fingerprint[1] for file in wanted), first.fingerprint[2]),
        warnings=tuple(notes),
        parts=tuple((window, _slim(file, first)) for window, file in zip(windows, wanted, strict=True)),
    )


def _check_alike(files: Sequence[Raster]) -> None:
    """Refuse files that cannot be taken for one raster."""
    first, unit = files[0], next((file.units for file in files if file.units is not None), None)
    for file in files:
        if not file.georeferenced:
            raise InputError(f"{show(file.path)}: has no position; the rasters of a folder are put together by theirs")
        differing = [
            ("CRS", not _same_crs(first.crs_wkt, file.crs_wkt)),
            ("unit", file.units not in (None, unit)),
            ("number of bands", file.bands != first.bands),
            ("data type", file.dtype != first.dtype),
            ("palette", file.palette != first.palette),
            ("scale or offset", (file.scale, file.offset) != (first.scale, first.offset)),
        ]
        if what := next((name for name, differs in differing if differs), None):
            raise InputError(
                f"{show(file.path)}: has another {what} than {show(first.path.name)}; the rasters of a folder are "
                "taken for one, and must be alike"
            )


def _check_apart(files: Sequence[Raster], windows: Sequence[Window]) -> None:
    """Refuse two files that cover the same ground with other values: those are not tiles of one raster."""
    for one, other, shared in islice(mosaic.doubles(windows), _MOST_DOUBLES):
        row, col = shared.row + max(shared.height - _GLIMPSE, 0) // 2, shared.col + max(shared.width - _GLIMPSE, 0) // 2
        middle = Window(row, col, min(shared.height, _GLIMPSE), min(shared.width, _GLIMPSE))
        seen = []
        for number in (one, other):
            with _reopened(files[number]) as dataset:
                seen.append(_read_stored(files[number], dataset, middle.relative_to(windows[number])))
        (a, a_valid), (b, b_valid) = seen
        both = a_valid & b_valid
        if both.any() and (a != b).any(axis=0)[both].mean() > 0.5:
            raise InputError(
                f"{show(files[other].path)} and {show(files[one].path.name)} cover the same ground with other values, "
                "and a folder's files are taken for tiles of one raster\nbands of one image belong into one file; of "
                "several dates or surfaces give the one that is meant, and mosaic pictures that overlap so far first"
            )


def _common(tags: Sequence[dict[str, str]]) -> dict[str, str]:
    """What all files say."""
    return {key: value for key, value in tags[0].items() if all(other.get(key) == value for other in tags)}


def _same_crs(a: str | None, b: str | None) -> bool:
    return a == b or (a is not None and b is not None and warp.same_crs(a, b))


def _is_near(file: Raster, place: GeoBox) -> bool:
    """Whether a guide's file may have a say there: with a margin for guides that are looked for elsewhere."""
    if file.geobox.crs is None or place.crs is None:
        return True
    return warp.overlap_fraction(place.pad(_MARGIN), file.geobox) > 0


def _slim(file: Raster, first: Raster) -> Raster:
    """What is needed to read it; it goes to workers with every tile, so what is the first one's is not repeated."""
    geobox = GeoBox(file.geobox.shape, file.geobox.affine, first.geobox.crs)
    nodatas = first.nodatas if file.nodatas == first.nodatas else file.nodatas
    return replace(
        file,
        geobox=geobox,
        crs_wkt=first.crs_wkt,
        nodatas=nodatas,
        palette=first.palette,
        tags={},
        band_tags={},
        warnings=(),
    )


def _folder_notes(folder: Path, found: Sequence[Raster], wanted: Sequence[Raster]) -> Iterator[str]:
    name, files = show(folder.name), f"{len(found)} {guard.FORMATS[found[0].driver]} file{'s' * (len(found) > 1)}"
    there = "" if len(wanted) == len(found) else f", of which {len(wanted)} lie over the source"
    yield f"{name}: {files} taken for one raster{there}"
    if inside := guard.folders_with_rasters(folder):
        yield f"{name}: rasters in its folders {', '.join(map(show, inside))} are not read"


def _shortened(notes: Sequence[str]) -> tuple[str, ...]:
    """Notes on many files: the first few."""
    left = len(notes) - _MOST_NOTES
    return (*notes[:_MOST_NOTES], *([f"{left} more notes of this kind on other files"] if left > 0 else []))


def _describe(
    path: str | os.PathLike[str],
    *,
    nodata: float | None,
    assume_crs: str | None,
    band: Band | None,
    source: bool,
) -> Raster:
    file = guard.local_file(path)
    driver = guard.find_driver(file)
    world, sidecar = guard.world_file(file, driver), read_sidecar(file)
    notes: tuple[str, ...] = ()
    identity = guard.fingerprint(file)
    options = {"GEOREF_SOURCES": "INTERNAL"} if driver == "GTiff" else {}
    if world and driver == "GTiff":
        with open_file(file, driver, options) as dataset:
            if dataset.transform == Affine.identity() and not dataset.gcps[0]:
                options = {"GEOREF_SOURCES": "INTERNAL,WORLDFILE"}
                notes += (f"{show(file.name)} has no position of its own: taken from {show(world.name)}",)
            else:
                notes += (f"{show(world.name)} is not read: {show(file.name)} has a position of its own",)
    with open_file(file, driver, options) as dataset, translated(file, "described"):
        _check_header(file, dataset, identity[0])
        alpha = next((i for i, c in enumerate(dataset.colorinterp, 1) if c == ColorInterp.alpha), None)
        bands, chosen = _choose_bands(file, dataset, alpha, band, source)
        notes += chosen
        if source and ColorInterp.palette == dataset.colorinterp[bands[0] - 1]:
            notes += (f"{show(file.name)} has a palette: its numbers are taken as values, not as colours",)
        wkt, crs = _find_crs(file, dataset, sidecar.crs, assume_crs)
        geobox, placed = _find_grid(file, dataset, sidecar.affine, crs)
        nodatas = tuple(_declared(dataset, sidecar, band) for band in bands)
        dtype = dataset.dtypes[bands[0] - 1]
        notes += (*_sidecar_notes(file, dataset, sidecar, bands), *_nodata_notes(file, (nodatas[0], nodata), dtype))
        tags, band_tags, tag_notes = _read_tags(file, dataset, bands[0])
        scale, offset = float(dataset.scales[bands[0] - 1]), float(dataset.offsets[bands[0] - 1])
        if source and not (math.isfinite(scale) and math.isfinite(offset) and scale != 0):
            raise InputError(f"{show(file)}: scale {scale:g} and offset {offset:g} give no values; correct them")
        if len(dataset.subdatasets) > 1:
            notes += (f"{show(file.name)} holds {len(dataset.subdatasets)} images; the first is read",)
        return Raster(
            path=file,
            driver=driver,
            geobox=geobox,
            crs_wkt=wkt,
            georeferenced=placed,
            bands=bands,
            dtype=dtype,
            nodata=nodata if nodatas[0] is None else nodatas[0],
            nodatas=nodatas,
            scale=scale,
            offset=offset,
            units=_short(dataset.units[bands[0] - 1]),
            description=_short(dataset.descriptions[bands[0] - 1]),
            tags=tags,
            band_tags=band_tags,
            area_or_point="Point" if dataset.tags().get("AREA_OR_POINT", "").lower() == "point" else "Area",
            colorinterp=tuple(c.name for c in dataset.colorinterp),
            palette=None if source else _read_palette(dataset, bands),
            alpha=alpha,
            alpha_opaque=_opaque(dataset, alpha),
            masked=any(_has_mask(flags) for flags in dataset.mask_flag_enums),
            block_shape=tuple(dataset.block_shapes[bands[0] - 1]),
            fingerprint=identity,
            options=options,
            warnings=notes + tag_notes,
            further_nodata=nodata,
        )


def _check_header(file: Path, dataset: Any, size: int) -> None:
    """Refuse headers that no honest file has, before anything is allocated for them."""
    if dataset.count == 0:
        names = ", ".join(show(s.rsplit(":", 1)[-1], 40) for s in dataset.subdatasets[:8])
        hint = f"holds several layers ({names}); extract one with gdal_translate" if names else "holds no raster band"
        raise InputError(f"{show(file)}: {hint}")
    if dataset.count > MAX_BANDS:
        raise InputError(f"{show(file)}: has {dataset.count} bands; at most {MAX_BANDS} are read")
    if any("complex" in dtype for dtype in dataset.dtypes):
        raise InputError(f"{show(file)}: holds complex numbers; write amplitude or phase as a real raster first")
    bytes_each = [np.dtype(dtype).itemsize for dtype in dataset.dtypes]
    claimed = dataset.width * dataset.height * sum(bytes_each)
    if _claims_too_much(claimed, size):
        raise InputError(
            f"{show(file)}: the header claims {dataset.width} x {dataset.height} pixels ({claimed / 2**30:,.0f} GiB), "
            f"the file has {size} bytes; it is damaged or hostile"
        )
    rows, cols = dataset.block_shapes[0]
    pixel = sum(bytes_each) if dataset.interleaving and dataset.interleaving.name == "pixel" else bytes_each[0]
    if rows * cols * pixel > MAX_BLOCK_BYTES:
        raise InputError(
            f"{show(file)}: is stored in blocks of {cols} x {rows} pixels ({rows * cols * pixel >> 20} MiB); "
            "rewrite it in tiles: gdal_translate -co TILED=YES"
        )


def _claims_too_much(claimed: int, size: int) -> bool:
    """Whether so many bytes of pixels cannot honestly be in so many of files."""
    return claimed > 1 << 30 and claimed > MAX_CLAIM * size


def _choose_bands(
    file: Path, dataset: Any, alpha: int | None, band: Band | None, source: bool
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The bands to read, all but alpha for a guide, one for a source; and what to say of the choice."""
    data = tuple(i for i in range(1, dataset.count + 1) if i != alpha)
    if not data:
        raise InputError(f"{show(file)}: has an alpha band only; there is nothing to read")
    if not source:
        if len({dataset.dtypes[i - 1] for i in data}) > 1:
            raise InputError(f"{show(file)}: its bands have different types; write them as one type first")
        return data, ()
    if band is None and len(data) == 1:
        return data, ()
    number, wavelength = (None, None) if band is None else read_band(band)
    if wavelength is not None:
        centres = [wavelength_of(dataset.tags(i)) for i in data]
        number = data[nearest(show(file), wavelength, centres)]
        centre = centres[data.index(number)]
        return (number,), (f"{show(file.name)}: band {number} is taken, at {centre:.4g} um",)
    if number is not None and 1 <= number <= dataset.count:
        return (number,), ()
    listed = ", ".join(
        f"{i} {show(dataset.descriptions[i - 1] or dataset.colorinterp[i - 1].name, 40)}" for i in data[:12]
    )
    more = ", ..." if len(data) > 12 else ""
    if band is None:
        raise InputError(f"{show(file)}: has {len(data)} bands ({listed}{more}); choose one with --band")
    raise UsageError(f"band {band} was asked for, but {show(file)} has {dataset.count} ({listed}{more})")


def _find_crs(file: Path, dataset: Any, beside: str | None, assume_crs: str | None) -> tuple[str | None, str | None]:
    """The whole CRS and its horizontal part as WKT 2: the file's own, its sidecar's or the assumed one; else Nones."""
    try:
        if dataset.crs:
            wkt = dataset.crs.to_wkt(version="WKT2_2019")
        elif beside is not None:
            wkt = _crs_in_file(beside).to_wkt()
        elif assume_crs is not None:
            wkt = parse_crs(assume_crs).to_wkt()
        else:
            return None, None
        return wkt, warp.horizontal(pyproj.CRS.from_wkt(wkt)).to_wkt()
    except (CRSError, ProjError) as error:
        raise InputError(f"{show(file)}: its CRS is not understood: {show(error)}") from error


def _crs_in_file(text: str) -> pyproj.CRS:
    """A CRS that a sidecar names; as with one that a person typed, neither files nor URLs are opened."""
    try:
        return parse_crs(text)
    except UsageError as error:
        raise CRSError(str(error)) from error


def parse_crs(text: str) -> pyproj.CRS:
    """A CRS from an EPSG code, a PROJ string or WKT that a person typed; neither files nor URLs are opened.

    Raises:
        UsageError: it names no CRS.
    """
    hint = f"'{show(text, 60)}' names no CRS; give one like EPSG:32632, or WKT"
    if any(part in text for part in ("://", "+init", "nadgrids=", "geoidgrids=")):
        raise UsageError(hint)
    try:
        return pyproj.CRS.from_user_input(text)
    except (CRSError, ProjError) as error:
        raise UsageError(hint) from error


def _find_grid(file: Path, dataset: Any, beside: Affine | None, crs: str | None) -> tuple[GeoBox, bool]:
    """The grid, the file's own or its sidecar's, and whether the file is placed at all."""
    affine = dataset.transform if _placed(dataset) else beside or dataset.transform
    if affine == Affine.identity():
        if dataset.gcps[0] or dataset.tags(ns="RPC"):
            kind = "ground control points" if dataset.gcps[0] else "RPCs"
            raise InputError(f"{show(file)}: is placed by {kind} only; orthorectify it first: gdalwarp in.tif out.tif")
        if dataset.crs:
            raise InputError(f"{show(file)}: names a CRS but no position or pixel size; georeference it first")
    numbers = np.array(affine[:6])
    rows, cols = dataset.shape
    step = min(math.hypot(affine.a, affine.d), math.hypot(affine.b, affine.e))
    if not np.isfinite(numbers).all() or np.abs(numbers).max() * max(rows, cols) > 1e15:
        raise InputError(f"{show(file)}: its position is not a usable number ({show(tuple(numbers))})")
    if step < 1e-11 or abs(affine.determinant) < 1e-9 * step * step:
        raise InputError(f"{show(file)}: its pixels have no area (pixel size {step:g}); correct its georeferencing")
    return GeoBox((rows, cols), affine, crs), bool(crs or affine != Affine.identity())


def _placed(dataset: Any) -> bool:
    return bool(dataset.transform != Affine.identity() or dataset.gcps[0])


def _declared(dataset: Any, sidecar: Sidecar, band: int) -> float | None:
    """A band's nodata value, the file's or else its sidecar's."""
    own: float | None = dataset.nodatavals[band - 1]
    return sidecar.nodata.get(band) if own is None else own


def _sidecar_notes(file: Path, dataset: Any, sidecar: Sidecar, bands: Sequence[int]) -> Iterator[str]:
    """What is taken from the sidecar, and what is not for the file says otherwise."""
    name, there = show(file.name), show(sidecar.path.name)
    first = sidecar.nodata.get(bands[0])
    parts = [
        ("nodata value", first, dataset.nodatavals[bands[0] - 1], first is None or f"{first:g}"),
        ("position", sidecar.affine, dataset.transform if _placed(dataset) else None, "it"),
        ("CRS", sidecar.crs, dataset.crs or None, "it"),
    ]
    ignored = [*sidecar.others]
    for what, beside, own, shown in parts:
        if beside is not None and own is None:
            yield f"{name} has no {what} of its own: {shown} is taken from {there}"
        elif beside is not None and not _agree(beside, own):
            ignored.append(what)
    if ignored:
        yield f"{', '.join(ignored)} in {there} {'is' if len(ignored) == 1 else 'are'} not read: {name} itself holds"


def _agree(beside: Any, own: Any) -> bool:
    """Whether a sidecar says what the file says itself."""
    if isinstance(beside, str):
        with suppress(CRSError, ProjError):
            return bool(_crs_in_file(beside).equals(pyproj.CRS.from_wkt(own.to_wkt()), ignore_axis_order=True))
        return False
    if isinstance(beside, Affine):
        return bool(beside.almost_equals(own))
    return bool(beside == own or (math.isnan(beside) and math.isnan(own)))


def _nodata_notes(file: Path, nodatas: Sequence[float | None], dtype: str) -> Iterator[str]:
    """A warning where a nodata value cannot occur."""
    if np.dtype(dtype).kind == "f":
        return
    info = np.iinfo(dtype)
    for nodata in dict.fromkeys(nodatas):
        if nodata is None or math.isnan(nodata):
            continue
        if not (info.min <= nodata <= info.max and float(nodata).is_integer()):
            yield f"{show(file.name)}: the nodata value {nodata:g} cannot occur in {dtype}; no pixel is nodata by it"


def _short(text: str | None) -> str | None:
    return show(text) if text else None


def _read_tags(file: Path, dataset: Any, band: int) -> tuple[dict[str, str], dict[str, str], tuple[str, ...]]:
    """Tags of the file and the band that still hold for other pixels; none, with a warning, if they are huge."""
    both = tuple(
        {k: v for k, v in tags.items() if not k.startswith("STATISTICS_") and not k.endswith(_STALE_TAGS)}
        for tags in (dataset.tags(), dataset.tags(band))
    )
    size = sum(len(k) + len(v) for tags in both for k, v in tags.items())
    if size > MAX_TAG_BYTES:
        return {}, {}, (f"{show(file.name)}: {size >> 20} MiB of metadata tags are left out",)
    return both[0], both[1], ()


def _read_palette(dataset: Any, bands: tuple[int, ...]) -> tuple[tuple[int, int, int, int], ...] | None:
    if len(bands) != 1 or dataset.colorinterp[bands[0] - 1] != ColorInterp.palette:
        return None
    colours = dataset.colormap(bands[0])
    return tuple(tuple(colours.get(i, (0, 0, 0, 0))) for i in range(max(colours) + 1))


def _opaque(dataset: Any, alpha: int | None) -> float:
    """Full opacity of the alpha band: of 1, 255 and 65535 the smallest that holds its values.

    Real uint16 files have alpha from 0 to 255, so the type does not tell.
    """
    if alpha is None:
        return 255.0
    rows, cols = (min(n, 512) for n in dataset.shape)
    top = float(np.nanmax(dataset.read(alpha, out_shape=(rows, cols), resampling=Resampling.nearest)))
    return next((full for full in (1.0, 255.0) if top <= full), 65535.0)


def _has_mask(flags: list[MaskFlags]) -> bool:
    """A mask band of its own: neither "all valid", nor made from nodata, nor from alpha."""
    return not {MaskFlags.all_valid, MaskFlags.nodata, MaskFlags.alpha} & set(flags)


# --- pre-flight ----------------------------------------------------------------------------------------------


def check_readable(raster: Raster) -> None:
    """See before any work that the pixels are there: block offsets against the file's size, small files read.

    Raises:
        InputError: the file is truncated or damaged; the first bad block is named.
    """
    for file in raster.files:
        if file.driver == "GTiff":
            with _reopened(file) as dataset, translated(file.path, "read"):
                _check_blocks(file, dataset)
    rows, cols = raster.shape
    if rows * cols * len(raster.bands) <= SMALL:
        with _reopened(raster) as dataset, translated(raster.path, "read"):
            for window in _windows(raster, 1024):
                _read_stored(raster, dataset, window)


def _check_blocks(raster: Raster, dataset: Any) -> None:
    """Compare where a TIFF's blocks end with where the file does, reading no pixel.

    Of a raster with very many blocks a lattice is looked at, its last row and column included: a file that was
    cut short lacks the blocks at its end.
    """
    size = raster.fingerprint[0]
    rows, cols = raster.shape
    height, width = raster.block_shape
    separate = not (dataset.interleaving and dataset.interleaving.name == "pixel")
    for band in raster.bands if separate else raster.bands[:1]:
        for j in _lattice(-(-rows // height)):
            for i in _lattice(-(-cols // width)):
                offset = dataset.get_tag_item(f"BLOCK_OFFSET_{i}_{j}", "TIFF", bidx=band)
                if offset is None:
                    continue  # sparse: nothing stored, reads as nodata or 0
                end = int(offset) + int(dataset.get_tag_item(f"BLOCK_SIZE_{i}_{j}", "TIFF", bidx=band) or 0)
                if end > size:
                    raise InputError(
                        f"{show(raster.path)}: truncated: the block at row {j * height}, column {i * width} "
                        f"should end at byte {end}, the file has {size}; fetch it again"
                    )


def _lattice(count: int) -> list[int]:
    """All of `range(count)`, or 256 of it with both ends."""
    return [int(i) for i in np.unique(np.linspace(0, count - 1, min(count, 256)).round())]


def has_valid(raster: Raster) -> bool:
    """Whether any pixel is valid: looks until it finds one, and takes it for granted after 4096 windows."""
    with _reopened(raster) as dataset:
        for looked, window in enumerate(_windows(raster, 1024)):
            if looked == MAX_LOOKS or _read_stored(raster, dataset, window)[1].any():
                return True
    return False


def _windows(raster: Raster, side: int) -> Iterator[Window]:
    """Windows of whole blocks, about `side` x `side` pixels each, that cover the raster."""
    rows, cols = raster.shape
    block_rows, block_cols = raster.block_shape
    width = min(max(side // block_cols, 1) * block_cols, cols)
    height = min(max(side * side // (width * block_rows), 1) * block_rows, rows)
    for row in range(0, rows, height):
        for col in range(0, cols, width):
            yield Window(row, col, min(height, rows - row), min(width, cols - col))


# --- reading -------------------------------------------------------------------------------------------------


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
    with _reopened(raster) as dataset:
        values, valid = _physical(raster, *_read_stored(raster, dataset, window))
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
    with _reopened(raster) as dataset:
        stored = _read_stored(raster, dataset, window.times(raster.pooled), _twice(shape))
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
    with _reopened(raster) as dataset:

        def read(window: Window) -> tuple[npt.NDArray[np.float32], Mask]:
            return _expand(raster, *_read_stored(raster, dataset, window))

        return warp.warp(read, raster.channels, raster.geobox, target, plan, raster.displacement)


def glance_guide(raster: Raster, target: GeoBox) -> tuple[npt.NDArray[np.float32], Mask]:
    """As `read_guide` on a grid that may be much coarser, for a picture: cheap however large the guide is.

    The guide is first brought down to pixels just finer than the target's, each from 2 x 2 of those under it, read
    from the file's overviews where it has some.
    """
    ratio = min(warp.step_ratio(target, raster.geobox))
    step = min(int(ratio), *raster.shape) if math.isfinite(ratio) else 1
    if step < 2:
        return read_guide(raster, target)
    rows, cols = (max(side // step, 1) for side in raster.shape)
    coarse = GeoBox((rows, cols), raster.geobox.affine * Affine.scale(step), raster.geobox.crs)
    with _reopened(raster) as dataset:

        def read(window: Window) -> tuple[npt.NDArray[np.float32], Mask]:
            bands, known = _expand(raster, *_read_stored(raster, dataset, window.times(step), _twice(window.shape)))
            pooled = [pool(band, known, 2) for band in bands]
            return np.stack([values for values, _ in pooled]).astype(np.float32), pooled[0][1]

        plan = warp.plan_sampling(coarse, target)
        return warp.warp(read, raster.channels, coarse, target, plan, raster.displacement)


def _read_stored(
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
    """As `_read_stored`, from a folder's files: each fills what those before it leave open."""
    stored = np.zeros((len(raster.bands), *shape), raster.dtype)
    valid = np.zeros(shape, bool)
    places = [place for place, _ in raster.parts]
    for number, shared in mosaic.pieces(places, window):
        place, file = raster.parts[number]
        into = mosaic.shrunk(shared, window, shape)
        if into.height and into.width and not valid[into.slices].all():
            size = None if into.shape == shared.shape else into.shape
            values, there = _read_stored(file, handles.dataset(file), shared.relative_to(place), size)
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
        # -3.4e38 is written with 5 to 17 digits: equal to a millionth is meant
        return np.asarray(np.abs(band / value - 1) < 1e-6) if np.isfinite(value) else ~np.isfinite(band)
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


# --- what `info` and the planning ask ------------------------------------------------------------------------


def ground_resolution(geobox: GeoBox) -> tuple[float, float]:
    """Length of a column step and of a row step on the ground; see `geosr.warp.ground_resolution`."""
    return warp.ground_resolution(geobox)


def guide_ratio(guide: Raster, target: GeoBox) -> tuple[float, float]:
    """Guide pixels per column step and per row step of `target`, at its centre; above 1 the guide is finer."""
    return warp.step_ratio(target, guide.geobox)


def overlap_fraction(low: GeoBox, guide: Raster) -> float:
    """Share of `low`'s area inside the guide's outline, or those of its files, 0 to 1; 0 means disjoint."""
    return warp.overlap_fraction(low, guide.geobox, [place for place, _ in guide.parts])


def extent_text(geobox: GeoBox) -> str:
    """Bounds and CRS of `geobox` for a message."""
    x, y = warp.outline(geobox)
    places = 5 if geobox.crs is not None and geobox.crs.geographic else 1
    left, bottom, right, top = (f"{n:.{places}f}" for n in (x.min(), y.min(), x.max(), y.max()))
    return f"x {left} to {right}, y {bottom} to {top} ({_crs_name(geobox)})"


def check_transform(source: Raster, guide: Raster, *, allow_ballpark: bool = False, name: str = "guide") -> str | None:
    """How well the guide's CRS can be brought into the source's: None (exactly), or a warning that calls it `name`.

    Raises:
        InputError: only a ballpark transformation or one of unknown accuracy can be had here, or one worse than
            half a source pixel where a better one lacks its grid files; `allow_ballpark` makes a warning of it.
    """
    if source.geobox.crs is None or guide.geobox.crs is None:
        return None
    a, b = source.geobox.crs.to_wkt(), guide.geobox.crs.to_wkt()
    if warp.same_datum(a, b):
        return None  # formulas without error; PROJ 9.8 no longer says so of every one
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            group = TransformerGroup(
                pyproj.CRS.from_wkt(a),
                pyproj.CRS.from_wkt(b),
                always_xy=True,
                area_of_interest=warp.area_of(guide.geobox),
            )
        except (CRSError, ProjError) as error:
            raise InputError(
                f"no way from {_crs_name(guide.geobox)} to {_crs_name(source.geobox)}: {show(error)}"
            ) from error
    names = f"from {_crs_name(guide.geobox)} to {_crs_name(source.geobox)}"
    if not group.transformers:
        raise InputError(f"no way {names}; {_without_database() or f'reproject the {name} with gdalwarp first'}")
    best = group.transformers[0]
    ballpark = "ballpark" in best.description.lower() or best.accuracy < 0
    limit = max(ground_resolution(source.geobox)) / 2
    if not ballpark and best.accuracy <= limit / 5:
        return None
    accuracy = "unknown accuracy" if ballpark else f"an accuracy of {best.accuracy:g} m"
    missing = "" if group.best_available else " (a better way needs grid files: projsync)"
    message = f"the {name} is brought {names} with {accuracy}{missing}"
    if not allow_ballpark and (ballpark or (best.accuracy > limit and not group.best_available)):
        raise InputError(f"{message}; reproject it yourself, or accept that with --allow-ballpark")
    return message


def _without_database() -> str:
    """What to do where PROJ was sent to a folder without its database; empty where it was not."""
    for variable in ("PROJ_DATA", "PROJ_LIB"):
        folders = [folder for folder in os.environ.get(variable, "").split(os.pathsep) if folder]
        if folders and not any(Path(folder, "proj.db").is_file() for folder in folders):
            return f"{variable} is {show(os.environ[variable])}, where PROJ's database proj.db is not: unset it"
    return ""


def _crs_name(geobox: GeoBox) -> str:
    return "no CRS" if geobox.crs is None else show(pyproj.CRS.from_wkt(geobox.crs.to_wkt()).name, 60)


def suspicious_constant(raster: Raster) -> float | None:
    """An exact value among the valid pixels that looks like nodata which nobody declared; None if there is none.

    It is the smallest or the largest value, and either a usual sentinel or an extreme that stands far away from
    the rest, or a collar: at least 1 % of the pixels, nearly all of them in unbroken runs from the raster's edge.
    """
    with _reopened(raster) as dataset:
        stored, valid = _glimpse(raster, dataset)
    if valid.sum() < 16:
        return None
    data = stored[:, valid].astype(np.float64)
    for extreme in (float(data.min()), float(data.max())):
        alike = (stored == extreme).all(axis=0) & valid
        rest = data[:, ~(data == extreme).any(axis=0)]
        if alike.sum() < 4 or rest.shape[1] < 16:
            continue
        if _stands_apart(extreme, rest) or _is_collar(alike, valid):
            return extreme
    return None


def _stands_apart(value: float, rest: Array) -> bool:
    """Away from all other values by their whole range; by a quarter of it for a usual sentinel."""
    low, high = float(rest.min()), float(rest.max())
    gap = max(low - value, value - high)
    usual = any(math.isclose(value, s, rel_tol=1e-6) for s in _SENTINELS)
    return gap > (high - low) * (0.25 if usual else 3.0) and gap > 1


def _is_collar(alike: Mask, valid: Mask) -> bool:
    """At least 1 % of the pixels, of which 9 in 10 lie in runs that begin at the raster's edge."""
    if alike.sum() < 0.01 * alike.size or alike.sum() > 0.95 * valid.sum():
        return False
    runs = np.zeros_like(alike)
    for axis in (0, 1):
        runs |= np.logical_and.accumulate(alike, axis=axis)
        runs |= np.flip(np.logical_and.accumulate(np.flip(alike, axis), axis=axis), axis)
    return bool(runs.sum() >= 0.9 * alike.sum())


def _glimpse(raster: Raster, dataset: Any) -> tuple[Array, Mask]:
    """The whole raster if it is small, else a 16 x 16 lattice of 64 x 64 windows put side by side."""
    rows, cols = (side * raster.pooled for side in raster.shape)
    if rows * cols * len(raster.bands) <= SMALL:
        return _read_stored(raster, dataset, Window(0, 0, rows, cols))
    high, wide = min(64, rows), min(64, cols)
    bands = []
    for row in np.unique(np.linspace(0, rows - high, 16).astype(int)):
        parts = [
            _read_stored(raster, dataset, Window(int(row), int(col), high, wide))
            for col in np.unique(np.linspace(0, cols - wide, 16).astype(int))
        ]
        bands.append((np.concatenate([p[0] for p in parts], axis=2), np.concatenate([p[1] for p in parts], axis=1)))
    return np.concatenate([b[0] for b in bands], axis=1), np.concatenate([b[1] for b in bands], axis=0)
