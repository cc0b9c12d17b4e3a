"""From tiles to the finished file: blend, project, stage, copy to a COG, check, publish."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window as RasterioWindow

from geosr.consistency import Consistency, confine, pool, project, spread
from geosr.errors import OutputError, UsageError
from geosr.gdal import GDAL_ERRORS, gdal_environment
from geosr.grid import GridPair, Window
from geosr.raster import Raster
from geosr.raster_guard import files_of, is_folder, is_utf8, show
from geosr.seams import SeamMeter
from geosr.store import TileResult, TileStore, check_place, note_published, scratch_folder
from geosr.tiling import Span, core_edges

_PIXELS = 1 << 21  # blended at once, about: some 150 MB
_ROWS = 64, 512  # at least and at most so many output rows of them, about: each strip opens its tiles again
_BLOCK = 512  # side of the COG's blocks
_CACHE_BYTES = 32 << 20  # at least, of GDAL's blocks while a mosaic is written
_FEW_BANDS = 4  # of a multi-band output, up to which its blocks are as large as any
_CELLS = 256  # to a side of the map of deviations at most
_SAMPLES = 8  # blocks read back from the finished file and compared
_ENDINGS = {"GeoTIFF": (".tif", ".tiff"), "PNG": (".png",), "safetensors file": (".safetensors",)}
_FAILURES: tuple[type[Exception], ...] = (*GDAL_ERRORS, OSError)


@dataclass(frozen=True)
class Encoding:
    """How physical values are stored: `stored = (value - offset) / scale`, invalid pixels as `nodata`."""

    dtype: str
    nodata: float
    scale: float = 1.0
    offset: float = 0.0

    @classmethod
    def choose(cls, source: Raster, dtype: str) -> Encoding:
        """The source's nodata value where it can be kept, else NaN (float) or an end of the range (integer)."""
        info = np.finfo(dtype) if np.dtype(dtype).kind == "f" else np.iinfo(dtype)
        scaled = (source.scale, source.offset) != (1.0, 0.0)
        declared = float("nan") if source.nodata is None else source.nodata
        fits = float(info.min) <= declared <= float(info.max)
        if np.dtype(dtype).kind == "f":
            return cls(dtype, declared if fits and not scaled else float("nan"))
        free = float(info.min if info.min < 0 else info.max)
        return cls(dtype, declared if fits and declared.is_integer() else free, source.scale, source.offset)

    def beyond(self, values: NDArray[np.float64], valid: NDArray[np.bool_]) -> int:
        """How many valid values an integer type cannot hold: they become the end of its range."""
        if np.dtype(self.dtype).kind == "f":
            return 0
        info, stored = np.iinfo(self.dtype), self._scaled(values[valid])
        return int(((stored < info.min) | (stored > info.max)).sum())

    def on_nodata(self, values: NDArray[np.float64], valid: NDArray[np.bool_]) -> int:
        """How many valid values an integer type would store as nodata: `encode` moves them by a whole step."""
        if np.dtype(self.dtype).kind == "f":
            return 0
        info = np.iinfo(self.dtype)
        return int((np.clip(self._scaled(values[valid]), info.min, info.max) == self.nodata).sum())

    def encode(self, values: NDArray[np.float64], valid: NDArray[np.bool_]) -> NDArray[np.generic]:
        """As stored. A valid value that would read as nodata is moved just clear of it, towards zero."""
        stored, dtype = self._scaled(values), np.dtype(self.dtype)
        if dtype.kind != "f":
            info = np.iinfo(dtype)
            stored = np.clip(stored, info.min, info.max)
        with np.errstate(over="ignore"):
            encoded: NDArray[np.generic] = stored.astype(dtype)
        if not np.isfinite(encoded[valid]).all():
            raise OutputError(f"some values are too large for {self.dtype}")
        encoded[valid & self._reads_as_nodata(encoded)] = self._beside_nodata()
        encoded[~valid] = self.nodata
        return encoded

    def decode(self, stored: NDArray[np.generic]) -> NDArray[np.float64]:
        """The physical values."""
        return stored.astype(np.float64) * self.scale + self.offset

    def check(self, values: NDArray[np.float64]) -> None:
        """See that the source's values fit the type; what a method adds to them may be cut off.

        Raises:
            UsageError: an integer type would cut them off.
        """
        if np.dtype(self.dtype).kind == "f" or not values.size:
            return
        info = np.iinfo(self.dtype)
        low, high = sorted(self._scaled(np.array([values.min(), values.max()])))
        if low < info.min or high > info.max:
            raise UsageError(
                f"source values from {values.min():g} to {values.max():g} do not fit --dtype {self.dtype}; "
                "use a wider one"
            )

    def _scaled(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """As the type would store them if it had no ends."""
        stored: NDArray[np.float64] = (values - self.offset) / self.scale
        return stored if np.dtype(self.dtype).kind == "f" else np.rint(stored)

    def _reads_as_nodata(self, encoded: NDArray[np.generic]) -> NDArray[np.bool_]:
        """Readers compare floats with a tolerance: GDAL with 5e-7 of the value for float32."""
        if np.dtype(self.dtype).kind == "f":
            return np.isclose(encoded.astype(np.float64), self.nodata, rtol=1e-6, atol=0.0)
        return np.asarray(encoded == self.nodata)

    def _beside_nodata(self) -> float:
        if np.dtype(self.dtype).kind == "f":
            return self.nodata * (1 - 2e-6) if self.nodata else float(np.finfo(self.dtype).tiny)
        return self.nodata - 1 if self.nodata > 0 else self.nodata + 1


@dataclass(frozen=True)
class Deviation:
    """How far the pooled output lies from the source, over all valid source pixels, in its units."""

    largest: float
    rms: float


class DeviationMap:
    """Where the pooled output lies how far from the source: the largest distance in cells of source pixels."""

    def __init__(self, shape: Sequence[int]) -> None:
        """`shape` is the low grid's."""
        self._step = max(-(-max(shape) // _CELLS), 1)
        self.cells = np.zeros([-(-side // self._step) for side in shape])

    def add(self, top: int, distance: NDArray[np.float64]) -> None:
        """Rows of the low grid from `top` on; 0 where the source is invalid."""
        rows, cols = distance.shape
        row, col = (top + np.arange(rows)) // self._step, np.arange(cols) // self._step
        np.maximum.at(self.cells, (row[:, None], col[None]), distance)


@dataclass(frozen=True)
class Mosaic:
    """Everything that an output is made of.

    Attributes:
        source: whose metadata it carries.
        grids: low and high.
        results: of all tiles.
        tiles: where their values lie.
        folder: in which it is made.
        read_source: values and validity of a window of the low grid.
        consistency: how near the pooled output must come to them.
        encoding: of the values.
        output: its final name, absolute and free of links.
        tags: provenance to add to the source's own tags.
        pools: whether it should pool to the source at all.
        limits: smallest and largest value that it may have; means over source pixels are kept within them.
    """

    source: Raster
    grids: GridPair
    results: Sequence[TileResult]
    tiles: TileStore
    folder: Path
    read_source: Callable[[Window], tuple[NDArray[np.float64], NDArray[np.bool_]]]
    consistency: Consistency
    encoding: Encoding
    output: Path
    tags: Mapping[str, str]
    pools: bool = True
    limits: tuple[float, float] = (-np.inf, np.inf)


@dataclass(frozen=True)
class Written:
    """What was found while writing; `deviations` is the `DeviationMap`'s.

    `cut` counts output pixels beyond the type, `moved` those of an integer type that were moved off its nodata value,
    `beyond` source pixels beyond the limits. `lowest` is the smallest valid value of the source and that of the output.
    """

    deviation: Deviation
    seam_ratio: float | None
    deviations: NDArray[np.float64]
    cut: int
    moved: int
    beyond: int
    lowest: tuple[float, float]


def write(mosaics: Sequence[Mosaic], *, compress: str, overwrite: bool) -> list[Written]:
    """Make COGs and give them their names only when all are complete, checked and on disk; the last one last.

    Args:
        mosaics: tiles and how to blend them.
        compress: `deflate` or `zstd`.
        overwrite: replace existing files of those names.

    Raises:
        OutputError: no room, no right, or a finished file is not what was written.
    """
    written = []
    files = [(mosaic, mosaic.folder / f"output{number}.tif") for number, mosaic in enumerate(mosaics)]
    for mosaic, finished in files:
        staging = mosaic.folder / "mosaic.tif"
        with _reported(mosaic.output), gdal_environment(_cache_bytes(mosaic)):
            written.append(_stage(mosaic, staging))
            _copy_to_cog(staging, finished, compress)
            _check(finished, staging, mosaic)
    note_published(mosaics[0].folder, {mosaic.output: finished for mosaic, finished in files})
    for mosaic, finished in files:
        with _reported(mosaic.output):
            _publish(finished, mosaic.output, overwrite=overwrite)
    return written


def _cache_bytes(mosaic: Mosaic) -> int:
    """Of GDAL's block cache: a row of the COG's blocks and a half, else each of its blocks would read whole rows again.

    With two rows the COG of 20 000 x 20 000 pixels took as long and 40 MB more.
    """
    row: int = _BLOCK * mosaic.grids.high.shape[1] * np.dtype(mosaic.encoding.dtype).itemsize
    return max(3 * row // 2, _CACHE_BYTES)


@contextmanager
def _reported(output: Path) -> Iterator[None]:
    try:
        with warnings.catch_warnings():  # a grid of unit pixels at the origin is as good as any
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            yield
    except OutputError:
        raise
    except _FAILURES as error:
        reason = error.__cause__ or error
        raise OutputError(f"{output} was not written: {reason}") from error


def _stage(mosaic: Mosaic, path: Path) -> Written:
    """Blend into a plain striped GeoTIFF, whole rows at a time, each written once."""
    high, scale = mosaic.grids.high, mosaic.grids.scale
    rows, cols = core_edges([result.tile for result in mosaic.results])
    seams = SeamMeter([r * scale for r in rows], [c * scale for c in cols], scale)
    tile_rows = _tile_rows(mosaic.results)
    distances, squares, count, cut, moved, beyond = DeviationMap(mosaic.grids.low.shape), 0.0, 0, 0, 0, 0
    lowest = np.full(2, np.inf)
    with rasterio.open(path, "w", **_profile(mosaic)) as dataset:
        _describe(dataset, mosaic)
        for window in _strips(mosaic.grids):
            source, source_valid = mosaic.read_source(window)
            valid = spread(source_valid, scale)
            blended = project(_blend(mosaic, tile_rows, window), valid, source, source_valid, mosaic.consistency)
            beyond += int((source_valid & _beyond(source, mosaic.limits)).sum())
            values = confine(blended, valid, scale, mosaic.limits)
            stored, cut = mosaic.encoding.encode(values, valid), cut + mosaic.encoding.beyond(values, valid)
            moved += mosaic.encoding.on_nodata(values, valid)
            top = window.row * scale
            dataset.write(stored, 1, window=RasterioWindow(0, top, high.shape[1], len(stored)))
            final = mosaic.encoding.decode(stored)
            difference = np.where(source_valid, pool(final, valid, scale)[0] - source, 0.0)
            distances.add(window.row, np.abs(difference))
            squares, count = squares + float((difference**2).sum()), count + int(source_valid.sum())
            lowest = np.fmin(lowest, [source[source_valid].min(initial=np.inf), final[valid].min(initial=np.inf)])
            seams.add(top, np.where(valid, final, np.nan))
        deviation = Deviation(float(distances.cells.max()), (squares / max(count, 1)) ** 0.5)
        lowest = float(lowest[0]), float(lowest[1])
        written = Written(deviation, seams.ratio, distances.cells, cut, moved, beyond, lowest)
        dataset.update_tags(**mosaic.tags, **(_findings(written) if mosaic.pools else {}))
    return written


def _findings(written: Written) -> dict[str, str]:
    tags = {
        "GEOSR_CONSISTENCY_MAX_DEVIATION": f"{written.deviation.largest:.6g}",
        "GEOSR_CONSISTENCY_RMS_DEVIATION": f"{written.deviation.rms:.6g}",
    }
    return tags if written.seam_ratio is None else {**tags, "GEOSR_SEAM_RATIO": f"{written.seam_ratio:.4f}"}


def _strips(grids: GridPair) -> Iterator[Window]:
    """Windows of whole source rows that cover the low grid, the shallower the wider it is."""
    rows, cols = grids.low.shape
    least, most = _ROWS
    step = max(min(max(_PIXELS // grids.high.shape[1], least), most) // grids.scale, 1)
    for row in range(0, rows, step):
        yield Window(row, 0, min(step, rows - row), cols)


def _tile_rows(results: Sequence[TileResult]) -> dict[Span, list[TileResult]]:
    """Tiles side by side, in the order of their indices whatever came first; those without values are left out."""
    rows: dict[Span, list[TileResult]] = {}
    for result in sorted(results, key=lambda result: result.tile.index):
        if result.centre is not None:
            rows.setdefault(result.tile.rows, []).append(result)
    return rows


def _blend(mosaic: Mosaic, tile_rows: Mapping[Span, list[TileResult]], window: Window) -> NDArray[np.float64]:
    """Weighted sum of the tiles over a strip, in their order."""
    scale = mosaic.grids.scale
    total = np.zeros((window.height * scale, window.width * scale))
    for rows, results in tile_rows.items():
        first, last = max(rows.start, window.row), min(rows.stop, window.row + window.height)
        for result in results if first < last else ():
            tile = result.tile.window
            part = Window(first, tile.col, last - first, tile.width)
            weights = spread(result.tile.weights()[part.relative_to(tile).slices], scale)
            stored = mosaic.tiles.load(result.tile.index, check=first == tile.row)  # all of it, once
            values = stored[part.relative_to(tile).times(scale).slices]
            add = weights * (values.astype(np.float64) + (result.centre or 0.0))
            total[part.relative_to(window).times(scale).slices] += add
    return total


def _profile(mosaic: Mosaic) -> dict[str, object]:
    rows, cols = mosaic.grids.high.shape
    return {
        "driver": "GTiff",
        "height": rows,
        "width": cols,
        "count": 1,
        "dtype": mosaic.encoding.dtype,
        "nodata": mosaic.encoding.nodata,
        "crs": CRS.from_wkt(mosaic.source.crs_wkt) if mosaic.source.crs_wkt else None,
        "transform": mosaic.grids.high.affine,
        "tiled": False,
        "blockysize": mosaic.grids.scale,
        "BIGTIFF": "IF_SAFER",
    }


def _describe(dataset: rasterio.io.DatasetWriter, mosaic: Mosaic) -> None:
    """The source's metadata, all but what the resampling makes untrue."""
    source, encoding = mosaic.source, mosaic.encoding
    dataset.update_tags(**_own(source.tags), AREA_OR_POINT=source.area_or_point)
    dataset.update_tags(1, **_own(source.band_tags))
    colour = source.colorinterp[source.bands[0] - 1]
    dataset.colorinterp = [ColorInterp.gray if colour in ("alpha", "palette") else ColorInterp[colour]]
    if source.description:
        dataset.descriptions = [source.description]
    if source.units:
        dataset.units = [source.units]
    if (encoding.scale, encoding.offset) != (1.0, 0.0):
        dataset.scales, dataset.offsets = [encoding.scale], [encoding.offset]


def _own(tags: Mapping[str, str]) -> dict[str, str]:
    """Tags to carry over: not an earlier run's findings, nor names that `update_tags` takes for its arguments."""
    return {name: text for name, text in tags.items() if name not in ("ns", "bidx") and not name.startswith("GEOSR_")}


def _copy_to_cog(staging: Path, finished: Path, compress: str, block: int = _BLOCK) -> None:
    rasterio.shutil.copy(
        staging,
        finished,
        driver="COG",
        COMPRESS=compress.upper(),
        PREDICTOR="YES",
        BLOCKSIZE=block,
        OVERVIEWS="AUTO",
        OVERVIEW_RESAMPLING="AVERAGE",
        BIGTIFF="IF_SAFER",
        STATISTICS="YES",
        NUM_THREADS="ALL_CPUS",
    )


def _check(finished: Path, staging: Path, mosaic: Mosaic) -> None:
    """The grid contract and a sample of pixels, read back from the file that will be published."""
    high = mosaic.grids.high
    with rasterio.open(finished, driver="GTiff") as made, rasterio.open(staging, driver="GTiff") as meant:
        if made.shape != high.shape or not _same_corners(made.transform, high):
            raise OutputError(f"the finished file has the grid {made.shape} {made.transform[:6]}, not the planned one")
        same = (made.crs == meant.crs, made.dtypes == meant.dtypes, _same(made.nodata, meant.nodata))
        if not all(same):
            raise OutputError("CRS, data type or nodata of the finished file are not those that were written")
        for window in _samples(made):
            if not np.array_equal(made.read(1, window=window), meant.read(1, window=window), equal_nan=True):
                raise OutputError(f"the finished file differs from what was written at {window}")


def _same_corners(transform: Affine, grid: GeoBox) -> bool:
    """Whether `transform` puts the corners of `grid` where they belong, to a ten-thousandth of a pixel."""
    rows, cols = grid.shape
    corners = np.array([(0, 0), (cols, 0), (0, rows), (cols, rows)])
    found = np.array([~grid.affine * (transform * corner) for corner in corners.tolist()])
    return bool(np.abs(found - corners).max() < 1e-4)


def _same(a: float | None, b: float | None) -> bool:
    return a == b or (a is not None and b is not None and np.isnan(a) and np.isnan(b))


def _samples(dataset: rasterio.io.DatasetReader) -> list[RasterioWindow]:
    windows = [window for _, window in dataset.block_windows(1)]
    return windows[:: max(len(windows) // _SAMPLES, 1)]


def merge_bands(
    parts: Sequence[Path],
    folder: Path,
    output: Path,
    *,
    name: Callable[[Mapping[str, str]], str | None],
    tags: Mapping[str, str],
    compress: str,
    overwrite: bool,
) -> None:
    """One COG of GeoTIFFs with a band each, on one grid and of one type; under its name only when complete and checked.

    Tags that all parts have in common become the file's; those in which they differ, their bands'.

    Args:
        parts: from `write`, in the order of the bands.
        folder: in which it is made.
        output: from `check_output`.
        name: a band's description by its tags; where None, what the part has.
        tags: of the file, over those of the parts.
        compress: `deflate` or `zstd`.
        overwrite: replace a file of that name.

    Raises:
        OutputError: no room, no right, or the finished file is not what was written.
    """
    staging, finished = folder / "bands.tif", folder / "output.tif"
    with _reported(output), gdal_environment():
        _stage_bands(parts, staging, name, tags)
        # all bands of a block are stored together: fewer pixels, for whoever reads one of them
        _copy_to_cog(staging, finished, compress, _BLOCK if len(parts) <= _FEW_BANDS else _BLOCK // 4)
        with rasterio.open(finished, driver="GTiff") as made, rasterio.open(staging, driver="GTiff") as meant:
            for window in _samples(made):
                if not np.array_equal(made.read(window=window), meant.read(window=window), equal_nan=True):
                    raise OutputError(f"the finished file differs from what was written at {window}")
        note_published(folder, {output: finished})
        _publish(finished, output, overwrite=overwrite)


def _stage_bands(
    parts: Sequence[Path], path: Path, name: Callable[[Mapping[str, str]], str | None], tags: Mapping[str, str]
) -> None:
    """The parts as the bands of a plain GeoTIFF, one after the other."""
    found = []
    for part in parts:
        with rasterio.open(part, driver="GTiff") as given:
            found.append(given.tags())
    shared = {key: text for key, text in found[0].items() if all(each.get(key) == text for each in found)}
    with rasterio.open(parts[0], driver="GTiff") as first:
        kept = ("driver", "height", "width", "dtype", "nodata", "crs", "transform")
        profile = {key: first.profile[key] for key in kept}
    bands = {"count": len(parts), "interleave": "band", "tiled": False, "blockysize": _ROWS[1], "BIGTIFF": "IF_SAFER"}
    with rasterio.open(path, "w", **profile, **bands) as made:
        made.update_tags(**shared | dict(tags))
        scales, offsets, units, texts = [], [], [], []
        for number, (part, own) in enumerate(zip(parts, found, strict=True), 1):
            with rasterio.open(part, driver="GTiff") as given:
                for row in range(0, given.height, _ROWS[1]):
                    window = RasterioWindow(0, row, given.width, min(_ROWS[1], given.height - row))
                    made.write(given.read(1, window=window), number, window=window)
                kept_tags = {key: text for key, text in given.tags(1).items() if not key.startswith("STATISTICS_")}
                made.update_tags(number, **kept_tags, **{key: text for key, text in own.items() if key not in shared})
                scales.append(given.scales[0])
                offsets.append(given.offsets[0])
                units.append(given.units[0] or "")
                texts.append(name(kept_tags) or given.descriptions[0] or "")
        made.scales, made.offsets, made.units, made.descriptions = scales, offsets, units, texts
        made.colorinterp = [ColorInterp.gray] + [ColorInterp.undefined] * (len(parts) - 1)


def check_output(output: Path, inputs: Sequence[Path], *, overwrite: bool, form: str = "GeoTIFF") -> Path:
    """Where the output will really lie, links resolved, before any work is done.

    Raises:
        UsageError: it is no name for a file of that form, is one of the inputs or lies in one that is a folder, or
            exists and `overwrite` is not given.
        OutputError: as `check_place`, or a GeoTIFF's path is not UTF-8.
    """
    name, path = show(output), check_place(output)
    if path.suffix.lower() not in _ENDINGS[form]:
        raise UsageError(f"{name}: a {form} is written; give a name that ends in {_ENDINGS[form][0]}")
    if form == "GeoTIFF":
        _check_utf8(path)
    exists = path.exists()
    if exists and any(_is_same(path, file) for other in inputs for file in files_of(other)):
        raise UsageError(f"the output {name} is one of the inputs; give it another name")
    if any(is_folder(other) and os.path.samefile(path.parent, other) for other in inputs):
        raise UsageError(f"the output {name} would lie among the rasters of an input; give another folder")
    if overwrite:
        return path
    if exists:
        raise UsageError(f"{name} exists; use --overwrite to replace it")
    if form == "GeoTIFF" and (beside := next((file for file in _beside(path) if os.path.lexists(file)), None)):
        raise UsageError(
            f"{show(beside)} is left from an earlier {show(path.name)}, and GDAL would read it for the new one; "
            "remove it, or use --overwrite"
        )
    return path


def _check_utf8(path: Path) -> None:
    if not is_utf8(path):
        raise OutputError(f"{show(path)} cannot be written: its path is not UTF-8; rename the folder or the file")


def _beyond(values: NDArray[np.float64], limits: tuple[float, float]) -> NDArray[np.bool_]:
    """Outside of limits by more than float32 rounds them."""
    low, high = (limit - sign * 1e-6 * max(1.0, abs(limit)) for limit, sign in zip(limits, (1, -1), strict=True))
    return np.asarray((values < low) | (values > high))


def _is_same(path: Path, other: Path) -> bool:
    return os.path.exists(other) and os.path.samefile(path, other)


def _beside(path: Path) -> list[Path]:
    """Files that GDAL reads with a GeoTIFF of that name, if they are there."""
    return [path.with_name(path.name + suffix) for suffix in (".aux.xml", ".msk", ".ovr")]


def _publish(finished: Path, output: Path, *, overwrite: bool) -> None:
    """Under its name at once or not at all, and on disk."""
    _sync(finished)
    if overwrite:
        finished.replace(output)
        for file in _beside(output):  # of the file that was replaced
            file.unlink(missing_ok=True)
    else:
        try:
            _name(finished, output)
        except FileExistsError as error:
            raise OutputError(f"{output} appeared while this run was at work; it was left alone") from error
    with suppress(OSError):  # the file is there; not every system can sync a folder
        _sync(output.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _name(finished: Path, output: Path) -> None:
    """Give `finished` the name `output`; `FileExistsError` if that name is taken."""
    try:
        os.link(finished, output)  # unlike a rename it never replaces what appeared meanwhile
    except FileExistsError:
        raise
    except OSError:  # a file system without links (FAT, some network shares): a look before is the best there is
        if os.path.lexists(output):
            raise FileExistsError(output) from None
        finished.rename(output)


def write_tile(
    path: Path,
    bands: NDArray[np.generic],
    grid: GeoBox,
    crs_wkt: str | None,
    *,
    valid: NDArray[np.bool_] | None = None,
    tags: Mapping[str, str] | None = None,
    of: Raster | None = None,
) -> None:
    """A small GeoTIFF of (bands, rows, columns) on `grid`; validity as a mask band, else NaN is nodata.

    Unit and name of the band are those of the raster that it is a part `of`.

    Raises:
        OutputError: there is no room or no right, or the path is not UTF-8.
    """
    _check_utf8(path)
    profile = {
        "driver": "GTiff",
        "height": grid.shape[0],
        "width": grid.shape[1],
        "count": len(bands),
        "dtype": bands.dtype.name,
        "crs": CRS.from_wkt(crs_wkt) if crs_wkt else None,
        "transform": grid.affine,
        "compress": "deflate",
        "nodata": float("nan") if valid is None else None,
    }
    with (
        _reported(path),
        gdal_environment(),
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(path, "w", **profile) as made,
    ):
        made.write(bands)
        made.update_tags(**(tags or {}))
        if of:
            made.units, made.descriptions = [of.units or ""], [of.description]
        if valid is not None:
            made.write_mask(valid)


def write_strips(
    output: Path,
    strips: Iterable[tuple[int, NDArray[np.float32]]],
    grid: GeoBox,
    crs_wkt: str | None,
    *,
    units: str,
    description: Sequence[str],
    tags: Mapping[str, str],
    overwrite: bool,
) -> None:
    """A float32 GeoTIFF from strips of whole rows, NaN where invalid; whole or not at all.

    Args:
        output: from `check_output`.
        strips: number of the first row, and (bands, rows, columns).
        grid: of all rows.
        crs_wkt: the whole CRS.
        units: of the bands.
        description: of each band.
        tags: of the file.
        overwrite: replace a file of that name.

    Raises:
        OutputError: there is no room or no right.
    """
    profile = {
        "driver": "GTiff",
        "height": grid.shape[0],
        "width": grid.shape[1],
        "count": len(description),
        "dtype": "float32",
        "crs": CRS.from_wkt(crs_wkt) if crs_wkt else None,
        "transform": grid.affine,
        "compress": "deflate",
        "predictor": 3,
        "nodata": float("nan"),
        "BIGTIFF": "IF_SAFER",
    }
    with scratch_folder(output) as hidden, _reported(output), gdal_environment():
        made = hidden / "made.tif"
        with rasterio.open(made, "w", **profile) as dataset:
            dataset.units, dataset.descriptions = [units] * len(description), description
            dataset.update_tags(**tags)
            for row, values in strips:
                dataset.write(values, window=RasterioWindow(0, row, values.shape[2], values.shape[1]))
        _publish(made, output, overwrite=overwrite)


def encode_picture(picture: NDArray[np.uint8], form: str) -> bytes:
    """A picture (red, green, blue and alpha; rows; columns) as a file: `PNG`, lossless, or `WEBP`, small.

    Raises:
        OutputError: this GDAL cannot write it.
    """
    bands, rows, cols = picture.shape
    quality = {"QUALITY": 85} if form == "WEBP" else {"ZLEVEL": 9}
    profile = {"driver": form, "height": rows, "width": cols, "count": bands, "dtype": "uint8", **quality}
    with _reported(Path(form)), gdal_environment(), rasterio.MemoryFile() as memory:
        with memory.open(**profile) as made:
            made.write(picture)
        return bytes(memory.getbuffer())
