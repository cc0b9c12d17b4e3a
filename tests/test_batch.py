"""Many pairs in one run: what is made, skipped and reported, and that no pair has a say in another's bytes."""

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
from outputs import SMALL_NETWORK, check_grid, check_means
from pairs import DIVERGING, contents, geosr, make_corner_pair, make_pair
from rasters import plain_read

from geosr.batch import run_batch
from geosr.errors import InputError, UsageError
from geosr.options import Execution, Inputs, Recipe
from geosr.pair_lists import pairs_by_manifest, pairs_by_pattern
from geosr.pipeline import upscale_file
from geosr.scratch import run_folder_of

OUTPUT = "out/{stem}_x{scale}.tif"


def fill(folder, names, **options):
    """`dsm/NAME_DSM.tif` and `rgb/NAME_RGB.tif`."""
    for name in names:
        (folder / name).mkdir(parents=True)
        source, guide = make_pair(folder / name, **options)
        for path, kind in ((source, "dsm"), (guide, "rgb")):
            (folder / kind).mkdir(exist_ok=True)
            shutil.move(path, folder / kind / f"{name}_{kind.upper()}.tif")
        (folder / name).rmdir()


def arguments(folder, *more, method="bicubic"):
    source, guide = folder / "dsm" / "*_DSM.tif", folder / "rgb" / "{stem}_RGB.tif"
    return ["batch", "--source", source, "--guide", guide, "-o", folder / OUTPUT, "--method", method, *more]


def batch(folder, *more, method="bicubic"):
    return geosr(*arguments(folder, *more, method=method))


def rows(path):
    return {row["pair"]: row for row in csv.DictReader(path.read_text().splitlines())}


def test_what_is_wrong_is_reported_and_does_not_stop_the_rest(tmp_path):
    fill(tmp_path, ["a", "b [1]", "broken", "alone"])
    (tmp_path / "rgb/alone_RGB.tif").rename(tmp_path / "rgb/other_RGB.tif")
    broken = tmp_path / "dsm/broken_DSM.tif"
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    planned = batch(tmp_path, "--dry-run")
    assert (planned.code, (tmp_path / "out").exists()) == (5, False)
    assert "alone_DSM.tif" in planned.out
    assert "truncated" in planned.out
    assert "has no guide" in planned.out
    assert "is a guide without a source" in planned.out
    done = batch(tmp_path, "--summary", tmp_path / "s.csv")
    assert done.code == 5
    found = rows(tmp_path / "s.csv")
    assert {name: row["status"] for name, row in found.items()} == {
        "a": "done",
        "b [1]": "done",
        "broken": "failed",
        str(tmp_path / "dsm/alone_DSM.tif"): "failed",
        str(tmp_path / "rgb/other_RGB.tif"): "left out",
    }
    assert "truncated" in found["broken"]["why"]
    assert found["a"]["source"] == str(tmp_path / "dsm/a_DSM.tif")
    assert found["a"]["output"] == str(tmp_path / "out/a_x4.tif")
    assert "2 done, 2 failed, 1 left out" in done.out
    for name in ("a", "b [1]"):
        output = tmp_path / f"out/{name}_x4.tif"
        check_means(tmp_path / f"dsm/{name}_DSM.tif", output, 4)
        check_grid(tmp_path / f"dsm/{name}_DSM.tif", output, 4)
        with rasterio.open(output) as made:
            assert float(found[name]["expected_error"]) == pytest.approx(
                float(made.tags()["GEOSR_EXPECTED_ERROR"]), rel=1e-3
            )
    assert sorted(contents(tmp_path / "out")) == ["a_x4.tif", "b [1]_x4.tif"]


def test_what_is_there_is_skipped_and_only_the_rest_is_made(tmp_path):
    fill(tmp_path, ["a", "b", "c"])
    assert batch(tmp_path).code == 0
    first = contents(tmp_path / "out")
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    (tmp_path / "out/b_x4.tif").unlink()
    assert "to do" in batch(tmp_path, "--dry-run").out
    again = batch(tmp_path, "--summary", tmp_path / "s.json")
    assert again.code == 0
    summary = json.loads((tmp_path / "s.json").read_text())
    assert summary["counts"] == {"done": 1, "to do": 0, "skipped": 2, "failed": 0, "left out": 0}
    assert [pair["status"] for pair in summary["pairs"]] == ["skipped", "done", "skipped"]
    assert all(pair["expected"] > 0 for pair in summary["pairs"])
    assert contents(tmp_path / "out") == first
    assert all((tmp_path / "out" / name).stat().st_mtime_ns == times[name] for name in ("a_x4.tif", "c_x4.tif"))
    assert "3 done" in batch(tmp_path, "--overwrite").out


