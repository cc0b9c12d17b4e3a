"""DataArrays in and out: the same numbers as with files."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import dask
import numpy as np
import pyproj
import pytest
import rasterio
import rioxarray
import torch
import xarray as xr
from outputs import block_means, check_cog, physical
from rasters import grid, write

import geosr
from geosr import accessor
from geosr.errors import GeosrError, InputError, OutputError, UsageError

AFFINE = grid(461_200, 5_211_400, 2)
SHAPE = (24, 30)


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """Temporary files go to a folder of their own, which is empty in the end."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert not [*folder.iterdir()]


@pytest.fixture
def source(tmp_path):
    values = np.random.default_rng(1).normal(100, 9, SHAPE)
    values[3:5, 4:9] = -9999
    return write(tmp_path / "source.tif", values.astype("float32"), AFFINE, "EPSG:32633", nodata=-9999)


@pytest.fixture
def scaled(tmp_path):
    values = np.random.default_rng(2).integers(2500, 3300, SHAPE)
    values[6, 7:12] = -1
    return write(tmp_path / "scaled.tif", values.astype("int16"), AFFINE, "EPSG:32633", nodata=-1, scale=0.1,
                 offset=-273.15)  # fmt: skip


@pytest.fixture
def guide(tmp_path):
    image = np.random.default_rng(3).integers(1, 255, (3, 80, 90), "uint8")
    image[:, :10] = 0
    return write(tmp_path / "guide.tif", image, grid(461_195, 5_211_405, 0.8), "EPSG:32633", nodata=0)


def upscale(source, guide, **options):
    return geosr.upscale(source, guide, **({"scale": 4, "method": "bicubic", "device": "cpu"} | options))


def same(a, b, atol=0.0):
    np.testing.assert_allclose(a.to_numpy(), b.to_numpy(), rtol=0, atol=atol, equal_nan=True)
    assert a.rio.crs == b.rio.crs
    assert a.rio.transform().almost_equals(b.rio.transform(), 1e-6)


def test_paths_give_an_array_with_crs_nodata_and_gaps(source, guide):
    result = upscale(source, guide)
    assert result.dims == ("y", "x")
    assert result.shape == (96, 120)
    assert result.dtype == np.float32
    assert result.rio.crs == rasterio.CRS.from_epsg(32633)
    assert result.rio.transform().almost_equals(AFFINE * AFFINE.scale(0.25), 1e-9)
    assert result.rio.encoded_nodata == -9999
    assert result.attrs["GEOSR_METHOD"] == "bicubic"
    expected = physical(source)
    assert np.array_equal(np.isnan(result), np.kron(np.isnan(expected), np.ones((4, 4), bool)))
    np.testing.assert_allclose(block_means(result.to_numpy(), 4), expected, atol=2e-5)


def test_integer_results_keep_their_nodata_value(scaled, guide):
    result = upscale(scaled, guide, dtype="int16")
    assert result.dtype == np.int16
    assert result.rio.nodata == -1
    assert (result.to_numpy()[24:28, 28:48] == -1).all()
    assert (result.attrs["scale_factor"], result.attrs["add_offset"]) == (0.1, -273.15)


@pytest.mark.parametrize("chunks", [None, 11, {"x": 7, "y": 9}])
@pytest.mark.parametrize("masked", [False, True])
def test_arrays_are_files_by_another_name(source, guide, masked, chunks):
    expected = upscale(source, guide)
    arrays = [rioxarray.open_rasterio(path, masked=masked, chunks=chunks) for path in (source, guide)]
    assert (arrays[0].chunks is None) == (chunks is None)
    same(upscale(*arrays), expected)
    same(upscale(source, arrays[1]), expected)
    same(upscale(arrays[0].squeeze("band", drop=True), guide), expected)
    assert upscale(arrays[0], guide).rio.encoded_nodata == -9999


