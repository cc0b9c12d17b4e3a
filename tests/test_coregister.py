"""The shift between guide and source: found, applied the right way round, and left alone where nothing tells it."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import rasterio
import rasters
from affine import Affine
from odc.geo.geobox import GeoBox
from pairs import geosr, upscale

from geosr.coregister import Shift, find_shift
from geosr.grid import GridPair, Window
from geosr.inspection import inspect
from geosr.options import Execution, Inputs, Recipe
from geosr.scene import open_scene

SIDE, SCALE = 48, 4


def town(seed=0, size=SIDE * SCALE):
    """Heights (size, size) of boxes on a slope, and an image whose colours say nothing of how high they are."""
    rng = np.random.default_rng(seed)
    row, col = np.mgrid[:size, :size]
    heights = 100 + 0.02 * row + 0.01 * col
    image = np.full((3, size, size), 90.0) + rng.normal(0, 1, (3, 1, 1)) * col / size * 10
    for _ in range(60):
        top, left = rng.integers(0, size, 2)
        high, wide = rng.integers(6, 30, 2)
        box = (slice(top, top + high), slice(left, left + wide))
        heights[box] += rng.uniform(2, 9)
        image[:, *box] = rng.uniform(20, 230, (3, 1, 1))
    return heights, image + rng.normal(0, 1.5, image.shape)


def write_pair(
    folder, shift=(0.0, 0.0), *, affine=None, seed=0, crs=rasters.UTM, change=lambda source, guide: None, **more
):
    """`source.tif` and `guide.tif`, the guide's transform moved by `shift` (right, down) pixels of 1 m."""
    affine = rasters.grid(500000, 5000000, 1) if affine is None else affine
    heights, image = town()
    source = heights.reshape(SIDE, SCALE, SIDE, SCALE).mean(axis=(1, 3)).astype(np.float32)
    image = image.astype(np.float32)
    change(source, image)
    rasters.write(folder / "source.tif", source, affine * Affine.scale(SCALE), **more)
    rasters.write(folder / "guide.tif", image, affine * Affine.translation(*shift), **more)
    return heights


def look(folder, scale=SCALE):
    return open_scene(Inputs(folder / "source.tif", folder / "guide.tif", scale, coregister=True))


def values(path):
    with rasterio.open(path) as raster:
        return raster.read(1), raster.tags()


@pytest.mark.parametrize("shift", [(1.5, 0.0), (1.1, -0.7), (-2.3, 3.1), (8.0, -6.0)])
def test_a_known_shift_is_found(tmp_path, shift):
    write_pair(tmp_path, shift)
    found = look(tmp_path).shift
    assert not found.obstacle
    assert found.confidence >= 0.95
    assert (found.cols, found.rows) == pytest.approx(shift, abs=0.25)
    assert found.applied == (found.rows, found.cols)


GRIDS = {
    "north up": rasters.grid(500000, 5000000, 1),
    "south up": rasters.grid(500000, 5000000, 1, south_up=True),
    "turned by 30 degrees": rasters.grid(500000, 5000000, 1, rotation=30),
    "pixels not square": rasters.grid(500000, 5000000, 1, 0.8),
}


@pytest.mark.parametrize("affine", GRIDS.values(), ids=GRIDS)
def test_a_guide_moved_east_in_its_file_is_moved_west(tmp_path, affine):
    """East in the world, whatever way the grid runs; and then the guide is read where it would have lain."""
    write_pair(tmp_path, affine=affine)
    aligned = open_scene(Inputs(tmp_path / "source.tif", tmp_path / "guide.tif", SCALE))
    with rasterio.open(tmp_path / "guide.tif") as guide:
        moved = Affine.translation(2.0, 0.0) * guide.transform
        rasters.write(tmp_path / "moved.tif", guide.read(), moved)
    scene = open_scene(Inputs(tmp_path / "source.tif", tmp_path / "moved.tif", SCALE, coregister=True))
    found = np.array([scene.shift.cols, scene.shift.rows])
    linear = np.array([[affine.a, affine.b], [affine.d, affine.e]])
    np.testing.assert_allclose(linear @ found, [2.0, 0.0], atol=0.25)
    assert "guide moved by 2." in scene.notes[-1] or "guide moved by 1." in scene.notes[-1]
    assert " west and 0." in scene.notes[-1]
    told = [float(x) for x in re.search(r"--guide-shift (\S+) (\S+);", scene.notes[-1]).groups()]
    np.testing.assert_allclose(told, -(linear @ found), rtol=1e-4, atol=1e-6)
    exact = Shift(*np.linalg.solve(linear, [2.0, 0.0])[::-1], confidence=1.0)
    part = Window(20, 20, SIDE * SCALE - 40, SIDE * SCALE - 40)
    np.testing.assert_allclose(replace(scene, shift=exact).read_guide(part)[0], aligned.read_guide(part)[0], atol=0.05)


