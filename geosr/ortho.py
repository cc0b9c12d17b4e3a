"""Images that are placed by RPCs alone, brought onto a grid over known heights.

RPCs (rational polynomial coefficients) give the pixel of an image that shows a longitude, latitude and height above
the WGS84 ellipsoid. GDAL does the work; occlusion is not looked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import rasterio
import rasterio.warp
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.transform import RPCTransformer

from geosr import raster_guard as guard
from geosr.errors import InputError
from geosr.gdal import open_file, translated
from geosr.raster_guard import show

_RISE = 100.0  # metres between the two heights that tell an image's direction
_MARGIN = 2  # pixels by which a surface is continued: GDAL interpolates between four


@dataclass(frozen=True)
class Surface:
    """Heights above the WGS84 ellipsoid in metres, all of them valid, and their grid."""

    heights: NDArray[np.float64]
    grid: GeoBox


def off_nadir(path: Path) -> float:
    """By how many degrees the line of sight of an image's centre is off the vertical.

    Raises:
        InputError: it cannot be read or has no RPCs.
    """
    with _opened(path) as dataset, RPCTransformer(dataset.rpcs) as transformer:
        middle = [dataset.height / 2], [dataset.width / 2]
        foot, top = (transformer.xy(*middle, zs=[dataset.rpcs.height_off + rise]) for rise in (0.0, _RISE))
    away = pyproj.Geod(ellps="WGS84").inv(foot[0][0], foot[1][0], top[0][0], top[1][0])[2]
    return math.degrees(math.atan2(away, _RISE))


def orthorectify(path: Path, grid: GeoBox, surface: Surface) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The image as seen from straight above, (bands, rows, columns) by cubic convolution, and where there is any.

    Args:
        path: a TIFF with RPCs.
        grid: to be filled.
        surface: the ground and what stands on it, covering the grid.

    Raises:
        InputError: it cannot be read or has no RPCs.
    """
    filled = np.pad(surface.heights, _MARGIN, mode="edge").astype(np.float32)
    corner = surface.grid.affine * Affine.translation(-_MARGIN, -_MARGIN)
    profile = {"driver": "GTiff", "count": 1, "dtype": "float32", "crs": str(surface.grid.crs), "transform": corner}
    with _opened(path) as dataset, rasterio.MemoryFile() as memory:
        with memory.open(**profile, height=filled.shape[0], width=filled.shape[1]) as heights:
            heights.write(filled, 1)
        bands = np.full((dataset.count, *grid.shape), np.nan, np.float32)
        rasterio.warp.reproject(
            dataset.read(out_dtype="float32"),
            bands,
            rpcs=dataset.rpcs,
            src_crs="EPSG:4326",
            src_nodata=dataset.nodata,
            dst_transform=grid.affine,
            dst_crs=str(grid.crs),
            dst_nodata=np.nan,
            resampling=Resampling.cubic,
            tolerance=0,
            RPC_DEM=memory.name,
            RPC_DEMINTERPOLATION="bilinear",
        )
    seen = np.logical_and.reduce(np.isfinite(bands))
    bands[:, ~seen] = 0
    return bands, seen


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A dataset with RPCs; what goes wrong with it is told by its name."""
    file = guard.local_file(path)
    if guard.find_driver(file) != "GTiff":
        raise InputError(f"{show(file)}: is no TIFF; images with RPCs are read from TIFF only")
    with open_file(file, "GTiff", {}) as dataset, translated(file, "placed by its RPCs"):
        if dataset.rpcs is None:
            raise InputError(f"{show(file)}: has no RPCs; the images of Track 3 have them, those of Track 1 do not")
        yield dataset
