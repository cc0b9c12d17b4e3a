"""Rasters as pictures, and styles for QGIS: kinds, stretch, relief, nodata, little reading."""

from __future__ import annotations

import itertools
from xml.etree import ElementTree

import numpy as np
import pairs
import pytest
import rasterio
import rasterio.shutil
import rasters
from matplotlib import image
from scipy import ndimage

from geosr import raster
from geosr.describe import describe_guide, describe_source
from geosr.geotiff import encode_picture
from geosr.grid import Window
from geosr.picture import KINDS, RAMPS, Stretch, decide_kind, hillshade
from geosr.quicklook import quicklook


def hills(rows, cols):
    row, col = np.mgrid[:rows, :cols]
    return (200 + 30 * np.sin(row / 40) * np.cos(col / 55)).astype("float32")


def look_at(path):
    """A PNG as (rows, columns, 4), 0 to 1, read by another library."""
    return image.imread(path)


@pytest.mark.parametrize(
    ("units", "name", "vertical", "stem", "kind", "reason"),
    [
        ("metre", None, False, "thermal", "elevation", "its unit, metre"),
        ("US survey foot", None, False, "x", "elevation", "its unit"),
        ("K", "height", False, "dsm", "temperature", "its unit, K"),
        ("degrees Celsius", None, False, "x", "temperature", "its unit"),
        (None, "Surface temperature", True, "dsm", "temperature", "its band's name"),
        (None, "nDSM", False, "x", "elevation", "its band's name"),
        (None, "Band 1", True, "x", "elevation", "the vertical part of its CRS"),
        (None, None, False, "JAX_004_DSM", "elevation", "its file's name"),
        ("", "", False, "thermal-2020", "temperature", "its file's name"),
        ("%", "cover", False, "attempt", "other", "nothing"),
    ],
)
def test_what_values_are_is_told_by_the_file_and_said(units, name, vertical, stem, kind, reason):
    found = decide_kind(units, name, vertical=vertical, source="", stem=stem)
    assert (found.name, found.units) == (kind, units or "")
    assert found.reason.startswith(reason)


def test_an_output_of_any_name_is_drawn_as_what_its_source_is(tmp_path):
    """And styled: nothing but the source's name says what it is."""
    (source, _), out = pairs.make_pair(tmp_path), tmp_path / "temp.tif"
    source.rename(tmp_path / "dsm.tif")
    assert pairs.upscale(tmp_path, "--style", source="dsm.tif", output=out.name).code == 0
    drawn = pairs.geosr("quicklook", out, "-o", tmp_path / "temp.png")
    assert "; elevation by the name of its source, dsm; " in drawn.out
    items = ElementTree.parse(tmp_path / "temp.qml").getroot().iter("item")
    assert tuple(item.get("color") for item in items) == RAMPS["elevation"]
    assert quicklook(tmp_path / "dsm.tif", tmp_path / "dsm.png").kind.reason == "its file's name"


def test_what_is_written_beside_an_output_is_no_terrain(tmp_path):
    """Standard deviations are in metres as well."""
    path = rasters.write(
        tmp_path / "deviations.tif", np.ones((20, 20), np.float32), tags={"GEOSR_LAYER": "uncertainty"}
    )
    with rasterio.open(path, "r+") as dataset:
        dataset.units = ["m"]
    drawn = quicklook(path, tmp_path / "out.png", size=64)
    assert (drawn.kind.name, drawn.kind.units) == ("other", "m")
    assert "GEOSR_LAYER" in drawn.kind.reason


def test_outliers_do_not_spoil_the_stretch():
    values = np.random.default_rng(0).normal(100, 5, 10_000)
    clean = Stretch.measure(values, np.ones(values.shape, bool))
    values[:100] = 1e9
    spoilt = Stretch.measure(values, np.ones(values.shape, bool))
    assert (clean.low, clean.high) == pytest.approx((100 - 5 * 2.05, 100 + 5 * 2.05), abs=0.5)
    assert (spoilt.low, spoilt.high) == pytest.approx((clean.low, clean.high), abs=2)