def test_directions_without_a_crs_are_the_grids_own():
    shift = Shift(1.0, 2.0, 0.1, 1.0)
    for crs, way in ((None, "2.00 left and 1.00 up"), (rasters.UTM, "2.00 west and 1.00 north")):
        assert way in shift.describe(GridPair(GeoBox((10, 10), rasters.grid(0, 0, 4), crs), 4))


def test_the_shift_is_told_as_it_can_be_given_another_time(tmp_path):
    """Also where one was given already: the sum."""
    write_pair(tmp_path, (1.5, 0.0))
    files = tmp_path / "source.tif", tmp_path / "guide.tif"
    note = open_scene(Inputs(*files, SCALE, coregister=True, guide_shift=(1.0, 0.0))).notes[-1]
    shift = tuple(float(x) for x in re.search(r"--guide-shift (\S+) (\S+);", note).groups())
    assert shift == pytest.approx((-1.5, 0.0), abs=0.25)
    assert open_scene(Inputs(*files, SCALE, coregister=True, guide_shift=shift)).shift.applied == (0.0, 0.0)


def test_an_aligned_pair_stays_as_it_is(tmp_path):
    write_pair(tmp_path)
    found = look(tmp_path).shift
    assert max(abs(found.rows), abs(found.cols)) < 0.1
    assert found.applied == (0.0, 0.0)
    assert upscale(tmp_path, method="diffusion").code == 0
    report = tmp_path / "run.json"
    run = upscale(tmp_path, "--coregister", "--report", report, method="diffusion", output="again.tif")
    assert "it stays where it is" in run.out + run.err
    (plain, _), (again, tags) = values(tmp_path / "out.tif"), values(tmp_path / "again.tif")
    np.testing.assert_array_equal(plain, again)
    assert tags["GEOSR_COREGISTER_SHIFT"] == "0.0000 0.0000"
    told = json.loads(report.read_text())["coregistration"]
    assert (told["columns"], told["rows"], told["local"], told["obstacle"]) == (0, 0, None, None)
    assert told["confidence"] > 0.9
    assert 0 < told["error"] < 0.5


def test_the_error_comes_back(tmp_path):
    """With a guide 1.5 output pixels off the error is within 10 % of the aligned pair's."""
    truth = write_pair(tmp_path)
    errors = []
    for shift, options in (((0.0, 0.0), ()), ((1.5, 0.0), ()), ((1.5, 0.0), ("--coregister",))):
        write_pair(tmp_path, shift)
        run = upscale(tmp_path, *options, "--overwrite", method="diffusion")
        assert run.code == 0
        result, tags = values(tmp_path / "out.tif")
        errors.append(np.sqrt(np.mean((result - truth) ** 2)))
    aligned, moved, back = errors
    assert moved > 1.3 * aligned
    assert back < 1.1 * aligned
    assert "guide moved by 1." in run.out + run.err
    assert [float(x) for x in tags["GEOSR_COREGISTER_SHIFT"].split()] == pytest.approx([-1.5, 0.0], abs=0.25)


def flat(source, guide):
    source[:] = 3


def blank(source, guide):
    guide[:] = 3


def noise(source, guide):
    guide[:] = np.random.default_rng(1).normal(size=guide.shape)


def turned(source, guide):
    guide[:] = guide[:, ::-1, ::-1].copy()


@pytest.mark.parametrize(
    ("change", "why"),
    [(flat, "the source is the same"), (blank, "the guide is the same"), (noise, "disagree"), (turned, "disagree")],
)
def test_nothing_to_go_by_is_said_and_changes_nothing(tmp_path, change, why):
    write_pair(tmp_path, change=change)
    scene = look(tmp_path)
    assert why in scene.notes[-1]
    assert "no shift could be estimated" in scene.notes[-1]
    assert "stays where it is" in scene.notes[-1]
    assert scene.shift.applied == (0.0, 0.0)


def test_a_shift_beyond_the_search_is_not_made_up(tmp_path):
    write_pair(tmp_path, (16.0, 0.0))
    assert look(tmp_path).shift.applied == (0.0, 0.0)


def test_a_small_pair_is_refused(tmp_path):
    write_pair(tmp_path)
    inputs = Inputs(tmp_path / "source.tif", tmp_path / "guide.tif", SCALE, coregister=True)
    part = open_scene(Inputs(**(vars(inputs) | {"bounds": (500000, 4999960, 500040, 5000000)})))
    assert "too little of the source" in part.notes[-1]


def holes(source, guide):
    """A corner of the source and a stripe of the guide are missing, with absurd values stored there."""
    source[30:, :14] = -9999
    guide[:, :50, 150:160] = -9999


def test_invalid_pixels_have_no_say(tmp_path):
    write_pair(tmp_path, (1.5, 0.0), change=holes, nodata=-9999)
    found = look(tmp_path).shift
    assert not found.obstacle
    assert (found.cols, found.rows) == pytest.approx((1.5, 0.0), abs=0.25)

    def sooty(source, guide):
        holes(source, guide)
        source[source == -9999], guide[guide == -9999] = 7e7, 7e7

    write_pair(tmp_path, (1.5, 0.0), change=sooty, nodata=7e7)
    assert look(tmp_path).shift == found


