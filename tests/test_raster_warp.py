"""A guide on another grid lies where pyproj says, whatever window is asked for, and its gaps stay gaps.

The guides here hold their own position, in pixels of the target, so that a value read *is* a position: its
difference from the target pixel's true position is the misplacement.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyproj
import pytest
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from rasters import UTM, grid, pixel_centres, plain_read, shared_data, world, write

from geosr import coordinates, warp
from geosr.coordinates import extent_text, ground_resolution, step_ratio
from geosr.describe import describe_guide, describe_source
from geosr.errors import InputError
from geosr.grid import Window, crop
from geosr.raster import read_guide

X, Y = 500160.0, 4999840.0
HUNDREDTH = 0.01


def share_inside(low, guide):
    return coordinates.overlap_fraction(low, guide.geobox, guide.places)


def shift(crs, x=X, y=Y):
    """The scene's centre in another CRS."""
    return pyproj.Transformer.from_crs(UTM, crs, always_xy=True).transform(x, y)


def around(centre, shape, step, step_y=None, **turn) -> Affine:
    """A grid of `shape` around `centre`."""
    unplaced = grid(0, 0, step, step_y, **turn)
    x, y = world(unplaced, shape[1] / 2, shape[0] / 2)
    a, b, _, d, e, _ = unplaced[:6]
    return Affine(a, b, centre[0] - x, d, e, centre[1] - y)


def positions(target, x, y):
    """World coordinates in pixels of `target`, from its corner along its own axes (float64, no geosr)."""
    a, b, c, d, e, f = target.affine[:6]
    return np.stack([e * (x - c) - b * (y - f), a * (y - f) - d * (x - c)]) / (a * e - b * d)


def write_positions(path, shape, affine, crs, target):
    """A two-band guide whose pixels say where in `target` they are."""
    x, y = pixel_centres(affine, shape)
    if crs != target.crs:
        x, y = pyproj.Transformer.from_crs(crs, target.crs.to_wkt(), always_xy=True).transform(x, y)
    return write(path, positions(target, x, y).astype(np.float32), affine, crs)


def misplacement(values, valid, target):
    row, col = np.mgrid[: target.shape[0], : target.shape[1]] + 0.5
    return np.abs(values - np.stack([col, row]))[:, valid].max()


TARGET = GeoBox((96, 128), around((X, Y), (96, 128), 1), UTM)
TURNED = GeoBox((96, 128), around((X, Y), (96, 128), 1, 1.3, rotation=25), UTM)
SOUTH_UP = GeoBox((96, 128), around((X, Y), (96, 128), 1, south_up=True), UTM)
DEGREES = GeoBox((96, 128), around(shift("EPSG:4326"), (96, 128), 1.3e-5, 0.9e-5), "EPSG:4326")

CASES = {
    "4 times finer, aligned": (TARGET, (500, 640), UTM, 0.25, {}),
    "2.5 times finer": (TARGET, (300, 400), UTM, 0.4, {}),
    "south-up": (TARGET, (500, 640), UTM, 0.25, {"south_up": True}),
    "rotated": (TARGET, (700, 700), UTM, 0.3, {"rotation": 30}),
    "sheared, not square": (TARGET, (500, 700), UTM, 0.3, {"rotation": -10, "shear": 20, "step_y": 0.45}),
    "much finer": (TARGET, (1100, 1400), UTM, 0.1, {}),
    "as fine": (TARGET, (150, 180), UTM, 1.0, {}),
    "coarser": (TARGET, (110, 130), UTM, 1.7, {"rotation": 3}),
    "onto a rotated grid": (TURNED, (700, 700), UTM, 0.3, {}),
    "onto a south-up grid": (SOUTH_UP, (300, 400), UTM, 0.4, {}),
    "from degrees": (TARGET, (600, 700), "EPSG:4326", 3e-6, {}),
    "onto degrees": (DEGREES, (450, 600), UTM, 0.3, {}),
    "from the next zone": (TARGET, (450, 600), "EPSG:32633", 0.35, {"rotation": 5}),
    "from web mercator": (TARGET, (450, 600), "EPSG:3857", 0.5, {}),
}


