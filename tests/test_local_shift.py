"""The local displacement of a guide: found, made in the one resampling there is, and not made up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import rasterio
import rasters
from odc.geo.geobox import GeoBox
from pairs import upscale
from scipy.ndimage import map_coordinates
from test_coregister import SCALE, look, town, values

from geosr import raster
from geosr.describe import describe_guide
from geosr.displacement import Displacement, terms
from geosr.grid import Window, crop
from geosr.local_shift import Costs, fit_field

SIZE = 320


def waves(shape, size=2.0):
    """(2, rows, columns): how far down and along the picture is moved; one period over it."""
    row, col = np.mgrid[: shape[0], : shape[1]] + 0.5
    return size * np.array([np.sin(2 * np.pi * col / shape[1]), np.sin(2 * np.pi * row / shape[0])])


def bent(bands, moved):
    """The picture with what was at a pixel now `moved` from it, in pixels of half the size."""
    place = (np.mgrid[: 2 * bands.shape[1], : 2 * bands.shape[2]] - 0.5) / 2
    origin = place
    for _ in range(10):
        origin = place - np.array([map_coordinates(each, origin, order=1, mode="nearest") for each in moved])
    return np.array([map_coordinates(band, origin, order=3, mode="nearest") for band in bands], np.float32)


def write_pair(folder, truth, image, moved):
    source = truth.reshape(len(truth) // SCALE, SCALE, -1, SCALE).mean(axis=(1, 3)).astype(np.float32)
    rasters.write(folder / "source.tif", source, rasters.grid(500000, 5000000, SCALE))
    rasters.write(folder / "guide.tif", bent(image, moved), rasters.grid(500000, 5000000, 0.5))


def left_of(scene, moved):
    """(rows, columns): how far the guide is looked for from where it is, in output pixels."""
    rows, cols = scene.shift.applied
    row, col = np.mgrid[: moved.shape[1], : moved.shape[2]] + 0.5
    along, down = scene.shift.local.at(col + cols, row + rows)
    return np.hypot(down + rows - moved[0], along + cols - moved[1])


def test_a_known_field_is_found_and_the_error_comes_back(tmp_path):
    """To within a fifth of a source pixel, in the root mean square over the scene."""
    truth, image = town(1, SIZE)
    moved = waves(truth.shape)
    write_pair(tmp_path, truth, image, 0 * moved)
    assert upscale(tmp_path, method="diffusion", output="aligned.tif").code == 0
    write_pair(tmp_path, truth, image, moved)
    assert upscale(tmp_path, method="diffusion", output="bent.tif").code == 0
    run = upscale(tmp_path, "--coregister", method="diffusion", output="back.tif")
    assert run.code == 0
    assert "local displacement up to" in run.out + run.err
    scene = look(tmp_path)
    assert np.sqrt((left_of(scene, moved) ** 2).mean()) < 0.2 * SCALE
    results = {name: values(tmp_path / f"{name}.tif") for name in ("aligned", "bent", "back")}
    aligned, displaced, back = (np.sqrt(((result - truth) ** 2).mean()) for result, _ in results.values())
    assert back - aligned < 0.35 * (displaced - aligned)
    assert results["back"][1]["GEOSR_COREGISTER_LOCAL"] == f"{scene.shift.local.farthest:.4f}"
    assert "GEOSR_COREGISTER_LOCAL" not in results["bent"][1]
    windows_are_parts_of_the_whole(scene)


def windows_are_parts_of_the_whole(scene):
    """What tiles read where they overlap does not depend on the tile."""
    rows, cols = scene.grids.high.shape
    whole, known = scene.read_guide(Window(0, 0, rows, cols))
    for window in (Window(0, 0, 200, 160), Window(100, 130, 64, 190), Window(171, 3, 149, 300)):
        part, valid = scene.read_guide(window)
        np.testing.assert_array_equal(valid, known[window.slices])
        np.testing.assert_allclose(part, whole[:, *window.slices], atol=2e-3)  # a step of the lattice, of 0 to 255


def test_an_aligned_guide_is_not_bent(tmp_path):
    for seed in (1, 2):
        truth, image = town(seed, SIZE)
        write_pair(tmp_path, truth, image, np.zeros((2, *truth.shape)))
        assert look(tmp_path).shift.local is None


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_a_middlebury_sample_is_straightened(tmp_path):
    """At the depths' edges, which alone tell where the photo belongs."""
    data = rasters.shared_data() / "middlebury"
    with rasterio.open(data / "source_hr/05.png") as file:
        truth = file.read(1).astype(float)
    with rasterio.open(data / "guide/05.png") as file:
        image = file.read()[:3].astype(float)
    moved = waves(truth.shape)
    write_pair(tmp_path, truth, image, moved)
    scene = look(tmp_path)
    assert scene.shift.local is not None
    steep = np.hypot(*np.gradient(truth))
    edges = steep > np.quantile(steep, 0.9)
    assert np.median(left_of(scene, moved)[edges]) < 0.2 * SCALE < 0.5 * np.median(np.hypot(*moved)[edges])


