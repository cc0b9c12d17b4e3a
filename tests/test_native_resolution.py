"""A source on finer pixels than were measured: averaged first, then as if it had been delivered so."""

import json

import numpy as np
import pytest
import rasterio
from outputs import check_means, physical, run
from pairs import geosr, make_pair, upscale
from pyproj import Transformer
from rasters import grid, plain_read, shared_data, write

from geosr import raster
from geosr.describe import describe_source
from geosr.errors import InputError, UsageError
from geosr.events import Note, Progress
from geosr.grid import Window

NATIVE = ("--native-resolution", 12)  # 3 x 3 pixels of 4 m


def holed(folder, side=26):
    """A pair of 4 m and 1 m with gaps in the source: one block of 3 x 3 with four valid pixels, one with five."""
    source, guide = make_pair(folder, size=side, nodata=-9999)
    with rasterio.open(source, "r+") as dataset:
        values = dataset.read(1) + np.random.default_rng(3).normal(size=(side, side)).astype("float32")
        values[3, 3:6] = values[4, 3:5] = values[6, 3:6] = values[7, 3] = -9999
        dataset.write(values, 1)
    return source, guide


def pooled(path, times):
    """Means of blocks with at least half of their pixels valid, by the definition."""
    values = physical(path)
    rows, cols = (side // times for side in values.shape)
    means = np.full((rows, cols), np.nan)
    for row, col in np.ndindex(rows, cols):
        block = values[row * times : (row + 1) * times, col * times : (col + 1) * times]
        if np.isfinite(block).sum() >= times * times / 2:
            means[row, col] = np.nanmean(block)
    return means


def test_metres_are_those_on_the_ground(tmp_path):
    """At 60 degrees north a pixel of 20 m in Web Mercator is one of 10 m."""
    place = grid(*Transformer.from_crs("EPSG:4326", "EPSG:3857", always_xy=True).transform(10, 60), 20)
    source = write(tmp_path / "source.tif", np.arange(3600.0).reshape(60, 60), place, "EPSG:3857")
    assert describe_source(source, native_resolution=40).pooled == 4


def test_the_result_is_that_of_the_averaged_source(tmp_path):
    source, _ = holed(tmp_path)
    means = pooled(source, 3)
    assert (means.shape, np.isnan(means).tolist().count([False] * 8)) == ((8, 8), 7)
    assert np.isnan(means[1, 1])
    assert np.isfinite(means[2, 1])
    write(tmp_path / "averaged.tif", means, grid(500000, 5000000, 12), nodata=np.nan)
    done = upscale(tmp_path, "--scale", 6, *NATIVE, method="diffusion")
    assert done.code == 0, done.err
    assert "source.tif: 3 x 3 pixels averaged to 12 x 12 m, for --native-resolution 12" in done.err
    alone = upscale(tmp_path, "--scale", 6, source="averaged.tif", output="alone.tif", method="diffusion")
    assert alone.code == 0, alone.err
    with rasterio.open(tmp_path / "out.tif") as made:
        assert (made.transform, made.shape) == (grid(500000, 5000000, 2), (48, 48))
        assert made.tags()["GEOSR_NATIVE_RESOLUTION"] == "12"
        assert made.tags()["GEOSR_POOLED"] == "3 x 3"
    np.testing.assert_allclose(physical(tmp_path / "out.tif"), physical(tmp_path / "alone.tif"), rtol=2e-7)
    check_means(tmp_path / "averaged.tif", tmp_path / "out.tif", 6)


@pytest.mark.parametrize("seed", range(4))
def test_windows_are_averaged_as_the_whole(tmp_path, seed):
    rng = np.random.default_rng(seed)
    rows, cols = rng.integers(20, 60, 2)
    values = rng.normal(280, 5, (rows, cols)).astype("float32")
    values[rng.random((rows, cols)) < 0.4] = np.nan
    turned = grid(500000, 5000000, 7, 9, rotation=20)
    path = write(tmp_path / "source.tif", values, turned, nodata=np.nan, scale=0.5, offset=100)
    times = int(rng.integers(2, 6))
    file = describe_source(path, native_resolution=8.3 * times)
    expected = pooled(path, times)
    assert (file.shape, file.geobox.affine) == (expected.shape, turned * turned.scale(times))
    np.testing.assert_allclose(np.where(*raster.read_source(file)[::-1], np.nan), expected, rtol=1e-12)
    row, col = rng.integers(0, expected.shape[0] - 2), rng.integers(0, expected.shape[1] - 2)
    part, valid = raster.read_source(file, Window(row, col, 2, 2))
    np.testing.assert_allclose(np.where(valid, part, np.nan), expected[row : row + 2, col : col + 2], rtol=1e-12)


def test_every_command_that_takes_a_pair_has_it(tmp_path):
    source, guide = holed(tmp_path)
    assert "8 x 8 source pixels" in geosr("info", source, guide, "--scale", 4, *NATIVE).out
    assert geosr("tile", source, guide, "-o", tmp_path / "tiles", *NATIVE).code == 0
    tile = next((tmp_path / "tiles/source").iterdir())
    np.testing.assert_allclose(plain_read(tile), pooled(source, 3), rtol=1e-6)
    page = tmp_path / "out.html"
    assert upscale(tmp_path, *NATIVE, "--report", page, "--bounds", 500025, 4999950, 500060, 4999990).code == 0
    with rasterio.open(tmp_path / "out.tif") as made:  # widened to whole averaged pixels
        assert (made.transform, made.shape) == (grid(500024, 5000000, 3), (20, 12))
    assert page.stat().st_size > 1000
    place = ("--source", source, "--json", tmp_path / "s.json")
    scored = geosr("evaluate", tmp_path / "out.tif", guide, "--band", 1, *place)
    assert scored.code == 0, scored.err
    assert json.loads((tmp_path / "s.json").read_text())["consistency_max"] < 1e-4


def test_a_batch_skips_only_what_was_averaged_alike(tmp_path):
    holed(tmp_path)
    (tmp_path / "pairs.csv").write_text("source,guide\nsource.tif,guide.tif\n")
    pairs = ("--manifest", tmp_path / "pairs.csv", "-o", tmp_path / "out.tif", "--method", "bicubic")
    assert geosr("batch", *pairs, *NATIVE).code == 0
    assert "1 skipped" in geosr("batch", *pairs, *NATIVE).out
    for other in ((), ("--native-resolution", 8)):
        refused = geosr("batch", *pairs, *other)
        assert refused.code == 5
        assert "made otherwise (native resolution)" in refused.out


def test_tiles_of_another_resolution_are_not_continued(tmp_path):
    source, guide = make_pair(tmp_path, size=96)

    def interrupt(event):
        if isinstance(event, Progress) and event.done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(source, guide, tmp_path / "out.tif", native_resolution=8.0, on_event=interrupt, tile=64)
    notes = []
    run(source, guide, tmp_path / "out.tif", native_resolution=12.0, on_event=notes.append, tile=64)
    (afresh,) = [note.text for note in notes if isinstance(note, Note) and "afresh" in note.text]
    assert "native_resolution" in afresh
    assert physical(tmp_path / "out.tif").shape == (128, 128)


def test_refusals(tmp_path):
    source, guide = make_pair(tmp_path)
    for metres in (0, 4, 5.9, 1e6, "nan"):
        refused = upscale(tmp_path, "--native-resolution", metres)
        assert refused.code == 2, refused.err
        assert "pixels are 4 m; give metres from one and a half times that on" in refused.err
    with pytest.raises(UsageError):
        run(source, guide, tmp_path / "out.tif", native_resolution=-12.0)
    bare = write(tmp_path / "bare.tif", physical(source), crs=None, nodata=np.nan)
    with pytest.raises(InputError, match="has no CRS: its pixels have no size in metres"):
        describe_source(bare, native_resolution=12)
    assert not (tmp_path / "out.tif").exists()


def test_degrees_are_brought_to_metres(tmp_path):
    values = np.random.default_rng(1).normal(300, 3, (40, 40)).astype("float32")
    path = write(tmp_path / "geo.tif", values, grid(10, 60, 0.0018, 0.0009), "EPSG:4326")  # 100 m both ways at 60 N
    assert describe_source(path, native_resolution=200).pooled == 2
    np.testing.assert_allclose(
        raster.read_source(describe_source(path, native_resolution=400))[0], pooled(path, 4), rtol=1e-6
    )


def test_a_real_thermal_band(tmp_path):
    folder = shared_data() / "landsat8_mendoza"
    (source,), (guide,) = folder.glob("*_band10.tif"), folder.glob("*_band4.tif")
    done = geosr(
        "upscale",
        *("--source", source, "--guide", guide, "--scale", 3, "--native-resolution", 100, "--method", "diffusion"),
        *("-o", tmp_path / "out.tif"),
    )
    assert done.code == 0, done.err
    assert "3 x 3 pixels averaged to 90 x 90 m" in done.err
    with rasterio.open(tmp_path / "out.tif") as made, rasterio.open(source) as given:
        rows, cols = (side // 3 * 3 for side in given.shape)
        assert (made.transform, made.crs, made.shape) == (given.transform, given.crs, (rows, cols))
    means = pooled(source, 3)
    blocks = physical(tmp_path / "out.tif").reshape(rows // 3, 3, cols // 3, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(blocks, means, rtol=1e-6)