@pytest.mark.parametrize("name", CASES)
def test_guides_lie_where_they_should(tmp_path, name):
    target, shape, crs, step, turn = CASES[name]
    guide = describe_guide(
        write_positions(tmp_path / "g.tif", shape, around(shift(crs), shape, step, **turn), crs, target)
    )
    values, valid = read_guide(guide, target)
    assert valid.all()
    assert misplacement(values, valid, target) < HUNDREDTH / 10  # measured: 0.0001 at most


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    step=st.floats(0.15, 3),
    stretch=st.floats(0.5, 2),
    rotation=st.floats(-180, 180),
    shear=st.floats(-30, 30),
    south_up=st.booleans(),
    target_rotation=st.floats(-180, 180),
    crs=st.sampled_from([UTM, "EPSG:32633", "EPSG:3857", "EPSG:3035"]),
    off=st.tuples(st.floats(-3, 3), st.floats(-3, 3)),
)
def test_any_grid_to_any_grid(tmp_path, step, stretch, rotation, shear, south_up, target_rotation, crs, off):
    target = GeoBox((20, 24), around((X, Y), (20, 24), 1, rotation=target_rotation), UTM)
    sides = tuple(int(60 / min(step, step * stretch)) + 30 for _ in range(2))
    x, y = shift(crs)
    turn = {"rotation": rotation, "shear": shear, "south_up": south_up}
    affine = around((x + off[0], y + off[1]), sides, step, step * stretch, **turn)
    guide = describe_guide(write_positions(tmp_path / "g.tif", sides, affine, crs, target))
    values, valid = read_guide(guide, target)
    assert valid.all()
    assert misplacement(values, valid, target) < HUNDREDTH


@pytest.mark.parametrize("step", [0.1, 0.3, 0.8, 1.0, 1.7])
@pytest.mark.parametrize("share", [1.0, 0.98, 0.5])
def test_parallel_grids_are_no_special_case(tmp_path, step, share):
    """Axes along each other or turned by a millionth of a degree, which no shortcut takes: the same values and gaps."""
    shape = int(140 / step), int(170 / step)
    rng = np.random.default_rng(5)
    values, mask = rng.normal(size=(2, *shape)).astype(np.float32), rng.random(shape) < share
    reads = []
    for rotation in (0.0, 1e-8):
        affine = around((X + 0.3, Y), shape, step, rotation=rotation)
        reads.append(read_guide(describe_guide(write(tmp_path / "p.tif", values, affine, mask=mask)), TARGET))
    (parallel, seen), (turned, also_seen) = reads
    assert np.mean(seen != also_seen) < 1e-3
    both = seen & also_seen
    assert both.mean() > 0.4
    np.testing.assert_allclose(parallel[:, both], turned[:, both], atol=1e-4)


@pytest.mark.parametrize("name", ["from degrees", "onto degrees", "from the next zone", "from web mercator"])
def test_positions_between_two_crs_are_those_of_proj(tmp_path, name):
    """Every pixel by pyproj itself, to a tenth of the thousandth of a pixel that is promised."""
    target, shape, crs, step, turn = CASES[name]
    guide = GeoBox(shape, around(shift(crs), shape, step, **turn), crs)
    u, v = warp._corners(target, guide)
    row, col = np.mgrid[: target.shape[0] + 1, : target.shape[1] + 1]
    there = pyproj.Transformer.from_crs(target.crs.to_wkt(), crs, always_xy=True)
    x, y = there.transform(*world(target.affine, col, row))
    np.testing.assert_allclose([u, v], positions(guide, x, y), atol=1e-4)


def test_where_a_projection_is_not_smooth_proj_itself_is_asked(tmp_path):
    """A polar grid around the pole: longitudes jump there."""
    polar = GeoBox((64, 64), around((0, 0), (64, 64), 50_000), "EPSG:3413")
    globe = GeoBox((180, 360), grid(-180, 90, 1), "EPSG:4326")
    u, v = warp._corners(polar, globe)
    row, col = np.mgrid[:65, :65]
    lon, lat = pyproj.Transformer.from_crs("EPSG:3413", "EPSG:4326", always_xy=True).transform(
        *world(polar.affine, col, row)
    )
    np.testing.assert_allclose(v, 90 - lat, atol=1e-4)
    np.testing.assert_allclose(np.exp(1j * np.radians(u - 180)), np.exp(1j * np.radians(lon)), atol=1e-5)