@pytest.mark.parametrize("values", [[7.0] * 9, [0.0] * 500 + [5.0], [], [1e17] * 9])
def test_a_stretch_has_a_width_whatever_the_values(values):
    values = np.array(values)
    found = Stretch.measure(values, np.ones(values.shape, bool))
    assert found.low < found.high
    assert not values.size or found.low <= values.min() <= values.max() <= found.high


def test_hillshade_is_that_of_horns_slopes_lit_from_the_upper_left():
    values, steps = hills(60, 80) + np.random.default_rng(1).normal(0, 0.2, (60, 80)), (2.0, 3.0)
    shade, factor = hillshade(values, np.ones(values.shape, bool), steps)
    kernel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 8
    across, down = (ndimage.correlate(values, k) / s for k, s in ((kernel, steps[0]), (kernel.T, steps[1])))
    x, y = factor * across, factor * down
    expected = (0.5 * x + 0.5 * y + np.sqrt(0.5)) / np.sqrt(1 + x**2 + y**2)
    assert np.allclose(shade[1:-1, 1:-1], np.clip(expected, 0, 1)[1:-1, 1:-1])
    assert np.percentile(factor * np.hypot(across, down), 90) == pytest.approx(0.6, rel=0.05)


def test_nothing_stored_under_invalid_pixels_shows_in_the_relief():
    values, valid = hills(30, 30).astype(float), np.ones((30, 30), bool)
    valid[10:14, 12:20] = False
    spoilt = np.where(valid, values, -1e38)
    assert np.array_equal(hillshade(values, valid, (1, 1))[0], hillshade(spoilt, valid, (1, 1))[0])


def test_a_picture_has_the_rasters_shape_and_its_gaps(tmp_path):
    values = hills(90, 130)
    values[20:40, 30:60] = -9999
    path = rasters.write(tmp_path / "dsm.tif", values, nodata=-9999)
    done = pairs.geosr("quicklook", path, "-o", tmp_path / "out.png")
    assert done.code == 0, done.err
    assert "130 x 90 pixels, one for 1 x 1; elevation by its file's name; colours from " in done.out
    drawn = look_at(tmp_path / "out.png")
    assert drawn.shape == (90, 130, 4)
    assert np.array_equal(drawn[..., 3], values > 0)
    low, high = (np.array([int(c[i : i + 2], 16) for i in (1, 3, 5)]) for c in RAMPS["elevation"][:: len(KINDS) + 2])
    assert not np.array_equal(low, high)
    assert len(np.unique(drawn[drawn[..., 3] > 0][:, :3], axis=0)) > 100


def test_undeclared_nodata_is_pointed_out(tmp_path):
    values = hills(90, 130)
    values[20:40, 30:60] = -9999
    path = rasters.write(tmp_path / "dsm.tif", values)
    done = pairs.geosr("quicklook", path, "-o", tmp_path / "out.png")
    assert (done.code, done.err) == (0, "note: dsm.tif contains -9999, which looks like undeclared nodata\n")


