"""DFC2019's multispectral images and its Track 3, each written small in the layout that its documentation gives."""

import json

import numpy as np
import pyproj
import pytest
import rasterio
import tifffile
from odc.geo.geobox import GeoBox
from outputs import block_means, check_means, opened, physical
from pairs import geosr, write_view
from rasterio.rpc import RPC
from rasters import grid, pixel_centres, write

from geosr.dfc2019 import read_msi
from geosr.errors import InputError
from geosr.ortho import Surface, off_nadir, orthorectify

SIDE, STEP = 48, 0.5
LEFT, BOTTOM = 436000.0, 3354000.0
PLACE = grid(LEFT, BOTTOM + SIDE * STEP, STEP)
TO_DEGREES = pyproj.Transformer.from_crs("EPSG:32617", "EPSG:4326", always_xy=True)


def batch(folder, name, *more, method="bicubic"):
    place = ("-o", folder / "out/{stem}_x{scale}.tif", "--method", method, "--summary", folder / "s.json")
    done = geosr("batch", "--dataset", name, folder / "set", *place, *more)
    content = json.loads((folder / "s.json").read_text()) if (folder / "s.json").exists() else {}
    return done, {pair["name"]: pair for pair in content.get("pairs", [])}


def write_msi(folder, name, heights):
    """As the contest's files are: (rows, columns, 8) of uint16, by tifffile."""
    bands = np.stack([np.nan_to_num(heights) * 20 * (band + 1) + band for band in range(8)], axis=-1).astype("uint16")
    (folder / "Track1-MSI").mkdir(exist_ok=True)
    tifffile.imwrite(folder / "Track1-MSI" / f"{name}_MSI.tif", bands)
    return np.moveaxis(bands, -1, 0)


def test_multispectral_images_are_read_as_they_were_meant(tmp_path):
    heights = write_view(tmp_path / "set", "JAX_004_006")
    bands = write_msi(tmp_path / "set", "JAX_004_006", heights)
    path = tmp_path / "set/Track1-MSI/JAX_004_006_MSI.tif"
    with opened(path) as dataset:  # what makes it necessary
        assert (dataset.count, dataset.shape) == (1, (640, 8))
    done, pairs = batch(tmp_path, "dfc2019-msi", "--scale", 4)
    assert done.code == 0, done.err
    assert len(pairs) == 4
    with opened(tmp_path / "out/inputs/JAX_004_006_320_0_x4_guide.tif") as guide:
        np.testing.assert_array_equal(guide.read(), bands[:, 320:, :320])
    source = tmp_path / "out/inputs/JAX_004_006_320_0_x4_source.tif"
    np.testing.assert_allclose(physical(source), block_means(heights[320:, :320].astype(float), 4), rtol=1e-6)
    check_means(source, tmp_path / "out/JAX_004_006_320_0_x4.tif", 4)
    write(path, bands)  # rewritten by GDAL, as some have it
    np.testing.assert_array_equal(read_msi(path), bands)


def test_what_is_no_multispectral_image_is_refused(tmp_path):
    path = tmp_path / "JAX_004_006_MSI.tif"
    tifffile.imwrite(path, np.zeros((6, 7, 5), "uint16"))
    with pytest.raises(InputError, match="eight bands are needed"):
        read_msi(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="cannot be read"):
        read_msi(path)
    write_view(tmp_path / "set", "JAX_004_006")
    refused, _ = batch(tmp_path, "dfc2019-msi")
    assert refused.code == 3
    assert "found 0 _MSI.tif and 1 _AGL.tif" in refused.err


def write_tile(folder, tile="JAX_004"):
    """A surface with a block 12 m high and a hole, and where it lies."""
    (folder / "Track3-Truth").mkdir(parents=True, exist_ok=True)
    row, col = np.mgrid[:SIDE, :SIDE]
    heights = (-20 + 0.05 * row + 0.02 * col).astype("float32")
    heights[16:32, 20:32] += 12
    heights[0:4, 0:4] = -999
    write(folder / "Track3-Truth" / f"{tile}_DSM.tif", heights, PLACE.identity(), None)
    text = f"{LEFT:.2f}\n{BOTTOM:.2f}\n{SIDE}\n{STEP}\n"
    (folder / "Track3-Truth" / f"{tile}_DSM.txt").write_text(text)
    return heights


def rpcs(lean):
    """A view whose rows follow latitudes, columns longitudes and, by `lean`, heights: about 0.3 m a pixel."""
    lon, lat = TO_DEGREES.transform(LEFT + 12, BOTTOM + 12)
    plain = [0.0] * 20
    one = [1.0] + [0.0] * 19
    line, sample = plain.copy(), plain.copy()
    line[2] = -1.0  # latitude
    sample[1], sample[3] = 1.0, lean  # longitude, height
    return RPC(-20, 100, lat, 0.0002, one, line, 60, 74, lon, 0.0002, one, sample, 64, 64)


def shown(rows, cols):
    """Smooth bands, so that interpolation errs little."""
    return np.stack([100 + 40 * np.sin(rows / 9) + cols * 0.2, 80 + 30 * np.cos(cols / 8), 60 + 0.3 * rows])


def write_image(folder, name, lean, side=128, hole=None):
    (folder / "Track3-RGB").mkdir(parents=True, exist_ok=True)
    image = np.rint(shown(*(np.mgrid[:side, :side] + 0.5))).astype("uint8")
    if hole:
        image[:, *hole] = 0
    path = folder / "Track3-RGB" / f"{name}_RGB.tif"
    return write(path, image, PLACE.identity(), None, nodata=0 if hole else None, rpcs=rpcs(lean))