@pytest.mark.parametrize("scale", [2, 3, 8])
def test_other_scales(tmp_path, scale):
    heights, image = town(seed=2, size=192 if scale < 8 else 320)
    pooled = heights.reshape(len(heights) // scale, scale, -1, scale).mean(axis=(1, 3)).astype(np.float32)
    rasters.write(tmp_path / "source.tif", pooled, rasters.grid(500000, 5000000, scale))
    rasters.write(tmp_path / "guide.tif", image.astype(np.float32), rasters.grid(500001.25, 5000000, 1))
    found = look(tmp_path, scale).shift
    assert not found.obstacle
    assert (found.cols, found.rows) == pytest.approx((1.25, 0.0), abs=0.35)


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_a_middlebury_sample(tmp_path):
    data = rasters.shared_data() / "middlebury"
    with rasterio.open(data / "source_hr/05.png") as file:
        truth = file.read(1).astype(np.float32)
    with rasterio.open(data / "guide/05.png") as file:
        guide = file.read()[:3]
    pooled = truth.reshape(80, 4, 80, 4).mean(axis=(1, 3))
    rasters.write(tmp_path / "source.tif", pooled, rasters.grid(500000, 5000000, 4))
    rasters.write(tmp_path / "guide.tif", guide, rasters.grid(500001.1, 5000000.7, 1))
    found = look(tmp_path).shift
    assert (found.cols, found.rows) == pytest.approx((1.1, -0.7), abs=0.2)


def test_info_and_tile_know_it(tmp_path):
    write_pair(tmp_path, (1.5, 0.0))
    told = geosr("info", tmp_path / "source.tif", tmp_path / "guide.tif", "--coregister")
    assert told.code == 0
    assert "guide moved by 1." in told.out
    assert told.err == "finding the guide's shift\n"
    for name, options in (("plain", ()), ("moved", ("--coregister",))):
        paths = (tmp_path / "source.tif", tmp_path / "guide.tif", "-o", tmp_path / name)
        assert geosr("tile", *paths, *options).code == 0
    write_pair(tmp_path)
    assert geosr("tile", tmp_path / "source.tif", tmp_path / "guide.tif", "-o", tmp_path / "aligned").code == 0
    plain, moved, aligned = (
        values(tmp_path / name / "guide/00000.tif")[0][8:-8, 8:-8] for name in ("plain", "moved", "aligned")
    )
    assert np.abs(moved - aligned).mean() < 0.6 * np.abs(plain - aligned).mean()


def test_a_run_says_that_it_looks_for_the_shift_before_it_does(tmp_path):
    write_pair(tmp_path, (1.5, 0.0))
    paths = ("--source", tmp_path / "source.tif", "--guide", tmp_path / "guide.tif", "-o", tmp_path / "out.tif")
    done = geosr("upscale", *paths, "--coregister", "--method", "bicubic", "--report", tmp_path / "run.json")
    assert done.code == 0, done.err
    said = done.err.splitlines()
    assert said[0] == "finding the guide's shift"
    assert any(line.startswith("note: guide moved by 1.") for line in said[1:])
    assert json.loads((tmp_path / "run.json").read_text())["seconds"]["coregister"] > 0


def test_a_run_plans_once_however_much_it_says(tmp_path):
    write_pair(tmp_path, (1.5, 0.0))
    paths = ("--source", tmp_path / "source.tif", "--guide", tmp_path / "guide.tif", "--coregister")
    quick = ("--method", "bicubic", "-v")
    for band in (("--band", 1), ("--band", "all")):
        done = geosr("upscale", *paths, *band, *quick, "-o", tmp_path / f"{band[1]}.tif")
        assert done.code == 0, done.err
        said = done.err.splitlines()
        for line in ("stage: coregister", "overlap ", "method "):
            assert sum(each.startswith(line) for each in said) == 1, line


def test_the_time_that_info_estimates_includes_looking_for_the_shift(tmp_path):
    write_pair(tmp_path, (1.5, 0.0))
    look(tmp_path)  # not timed: what is loaded once
    inputs, how = Inputs(tmp_path / "source.tif", tmp_path / "guide.tif"), (Recipe("bicubic"), Execution("cpu"))
    plain, looked = (inspect(replace(inputs, coregister=asked), *how).planning for asked in (False, True))
    assert looked > 3 * plain


def test_to_choose_a_method_it_is_not_looked_for_a_second_time(tmp_path, monkeypatch):
    write_pair(tmp_path, (1.5, 0.0))
    found = []

    def find(*arguments):
        found.append(find_shift(*arguments))
        return found[-1]

    monkeypatch.setattr("geosr.scene.find_shift", find)
    monkeypatch.setattr("geosr.methods.candidates", lambda: ["diffusion", "bicubic"])  # to be quick
    inputs = Inputs(tmp_path / "source.tif", tmp_path / "guide.tif", SCALE, coregister=True)
    seen = inspect(inputs, Recipe(method="auto"), Execution())
    assert [seen.plan.scene.shift] == found
    assert seen.plan.recipe.method != "auto"
