"""A folder of files is the one raster that they are cut from: rasterio's own merge says what that is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from rasterio.merge import merge
from rasters import UTM, grid, plain_read, write

from geosr import coordinates
from geosr.batch import _files_of as batch_files
from geosr.describe import describe_guide, describe_source
from geosr.encoding import Encoding
from geosr.errors import ChangedInputError, InputError
from geosr.grid import Window, crop
from geosr.inspection import inspect
from geosr.mosaic import lay_out, pieces, shrunk
from geosr.options import Execution, Inputs, Recipe
from geosr.pair_lists import Job
from geosr.plan import make_plan
from geosr.raster import glance_guide, read_guide, read_source
from geosr.samples import Sample, save_sample
from geosr.training_data import identities

X, Y = 500000.0, 5000000.0
SHAPE = (60, 80)
NODATA = -9999.0


def share_inside(low, guide):
    return coordinates.overlap_fraction(low, guide.geobox, guide.places)


def values(shape=SHAPE, seed=0, bands=1):
    return np.random.default_rng(seed).normal(50, 10, (bands, *shape)).astype(np.float32)


def cut(folder, array, windows, affine, **profile):
    """Files of windows of `array`, each (row, column, height, width), by number."""
    folder.mkdir(exist_ok=True)
    for number, (row, col, height, width) in enumerate(windows):
        part = array[:, row : row + height, col : col + width]
        write(folder / f"tile_{number:03}.tif", part, affine * Affine.translation(col, row), nodata=NODATA, **profile)
    return folder


def quarters(shape=SHAPE):
    rows, cols = shape
    top, left = rows // 3, cols // 2 + 3
    return [
        (0, 0, top, left),
        (0, left, top, cols - left),
        (top, 0, rows - top, left),
        (top, left, rows - top, cols - left),
    ]


@st.composite
def rectangles(draw):
    """Windows of SHAPE that reach into their neighbours, with gaps where some are left out."""
    edges = [
        sorted({0, side, *draw(st.lists(st.integers(8, side - 8).filter(lambda n: n % 8 == 0), max_size=3))})
        for side in SHAPE
    ]
    found = []
    for top, bottom in pairwise(edges[0]):
        for left, right in pairwise(edges[1]):
            if found and draw(st.booleans()):
                continue
            above, before = draw(st.integers(0, min(2, top))), draw(st.integers(0, min(2, left)))
            found.append((top - above, left - before, bottom - top + above, right - left + before))
    return found


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))  # a loaded machine is slow
@given(windows=rectangles(), seed=st.integers(0, 99))
def test_a_folder_is_what_rasterio_merges(tmp_path, windows, seed):
    """Values of overlapping files differ here: the first by name holds, where it has a pixel."""
    folder = tmp_path / "tiles"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    random = np.random.default_rng(seed)
    for number, window in enumerate(windows):
        array = values(seed=seed + number)
        array[:, random.random(SHAPE) < 0.2] = NODATA
        cut(tmp_path / "one", array, [window], grid(X, Y, 2))
        os.replace(tmp_path / "one" / "tile_000.tif", folder / f"tile_{number:03}.tif")
    expected, affine = merge(sorted(folder.glob("*.tif")), method="first", nodata=NODATA)
    described = describe_source(folder)
    assert described.shape == expected.shape[1:]
    assert described.geobox.affine == affine
    found, valid = read_source(described)
    np.testing.assert_array_equal(valid, expected[0] != NODATA)
    np.testing.assert_array_equal(found[valid], expected[0][valid])
    rows, cols = described.shape
    window = Window(rows // 4, cols // 3, max(rows // 2, 1), max(cols // 2, 1))
    part, there = read_source(described, window)
    np.testing.assert_array_equal(part, found[window.slices])
    np.testing.assert_array_equal(there, valid[window.slices])
    assert described.reaches(window) or not there.any()


@pytest.mark.parametrize("turn", [{}, {"rotation": 17.0}, {"south_up": True}])
def test_a_guide_in_tiles_is_the_guide_in_one(tmp_path, turn):
    """Bit for bit on any grid, and for a picture as well."""
    array, affine = values((300, 400), bands=3), grid(X, Y, 0.5, **turn)
    one = describe_guide(write(tmp_path / "one.tif", array, affine, nodata=NODATA))
    tiles = describe_guide(cut(tmp_path / "tiles", array, quarters((300, 400)), affine))
    assert tiles.geobox == one.geobox
    assert len(tiles.parts) == 4
    target = GeoBox((40, 56), affine * Affine.translation(70, 50) * Affine.scale(4.3) * Affine.rotation(5), UTM)
    for window in (Window(0, 0, 40, 56), Window(7, 11, 20, 30)):
        for ours, reference in zip(
            read_guide(tiles, crop(target, window), grid=target),
            read_guide(one, crop(target, window), grid=target),
            strict=True,
        ):
            np.testing.assert_array_equal(ours, reference)


def test_a_picture_of_a_guide_in_tiles_is_that_of_the_guide_in_one(tmp_path):
    """Each pixel says where it is: none lies more than half a pixel of the picture off."""
    array = np.mgrid[:300, :400].astype(np.float32) + 1
    one = describe_guide(write(tmp_path / "one.tif", array, grid(X, Y, 0.5), nodata=NODATA))
    tiles = describe_guide(cut(tmp_path / "tiles", array, quarters((300, 400)), grid(X, Y, 0.5)))
    coarse = GeoBox((15, 20), one.geobox.affine * Affine.scale(20), UTM)
    (ours, seen), (reference, expected) = glance_guide(tiles, coarse), glance_guide(one, coarse)
    np.testing.assert_array_equal(seen, expected)
    assert np.abs(ours - reference).max() <= 10
    assert np.abs(ours - reference).mean() < 1


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 500), st.integers(1, 60), st.lists(st.integers(0, 500), min_size=1, max_size=5))
def test_parts_that_touch_still_do_in_a_picture(length, pixels, cuts):
    edges = sorted({0, length, *(cut for cut in cuts if cut < length)})
    whole, shape = Window(10, 20, length, length), (pixels, pixels)
    shown = np.zeros(shape, int)
    for start, end in pairwise(edges):
        part = Window(10 + start, 20, end - start, length)
        shown[shrunk(part, whole, shape).slices] += 1
    assert (shown == 1).all()


def test_where_parts_lie_is_that_of_their_corners():
    boxes = [GeoBox((10, 10), grid(X + dx, Y - dy, 2), UTM) for dx, dy in ((40, 0), (0, 0), (20, 60))]
    whole, windows = lay_out(boxes, ["a", "b", "c"])
    assert windows == [Window(0, 20, 10, 10), Window(0, 0, 10, 10), Window(30, 10, 10, 10)]
    assert whole == GeoBox((40, 30), grid(X, Y, 2), UTM)
    assert list(pieces(windows, Window(5, 5, 27, 16))) == [
        (0, Window(5, 20, 5, 1)),
        (1, Window(5, 5, 5, 5)),
        (2, Window(30, 10, 2, 10)),
    ]


def two(folder, second, **profile):
    """A folder of a plain raster and another."""
    folder.mkdir()
    write(folder / "a.tif", values(), grid(X, Y, 2), nodata=NODATA)
    array, affine = second
    write(folder / "b.tif", array, affine, **{"nodata": NODATA, **profile})
    return folder


BESIDE = grid(X + 160, Y, 2)
MISFITS = {
    "half a pixel": (
        (values(), grid(X + 161, Y, 2)),
        {},
        ["on the grid of tiles/a.tif", "0.50 of a pixel"],
    ),
    "a fiftieth": ((values(), grid(X + 160.04, Y, 2)), {}, ["0.02 of a pixel", "gdalwarp"]),
    "another size": ((values(), grid(X + 160, Y, 2.001)), {}, ["1.0005 x 1.0005"]),
    "turned": ((values(), grid(X + 160, Y, 2, rotation=1)), {}, ["or turned"]),
    "CRS": ((values(), BESIDE), {"crs": "EPSG:32633"}, ["another CRS than a.tif"]),
    "no CRS": ((values(), BESIDE), {"crs": None}, ["another CRS"]),
    "bands": ((values(bands=2), BESIDE), {}, ["another number of bands"]),
    "type": ((values().astype(np.int16), BESIDE), {}, ["another data type"]),
    "heights": ((values(), BESIDE), {"crs": f"{UTM}+5773"}, ["another CRS"]),
    "scale": ((values(), BESIDE), {"scale": 0.1}, ["another scale or offset"]),
    "no position": ((values(), Affine.identity()), {"crs": None}, ["has no position"]),
}


@pytest.mark.parametrize("what", MISFITS)
def test_files_that_are_not_one_raster_are_refused_by_name(tmp_path, what):
    second, profile, words = MISFITS[what]
    folder = two(tmp_path / "tiles", second, **profile)
    with pytest.raises(InputError) as error:
        describe_guide(folder)
    assert all(word in str(error.value) for word in ["b.tif", *words])


def test_a_unit_may_have_two_names(tmp_path):
    folder = two(tmp_path / "tiles", (values(), BESIDE))
    for name, unit in (("a", "m"), ("b", "metre")):
        with rasterio.open(folder / f"{name}.tif", "r+") as dataset:
            dataset.units = [unit]
    assert describe_source(folder).units == "m"


def test_metres_and_feet_are_not_one_raster(tmp_path):
    folder = two(tmp_path / "tiles", (values(), BESIDE))
    write(folder / "c.tif", values(), grid(X + 320, Y, 2), nodata=NODATA)
    for name, unit in (("b", "m"), ("c", "ft")):  # the first says nothing
        with rasterio.open(folder / f"{name}.tif", "r+") as dataset:
            dataset.units = [unit]
    with pytest.raises(InputError, match=r"c\.tif: has another unit than"):
        describe_source(folder)


def test_files_too_far_apart_for_what_they_hold_are_refused(tmp_path):
    folder = two(tmp_path / "tiles", (values(), grid(X + 600_000, Y + 600_000, 2)))
    with pytest.raises(InputError, match="so far apart that together they are 300080 x 300060 pixels"):
        describe_source(folder)


def test_a_file_of_one_pixel_in_a_row_is_a_part_like_any_other(tmp_path):
    array = values((33, 65))
    tiles = [(row, col, min(32, 33 - row), min(32, 65 - col)) for row in (0, 32) for col in (0, 32, 64)]
    found, valid = read_source(describe_source(cut(tmp_path / "tiles", array, tiles, grid(X, Y, 2))))
    assert valid.all()
    np.testing.assert_array_equal(found, array[0])


def test_a_hundredth_of_a_pixel_is_as_good_as_none(tmp_path):
    folder = two(tmp_path / "tiles", (values(), grid(X + 160.015, Y, 2)))
    assert describe_guide(folder).shape == (SHAPE[0], 2 * SHAPE[1])


def test_pictures_and_hidden_files_are_passed_over_and_folders_told(tmp_path):
    folder = cut(tmp_path / "tiles", values(), quarters(), grid(X, Y, 2))
    write(folder / "preview.png", np.zeros((20, 20), np.uint8), Affine.identity(), None, driver="PNG")
    (folder / ".part.tif").write_bytes(b"half a file")
    (folder / "notes.txt").write_text("made by hand")
    (folder / "empty").mkdir()
    assert describe_source(folder).warnings == ("tiles: 4 GeoTIFF files taken for one raster",)
    cut(folder / "north", values(), quarters(), grid(X, Y + 120, 2))
    found = describe_source(folder)
    assert len(found.parts) == 4
    assert "tiles: rasters in its folders north are not read" in found.warnings
    (folder / "more.tif").mkdir()
    with pytest.raises(InputError, match=r"more\.tif: is a folder"):
        describe_source(folder)


@pytest.mark.parametrize("placed", [True, False])
def test_a_folder_of_two_kinds_of_rasters_is_refused(tmp_path, placed):
    """A picture with a world file is a raster; the tiles would be gone where the other kind is taken."""
    folder = cut(tmp_path / "tiles", values(), quarters(), grid(X, Y, 2))
    write(folder / "preview.jpg", np.zeros((20, 20), np.uint8), Affine.identity(), None, driver="JPEG")
    if placed:
        (folder / "preview.jgw").write_text("2\n0\n0\n-2\n0\n0\n")
    else:
        (folder / "dem.asc").write_text("ncols 2\nnrows 2\nxllcorner 0\nyllcorner 0\ncellsize 2\n1 2\n3 4\n")
    with pytest.raises(InputError, match=r"holds 4 GeoTIFF files and 1 (JPEG|Arc/Info ASCII grid) files"):
        describe_source(folder)


def test_a_folder_without_rasters_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(InputError, match=r"a folder without rasters\n"):
        describe_source(tmp_path)
    cut(tmp_path / "north", values(), quarters(), grid(X, Y, 2))
    with pytest.raises(InputError, match=r"without rasters: those in its folders \(north\) are not read"):
        describe_source(tmp_path)


def test_files_that_show_other_things_of_the_same_ground_are_refused(tmp_path):
    """Bands in files of their own; a surface and the ground below it. The same twice does no harm."""
    folder = cut(tmp_path / "tiles", values(), [(0, 0, *SHAPE)], grid(X, Y, 2))
    shutil.copy(folder / "tile_000.tif", folder / "copy.tif")
    found, _ = read_source(describe_source(folder))
    np.testing.assert_array_equal(found, values()[0])
    cut(tmp_path / "other", values(seed=1), [(0, 0, 40, 80)], grid(X, Y, 2))
    os.replace(tmp_path / "other" / "tile_000.tif", folder / "b04.tif")
    with pytest.raises(InputError, match=r"copy\.tif and b04\.tif cover the same ground with other values"):
        describe_source(folder)


def test_nodata_of_one_file_is_no_value_of_another(tmp_path):
    """Where one declares 0 and the others hold it: their zeros stay what they are."""
    array = np.zeros((1, *SHAPE), np.int16)
    array[:, ::7] = 3
    folder = cut(tmp_path / "tiles", array, quarters(), grid(X, Y, 2))
    with rasterio.open(folder / "tile_000.tif", "r+") as dataset:
        dataset.nodata = 0
    source = describe_source(folder)
    assert source.nodata is None
    assert any("do not declare one nodata value" in note for note in source.warnings)
    _, valid = read_source(source)
    top, left = quarters()[0][2:]
    assert valid.sum() == valid.size - (array[0, :top, :left] == 0).sum()
    assert Encoding.choose(source, "int16").nodata == -32768


def test_what_only_one_file_says_is_not_said_of_all(tmp_path):
    folder = cut(tmp_path / "tiles", values(), quarters(), grid(X, Y, 2))
    for number in range(4):
        with rasterio.open(folder / f"tile_{number:03}.tif", "r+") as dataset:
            dataset.update_tags(SENSOR="one", SHEET=str(number))
            dataset.set_band_description(1, f"sheet {number}")
    source = describe_source(folder)
    assert source.tags == {"SENSOR": "one"}
    assert source.description is None


def test_gaps_between_files_have_no_tiles_and_count_in_the_shares(tmp_path):
    """Two files far apart: what lies between is nodata, and neither the statistics nor `info` look for it there."""
    coarse = grid(X, Y, 4)
    (tmp_path / "dsm").mkdir()
    for name, col in (("a", 0), ("b", 2000)):
        write(tmp_path / "dsm" / f"{name}.tif", values((60, 80)), coarse * Affine.translation(col, 0), nodata=NODATA)
    write(tmp_path / "ortho.tif", values((240, 320), bands=3), grid(X, Y, 1), nodata=NODATA)
    plan = make_plan(Inputs(tmp_path / "dsm", tmp_path / "ortho.tif", 4), Recipe(method="bicubic"))
    assert 0 < len(plan.tiles) < 10
    found = inspect(plan.inputs, plan.recipe, Execution("cpu"))
    assert (found.source_valid.value, found.guide_valid.value) == pytest.approx((160 / 2080, 80 / 2080), rel=0.02)
    assert upscale(tmp_path / "dsm", tmp_path / "ortho.tif", tmp_path / "out.tif").returncode == 0
    made = plain_read(tmp_path / "out.tif")
    assert made.shape == (240, 8320)
    seen = made != NODATA
    assert seen[:, :320].all()
    assert seen[:, -320:].all()
    assert not seen[:, 320:-320].any()


def test_of_a_guide_only_the_files_over_the_source_are_looked_at(tmp_path):
    array, affine = values((200, 400)), grid(X, Y, 2)
    folder = cut(tmp_path / "tiles", array, [(0, col, 200, 50) for col in range(0, 400, 50)], affine)
    far = folder / "tile_007.tif"
    far.write_bytes(far.read_bytes()[:-4000])
    near = GeoBox((10, 10), grid(X + 110, Y - 50, 8), UTM)
    described = describe_guide(folder, near=near)
    assert [part.path.name for part in described.files] == ["tile_000.tif", "tile_001.tif", "tile_002.tif"]
    assert "8 GeoTIFF files taken for one raster, of which 3 lie over the source" in described.warnings[0]
    with pytest.raises(InputError, match=r"tile_007\.tif"):
        describe_guide(folder)


def test_a_guide_with_a_hole_covers_what_its_files_cover(tmp_path):
    whole = quarters()
    folder = cut(tmp_path / "tiles", values(), [whole[0], whole[3]], grid(X, Y, 2))
    low = GeoBox((15, 20), grid(X, Y, 8), UTM)
    share = (20 * 43 + 40 * 37) / (60 * 80)
    assert share_inside(low, describe_guide(folder)) == pytest.approx(share, abs=0.01)


def test_few_small_files_in_a_large_scene_overlap_it(tmp_path):
    affine = grid(X, Y, 2.5)
    tiles = [(12, 12, 16, 16), (3960, 3960, 16, 16), (3960, 3968, 16, 16)]
    (tmp_path / "tiles").mkdir()
    for number, (row, col, height, width) in enumerate(tiles):
        place = affine * Affine.translation(col, row)
        write(tmp_path / "tiles" / f"{number}.tif", values((height, width)), place, nodata=NODATA)
    low = GeoBox((1000, 1000), grid(X, Y, 10), UTM)
    pixels = 16 * 16 + 16 * 24  # the second and the third share half
    guide = describe_guide(tmp_path / "tiles", near=low)
    assert len(guide.parts) == 3
    assert share_inside(low, guide) == pytest.approx(pixels / 4000**2, rel=1e-6)


def test_a_file_that_changes_after_it_was_described_is_not_read(tmp_path):
    folder = cut(tmp_path / "tiles", values(), quarters(), grid(X, Y, 2))
    described = describe_source(folder)
    os.utime(folder / "tile_003.tif", (1, 1))
    read_source(described, Window(0, 0, 10, 10))
    with pytest.raises(ChangedInputError, match=r"tile_003\.tif: the file has changed"):
        read_source(described)


# --- the command ---------------------------------------------------------------------------------------------


def command(source, guide, output, *options):
    files = ("--source", source, "--guide", guide, "-o", output)
    options = ("--method", "guided-filter", "--scale", "4", *options)
    return [str(part) for part in (sys.executable, "-m", "geosr", "upscale", *files, *options)]


def upscale(source, guide, output, *options):
    call = command(source, guide, output, *options)
    return subprocess.run(call, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A source and a guide, each as one file and as a folder of tiles."""
    root = tmp_path_factory.mktemp("pair")
    source, guide = values((90, 70)), values((360, 280), seed=1, bands=3)
    source[:, 10:14, 20:25] = NODATA
    coarse, sharp = grid(X, Y, 4), grid(X, Y, 1)
    write(root / "dsm.tif", source, coarse, nodata=NODATA)
    write(root / "ortho.tif", guide, sharp, nodata=NODATA)
    cut(root / "dsm", source, quarters((90, 70)), coarse)
    cut(root / "ortho", guide, [(row, 0, 30, 280) for row in range(0, 360, 30)], sharp)
    return root


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_the_output_is_that_of_whole_files(pair, tmp_path, scheduler):
    whole = upscale(pair / "dsm.tif", pair / "ortho.tif", tmp_path / "whole.tif", "--tile", "160")
    assert whole.returncode == 0, whole.stderr
    options = ("--tile", "160", "--scheduler", scheduler, "--workers", "2")
    tiled = upscale(pair / "dsm", pair / "ortho", tmp_path / "tiled.tif", *options)
    assert tiled.returncode == 0, tiled.stderr
    assert "ortho: 12 GeoTIFF files taken for one raster" in tiled.stderr
    np.testing.assert_array_equal(plain_read(tmp_path / "tiled.tif"), plain_read(tmp_path / "whole.tif"))
    with rasterio.open(tmp_path / "tiled.tif") as ours, rasterio.open(tmp_path / "whole.tif") as theirs:
        assert (ours.transform, ours.crs, ours.nodata) == (theirs.transform, theirs.crs, theirs.nodata)
        assert ours.tags()["GEOSR_GUIDE"] == "ortho"


