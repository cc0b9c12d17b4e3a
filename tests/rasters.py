"""Small rasters for tests, written and judged with plain rasterio, numpy and pyproj: nothing of geosr."""

from __future__ import annotations

import math
import os
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

UTM = "EPSG:32632"


def shared_data() -> Path:
    """The folder of real rasters; without it tests are skipped, in CI they fail."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(f"{folder} is missing, and CI needs it")
        pytest.skip("the shared test rasters are not on this machine")
    return folder


def grid(x, y, step, step_y=None, *, rotation=0.0, shear=0.0, south_up=False) -> Affine:
    """The affine of a grid with its first corner at (x, y): steps, then shear and rotation in degrees."""
    step_y = step if step_y is None else step_y
    down = step_y if south_up else -step_y
    cos, sin, slant = math.cos(math.radians(rotation)), math.sin(math.radians(rotation)), math.tan(math.radians(shear))
    a, b, d, e = cos, cos * slant - sin, sin, sin * slant + cos
    return Affine(a * step, b * down, x, d * step, e * down, y)


def world(affine, col, row):
    """World coordinates of fractional pixel positions."""
    return affine.a * col + affine.b * row + affine.c, affine.d * col + affine.e * row + affine.f


def pixel_centres(affine, shape):
    """World coordinates of all pixel centres, each of `shape`."""
    row, col = np.mgrid[: shape[0], : shape[1]] + 0.5
    return world(affine, col, row)


def write(
    path, values, affine=None, crs=UTM, *, mask=None, scale=None, offset=None, tags=None, colormap=None, **profile
):
    """A GeoTIFF of `values`, (rows, columns) or (bands, rows, columns); `mask` is True where valid."""
    values = np.asarray(values)
    bands = values[None] if values.ndim == 2 else values
    affine = grid(500000, 5000000, 1) if affine is None else affine
    profile = {"driver": "GTiff", "count": len(bands), "dtype": bands.dtype, "crs": crs, "transform": affine} | profile
    if affine == Affine.identity():
        del profile["transform"]
    with warnings.catch_warnings(), rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        warnings.simplefilter("ignore")
        with rasterio.open(path, "w", height=bands.shape[1], width=bands.shape[2], **profile) as dataset:
            dataset.write(bands)
            if mask is not None:
                dataset.write_mask(mask)
            if scale is not None:
                dataset.scales = [scale] * len(bands)
            if offset is not None:
                dataset.offsets = [offset] * len(bands)
            if colormap is not None:
                dataset.write_colormap(1, colormap)
            if tags:  # even none would move the directory to the file's end
                dataset.update_tags(**tags)
    return Path(path)


def plain_read(path, band=1):
    """One band as stored, by rasterio alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path) as dataset:
            return dataset.read(band)


def tiff_tag(path, number) -> tuple[float, ...]:
    """A numeric tag of a classic TIFF's first directory, read from the bytes; () if it is not there."""
    data = Path(path).read_bytes()
    order = "<" if data[:2] == b"II" else ">"
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, start)
    for i in range(count):
        tag, kind, n, value = struct.unpack_from(f"{order}HHII", data, start + 2 + 12 * i)
        if tag == number:
            code, size = {3: ("H", 2), 4: ("I", 4), 12: ("d", 8)}[kind]
            at = value if n * size > 4 else start + 2 + 12 * i + 8
            return struct.unpack_from(f"{order}{n}{code}", data, at)
    return ()
