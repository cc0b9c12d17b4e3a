"""The scene's statistics are those of the scene, also where most of it is flat."""

import numpy as np
import pytest
from outputs import block_means
from pairs import make_pair, upscale
from rasters import UTM, grid, plain_read, write

from geosr.options import Inputs, Recipe
from geosr.plan import make_plan
from geosr.sampling import measure_scene, sample
from geosr.tiling import cut

SCALE, ROWS, COLS = 4, 24, 1100


def measure(folder, high, rng):
    write(folder / "source.tif", block_means(high, SCALE), grid(500000, 5000000, SCALE), UTM)
    guide = 100 + high + rng.normal(0, 1, high.shape)
    write(folder / "guide.tif", guide.astype(np.float32)[None], grid(500000, 5000000, 1), UTM)
    plan = make_plan(Inputs(folder / "source.tif", folder / "guide.tif"), Recipe(method="diffusion", tile=96))
    assert len(sample(plan.tiles, 64)) < len(plan.tiles)
    return plan, measure_scene(plan)


@pytest.mark.parametrize("col", [0, 500, 1085])
def test_an_island_in_the_sea_is_seen_wherever_it_lies(tmp_path, col):
    """Elsewhere source and guide are flat but for the guide's noise, which is 1."""
    rng = np.random.default_rng(0)
    high = np.zeros((ROWS * SCALE, COLS * SCALE), np.float32)
    high[28:68, col * SCALE : col * SCALE + 40] = np.kron(rng.uniform(40, 60, (5, 5)), np.ones((8, 8)))
    _, stats = measure(tmp_path, high, rng)
    low = block_means(high, SCALE)
    assert low.std() / 2 < stats.source_spread < low.max()
    assert stats.guide_noise[0] * stats.guide_spreads[0] == pytest.approx(1, rel=0.1)
    assert high.std() / 2 < stats.guide_spreads[0] < high.max()


def test_a_scene_with_relief_everywhere_is_sampled_evenly(tmp_path):
    rng = np.random.default_rng(1)
    high = np.kron(rng.normal(300, 5, (ROWS, COLS)), np.ones((SCALE, SCALE)))
    plan, stats = measure(tmp_path, high, rng)
    pairs = [plan.read(tile) for tile in sample(plan.tiles, 64)]
    values = np.concatenate([pair.source.ravel() for pair in pairs])
    assert (stats.source_centre, stats.source_spread) == pytest.approx((values.mean(), values.std()))


@pytest.mark.parametrize(("rows", "cols"), [(18, 14), (69, 69), (9, 64), (8, 8), (1, 500)])
def test_a_sample_sees_all_parts_of_the_scene(rows, cols):
    tiles = cut((rows * 64, cols * 64), SCALE, size=320, halo=32)
    drawn = sample(tiles, 64)
    assert len({tile.index for tile in drawn}) == len(drawn) == min(64, len(tiles))
    for along in ("rows", "cols"):
        starts, seen = ([getattr(tile, along).start for tile in some] for some in (tiles, drawn))
        ends = np.unique(np.quantile(starts, [0, 0.25, 0.5, 0.75, 1]))
        assert len(ends) == 1 or np.histogram(seen, ends)[0].min() >= len(drawn) / 16


@pytest.mark.parametrize("tile", [64, 320], ids=["sampled", "whole"])
@pytest.mark.parametrize("sentinel", [-1.7976931348623157e308, -1e153, -3.4028234663852886e38])
def test_an_undeclared_sentinel_that_float32_cannot_hold_is_named_before_the_work(sentinel, tile, tmp_path):
    make_pair(tmp_path, size=96)
    values = plain_read(tmp_path / "source.tif").astype("float64")
    values[5, 60] = sentinel
    write(tmp_path / "source.tif", values, grid(500000, 5000000, 4))
    refused = upscale(tmp_path, "--tile", tile)
    assert refused.code == 3
    assert refused.err.splitlines()[-1] == (
        f"Error: the source's values reach {sentinel:.17g}, too far for float32; "
        f"if that is nodata, pass --source-nodata {sentinel!r}"
    )
    assert upscale(tmp_path, *refused.err.split()[-2:], "--tile", tile).code == 0


@pytest.mark.parametrize("more", [(), ("--native-resolution", 8)], ids=["as it is", "pooled"])
def test_the_value_that_is_named_is_the_stored_one(more, tmp_path):
    """Which --source-nodata takes: of a file with a scale, and where pixels are averaged first."""
    make_pair(tmp_path, size=96)
    values = plain_read(tmp_path / "source.tif")
    values[5, 60] = -3.4028235e38
    write(tmp_path / "source.tif", values, grid(500000, 5000000, 4), scale=0.5, offset=-20)
    refused = upscale(tmp_path, *more)
    assert refused.code == 3
    assert refused.err.rstrip().endswith("pass --source-nodata -3.4028235e+38")
    done = upscale(tmp_path, *more, *refused.err.split()[-2:])
    assert done.code == 0, done.err
    assert "Warning" not in done.err + refused.err
