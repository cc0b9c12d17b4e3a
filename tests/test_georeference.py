"""The output lies where the source lies, and the guide where its own file says: against plain pyproj and rasterio."""

from __future__ import annotations

import numpy as np
import pyproj
import pytest
import rasterio.windows
from affine import Affine
from outputs import SMALL_NETWORK, check_grid, check_means, opened, run
from rasters import grid, pixel_centres, shared_data, write

from geosr.errors import InputError
from geosr.options import Inputs
from geosr.scene import open_scene
from geosr.tiling import cut

SCALE = 4
UTM = (461_200.0, 5_211_400.0)
SHAPE = (22, 26)
GRIDS = {
    "north-up": ("EPSG:32633", grid(*UTM, 2)),
    "south-up": ("EPSG:32633", grid(*UTM, 2, south_up=True)),
    "mirrored": ("EPSG:32633", Affine(-2, 0, UTM[0], 0, -2, UTM[1])),
    "rotated": ("EPSG:32633", grid(*UTM, 2, rotation=30)),
    "sheared": ("EPSG:32633", grid(*UTM, 2, shear=20, rotation=-10)),
    "geographic": ("EPSG:4326", grid(14.4871, 47.0531, 2.6e-5, 1.8e-5)),
    "point": ("EPSG:32633", grid(*UTM, 2)),
    "non-square": ("EPSG:32633", grid(*UTM, 1.7, 2.9)),
}
# CRS, pixel in high pixels, rotation, offset of the origin in high pixels
GUIDES = {
    "finer": ("same", 0.37, 0, 0.3),
    "rotated": ("same", 0.52, 33, 0.7),
    "geographic": ("EPSG:4326", 0.45, 0, 0.2),
    "next zone": ("EPSG:32632", 0.81, 0, 0.6),
    "coarser": ("same", 1.6, 0, 0.45),
    "coarser, web mercator, rotated": ("EPSG:3857", 1.45, -20, 0.1),
}


class Waves:
    """A smooth function of positions in `crs`, with waves of some 15 to 30 high pixels."""

    def __init__(self, crs: str, affine: Affine) -> None:
        self.crs, self.inverse = crs, ~affine

    def __call__(self, x, y, crs):
        if crs != self.crs:
            x, y = pyproj.Transformer.from_crs(crs, self.crs, always_xy=True).transform(x, y)
        i, o = self.inverse, 2 * np.pi / SCALE
        col, row = (i.a * x + i.b * y + i.c) * SCALE, (i.d * x + i.e * y + i.f) * SCALE
        return sum(np.sin(o * (a * col + b * row) / SCALE + p) for a, b, p in
                   ((0.21, 0.06, 0.3), (-0.08, 0.19, 1.1), (0.15, -0.17, 2.0)))  # fmt: skip

    def means(self, affine, shape, crs, fine=6):
        """Means over the pixels of a grid, of fine x fine samples each."""
        x, y = pixel_centres(affine * Affine.scale(1 / fine), (shape[0] * fine, shape[1] * fine))
        values = self(x, y, crs)
        return values.reshape(shape[0], fine, shape[1], fine).mean(axis=(1, 3))


def shift_of(found, expected, valid):
    """(rows, columns) by which `found` lies beside `expected`, in pixels, by least squares on the gradient."""
    down, right = np.gradient(expected)
    inner = valid & np.pad(np.ones(np.array(valid.shape) - 16, bool), 8)
    design = np.column_stack([down[inner], right[inner], expected[inner], np.ones(inner.sum())])
    answer, *_ = np.linalg.lstsq(design, found[inner] - expected[inner], rcond=None)
    return -answer[:2]


def guide_grid(source_affine, source_crs, kind):
    """A guide that covers the source with room to spare."""
    crs, step, angle, offset = GUIDES[kind]
    crs = source_crs if crs == "same" else crs
    rows, cols = SHAPE
    corners = [source_affine * corner for corner in ((0, 0), (cols, 0), (0, rows), (cols, rows))]
    move = pyproj.Transformer.from_crs(source_crs, crs, always_xy=True)
    x, y = (np.array(c) for c in zip(*(move.transform(*c) for c in corners), strict=True))
    across = np.hypot(x[1] - x[0], y[1] - y[0]) / (cols * SCALE) * step
    down = np.hypot(x[2] - x[0], y[2] - y[0]) / (rows * SCALE) * step
    middle = Affine.translation(x.mean() + offset * across, y.mean() + offset * down)
    half = int(0.8 * np.hypot(rows, cols) * SCALE / step)
    affine = middle * Affine.rotation(angle) * Affine.scale(across, -down) * Affine.translation(-half, -half)
    return crs, affine, (2 * half, 2 * half)


