"""The synthetic scene of the examples: reproducible, aligned, with things in the photo that have no height."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.warp import Resampling, reproject

EXAMPLES = Path(__file__).parent.parent / "examples"


def load_scene():
    spec = importlib.util.spec_from_file_location("geosr_example_scene", EXAMPLES / "scene.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


scene_module = load_scene()


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return scene_module.make_scene(tmp_path_factory.mktemp("scene"), size=256)


def read(path):
    with rasterio.open(path) as raster:
        return raster.read(1, masked=True).astype("float64")


def photo_on(scene, name):
    """The photo's brightness averaged onto another raster's grid."""
    with rasterio.open(scene["ortho"]) as photo, rasterio.open(scene[name]) as raster:
        gray = photo.read().astype("float64").mean(axis=0)
        out = np.empty(raster.shape)
        reproject(gray, out, src_transform=photo.transform, src_crs=photo.crs, dst_transform=raster.transform,
                  dst_crs=raster.crs, resampling=Resampling.average)  # fmt: skip
        return out


def blocks(values, size=4):
    rows, cols = values.shape
    return values.reshape(rows // size, size, cols // size, size).swapaxes(1, 2).reshape(-1, size * size)


def digests(paths):
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in paths.items()}


def test_same_seed_same_bytes_and_another_seed_another_place(tmp_path):
    first, again, other = (
        digests(scene_module.make_scene(tmp_path / name, size=64, seed=seed))
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert first == again
    assert all(first[name] != other[name] for name in first)


def test_a_larger_scene_shows_the_same_ground(scene, tmp_path):
    small = scene_module.make_scene(tmp_path, size=64)
    with rasterio.open(scene["truth_dsm"]) as large, rasterio.open(small["truth_dsm"]) as part:
        window = large.window(*part.bounds)
        inner, values = large.read(1, window=window), part.read(1, masked=True)
    difference = np.ma.abs(values - inner)
    # coordinates are float32: a sample on the very edge of a roof may fall on either side
    assert float((difference > 1e-3).mean()) < 0.01


@pytest.mark.parametrize("name", ["dsm", "thermal"])
def test_source_is_the_pooled_truth_where_valid(scene, name):
    source, truth = read(scene[name]), read(scene[f"truth_{name}"])
    pooled = np.ma.masked_invalid(blocks(truth.filled(np.nan)).mean(axis=1)).reshape(source.shape)
    valid = ~np.ma.getmaskarray(source)
    assert not np.ma.getmaskarray(pooled)[valid].any()
    np.testing.assert_allclose(source[valid], pooled[valid], rtol=2e-7)


def test_grids_and_nodata(scene):
    with rasterio.open(scene["dsm"]) as dsm, rasterio.open(scene["truth_dsm"]) as truth:
        assert dsm.crs == truth.crs == rasterio.CRS.from_epsg(32633)
        assert dsm.bounds == truth.bounds
        assert (dsm.res, truth.res) == ((2.0, 2.0), (0.5, 0.5))
        assert dsm.nodata == truth.nodata == -9999
        assert dsm.units == ("metre",)
        missing = (dsm.read_masks(1) == 0).mean()
        beyond = (truth.read_masks(1) == 0).mean()
        assert 0.003 < beyond < missing < 0.05
        with rasterio.open(scene["ortho"]) as ortho:
            assert ortho.dtypes == ("uint8",) * 3
            assert ortho.bounds.left < dsm.bounds.left
            assert ortho.bounds.right > dsm.bounds.right
            assert ortho.bounds.bottom < dsm.bounds.bottom
            assert ortho.bounds.top > dsm.bounds.top
            assert (dsm.bounds.left - ortho.bounds.left) / ortho.res[0] % 1 > 0.05
    with rasterio.open(scene["thermal"]) as thermal:
        assert thermal.units == ("degree Celsius",)
        assert 10 < thermal.read(1).min() < thermal.read(1).max() < 60


@pytest.mark.parametrize("name", ["truth_dsm", "truth_thermal"])
def test_photo_lies_on_the_truth(scene, name):
    """Edges of the two agree best without a shift, and to a fifth of a pixel."""
    truth = read(scene[name])
    heights = truth.filled(truth.mean())
    edges = np.hypot(*np.gradient(heights))
    seen = np.hypot(*np.gradient(photo_on(scene, name)))
    edges, seen = (np.minimum(e, np.percentile(e, 97)) for e in (edges, seen))
    edges, seen = edges - edges.mean(), seen - seen.mean()
    lags = range(-4, 5)
    score = np.array([[(np.roll(seen, (i, j), (0, 1)) * edges)[8:-8, 8:-8].mean() for j in lags] for i in lags])
    assert np.unravel_index(score.argmax(), score.shape) == (4, 4)
    for low, best, high in (score[3:6, 4], score[4, 3:6]):
        assert abs((high - low) / (2 * best - low - high) / 2) < 0.2


def flat_ground(scene):
    """Blocks of 4 m in which heights vary by less than half a metre: their light, and which lie in shade."""
    heights = read(scene["truth_dsm"]).filled(np.nan)
    shade = np.zeros(heights.shape, bool)
    azimuth, rise = scene_module.SUN_AZIMUTH, np.tan(scene_module.SUN_HEIGHT)
    for distance in np.arange(2.0, 24.0, 0.5):  # towards the sun, pixel by pixel
        row, col = (round(2 * distance * f(azimuth)) for f in (np.cos, np.sin))
        shade |= np.roll(heights, (row, -col), (0, 1)) > heights + distance * rise
    inner = (slice(48, -48), slice(48, -48))
    heights, light, shade = (blocks(a[inner], 8) for a in (heights, photo_on(scene, "truth_dsm"), shade))
    flat = np.ptp(heights, axis=1) < 0.5
    return light[flat], shade[flat]


def test_photo_shows_textures_without_height(scene):
    """Paint, stripes and rows: contrast on sun-lit ground that is flat."""
    light, shade = flat_ground(scene)
    sunny = ~shade.any(axis=1)
    assert sunny.sum() > 100
    assert (np.ptp(light[sunny], axis=1) > 40).mean() > 0.15


def test_photo_shows_shadows_where_the_heights_cast_them(scene):
    """Shadow computed here from the truth alone falls on dark ground."""
    light, shade = flat_ground(scene)
    assert shade.mean() > 0.03
    assert np.median(light[shade]) < 0.65 * np.median(light[~shade])


def test_pieces_do_not_show(scene):
    """What a pixel shows does not depend on the piece that it is drawn in."""
    world, grid = scene_module.World(5), scene_module.Grid(-10.0, 10.0, 0.5, 40, 40)
    whole = scene_module.draw(world, grid, 2)[1]
    for window, tile in grid.tiles(23):
        part = scene_module.draw(world, tile, 2)[1]
        assert (np.abs(whole[:, window[0], window[1]] - part) > 0.1).mean() < 0.005


def test_sizes_that_do_not_fit_are_refused(tmp_path):
    for size in (66, 16):
        with pytest.raises(ValueError, match="multiple of the scale"):
            scene_module.make_scene(tmp_path, size=size)


def test_the_script_runs(tmp_path):
    command = [sys.executable, str(EXAMPLES / "scene.py"), str(tmp_path), "--size", "64", "--seed", "2"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert sorted(printed) == sorted(str(tmp_path / f"{n}.tif") for n in
                                     ("truth_dsm", "dsm", "truth_thermal", "thermal", "ortho"))  # fmt: skip
