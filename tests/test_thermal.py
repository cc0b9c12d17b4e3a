"""Landsat's digital numbers to temperatures, against the handbook's formula written out by hand."""

import math
import re

import numpy as np
import pytest
import rasterio
from outputs import block_means, check_means, physical
from pairs import contents, geosr
from rasters import grid, shared_data, write

from geosr.errors import InputError, UsageError
from geosr.thermal import find_band, read_calibration

MTL = """GROUP = LANDSAT_METADATA_FILE
  GROUP = IMAGE_ATTRIBUTES
    SPACECRAFT_ID = "LANDSAT_9"
  END_GROUP = IMAGE_ATTRIBUTES
  GROUP = LEVEL1_RADIOMETRIC_RESCALING
    RADIANCE_MULT_BAND_10 = 3.8000E-04
    RADIANCE_ADD_BAND_10 = 0.10000
  END_GROUP = LEVEL1_RADIOMETRIC_RESCALING
  GROUP = LEVEL1_THERMAL_CONSTANTS
    K1_CONSTANT_BAND_10 = 799.0284
    K2_CONSTANT_BAND_10 = 1329.2405
  END_GROUP = LEVEL1_THERMAL_CONSTANTS
  GROUP = LEVEL1_MIN_MAX_PIXEL_VALUE
    QUANTIZE_CAL_MAX_BAND_10 = 65535
    QUANTIZE_CAL_MIN_BAND_10 = 1
  END_GROUP = LEVEL1_MIN_MAX_PIXEL_VALUE
END_GROUP = LANDSAT_METADATA_FILE
END
"""


@pytest.fixture
def scene(tmp_path):
    """A band of a made scene with fill, and its MTL file."""
    numbers = np.random.default_rng(2).integers(20000, 32000, (14, 17)).astype("uint16")
    numbers[:4, :3] = 0
    (tmp_path / "LC09_MTL.txt").write_text(MTL)
    return write(tmp_path / "LC09_B10.TIF", numbers, grid(500000, 5000000, 30)), tmp_path / "LC09_MTL.txt", numbers


def run(source, mtl, *more, output="bt.tif"):
    return geosr("thermal", source, "--mtl", mtl, "-o", mtl.parent / output, *more)


def test_every_pixel_is_the_handbooks_formula(scene, tmp_path):
    source, mtl, numbers = scene
    assert run(source, mtl).code == 0
    made = physical(tmp_path / "bt.tif")
    for (row, col), number in np.ndenumerate(numbers):
        if number == 0:
            assert np.isnan(made[row, col])
        else:
            expected = 1329.2405 / math.log(799.0284 / (0.00038 * int(number) + 0.1) + 1)
            assert made[row, col] == pytest.approx(expected, abs=3e-5)
    with rasterio.open(tmp_path / "bt.tif") as dataset, rasterio.open(source) as given:
        assert (dataset.units, dataset.dtypes) == (("K",), ("float32",))
        assert (dataset.transform, dataset.crs) == (given.transform, given.crs)
    assert run(source, mtl, "--celsius", output="c.tif").code == 0
    np.testing.assert_allclose(physical(tmp_path / "c.tif"), made - 273.15, atol=5e-5)
    with rasterio.open(tmp_path / "c.tif") as dataset:
        assert dataset.units == ("degC",)
    assert sorted(contents(tmp_path)) == ["LC09_B10.TIF", "LC09_MTL.txt", "bt.tif", "c.tif"]


def test_native_resolution_averages_radiance_over_whole_blocks(scene, tmp_path):
    source, mtl, numbers = scene
    done = run(source, mtl, "--native-resolution", 100)
    assert "3 x 3 pixels averaged to 90" in done.err
    radiance = np.where(numbers > 0, 0.00038 * numbers + 0.1, np.nan)[:12, :15]
    blocks = radiance.reshape(4, 3, 5, 3)
    with np.errstate(invalid="ignore"):
        means = np.nansum(blocks, (1, 3)) / np.isfinite(blocks).sum((1, 3))
    expected = 1329.2405 / np.log(799.0284 / means + 1)
    expected[np.isfinite(blocks).sum((1, 3)) < 4.5] = np.nan
    np.testing.assert_allclose(physical(tmp_path / "bt.tif"), expected, atol=5e-5)
    assert np.isnan(expected).sum() == 1
    with rasterio.open(tmp_path / "bt.tif") as dataset:
        assert dataset.transform == grid(500000, 5000000, 90)


