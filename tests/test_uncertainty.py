"""How far the answer may be off, and what the guide changed: as rasters beside the output, and as a number."""

import json
import tempfile
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import rasterio
from outputs import SMALL_NETWORK, check_cog, opened, physical
from pairs import contents, make_pair, upscale
from scipy.ndimage import generic_filter

from geosr import uncertainty
from geosr.consistency import EXACT
from geosr.methods import create
from geosr.methods.base import Method, Prediction
from geosr.methods.settings import NoSettings
from geosr.methods.solve import interpolate, solve
from geosr.pair import Pair, Stats

TABLE = {2: 0, 4: 1, 8: 2, 16: 3, 32: 4}


def directly(values, valid, spread, belief, scale):
    """Pixel by pixel in plain numpy: spread of the valid neighbours, then straight lines between logarithms."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        known = np.where(valid, values, np.nan)
        local = generic_filter(known, np.nanstd, size=3, mode="constant", cval=np.nan)
    at = np.log(np.clip(np.nan_to_num(local) / spread, uncertainty.KNOTS[0], uncertainty.KNOTS[-1]))
    smooth, sharp = (np.interp(at, np.log(uncertainty.KNOTS), row) for row in uncertainty.TABLE[TABLE[scale]])
    return spread * np.exp(smooth) ** (1 - belief) * np.exp(sharp) ** belief


@pytest.mark.parametrize("scale", [2, 4, 8, 16, 32])
@pytest.mark.parametrize("belief", [0.0, 0.4, 1.0])
def test_the_deviation_is_the_table_s_at_the_local_spread(scale, belief):
    rng = np.random.default_rng(scale)
    values = 4e6 + np.cumsum(rng.normal(0, [[0.01], [0.3]] * 12, (24, 17)), 1)
    valid = rng.random(values.shape) > 0.2
    found = uncertainty.standard_deviation(values, valid, 1.7, belief, scale)
    np.testing.assert_allclose(found, directly(values, valid, 1.7, belief, scale), rtol=1e-4)
    size = rng.uniform(0.5, 1, values.shape)
    smaller = uncertainty.standard_deviation(values, valid, 1.7, belief, scale, size)
    np.testing.assert_allclose(smaller, size * found)


def test_between_the_table_s_scales_it_grows_with_the_scale():
    values, valid = np.random.default_rng(0).normal(0, 1, (20, 20)), np.ones((20, 20), bool)
    found = [uncertainty.standard_deviation(values, valid, 1.0, 0.5, scale) for scale in (2, 3, 4, 6, 8, 12, 16, 32)]
    assert all((after > before).all() for before, after in pairwise(found))


def test_invalid_pixels_have_no_say():
    rng = np.random.default_rng(1)
    values, valid = rng.normal(0, 1, (16, 16)), rng.random((16, 16)) > 0.3
    other = np.where(valid, values, 1e6)
    found = [uncertainty.standard_deviation(each, valid, 1.0, 0.3, 4)[valid] for each in (values, other)]
    np.testing.assert_array_equal(*found)


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A run of the small network on several tiles with everything that can be written beside the output."""
    folder = tmp_path_factory.mktemp("uncertainty")
    make_pair(folder, size=48, nodata=-9999.0)
    with rasterio.open(folder / "source.tif", "r+") as dataset:
        values = dataset.read(1)
        values[3:7, 20:25] = -9999
        dataset.write(values, 1)
    settings = [item for key, value in SMALL_NETWORK["settings"].items() for item in ("--set", f"{key}={value}")]
    written = ["--uncertainty", folder / "std.tif", "--guide-influence", folder / "change.tif"]
    done = upscale(folder, *settings, "--tile", 128, *written, "--report", folder / "run.json", method="mmsr")
    assert done.code == 0, done.err
    return folder, done


def test_both_lie_on_the_output_s_grid_with_its_gaps_and_units(job):
    folder, _ = job
    with opened(folder / "out.tif") as output:
        for name in ("std.tif", "change.tif"):
            check_cog(folder / name)
            with opened(folder / name) as layer:
                assert (layer.shape, layer.transform, layer.crs) == (output.shape, output.transform, output.crs)
                assert (layer.dtypes, layer.units) == (("float32",), output.units)
                assert np.isnan(layer.nodata)
                assert layer.descriptions[0]
    missing = ~np.isfinite(physical(folder / "out.tif"))
    assert missing.any()
    for name in ("std.tif", "change.tif"):
        np.testing.assert_array_equal(~np.isfinite(physical(folder / name)), missing)