def a_field(seed, grid):
    rng = np.random.default_rng(seed)
    count = terms(np.zeros(1), np.zeros(1)).shape[1]
    rows, cols = rng.normal(0, 0.4, (2, count))
    return Displacement(grid, tuple(rows), tuple(cols))


GRID = GeoBox((60, 80), rasters.grid(500000, 5000000, 1), rasters.UTM)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_guide_is_taken_from_the_displaced_place(tmp_path, seed):
    """A ramp: each pixel has the value of the place it is looked for, in one interpolation."""
    row, col = np.mgrid[:100, :120] - 19.5
    rasters.write(tmp_path / "guide.tif", np.stack([row, col]), rasters.grid(499980, 5000020, 1))
    field = a_field(seed, GRID)
    guide = replace(describe_guide(tmp_path / "guide.tif"), displacement=field)
    for grid in (GRID, crop(GRID, Window(7, 11, 30, 40)), GRID.zoom_out(2)):
        bands, valid = raster.read_guide(guide, grid)
        assert valid.all()
        rows, cols = np.mgrid[: grid.shape[0], : grid.shape[1]] + 0.5
        there = ~GRID.affine * grid.affine
        x, y = there.a * cols + there.c, there.e * rows + there.f
        along, down = field.at(x, y)
        np.testing.assert_allclose(bands, [y + down, x + along], atol=0.02 * there.a**2)


def bowls(field, noise, seed=0, count=10):
    """Costs with a minimum where `field` says, in windows of more and less say, one in five of them wrong."""
    rng = np.random.default_rng(seed)
    places = (np.stack(np.mgrid[:count, :count], -1).reshape(-1, 2) + 0.5) / count
    along, down = field.at(places[:, 1] * field.grid.shape[1], places[:, 0] * field.grid.shape[0])
    aims = np.stack([down, along], 1) + rng.normal(0, noise, (len(places), 2))
    aims[rng.random(len(places)) < 0.2] += 5
    lags = np.arange(-6, 7)
    far = (lags[:, None, None] - aims[:, 0]) ** 2 + (lags[:, None] - aims[:, 1]) ** 2
    return Costs(rng.uniform(0.1, 1, len(places)) * np.log1p(far), 1, places)


@pytest.mark.parametrize("seed", range(4))
def test_windows_that_are_wrong_do_not_pull(seed):
    rows, cols = np.zeros((2, terms(np.zeros(1), np.zeros(1)).shape[1]))
    rows[1], cols[2], rows[4] = 2.0, -1.5, 1.0
    field = Displacement(GRID, tuple(rows), tuple(cols))
    costs = bowls(field, 0.3, seed)
    found = fit_field(costs)
    assert found is not None
    shapes = terms(*costs.places.T)
    wanted = shapes @ np.stack([rows, cols], 1)
    assert np.sqrt((((shapes @ found) - wanted + wanted.mean(axis=0)) ** 2).sum(axis=1).mean()) < 0.5


@pytest.mark.parametrize("seed", range(8))
def test_one_shift_stays_one_shift(seed):
    """Whatever it is, and however noisy the windows."""
    zeros = np.zeros(terms(np.zeros(1), np.zeros(1)).shape[1])
    rows, cols = zeros.copy(), zeros.copy()
    rows[0], cols[0] = np.random.default_rng(seed).uniform(-2, 2, 2)
    assert fit_field(bowls(Displacement(GRID, tuple(rows), tuple(cols)), 1.0, seed)) is None


@pytest.mark.parametrize("places", [[(0.1, 0.1)], [(0.1, 0.1), (0.5, 0.5)]])
def test_windows_that_all_lie_in_one_quarter_tell_no_field(places):
    """They are judged by quarters, each a chequerboard of the scene: here nothing is left to fit."""
    rng = np.random.default_rng(0)
    found = np.concatenate([np.array(place) + rng.random((30, 2)) * 0.05 for place in places])
    assert fit_field(Costs(rng.random((7, 7, len(found))), 1, found)) is None


def test_few_windows_tell_no_field():
    field = a_field(0, GRID)
    assert fit_field(bowls(field, 0.0, count=4)) is None