def test_a_shells_pattern_is_answered_with_the_folder(pair, tmp_path):
    files = sorted((pair / "ortho").iterdir())
    unquoted = upscale(pair / "dsm", files[0], tmp_path / "out.tif", *files[1:3])
    assert unquoted.returncode == 2
    assert "several files of one raster are given as their folder" in unquoted.stderr
    quoted = upscale(pair / "dsm", pair / "ortho" / "*.tif", tmp_path / "out.tif")
    assert quoted.returncode == 3
    assert "give the folder of the files" in quoted.stderr


@pytest.mark.chaos
def test_a_run_killed_before_a_file_was_added_starts_afresh(pair, tmp_path):
    shutil.copytree(pair / "ortho", tmp_path / "ortho")
    (tmp_path / "ortho" / "tile_011.tif").rename(tmp_path / "last.tif")
    call = command(pair / "dsm", tmp_path / "ortho", tmp_path / "out.tif", "--tile", "80")
    run = subprocess.Popen(call, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob(".out.tif-*.geosr/tiles/*.tile")):
        assert run.poll() is None
        time.sleep(0.002)
    run.kill()
    assert "the guide covers 91.7% of the source" in run.communicate()[1]
    (tmp_path / "last.tif").rename(tmp_path / "ortho" / "tile_011.tif")
    second = subprocess.run(call, capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stderr
    assert "started afresh: guide\n" in second.stderr
    assert "covers" not in second.stderr


def test_an_output_among_the_tiles_of_an_input_is_refused(pair, tmp_path):
    shutil.copytree(pair / "ortho", tmp_path / "ortho")
    refused = upscale(pair / "dsm", tmp_path / "ortho", tmp_path / "ortho" / "out.tif")
    assert refused.returncode == 2
    assert "would lie among the rasters of an input" in refused.stderr
    assert not list((tmp_path / "ortho").glob("*out*"))


def test_an_output_that_an_inputs_folder_holds_as_a_link_is_refused(pair, tmp_path):
    shutil.copytree(pair / "ortho", tmp_path / "real")
    (tmp_path / "links").mkdir()
    for file in (tmp_path / "real").iterdir():
        (tmp_path / "links" / file.name).symlink_to(file)
    before = (tmp_path / "real" / "tile_002.tif").read_bytes()
    refused = upscale(pair / "dsm", tmp_path / "links", tmp_path / "real" / "tile_002.tif", "--overwrite")
    assert refused.returncode == 2
    assert "is one of the inputs" in refused.stderr
    assert (tmp_path / "real" / "tile_002.tif").read_bytes() == before


def test_all_bands_need_one_nodata_value_in_every_file(pair, tmp_path):
    folder = cut(tmp_path / "two", values((90, 70), bands=2), quarters((90, 70)), grid(X, Y, 4))
    said = "".join(
        f'<PAMRasterBand band="{band}"><NoDataValue>{value}</NoDataValue></PAMRasterBand>'
        for band, value in ((1, -9999), (2, -32768))
    )
    for number in range(3):
        with rasterio.open(folder / f"tile_{number:03}.tif", "r+") as dataset:
            dataset.nodata = None
    with rasterio.open(folder / "tile_003.tif", "r+") as dataset:
        dataset.nodata = None
    (folder / "tile_003.tif.aux.xml").write_text(f"<PAMDataset>{said}</PAMDataset>")
    refused = upscale(folder, pair / "ortho", tmp_path / "out.tif", "--band", "all", "--method", "bicubic")
    assert refused.returncode == 3
    assert "different nodata values" in refused.stderr


# --- many pairs ----------------------------------------------------------------------------------------------


def batch(folder, *options):
    call = [sys.executable, "-m", "geosr", "batch", "--method", "bicubic", *map(str, options)]
    return subprocess.run(call, capture_output=True, text=True, check=False, cwd=folder)


def test_one_folder_is_the_guide_of_all_sources(pair, tmp_path):
    """Called from within it, too; and the second time everything is there."""
    options = ("--source", pair / "dsm" / "*.tif", "--guide", ".", "-o", tmp_path / "{stem}.tif")
    first, second = (batch(pair / "ortho", *options) for _ in range(2))
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "4 done" in first.stdout
    assert "4 skipped" in second.stdout


def test_folders_of_tiles_by_pattern_and_by_list(pair, tmp_path):
    """Their names are whole, dots and all; what is no folder of rasters is none."""
    for name in ("site_v1.2", "site_v1.3"):
        shutil.copytree(pair / "dsm", tmp_path / "sites" / name)
    (tmp_path / "sites" / "empty").mkdir()
    by_pattern = batch(tmp_path, "--source", "sites/*", "--guide", pair / "ortho", "-o", "out/{stem}.tif")
    assert "2 done" in by_pattern.stdout, by_pattern.stderr
    rows = [f"sites/{name},{pair / 'ortho'}" for name in ("site_v1.2", "site_v1.3")]
    (tmp_path / "pairs.csv").write_text("\n".join(("source,guide", *rows)))
    by_list = batch(tmp_path, "--manifest", "pairs.csv", "-o", "out/{stem}.tif")
    assert "2 skipped" in by_list.stdout, by_list.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"site_v1.2.tif", "site_v1.3.tif"}


