"""Runs for tests, and outputs read and judged with plain rasterio, numpy and pyproj."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pyproj
import rasterio
from rio_cogeo import cog_validate

from geosr.consistency import Consistency
from geosr.metrics import Block, score
from geosr.options import Execution, Inputs, Recipe
from geosr.pipeline import upscale_file

SMALL_NETWORK = {
    "method": "mmsr",
    "settings": {"epochs": 2, "channels": 4, "source_to_guide": 3, "guide_to_source": 3},
}
"""The guided method in a second or two: far from good, but every part of it has its say."""

RECIPE = ("method", "preset", "settings", "tile", "seed", "dtype", "compress", "minimum", "maximum")


def run(
    source,
    guide,
    output,
    scale=4,
    *,
    consistency=None,
    workers=1,
    overwrite=False,
    on_event=None,
    scheduler="threads",
    on_tile_error="fail",
    **options,
):
    """`upscale_file` with the bicubic method where nothing else is said."""
    recipe = {"method": "bicubic"} | {name: options.pop(name) for name in RECIPE if name in options}
    limit = None if consistency is None else Consistency.parse(consistency)
    execution = Execution(
        "cpu", workers, scheduler, overwrite, on_tile_error, on_event=on_event or (lambda event: None)
    )
    inputs = Inputs(Path(source), Path(guide), scale, **options)
    return upscale_file(inputs, Recipe(consistency=limit, **recipe), execution, Path(output))


def block_means(values, size):
    """Means over size x size pixels."""
    rows, cols = values.shape
    return values.reshape(rows // size, size, cols // size, size).mean(axis=(1, 3))


def score_heights(prediction, truth, spacing):
    """All metrics of two arrays of heights, the lengths of a column step and a row step given."""
    return score(lambda: [Block.whole(prediction, truth)], spacing=spacing)


def physical(path, window=None, nodata=None):
    """The first band as float64 with scale and offset applied, NaN where invalid."""
    with opened(path) as dataset:
        stored = dataset.read(1, window=window, masked=True)
        values = np.ma.filled(stored.astype("float64"), np.nan)
        if nodata is not None:
            values[np.isclose(values, nodata, rtol=1e-6, atol=0)] = np.nan
        values[~np.isfinite(values)] = np.nan
        return values * dataset.scales[0] + dataset.offsets[0]


def check_means(source, output, scale, window=None, nodata=None, tolerance=None):
    """Block means of the output are the source to float32 rounding, and its gaps are the source's."""
    given, made = physical(source, window, nodata), physical(output)
    valid = np.isfinite(given)
    assert valid.any()
    assert np.array_equal(np.isfinite(made), np.kron(valid, np.ones((scale, scale), bool)))
    found = np.abs(block_means(made, scale) - given)[valid].max()
    limit = 1.2e-7 * np.nanmax(np.abs(made)) if tolerance is None else tolerance
    assert found <= limit, f"{found} > {limit}"


def opened(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return rasterio.open(path)


def check_grid(source, output, scale, window=None):
    """CRS, corner, pixel size, size and the world positions of random pixels, by affine and pyproj alone."""
    with opened(source) as given, opened(output) as made:
        assert made.crs == given.crs
        origin = (0, 0) if window is None else (window.col_off, window.row_off)
        rows, cols = given.shape if window is None else (window.height, window.width)
        assert made.shape == (rows * scale, cols * scale)
        if made.crs:
            assert made.tags().get("AREA_OR_POINT", "Area") == given.tags().get("AREA_OR_POINT", "Area")
        rng = np.random.default_rng(5)
        col, row = rng.uniform(0, cols * scale, 100), rng.uniform(0, rows * scale, 100)
        there = [made.transform * position for position in zip(col, row, strict=True)]
        here = [given.transform * (origin[0] + c / scale, origin[1] + r / scale)
                for c, r in zip(col, row, strict=True)]  # fmt: skip
        back = np.array([~made.transform * position for position in here])
        assert np.abs(back - np.column_stack([col, row])).max() < 1e-5
        if not made.crs or not made.crs.is_projected:
            return
        to_degrees = pyproj.Transformer.from_crs(pyproj.CRS(given.crs.to_wkt()).to_2d(), "EPSG:4326", always_xy=True)
        a, b = (np.array(to_degrees.transform(*np.array(xy).T)) for xy in (there, here))
        assert np.abs(a - b).max() * 111_320 < 0.01 * np.sqrt(abs(made.transform.determinant)) or np.isinf(a).any()


def check_cog(path):
    valid, errors, warnings = cog_validate(str(path), strict=True, quiet=True)
    assert valid
    assert not errors
    assert not warnings
