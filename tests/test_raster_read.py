"""What may be opened, and what is read from it: paths, hostile headers, masks, scale, metadata."""

from __future__ import annotations

import gzip
import html
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pyproj
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pairs import geosr
from rasters import grid, plain_read, shared_data, tiff_tag, write

from geosr.coordinates import check_transform
from geosr.describe import describe_guide, describe_source
from geosr.errors import GeosrError, InputError, UsageError
from geosr.grid import Window
from geosr.raster import read_guide, read_source


@pytest.fixture
def plain(tmp_path):
    """An honest little raster."""
    values = np.random.default_rng(0).normal(100, 10, (40, 50)).astype(np.float32)
    return write(tmp_path / "plain.tif", values, tiled=True, blockxsize=16, blockysize=16)


# --- the path itself -----------------------------------------------------------------------------------------

RAW_VRT = """<VRTDataset rasterXSize="4" rasterYSize="4"><VRTRasterBand dataType="Byte" band="1"
 subClass="VRTRawRasterBand"><SourceFilename relativetoVRT="0">{target}</SourceFilename></VRTRasterBand></VRTDataset>"""


@pytest.mark.parametrize(
    ("path", "phrase"),
    [
        ("", "local file"),
        ("nowhere.tif", "No such file"),
        ("https://example.org/a.tif", r"^https://example\.org/a\.tif: .* no URLs"),
        (Path("https://example.org/a.tif"), r"^https://example\.org/a\.tif: .* no URLs"),
        (Path("NETCDF:/a.nc:t"), r"^NETCDF:/a\.nc:t: .*no subdataset"),
        ("s3://bucket/a.tif", "no URLs"),
        ("GTIFF_DIR:1:a.tif", "subdataset"),
        ("NETCDF:a.nc:t", "subdataset"),
        ("/vsicurl/http://127.0.0.1/a.tif", "/vsi"),
        ("/vsimem/a.tif", "/vsi"),
        ("\\vsizip\\a.zip", "No such file"),
        ("<VRTDataset/>", "XML"),
        ("a\0b.tif", "local file"),
        ("/dev/zero", "not a regular file"),
        (".", "folder"),
    ],
)
def test_only_plain_local_files_are_opened(path, phrase):
    with pytest.raises(InputError, match=phrase):
        describe_source(path)


@pytest.mark.parametrize(
    ("content", "phrase"),
    [
        (b"", "empty"),
        (b"hello, I am text", "supported are GeoTIFF, PNG"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\x89PNG\r\n\x1a\n" + bytes(64), "its content is PNG"),
        (b"II*\0" + bytes(60), "may be damaged"),
        (RAW_VRT.format(target="/etc/hostname").encode(), "XML"),
        (b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "b">]><VRTDataset/>', "XML"),
    ],
)
def test_content_decides(tmp_path, content, phrase):
    path = tmp_path / "named.tif"
    path.write_bytes(content)
    with pytest.raises(InputError, match=phrase) as caught:
        describe_guide(path)
    assert "named.tif" in str(caught.value)


def test_a_vrt_never_reads_the_file_it_names(tmp_path):
    fifo = tmp_path / "secret"
    os.mkfifo(fifo)  # opening it would block until the test's time is over
    path = tmp_path / "evil.tif"
    path.write_text(RAW_VRT.format(target=fifo))
    with pytest.raises(InputError, match="XML"):
        describe_source(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GDAL_VRT_ENABLE_PYTHON", "YES"),
        ("GDAL_VRT_ENABLE_PYTHON", "TRUSTED_MODULES"),
        ("GDAL_DRIVER_PATH", "/tmp"),
        ("GTIFF_POINT_GEO_IGNORE", "YES"),
    ],
)
def test_settings_that_run_code_or_misplace_are_refused(plain, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=name):
        describe_source(plain)


def test_awkward_names(tmp_path, plain):
    for name in ("with space.tif", "ünïcode 木.tif", "-dash.tif", "new\nline.tif", "a:b.tif", "%s{0}.tif"):
        path = shutil.copy(plain, tmp_path / name)
        values, _ = read_source(describe_source(path))
        np.testing.assert_array_equal(values, plain_read(plain))
    broken = tmp_path / "esc\x1b[31m.tif"
    broken.write_bytes(b"no")
    with pytest.raises(InputError) as caught:
        describe_source(broken)
    assert "\x1b" not in str(caught.value)