@pytest.mark.parametrize("reading", [{}, {"masked": True}, {"mask_and_scale": True}], ids=str)
def test_scale_and_offset_are_applied_once(scaled, guide, reading):
    expected = upscale(scaled, guide)
    same(upscale(rioxarray.open_rasterio(scaled, **reading), guide), expected, atol=5e-5)  # float32 about -273


def test_what_was_computed_is_not_rounded_to_the_integers_of_the_file(scaled, guide):
    """An array keeps its file's encoding through some operations; its values need not fit it any more."""
    array = rioxarray.open_rasterio(scaled, mask_and_scale=True)
    moved = array.copy(data=array.to_numpy() + 0.013)
    moved.encoding = array.encoding
    difference = upscale(moved, guide) - upscale(array, guide)
    np.testing.assert_allclose(difference.to_numpy()[np.isfinite(difference)], 0.013, atol=2e-4)


def test_the_accessor(source, guide, tmp_path):
    array = rioxarray.open_rasterio(source, masked=True, chunks=10)
    result = array.geosr.upscale(guide, 4, method="bicubic", device="cpu", output=tmp_path / "out.tif")
    same(result, upscale(source, guide))
    check_cog(tmp_path / "out.tif")
    same(rioxarray.open_rasterio(tmp_path / "out.tif", masked=True).squeeze("band"), result)


def test_a_tilde_is_the_users_home(source, guide, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(source.parent))
    written = upscale(f"~/{source.name}", Path(f"~/{guide.name}"), output="~/tilde.tif", report="~/tilde.json")
    same(written, upscale(source, guide))
    assert (source.parent / "tilde.tif").is_file()
    assert (source.parent / "tilde.json").is_file()
    assert geosr.evaluate("~/tilde.tif", source, source=f"~/{source.name}").scores.rmse < 9


def test_dask_arrays_are_computed_once_and_in_chunks(source, guide):
    shapes = []

    def look(block):
        shapes.append(block.shape)
        return block

    array = rioxarray.open_rasterio(source, masked=True, chunks={"band": 1, "y": 8, "x": 10})
    watched = array.copy(data=array.data.map_blocks(look, dtype=array.dtype, meta=np.empty((0, 0, 0), array.dtype)))
    with dask.config.set(scheduler="threads"):
        same(upscale(watched, guide), upscale(source, guide))
    assert len(shapes) == 9
    assert max(shapes) == (1, 8, 10)


def test_south_up_point_and_unnamed_arrays(tmp_path, guide):
    values = np.random.default_rng(1).normal(100, 9, SHAPE).astype("float32")
    path = write(tmp_path / "up.tif", values, grid(461_200, 5_211_352, 2, south_up=True), "EPSG:32633",
                 tags={"AREA_OR_POINT": "Point"})  # fmt: skip
    same(upscale(rioxarray.open_rasterio(path), guide), upscale(path, guide))


def test_the_array_is_not_changed(scaled, guide):
    array = rioxarray.open_rasterio(scaled, mask_and_scale=True)
    before, encoding = array.copy(deep=True), dict(array.encoding)
    upscale(array, guide)
    xr.testing.assert_identical(array, before)
    assert array.encoding == encoding


def test_an_array_made_by_hand(guide):
    x, y = 461_201 + 2.0 * np.arange(30), 5_211_399 - 2.0 * np.arange(24)
    values = np.random.default_rng(1).normal(100, 9, SHAPE).astype("float16")
    array = xr.DataArray(values, {"y": y, "x": x}, ("y", "x")).rio.write_crs(32633)
    result = upscale(array, guide)
    np.testing.assert_allclose(block_means(result.to_numpy(), 4), values, atol=2e-5)
    assert result.rio.transform().almost_equals(AFFINE * AFFINE.scale(0.25), 1e-6)
    named = array.rename(x="lon", y="lat").rio.set_spatial_dims("lon", "lat")
    same(upscale(named, guide), result)