def test_a_real_scene_and_its_result_as_a_source(tmp_path):
    folder = shared_data() / "landsat8_mendoza"
    (mtl,) = folder.glob("*_MTL.txt")
    for band, k1, k2 in ((10, 774.8853, 1321.0789), (11, 480.8883, 1201.1442)):
        (source,) = folder.glob(f"*_band{band}.tif")
        done = geosr("thermal", source, "--mtl", mtl, "-o", tmp_path / f"{band}.tif")
        assert done.code == 0, done.err
        expected = k2 / np.log(k1 / (3.342e-4 * physical(source) + 0.1) + 1)
        np.testing.assert_allclose(physical(tmp_path / f"{band}.tif"), expected, atol=5e-5)
        assert 280 < np.nanmean(expected) < 310
    (source,), (guide,) = folder.glob("*_band10.tif"), folder.glob("*_band4.tif")
    pooled = tmp_path / "bt.tif"
    assert geosr("thermal", source, "--mtl", mtl, "-o", pooled, "--native-resolution", 100, "--celsius").code == 0
    sharp = ("--source", pooled, "--guide", guide, "--scale", 3, "--method", "diffusion", "-o", tmp_path / "sharp.tif")
    assert geosr("upscale", *sharp).code == 0
    check_means(pooled, tmp_path / "sharp.tif", 3)
    with rasterio.open(tmp_path / "sharp.tif") as dataset:
        assert dataset.units == ("degC",)
    assert block_means(physical(tmp_path / "10.tif")[:132, :183] - 273.15, 3) == pytest.approx(
        physical(pooled), abs=0.05
    )


def test_refusals(scene, tmp_path):
    source, mtl, _ = scene
    for text, message in (
        (MTL.replace("LANDSAT_9", "LANDSAT_7"), "is of LANDSAT_7"),
        ("nothing", "names no SPACECRAFT_ID"),
        (re.sub("K1_.*\n", "", MTL), "has no number as K1_CONSTANT_BAND_10"),
        (MTL.replace("1329.2405", "many"), "has no number as K2_CONSTANT_BAND_10"),
    ):
        mtl.write_text(text)
        refused = run(source, mtl)
        assert (refused.code, message in refused.err) == (3, True), refused.err
    mtl.write_text(MTL)
    with pytest.raises(InputError, match="cannot be read"):
        read_calibration(tmp_path / "nowhere.txt", 10)
    other = run(source, mtl, "--thermal-band", 11)
    assert (other.code, "is band 10 by its name, and --thermal-band says 11" in other.err) == (2, True)
    assert run(source.rename(tmp_path / "numbers.tif"), mtl, "--thermal-band", 11).code == 3  # no constants of 11
    source = (tmp_path / "numbers.tif").rename(source)
    assert find_band(tmp_path / "LC08_B11.TIF") == 11
    assert find_band(tmp_path / "site_B2_LC08_L1TP_B10.TIF") == 10
    with pytest.raises(UsageError, match="say --thermal-band"):
        find_band(tmp_path / "LC08_B101.TIF")
    for metres in (0, 30, 40, 1e6, "nan"):
        assert run(source, mtl, "--native-resolution", metres).code == 2
    assert not (tmp_path / "bt.tif").exists()
    assert run(source, mtl, output="LC09_B10.TIF").code == 2
    assert run(source, mtl).code == 0
    assert run(source, mtl).code == 2
    assert run(source, mtl, "--overwrite").code == 0


def test_temperatures_are_not_converted_again(scene, tmp_path):
    source, mtl, _ = scene
    assert run(source, mtl).code == 0
    twice = run(tmp_path / "bt.tif", mtl, "--thermal-band", 10, output="twice.tif")
    assert (twice.code, twice.err) == (3, "Error: bt.tif: is in K already; the digital numbers of Level 1 are needed\n")
    assert not (tmp_path / "twice.tif").exists()


@pytest.mark.parametrize(
    ("name", "level", "more"),
    [
        ("LC09_L2SP_ST_B10.TIF", "L1TP", ()),
        ("LC09_L2SP_ST_B10.TIF", "L1TP", ("--thermal-band", 10)),
        ("band10.tif", "L2SP", ()),
        ("any.tif", "L2SP", ("--thermal-band", 10)),
    ],
)
def test_surface_temperature_is_not_converted_once_more(scene, name, level, more):
    """Level 2 holds temperatures, in steps of 0.0034 K from 149 K: its numbers look like those of Level 1."""
    source, mtl, _ = scene
    mtl.write_text(MTL.replace("    SPACECRAFT_ID", f'    PROCESSING_LEVEL = "{level}"\n    SPACECRAFT_ID'))
    before = contents(mtl.parent)
    refused = run(source.rename(source.with_name(name)), mtl, *more)
    assert refused.code == 3
    assert "Level 2" in refused.err
    assert len(contents(mtl.parent)) == len(before)


def test_saturated_pixels_have_no_temperature(scene, tmp_path):
    source, mtl, numbers = scene
    numbers[6, 7] = 65535
    with rasterio.open(source, "r+") as dataset:
        dataset.write(numbers, 1)
    assert run(source, mtl).code == 0
    np.testing.assert_array_equal(np.isnan(physical(tmp_path / "bt.tif")), (numbers == 0) | (numbers == 65535))