def point_tag(name):
    return {"AREA_OR_POINT": "Point" if name == "point" else "Area"}


def make_source(path, name):
    crs, affine = GRIDS[name]
    waves = Waves(crs, affine)
    write(path, waves.means(affine, SHAPE, crs).astype("float32"), affine, crs, tags=point_tag(name), nodata=-9999)
    return waves, crs, affine


def make_guide(path, waves, crs, affine, kind, tags=None):
    guide_crs, guide_affine, shape = guide_grid(affine, crs, kind)
    values = waves.means(guide_affine, shape, guide_crs, fine=2).astype("float32")
    return write(path, np.stack([values, -values]), guide_affine, guide_crs, tags=tags)


@pytest.mark.parametrize("kind", GUIDES)
@pytest.mark.parametrize("name", GRIDS)
def test_guide_lies_right_to_a_hundredth_of_a_pixel(tmp_path, name, kind):
    waves, crs, affine = make_source(tmp_path / "source.tif", name)
    make_guide(tmp_path / "guide.tif", waves, crs, affine, kind, point_tag(name))
    scene = open_scene(Inputs(tmp_path / "source.tif", tmp_path / "guide.tif", SCALE))
    (tile,) = cut(SHAPE, SCALE, size=320, halo=0)
    pair = scene.read(tile)
    expected = waves.means(affine * Affine.scale(1 / SCALE), (SHAPE[0] * SCALE, SHAPE[1] * SCALE), crs)
    assert pair.guide_valid.all()
    assert np.abs(shift_of(pair.guide[0], expected, pair.guide_valid)).max() < 0.01
    assert np.abs(pair.guide[0] + pair.guide[1]).max() < 1e-5
    assert np.abs(pair.guide[0] - expected).max() < 0.12
    np.testing.assert_allclose(pair.source, waves.means(affine, SHAPE, crs), atol=1e-6)


@pytest.mark.parametrize("name", GRIDS)
def test_output_lies_where_the_source_lies(tmp_path, name):
    waves, crs, affine = make_source(tmp_path / "source.tif", name)
    make_guide(tmp_path / "guide.tif", waves, crs, affine, "next zone")
    run(tmp_path / "source.tif", tmp_path / "guide.tif", tmp_path / "out.tif", SCALE, tile=64)
    with rasterio.open(tmp_path / "out.tif") as made:
        found = made.read(1)
        assert made.tags()["AREA_OR_POINT"] == point_tag(name)["AREA_OR_POINT"]
        expected = waves.means(made.transform, made.shape, crs)
    check_grid(tmp_path / "source.tif", tmp_path / "out.tif", SCALE)
    assert np.abs(shift_of(found, expected, np.ones(found.shape, bool))).max() < 0.01