def test_all_bands_with_a_folder_as_guide_are_skipped_the_next_time(pair, tmp_path):
    write(tmp_path / "two.tif", values((90, 70), bands=2), grid(X, Y, 4), nodata=NODATA)
    options = ("--source", "t*.tif", "--guide", pair / "ortho", "-o", "out/{stem}.tif", "--band", "all")
    first, second = (batch(tmp_path, *options) for _ in range(2))
    assert "1 done" in first.stdout, first.stderr
    assert "1 skipped" in second.stdout, second.stdout


def test_outputs_beside_the_sources_are_no_sources_the_next_time(pair, tmp_path):
    shutil.copytree(pair / "dsm", tmp_path / "dsm")
    options = ("--source", "dsm/*.tif", "--guide", pair / "ortho", "-o", "dsm/{stem}_x4.tif")
    first, second = (batch(tmp_path, *options) for _ in range(2))
    assert "4 done" in first.stdout, first.stderr
    assert (second.returncode, len(list((tmp_path / "dsm").iterdir()))) == (0, 8), second.stdout
    assert "4 skipped" in second.stdout
    assert "is the output of tile_000" in second.stdout


def test_an_output_in_a_folder_that_another_pair_reads_is_refused(pair, tmp_path):
    shutil.copytree(pair / "dsm", tmp_path / "dsm")
    listed = (tmp_path / "dsm", tmp_path / "out.tif"), (pair / "dsm.tif", tmp_path / "dsm" / "out.tif")
    rows = [f"{source},{pair / 'ortho.tif'},{output}" for source, output in listed]
    (tmp_path / "pairs.csv").write_text("\n".join(("source,guide,output", *rows)))
    found = batch(tmp_path, "--manifest", "pairs.csv")
    assert found.returncode == 5
    assert "is an input of the batch, or" in found.stdout
    assert "1 done, 1 failed" in found.stdout
    assert not (tmp_path / "dsm" / "out.tif").exists()