# --- headers and damage --------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.001, 0.1, 0.3, 0.9])
def test_truncated_files_are_refused_before_work(plain, share):
    data = plain.read_bytes()
    plain.write_bytes(data[: max(1, int(len(data) * share))])
    with pytest.raises(InputError, match=r"plain\.tif"):
        describe_source(plain)


def test_truncation_is_found_without_reading_pixels(tmp_path):
    path = write(tmp_path / "big.tif", np.ones((3000, 6000), np.float32), tiled=True, blockxsize=256, blockysize=256)
    with path.open("r+b") as file:
        file.truncate(int(path.stat().st_size * 0.6))
    with pytest.raises(InputError, match=r"truncated: the block at row \d+, column \d+ should end at byte"):
        describe_guide(path)


def test_a_damaged_block_is_named(tmp_path):
    values = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    layout = {"tiled": True, "blockxsize": 32, "blockysize": 32, "compress": "deflate"}
    path = write(tmp_path / "bad.tif", values, **layout)
    with rasterio.open(path) as dataset:
        at = int(dataset.get_tag_item("BLOCK_OFFSET_1_1", "TIFF", bidx=1))
    with path.open("r+b") as file:
        file.seek(at)
        file.write(bytes(16))
    with pytest.raises(InputError, match=r"bad\.tif: cannot be read at row"):
        describe_source(path)


def test_absurd_headers_are_refused(tmp_path):
    huge = tmp_path / "huge.tif"
    layout = {"driver": "GTiff", "dtype": "float32", "count": 1, "transform": grid(0, 0, 2), "crs": "EPSG:32632"}
    tiled = {"tiled": True, "blockxsize": 16384, "blockysize": 16384, "SPARSE_OK": True}
    with rasterio.open(huge, "w", width=10**6, height=10**6, **layout, **tiled):
        pass
    with pytest.raises(InputError, match="header claims 1000000 x 1000000"):
        describe_source(huge)
    blocks = tmp_path / "blocks.tif"
    with rasterio.open(blocks, "w", width=16000, height=16000, **layout, **tiled):
        pass
    with pytest.raises(InputError, match="blocks of 16384 x 16384 pixels"):
        describe_source(blocks)
    bands = tmp_path / "bands.tif"
    with rasterio.open(bands, "w", width=4, height=4, **(layout | {"count": 2000})):
        pass
    with pytest.raises(InputError, match="2000 bands"):
        describe_guide(bands)


@pytest.mark.parametrize("affine", [(1, 0, 0, 0, 0, 0), (1, 2, 0, 2, 4, 0), (1e-300, 0, 5, 0, -1e-300, 5)])
def test_grids_without_area_are_refused(tmp_path, affine):
    path = write(tmp_path / "flat.tif", np.ones((4, 4), np.float32), rasterio.Affine(*affine))
    with pytest.raises(InputError, match=r"flat\.tif"):
        describe_source(path)


def test_control_points_alone_are_refused(tmp_path):
    points = [rasterio.control.GroundControlPoint(r, c, 500000 + c, 5000000 - r) for r, c in ((0, 0), (0, 9), (9, 9))]
    path = tmp_path / "gcp.tif"
    layout = {"driver": "GTiff", "dtype": "uint8", "count": 1, "width": 10, "height": 10}
    with rasterio.open(path, "w", gcps=points, crs="EPSG:32632", **layout) as dataset:
        dataset.write(np.ones((1, 10, 10), np.uint8))
    with pytest.raises(InputError, match="ground control points only; orthorectify"):
        describe_source(path)


def test_big_tags_are_left_out_with_a_warning(tmp_path):
    path = write(tmp_path / "tags.tif", np.ones((4, 4), np.float32), tags={"NOTE": "x" * (3 << 20)})
    raster = describe_source(path)
    assert raster.tags == {}
    assert any("metadata" in text for text in raster.warnings)


def test_a_file_that_changes_during_the_run_is_refused(plain):
    raster = describe_source(plain)
    write(plain, np.zeros((40, 50), np.float32))
    with pytest.raises(InputError, match="has changed"):
        read_source(raster)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 420), st.integers(0, 255)), min_size=1, max_size=6))
