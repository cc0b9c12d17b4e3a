"""The seam meter against a slow formula, and what it says of real mosaics."""

from __future__ import annotations

import importlib.util
import sys
from math import floor, frexp, isfinite
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from outputs import SMALL_NETWORK, check_means, physical, run
from rasters import shared_data

from geosr.options import Inputs, Recipe
from geosr.plan import make_plan
from geosr.seams import SeamMeter
from geosr.tiling import core_edges, cut


def rough(step):
    """Its first 8 binary digits."""
    digits, exponent = frexp(np.float32(step))
    return floor(digits * 256) * 2.0**exponent


def slow_ratio(values, rows, cols, scale):
    """The definition: how often a step at an edge is larger than one on a line of its phase within 16 pixels."""
    reach = max(16 // scale, 1) * scale
    at, beside = [], []
    for edges, image in ((rows, values.T), (cols, values)):
        for line in range(1, image.shape[1]):
            near = any(abs(line - edge) <= reach and (line - edge) % scale == 0 for edge in edges)
            if line in edges or near:
                pairs = zip(image[:, line - 1].tolist(), image[:, line].tolist(), strict=True)
                steps = (rough(abs(b - a)) for a, b in pairs if isfinite(a) and isfinite(b))
                (at if line in edges else beside).extend(steps)
    if not at or not beside:
        return None
    beside = np.sort(beside)
    larger = np.searchsorted(beside, at, "left") + np.searchsorted(beside, at, "right")  # twice, equal ones once
    return larger.mean() / len(beside)


def measure(values, rows, cols, scale, strips):
    meter = SeamMeter(rows, cols, scale)
    top = 0
    for height in strips:
        if top < len(values):
            meter.add(top, values[top : top + height])
        top += height
    meter.add(top, values[top:]) if top < len(values) else None
    return meter.ratio


@settings(max_examples=150, deadline=None)
@given(
    data=st.data(),
    scale=st.sampled_from([2, 3, 4, 8, 20]),
    shape=st.tuples(st.integers(2, 60), st.integers(2, 60)),
    strips=st.lists(st.integers(1, 20), max_size=12),
    seed=st.integers(0, 99),
    holes=st.sampled_from([0.0, 0.2, 1.0]),
)
def test_strips_of_any_height_give_the_slow_formula(data, scale, shape, strips, seed, holes):
    rows, cols = (
        data.draw(st.sets(st.integers(1, max(size // scale, 1)).map(lambda k: k * scale), max_size=3)) for size in shape
    )
    rng = np.random.default_rng(seed)
    values = rng.normal(size=shape)
    values[rng.random(shape) < holes] = np.nan
    expected, found = slow_ratio(values, rows, cols, scale), measure(values, rows, cols, scale, strips)
    assert found == expected if expected is None else found == pytest.approx(expected, rel=1e-12)


def smooth_noise(size=256):
    """Random waves of any direction and phase: no line is special."""
    row, col = np.mgrid[:size, :size]
    rng = np.random.default_rng(0)
    return sum(np.sin(a * row + b * col + p) for a, b, p in rng.normal(0, (0.3, 0.3, 9), (60, 3)))


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_smooth_noise_has_no_seam_and_a_planted_step_is_seen(scale):
    values, edges = smooth_noise(), {64, 128, 192}
    assert measure(values, edges, edges, scale, [40] * 7) == pytest.approx(1, abs=0.06)
    steps = np.add.outer(*(np.searchsorted(sorted(edges), np.arange(256), side="right"),) * 2)
    assert measure(values + 4 * steps, edges, edges, scale, [40] * 7) > 1.5


def test_the_borders_of_source_pixels_do_not_count_as_seams():
    """An output of pure blocks steps at every fourth line, edges of tiles or not."""
    blocks = np.kron(np.random.default_rng(1).normal(size=(64, 64)), np.ones((4, 4)))
    assert measure(blocks, {64, 128}, {64, 128}, 4, [128, 128]) == pytest.approx(1, abs=0.2)


def test_a_wall_on_a_tile_edge_is_no_seam():
    """A tenth of the edge steps by a hundred times the usual: a mean of steps would be ten."""
    values = smooth_noise() / 10
    values[20:46, 128:] += 100
    assert measure(values, {64, 128, 192}, {64, 128, 192}, 4, [256]) == pytest.approx(1, abs=0.1)


def raised(shape, rows, cols):
    """1 on every other tile."""
    down = np.searchsorted(sorted(rows), np.arange(shape[0]), "right")
    return np.add.outer(down, np.searchsorted(sorted(cols), np.arange(shape[1]), "right")) % 2


@pytest.mark.parametrize("size", [96, 160, 320])
@pytest.mark.parametrize(
    "name", ["aurea_orchard/20180714_drone_dsm.tif", "nodeodm_brighton/dsm.tif", "odd/small_dem_3m_merged.tif"]
)
def test_real_heights_have_no_seam_until_their_tiles_are_raised(name, size):
    values = physical(shared_data() / name)
    rows, cols = (side // 4 for side in values.shape)
    values = values[: rows * 4, : cols * 4]
    edges = [
        [line * 4 for line in lines] for lines in core_edges(cut((rows, cols), 4, size=min(size, rows * 2), halo=8))
    ]
    assert 0.85 < measure(values, *edges, 4, [64] * 30) < 1.15
    planted = values + 0.05 * np.nanstd(values) * raised(values.shape, *edges)
    assert measure(planted, *edges, 4, [64] * 30) > 1.5


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    path = Path(__file__).parent.parent / "examples" / "scene.py"
    spec = importlib.util.spec_from_file_location("geosr_example_scene_of_seams", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.make_scene(tmp_path_factory.mktemp("scene"), size=208)


def edges_of(pair, recipe):
    """Rows and columns of the output at which tiles meet."""
    tiles = make_plan(Inputs(*pair, 4), Recipe(**recipe)).tiles
    return [{getattr(tile, axis).core_start * 4 for tile in tiles} - {0} for axis in ("rows", "cols")]


def mean_step(values, rows, cols):
    """Mean absolute step across some lines."""
    steps = [np.abs(values[line] - values[line - 1]) for line in rows]
    steps += [np.abs(values[:, line] - values[:, line - 1]) for line in cols]
    return np.nanmean(np.concatenate(steps))


BELIEVED = SMALL_NETWORK | {"settings": SMALL_NETWORK["settings"] | {"belief": "full"}}
"""Judged, two mosaics of other tiles may believe the guide differently, and one is sharper all over."""


@pytest.mark.parametrize("recipe", [{"method": "bicubic"}, BELIEVED], ids=["bicubic", "mmsr"])
def test_seams_of_mosaics_do_not_show(tmp_path, scene, recipe):
    """Steps at one mosaic's edges are no larger than on the same lines of another, whose tiles meet elsewhere.

    What lies on an edge cancels out: with few edges it moves the ratio that the file reports by tens of percent.
    """
    pair = scene["dsm"], scene["ortho"]
    mosaics = []
    for size in (112, 144):
        output = tmp_path / f"{size}.tif"
        report = run(*pair, output, 4, tile=size, **recipe)
        values, edges = physical(output), edges_of(pair, recipe | {"tile": size})
        with rasterio.open(output) as made:
            assert float(made.tags()["GEOSR_SEAM_RATIO"]) == pytest.approx(slow_ratio(values, *edges, 4), abs=1e-4)
        assert report.written.seam_ratio == pytest.approx(slow_ratio(values, *edges, 4), rel=1e-9)
        check_means(scene["dsm"], output, 4)
        mosaics.append((values, edges))
    (first, first_edges), (second, second_edges) = mosaics
    own = [a - b for a, b in zip(first_edges, second_edges, strict=True)]
    others = [b - a for a, b in zip(first_edges, second_edges, strict=True)]
    at_edges = mean_step(first, *own) + mean_step(second, *others)
    elsewhere = mean_step(second, *own) + mean_step(first, *others)
    print(f"steps at edges over steps on the same lines without: {at_edges / elsewhere:.4f}")
    assert at_edges / elsewhere <= 1.05


def test_an_interpolation_in_tiles_is_the_interpolation(tmp_path, scene):
    """To a thousandth of the spread beside nodata, where the filling looks further than the halo; else exactly."""
    for tile in (96, 10_000):
        run(scene["dsm"], scene["ortho"], tmp_path / f"{tile}.tif", 4, tile=tile)
    tiled, whole = physical(tmp_path / "96.tif"), physical(tmp_path / "10000.tif")
    difference = np.abs(tiled - whole)
    assert np.nanmax(difference) < 1e-3 * np.nanstd(whole)
    assert (difference > 5e-5).sum() < 50
