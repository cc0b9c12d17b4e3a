"""--guide-shift: a guide that is known to lie elsewhere than its file says."""

import numpy as np
import pyproj
import pytest
import rasterio
from pairs import contents, geosr, make_pair, upscale
from rasters import UTM, grid, write

import geosr as library
from geosr.errors import UsageError
from geosr.grid import Window
from geosr.options import Inputs
from geosr.scene import open_scene

SHIFT = (37.0, -12.5)
GRIDS = {
    "north up": grid(500000, 5000000, 4),
    "south up": grid(500000, 4999900, 4, south_up=True),
    "turned": grid(500000, 5000000, 4, rotation=30),
}


def photo(folder, name, affine, crs):
    values = np.random.default_rng(0).normal(120, 40, (2, 90, 90)).repeat(4, 1).repeat(4, 2).astype(np.float32)
    return write(folder / name, values, affine, crs)


def seen(source, guide, **more):
    scene = open_scene(Inputs(source, guide, **more))
    return scene.read_guide(Window(8, 12, 64, 48))


@pytest.mark.parametrize("kind", GRIDS)
def test_it_is_as_if_the_file_said_so(tmp_path, kind):
    source = write(tmp_path / "source.tif", np.arange(400.0).reshape(20, 20), GRIDS[kind], UTM)
    affine = grid(499900, 5000100, 1)
    right = photo(tmp_path, "right.tif", affine, UTM)
    wrong = photo(tmp_path, "wrong.tif", affine.translation(-SHIFT[0], -SHIFT[1]) * affine, UTM)
    (expected, known), (found, there) = seen(source, right), seen(source, wrong, guide_shift=SHIFT)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    np.testing.assert_array_equal(there, known)
    assert np.abs(seen(source, wrong)[0] - expected).max() > 10


def test_it_is_in_the_units_of_the_sources_crs(tmp_path):
    """The photo lies in the next zone, whose north is turned by four degrees from the source's."""
    to = pyproj.Transformer.from_crs(UTM, "EPSG:32634", always_xy=True)
    source = write(tmp_path / "source.tif", np.arange(400.0).reshape(20, 20), GRIDS["north up"], UTM)
    x, y = to.transform(500040, 4999960)
    moved = np.subtract(to.transform(500040 + SHIFT[0], 4999960 + SHIFT[1]), (x, y))
    affine = grid(x - 180, y + 180, 1)
    right = photo(tmp_path, "right.tif", affine, "EPSG:32634")
    wrong = photo(tmp_path, "wrong.tif", affine.translation(-moved[0], -moved[1]) * affine, "EPSG:32634")
    np.testing.assert_allclose(seen(source, wrong, guide_shift=SHIFT)[0], seen(source, right)[0], atol=0.1)
    assert abs(moved - SHIFT).max() > 0.5


def test_of_a_folder_the_files_that_lie_there_then_are_read(tmp_path):
    source = write(tmp_path / "source.tif", np.arange(400.0).reshape(20, 20), GRIDS["north up"], UTM)
    values = np.random.default_rng(0).normal(120, 40, (1, 100, 100)).astype(np.float32)
    (tmp_path / "photos").mkdir()
    for number, left in enumerate((499990, 500590)):
        write(tmp_path / f"photos/{number}.tif", values + number, grid(left, 5000010, 1), UTM)
    alone = write(tmp_path / "alone.tif", values + 1, grid(499990, 5000010, 1), UTM)
    found, known = seen(source, tmp_path / "photos", guide_shift=(-600.0, 0.0))
    np.testing.assert_array_equal(found, seen(source, alone)[0])
    assert known.all()


def test_it_is_in_the_tags_and_a_batch_sees_another_one(tmp_path):
    make_pair(tmp_path, size=16)
    assert upscale(tmp_path, "--guide-shift", 1.5, -2, method="joint-bilateral").code == 0
    with rasterio.open(tmp_path / "out.tif") as made:
        assert made.tags()["GEOSR_GUIDE_SHIFT"] == "1.5 -2"
        values = made.read(1)
    result = library.upscale(
        tmp_path / "source.tif", tmp_path / "guide.tif", method="joint-bilateral", guide_shift=(1.5, -2)
    )
    np.testing.assert_array_equal(result.values, values)
    before = contents(tmp_path)
    call = ["batch", "--source", tmp_path / "s*e.tif", "--guide", tmp_path / "guide.tif", "-o", tmp_path / "out.tif"]
    call += ["--method", "joint-bilateral"]
    assert "made otherwise (guide shift)" in geosr(*call).out
    assert "1 skipped" in geosr(*call, "--guide-shift", 1.5, -2).out
    assert contents(tmp_path) == before


@pytest.mark.parametrize("shift", [(float("nan"), 0.0), (0.0, float("inf"))])
def test_it_must_be_two_numbers(shift):
    with pytest.raises(UsageError, match="the guide's shift is"):
        Inputs("source.tif", "guide.tif", guide_shift=shift)