def test_flipped_header_bytes_are_read_or_refused(tmp_path, flips):
    path = tmp_path / "fuzz.tif"
    values = np.arange(64, dtype=np.float32).reshape(8, 8)
    if not path.with_suffix(".good").exists():
        write(path.with_suffix(".good"), values)
    data = bytearray(path.with_suffix(".good").read_bytes())
    for at, byte in flips:
        data[at % len(data)] = byte
    path.write_bytes(data)
    for describe in (describe_source, describe_guide):
        try:
            describe(path)
        except GeosrError as error:
            text = str(error)
        else:
            text = ""
        assert len(text.splitlines()) <= 3


# --- ENVI: data that only a file beside them describes -------------------------------------------------------


@pytest.fixture
def envi(tmp_path):
    """A little ENVI image, its header and its values."""
    values = np.random.default_rng(0).normal(100, 10, (40, 50)).astype(np.float32)
    return write(tmp_path / "src.img", values, driver="ENVI"), tmp_path / "src.hdr", values


@pytest.mark.parametrize(
    "name", ["src", "src.IMG", "src.dat", "src.bin", "src.rdn", "src.bsq", "src.bil", "src.bip", "src.raw", "src.envi"]
)
def test_envi_data_by_their_usual_names(name, envi):
    path = envi[0].rename(envi[0].with_name(name))
    np.testing.assert_array_equal(read_source(describe_source(path))[0], envi[2])


def test_envi_data_of_any_name_with_a_header_of_the_whole_name(envi):
    path = envi[0].rename(envi[0].with_name("src.cube"))
    envi[1].rename(envi[1].with_name("src.cube.hdr"))
    np.testing.assert_array_equal(read_source(describe_source(path))[0], envi[2])


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("src.gpkg", r", but GeoPackage by its name; .*; convert it: rio convert in\.gpkg out\.tif$"),
        ("src.SDAT", r", but a SAGA grid by its name; .*; convert it: rio convert in\.sdat out\.tif$"),
        ("src.ovr", r"; .*; if it is ENVI data, call its header src\.ovr\.hdr$"),
    ],
)
def test_a_file_beside_another_ones_header_is_not_read_as_its_data(name, remedy, envi):
    """Not even where it is as long as they are."""
    path = shutil.copy(envi[0], envi[0].with_name(name))
    for describe in (describe_source, describe_guide):
        with pytest.raises(InputError, match=f"not a supported raster{remedy}"):
            describe(path)


@pytest.mark.parametrize("change", [-1, -4000, 1, 4000])
def test_envi_data_that_are_not_as_long_as_their_header_says_are_refused(change, envi):
    """GDAL reads zeros for what is missing."""
    data = envi[0].read_bytes()
    envi[0].write_bytes(data[:change] if change < 0 else data + bytes(change))
    with pytest.raises(InputError, match=rf"describes 8000 bytes, the file has {8000 + change}; it is incomplete"):
        describe_source(envi[0])


def test_envi_data_behind_an_offset_or_compressed(envi):
    path, header, values = envi
    data, text = path.read_bytes(), header.read_text()
    path.write_bytes(b"#" * 99 + data)
    header.write_text(text.replace("header offset = 0", "Header Offset = 99"))
    np.testing.assert_array_equal(read_source(describe_source(path))[0], values)
    path.write_bytes(gzip.compress(data))
    header.write_text(f"{text}file compression = 1\n")
    np.testing.assert_array_equal(read_source(describe_source(path))[0], values)


# --- sidecars ------------------------------------------------------------------------------------------------


PAM = """<PAMDataset><SRS>{crs}</SRS><GeoTransform> 5.0e+1, 2,0, 1e2,0,-2</GeoTransform>
<PAMRasterBand band="1"><NoDataValue>{nodata}</NoDataValue></PAMRasterBand></PAMDataset>"""


def test_a_contradicting_sidecar_is_not_read(plain):
    with rasterio.open(plain, "r+") as dataset:
        dataset.nodata = -9999
    before = describe_source(plain)
    plain.with_name("plain.tif.aux.xml").write_text(
        "<PAMDataset><SRS>EPSG:4326</SRS><GeoTransform>0,1,0,0,0,-1</GeoTransform>"
        '<PAMRasterBand band="1"><NoDataValue>100</NoDataValue></PAMRasterBand></PAMDataset>'
    )
    plain.with_suffix(".tfw").write_text("2\n0\n0\n-2\n7\n7\n")
    after = describe_source(plain)
    assert (after.geobox, after.nodata) == (before.geobox, before.nodata)
    said = "nodata value, position, CRS in plain.tif.aux.xml are ignored: plain.tif itself takes precedence"
    assert said in after.warnings
    assert any(".tfw is not read" in text for text in after.warnings)