def pool_file(path, out, size, *, nodata=None, scale=1.0):
    """`path` averaged over size x size pixels, valid where all of them are, with plain numpy."""
    with opened(path) as given:
        values = given.read(1, masked=True).astype("float64")
        rows, cols = (n // size for n in given.shape)
        values = np.ma.filled(values, np.nan)[: rows * size, : cols * size]
        values[values == nodata] = np.nan
        means = values.reshape(rows, size, cols, size).mean(axis=(1, 3))
        write(out, np.where(np.isnan(means), -9999, means).astype("float32"), given.transform * Affine.scale(size),
              given.crs, nodata=-9999)  # fmt: skip
    return out


# source, pooled by, guide, scale
PAIRS = {
    "neon": ("neon_bart/NEON_D01_BART_DP3_320000_4881000_CHM_crop.tif", 1,
             "neon_bart/2019_BART_5_320000_4881000_image_crop.tif", 4),
    "orchard heights": ("aurea_orchard/20180714_drone_dsm.tif", 8, "aurea_orchard/20180714_drone_ms4c_p.tif", 4),
    "orchard thermal": ("aurea_orchard/thermal.tif", 1, "aurea_orchard/20180714_drone_dsm.tif", 3),
    "forest": ("kootenay/kootenayCHM.tif", 4, "kootenay/kootenayOrtho_from_rda.tif", 4),
    "vineyard": ("pytseb_vineyard/ExampleImage_Trad_am.tif", 4, "pytseb_vineyard/ExampleImage_Fc.tif", 4),
    "landsat": ("landsat8_mendoza/LC82320832016040LGN00_band10.tif", 3,
                "landsat8_mendoza/LC82320832016040LGN00_band4.tif", 3),
}  # fmt: skip


@pytest.mark.usefixtures("guided_bicubic")
@pytest.mark.parametrize("name", PAIRS)
def test_real_pairs(tmp_path, name):
    source, pooled, guide, scale = PAIRS[name]
    source, guide = shared_data() / source, shared_data() / guide
    nodata = 0 if name == "vineyard" else None
    if pooled > 1:
        source = pool_file(source, tmp_path / "source.tif", pooled, nodata=nodata)
    report = run(source, guide, tmp_path / "out.tif", scale)
    check_grid(source, tmp_path / "out.tif", scale)
    check_means(source, tmp_path / "out.tif", scale)
    assert report.guided > 0.8


def test_a_part_of_a_real_pair_with_the_guided_method(tmp_path):
    source, _, guide, scale = PAIRS["neon"]
    source, guide = shared_data() / source, shared_data() / guide
    with opened(source) as given:
        window = rasterio.windows.Window(30, 40, 30, 26)
        bounds = rasterio.windows.bounds(window, given.transform)
    run(source, guide, tmp_path / "out.tif", scale, bounds=bounds, **SMALL_NETWORK)
    check_grid(source, tmp_path / "out.tif", scale, window)
    check_means(source, tmp_path / "out.tif", scale, window)


def test_a_guide_no_finer_than_the_source_is_refused(tmp_path):
    folder = shared_data() / "landsat8_mendoza"
    with pytest.raises(InputError, match="no finer"):
        run(folder / "LC82320832016040LGN00_band10.tif", folder / "LC82320832016040LGN00_band4.tif",
            tmp_path / "out.tif", 2)  # fmt: skip
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(("driver", "ending"), [("PNG", "png"), ("JPEG", "jpg")])
def test_a_picture_with_a_world_file_is_taken_to_be_in_the_sources_crs(tmp_path, driver, ending):
    """It cannot name one; a GeoTIFF can."""
    source, (rows, cols) = tmp_path / "source.tif", SHAPE
    _, crs, coarse = make_source(source, "north-up")
    affine = coarse * Affine.scale(0.25)
    image = np.random.default_rng(0).integers(0, 255, (3, 4 * rows, 4 * cols), "uint8")
    picture = write(tmp_path / f"photo.{ending}", image, affine, None, driver=driver, WORLDFILE="YES")
    picture.with_name(picture.name + ".aux.xml").unlink(missing_ok=True)
    with rasterio.open(picture) as dataset:
        assert dataset.crs is None
        seen, seen_at = dataset.read(), dataset.transform
    scene = open_scene(Inputs(source, picture))
    (note,) = [note for note in scene.notes if "names no CRS" in note]
    assert note.startswith(f"photo.{ending} names no CRS, as a picture cannot: taken to be in EPSG:")
    named = open_scene(Inputs(source, write(tmp_path / "named.tif", seen, seen_at, crs)))
    (tile,) = cut(scene.grids.low.shape, 4, size=4 * max(rows, cols), halo=0)
    np.testing.assert_array_equal(scene.read(tile).guide, named.read(tile).guide)
    with pytest.raises(InputError, match="the guide has no CRS"):
        open_scene(Inputs(source, write(tmp_path / "unnamed.tif", seen, seen_at, None)))
    for file in picture.parent.glob("photo.*"):
        if file != picture:
            file.unlink()
    with pytest.raises(InputError, match="the guide has no CRS"):
        open_scene(Inputs(source, picture))


@pytest.mark.parametrize("affine", [grid(0, 0, 4), grid(7, 9, 4, south_up=True)], ids=str)
def test_pairs_without_crs_keep_their_grid(tmp_path, affine):
    """Also where the output's pixels are those of a file without any position."""
    values = np.random.default_rng(1).normal(9, 1, (20, 20)).astype("float32")
    write(tmp_path / "source.tif", values, affine, None)
    write(tmp_path / "guide.tif", np.kron(values, np.ones((4, 4))), affine * Affine.scale(0.25), None)
    run(tmp_path / "source.tif", tmp_path / "guide.tif", tmp_path / "out.tif", 4)
    check_grid(tmp_path / "source.tif", tmp_path / "out.tif", 4)
    check_means(tmp_path / "source.tif", tmp_path / "out.tif", 4)


# what the file does not say, and its nodata value
ODD_SOURCES = {
    "rotated.tif": ({}, None),
    "2d_test.tif": ({}, None),
    "geomatrix.tif": ({}, None),
    "byte_point.tif": ({}, None),
    "n43.dt0": ({}, -32767),
    "small_dem_3m_merged.tif": ({}, 0),
    "cog_int16.tif": ({}, -32768),
    "image_missing_nodata.tif": ({"source_nodata": -9999}, -9999),
    "cog_nodata_nan.tif": ({}, 0),
    "float_nan.tif": ({}, None),
    "float_raster_with_nodata.tif": ({}, -3.4e38),
    "cog_scale.tif": ({"band": 1}, 0),
    "image_with_offsets.tif": ({}, -1000),
    "tmmx_20190121.nc": ({}, 32767),
    "cog_dateline.tif": ({}, None),
    "nodata_float.asc": ({}, -99999),
}


def middle(given, size=60):
    """Bounds of some pixels about the middle of a raster that is too large for a test, and their window."""
    rows, cols = given.shape
    if rows * cols < 200_000:
        return None, None
    window = rasterio.windows.Window(cols // 2 - size // 2, rows // 2 - size // 2, size, size)
    return rasterio.windows.bounds(window, given.transform), window


@pytest.mark.parametrize("name", ODD_SOURCES)
def test_odd_sources(tmp_path, name):
    source = shared_data() / "odd" / name
    options, nodata = ODD_SOURCES[name]
    with opened(source) as given:
        bounds, window = middle(given)
        rows, cols = given.shape if window is None else (window.height, window.width)
        affine = given.transform if window is None else rasterio.windows.transform(window, given.transform)
        rng = np.random.default_rng(1)
        guide = rng.integers(0, 255, (2, rows * 3 + 9, cols * 3 + 9), np.uint8)
        write(tmp_path / "guide.tif", guide, affine * Affine.scale(1 / 3) * Affine.translation(-4.3, -3.6),
              given.crs)  # fmt: skip
    run(source, tmp_path / "guide.tif", tmp_path / "out.tif", 2, bounds=bounds, **options)
    check_grid(source, tmp_path / "out.tif", 2, window)
    check_means(source, tmp_path / "out.tif", 2, window, nodata)


def plain_guide(name, given):
    """Bands and validity as the file means them, by its own words."""
    stored = given.read()
    if name in ("RGBA.byte.tif", "pix4d_alpha_nodata.tif", "RGBA.uint16.tif"):
        return stored[:3], stored[3] > 127
    if name == "image_rgba_nodata.tif":
        return stored[:3], (stored[3] > 127) & (stored[:3] != 0).any(axis=0)
    if name == "RGB.byte.tif":
        return stored, (stored != 0).any(axis=0)
    table = np.array([given.colormap(1)[i] for i in range(max(given.colormap(1)) + 1)])
    colours = np.moveaxis(table[stored[0]], -1, 0)
    return colours[:3], colours[3] > 127


@pytest.mark.parametrize("name", ["RGBA.byte.tif", "RGBA.uint16.tif", "pix4d_alpha_nodata.tif", "RGB.byte.tif",
                                  "image_rgba_nodata.tif", "image_colormap.tif", "slim_g4.tif"])  # fmt: skip
@pytest.mark.usefixtures("guided_bicubic")
def test_odd_guides(tmp_path, name):
    """A source whose pixels are 4 x 4 of the guide's: the aligned guide is the file itself, gaps included."""
    with opened(shared_data() / "odd" / name) as given:
        scale = 4 if given.crs else 20
        rows, cols = (60, 70) if given.crs else (n // scale for n in given.shape)
        bands, valid = (part[..., : rows * scale, : cols * scale] for part in plain_guide(name, given))
        heights = np.random.default_rng(2).normal(100, 5, (rows, cols)).astype("float32")
        affine = given.transform * Affine.scale(scale) if given.crs else Affine.identity()
        write(tmp_path / "source.tif", heights, affine, given.crs)
    guide = shared_data() / "odd" / name
    scene = open_scene(Inputs(tmp_path / "source.tif", guide, scale))
    pair = scene.read(cut((rows, cols), scale, size=320, halo=0)[0])
    bands, valid = bands[:, :320, :320], valid[:320, :320]
    assert np.mean(pair.guide_valid != valid) < 1e-9
    np.testing.assert_allclose(pair.guide[:, valid], bands[:, valid], atol=1e-3 * max(1, bands.max() / 255))
    if given.crs:
        report = run(tmp_path / "source.tif", guide, tmp_path / "out.tif", scale, tile=160)
        assert report.tiles > 1
        assert report.guided == pytest.approx(valid.mean(), abs=1e-9)