def by_hand(values, dims=("y", "x"), x=None):
    coords = {"y": 5_211_399 - 2.0 * np.arange(24), "x": 461_201 + 2.0 * np.arange(30) if x is None else x}
    return xr.DataArray(values, coords if set(dims) >= {"y", "x"} else {}, dims).rio.write_crs(32633)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (by_hand(np.zeros(SHAPE, bool)), "type bool"),
        (by_hand(np.zeros(SHAPE, "complex64")), "type complex64"),
        (by_hand(np.zeros(SHAPE, "datetime64[ns]")), "type datetime64"),
        (by_hand(np.zeros((2, 2, *SHAPE)), ("time", "band", "y", "x")), "dimensions"),
        (by_hand(np.ones(SHAPE), ("a", "b")), "spatial|dimension"),
        (by_hand(np.ones(SHAPE), x=461_201 + np.arange(30.0) ** 1.1), "evenly spaced"),
        (by_hand(np.full(SHAPE, np.nan)), "no pixel is valid"),
    ],
    ids=lambda value: "" if isinstance(value, xr.DataArray) else value,
)
def test_arrays_that_are_no_raster_are_refused(guide, array, message):
    with pytest.raises(InputError, match=message):
        upscale(array, guide)


@pytest.mark.parametrize("dims", [("lat", "lon"), ("Northing", "Easting")])
def test_dimensions_by_other_names_are_y_and_x_as_well(source, guide, dims):
    array = rioxarray.open_rasterio(source, masked=True).squeeze("band", drop=True)
    other = array.rename(dict(zip(("y", "x"), dims, strict=True))).rename("heights")
    for name in dims:
        other[name].attrs.clear()
    expected, found = (geosr.upscale(each, guide, method="bicubic") for each in (array, other))
    np.testing.assert_array_equal(found, expected)
    assert found.rio.transform() == expected.rio.transform()
    assert found.name == "heights"


def test_what_is_no_raster_at_all_is_named(source, guide):
    with pytest.raises(UsageError, match=r"a raster is a path, or a DataArray .*; this is a ndarray"):
        geosr.upscale(np.ones((9, 9)), guide)
    with pytest.raises(UsageError, match="this is a list"):
        geosr.upscale(source, [1, 2])
    several = xr.Dataset({"h": rioxarray.open_rasterio(source)})
    with pytest.raises(UsageError, match=r"the guide is a Dataset; pick a variable: ds\['h'\]"):
        geosr.upscale(source, several)


def test_errors_do_not_name_temporary_files(source, guide):
    twice = xr.concat([rioxarray.open_rasterio(source)] * 2, "band").assign_coords(band=[1, 2])
    with pytest.raises(InputError, match=r"^source\.tif: has 2 bands"):
        geosr.upscale(twice, guide)


def test_a_nodata_value_that_the_type_cannot_hold_is_refused(source, guide):
    """As rioxarray leaves it after `astype`."""
    array = rioxarray.open_rasterio(guide)
    array = array.astype("uint8")
    array.attrs["_FillValue"] = -9999
    with pytest.raises(InputError, match="cannot be used as a raster: Unable to convert nodata value"):
        geosr.upscale(source, array, scale=4, method="bicubic")


def test_torchs_threads_are_what_they_were(source, guide):
    """In threads that come later, too: they begin with the last number that any thread set."""
    before = torch.get_num_threads()
    try:
        for _ in range(3):
            torch.set_num_threads(3)
            geosr.upscale(source, guide, scale=4, method="bicubic", workers=2)
            seen = []
            later = threading.Thread(target=lambda seen=seen: seen.append(torch.get_num_threads()))
            later.start()
            later.join()
            assert seen == [3]
    finally:
        torch.set_num_threads(before)


def test_an_array_without_crs_is_refused_or_assumed(source, guide):
    array = rioxarray.open_rasterio(source).drop_vars("spatial_ref")
    with pytest.raises(InputError, match=r"no CRS.*; name the missing one with assume_crs=$"):
        upscale(array, guide)
    same(upscale(array, guide, assume_crs="EPSG:32633"), upscale(source, guide))


