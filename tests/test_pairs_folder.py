"""The folder of aligned pairs: files, index and outlines, against plain rasterio and pyproj."""

from __future__ import annotations

import csv
import json
import os

import numpy as np
import pyproj
import pytest
import rasterio
from affine import Affine
from outputs import block_means, opened, physical
from rasters import grid, shared_data, write

from geosr import pairs_folder
from geosr.errors import InputError, OutputError, UsageError
from geosr.options import Inputs
from geosr.pairs_folder import write_pairs

ROTATED = grid(461_200, 5_211_400, 2, rotation=20)


@pytest.fixture
def pair(tmp_path):
    """A rotated source with a hole that swallows a tile, and a guide with a gap that lies on its high grid."""
    (tmp_path / "in").mkdir()
    values = np.random.default_rng(1).normal(100, 9, (50, 60)).astype("float32")
    values[24:, :32] = -9999
    values[3, 4] = -9999
    image = np.random.default_rng(2).integers(1, 255, (3, 200, 240), "uint8")
    image[:, :30, 100:140] = 0
    return (
        write(tmp_path / "in" / "source.tif", values, ROTATED, "EPSG:32633", nodata=-9999),
        write(tmp_path / "in" / "guide.tif", image, ROTATED * Affine.scale(0.25), "EPSG:32633", nodata=0),
    )


def read_index(folder):
    with (folder / "index.csv").open(newline="") as file:
        return [*csv.DictReader(file)]


def test_tiles_have_the_sources_unit_and_name_and_notes_are_told(tmp_path, pair):
    with rasterio.open(pair[0], "r+") as dataset:
        dataset.units, dataset.descriptions = ["m"], ["surface"]
    notes = []
    write_pairs(Inputs(*pair, 6), tmp_path / "pairs", tile=96, tell=notes.append)
    first = next((tmp_path / "pairs" / "source").iterdir())
    with rasterio.open(first) as dataset:
        assert (dataset.units, dataset.descriptions) == (("m",), ("surface",))
    assert any("coarser than the output" in note for note in notes)