def test_a_step_edge_is_averaged_by_area(tmp_path):
    values = np.zeros((400, 400), np.float32)
    values[:, 201:] = 1  # the edge at 20.1 target pixels of 10 guide pixels
    guide = describe_guide(write(tmp_path / "e.tif", values, grid(500000, 5000000, 0.1)))
    target = GeoBox((40, 40), grid(500000, 5000000, 1), UTM)
    read, _ = read_guide(guide, target)
    edge = 40 - read[0].sum(axis=1)
    np.testing.assert_allclose(edge, 20.1, atol=HUNDREDTH)
    np.testing.assert_allclose(read[0, :, :20], 0, atol=1e-6)
    np.testing.assert_allclose(read[0, :, 21:], 1, atol=1e-6)


@pytest.mark.parametrize("factor", [2, 3, 4, 5, 10])
def test_nested_grids_give_exact_block_means(tmp_path, factor):
    values = np.random.default_rng(factor).normal(size=(30 * factor, 40 * factor)).astype(np.float32)
    guide = describe_guide(write(tmp_path / "n.tif", values, grid(500000, 5000000, 1 / factor)))
    read, valid = read_guide(guide, GeoBox((30, 40), grid(500000, 5000000, 1), UTM))
    means = values.reshape(30, factor, 40, factor).mean(axis=(1, 3), dtype=np.float64)
    assert valid.all()
    np.testing.assert_allclose(read[0], means, atol=1e-5)


def test_the_same_grid_changes_nothing(tmp_path):
    values = np.random.default_rng(0).integers(0, 255, (3, 50, 60)).astype(np.uint8)
    guide = describe_guide(write(tmp_path / "s.tif", values))
    read, valid = read_guide(guide, guide.geobox)
    assert valid.all()
    np.testing.assert_allclose(read, values, atol=1e-3)


@pytest.mark.parametrize(
    "name",
    [
        "4 times finer, aligned",
        "2.5 times finer",
        "as fine",
        "south-up",
        "rotated",
        "much finer",
        "from degrees",
        "from the next zone",
        "coarser",
        "onto degrees",
        "onto a rotated grid",
    ],
)
def test_windows_equal_the_whole(tmp_path, name):
    target, shape, crs, step, turn = CASES[name]
    affine = around(shift(crs), shape, step, **turn)
    noise = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    noise[np.random.default_rng(2).random(shape) < 0.3] = np.nan
    guide = describe_guide(write(tmp_path / "w.tif", noise, affine, crs))
    whole, valid = read_guide(guide, target)
    for window in (Window(0, 0, 32, 32), Window(31, 17, 50, 64), Window(95, 127, 1, 1), Window(3, 0, 1, 128)):
        part, part_valid = read_guide(guide, crop(target, window), grid=target)
        rows, cols = window.slices
        np.testing.assert_array_equal(part_valid, valid[rows, cols])
        np.testing.assert_allclose(part, whole[:, rows, cols], atol=1e-4)


