"""What a run holds does not grow with the raster, and what nobody uses is not read."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import rasterio
import rasters
from outputs import physical, run
from pairs import make_pair
from rasterio._env import get_gdal_config

from geosr import writer
from geosr.errors import TileError
from geosr.gdal import gdal_environment


def peak(folder, size):
    """Bytes that a run holds at most at once beyond what was there before, GDAL's aside."""
    folder = folder / str(size)
    folder.mkdir()
    pair = make_pair(folder, size=size, tiled=True, blockxsize=64, blockysize=64)
    tracemalloc.start()
    try:
        run(*pair, folder / "out.tif", 4, tile=96)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_raster(tmp_path, monkeypatch):
    """Nine times the area; strips of 64 and more rows, as a mosaic of 65 000 columns and more has them."""
    monkeypatch.setattr(writer, "_PIXELS", 1 << 15)
    monkeypatch.setattr(writer, "_ROWS", (8, 512))
    monkeypatch.setattr("geosr.preflight.SMALL", 1 << 16)  # as if too large to be looked at whole
    peak(tmp_path, 40)  # what is made once
    small, large = peak(tmp_path, 64), peak(tmp_path, 192)
    assert large < 1.5 * small, f"{large} against {small} bytes"


def test_strips_of_any_height_give_the_same_mosaic(tmp_path, monkeypatch):
    pair = make_pair(tmp_path, size=60)
    run(*pair, tmp_path / "whole.tif", 4, tile=96)
    monkeypatch.setattr(writer, "_ROWS", (4, 4))
    run(*pair, tmp_path / "narrow.tif", 4, tile=96)
    np.testing.assert_array_equal(physical(tmp_path / "whole.tif"), physical(tmp_path / "narrow.tif"))


def test_the_cache_of_gdal_is_bounded_in_bytes():
    """GDAL itself takes small numbers for megabytes; through rasterio they were bytes, and nothing was cached."""
    with gdal_environment():
        assert 16 << 20 < get_gdal_config("GDAL_CACHEMAX") <= 256 << 20


def test_a_guide_that_a_method_does_not_use_is_not_read(tmp_path, request, monkeypatch):
    monkeypatch.setattr("geosr.preflight.SMALL", 0)  # as if too large to be read through beforehand
    source, guide = make_pair(tmp_path, size=80)
    noise = np.random.default_rng(0).integers(0, 255, (320, 320), "uint8")
    rasters.write(guide, noise, tiled=True, blockxsize=64, blockysize=64, compress="deflate")
    with rasterio.open(guide) as dataset:
        offset = int(dataset.get_tag_item("BLOCK_OFFSET_4_4", "TIFF", bidx=1))
    with guide.open("r+b") as file:
        file.seek(offset)
        file.write(bytes(16))
    report = run(source, guide, tmp_path / "out.tif", 4, tile=96)
    assert (report.failed, report.guided) == ([], 0)
    request.getfixturevalue("guided_bicubic")
    with pytest.raises(TileError, match=r"guide\.tif: cannot be read"):
        run(source, guide, tmp_path / "guided.tif", 4, tile=96)