def expected_guide(surface, lean):
    """Each pixel's place over the surface, by pyproj and the definition of RPCs, looked up in the image."""
    view = rpcs(lean)
    lon, lat = TO_DEGREES.transform(*pixel_centres(PLACE, (SIDE, SIDE)))
    x, y = (lon - view.long_off) / view.long_scale, (lat - view.lat_off) / view.lat_scale
    z = (surface - view.height_off) / view.height_scale
    rows, cols = -y * view.line_scale + view.line_off, (x + lean * z) * view.samp_scale + view.samp_off
    return shown(rows + 0.5, cols + 0.5)  # RPCs count from pixel centres


def test_track_3_is_orthorectified_over_its_source(tmp_path):
    heights = write_tile(tmp_path / "set")
    write_image(tmp_path / "set", "JAX_004_006", lean=2.0)
    write_image(tmp_path / "set", "JAX_004_007", lean=0.5)
    done, pairs = batch(tmp_path, "dfc2019-track3", "--scale", 4)
    assert done.code == 0, done.err
    assert [*pairs] == ["JAX_004"]
    parts = {part: tmp_path / f"out/inputs/JAX_004_x4_{part}.tif" for part in ("source", "guide", "truth")}
    truth = np.where(heights == -999, np.nan, heights.astype(float))
    np.testing.assert_allclose(physical(parts["source"]), block_means(truth, 4), rtol=1e-6)
    np.testing.assert_allclose(physical(parts["truth"]), truth)
    places = {"source": grid(LEFT, BOTTOM + SIDE * STEP, 2), "guide": PLACE, "truth": PLACE}
    for part, place in places.items():
        with rasterio.open(parts[part]) as made:
            assert (made.crs.to_epsg(), made.transform) == (32617, place)
    check_means(parts["source"], tmp_path / "out/JAX_004_x4.tif", 4)
    with rasterio.open(tmp_path / "out/JAX_004_x4.tif") as made:
        assert (made.crs.to_epsg(), made.transform) == (32617, PLACE)
    with rasterio.open(parts["guide"]) as made:
        guide = made.read()
    coarse = np.kron(block_means(np.nan_to_num(truth, nan=-20.0), 4), np.ones((4, 4)))
    over, flat = expected_guide(coarse, 0.5), expected_guide(np.full_like(coarse, -20), 0.5)
    plain, roof = np.s_[:, 38:46, 6:42], np.s_[:, 21:27, 24:29]  # away from edges, where heights are interpolated
    assert np.abs(guide - over)[plain].max() < 0.9
    assert np.abs(guide - over)[roof].max() < 0.9
    assert np.abs(guide - flat)[1][roof[1:]].max() > 10  # it would not do without the heights


def test_where_an_image_has_no_data_nothing_is_seen(tmp_path):
    surface = np.full((SIDE, SIDE), -20.0)
    place = GeoBox((SIDE, SIDE), PLACE, "EPSG:32617")
    views = {}
    for hole in (None, np.s_[50:64, 60:80]):
        path = write_image(tmp_path, f"view{len(views)}", lean=0.0, hole=hole)
        views[hole is not None] = orthorectify(path, place, Surface(surface, place))
    assert views[False][1].all()
    image, seen = views[True]
    assert 0 < (~seen).sum() < seen.size / 2
    assert not image[:, ~seen].any()
    np.testing.assert_allclose(image[:, seen], views[False][0][:, seen], atol=2)  # nor does it darken what is beside


def test_the_angle_of_a_view(tmp_path):
    for lean in (0.0, 0.5, 2.0):
        path = write_image(tmp_path, f"JAX_004_{lean}", lean)
        view = rpcs(lean)
        lon, lat = view.long_off, view.lat_off
        moved = pyproj.Geod(ellps="WGS84").inv(lon, lat, lon + lean * view.long_scale, lat)[2]  # for 100 m of height
        assert off_nadir(path) == pytest.approx(np.degrees(np.arctan2(moved, 100)), abs=0.01)


def test_a_broken_tile_does_not_stop_the_rest(tmp_path):
    for tile in ("JAX_004", "JAX_005", "JAX_006", "JAX_007"):
        write_tile(tmp_path / "set", tile)
        write_image(tmp_path / "set", f"{tile}_001", 0.2)
    write(tmp_path / "set/Track3-RGB/JAX_005_001_RGB.tif", np.zeros((3, 9, 9), "uint8"), PLACE.identity(), None)
    (tmp_path / "set/Track3-RGB/JAX_006_001_RGB.tif").unlink()
    (tmp_path / "set/Track3-Truth/JAX_007_DSM.txt").write_text("1 2 3")
    done, pairs = batch(tmp_path, "dfc2019-track3", "--scale", 4)
    assert done.code == 5
    assert {name: pair["status"] for name, pair in pairs.items()} == {
        "JAX_004": "done",
        "JAX_005": "failed",
        "JAX_007": "failed",
    }
    assert "has no RPCs" in pairs["JAX_005"]["why"]
    assert "easting, northing, pixels" in pairs["JAX_007"]["why"]
    empty, _ = batch(tmp_path, "dfc2019-msi")
    assert empty.code == 3