def test_without_a_guide_errors_are_as_large_as_anybodys():
    """Left of the rim of the guide the source is interpolated, whatever the method says of its own errors."""

    class Sure(Method):
        name, settings = "sure", NoSettings()

        def predict(self, patch, state, device):
            return Prediction(interpolate(patch.source, patch.scale), error_factor=0.5)

    rng = np.random.default_rng(0)
    guide, source = rng.normal(size=(1, 48, 48)).astype(np.float32), rng.normal(size=(12, 12))
    pair = Pair(guide, np.ones((48, 48), bool), source, np.ones((12, 12), bool))
    pair.guide_valid[:, :24] = False
    options = {"stats": Stats.measure([pair]), "consistency": EXACT, "seed": 0, "device": "cpu"}
    sure, plain = (solve(pair, method, **options).deviation for method in (Sure(), create("bicubic")))
    np.testing.assert_allclose(sure[:, :24], plain[:, :24])
    np.testing.assert_allclose(sure[:, 29:], 0.5 * plain[:, 29:])


def test_what_the_guide_changed_is_the_difference_from_the_interpolated_source(job):
    folder, _ = job
    plain = upscale(folder, output="plain.tif", method="bicubic")
    assert plain.code == 0, plain.err
    difference = physical(folder / "out.tif") - physical(folder / "plain.tif")
    np.testing.assert_allclose(physical(folder / "change.tif"), difference, atol=2e-5)
    assert np.nanmax(np.abs(difference)) > 0.01


def test_the_deviation_is_the_output_s_own_and_its_rms_the_expected_error(job):
    folder, done = job
    values, found = physical(folder / "out.tif"), physical(folder / "std.tif")
    valid = np.isfinite(values)
    size = 0.9  # of the network's errors beside the diffusion's
    spread = np.nanmin(found) / size / np.exp(uncertainty.TABLE[1, 1, 0])  # the sampled tiles', not quite the source's
    assert spread == pytest.approx(np.nanstd(physical(folder / "source.tif")), rel=0.15)
    expected = size * directly(np.nan_to_num(values), valid, spread, 1.0, 4)
    inside = valid.copy()
    inside[:, 100:156] = inside[100:156] = False  # where tiles are blended, it is the deviations that are
    np.testing.assert_allclose(found[inside], expected[inside], rtol=2e-2)
    rms = float(np.sqrt(np.nanmean(found**2)))
    assert json.loads((folder / "run.json").read_text())["expected_error"] == pytest.approx(rms, rel=0.05)
    with opened(folder / "out.tif") as output:
        assert float(output.tags()["GEOSR_EXPECTED_ERROR"]) == pytest.approx(rms, rel=0.05)
    assert "expected error: RMS" in done.err


@pytest.mark.parametrize("option", ["--uncertainty", "--guide-influence"])
def test_names_that_cannot_be_are_refused_before_any_work(tmp_path, option):
    make_pair(tmp_path)
    for name, said in (("out.tif", "different names"), ("source.tif", "one of the inputs"), ("x.png", "GeoTIFF")):
        refused = upscale(tmp_path, option, tmp_path / name)
        assert refused.code == 2
        assert said in refused.err
        assert not (tmp_path / "out.tif").exists()
    (tmp_path / "there.tif").write_bytes(b"mine")
    assert "--overwrite" in upscale(tmp_path, option, tmp_path / "there.tif").err
    assert (tmp_path / "there.tif").read_bytes() == b"mine"


@pytest.fixture
def elsewhere(tmp_path):
    """A folder on another file system."""
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no other file system")
    with tempfile.TemporaryDirectory(dir=shared) as made:
        yield Path(made)


@pytest.mark.parametrize("option", ["--uncertainty", "--guide-influence"])
def test_another_file_system_than_the_outputs_is_refused_before_any_work(option, tmp_path, elsewhere):
    make_pair(tmp_path)
    before = contents(tmp_path)
    (elsewhere / "link.tif").symlink_to(tmp_path / "real.tif")
    refused = upscale(tmp_path, option, elsewhere / "x.tif")
    assert (refused.code, refused.err.count("\n")) == (6, 1)
    assert "x.tif lies on another file system than the output" in refused.err
    assert contents(tmp_path) == before
    assert upscale(tmp_path, option, elsewhere / "link.tif").code == 0  # where it leads to counts
    assert (tmp_path / "real.tif").is_file()
