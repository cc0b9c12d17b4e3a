"""From tiles to the finished file: blend, project, stage, copy to a COG, check, publish."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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
from rasterio.windows import Window as RasterioWindow

from geosr.consistency import Consistency, confine, project, spread
from geosr.encoding import Encoding
from geosr.errors import OutputError
from geosr.findings import Findings, Written
from geosr.gdal import gdal_environment
from geosr.grid import GridPair, Window
from geosr.publish import publish, reported_as
from geosr.published import note_published
from geosr.raster import Raster
from geosr.seams import SeamMeter
from geosr.tile_store import TileResult, TileStore
from geosr.tiling import Span, core_edges

_PIXELS = 1 << 21  # blended at once, about: some 150 MB
_ROWS = 64, 512  # at least and at most so many output rows of them, about: each strip opens its tiles again
_BLOCK = 512  # side of the COG's blocks
_CACHE_BYTES = 32 << 20  # at least, of GDAL's blocks while a mosaic is written
_FEW_BANDS = 4  # of a multi-band output, up to which its blocks are as large as any
_SAMPLES = 8  # blocks read back from the finished file and compared


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


def write(mosaics: Sequence[Mosaic], *, compress: str, overwrite: bool) -> list[Written]:
    """Make COGs and give them their names only when all are complete, checked and on disk; the last one last.

    Args:
        mosaics: tiles and how to blend them.
        compress: `deflate` or `zstd`.
        overwrite: replace existing files of those names.

    Raises:
        OutputError: no space left, no permission, or a finished file is not what was written.
    """
    written = []
    files = [(mosaic, mosaic.folder / f"output{number}.tif") for number, mosaic in enumerate(mosaics)]
    for mosaic, finished in files:
        staging = mosaic.folder / "mosaic.tif"
        with reported_as(mosaic.output), gdal_environment(_cache_bytes(mosaic)):
            written.append(_stage(mosaic, staging))
            _copy_to_cog(staging, finished, compress)
            _check(finished, staging, mosaic)
    note_published(mosaics[0].folder, {mosaic.output: finished for mosaic, finished in files})
    for mosaic, finished in files:
        with reported_as(mosaic.output):
            publish(finished, mosaic.output, overwrite=overwrite)
    return written


def _cache_bytes(mosaic: Mosaic) -> int:
    """Of GDAL's block cache: a row of the COG's blocks and a half, else each of its blocks would read whole rows again.

    With two rows the COG of 20 000 x 20 000 pixels took as long and 40 MB more.
    """
    row: int = _BLOCK * mosaic.grids.high.shape[1] * np.dtype(mosaic.encoding.dtype).itemsize
    return max(3 * row // 2, _CACHE_BYTES)


def _stage(mosaic: Mosaic, path: Path) -> Written:
    """Blend into a plain striped GeoTIFF, whole rows at a time, each written once."""
    high, scale = mosaic.grids.high, mosaic.grids.scale
    rows, cols = core_edges([result.tile for result in mosaic.results])
    seams = SeamMeter([r * scale for r in rows], [c * scale for c in cols], scale)
    tile_rows = _tile_rows(mosaic.results)
    findings = Findings(mosaic.grids, mosaic.limits, mosaic.encoding)
    with rasterio.open(path, "w", **_profile(mosaic)) as dataset:
        _describe(dataset, mosaic)
        for window in _strips(mosaic.grids):
            source, source_valid = mosaic.read_source(window)
            valid = spread(source_valid, scale)
            blended = project(_blend(mosaic, tile_rows, window), valid, source, source_valid, mosaic.consistency)
            values = confine(blended, valid, scale, mosaic.limits)
            stored, top = mosaic.encoding.encode(values, valid), window.row * scale
            dataset.write(stored, 1, window=RasterioWindow(0, top, high.shape[1], len(stored)))
            final = mosaic.encoding.decode(stored)
            findings.add(window.row, source, source_valid, valid, values, final)
            seams.add(top, np.where(valid, final, np.nan))
        written = findings.finish(seams.ratio)
        dataset.update_tags(**mosaic.tags, **(_as_tags(written) if mosaic.pools else {}))
    return written


def _as_tags(written: Written) -> dict[str, str]:
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
        OutputError: no space left, no permission, or the finished file is not what was written.
    """
    staging, finished = folder / "bands.tif", folder / "output.tif"
    with reported_as(output), gdal_environment():
        _stage_bands(parts, staging, name, tags)
        # all bands of a block are stored together: fewer pixels, for whoever reads one of them
        _copy_to_cog(staging, finished, compress, _BLOCK if len(parts) <= _FEW_BANDS else _BLOCK // 4)
        with rasterio.open(finished, driver="GTiff") as made, rasterio.open(staging, driver="GTiff") as meant:
            for window in _samples(made):
                if not np.array_equal(made.read(window=window), meant.read(window=window), equal_nan=True):
                    raise OutputError(f"the finished file differs from what was written at {window}")
        note_published(folder, {output: finished})
        publish(finished, output, overwrite=overwrite)


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