def test_errors_are_those_of_the_file_route(source, guide, tmp_path):
    array = rioxarray.open_rasterio(source)
    with pytest.raises(UsageError, match="scale"):
        upscale(array, guide, scale=1)
    with pytest.raises(UsageError, match="dtype"):
        upscale(array, guide, dtype="complex64")
    with pytest.raises(UsageError, match="exists"):
        upscale(array, guide, output=source)
    with pytest.raises(OutputError, match="does not exist"):
        upscale(array, guide, output=tmp_path / "nowhere" / "out.tif")


def test_arguments_of_any_sensible_kind_are_the_same_call(source, guide):
    plain = geosr.upscale(source, guide, 4, "bicubic", tile=64, seed=3)
    other = geosr.upscale(
        source,
        guide,
        np.int64(4),
        "bicubic",
        tile=64.0,
        seed=np.uint8(3),
        dtype=np.float32,
        assume_crs=pyproj.CRS(32633),
        bounds=np.array([461_200, 5_211_352, 461_260, 5_211_400]),
        guide_shift=np.zeros(2),
        source_nodata=np.int16(-9999),
        minimum=xr.DataArray(-1e9),
    )
    np.testing.assert_array_equal(plain, other)


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ({"scale": "4"}, "scale is '4'; it must be a whole number"),
        ({"scale": 2.5}, "scale is 2.5; it must be a whole number"),
        ({"seed": True}, "seed is True; it must be a whole number"),
        ({"band": 1.5}, "band is 1.5; it must be a whole number"),
        ({"tile": float("nan")}, "tile is nan; it must be a whole number"),
        ({"bounds": (1, 2, 3)}, r"bounds is \(1, 2, 3\); it must be \(left, bottom, right, top\), in numbers"),
        ({"bounds": ("a", 2, 3, 4)}, "it must be"),
        ({"guide_shift": (1,)}, r"guide_shift is \(1,\); it must be \(x, y\), in numbers"),
        ({"guide_shift": 5}, "guide_shift is 5; it must be"),
        ({"guide_shift": "12"}, "guide_shift is '12'; it must be"),
        ({"minimum": "a"}, "minimum is 'a'; it must be a number"),
        ({"maximum": True}, "maximum is True; it must be a number"),
        ({"native_resolution": "x"}, "native_resolution is 'x'; it must be a number"),
        ({"tile_timeout": "5"}, "tile_timeout is '5'; it must be a number"),
        ({"source_nodata": "x"}, "source_nodata is 'x'; it must be a number"),
        ({"guide_nodata": (0, 0)}, r"guide_nodata is \(0, 0\); it must be a number"),
        ({"settings": 3}, "settings is 3; it must be a mapping"),
        ({"settings": "ab"}, "settings is 'ab'; it must be a mapping"),
        ({"output": 3}, "output is 3; it must be a path"),
        ({"weights": 3}, "weights is 3; it must be a path"),
        ({"report": 3}, "report is 3; it must be a path"),
        ({"scheduler": None}, "scheduler is None; it must be text"),
        ({"gpus": 0, "scheduler": "processes"}, "gpus is 0; it must be text"),
        ({"method": ["mmsr"]}, r"method is \['mmsr'\]; it must be text"),
        ({"on_event": 3}, "on_event is 3; it must be a function"),
        ({"consistency": 0.5}, "consistency is '0.5'; use exact, off, or soft:SIGMA"),
        ({"assume_crs": 999_999}, "assume_crs is 999999, which names no CRS"),
        ({"assume_crs": object()}, "which names no CRS"),
        ({"dtype": "floaty"}, "dtype is 'floaty'"),
        ({"dtype": {"x": 1}}, "dtype is {'x': 1}"),
        ({"dtype": np.complex64}, "dtype is 'complex64'; use one of"),
        ({"style": True}, "a style lies beside its output"),
    ],
)
def test_arguments_of_the_wrong_kind_are_named(source, guide, argument, said):
    with pytest.raises(UsageError, match=said):
        geosr.upscale(source, guide, **{"method": "bicubic", **argument})


