"""Each file of the collection that breaks tools, one by one: refused with a reason, or read right."""

from __future__ import annotations

import math

import numpy as np
import pytest
from rasters import plain_read, shared_data, tiff_tag, world

from geosr.describe import describe_guide, describe_source
from geosr.errors import GeosrError, InputError
from geosr.grid import Window, crop
from geosr.preflight import suspicious_constant
from geosr.raster import read_guide, read_source

REFUSED = [
    ("lfs_pointer.tif", {}, "Git LFS pointer"),
    ("dos_strip_chop.tif", {}, "claims 2048 x 1073741824 pixels"),
    ("corrupt.tif", {"band": 1}, "truncated: the block at row 512, column 512"),
    ("corrupted_gtiff_tags.tif", {}, "1 x 1 pixels"),
    ("nontiff.jpg", {"band": 1}, "its content is PNG"),
    ("no_band.h5", {}, "holds several layers"),
    ("all-nodata.tif", {"band": 1}, "no pixel is valid"),
    ("all-nodata.tif", {}, "1 blue, 2 green, 3 red, 4 nir); choose one with --band"),
    ("inverted_lat.tif", {}, "no pixel is valid"),
    ("cfloat32.tif", {}, "complex"),
    ("RGB.byte.gcp.vrt", {"band": 1}, "VRT"),
    ("minfloat.tif", {}, "4 x 1 pixels"),
    ("cog_scale.tif", {}, "has 2 bands"),
    ("RGB.byte.tif", {}, "has 3 bands (1 red, 2 green, 3 blue)"),
]


@pytest.mark.parametrize(("name", "options", "phrase"), REFUSED)
def test_refused_as_source(name, options, phrase):
    path = shared_data() / "odd" / name
    with pytest.raises(InputError) as caught:
        describe_source(path, **options)
    text = str(caught.value)
    assert phrase in text
    assert name in text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize(
    "name",
    sorted({row[0] for row in REFUSED} - {"RGB.byte.tif", "cog_scale.tif", "all-nodata.tif", "inverted_lat.tif"}),
)
def test_refused_as_guide(name):
    with pytest.raises(InputError, match=name):
        describe_guide(shared_data() / "odd" / name)


# name, options, nodata in stored units, scale, offset, EPSG code or None, first corner, area or point
READ = [
    ("rotated.tif", {}, None, 1, 0, None, (100, 200), "Area"),
    ("2d_test.tif", {}, None, 1, 0, 32611, (305827.93, 5223236.6), "Area"),
    ("geomatrix.tif", {}, None, 1, 0, 32611, (1841001.75, 1144003.25), "Point"),
    ("byte_point.tif", {}, None, 1, 0, 32611, (440690, 3751350), "Point"),
    ("n43.dt0", {}, -32767, 1, 0, 4326, (-80 - 0.5 / 120, 44 + 0.5 / 120), "Point"),
    ("small_dem_3m_merged.tif", {}, 0, 1, 0, 26915, (425047.683814, 4615780.040546), "Area"),
    ("cog_int16.tif", {}, -32768, 1, 0, 32621, (373185, 8286015), "Point"),
    ("image_missing_nodata.tif", {"nodata": -9999}, -9999, 1, 0, None, (1634415, 2714805), "Area"),
    ("cog_nodata_nan.tif", {}, 0, 1, 0, 32610, (499980, 5300040), "Area"),
    ("float_nan.tif", {}, math.nan, 1, 0, None, (0, 0), "Area"),
    ("float_raster_with_nodata.tif", {}, np.float32(-3.4e38), 1, 0, 3035, (6301612.204094, 3314112.230618), "Area"),
    ("cog_scale.tif", {"band": 2}, 0, 0.001, 2000, None, (300000, 4200000), "Area"),
    ("image_with_offsets.tif", {}, -1000, 0.0001, 1000, None, (300000, 4200000), "Area"),
    ("tmmx_20190121.nc", {}, 32767, 0.1, 220, 4326, (-124.7875, 49.420833), "Area"),
    ("cog_dateline.tif", {}, None, 1, 0, 32660, (570585, 5847615), "Point"),
    ("nodata_float.asc", {}, -99999, 1, 0, None, (440720, 3750420), "Area"),
]


@pytest.mark.parametrize(("name", "options", "nodata", "scale", "offset", "epsg", "corner", "meaning"), READ)
def test_read_right(name, options, nodata, scale, offset, epsg, corner, meaning):
    path = shared_data() / "odd" / name
    raster = describe_source(path, **options)
    values, valid = read_source(raster)
    stored = plain_read(path, options.get("band", 1)).astype(float)
    expected = np.isfinite(stored) & (True if nodata is None or math.isnan(nodata) else stored != nodata)
    np.testing.assert_array_equal(valid, expected)
    np.testing.assert_allclose(values[valid], stored[expected] * scale + offset, rtol=1e-12)
    assert (values[~valid] == 0).all()
    assert raster.area_or_point == meaning
    assert world(raster.geobox.affine, 0, 0) == pytest.approx(corner, abs=1e-6)
    if epsg is None:
        assert raster.geobox.crs is None or raster.geobox.crs.epsg is None
    elif name != "float_raster_with_nodata.tif":  # an IGNF code for the same projection
        assert raster.geobox.crs.epsg == epsg