def test_a_clusters_workers_must_see_every_file_of_a_folder(pair):
    job = Job("x", pair / "dsm.tif", pair / "ortho", Path("out.tif"), "x")
    assert {*batch_files(job, Recipe())} == {pair / "dsm.tif", *(pair / "ortho").iterdir()}


def test_files_changed_in_a_folder_are_another_training(pair, tmp_path):
    shutil.copytree(pair / "ortho", tmp_path / "ortho")
    job = Job("x", pair / "dsm.tif", tmp_path / "ortho", Path("out.tif"), "x")
    before = [*identities([job])]
    assert [*identities([job])] == before
    os.utime(tmp_path / "ortho" / "tile_004.tif", (1, 1))
    assert [*identities([job])] != before


def test_samples_are_made_anew_of_files_changed_in_a_folder(pair, tmp_path):
    shutil.copytree(pair / "ortho", tmp_path / "ortho")
    write(tmp_path / "truth.tif", values((360, 280)), grid(X, Y, 1))
    sample = Sample("x", "", tmp_path / "ortho", tmp_path / "truth.tif")
    source, guide = tmp_path / "x_source.tif", tmp_path / "x_guide.tif"
    save_sample(sample, 4, source, guide)
    first = guide.stat().st_mtime_ns
    save_sample(sample, 4, source, guide)
    assert guide.stat().st_mtime_ns == first
    write(tmp_path / "ortho" / "tile_000.tif", values((30, 280), seed=7, bands=3), grid(X, Y, 1), nodata=NODATA)
    save_sample(sample, 4, source, guide)
    np.testing.assert_array_equal(plain_read(guide)[:30], values((30, 280), seed=7, bands=3)[0])


def test_more_files_than_a_process_may_hold_open(tmp_path):
    """900 files, 100 handles."""
    array, affine = values((120, 120), bands=3), grid(X, Y, 1)
    tiles = [(row, col, 4, 4) for row in range(0, 120, 4) for col in range(0, 120, 4)]
    cut(tmp_path / "ortho", array, tiles, affine)
    write(tmp_path / "dsm.tif", values((30, 30)), grid(X, Y, 4), nodata=NODATA)
    limited = (
        "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100)); "
        "sys.argv[0] = 'geosr'; runpy.run_module('geosr', run_name='__main__')"
    )
    call = command(tmp_path / "dsm.tif", tmp_path / "ortho", tmp_path / "out.tif", "--report", tmp_path / "r.html")
    run = subprocess.run([sys.executable, "-c", limited, *call[3:]], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert np.isfinite(plain_read(tmp_path / "out.tif")).all()
    assert (tmp_path / "r.html").stat().st_size > 10_000