def test_an_output_made_otherwise_is_left_alone_and_said(tmp_path):
    fill(tmp_path, ["a", "b"])
    assert batch(tmp_path).code == 0
    first = contents(tmp_path / "out")
    shutil.copy(tmp_path / "out/a_x4.tif", tmp_path / "out/b_x4.tif")
    other = batch(tmp_path)
    assert other.code == 5
    assert "b_x4.tif exists, made otherwise (source, guide)" in other.out
    assert "(method" in batch(tmp_path, method="diffusion").out
    for options, said in (
        (("--bounds", 500000, 4999950, 500040, 5000000), "bounds"),
        (("--consistency", "off"), "consistency"),
        (("--coregister",), "coregister"),
        (("--tile", "160"), "tile"),
        (("--fit", "tile"), "fit"),
        (("--dtype", "float64"), "dtype"),
    ):
        assert f"a_x4.tif exists, made otherwise ({said})" in batch(tmp_path, *options).out
    (tmp_path / "out/a_x4.tif").write_text("no raster")
    assert "is there and cannot be read" in batch(tmp_path).out
    assert batch(tmp_path, "--overwrite").code == 0
    assert contents(tmp_path / "out") == first


def test_files_of_one_name_are_told_apart_by_what_they_hold(tmp_path):
    """A folder for each site, in each a dsm.tif: the wrong one was named the first time."""
    for site, size in (("A", 24), ("B", 28)):
        (tmp_path / site).mkdir()
        make_pair(tmp_path / site, size=size)
    manifest = tmp_path / "pairs.csv"
    call = ("batch", "--manifest", manifest, "--method", "bicubic")
    manifest.write_text("Source, Guide, Output\nA/source.tif, A/guide.tif, a.tif\nA/source.tif, A/guide.tif, b.tif\n")
    assert "2 done" in geosr(*call).out
    manifest.write_text("source\tguide\toutput\nA/source.tif\tA/guide.tif\ta.tif\nB/source.tif\tB/guide.tif\tb.tif\n")
    again = geosr(*call)
    assert "b.tif exists, made otherwise (source, guide)" in again.out
    assert "1 skipped, 1 failed" in again.out


def test_nodata_given_later_is_not_taken_for_done(tmp_path):
    fill(tmp_path, ["a"])
    assert batch(tmp_path).code == 0
    assert "made otherwise (source nodata)" in batch(tmp_path, "--source-nodata", 0).out
    assert "made otherwise (guide nodata)" in batch(tmp_path, "--guide-nodata", 0).out
    assert batch(tmp_path, "--guide-nodata", 0, "--overwrite").code == 0
    assert "1 skipped" in batch(tmp_path, "--guide-nodata", 0).out


def test_the_summary_is_never_the_list(tmp_path):
    fill(tmp_path, ["a"])
    manifest = tmp_path / "pairs.csv"
    manifest.write_text("source,guide\ndsm/a_DSM.tif,rgb/a_RGB.tif\n")
    before = manifest.read_bytes()
    refused = geosr("batch", "--manifest", manifest, "-o", tmp_path / OUTPUT, "--summary", manifest)
    assert (refused.code, manifest.read_bytes()) == (2, before)
    assert "is the list of the pairs" in refused.err


def test_a_summary_that_cannot_be_written_after_all_costs_no_table(tmp_path):
    fill(tmp_path, ["a"])
    pairs = ("--source", tmp_path / "dsm/*_DSM.tif", "--guide", tmp_path / "rgb/{stem}_RGB.tif", "--method", "bicubic")
    done = geosr("batch", *pairs, "-o", tmp_path / "out.csv/{stem}.tif", "--summary", tmp_path / "out.csv")
    assert done.code == 6
    assert done.out.endswith("\n1 done\n")
    assert "Is a directory" in done.err


def test_an_output_of_other_settings_is_not_taken_for_done(tmp_path):
    fill(tmp_path, ["a"])
    assert batch(tmp_path, "--set", "rounds=1", method="diffusion").code == 0
    assert "a_x4.tif exists, made otherwise (settings)" in batch(tmp_path, method="diffusion").out
    assert "1 skipped" in batch(tmp_path, "--set", "rounds=1", method="diffusion").out


