"""A pixel that stands alone far from all others keeps its value, and no other pixel depends on it."""

import numpy as np
import pytest
import rasterio
from pairs import make_pair, upscale
from rasters import plain_read, write

from geosr.spikes import ANY, common_range, find_spikes

SIZE, SCALE, FAST = 64, 4, ("--tile", 112)


def spikes_by_formula(values, valid, common):
    found = np.zeros(values.shape, bool)
    for row, col in np.argwhere(valid):
        around = np.s_[max(row - 2, 0) : row + 3, max(col - 2, 0) : col + 3]
        far = [not common[0] <= value <= common[1] for value in values[around][valid[around]]]
        found[row, col] = (
            not common[0] <= values[row, col] <= common[1]
            and sum(far) <= 2
            and len(far) >= 8
            and abs(values[row, col]) < 1e30
        )
    return found


@pytest.mark.parametrize("seed", range(20))
def test_which_pixels_are_spikes(seed):
    rng = np.random.default_rng(seed)
    values, valid = rng.normal(0, 1, (23, 31)), rng.random((23, 31)) < rng.choice([0.3, 0.9, 1])
    far = rng.random(values.shape) < rng.choice([0.005, 0.05, 0.5])
    values[far] = rng.choice([-50, 1000, np.inf], int(far.sum()))
    expected = spikes_by_formula(values, valid, (-10, 10))
    np.testing.assert_array_equal(find_spikes(values, valid, (-10, 10)), expected)
    assert not (expected & ~valid).any()


@pytest.mark.parametrize("size", [400, 1600, 6400])
def test_three_wrong_values_are_never_common(size):
    values = np.random.default_rng(size).normal(0, 1, size)
    values[:3] = 9000
    assert max(map(abs, common_range([values]))) < 30


def test_what_is_common():
    values = np.random.default_rng(0).permutation(np.arange(100_001.0))
    assert common_range([values[:500], values[500:]]) == pytest.approx((100 - 3 * 99_800, 99_900 + 3 * 99_800))
    assert common_range([np.zeros(0)]) == common_range([np.full(5000, 3.0)]) == ANY
    sea = np.zeros(40_000)
    sea[5000:5015] = 80  # an island
    assert common_range([sea]) == ANY


WHERE = {(20, 41): 9000, (20, 42): -500, (5, 3): 9000, (27, 28): 5000}
"""Two side by side, one near a corner, one at an edge of a tile's core."""


def with_values(folder, name, others, **profile):
    """The source with other values in some pixels."""
    with rasterio.open(folder / "source.tif") as given:
        values, affine = given.read(1), given.transform
    for place, value in others.items():
        values[place] = value
    write(folder / name, values, affine, **profile)


def run(folder, source, *options):
    outcome = upscale(folder, *FAST, *options, source=source, output=f"of_{source}", method="diffusion")
    assert outcome.code == 0, outcome.err
    return plain_read(folder / f"of_{source}"), outcome.err


def test_the_others_are_as_if_there_were_no_data_and_a_spikes_mean_stays(tmp_path):
    make_pair(tmp_path, size=SIZE)
    with_values(tmp_path, "spikes.tif", WHERE)
    with_values(tmp_path, "holes.tif", dict.fromkeys(WHERE, -9999), nodata=-9999)
    spiky, said = run(tmp_path, "spikes.tif")
    holes, silent = run(tmp_path, "holes.tif")
    assert "source pixels that stand alone far from all others: 4, the first in tile 0 (row 0, column 0)" in said
    assert "stand alone" not in silent
    np.testing.assert_array_equal(spiky[holes != -9999], holes[holes != -9999])
    for (row, col), value in WHERE.items():
        block = spiky[SCALE * row : SCALE * row + SCALE, SCALE * col : SCALE * col + SCALE]
        assert block.mean() == pytest.approx(value, abs=1e-3)
        assert np.ptp(block) < 5


@pytest.mark.parametrize("options", [(), ("--max", 120)])
def test_in_a_scene_of_many_tiles_nothing_depends_on_a_wrong_pixel_either(options, tmp_path):
    make_pair(tmp_path, size=SIZE)
    with_values(tmp_path, "spikes.tif", {(20, 41): 1e6})
    tiles = ("--tile", 72, "--overwrite", *options)
    outcome = upscale(tmp_path, *tiles, source="spikes.tif", method="diffusion")
    assert "169 tiles" in outcome.err
    found = plain_read(tmp_path / "out.tif")
    with_values(tmp_path, "other.tif", {(20, 41): 120 if options else -9999}, nodata=-9999)
    upscale(tmp_path, *tiles, source="other.tif", method="diffusion")
    expected = plain_read(tmp_path / "out.tif")
    block = np.s_[SCALE * 20 : SCALE * 21, SCALE * 41 : SCALE * 42]
    expected[block] = found[block]
    np.testing.assert_array_equal(found, expected)


def test_where_nothing_brings_a_value_back_no_pixel_is_left_out(tmp_path):
    make_pair(tmp_path, size=SIZE)
    with_values(tmp_path, "spikes.tif", WHERE)
    found, said = run(tmp_path, "spikes.tif", "--consistency", "off")
    assert "stand alone" not in said
    assert found[SCALE * 27 : SCALE * 28, SCALE * 28 : SCALE * 29].mean() > 1000


def test_an_object_of_three_pixels_is_no_spike(tmp_path):
    make_pair(tmp_path, size=SIZE)
    with_values(tmp_path, "tower.tif", {(20, 41): 400, (20, 42): 400, (21, 41): 400})
    assert "stand alone" not in run(tmp_path, "tower.tif")[1]


def test_beyond_the_limits_nothing_has_a_say(tmp_path):
    make_pair(tmp_path, size=SIZE)
    others = {(20, 40): 9000, (20, 41): 8000, (21, 40): 9000, (21, 41): 7000, (5, 3): -500}
    with_values(tmp_path, "beyond.tif", others)
    with_values(tmp_path, "at.tif", {place: np.clip(value, 90, 120) for place, value in others.items()})
    limits = ("--min", 90, "--max", 120)
    np.testing.assert_array_equal(run(tmp_path, "beyond.tif", *limits)[0], run(tmp_path, "at.tif", *limits)[0])