@pytest.mark.parametrize("name", ["byte_point.tif", "geomatrix.tif", "cog_int16.tif", "cog_dateline.tif"])
def test_point_rasters_are_shifted_by_half_a_pixel_once(name):
    path = shared_data() / "odd" / name
    keys = np.array(tiff_tag(path, 34735)).reshape(-1, 4)
    assert keys[keys[:, 0] == 1025, 3] == 2, "GTRasterTypeGeoKey: RasterPixelIsPoint"
    affine = describe_source(path).geobox.affine
    matrix = tiff_tag(path, 34264)
    if matrix:
        point = matrix[3], matrix[7]
        assert (affine.a, affine.b, affine.d, affine.e) == pytest.approx((matrix[0], matrix[1], matrix[4], matrix[5]))
    else:
        col, row, _, x, y, _ = tiff_tag(path, 33922)[:6]
        step_x, step_y, _ = tiff_tag(path, 33550)
        point = x - col * step_x, y + row * step_y
    assert world(affine, 0.5, 0.5) == pytest.approx(point, abs=1e-6), "the tag gives the first pixel's centre"


# name, expected channels, validity by plain numpy from all bands
GUIDES = [
    ("RGBA.byte.tif", 3, lambda b: b[3] >= 128),
    ("RGBA.uint16.tif", 3, lambda b: b[3] >= 128),
    ("pix4d_alpha_nodata.tif", 3, lambda b: b[3] >= 128),
    ("image_rgba_nodata.tif", 3, lambda b: (b[3] >= 128) & (b[:3] != 0).any(axis=0)),
    ("RGB.byte.tif", 3, lambda b: (b != 0).any(axis=0)),
    ("slim_g4.tif", 3, lambda b: np.ones(b[0].shape, bool)),
    ("all-nodata.tif", 4, lambda b: np.zeros(b[0].shape, bool)),
]


@pytest.mark.parametrize(("name", "channels", "validity"), GUIDES)
def test_guides(name, channels, validity):
    path = shared_data() / "odd" / name
    guide = describe_guide(path)
    part = crop(guide.geobox, Window(0, 0, min(guide.shape[0], 600), min(guide.shape[1], 600)))
    values, valid = read_guide(guide, part)  # onto its own grid: nothing may change
    assert guide.channels == channels == len(values)
    stored = np.stack([plain_read(path, b)[:600, :600] for b in range(1, len(guide.colorinterp) + 1)])
    np.testing.assert_array_equal(valid, validity(stored))
    if guide.palette is None:
        np.testing.assert_allclose(values[:, valid], stored[:channels][:, valid], atol=1e-2)
    assert (values[:, ~valid] == 0).all()


def test_palette_becomes_colours():
    path = shared_data() / "odd" / "image_colormap.tif"
    guide = describe_guide(path)
    values, valid = read_guide(guide, guide.geobox)
    index = plain_read(path)
    assert valid.all()
    for entry in np.unique(index):
        colour = np.array(guide.palette[entry][:3])
        assert np.abs(values[:, index == entry] - colour[:, None]).max() < 1e-3


def test_every_file_is_described_or_refused():
    for path in sorted((shared_data() / "odd").iterdir()):
        for describe in (describe_source, describe_guide):
            try:
                describe(path)
            except GeosrError as error:
                text = str(error)
            else:
                text = path.name
            assert path.name in text
            assert len(text.splitlines()) <= 3


SUSPECTS = {
    "kootenay/kootenayOrtho_from_rda.tif": 0,
    "odd/image_missing_nodata.tif": -9999,
    "odd/cog_dateline.tif": 1,
}
BLAMELESS = [
    "neon_bart/NEON_D01_BART_DP3_320000_4881000_CHM_crop.tif",
    "neon_bart/2019_BART_5_320000_4881000_image_crop.tif",
    "kootenay/kootenayCHM.tif",
    "foresttools_chm/CHM_test.tif",
    "fieldimager/3_70_dsm.tif",
    "columbus_nocrs/dsm.tif",
    "aurea_orchard/thermal.tif",
    "landsat8_mendoza/LC82320832016040LGN00_band10.tif",
    "nodeodm_brighton/odm_orthophoto.tif",
    "pytseb_vineyard/ExampleImage_Trad_am.tif",
    "odd/small_dem_3m_merged.tif",
    "odd/n43.dt0",
]


@pytest.mark.parametrize("name", SUSPECTS)
def test_undeclared_nodata_is_pointed_out(name):
    assert suspicious_constant(describe_guide(shared_data() / name)) == SUSPECTS[name]


@pytest.mark.parametrize("name", BLAMELESS)
def test_ordinary_values_are_not_suspected(name):
    assert suspicious_constant(describe_guide(shared_data() / name)) is None


def test_a_black_collar_is_pointed_out_where_nodata_is_not_declared(tmp_path):
    import rasterio

    path = tmp_path / "collar.tif"
    with rasterio.open(shared_data() / "odd" / "RGB.byte.tif") as dataset:
        profile, values = dataset.profile, dataset.read()
    with rasterio.open(path, "w", **(profile | {"nodata": None})) as dataset:
        dataset.write(values)
    assert suspicious_constant(describe_guide(path)) == 0
    assert suspicious_constant(describe_guide(path, nodata=0)) is None


def test_statistics_beside_the_neon_heights_change_nothing():
    folder = shared_data() / "neon_bart"
    name = "NEON_D01_BART_DP3_320000_4881000_CHM_crop.tif"
    raster = describe_source(folder / name)
    values, valid = read_source(raster)
    np.testing.assert_array_equal(values, plain_read(folder / name))
    assert valid.all()
    assert not raster.warnings