def test_files_are_what_the_index_says(tmp_path, pair):
    folder = tmp_path / "pairs"
    count = write_pairs(Inputs(*pair, 4), folder, tile=100)
    rows = read_index(folder)
    assert len(rows) == count > 4
    files = {str(path.relative_to(folder)) for path in folder.rglob("*.tif")}
    assert files == {row[name] for row in rows for name in ("source", "guide")}
    with rasterio.open(pair[0]) as given, rasterio.open(pair[1]) as sharp:
        values, image = given.read(1, masked=True), sharp.read()
        shown = (image != 0).any(axis=0)
    covered = np.zeros(shown.shape, bool)
    for row in rows:
        top, left, height, width = (int(row[name]) for name in ("row", "col", "height", "width"))
        assert max(height, width) <= 100
        part = slice(top, top + height), slice(left, left + width)
        low = slice(top // 4, (top + height) // 4), slice(left // 4, (left + width) // 4)
        covered[part] = True
        with rasterio.open(folder / row["source"]) as source, rasterio.open(folder / row["guide"]) as guide:
            assert source.crs == guide.crs == rasterio.CRS.from_epsg(32633)
            assert source.transform.almost_equals(ROTATED * Affine.translation(left // 4, top // 4), 1e-6)
            assert guide.transform.almost_equals(ROTATED * Affine.scale(0.25) * Affine.translation(left, top), 1e-6)
            assert (source.dtypes, guide.dtypes) == (("float32",), ("uint8",) * 3)
            expected = np.ma.filled(values[low], np.nan)
            np.testing.assert_array_equal(source.read(1), expected)
            assert np.isnan(source.nodata)
            np.testing.assert_array_equal(guide.read_masks(1) > 0, shown[part])
            np.testing.assert_array_equal(guide.read() * shown[part], image[(slice(None), *part)] * shown[part])
            assert float(row["source_valid"]) == pytest.approx(np.isfinite(expected).mean(), abs=1e-4)
            assert float(row["guide_valid"]) == pytest.approx(shown[part].mean(), abs=1e-4)
    missing = ~covered[::4, ::4]
    assert missing.any()
    assert np.ma.getmaskarray(values)[missing].all()


def test_outlines_are_in_degrees(tmp_path, pair):
    folder = tmp_path / "pairs"
    write_pairs(Inputs(*pair, 4), folder, tile=100)
    found = json.loads((folder / "index.geojson").read_text())
    rows = read_index(folder)
    to_degrees = pyproj.Transformer.from_crs("EPSG:32633", "EPSG:4326", always_xy=True)
    assert found["type"] == "FeatureCollection"
    for feature, row in zip(found["features"], rows, strict=True):
        assert {name: str(value) for name, value in feature["properties"].items()} == row
        assert feature["geometry"]["type"] == "Polygon"
        ring = np.array(feature["geometry"]["coordinates"][0])
        with rasterio.open(folder / row["guide"]) as guide:
            corners = [guide.transform * c for c in ((0, 0), (guide.width, 0), (guide.width, guide.height),
                                                     (0, guide.height))]  # fmt: skip
        for corner in corners:
            lon, lat = to_degrees.transform(*corner)
            assert np.hypot(*(ring - (lon, lat)).T).min() < 1e-8
        assert np.ptp(ring, axis=0).max() < 0.01


def test_a_real_pair(tmp_path):
    folder = shared_data() / "neon_bart"
    source, guide = (
        folder / "NEON_D01_BART_DP3_320000_4881000_CHM_crop.tif",
        folder / ("2019_BART_5_320000_4881000_image_crop.tif"),
    )
    count = write_pairs(Inputs(source, guide, 5), tmp_path / "pairs")
    assert count == 4
    whole = physical(source)
    for row in read_index(tmp_path / "pairs"):
        made = physical(tmp_path / "pairs" / row["source"])
        top, left = int(row["row"]) // 5, int(row["col"]) // 5
        np.testing.assert_array_equal(made, whole[top : top + made.shape[0], left : left + made.shape[1]])


def test_a_coarser_guide_does_not_wrap_around(tmp_path):
    """Cubic interpolation overshoots: white beside black must not come out as 3 or 252."""
    image = np.kron(np.random.default_rng(2).integers(0, 2, (20, 20)) * 255, np.ones((2, 2))).astype("uint8")
    source = write(tmp_path / "source.tif", np.random.default_rng(1).normal(9, 1, (20, 20)), grid(0, 0, 4))
    guide = write(tmp_path / "guide.tif", image[None], grid(0, 0, 2))
    write_pairs(Inputs(source, guide, 8), tmp_path / "pairs")
    with opened(tmp_path / "pairs" / "guide" / "00000.tif") as made:
        means = block_means(made.read(1).astype(float), 4)
    assert np.abs(means - image).max() < 60


def test_float_guides_and_grids_without_crs(tmp_path):
    source = write(tmp_path / "source.tif", np.random.default_rng(1).normal(9, 1, (20, 20)), grid(0, 0, 4), None)
    guide = write(tmp_path / "guide.tif", np.random.default_rng(1).normal(9, 1, (80, 80)), grid(0, 0, 1), None)
    write_pairs(Inputs(source, guide, 4), tmp_path / "pairs")
    with opened(tmp_path / "pairs" / "guide" / "00000.tif") as made, opened(guide) as given:
        assert made.dtypes == ("float32",)
        np.testing.assert_allclose(made.read(), given.read(), atol=1e-5)
    found = json.loads((tmp_path / "pairs" / "index.geojson").read_text())
    assert found["features"][0]["geometry"] is None


def test_modes_follow_the_umask(tmp_path, pair):
    old = os.umask(0o027)
    try:
        write_pairs(Inputs(*pair, 4), tmp_path / "pairs")
    finally:
        os.umask(old)
    assert (tmp_path / "pairs").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "pairs" / "index.csv").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "pairs" / "source" / "00000.tif").stat().st_mode & 0o777 == 0o640


def left(tmp_path):
    return [path.name for path in tmp_path.iterdir() if path.name != "in"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "ctrl-c"])
def test_nothing_is_left_of_a_failure(tmp_path, pair, monkeypatch, error):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(pairs_folder, "_write_index", fail)
    with pytest.raises(OutputError if isinstance(error, OSError) else KeyboardInterrupt, match=r"No space|^$"):
        write_pairs(Inputs(*pair, 4), tmp_path / "pairs")
    assert left(tmp_path) == []


def test_refusals(tmp_path, pair):
    with pytest.raises(UsageError, match="smaller than one source pixel"):
        write_pairs(Inputs(*pair, 4), tmp_path / "pairs", tile=3)
    with pytest.raises(UsageError, match="scale"):
        write_pairs(Inputs(*pair, 1000), tmp_path / "pairs")
    with pytest.raises(InputError):
        write_pairs(Inputs(tmp_path / "nothing.tif", pair[1], 4), tmp_path / "pairs")
    with pytest.raises(OutputError, match="make the folder first"):
        write_pairs(Inputs(*pair, 4), tmp_path / "nowhere" / "pairs")
    assert left(tmp_path) == []
    (tmp_path / "pairs").mkdir()
    with pytest.raises(UsageError, match="exists"):
        write_pairs(Inputs(*pair, 4), tmp_path / "pairs")