def test_the_same_bytes_however_many_at_once(tmp_path):
    fill(tmp_path, ["small", "tiny"], size=20)
    fill(tmp_path, ["large"], size=48)
    recipe = Recipe(**SMALL_NETWORK, tile=160)
    made = {}
    for workers in (1, 2, 7):
        found = pairs_by_pattern(
            str(tmp_path / "dsm/*_DSM.tif"),
            str(tmp_path / "rgb/{stem}_RGB.tif"),
            f"{tmp_path}/{workers}/{{stem}}.tif",
            4,
        )
        done = run_batch(found, Inputs(Path(), Path()), recipe, Execution("cpu", workers))
        assert done.counts["done"] == 3
        made[workers] = contents(tmp_path / str(workers))
    assert made[1] == made[2] == made[7]
    alone = tmp_path / "alone"
    alone.mkdir()
    for job in found.jobs:
        upscale_file(Inputs(job.source, job.guide), recipe, Execution("cpu", 1, threads=1), alone / job.output.name)
    assert contents(alone) == made[1]


@pytest.mark.chaos
def test_a_killed_batch_goes_on_where_it_was(tmp_path):
    fill(tmp_path, ["a", "b", "c"])
    network = [text for name, value in SMALL_NETWORK["settings"].items() for text in ("--set", f"{name}={value}")]
    network += ["--fit", "tile", "--tile", "112", "--workers", "1"]
    command = [sys.executable, "-m", "geosr", *map(str, arguments(tmp_path, *network, method="mmsr"))]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not [*(tmp_path / "out").glob("[abc]_x4.tif")]:
            assert process.poll() is None
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    again = batch(tmp_path, *network, method="mmsr")
    assert again.code == 0, again.err
    assert "1 skipped" in again.out
    (tmp_path / "out").rename(tmp_path / "killed")
    assert batch(tmp_path, *network, method="mmsr").code == 0
    assert contents(tmp_path / "killed") == contents(tmp_path / "out")  # hidden folders are gone as well


def test_failed_tiles_are_as_for_one_scene(tmp_path):
    fill(tmp_path, ["good"])
    (tmp_path / "bad").mkdir()
    make_corner_pair(tmp_path / "bad")
    shutil.move(tmp_path / "bad/source.tif", tmp_path / "dsm/bad_DSM.tif")
    shutil.move(tmp_path / "bad/guide.tif", tmp_path / "rgb/bad_RGB.tif")
    good = tmp_path / "dsm/good_DSM.tif"
    with rasterio.open(good, "r+") as dataset:  # constant: nothing to fit, nothing to diverge
        dataset.write(np.full((24, 24), 7, "float32"), 1)
    done = batch(tmp_path, *DIVERGING, method="mmsr")
    assert done.code == 5
    assert "1 done, 1 failed" in done.out
    assert "finished tiles" in done.out
    filled = batch(tmp_path, *DIVERGING, "--on-tile-error", "interpolate", method="mmsr")
    assert filled.code == 5
    assert "1 done, 1 skipped" in filled.out
    assert "hold the interpolated source" in filled.out
    assert batch(tmp_path, *DIVERGING, method="mmsr").code == 5  # skipped, and still not whole


