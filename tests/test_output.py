"""The file that comes out: a strict COG with everything the source said, there at once or not at all."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
from outputs import SMALL_NETWORK, check_cog, run
from rasterio.enums import ColorInterp
from rasters import grid, write

from geosr import writer
from geosr.errors import OutputError, UsageError
from geosr.events import Stage
from geosr.options import Execution, Inputs, Recipe
from geosr.pipeline import upscale_file

AFFINE = grid(461_200, 5_211_400, 2)


def make_pair(folder, shape=(40, 50), crs="EPSG:32633", step=2.0, **options):
    folder.mkdir(exist_ok=True)
    affine = grid(461_200, 5_211_400, step)
    rng = np.random.default_rng(1)
    values = rng.normal(100, 9, shape).astype("float32")
    values[3:5, 4:9] = -9999
    source = write(folder / "source.tif", values, affine, crs, nodata=-9999, **options)
    fine = grid(461_200, 5_211_400, step / 2.5)
    image = rng.integers(0, 255, (3, int(shape[0] * 2.5), int(shape[1] * 2.5)), "uint8")
    return source, write(folder / "guide.tif", image, fine, crs)


@pytest.fixture
def pair(tmp_path):
    return make_pair(tmp_path / "in")


def digest(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def check_statistics(dataset):
    values = dataset.read(1, masked=True).astype("float64")
    tags = dataset.tags(1)
    for name, expected in (("MEAN", values.mean()), ("STDDEV", values.std()), ("MINIMUM", values.min()),
                           ("MAXIMUM", values.max())):  # fmt: skip
        assert float(tags[f"STATISTICS_{name}"]) == pytest.approx(expected, rel=1e-6)
    assert float(tags["STATISTICS_VALID_PERCENT"]) == pytest.approx(100 * values.count() / values.size, abs=0.01)


@pytest.mark.parametrize("compress", ["deflate", "zstd"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int16", "int32", "uint8", "uint16"])
def test_a_strict_cog_of_every_type(tmp_path, pair, dtype, compress):
    run(*pair, tmp_path / "out.tif", 4, dtype=dtype, compress=compress)
    check_cog(tmp_path / "out.tif")
    with rasterio.open(tmp_path / "out.tif") as made:
        assert made.dtypes == (dtype,)
        assert made.compression.name == compress
        assert made.tags(ns="IMAGE_STRUCTURE")["PREDICTOR"] == ("3" if dtype.startswith("f") else "2")
        assert made.block_shapes == [(512, 512)]
        assert made.overviews(1) == []
        check_statistics(made)


def test_large_outputs_have_overviews(tmp_path):
    source, guide = make_pair(tmp_path / "in", (180, 150))
    run(source, guide, tmp_path / "out.tif", 6)
    check_cog(tmp_path / "out.tif")
    with rasterio.open(tmp_path / "out.tif") as made:
        assert made.shape == (1080, 900)
        assert made.overviews(1) == [2, 4]
        assert made.block_shapes == [(512, 512)]
        assert "classic" not in made.tags()
        check_statistics(made)
        small = made.read(1, out_shape=(540, 450), masked=True)
        assert np.ma.getmaskarray(small).sum() == pytest.approx(np.ma.getmaskarray(made.read(1, masked=True)).sum() / 4)


def test_bigtiff_is_chosen_where_four_gigabytes_might_be_passed():
    """Both files ask for it by what they could grow to, so no write can run into the limit."""
    calls = []
    original, writer.rasterio.shutil.copy = writer.rasterio.shutil.copy, lambda *a, **kw: calls.append(kw)
    try:
        writer._copy_to_cog(Path("a"), Path("b"), "deflate")
    finally:
        writer.rasterio.shutil.copy = original
    assert calls[0]["BIGTIFF"] == "IF_SAFER"


CRSES = {
    "UTM": ("EPSG:32633", "metre"),
    "compound": ("EPSG:32633+5773", "metre"),
    "feet": ("EPSG:2263", "US survey foot"),
    "custom": ("+proj=tmerc +lat_0=46 +lon_0=15.5 +k=0.9999 +x_0=500000 +y_0=-5000000 +ellps=GRS80 +units=m", "metre"),
    "lambert": ("EPSG:2154", "metre"),
}


@pytest.mark.parametrize("name", CRSES)
@pytest.mark.parametrize("point", ["Area", "Point"])
def test_what_the_source_says_is_carried_over(tmp_path, name, point):
    crs, units = CRSES[name]
    tags = {
        "AREA_OR_POINT": point,
        "TIFFTAG_SOFTWARE": "a survey",
        "OPERATOR": "Zoë",
        "GEOSR_SEAM_RATIO": "9",
    }
    source, guide = make_pair(tmp_path / "in", crs=crs, tags={"AREA_OR_POINT": point})
    with rasterio.open(source, "r+") as dataset:
        dataset.units, dataset.descriptions = [units], ["heights above the ellipsoid"]
        dataset.update_tags(1, sensor="lidar", STATISTICS_MEAN="-1")
        dataset.update_tags(**tags)
    run(source, guide, tmp_path / "out.tif", 4)
    check_cog(tmp_path / "out.tif")
    with rasterio.open(source) as given, rasterio.open(tmp_path / "out.tif") as made:
        assert made.crs == given.crs
        assert made.crs.to_wkt() == given.crs.to_wkt()
        assert made.transform.almost_equals(given.transform * given.transform.scale(0.25), 1e-12)
        assert made.units == (units,)
        assert made.descriptions == ("heights above the ellipsoid",)
        assert made.colorinterp == (ColorInterp.gray,)
        found = made.tags()
        assert (found["AREA_OR_POINT"], found["TIFFTAG_SOFTWARE"], found["OPERATOR"]) == (point, "a survey", "Zoë")
        assert "GEOSR_SEAM_RATIO" not in found
        assert made.tags(1)["sensor"] == "lidar"
        check_statistics(made)
        assert made.nodata == -9999


def test_tags_that_update_tags_would_take_for_its_arguments_are_left_out():
    assert writer._own({"ns": "a", "bidx": "b", "GEOSR_SEED": "1", "name": "c"}) == {"name": "c"}


@pytest.mark.parametrize("colour", ["gray", "red", "nir"])
def test_colour_interpretation(tmp_path, colour):
    source, guide = make_pair(tmp_path / "in")
    with rasterio.open(source, "r+") as dataset:
        dataset.colorinterp = [ColorInterp[colour]]
    with rasterio.open(source) as dataset:
        assert dataset.colorinterp == (ColorInterp[colour],)
    run(source, guide, tmp_path / "out.tif", 4)
    check_cog(tmp_path / "out.tif")
    with rasterio.open(tmp_path / "out.tif") as made:
        assert made.colorinterp == (ColorInterp[colour],)


def test_provenance(tmp_path, pair):
    run(*pair, tmp_path / "out.tif", 4, seed=7, consistency="soft:0.2", tile=96)
    with rasterio.open(tmp_path / "out.tif") as made:
        tags = made.tags()
    expected = {"METHOD": "bicubic", "PRESET": "default", "SETTINGS": "{}", "SCALE": "4", "CONSISTENCY": "soft:0.2",
                "TILE": "96", "SEED": "7", "DEVICE": "cpu", "SOURCE": "source.tif", "GUIDE": "guide.tif"}  # fmt: skip
    assert {name: tags[f"GEOSR_{name}"] for name in expected} == expected
    assert tags["GEOSR_VERSION"]
    assert float(tags["GEOSR_SEAM_RATIO"]) > 0
    assert str(tmp_path) not in str(tags)


@pytest.mark.parametrize("recipe", [{"tile": 96}, SMALL_NETWORK | {"tile": 112}], ids=["bicubic", "mmsr"])
def test_same_bytes_every_time_and_for_any_number_of_workers(tmp_path, pair, recipe):
    digests = set()
    for number, workers in enumerate((1, 1, 2, 3)):
        report = run(*pair, tmp_path / f"{number}.tif", 4, workers=workers, **recipe)
        digests.add(digest(tmp_path / f"{number}.tif"))
    assert report.tiles > 1
    assert len(digests) == 1


def test_file_mode_follows_the_umask(tmp_path, pair):
    old = os.umask(0o027)
    try:
        run(*pair, tmp_path / "out.tif", 4)
    finally:
        os.umask(old)
    assert (tmp_path / "out.tif").stat().st_mode & 0o777 == 0o640
    assert [p.name for p in tmp_path.iterdir() if p.name != "in"] == ["out.tif"]


# --- published or not ----------------------------------------------------------------------------------------


def at_stage(name, action):
    """An event handler that does something once when a stage begins."""
    return lambda event: action() if event == Stage(name) else None


def test_existing_outputs_and_inputs_are_safe(tmp_path, pair):
    source, guide = pair
    (tmp_path / "out.tif").write_text("precious")
    with pytest.raises(UsageError, match="--overwrite"):
        run(source, guide, tmp_path / "out.tif", 4)
    assert (tmp_path / "out.tif").read_text() == "precious"
    before = digest(source), digest(guide)
    os.symlink(source, tmp_path / "link.tif")
    os.link(guide, tmp_path / "hard.tif")
    for name in (source, guide, tmp_path / "link.tif", tmp_path / "hard.tif"):
        with pytest.raises(UsageError, match="one of the inputs"):
            run(source, guide, name, 4, overwrite=True)
    assert (digest(source), digest(guide)) == before


def test_a_folder_or_a_missing_folder_is_no_output(tmp_path, pair):
    with pytest.raises(OutputError, match="is a folder"):
        run(*pair, tmp_path, 4, overwrite=True)
    with pytest.raises(OutputError, match="does not exist"):
        run(*pair, tmp_path / "nowhere" / "out.tif", 4)


def test_overwriting_replaces_the_file_and_what_gdal_kept_beside_it(tmp_path, pair):
    write(tmp_path / "out.tif", np.zeros((8, 8), "uint8"), AFFINE)
    (tmp_path / "out.tif.aux.xml").write_text("<PAMDataset><PAMRasterBand band='1'><NoDataValue>5</NoDataValue>"
                                              "</PAMRasterBand></PAMDataset>")  # fmt: skip
    run(*pair, tmp_path / "out.tif", 4, overwrite=True)
    check_cog(tmp_path / "out.tif")
    with rasterio.open(tmp_path / "out.tif") as made:
        assert made.nodata == -9999
        assert made.shape == (160, 200)
    assert not (tmp_path / "out.tif.aux.xml").exists()


@pytest.mark.parametrize("suffix", [".aux.xml", ".msk", ".ovr"])
def test_what_would_be_read_with_a_new_output_is_named_before_work(suffix, tmp_path, pair):
    left = tmp_path / f"out.tif{suffix}"
    left.write_text("of a file that is gone")
    with pytest.raises(UsageError, match=rf"out.tif{suffix} is left from an earlier out.tif"):
        run(*pair, tmp_path / "out.tif", 4)
    assert names(tmp_path) == ["in", left.name]
    run(*pair, tmp_path / "out.tif", 4, overwrite=True)
    assert names(tmp_path) == ["in", "out.tif"]


@pytest.mark.parametrize("length", [247, 248, 251, 255])  # with .aux.xml behind it 248 are too many
def test_names_as_long_as_the_system_takes_are_overwritten(length, tmp_path, pair):
    output, beside = (tmp_path / f"{letter * (length - 4)}.tif" for letter in "ab")
    for overwrite in (False, True):
        inputs, recipe = Inputs(*pair, 4), Recipe(method="bicubic")
        upscale_file(inputs, recipe, Execution("cpu", 1, overwrite=overwrite, uncertainty=beside), output)
        check_cog(output)
        check_cog(beside)
    assert names(tmp_path) == [output.name, beside.name, "in"]


def test_a_link_to_itself_is_refused_before_work_or_replaced(tmp_path, pair):
    output = tmp_path / "out.tif"
    output.symlink_to("out.tif")
    with pytest.raises(UsageError, match=r"out.tif exists; use --overwrite"):
        run(*pair, output, 4)
    assert output.is_symlink()
    run(*pair, output, 4, overwrite=True)
    assert not output.is_symlink()
    check_cog(output)


def test_a_link_is_followed_and_kept(tmp_path, pair):
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "elsewhere" / "real.tif"
    target.write_text("old")
    os.symlink(target, tmp_path / "out.tif")
    run(*pair, tmp_path / "out.tif", 4, overwrite=True)
    assert (tmp_path / "out.tif").is_symlink()
    check_cog(target)
    assert [p.name for p in target.parent.iterdir()] == ["real.tif"]


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_meanwhile_is_left_alone(tmp_path, pair, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", refuse_to_link)
    output = tmp_path / "out.tif"
    with pytest.raises(OutputError, match="appeared"):
        run(*pair, output, 4, on_event=at_stage("mosaic", lambda: output.write_text("somebody else's")))
    assert output.read_text() == "somebody else's"
    assert names(tmp_path) == ["in", "out.tif"]
    run(*pair, output, 4, overwrite=True)
    assert [*tmp_path.iterdir()] == [*tmp_path.glob("[!.]*")]


def names(folder):
    """What a person sees in a folder."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def refuse_to_link(source, target):
    raise PermissionError(1, "Operation not permitted", source, None, target)