def test_what_the_command_can_write_beside_the_output(source, guide, tmp_path):
    names = {"uncertainty": "std.tif", "guide_influence": "change.tif", "report": "r.html", "output": "out.tif"}
    paths = {argument: tmp_path / name for argument, name in names.items()}
    made = geosr.upscale(source, guide, 4, "diffusion", settings={"rounds": 1}, style=True, **paths)
    assert {path.name for path in tmp_path.iterdir()} >= {*names.values(), "out.qml"}
    with rasterio.open(tmp_path / "std.tif") as dataset:
        assert dataset.shape == made.shape
        assert float(dataset.read(1, masked=True).min()) > 0


@pytest.mark.parametrize("order", ["import geosr, xarray as xr", "import xarray as xr, geosr"])
def test_the_accessor_is_there_after_plain_imports(order):
    code = (
        f"{order}\nimport sys\nxr.DataArray([1.0]).geosr.upscale\nassert not {{'torch', 'rasterio'}} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=600)


def test_importing_geosr_alone_loads_nothing_heavy():
    code = "import geosr, sys\nassert not {'torch', 'rasterio', 'xarray', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)


@pytest.mark.parametrize("dims", [("y", "x", "band"), ("x", "band", "y"), ("lat", "lon", "wavelength")])
def test_dimensions_are_put_in_order_by_their_names(source, guide, dims):
    arrays = [rioxarray.open_rasterio(path, masked=True) for path in (source, guide)]
    names = {"lat": "y", "lon": "x", "wavelength": "band"}
    turned = [
        array.transpose(*(names.get(dim, dim) for dim in dims)).rename(
            {names[dim]: dim for dim in dims if dim in names}
        )
        for array in arrays
    ]
    assert turned[1].dims == dims
    same(upscale(*turned), upscale(source, guide))


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ({}, "exists; use overwrite=True to replace it"),
        ({"overwrite": True, "fit": "tile", "method": "mmsr", "tile": 8}, r"use at least tile=\d+$"),
        ({"overwrite": True, "native_resolution": 1}, "native_resolution=1: pixels are 2 m"),
        ({"overwrite": True, "tile_timeout": 3}, "tile_timeout= needs scheduler=processes or tcp"),
        ({"overwrite": True, "gpus": "0", "device": "auto"}, "it needs scheduler=processes"),
        ({"overwrite": True, "gpus": "0"}, "gpus= and device=cpu contradict each other"),
    ],
)
def test_errors_name_arguments_and_not_options_of_the_command_line(source, guide, argument, said, tmp_path):
    (tmp_path / "out.tif").write_text("here")
    with pytest.raises(GeosrError, match=said) as caught:
        upscale(source, guide, output=tmp_path / "out.tif", **argument)
    assert not re.search(r"--[a-z]", str(caught.value))


def test_notes_name_arguments_too(tmp_path, source, guide):
    with rasterio.open(source, "r+") as dataset:
        dataset.write(np.clip(dataset.read(1), 100, None) - 100, 1)
        dataset.nodata = None
    seen = []
    upscale(source, guide, on_event=lambda event: seen.append(getattr(event, "text", "")))
    assert any("minimum=0 keeps it there" in text for text in seen)
    assert not any("--" in text for text in seen)