def test_a_home_in_a_manifest_is_the_users(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    fill(tmp_path, ["a"])
    (tmp_path / "lists").mkdir()
    manifest = tmp_path / "lists" / "pairs.csv"
    manifest.write_text("source,guide,output\n~/dsm/a_DSM.tif,~/rgb/a_RGB.tif,~/made/a.tif\n")
    assert geosr("batch", "--manifest", manifest, "--method", "bicubic").code == 0
    assert (tmp_path / "made" / "a.tif").exists()
    assert sorted(path.name for path in (tmp_path / "lists").iterdir()) == ["pairs.csv"]


def test_a_manifest_names_files_and_outputs(tmp_path):
    fill(tmp_path, ["a", "b", "c"])
    manifest = tmp_path / "pairs.csv"
    lines = [
        "source,guide,output",
        "dsm/a_DSM.tif,rgb/a_RGB.tif,first.tif",
        "dsm/b_DSM.tif,rgb/b_RGB.tif,",
        "dsm/a_DSM.tif,rgb/a_RGB.tif,first.tif",
        "dsm/c_DSM.tif,,",
        "dsm/c_DSM.tif,rgb/c_RGB.tif,dsm/b_DSM.tif",
        "dsm/c_DSM.tif,rgb/a_RGB.tif,same.tif",
        "dsm/c_DSM.tif,rgb/b_RGB.tif,same.tif",
    ]
    manifest.write_text("\n".join(lines), encoding="utf-8-sig")
    before = contents(tmp_path / "dsm")
    done = geosr("batch", "--manifest", manifest, "-o", tmp_path / OUTPUT, "--method", "bicubic")
    assert done.code == 5
    assert "2 done, 4 failed, 1 left out" in done.out
    for text in ("more than once", "line 5", "is an input of the batch", "2 pairs have the output"):
        assert text in done.out
    assert {"first.tif", "out/b_DSM_x4.tif"} <= contents(tmp_path).keys()
    assert "same.tif" not in contents(tmp_path)
    assert contents(tmp_path / "dsm") == before


def item(name, **hrefs):
    """A STAC item with an asset for each."""
    assets = {key: {"href": href, "roles": ["data"]} for key, href in hrefs.items()}
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "id": name,
        "geometry": None,
        "properties": {},
        "assets": assets,
    }