def test_file_systems_without_links(tmp_path, pair, monkeypatch):
    monkeypatch.setattr(os, "link", refuse_to_link)
    run(*pair, tmp_path / "out.tif", 4)
    check_cog(tmp_path / "out.tif")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out.tif"]


def test_a_finished_file_that_differs_is_not_published(tmp_path, pair, monkeypatch):
    def corrupt(staging, finished, compress):
        original(staging, finished, compress)
        with rasterio.open(finished, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as dataset:
            values = dataset.read(1)
            values[10, 10] += 1
            dataset.write(values, 1)

    original = writer._copy_to_cog
    monkeypatch.setattr(writer, "_copy_to_cog", corrupt)
    with pytest.raises(OutputError, match="differs"):
        run(*pair, tmp_path / "out.tif", 4)
    assert names(tmp_path) == ["in"]


FULL_DISK = """
import resource, signal, sys
sys.path.insert(0, {tests!r})
from outputs import SMALL_NETWORK, check_cog, run
from geosr.errors import OutputError
import torch, rasterio  # their caches are no matter of the limit
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
try:
    run({source!r}, {guide!r}, {output!r}, 4, tile=96, overwrite=True)
except OutputError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def python(code, **values):
    values = {name: value if isinstance(value, int) else str(value) for name, value in values.items()}
    return [sys.executable, "-c", code.format(tests=str(Path(__file__).parent), **values)]


# a tile is 37 kB, the staging file 128 kB, the finished file 110 kB
@pytest.mark.parametrize(("limit", "kept"), [(0, 0), (20_000, 0), (60_000, 4), (105_000, 4)])
def test_a_full_disk_leaves_the_old_output_and_what_is_done(tmp_path, pair, limit, kept):
    (tmp_path / "out.tif").write_text("old")
    command = python(FULL_DISK, limit=limit, source=pair[0], guide=pair[1], output=tmp_path / "out.tif")
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 6, done.stderr
    assert 0 < len(done.stdout.strip().splitlines()) <= 3
    assert (tmp_path / "out.tif").read_text() == "old"
    assert names(tmp_path) == ["in", "out.tif"]
    tiles = [*tmp_path.glob(".out.tif-*.geosr/tiles/*")]
    assert (len(tiles) >= kept) if kept else not [*tmp_path.glob(".*")]
    if kept:
        run(*pair, tmp_path / "out.tif", 4, tile=96, overwrite=True)
        run(*pair, tmp_path / "uninterrupted.tif", 4, tile=96)
        assert (tmp_path / "out.tif").read_bytes() == (tmp_path / "uninterrupted.tif").read_bytes()
        assert not [*tmp_path.glob(".*")]


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from outputs import SMALL_NETWORK, check_cog, run
from geosr import publish, writer

def die(*arguments, **options):
    {action}
    os.kill(os.getpid(), signal.SIGKILL)

{where} = die
run({source!r}, {guide!r}, {output!r}, 4, overwrite=True)
"""
MOMENTS = {
    "before the copy": ("writer._copy_to_cog", "pass"),
    "in the copy": ("writer._copy_to_cog", "open(arguments[1], 'wb').write(b'II*')"),
    "before the name": ("writer.publish", "pass"),
    "after the sync": ("publish._sync", "pass"),
}


@pytest.mark.chaos
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_any_moment_the_old_output_is_whole(tmp_path, pair, moment):
    (tmp_path / "out.tif").write_text("old")
    where, action = MOMENTS[moment]
    command = python(KILLED, where=where, action=action, source=pair[0], guide=pair[1], output=tmp_path / "out.tif")
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (tmp_path / "out.tif").read_text() == "old"
    run(*pair, tmp_path / "out.tif", 4, overwrite=True)
    run(*pair, tmp_path / "uninterrupted.tif", 4)
    assert (tmp_path / "out.tif").read_bytes() == (tmp_path / "uninterrupted.tif").read_bytes()
    assert not [*tmp_path.glob(".*")]


def test_readers_see_the_old_file_or_the_new_one(tmp_path, pair):
    output = tmp_path / "out.tif"
    run(*pair, output, 4)
    seen, problems, done = set(), [], threading.Event()

    def watch():
        while not done.is_set():
            try:
                with rasterio.open(output) as dataset:
                    assert dataset.read(1).shape == (160, 200)
                    seen.add(dataset.tags()["GEOSR_SEED"])
            except Exception as error:
                problems.append(error)
            time.sleep(0.002)

    thread = threading.Thread(target=watch)
    thread.start()
    for seed in range(1, 4):
        run(*pair, output, 4, seed=seed, overwrite=True)
    time.sleep(0.05)
    done.set()
    thread.join()
    assert not problems
    assert {"0", "3"} <= seen
