"""GeoTIFFs and pictures from arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.crs import CRS
from rasterio.windows import Window as RasterioWindow

from geosr.gdal import gdal_environment
from geosr.publish import check_utf8, publish, reported_as
from geosr.raster import Raster
from geosr.scratch import scratch_folder


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
        OutputError: there is no space left, no permission, or the path is not UTF-8.
    """
    check_utf8(path)
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
        reported_as(path),
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
        OutputError: there is no space left, or no permission.
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
    with scratch_folder(output) as hidden, reported_as(output), gdal_environment():
        made = hidden / "made.tif"
        with rasterio.open(made, "w", **profile) as dataset:
            dataset.units, dataset.descriptions = [units] * len(description), description
            dataset.update_tags(**tags)
            for row, values in strips:
                dataset.write(values, window=RasterioWindow(0, row, values.shape[2], values.shape[1]))
        publish(made, output, overwrite=overwrite)


def encode_picture(picture: NDArray[np.uint8], form: str) -> bytes:
    """A picture (red, green, blue and alpha; rows; columns) as a file: `PNG`, lossless, or `WEBP`, small.

    Raises:
        OutputError: this GDAL cannot write it.
    """
    bands, rows, cols = picture.shape
    quality = {"QUALITY": 85} if form == "WEBP" else {"ZLEVEL": 9}
    profile = {"driver": form, "height": rows, "width": cols, "count": bands, "dtype": "uint8", **quality}
    with reported_as(Path(form)), gdal_environment(), rasterio.MemoryFile() as memory:
        with memory.open(**profile) as made:
            made.write(picture)
        return bytes(memory.getbuffer())
