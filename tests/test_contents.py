"""`geosr info` says what a raster is, and what its bands hold."""

import tracemalloc

import numpy as np
import pytest
import rasterio
import rasters
from pairs import geosr, make_pair

from geosr import contents
from geosr.contents import measure_contents
from geosr.describe import describe_guide

FT = "EPSG:2264"  # US survey feet


def lines(*arguments):
    done = geosr("info", *arguments)
    assert done.code == 0, done.err
    return [(line[:10].strip(), line[10:]) for line in done.out.splitlines()]


def test_of_each_band_its_name_unit_scale_and_values_are_told(tmp_path):
    values = np.random.default_rng(0).integers(1, 900, (2, 70, 90), "int16")
    values[0, :9] = -7
    path = rasters.write(tmp_path / "x.tif", values, scale=-0.5, offset=20.0, nodata=-7)
    with rasterio.open(path, "r+") as dataset:
        dataset.descriptions, dataset.units = ("height", None), ("m", "K")
    found = measure_contents(describe_guide(path))
    assert (found.valid, found.pixels, found.sampled) == (61 * 90, 70 * 90, False)
    assert [(band.number, band.name, band.units) for band in found.bands] == [(1, "height", "m"), (2, "", "K")]
    for band, stored in zip(found.bands, values[:, 9:] * -0.5 + 20.0, strict=True):
        expected = stored.min(), stored.max(), stored.mean(), stored.std()
        assert (band.low, band.high, band.mean, band.deviation) == pytest.approx(expected)
    told = dict(lines(path))
    assert told["band 1"].startswith(f"height; {found.bands[0].low:.6g} to {found.bands[0].high:.6g} m, mean ")
    assert told["band 1"].endswith("; scale -0.5 and offset 20 applied")
    assert told["valid"] == "87.1% of the pixels, all but 810"


def test_a_raster_without_a_valid_pixel_does_not_look_healthy(tmp_path):
    told = lines(rasters.write(tmp_path / "x.tif", np.full((30, 40), -9999, "float32"), nodata=-9999))
    assert told[2:] == [
        ("band 1", "no valid pixel"),
        ("valid", "0.0% of the pixels"),
        ("note", "no pixel is valid"),
    ]


def test_nodata_of_each_band_and_more_bands_than_are_listed(tmp_path):
    header = "ENVI\nsamples = 4\nlines = 3\nbands = 15\ndata type = 2\ninterleave = bsq\nbyte order = 0\n"
    (tmp_path / "x.hdr").write_text(header)
    (tmp_path / "x.img").write_bytes(np.arange(1, 181, dtype="<i2").tobytes())
    declared = "".join(
        f'<PAMRasterBand band="{band}"><NoDataValue>{band}</NoDataValue></PAMRasterBand>' for band in (1, 2)
    )
    (tmp_path / "x.img.aux.xml").write_text(f"<PAMDataset>{declared}</PAMDataset>")
    told = dict(lines(tmp_path / "x.img"))
    assert told["raster"].endswith("15 bands of int16, nodata by band")
    assert told["band 2"].endswith("nodata 2")
    assert told["band 3"].endswith("nodata none declared")
    assert "band 13" not in told
    assert told["further"] == "3 bands; 146 to 180"


@pytest.mark.parametrize(
    ("crs", "step", "said"),
    [
        ("EPSG:32632", 2.5, "2.5 x 2.5 m, EPSG:32632 ("),
        ("EPSG:25833+7837", 2, "2 x 2 m, EPSG:25833+7837 (ETRS89 / UTM zone 33N + DHHN2016 height), "),
        ("EPSG:4979", 1e-5, "1e-05 x 1e-05 degrees (1.113 x 1.106 m on the ground), EPSG:4979 (WGS 84), "),
        ("EPSG:3857", 1.194, "1.194 x 1.194 m (0.7918 x 0.7894 m on the ground), EPSG:3857 ("),
        (FT, 3, "3 x 3 US survey foot (0.9144 x 0.9144 m on the ground), EPSG:2264 ("),
        (None, 20, "20 x 20 units, no CRS, "),
    ],
)
def test_pixels_have_the_size_of_the_crs_and_that_on_the_ground(crs, step, said, tmp_path):
    place = {FT: (2e6, 6e5), "EPSG:3857": (1e6, 6.2e6), "EPSG:4979": (0, 0)}.get(crs, (5e5, 5e6))
    path = rasters.write(tmp_path / "x.tif", np.ones((20, 20), "uint8"), rasters.grid(*place, step), crs)
    assert f"20 x 20 pixels of {said}" in dict(lines(path))["raster"]


def test_of_a_pair_the_source_has_its_unit_and_values_and_the_output_its_whole_crs(tmp_path):
    source, guide = make_pair(tmp_path, crs="EPSG:32632+5773")
    with rasterio.open(source, "r+") as dataset:
        dataset.units = ["m"]
        values = dataset.read(1)
    told = dict(lines(source, guide, "--method", "bicubic"))
    assert "1 band of float32 in m, nodata" in told["source"]
    numbers = f"{values.min():.6g} to {values.max():.6g} m, mean {values.mean():.6g}"
    assert told["values"] == f"{numbers}, standard deviation {values.std():.6g}"
    for name in ("source", "output"):
        assert "EPSG:32632+5773 (WGS 84 / UTM zone 32N + EGM96 height)" in told[name]


def test_of_a_huge_raster_a_sample_is_read_in_little_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(contents, "_MOST", most := 1 << 24)
    side = 60_000
    profile = {"driver": "GTiff", "width": side, "height": side, "count": 1, "dtype": "uint8", "crs": rasters.UTM}
    more = {"tiled": True, "blockxsize": 512, "blockysize": 512, "SPARSE_OK": True, "BIGTIFF": "YES"}
    with rasterio.open(tmp_path / "x.tif", "w", transform=rasters.grid(5e5, 5e6, 1), **profile, **more):
        pass
    raster = describe_guide(tmp_path / "x.tif")
    tracemalloc.start()
    found = measure_contents(raster)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.sampled
    assert 0.8 * most < found.pixels < 1.2 * most
    assert peak < 100e6
    assert found.bands[0].high == 0
    assert dict(lines(tmp_path / "x.tif"))["valid"] == "about 100% of the pixels; as the values, of a sample of them"