@pytest.mark.parametrize(("name", "driver"), [("a.tif", "GTiff"), ("a.png", "PNG")])
@pytest.mark.parametrize("as_wkt", [False, True])
def test_what_a_file_leaves_open_is_taken_from_its_sidecar_as_gdal_does(name, driver, as_wkt, tmp_path):
    values = np.arange(1, 31, dtype=np.uint8).reshape(5, 6)
    path = write(tmp_path / name, values, rasterio.Affine.identity(), crs=None, driver=driver)
    crs = pyproj.CRS("EPSG:32632").to_wkt("WKT1_ESRI") if as_wkt else "EPSG:32632"
    path.with_name(name + ".aux.xml").write_text(PAM.format(crs=html.escape(crs), nodata="7.0"))
    raster = describe_source(path, assume_crs="EPSG:32633")  # it names one
    with rasterio.open(path) as dataset:
        assert raster.geobox.affine == dataset.transform == rasterio.Affine(2, 0, 50, 0, -2, 100)
        assert dataset.nodata == 7
    assert pyproj.CRS.from_wkt(raster.geobox.crs.to_wkt()).equals("EPSG:32632", ignore_axis_order=True)
    assert raster.georeferenced
    np.testing.assert_array_equal(read_source(raster)[1], values != 7)
    np.testing.assert_array_equal(read_guide(describe_guide(path), raster.geobox)[1], values != 7)
    for what in ("nodata value of its own: 7 is", "position of its own: it is", "CRS of its own: it is"):
        assert f"{name} has no {what} taken from {name}.aux.xml" in raster.warnings


def test_a_sidecar_that_agrees_is_not_worth_a_word(plain):
    with rasterio.open(plain, "r+") as dataset:
        dataset.nodata = -9999
        crs, affine = dataset.crs.to_wkt(), dataset.transform.to_gdal()
    text = f"<PAMDataset><SRS>{html.escape(crs)}</SRS><GeoTransform>{','.join(map(repr, affine))}</GeoTransform>"
    band = '<PAMRasterBand band="1"><NoDataValue>-9999</NoDataValue></PAMRasterBand></PAMDataset>'
    plain.with_name("plain.tif.aux.xml").write_text(text + band)
    assert describe_source(plain).warnings == ()


@pytest.mark.parametrize(
    "text",
    [
        "<PAMDataset><SRS>EPSG",
        "<PAMDataset><GeoTransform>1,2</GeoTransform></PAMDataset>",
        '<PAMDataset><PAMRasterBand band="x"><NoDataValue>0</NoDataValue></PAMRasterBand></PAMDataset>',
        '<!DOCTYPE a [<!ENTITY b "EPSG:32632">]><PAMDataset><SRS>&b;</SRS></PAMDataset>',
        '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><PAMDataset><SRS>&b;</SRS></PAMDataset>',
    ],
)
def test_a_damaged_or_hostile_sidecar_is_left_alone(text, plain):
    before = describe_source(plain)
    plain.with_name("plain.tif.aux.xml").write_text(text)
    after = describe_source(plain)
    assert (after.geobox, after.nodatas) == (before.geobox, before.nodatas)
    assert any("cannot be made out in plain.tif.aux.xml is ignored" in text for text in after.warnings)


@pytest.mark.parametrize("crs", ["https://example.org/crs", "/etc/passwd", "+proj=utm +zone=32 +nadgrids=/etc/passwd"])
def test_a_sidecars_crs_opens_nothing(crs, tmp_path):
    path = write(tmp_path / "a.tif", np.ones((4, 4), np.uint8), crs=None)
    path.with_name("a.tif.aux.xml").write_text(f"<PAMDataset><SRS>{crs}</SRS></PAMDataset>")
    with pytest.raises(InputError, match="its CRS is not understood"):
        describe_source(path)