def test_kinds_look_different_and_temperatures_have_no_relief(tmp_path):
    path = rasters.write(tmp_path / "x.tif", hills(40, 40))
    pictures = {}
    for kind in KINDS:
        done = pairs.geosr("quicklook", path, "-o", tmp_path / f"{kind}.png", "--kind", kind)
        assert f"; {kind} by what was asked for;" in done.out
        assert ("relief" in done.out) == (kind == "elevation")
        pictures[kind] = look_at(tmp_path / f"{kind}.png")
    low, high = (int(np.argmin(hills(40, 40))), int(np.argmax(hills(40, 40))))
    for kind in ("temperature", "other"):
        for place, colour in ((low, RAMPS[kind][0]), (high, RAMPS[kind][-1])):
            found = np.rint(255 * pictures[kind].reshape(-1, 4)[place, :3])
            assert np.array_equal(found, [int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    assert not np.array_equal(pictures["elevation"], pictures["other"])


def test_a_large_raster_is_drawn_from_its_overviews(tmp_path):
    """All full-resolution blocks but the first four, which tell that there is anything, are damaged."""
    path, side = tmp_path / "large.tif", 4608
    made = np.kron(np.arange(81, dtype="uint8").reshape(9, 9) + 20, np.ones((512, 512), "uint8"))
    with rasterio.io.MemoryFile() as memory:
        with memory.open(driver="GTiff", height=side, width=side, count=1, dtype="uint8", crs=rasters.UTM,
                         transform=rasters.grid(500000, 5000000, 1)) as plain:  # fmt: skip
            plain.write(made, 1)
        with memory.open() as plain:
            rasterio.shutil.copy(plain, path, driver="COG", COMPRESS="DEFLATE", BLOCKSIZE=512)
    with rasterio.open(path) as dataset, path.open("r+b") as file:
        for i, j in itertools.product(range(9), range(9)):
            if max(i, j) > 1:
                file.seek(int(dataset.get_tag_item(f"BLOCK_OFFSET_{i}_{j}", "TIFF", bidx=1)))
                file.write(b"\xff" * 40)
    with rasterio.open(path) as dataset, pytest.raises(rasterio.errors.RasterioIOError):
        dataset.read(1)
    done = pairs.geosr("quicklook", path, "-o", tmp_path / "out.png", "--size", 500)
    assert done.code == 0, done.err
    drawn = look_at(tmp_path / "out.png")
    assert drawn.shape == (461, 461, 4)
    assert "one for 10 x 10" in done.out
    green = drawn[25::51, 25::51, 1].ravel()[:81]
    assert np.all(np.diff(green) >= 0)  # the ramp's green rises all along
    assert len(np.unique(green)) > 60


@pytest.mark.parametrize("step", [1, 2, 3, 7])
def test_a_glance_mixes_no_nodata_in(step, tmp_path):
    rng = np.random.default_rng(step)
    values = rng.uniform(10, 20, (61, 47)).astype("float32")
    values[rng.random(values.shape) < 0.4] = -9999
    file = describe_source(rasters.write(tmp_path / "x.tif", values, nodata=-9999))
    seen, valid = raster.glance_source(file, step)
    assert seen.shape == (-(-61 // step), -(-47 // step))
    assert valid.any()
    assert 10 <= seen[valid].min() <= seen[valid].max() <= 20
    if step == 2:
        with np.errstate(invalid="ignore"):
            blocks = np.where(values > 0, values, np.nan)[:60, :46].reshape(30, 2, 23, 2)
            expected = np.nansum(blocks, axis=(1, 3)) / np.isfinite(blocks).sum(axis=(1, 3))
        part, known = raster.glance_source(file, 2, Window(0, 0, 60, 46))
        assert np.array_equal(known, np.isfinite(expected))
        assert np.allclose(part[known], expected[known])


def test_a_glance_at_a_guide_lies_where_the_guide_does(tmp_path):
    row, col = np.mgrid[:400, :500]
    bands = np.stack([row, col, row + col]).astype("float32")
    guide = describe_guide(rasters.write(tmp_path / "g.tif", bands, rasters.grid(500000, 5000000, 1)))
    coarse = raster.GeoBox((40, 50), rasters.grid(500000, 5000000, 10), guide.geobox.crs)
    seen, valid = raster.glance_guide(guide, coarse)
    assert valid.all()
    middle = np.arange(40) * 10 + 4.5
    assert np.abs(seen[0] - middle[:, None]).max() < 1.5  # of ten guide pixels to one


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("x.tif", "-o", "x.tif"), 2, "a PNG is written; give a name that ends in .png"),
        (("x.tif", "-o", "there.png"), 2, "exists; use --overwrite"),
        (("x.tif", "-o", "y.png", "--size", "5"), 2, "size is 5; it must be from 16"),
        (("missing.tif", "-o", "y.png"), 3, "cannot be read"),
        (("many.tif", "-o", "y.png"), 3, "choose one with --band"),
        (("x.tif", "-o", "nowhere/y.png"), 6, "make the folder first"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_a_line(arguments, code, said, tmp_path):
    rasters.write(tmp_path / "x.tif", hills(20, 20))
    rasters.write(tmp_path / "many.tif", np.stack([hills(20, 20)] * 3))
    (tmp_path / "there.png").write_bytes(b"mine")
    before = pairs.contents(tmp_path)
    named = [tmp_path / a if "." in a else a for a in arguments]
    done = pairs.geosr("quicklook", *named)
    assert (done.code, said in done.err, done.err.count("\n") <= 2) == (code, True, True), done.err
    assert pairs.contents(tmp_path) == before


def test_a_picture_that_appears_meanwhile_is_left_alone(tmp_path, monkeypatch):
    rasters.write(tmp_path / "x.tif", hills(20, 20))

    def late(*picture):
        (tmp_path / "y.png").write_text("mine")
        return encode_picture(*picture)

    monkeypatch.setattr("geosr.quicklook.encode_picture", late)
    done = pairs.geosr("quicklook", tmp_path / "x.tif", "-o", tmp_path / "y.png")
    assert (done.code, "appeared while this run was at work" in done.err) == (6, True)
    assert (tmp_path / "y.png").read_text() == "mine"
    assert sorted(pairs.contents(tmp_path)) == ["x.tif", "y.png"]
    assert pairs.geosr("quicklook", tmp_path / "x.tif", "-o", tmp_path / "y.png", "--overwrite").code == 0
    assert look_at(tmp_path / "y.png").shape == (20, 20, 4)


@pytest.mark.parametrize("size", [100, 25])
def test_three_bands_of_8_bits_are_drawn_as_they_are(tmp_path, size):
    bands = np.random.default_rng(0).integers(1, 256, (3, 20, 25), "uint8").repeat(4, 1).repeat(4, 2)
    bands[:, :8, :12] = 0
    path = rasters.write(tmp_path / "photo.tif", bands, nodata=0)
    done = pairs.geosr("quicklook", path, "-o", tmp_path / "out.png", "--size", size)
    assert done.code == 0, done.err
    assert "picture by its three bands of uint8; colours from 0 to 255" in done.out
    drawn = np.round(look_at(tmp_path / "out.png") * 255)
    expected = np.moveaxis(bands, 0, -1)[:: 100 // size, :: 100 // size]
    valid = expected.any(axis=-1)
    np.testing.assert_array_equal(drawn[..., 3], 255 * valid)
    np.testing.assert_array_equal(drawn[valid][:, :3], expected[valid])
    one = pairs.geosr("quicklook", path, "--band", 2, "-o", tmp_path / "one.png", "--kind", "other")
    assert "other by what was asked for" in one.out


def test_three_bands_of_16_bits_share_a_stretch_and_keep_their_hues(tmp_path):
    bands = np.random.default_rng(0).integers(300, 2300, (4, 60, 70), "uint16")
    bands[1] //= 2
    bands[3] = 65535
    bands[3, :20] = 0
    bands[:3, :20] = 60000
    path = rasters.write(tmp_path / "photo.tif", bands, photometric="RGB", alpha="YES")
    done = pairs.geosr("quicklook", path, "-o", tmp_path / "out.png")
    assert done.code == 0, done.err
    low, high = np.percentile(bands[:3, 20:], (2, 98))
    said = f"picture by its three bands of uint16, which share one stretch; colours from {low:.6g} to {high:.6g}"
    assert said in done.out
    drawn = look_at(tmp_path / "out.png")
    assert not drawn[:20, :, 3].any()
    expected = np.clip((bands[:3, 20:] - low) / (high - low), 0, 1)
    np.testing.assert_allclose(np.moveaxis(drawn[20:, :, :3], -1, 0), expected, atol=0.51 / 255)


def test_a_palette_is_drawn_in_its_colours(tmp_path):
    classes = np.arange(4, dtype="uint8").reshape(2, 2).repeat(20, 0).repeat(20, 1)
    colours = {0: (200, 10, 20, 255), 1: (0, 90, 0, 255), 2: (1, 2, 240, 255), 3: (9, 9, 9, 255)}
    path = rasters.write(tmp_path / "classes.tif", classes, colormap=colours)
    done = pairs.geosr("quicklook", path, "-o", tmp_path / "out.png")
    assert done.code == 0, done.err
    assert "picture by its palette; colours from 0 to 255" in done.out
    drawn = np.round(255 * look_at(tmp_path / "out.png"))
    assert [tuple(drawn[row, col]) for row, col in ((0, 0), (0, 39), (39, 0), (39, 39))] == [*colours.values()]
    ramp = pairs.geosr("quicklook", path, "-o", tmp_path / "ramp.png", "--kind", "other")
    assert "other by what was asked for" in ramp.out


def test_real_rasters_are_drawn(tmp_path):
    data = rasters.shared_data()
    for number, (name, kind) in enumerate(
        [
            ("aurea_orchard/20180714_drone_dsm.tif", "elevation"),
            ("aurea_orchard/thermal.tif", "temperature"),
            ("foresttools_chm/CHM_latlon.tif", "elevation"),
            ("odd/n43.dt0", "elevation"),
            ("odd/rotated.tif", "other"),
            ("odd/RGB.byte.tif", "picture"),
            ("odd/image_colormap.tif", "picture"),
        ]
    ):
        done = pairs.geosr("quicklook", data / name, "-o", tmp_path / f"{number}.png", "--size", 200)
        assert done.code == 0, done.err
        assert f"; {kind} by " in done.out
        drawn = look_at(tmp_path / f"{number}.png")
        assert max(drawn.shape) <= 200
        assert drawn[..., :3][drawn[..., 3] > 0].std() > 0.02


def test_a_style_for_qgis_lies_beside_the_output(tmp_path):
    source, _ = pairs.make_pair(tmp_path)
    with rasterio.open(source, "r+") as dataset:
        dataset.units = ["m"]
    assert pairs.upscale(tmp_path, "--style").code == 0
    renderer = ElementTree.parse(tmp_path / "out.qml").getroot().find("pipe/rasterrenderer")
    assert renderer.get("type") == "singlebandpseudocolor"
    items = [(float(item.get("value")), item.get("color")) for item in renderer.iter("item")]
    assert tuple(colour for _, colour in items) == RAMPS["elevation"]
    made = rasters.plain_read(tmp_path / "out.tif")
    assert [value for value, _ in items] == pytest.approx(np.linspace(*np.percentile(made, (2, 98)), 6), rel=1e-6)
    again = pairs.upscale(tmp_path, "--style", output="OUT.tif")
    assert again.code == 0
    (tmp_path / "out.tif").unlink()
    refused = pairs.upscale(tmp_path, "--style")
    assert (refused.code, "out.qml exists; use --overwrite" in refused.err) == (2, True)
    assert not (tmp_path / "out.tif").exists()
    assert pairs.upscale(tmp_path, "--style", "--overwrite").code == 0


@pytest.mark.parametrize(("shape", "size"), [((256, 256), 100), ((257, 200), 64), ((3, 256), 17)])
def test_a_photo_is_drawn_to_its_last_row_and_column(tmp_path, shape, size):
    path = rasters.write(tmp_path / "photo.tif", np.full((3, *shape), 90, "uint8"))
    assert pairs.geosr("quicklook", path, "-o", tmp_path / "out.png", "--size", size).code == 0
    drawn = np.round(look_at(tmp_path / "out.png") * 255)
    assert max(drawn.shape[:2]) <= size
    assert (drawn == [90, 90, 90, 255]).all()