@pytest.mark.parametrize(
    ("rename", "called"),
    [(None, "source"), ("heights", "heights"), ("h/../\u00e4" + 99 * "x", "h_.._\u00e4" + 44 * "x")],
)
def test_arrays_are_called_as_they_or_their_files_are(source, guide, rename, called):
    array = rioxarray.open_rasterio(source, masked=True).rename(rename)
    photo = rioxarray.open_rasterio(guide.rename(guide.with_name("my photo.tif")))
    tags = upscale(array, photo).attrs
    assert (tags["GEOSR_SOURCE"], tags["GEOSR_GUIDE"]) == (f"{called}.tif", "my_photo.tif")
    nothing = array.where(array > 1e9)
    nothing.encoding = array.encoding
    with pytest.raises(InputError, match=rf"^{re.escape(called)}\.tif: no pixel is valid"):
        upscale(nothing, photo)


def test_two_arrays_of_one_name(source, guide):
    arrays = [rioxarray.open_rasterio(path, masked=True).rename("both") for path in (source, guide)]
    same(upscale(*arrays), upscale(source, guide))


def test_a_result_is_measured_in_arrays_as_in_files(source, guide, tmp_path):
    values = np.random.default_rng(8).normal(100, 9, (96, 120)).astype("float32")
    values[:7] = np.nan
    truth = write(tmp_path / "truth.tif", values, AFFINE * AFFINE.scale(0.25), "EPSG:32633", nodata=np.nan)
    result = upscale(source, guide, output=tmp_path / "out.tif")
    arrays = [rioxarray.open_rasterio(path, masked=True) for path in (truth, source, guide)]
    found = geosr.evaluate(result, arrays[0], source=arrays[1], guide=arrays[2], elevation=True)
    assert (
        found.scores == geosr.evaluate(tmp_path / "out.tif", truth, source=source, guide=guide, elevation=True).scores
    )
    error = (result.to_numpy().astype(np.float64) - values)[np.isfinite(result.to_numpy()) & np.isfinite(values)]
    assert found.scores.pixels == error.size
    assert found.scores.rmse == pytest.approx(np.sqrt((error**2).mean()), rel=1e-9)
    assert found.scores.consistency_max < 1e-4
    assert found.scores.slope_rmse > 0


def test_what_cannot_be_measured_is_said_in_the_words_of_python(source, guide):
    with pytest.raises(InputError, match=r"guide\.tif: has 3 bands .*; choose one with band=$"):
        geosr.evaluate(source, rioxarray.open_rasterio(guide))
    with pytest.raises(UsageError, match=r"band is 1\.5; it must be a whole number"):
        geosr.evaluate(source, source, band=1.5)
    with pytest.raises(UsageError, match="step is '1'; it must be a number"):
        geosr.evaluate(source, source, step="1")
    with pytest.raises(UsageError, match="the truth is a Dataset"):
        geosr.evaluate(source, xr.Dataset())


def test_arrays_have_their_units(source, guide, tmp_path):
    """In an array they are an attribute, which rioxarray writes as a tag of the file."""
    kelvin, celsius = rioxarray.open_rasterio(source, masked=True), rioxarray.open_rasterio(source, masked=True)
    kelvin, celsius = kelvin.assign_attrs(units="K"), (celsius - 273.15).assign_attrs(units="degC")
    found = geosr.evaluate(kelvin, celsius.rio.write_crs(kelvin.rio.crs))
    assert found.scores.rmse == pytest.approx(0, abs=1e-3)
    assert found.units == "degC"
    upscale(kelvin, guide, output=tmp_path / "out.tif")
    with rasterio.open(tmp_path / "out.tif") as made:
        assert made.units == ("K",)


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("pass --source-nodata -9999", "pass source_nodata=-9999"),
        ("pass --guide-nodata nan", "pass guide_nodata=nan"),
        ("averaged for --native-resolution 8", "averaged for native_resolution=8"),
        ("geosr train --method dkn makes them, see --weights", "geosr train --method dkn makes them, see weights="),
        ("dsm --final 2.tif: cannot be read", "dsm --final 2.tif: cannot be read"),
        ("--min 0 keeps it; see --elevation", "minimum=0 keeps it; see elevation="),
    ],
)
def test_options_in_messages_become_arguments(text, spoken):
    assert accessor._in_python(text) == spoken