def test_a_world_file_places_a_tiff_that_has_no_position(tmp_path):
    path = write(tmp_path / "bare.tif", np.ones((4, 4), np.uint8), rasterio.Affine.identity(), crs=None)
    assert not describe_source(path).georeferenced
    path.with_suffix(".tfw").write_text("2\n0\n0\n-2\n101\n199\n")  # centre of the first pixel
    raster = describe_source(path)
    assert raster.geobox.affine[:6] == (2, 0, 100, 0, -2, 200)
    assert any("taken from bare.tfw" in text for text in raster.warnings)
    assert read_source(raster)[1].all()


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_world_file_places_a_tiff_whose_header_holds_an_identity(tmp_path):
    path = write(tmp_path / "identity.tif", np.ones((4, 4), np.uint8), rasterio.Affine.identity())
    with rasterio.open(path, "r+") as made:
        made.transform = rasterio.Affine.identity()
        made.update_tags(AREA_OR_POINT="Point")
    path.with_suffix(".tfw").write_text("2\n0\n0\n-2\n101\n199\n")
    raster = describe_source(path)
    assert tiff_tag(path, 34264)
    assert any("taken from identity.tfw" in text for text in raster.warnings)
    assert raster.geobox.affine[:6] == (2, 0, 100, 0, -2, 200)
    assert (raster.geobox.crs.epsg, raster.area_or_point) == (32632, "Point")


def test_png_with_a_world_file(tmp_path):
    path = write(tmp_path / "a.png", np.ones((4, 4), np.uint8), rasterio.Affine.identity(), crs=None, driver="PNG")
    path.with_suffix(".pgw").write_text("2\n0\n0\n-2\n101\n199\n")
    raster = describe_guide(path, assume_crs="EPSG:32632")
    assert raster.geobox.affine[:6] == (2, 0, 100, 0, -2, 200)
    assert raster.geobox.crs.epsg == 32632


# --- CRS -----------------------------------------------------------------------------------------------------


def test_a_vertical_crs_is_kept_and_set_aside(tmp_path):
    raster = describe_source(write(tmp_path / "v.tif", np.ones((4, 4), np.float32), crs="EPSG:32632+5773"))
    assert raster.geobox.crs.epsg == 32632
    assert "EGM96 height" in raster.crs_wkt
    assert rasterio.CRS.from_wkt(raster.crs_wkt) == rasterio.CRS.from_string("EPSG:32632+5773")


def test_assumed_crs(tmp_path):
    path = write(tmp_path / "n.tif", np.ones((4, 4), np.float32), crs=None)
    assert describe_source(path).geobox.crs is None
    assert describe_source(path, assume_crs="EPSG:25832").geobox.crs.epsg == 25832
    for text in ("nonsense", "http://127.0.0.1:1/crs", "+proj=longlat +nadgrids=/etc/passwd", "EPSG:999999", ""):
        with pytest.raises(UsageError, match="names no CRS"):
            describe_source(path, assume_crs=text)


@pytest.mark.parametrize(
    ("source", "guide", "step", "outcome"),
    [
        ("EPSG:32632", "EPSG:32632", 1, None),
        ("EPSG:32632", "EPSG:4326", 1, None),
        ("EPSG:32632", "EPSG:25832", 10, None),
        ("EPSG:32632", "EPSG:25832", 2, "1 m"),
        ("EPSG:32618", "EPSG:26718", 1, InputError),  # NAD27 without its grids
        ("EPSG:32618", "EPSG:26718", 1000, None),
    ],
)
def test_accuracy_of_a_datum_shift(tmp_path, source, guide, step, outcome):
    low = describe_source(write(tmp_path / "s.tif", np.ones((4, 4), np.float32), grid(5e5, 4.5e6, step), crs=source))
    where = grid(8, 45, 1e-5) if guide == "EPSG:4326" else grid(5e5, 4.5e6, 1)
    high = describe_guide(write(tmp_path / "g.tif", np.ones((4, 4), np.float32), where, crs=guide))
    if outcome is InputError:
        with pytest.raises(InputError, match=r"accuracy of \d+ m.*--allow-ballpark"):
            check_transform(low.geobox, high.geobox)
        assert " m" in check_transform(low.geobox, high.geobox, allow_ballpark=True)
    else:
        text = check_transform(low.geobox, high.geobox)
        assert text is None if outcome is None else outcome in text


# --- values and validity -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "nodata", "holes"),
    [
        ("int16", -32768, -32768),
        ("uint16", 0, 0),
        ("uint8", 255, 255),
        ("int32", -9999, -9999),
        ("float32", -9999, -9999),
        ("float32", float("nan"), float("nan")),
        ("float32", -3.4028234663852886e38, -3.4028234663852886e38),
        ("float64", -1.7e308, -1.7e308),
        ("float32", None, float("nan")),
        ("float32", None, float("inf")),
        ("float32", -9999.9, np.float32(-9999.9)),
    ],
)
def test_nodata(tmp_path, dtype, nodata, holes):
    values = np.arange(1, 65).reshape(8, 8).astype(dtype)
    values[2:4, 3:6] = holes
    raster = describe_source(write(tmp_path / "a.tif", values, nodata=nodata))
    read, valid = read_source(raster)
    expected = np.ones((8, 8), bool)
    expected[2:4, 3:6] = False
    np.testing.assert_array_equal(valid, expected)
    np.testing.assert_array_equal(read[expected], values[expected].astype(float))
    assert (read[~expected] == 0).all()
    assert read.dtype == np.float64