@pytest.mark.parametrize("step", [0.1, 0.4, 1.0, 1.7])
@pytest.mark.parametrize("garbage", [-9999.0, 1e30, np.inf, np.nan])
def test_what_lies_under_the_mask_has_no_influence(tmp_path, step, garbage):
    shape = int(150 / step), int(190 / step)
    rng = np.random.default_rng(3)
    values = rng.normal(size=shape).astype(np.float32)
    blobs = np.kron(rng.random((10, 10)) < 0.6, np.ones((shape[0] // 10 + 1, shape[1] // 10 + 1)))
    mask = blobs[: shape[0], : shape[1]].astype(bool)
    affine = around((X, Y), shape, step, rotation=7)
    reads = []
    for fill in (0.0, garbage):
        path = write(tmp_path / "m.tif", np.where(mask, values, np.float32(fill)), affine, mask=mask)
        reads.append(read_guide(describe_guide(path), TARGET))
    np.testing.assert_array_equal(reads[0][0], reads[1][0])
    np.testing.assert_array_equal(reads[0][1], reads[1][1])
    assert 0.2 < reads[0][1].mean() < 0.9
    assert (reads[0][0][:, ~reads[0][1]] == 0).all()


def test_validity_lies_where_the_mask_lies(tmp_path):
    mask = np.zeros((400, 400), bool)
    mask[100:300, 40:240] = True
    path = write(tmp_path / "v.tif", np.ones((400, 400), np.float32), grid(500000, 5000000, 0.25), mask=mask)
    _, valid = read_guide(describe_guide(path), GeoBox((100, 100), grid(500000, 5000000, 1), UTM))
    expected = np.zeros((100, 100), bool)
    expected[25:75, 10:60] = True
    np.testing.assert_array_equal(valid, expected)


def test_threads_read_the_same(tmp_path):
    values = np.random.default_rng(4).integers(0, 255, (3, 600, 600)).astype(np.uint8)
    layout = {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"}
    guide = describe_guide(write(tmp_path / "t.tif", values, around((X, Y), (600, 600), 0.4, rotation=9), **layout))
    windows = [Window(row, col, 32, 32) for row in range(0, 96, 32) for col in range(0, 128, 32)]
    serial = [read_guide(guide, crop(TARGET, window), grid=TARGET)[0] for window in windows]
    with ThreadPoolExecutor(8) as pool:
        threaded = pool.map(lambda window: read_guide(guide, crop(TARGET, window), grid=TARGET)[0], windows)
        for one, other in zip(serial, threaded, strict=True):
            np.testing.assert_array_equal(one, other)


def test_beyond_the_guide_nothing_is_valid(tmp_path):
    path = write(tmp_path / "b.tif", np.ones((100, 100), np.float32), grid(500010, 4999990, 0.5))
    values, valid = read_guide(describe_guide(path), GeoBox((80, 80), grid(500000, 5000000, 1), UTM))
    expected = np.zeros((80, 80), bool)
    expected[10:60, 10:60] = True
    np.testing.assert_array_equal(valid, expected)
    np.testing.assert_allclose(values[0], expected, atol=1e-6)
    far = GeoBox((8, 8), grid(900000, 5000000, 1), UTM)
    assert not read_guide(describe_guide(path), far)[1].any()


# --- the date line, and other ends of the world --------------------------------------------------------------

PACIFIC = GeoBox((90, 120), grid(650000, 6000000, 1000, 3000), "EPSG:32660")


@pytest.mark.parametrize("left", [176.0, 176.0 - 360])
def test_across_the_date_line(tmp_path, left):
    shape, affine = (700, 900), grid(left, 55, 0.006)
    guide = describe_guide(write_positions(tmp_path / "d.tif", shape, affine, "EPSG:4326", PACIFIC))
    values, valid = read_guide(guide, PACIFIC)
    assert valid.mean() > 0.99
    assert misplacement(values, valid, PACIFIC) < HUNDREDTH
    assert share_inside(PACIFIC, guide) > 0.99


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:32660"])
def test_a_centre_on_the_date_line_is_a_place_like_any_other(crs):
    """Half a pixel to either side of it are the two ends of the guide's longitudes."""
    guide = GeoBox((7200, 14400), grid(-180, 90, 0.025), "EPSG:4326")
    step = 0.1 if crs == "EPSG:4326" else 11_000
    for offset in (0, 0.3 * step, 5 * step):
        x, y = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(180, 10)
        x = abs(x) + offset
        assert warp.plan_sampling(guide, GeoBox((20, 20), around((x, y), (20, 20), step), crs)) == warp.Sampling(
            1, 4, 4
        )


@pytest.mark.parametrize("way", ["guide", "source"])
@pytest.mark.parametrize("lon", [-81.0, 279.0, -178.0, 182.0, 537.0])
def test_longitudes_may_be_counted_from_anywhere(tmp_path, way, lon):
    """Over the western hemisphere too: PROJ is asked about boxes within half a turn."""
    zone = 32600 + int((lon + 180) % 360 // 6) + 1
    x, y = pyproj.Transformer.from_crs("EPSG:4326", f"EPSG:{zone}", always_xy=True).transform(lon % 360, 36)
    degrees, metres = grid(lon - 0.01, 36.01, 1e-4), grid(x - 400, y + 400, 10)
    ones = np.ones((200, 200), np.float32)
    wide = write(tmp_path / "degrees.tif", ones, degrees, "EPSG:4326")
    small = write(tmp_path / "metres.tif", ones[:80, :80], metres, f"EPSG:{zone}")
    if way == "guide":
        guide, target = describe_guide(wide), GeoBox((80, 80), metres, f"EPSG:{zone}")
    else:
        guide, target = describe_guide(small), GeoBox((40, 40), grid(lon - 0.002, 36.002, 1e-4), "EPSG:4326")
    values, valid = read_guide(guide, target)
    assert valid.all()
    np.testing.assert_allclose(values, 1, atol=1e-6)


def test_a_guide_in_utm_beyond_the_date_line_onto_degrees():
    path = shared_data() / "odd" / "cog_dateline.tif"
    guide = describe_guide(path)
    x, y = world(guide.geobox.affine, 1200.5, 1100.5)
    lon, lat = pyproj.Transformer.from_crs("EPSG:32660", "EPSG:4326", always_xy=True).transform(x, y)
    stored = plain_read(path)
    for turn in (0, 360, -360):
        target = GeoBox((3, 3), grid(lon + turn - 1.5e-5, lat + 1.5e-5, 1e-5), "EPSG:4326")
        values, valid = read_guide(guide, target)
        assert valid.all()
        assert values[0, 1, 1] == pytest.approx(stored[1100, 1200], abs=1)


def test_a_whole_globe_seen_from_a_polar_grid(tmp_path):
    polar = GeoBox((40, 40), around((0, 0), (40, 40), 50_000), "EPSG:3413")
    guide = describe_guide(write(tmp_path / "g.tif", np.ones((180, 360), np.float32), grid(-180, 90, 1), "EPSG:4326"))
    values, valid = read_guide(guide, polar)
    assert valid.mean() > 0.9  # all but the pixels that hold the seam at 180 degrees
    np.testing.assert_allclose(values[0][valid], 1, atol=1e-6)


def test_a_globe_whose_longitudes_run_down_its_rows_has_the_same_seam(tmp_path):
    polar = GeoBox((40, 40), around((0, 0), (40, 40), 50_000), "EPSG:3413")
    globe = np.random.default_rng(0).normal(size=(180, 360)).astype(np.float32)
    upright = describe_guide(write(tmp_path / "u.tif", globe, grid(-180, 90, 1), "EPSG:4326"))
    turned = describe_guide(write(tmp_path / "t.tif", globe.T, Affine(0, 1, -180, -1, 0, 90), "EPSG:4326"))
    (values, valid), (same, also_valid) = read_guide(upright, polar), read_guide(turned, polar)
    assert 0 < (~valid).sum() < 0.1 * valid.size
    assert np.array_equal(valid, also_valid)
    np.testing.assert_allclose(values, same, atol=1e-4)


# --- what planning asks --------------------------------------------------------------------------------------


def test_overlap(tmp_path):
    low = GeoBox((100, 100), grid(500000, 5000000, 10), UTM)
    for x, y, size, share in [(0, 0, 1000, 1), (500, 0, 1000, 0.5), (900, -900, 1000, 0.01), (2000, 0, 500, 0)]:
        affine = grid(500000 + x, 5000000 + y, 10)
        guide = describe_guide(write(tmp_path / "o.tif", np.ones((size // 10, size // 10), np.uint8), affine))
        assert share_inside(low, guide) == pytest.approx(share, abs=0.005)
    small = describe_guide(write(tmp_path / "o.tif", np.ones((4, 4), np.uint8), grid(500505, 4999495, 1)))
    assert share_inside(low, small) == pytest.approx(16 / 1e6, rel=0.1)
    elsewhere = describe_guide(write(tmp_path / "o.tif", np.ones((4, 4), np.uint8), grid(-70, 40, 1), "EPSG:4326"))
    assert share_inside(low, elsewhere) == 0


def test_overlap_of_the_neon_pair_by_hand():
    folder = shared_data() / "neon_bart"
    source = describe_source(folder / "NEON_D01_BART_DP3_320000_4881000_CHM_crop.tif")
    guide = describe_guide(folder / "2019_BART_5_320000_4881000_image_crop.tif")
    width = min(320214 + 121, 320214.8 + 121.3) - 320214.8
    height = 4881614.5 - max(4881615 - 111, 4881614.5 - 110.6)
    assert share_inside(source.geobox, guide) == pytest.approx(width * height / (121 * 111), abs=1e-3)
    assert step_ratio(source.geobox, guide.geobox) == pytest.approx((10, 10))
    assert ground_resolution(guide.geobox) == pytest.approx((0.1, 0.1))
    assert "320214.8 to 320336.1" in extent_text(guide.geobox)


def test_resolution_on_the_ground():
    assert ground_resolution(GeoBox((10, 10), grid(10, 60.0005, 1e-4), "EPSG:4326")) == pytest.approx(
        (5.58, 11.14), abs=0.01
    )
    assert ground_resolution(GeoBox((10, 10), grid(1e6, 2e5, 3), "EPSG:2263")) == pytest.approx(
        (0.9144, 0.9144), abs=1e-4
    )
    assert ground_resolution(GeoBox((10, 10), grid(0, 0, 2, 3, rotation=40), None)) == pytest.approx((2, 3))


@pytest.mark.parametrize(
    ("crs", "lon", "lat"),
    [("EPSG:3857", 10, 60), ("EPSG:3857", 179.99, 45), ("EPSG:3413", -45, 89), ("EPSG:6933", 10, 45)],
)
def test_resolution_on_the_ground_where_the_map_is_stretched(crs, lon, lat):
    """As plain pyproj has it; for Mercator that is nearly the cosine of the latitude."""
    there = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    x, y = there.transform(lon, lat, direction="INVERSE")
    found = ground_resolution(GeoBox((20, 20), grid(x - 100, y + 100, 10), crs))
    lons, lats = there.transform([x, x + 10, x], [y, y, y - 10])
    geod = pyproj.Geod(ellps="WGS84")
    expected = [geod.inv(lons[0], lats[0], lons[step], lats[step])[2] for step in (1, 2)]
    assert found == pytest.approx(expected, rel=1e-6)
    if crs == "EPSG:3857":
        assert found == pytest.approx([10 * np.cos(np.radians(lat))] * 2, rel=5e-3)


@pytest.mark.parametrize(
    ("crs", "x", "y"),
    [
        ("EPSG:32633", 166_000, 1_000_000),  # the zone's edge: 1.001
        ("EPSG:3035", 4_900_000, 5_300_000),  # the North Cape: 0.99 and 1.01
        ("EPSG:27572", 600_000, 2_200_000),  # of grads from Paris
        ('ENGCRS["a site",EDATUM["here"],CS[Cartesian,2],AXIS["x",east],AXIS["y",north],LENGTHUNIT["metre",1]]', 0, 0),
        ("EPSG:32633", 1e9, 1e9),  # nowhere
        ("EPSG:3857", 0, 1e9),  # at the pole, to the last bit
    ],
)
def test_a_pixel_of_ten_metres_on_a_surveyors_map_is_called_so(crs, x, y):
    assert ground_resolution(GeoBox((20, 20), grid(x, y, 10), crs)) == (10, 10)


def test_one_raster_without_crs_is_refused(tmp_path):
    guide = describe_guide(write(tmp_path / "n.tif", np.ones((10, 10), np.uint8), crs=None))
    with pytest.raises(InputError, match="--assume-crs"):
        read_guide(guide, TARGET)


def test_neon_ortho_against_direct_block_means():
    folder = shared_data() / "neon_bart"
    path = folder / "2019_BART_5_320000_4881000_image_crop.tif"
    source = describe_source(folder / "NEON_D01_BART_DP3_320000_4881000_CHM_crop.tif")
    target = crop(source.geobox, Window(10, 20, 60, 70))  # 1 m pixels over 0.1 m, offset by 8 and 5 guide pixels
    values, valid = read_guide(describe_guide(path), target)
    assert valid.all()
    top, left = round((4881614.5 - (4881615 - 10)) / 0.1), round((320214 + 20 - 320214.8) / 0.1)
    for band in (1, 2, 3):
        blocks = plain_read(path, band)[top : top + 600, left : left + 700].astype(float)
        means = blocks.reshape(60, 10, 70, 10).mean(axis=(1, 3))
        assert np.abs(values[band - 1] - means).mean() < 1.5
        assert np.corrcoef(values[band - 1].ravel(), means.ravel())[0, 1] > 0.998


@pytest.mark.parametrize(
    ("crs", "x", "y"), [("EPSG:27572", 600000, 2200000), ("EPSG:4807", 1.5, 52.0), ("EPSG:2263", 1e6, 2e5)]
)
def test_the_area_for_proj_is_in_degrees_from_greenwich(crs, x, y):
    """Also for grads from Paris: in their numbers PROJ would choose an operation for the sea off Portugal."""
    step = 0.001 if y < 90 else 100
    area = coordinates.area_of(GeoBox((100, 100), grid(x, y, step), crs))
    lon, lat = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(x, y)
    assert (area.west_lon_degree, area.north_lat_degree) == pytest.approx((lon, lat), abs=0.02)