def test_a_stac_asset_that_can_be_no_file_costs_its_pair_only(tmp_path):
    fill(tmp_path, ["a"])
    good = item("a", source="dsm/a_DSM.tif", guide="rgb/a_RGB.tif")
    bad = [item("b", source="a\0.tif", guide="rgb/a_RGB.tif"), item("c", source="file:///a%00", guide="rgb/a_RGB.tif")]
    bad += [item("d", source="\ud800.tif", guide="rgb/a_RGB.tif"), item("\ud800", source="s.tif", guide="g.tif")]
    (tmp_path / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": [*bad, good]}))
    done = geosr("batch", "--manifest", tmp_path / "items.json", "-o", tmp_path / OUTPUT, "--method", "bicubic")
    assert done.code == 5
    assert "1 done, 4 failed" in done.out
    assert done.out.count("has no href that can be a file's name") == 3
    assert done.out.count("its id cannot be part of a file's name") == 1


def test_stac_items_name_pairs_by_their_assets(tmp_path):
    fill(tmp_path, ["a", "b c"])
    dsm, rgb = "./dsm/{}_DSM.tif", "rgb/{}_RGB.tif"
    items = [
        item("first", dem=dsm.format("a"), visual=(tmp_path / rgb.format("a")).as_uri(), thumbnail="a.png"),
        item("second", dem=dsm.format("b c"), visual=(tmp_path / rgb.format("b c")).as_uri()),
        item("remote", dem="https://example.org/a.tif", visual=rgb.format("a")),
        item("bare", dem=dsm.format("a")),
        item("../up", dem=dsm.format("a"), visual=rgb.format("a")),
        item("..", dem=dsm.format("a"), visual=rgb.format("a")),
        item("no address", dem="http://[", visual=rgb.format("a")),
        item("gone", dem=dsm.format("z"), visual=rgb.format("a")),
        {"type": "Feature"},
    ]
    manifest = tmp_path / "items.json"
    manifest.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    done = geosr("batch", "--manifest", manifest, "-o", tmp_path / OUTPUT, "--method", "bicubic")
    assert done.code == 5
    assert "2 done, 7 failed" in done.out
    for text in (
        "is not on this machine",
        "has no href that can be read",
        "has no asset guide or visual",
        "cannot be part of a file",
        "has no id",
    ):
        assert text in done.out
    assert sorted(contents(tmp_path / "out")) == ["first_x4.tif", "second_x4.tif"]
    check_means(tmp_path / "dsm/b c_DSM.tif", tmp_path / "out/second_x4.tif", 4)
    manifest.write_text(json.dumps(item("alone", B10=dsm.format("a"), B4=rgb.format("a"))))
    assert geosr("batch", "--manifest", manifest, "-o", tmp_path / OUTPUT).code == 3
    keys = ("--source-asset", "B10", "--guide-asset", "B4", "--method", "bicubic")
    one = geosr("batch", "--manifest", manifest, "-o", tmp_path / OUTPUT, *keys)
    assert one.code == 0, one.err
    assert (tmp_path / "out/alone_x4.tif").exists()
    for text in ("{", '{"type": "Catalog"}', "[]", '{"type": "FeatureCollection", "features": {}}'):
        manifest.write_text(text)
        refused = geosr("batch", "--manifest", manifest, "-o", tmp_path / OUTPUT)
        assert refused.code == 3, refused.err
        assert refused.err.count("\n") == 1
    misused = geosr("batch", "--manifest", tmp_path / "pairs.csv", "-o", tmp_path / OUTPUT, *keys)
    assert (misused.code, "are for STAC items" in misused.err) == (2, True)


def test_what_is_written_beside_each_output(tmp_path):
    fill(tmp_path, ["a", "b"])
    assert batch(tmp_path).code == 0
    first = contents(tmp_path / "out")
    beside = ("--uncertainty", tmp_path / "std/{stem}.tif", "--style")
    refused = batch(tmp_path, *beside)
    assert refused.code == 5
    assert "std/a.tif does not; use --overwrite" in refused.out
    assert batch(tmp_path, *beside, "--overwrite").code == 0
    assert sorted(contents(tmp_path / "out")) == ["a_x4.qml", "a_x4.tif", "b_x4.qml", "b_x4.tif"]
    assert first.items() <= contents(tmp_path / "out").items()
    alone = tmp_path / "alone.tif"
    pair = ("--source", tmp_path / "dsm/a_DSM.tif", "--guide", tmp_path / "rgb/a_RGB.tif", "-o", tmp_path / "o.tif")
    assert geosr("upscale", *pair, "--method", "bicubic", "--uncertainty", alone).code == 0
    np.testing.assert_array_equal(plain_read(alone), plain_read(tmp_path / "std/a.tif"))
    assert "2 skipped" in batch(tmp_path, *beside).out
    (tmp_path / "std/b.tif").unlink()
    assert "1 skipped, 1 failed" in batch(tmp_path, *beside).out
    same = batch(tmp_path, "--uncertainty", tmp_path / "std/all.tif", "--overwrite")
    assert "2 failed" in same.out
    assert "2 pairs have the output" in same.out
    assert batch(tmp_path, "--uncertainty", tmp_path / "{name}.tif").code == 2


def kill_when_published(folder, step):
    """A batch that is killed after it has named its output, before `step` (`remove` or `write_style`)."""
    module = {"remove": "geosr.run_folder", "write_style": "geosr.pipeline"}[step]
    code = f"import os, sys, {module}\n{module}.{step} = lambda *_: os.kill(os.getpid(), 9)\n"
    code += "from geosr_cli.main import main\nmain()"
    command = [sys.executable, "-c", code, *map(str, arguments(folder, "--style"))]
    assert subprocess.run(command, capture_output=True, timeout=600, check=False).returncode == -signal.SIGKILL


@pytest.mark.parametrize("step", ["remove", "write_style"])
def test_what_a_batch_killed_after_the_outputs_name_left_to_do_is_done_by_the_next(step, tmp_path):
    fill(tmp_path, ["a"])
    assert batch(tmp_path, "--style").code == 0
    whole = contents(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    kill_when_published(tmp_path, step)
    killed = contents(tmp_path / "out")
    assert killed["a_x4.tif"] == whole["a_x4.tif"]
    assert ("a_x4.qml" in killed) == (step == "remove")
    assert "1 skipped" in batch(tmp_path, "--style", "--dry-run").out
    assert contents(tmp_path / "out") == killed
    assert "1 skipped" in batch(tmp_path, "--style").out
    assert contents(tmp_path / "out") == whole
    (tmp_path / "out/a_x4.qml").write_text("mine")
    assert "1 skipped" in batch(tmp_path, "--style").out
    assert (tmp_path / "out/a_x4.qml").read_text() == "mine"


def test_of_a_skipped_pair_no_folder_is_removed_that_holds_another_runs_tiles(tmp_path):
    fill(tmp_path, ["a"])
    assert batch(tmp_path).code == 0
    left = tmp_path / "out" / run_folder_of(tmp_path / "out/a_x4.tif").name
    (left / "tiles").mkdir(parents=True)
    (left / "tiles/0000000-0.tile").write_text("of a run with --overwrite that ended early")
    left.with_name(f"{left.name}.gone").mkdir()
    assert "1 skipped" in batch(tmp_path).out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [left.name, "a_x4.tif"]


def test_a_scheduler_that_is_not_there_ends_the_run(tmp_path):
    fill(tmp_path, ["a", "b"])
    done = batch(tmp_path, "--scheduler", "tcp://127.0.0.1:9", "--quiet")
    assert done.code == 4
    assert "127.0.0.1:9" in done.err


def test_processes_give_the_same_bytes(tmp_path):
    fill(tmp_path, ["a"])
    assert batch(tmp_path).code == 0
    first = contents(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    done = batch(tmp_path, "--scheduler", "processes", "--workers", 1)
    assert done.code == 0, done.err
    assert contents(tmp_path / "out") == first


def test_one_guide_for_all_sources(tmp_path):
    fill(tmp_path, ["a", "b"])
    shutil.copy(tmp_path / "rgb/a_RGB.tif", tmp_path / "ortho.tif")
    source, out = tmp_path / "dsm/*_DSM.tif", tmp_path / OUTPUT
    done = geosr("batch", "--source", source, "--guide", tmp_path / "ortho.tif", "-o", out, "--method", "diffusion")
    assert done.code == 0, done.err
    for name in "ab":
        with rasterio.open(tmp_path / f"out/{name}_x4.tif") as dataset:
            assert dataset.tags()["GEOSR_GUIDE"] == "ortho.tif"


@pytest.mark.parametrize("between", [",", ";"])
def test_a_list_as_spreadsheets_write_it(tmp_path, between):
    rows = [("source", "guide", "output"), ("a 1.tif", "b.tif", "c.tif"), ("d.tif", "b.tif", "")]
    text = "\r\n".join(between.join(f'"{name}"' for name in row) for row in rows)
    (tmp_path / "pairs.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    jobs = pairs_by_manifest(tmp_path / "pairs.csv", "{stem}.tif", 4).jobs
    assert [(job.source.name, job.guide.name, job.output.name) for job in jobs] == [
        ("a 1.tif", "b.tif", "c.tif"),
        ("d.tif", "b.tif", "d.tif"),
    ]


def test_refusals(tmp_path):
    manifest = tmp_path / "pairs.csv"
    manifest.write_text("source,image\na.tif,b.tif\n")
    with pytest.raises(InputError, match="missing: guide"):
        pairs_by_manifest(manifest, None, 4)
    manifest.write_text("source,guide\na\0.tif,b.tif\n")
    with pytest.raises(InputError, match="line 2: no file's name has a NUL in it"):
        pairs_by_manifest(manifest, "{stem}.tif", 4)
    manifest.write_text("source,guide\na.tif,b.tif\n")
    with pytest.raises(UsageError, match="use --output"):
        pairs_by_manifest(manifest, None, 4)
    with pytest.raises(InputError, match="cannot be read as CSV"):
        pairs_by_manifest(tmp_path / "nowhere.csv", "{stem}.tif", 4)
    with pytest.raises(UsageError, match=r"wants one \*"):
        pairs_by_pattern("a.tif", "{stem}.tif", "{stem}.tif", 4)
    with pytest.raises(UsageError, match=r"wants \{stem\}"):
        pairs_by_pattern("*.tif", "b.tif", "{stem}.tif", 4)
    with pytest.raises(UsageError, match=r"\{name\} is neither \{stem\} nor \{scale\}"):
        pairs_by_pattern("*.tif", "{stem}.tif", "{name}.tif", 4)
    with pytest.raises(UsageError, match=r"ends in \.tif"):  # it would fail for every pair
        pairs_by_pattern("*.tif", "{stem}.tif", "{stem}.png", 4)
    with pytest.raises(InputError, match="no file matches"):
        pairs_by_pattern(f"{tmp_path}/*.tif", "{stem}.tif", "{stem}.tif", 4)
    for options, text in (
        ([], "give exactly one of --source and --guide patterns, --manifest, and --dataset"),
        (["--source", "*.tif"], "belong together"),
        (["--manifest", manifest, "--source", "*.tif"], "give exactly one of"),
        (["--manifest", manifest, "--dataset", "middlebury", tmp_path], "give exactly one of"),
        (["--truth", "*.tif", "--guide", "{stem}.tif", "--dataset", "middlebury", tmp_path], "give exactly one of"),
        (
            ["--dataset", "imagenet", tmp_path, "-o", "{stem}.tif"],
            "there are: middlebury, dfc2019,",
        ),
        (["--manifest", manifest, "-o", "{stem}.tif", "--summary", "s.txt"], "ends in"),
        (["--manifest", manifest, "-o", "{stem}.tif", "--set", "magic=1"], "magic"),
    ):
        refused = geosr("batch", *options)
        assert refused.code == 2, refused.err
        assert text in refused.err