@pytest.mark.parametrize(
    ("dtype", "nodata", "text"),
    [
        ("float32", -3.4028234663852886e38, "-3.4028235e+38"),
        ("float32", -3.3999999521443642e38, "-3.4e+38"),
        ("float64", -3.4028234663852886e38, "-3.4028234663852886e+38"),
        ("float64", -1.7e308, "-1.7e+308"),
        ("float32", -9999.900390625, "-9999.9"),
        ("int32", -123456789, "-123456789"),
        ("float32", float("nan"), "nan"),
    ],
)
def test_a_nodata_value_is_shown_as_it_can_be_typed(dtype, nodata, text, tmp_path):
    values = np.arange(1, 65).reshape(8, 8).astype(dtype)
    values[2:4, 3:6] = nodata
    path = write(tmp_path / "a.tif", values, nodata=nodata)
    assert geosr("info", path).out.splitlines()[0].endswith(f", nodata {text}")
    undeclared = write(tmp_path / "b.tif", values)
    assert read_source(describe_source(undeclared, nodata=float(text)))[1].sum() == 58


@pytest.mark.parametrize("typed", [-3.4028e38, -3.40282e38, -3.4028235e38, -3.4028234663852886e38])
def test_a_float32_sentinel_is_known_by_five_digits(typed, tmp_path):
    values = np.arange(1, 65).reshape(8, 8).astype("float32")
    values[0, 0] = -3.4028235e38
    path = write(tmp_path / "a.tif", values)
    assert read_source(describe_source(path, nodata=typed))[1].sum() == 63


def test_a_further_value_holds_beside_the_files(tmp_path):
    values = np.array([[1, 2, 3], [4, -1, 6]], np.int16)
    path = write(tmp_path / "a.tif", values, nodata=-1)
    assert read_source(describe_source(path))[1].sum() == 5
    both = describe_source(path, nodata=3)
    assert (both.nodata, both.further_nodata) == (-1, 3)
    np.testing.assert_array_equal(read_source(both)[1], (values != 3) & (values != -1))
    seen = read_guide(describe_guide(path, nodata=3), both.geobox)[1]
    np.testing.assert_array_equal(seen, (values != 3) & (values != -1))
    impossible = describe_source(path, nodata=-99999)
    np.testing.assert_array_equal(read_source(impossible)[1], values != -1)
    assert any("cannot occur in int16" in text for text in impossible.warnings)


def test_float64_nodata_of_another_type(tmp_path):
    values = np.ones((4, 4), np.float32)
    values[0, 0] = -np.inf
    path = write(tmp_path / "a.tif", values)
    assert read_source(describe_source(path, nodata=-1.797e308))[1].sum() == 15


def test_scale_offset_and_windows(tmp_path):
    stored = np.arange(5000, 5000 + 30 * 40, dtype=np.uint16).reshape(30, 40)
    stored[5, 5] = 65535
    raster = describe_source(write(tmp_path / "k.tif", stored, nodata=65535, scale=0.01, offset=-50))
    values, valid = read_source(raster, Window(4, 3, 10, 20))
    np.testing.assert_allclose(values[valid], (stored[4:14, 3:23] * 0.01 - 50)[valid], rtol=1e-12)
    assert not valid[1, 2]
    assert valid.sum() == 199
    with pytest.raises(InputError, match="reaches over"):
        read_source(raster, Window(25, 0, 10, 10))


def test_internal_mask(tmp_path):
    mask = np.random.default_rng(1).random((20, 30)) < 0.7
    values = np.where(mask, 7, -9999).astype(np.float32)
    path = write(tmp_path / "m.tif", values, mask=mask)
    read, valid = read_source(describe_source(path))
    np.testing.assert_array_equal(valid, mask)
    assert set(np.unique(read)) == {0, 7}
    guide = describe_guide(write(tmp_path / "m3.tif", np.stack([values] * 3), mask=mask))
    np.testing.assert_array_equal(read_guide(guide, guide.geobox)[1], mask)


def test_alpha_that_is_opaque_on_a_thin_strip_only(tmp_path):
    """Of 16 bits, 200 is next to nothing."""
    bands = np.full((2, 1100, 1100), 200, "uint16")
    bands[1, 2] = 65535
    guide = describe_guide(write(tmp_path / "guide.tif", bands, alpha="YES", compress="deflate"))
    np.testing.assert_array_equal(read_guide(guide, guide.geobox)[1], bands[1] == 65535)


@pytest.mark.parametrize(("dtype", "opaque"), [("uint8", 255), ("uint16", 65535), ("uint16", 255), ("float32", 1)])
def test_alpha(tmp_path, dtype, opaque):
    alpha = np.array([[0, 0.4, 0.6, 1]] * 4) * opaque
    bands = np.stack([np.full((4, 4), 9), np.full((4, 4), 9), np.full((4, 4), 9), alpha]).astype(dtype)
    path = write(tmp_path / "rgba.tif", bands, photometric="RGB", alpha="YES")
    guide = describe_guide(path)
    assert (guide.bands, guide.alpha) == ((1, 2, 3), 4)
    np.testing.assert_array_equal(read_guide(guide, guide.geobox)[1], [[False, False, True, True]] * 4)
    source = describe_source(path, band=2)
    np.testing.assert_array_equal(read_source(source)[1], [[False, False, True, True]] * 4)


@pytest.mark.parametrize(
    ("dtype", "nodata", "one_band_decides"),
    [("uint8", 0, False), ("uint8", 255, False), ("uint16", 0, False), ("int16", -9999, True), ("float32", -1e4, True)],
)
def test_nodata_in_one_band_of_several(tmp_path, dtype, nodata, one_band_decides):
    bands = np.full((3, 4, 4), 9, dtype)
    bands[0, 1, 1] = nodata
    bands[:, 2, 2] = nodata
    guide = describe_guide(write(tmp_path / "g.tif", bands, nodata=nodata))
    _, valid = read_guide(guide, guide.geobox)
    assert not valid[2, 2]
    assert valid[1, 1] != one_band_decides
    assert valid.sum() == (14 if one_band_decides else 15)


def test_palette_and_its_nodata(tmp_path):
    index = np.array([[0, 1], [2, 3]], np.uint8)
    colours = {0: (1, 2, 3, 255), 1: (10, 20, 30, 255), 2: (40, 50, 60, 255), 3: (70, 80, 90, 255)}
    guide = describe_guide(write(tmp_path / "p.tif", index, colormap=colours, nodata=0))
    values, valid = read_guide(guide, guide.geobox)
    np.testing.assert_array_equal(valid, [[False, True], [True, True]])
    np.testing.assert_allclose(values[:, 1, 0], (40, 50, 60), atol=1e-3)


def test_metadata_is_carried(tmp_path):
    path = write(tmp_path / "t.tif", np.ones((4, 4), np.float32), tags={"SURVEY": "2026", "AREA_OR_POINT": "Point"})
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(1, QUALITY="good", STATISTICS_MEAN="1")
        dataset.descriptions, dataset.units = ["height"], ["m"]
    raster = describe_source(path)
    assert (raster.description, raster.units, raster.area_or_point) == ("height", "m", "Point")
    assert raster.tags == {"SURVEY": "2026"}
    assert raster.band_tags == {"QUALITY": "good"}
    assert pickle.loads(pickle.dumps(raster)) == raster


def test_bands_are_listed_and_checked(tmp_path):
    path = write(tmp_path / "b.tif", np.ones((2, 4, 4), np.float32))
    with pytest.raises(InputError, match=r"has 2 bands \(1 gray, 2 undefined\); choose one with --band"):
        describe_source(path)
    for band in (0, 3, -1):
        with pytest.raises(UsageError, match=f"band {band} was asked for"):
            describe_source(path, band=band)
    assert describe_source(path, band=2).bands == (2,)


def test_neon_bart_reads_as_rasterio_does():
    path = shared_data() / "neon_bart" / "2019_BART_5_320000_4881000_image_crop.tif"
    guide = describe_guide(path)
    assert guide.shape == (1106, 1213)
    assert guide.geobox.affine[:6] == pytest.approx((0.1, 0, 320214.8, 0, -0.1, 4881614.5))
