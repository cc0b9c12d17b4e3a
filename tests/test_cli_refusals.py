"""Bad input gets one clear line and the right exit code, and nothing on disk changes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasters
from affine import Affine
from pairs import contents, geosr, make_pair, upscale
from rasterio.control import GroundControlPoint
from rasterio.rpc import RPC

USAGE, INPUT, UNAVAILABLE, OUTPUT = 2, 3, 4, 6


def check_refused(outcome, code, *phrases):
    """One short message that holds every phrase, and nothing but it."""
    assert outcome.code == code, outcome.err
    assert outcome.out == ""
    lines = outcome.err.strip().splitlines()
    assert lines[0].startswith("Error: ")
    assert len(lines) <= 3
    assert max(map(len, lines)) < 400
    assert "Traceback" not in outcome.err
    for phrase in phrases:
        assert phrase in outcome.err


@pytest.fixture
def folder(tmp_path):
    make_pair(tmp_path)
    return tmp_path


# --- options -------------------------------------------------------------------------------------------------

SCALES = "whole number from 2 to 32"
OPTIONS = [
    (["--scale", "0"], USAGE, ["scale is 0", SCALES]),
    (["--scale", "1"], USAGE, ["scale is 1", SCALES]),
    (["--scale", "2.5"], USAGE, ["scale is 2.5", SCALES]),
    (["--scale", "33"], USAGE, ["scale is 33", SCALES]),
    (["--scale", "1000"], USAGE, ["scale is 1000", SCALES]),
    (["--scale", "-4"], USAGE, ["scale is -4", SCALES]),
    (["--scale", "nan"], USAGE, ["scale is nan", SCALES]),
    (["--scale", "inf"], USAGE, ["scale is inf", SCALES]),
    (["--scale", "four"], USAGE, ["--scale", "'four'"]),
    (["--bounds", "0", "0", "10", "10"], USAGE, ["outside the source", "500000.0"]),
    (["--bounds", "-10", "-10", "-5", "-5"], USAGE, ["outside the source"]),
    (["--bounds", "500040", "4999960", "500010", "4999990"], USAGE, ["empty", "LEFT BOTTOM RIGHT TOP"]),
    (["--bounds", "500010", "4999990", "500040", "4999960"], USAGE, ["empty", "LEFT BOTTOM RIGHT TOP"]),
    (["--bounds", "nan", "nan", "nan", "nan"], USAGE, ["finite", "LEFT BOTTOM RIGHT TOP"]),
    (["--bounds", "0", "0", "inf", "inf"], USAGE, ["finite", "LEFT BOTTOM RIGHT TOP"]),
    (["--bounds", "1", "2", "3"], USAGE, ["--bounds", "4"]),
    (["--tile", "8"], USAGE, ["too small", "use at least --tile"]),
    (["--tile", "0"], USAGE, ["tile is 0", "positive"]),
    (["--band", "2"], USAGE, ["band 2", "source.tif"]),
    (["--band", "0"], USAGE, ["band 0", "source.tif"]),
    (["--set", "colour=blue"], USAGE, ["bicubic", "--set"]),
    (["--set", "epochs"], USAGE, ["'epochs'", "KEY=VALUE"]),
    (["--method", "mmsr", "--set", "epoch=3"], USAGE, ["'epoch'", "epochs"]),
    (["--method", "mmsr", "--set", "epochs=many"], USAGE, ["epochs", "'many'"]),
    (["--method", "mmsr", "--set", "learning_rate=1e999"], USAGE, ["learning_rate is inf"]),
    (["--method", "mmsr", "--set", "epochs=!!python/object:os.system"], USAGE, ["epochs", "of type int"]),
    (["--consistency", "soft:nan"], USAGE, ["'soft:nan'", "soft:SIGMA"]),
    (["--method", "mmsr", "--preset", "best"], USAGE, ["'best'", "paper-depth"]),
    (["--preset", "best"], USAGE, ["'best'"]),
    (["--consistency", "firm"], USAGE, ["'firm'", "exact, off, or soft:SIGMA"]),
    (["--consistency", "soft:-1"], USAGE, ["'soft:-1'", "soft:SIGMA"]),
    (["--dtype", "int7"], USAGE, ["int7", "int16"]),
    (["--compress", "rar"], USAGE, ["rar", "zstd"]),
    (["--seed", "-1"], USAGE, ["seed is -1"]),
    (["--seed", "x"], USAGE, ["--seed", "'x'"]),
    (["--workers", "0"], USAGE, ["workers is 0", "at least 1"]),
    (["--assume-crs", "Atlantis"], USAGE, ["'Atlantis'", "EPSG:32632"]),
    (["--source-nodata", "none"], USAGE, ["--source-nodata", "'none'"]),
    (["--quiet", "--verbose"], USAGE, ["contradict"]),
    (["--scael", "4"], USAGE, ["--scael", "--scale", "geosr upscale --help"]),
    (["stray"], USAGE, ["stray", "geosr upscale --help"]),
    (["--method", "magic"], UNAVAILABLE, ["'magic'", "mmsr", "bicubic"]),
    (["--tile-timeout", "60"], USAGE, ["a thread that hangs cannot be ended", "--scheduler processes"]),
    (["--tile-timeout", "0", "--scheduler", "processes"], USAGE, ["tile_timeout is 0", "more than 0"]),
    (["--tile-timeout", "nan", "--scheduler", "processes"], USAGE, ["tile_timeout is nan"]),
    (["--tile-timeout", "soon"], USAGE, ["--tile-timeout", "'soon'"]),
    (["--gpus", "all", "--scheduler", "processes", "--device", "cpu"], USAGE, ["--gpus", "--device cpu", "contradict"]),
    (["--gpus", "all"], USAGE, ["--gpus", "needs --scheduler processes"]),
    (["--gpus", "0", "--scheduler", "processes", "--workers", "2"], USAGE, ["--gpus", "leave --workers out"]),
    (["--gpus", "0,0", "--scheduler", "processes"], USAGE, ["gpus is '0,0'", "different numbers"]),
    (["--gpus", "0,", "--scheduler", "processes"], USAGE, ["gpus is '0,'", "0,1"]),
    (["--gpus", "-1", "--scheduler", "processes"], USAGE, ["gpus is '-1'"]),
    (["--guide", "other.tif"], USAGE, ["--guide is given 2 times", "as their folder"]),
    (["--report", "a.json", "--report", "a.html"], USAGE, ["--report is given 2 times"]),
    (["--min", "5", "--max", "1"], USAGE, ["limits are 5 and 1"]),
    (["--device", "gpu"], UNAVAILABLE, ["'gpu'", "auto, cpu, cuda"]),
]


@pytest.mark.parametrize(("options", "code", "phrases"), OPTIONS, ids=[" ".join(o) for o, _, _ in OPTIONS])
def test_options(options, code, phrases, folder):
    before = contents(folder)
    check_refused(upscale(folder, *options), code, *phrases)
    assert contents(folder) == before


def test_a_gpu_that_is_not_there(folder):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    before = contents(folder)
    check_refused(upscale(folder, "--device", "cuda"), UNAVAILABLE, "CUDA", "--device cpu")
    assert contents(folder) == before


@pytest.mark.parametrize(("which", "phrase"), [("all", "GPUs were asked for"), ("0,99", "was asked for")])
def test_gpus_that_torch_does_not_see(which, phrase, folder):
    torch = pytest.importorskip("torch")
    if which == "all" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    before = contents(folder)
    outcome = upscale(folder, "--scheduler", "processes", "--gpus", which)
    check_refused(outcome, UNAVAILABLE, phrase, f"sees {torch.cuda.device_count()}", "nvidia-smi")
    assert contents(folder) == before


@pytest.mark.parametrize("missing", ["--source", "--guide", "--output"])
def test_what_must_be_given(missing, folder):
    given = {"--source": folder / "source.tif", "--guide": folder / "guide.tif", "--output": folder / "out.tif"}
    del given[missing]
    check_refused(geosr("upscale", *(x for item in given.items() for x in item)), USAGE, missing)


def test_a_pattern_of_batch_that_the_shell_has_expanded(tmp_path):
    """Into hundreds of names, which are not all repeated."""
    names = [f"dsm/{number:03d}_DSM.tif" for number in range(500)]
    done = geosr("batch", "--source", *names, "--guide", "rgb/{stem}_RGB.tif", "-o", tmp_path / "{stem}.tif")
    check_refused(done, USAGE, "dsm/001_DSM.tif", "quote the pattern: --source 'dsm/*_DSM.tif'", "batch --help")


def test_unknown_command():
    check_refused(geosr("upscael"), USAGE, "upscael", "geosr --help")


# --- pairs that do not fit -----------------------------------------------------------------------------------


def one_without_crs(folder):
    make_pair(folder, crs=None, guide_crs="EPSG:32633")


def other_without_crs(folder):
    make_pair(folder, guide_crs=None)


def both_without_crs_and_one_placed(folder):
    make_pair(folder, crs=None)
    rasters.write(folder / "guide.tif", np.ones((3, 96, 96), "uint8"), Affine.identity(), None)


def both_without_crs_and_not_nesting(folder):
    rasters.write(folder / "source.tif", np.ones((24, 24), "float32"), Affine.identity(), None)
    rasters.write(folder / "guide.tif", np.ones((3, 100, 96), "uint8"), Affine.identity(), None)


def disjoint(folder):
    make_pair(folder, shift=5000)


def guide_as_coarse(folder):
    make_pair(folder, step=4)


def guide_coarser(folder):
    make_pair(folder, step=8)


def all_nodata(folder):
    make_pair(folder)
    rasters.write(folder / "source.tif", np.full((24, 24), -9999, "float32"), rasters.grid(5e5, 5e6, 4), nodata=-9999)


def guide_all_nodata(folder):
    rasters.write(folder / "guide.tif", np.zeros((3, 96, 96), "uint8"), rasters.grid(5e5, 5e6, 1), nodata=0)


PAIRS = [
    (one_without_crs, ["source has no CRS", "EPSG:32633", "--assume-crs"]),
    (other_without_crs, ["guide has no CRS", "EPSG:32632", "--assume-crs"]),
    (both_without_crs_and_one_placed, ["neither raster has a CRS", "give both a georeference"]),
    (both_without_crs_and_not_nesting, ["neither raster has a CRS", "24 x 24", "96 x 100"]),
    (disjoint, ["do not overlap", "source: x 500000.0 to 500096.0", "guide: x 505000.0 to 505096.0"]),
    (guide_as_coarse, ["no finer than the source", "1.00", "smaller pixels", "--native-resolution METRES"]),
    (guide_coarser, ["no finer than the source", "0.50", "is the source perhaps the guide?", "smaller pixels"]),
    (all_nodata, ["source.tif", "no pixel is valid"]),
    (guide_all_nodata, ["the guide guide.tif has no valid pixel"]),
]


@pytest.mark.usefixtures("guided_bicubic")
@pytest.mark.parametrize(("build", "phrases"), PAIRS, ids=[build.__name__ for build, _ in PAIRS])
def test_pairs(build, phrases, folder):
    build(folder)
    before = contents(folder)
    check_refused(upscale(folder), INPUT, *phrases)
    assert contents(folder) == before


def real_upscale(folder, *options, env=None):
    """The command in a process of its own."""
    pair = ["--source", "source.tif", "--guide", "guide.tif", "-o", "out.tif", "--method", "bicubic"]
    command = [sys.executable, "-m", "geosr", "upscale", *pair, *options]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False)


def test_bounds_beyond_the_source_are_said(tmp_path):
    make_pair(tmp_path)
    inside = upscale(tmp_path, "--bounds", 500000, 4999960, 500096, 5000000)
    beyond = upscale(tmp_path, "--bounds", 499990, 4999960, 500096, 5000000, "--overwrite")
    assert (inside.code, beyond.code) == (0, 0)
    note = "note: the bounds reach beyond the source: only its part of them is worked on\n"
    assert (note in inside.err, note in beyond.err) == (False, True)


@pytest.mark.parametrize("variable", ["PROJ_DATA", "PROJ_LIB"])
def test_a_database_of_projections_that_is_not_there_is_named(variable, tmp_path):
    make_pair(tmp_path, guide_crs="EPSG:3857")
    without = os.environ | {variable: str(tmp_path / "nowhere")}
    done = real_upscale(tmp_path, env=without)
    assert done.returncode == INPUT, done.stderr
    assert f"{variable} is {tmp_path / 'nowhere'}, where PROJ's database proj.db is not: unset it" in done.stderr


def test_bounds_without_a_valid_pixel(tmp_path):
    make_pair(tmp_path)
    values = np.full((24, 24), -9999, "float32")
    values[12:] = 5 + 0.1 * np.arange(12 * 24).reshape(12, 24)
    rasters.write(tmp_path / "source.tif", values, rasters.grid(5e5, 5e6, 4), nodata=-9999)
    part = ("--bounds", 500000, 4999960, 500096, 5000000)
    check_refused(upscale(tmp_path, *part), INPUT, "no valid pixel")
    timed = geosr("info", tmp_path / "source.tif", tmp_path / "guide.tif", *part, "--time", "--method", "bicubic")
    assert timed.code == INPUT
    assert "no valid pixel" in timed.err


@pytest.mark.parametrize(("step", "scale", "advice"), [(2, 4, "--scale 2"), (1, 8, "--scale 4"), (3, 4, "1.33 of")])
def test_a_guide_coarser_than_the_output_only_warns(step, scale, advice, tmp_path):
    make_pair(tmp_path, step=step)
    outcome = upscale(tmp_path, "--scale", scale)
    assert outcome.code == 0
    assert "coarser than the output" in outcome.err
    assert "detail is limited to that ratio" in outcome.err
    assert advice in outcome.err


# --- files that are no good ----------------------------------------------------------------------------------


def missing(path):
    path.unlink()


def is_folder(path):
    path.unlink()
    path.mkdir()


def empty(path):
    path.write_bytes(b"")


def text(path):
    path.write_text("height\n1\n2\n")


def pointer(path):
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")


def truncated(path):
    path.write_bytes(path.read_bytes()[:-600])


def truncated_header(path):
    path.write_bytes(path.read_bytes()[:60])


def claims_terabytes(path):
    blocks = {"tiled": True, "blockxsize": 16384, "blockysize": 16384, "SPARSE_OK": True, "BIGTIFF": "YES"}
    profile = {"driver": "GTiff", "count": 1, "dtype": "float32", "crs": rasters.UTM, "width": 10**6, "height": 10**6}
    with rasterio.open(path, "w", transform=rasters.grid(5e5, 5e6, 4), **profile, **blocks):
        pass


def complex_numbers(path):
    rasters.write(path, np.ones((24, 24), "complex64"), rasters.grid(5e5, 5e6, 4))


def ground_control_points_only(path):
    points = [GroundControlPoint(r, c, 5e5 + 4 * c, 5e6 - 4 * r) for r, c in [(0, 0), (0, 24), (24, 0), (24, 24)]]
    rasters.write(path, np.ones((24, 24), "float32"), Affine.identity(), gcps=points)


def rpc_only(path):
    numbers = dict.fromkeys(("err_bias", "err_rand", "height_off", "lat_off", "long_off", "line_off", "samp_off"), 0.0)
    scales = dict.fromkeys(("height_scale", "lat_scale", "line_scale", "long_scale", "samp_scale"), 1.0)
    terms = dict.fromkeys(("line_num_coeff", "line_den_coeff", "samp_num_coeff", "samp_den_coeff"), [1.0] * 20)
    rasters.write(path, np.ones((24, 24), "float32"), Affine.identity(), None, rpcs=RPC(**numbers, **scales, **terms))


def virtual(path):
    path.write_text("<VRTDataset rasterXSize='4' rasterYSize='4'></VRTDataset>")


def one_row(path):
    rasters.write(path, np.ones((1, 24), "float32"), rasters.grid(5e5, 5e6, 4))


EITHER = [
    (missing, ["No such file"]),
    (is_folder, ["is a folder without rasters", "give a raster file"]),
    (empty, ["empty"]),
    (text, ["not a supported raster", "GeoTIFF"]),
    (pointer, ["Git LFS pointer", "git lfs pull"]),
    (truncated, ["truncated"]),
    (truncated_header, ["damaged"]),
    (claims_terabytes, ["claims 1000000 x 1000000 pixels", "damaged or hostile"]),
    (complex_numbers, ["complex", "amplitude"]),
    (ground_control_points_only, ["ground control points only", "gdalwarp"]),
    (rpc_only, ["RPCs only", "gdalwarp"]),
    (virtual, ["VRT", "give the folder", "rio convert in.vrt out.tif"]),
    (one_row, ["24 x 1 pixels", "at least"]),
]


@pytest.mark.parametrize("role", ["source", "guide"])
@pytest.mark.parametrize(("damage", "phrases"), EITHER, ids=[damage.__name__ for damage, _ in EITHER])
def test_files(damage, phrases, role, folder):
    damage(folder / f"{role}.tif")
    before = contents(folder)
    check_refused(upscale(folder), INPUT, f"{role}.tif", *phrases)
    assert contents(folder) == before


def test_several_bands_are_listed(folder):
    rasters.write(folder / "source.tif", np.ones((3, 24, 24), "float32"), rasters.grid(5e5, 5e6, 4))
    with rasterio.open(folder / "source.tif", "r+") as dataset:
        dataset.descriptions = ("height", "slope", "\x1b[31maspect")
    before = contents(folder)
    outcome = upscale(folder)
    check_refused(outcome, INPUT, "3 bands", "1 height", "2 slope", "aspect", "--band")
    assert "\x1b" not in outcome.err
    assert contents(folder) == before


ODD = [
    ("lfs_pointer.tif", ["Git LFS pointer", "git lfs pull"]),
    ("dos_strip_chop.tif", ["claims 2048 x 1073741824 pixels"]),
    ("corrupt.tif", ["truncated"]),
    ("corrupted_gtiff_tags.tif", ["1 x 1 pixels"]),
    ("nontiff.jpg", ["content is PNG"]),
    ("no_band.h5", ["holds several layers"]),
    ("all-nodata.tif", ["no pixel is valid"]),
    ("inverted_lat.tif", ["no pixel is valid"]),
    ("cfloat32.tif", ["complex"]),
    ("RGB.byte.gcp.vrt", ["VRT"]),
    ("minfloat.tif", ["4 x 1 pixels"]),
]


@pytest.mark.parametrize(("name", "phrases"), ODD, ids=[name for name, _ in ODD])
def test_odd_files(name, phrases, folder):
    odd = rasters.shared_data() / "odd" / name
    before = contents(folder)
    band = ("--band", 1) if name in ("corrupt.tif", "all-nodata.tif") else ()
    check_refused(upscale(folder, *band, source=odd), INPUT, name, *phrases)
    assert contents(folder) == before


# --- outputs -------------------------------------------------------------------------------------------------


def onto_source(folder):
    return "source.tif"


def onto_guide(folder):
    return "guide.tif"


def onto_symlink(folder):
    (folder / "link.tif").symlink_to(folder / "source.tif")
    return "link.tif"


def onto_hard_link(folder):
    os.link(folder / "guide.tif", folder / "link.tif")
    return "link.tif"


@pytest.mark.parametrize("more", [(), ("--overwrite",), ("--dry-run",)])
@pytest.mark.parametrize("place", [onto_source, onto_guide, onto_symlink, onto_hard_link])
def test_an_input_is_never_the_output(place, more, folder):
    output = place(folder)
    before = contents(folder)
    check_refused(upscale(folder, *more, output=output), USAGE, "one of the inputs", "another name")
    assert contents(folder) == before


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_an_existing_output_stays(more, folder):
    (folder / "out.tif").write_text("precious")
    before = contents(folder)
    check_refused(upscale(folder, *more), USAGE, "out.tif exists", "--overwrite")
    assert contents(folder) == before


def test_an_existing_output_stays_when_the_run_that_would_replace_it_fails(folder):
    (folder / "out.tif").write_text("precious")
    truncated(folder / "guide.tif")
    before = contents(folder)
    check_refused(upscale(folder, "--overwrite"), INPUT, "truncated")
    assert contents(folder) == before


def test_no_folder_for_the_output(folder):
    before = contents(folder)
    check_refused(upscale(folder, output="nowhere/out.tif"), OUTPUT, "nowhere", "make the folder first")
    assert contents(folder) == before


def test_a_folder_is_no_output(folder):
    (folder / "out.tif").mkdir()
    before = contents(folder)
    check_refused(upscale(folder, "--overwrite"), OUTPUT, "is a folder", "name of a file")
    assert contents(folder) == before


def test_a_folder_that_may_not_be_written_to(folder):
    closed = folder / "closed"
    closed.mkdir(mode=0o500)
    if os.access(closed, os.W_OK):
        pytest.skip("this user may write everywhere")
    check_refused(upscale(folder, output="closed/out.tif"), OUTPUT, "cannot write in", "closed")
    assert list(closed.iterdir()) == []


@pytest.fixture
def latin(folder):
    """A folder whose name is no UTF-8, as old archives have them."""
    try:
        os.mkdir(os.fsencode(folder) + b"/caf\xe9")
    except OSError:
        pytest.skip("this file system has no such names")
    return Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9"))


def test_a_path_that_is_not_utf8_is_refused_before_the_work(latin, folder, monkeypatch):
    for name in ("source.tif", "guide.tif"):
        shutil.copy(folder / name, latin)
    before = contents(folder)
    pair, weights = (folder / "source.tif", folder / "guide.tif"), latin / "w.safetensors"
    check_refused(upscale(folder, output=latin / "out.tif"), OUTPUT, "is not UTF-8", "rename")
    check_refused(upscale(folder, "--uncertainty", latin / "std.tif"), OUTPUT, "is not UTF-8", "rename")
    check_refused(upscale(folder, source=latin / "source.tif"), INPUT, "is not UTF-8", "rename")
    check_refused(upscale(folder, guide=latin), INPUT, "is not UTF-8", "rename")
    check_refused(upscale(folder, "--weights", weights, method="fdsr"), INPUT, "is not UTF-8", "rename")
    check_refused(geosr("tile", *pair, "-o", latin / "tiles"), OUTPUT, "is not UTF-8", "rename")
    assert contents(folder) == before
    monkeypatch.chdir(latin)  # a name that is, in a folder that is not
    check_refused(geosr("info", "source.tif", "guide.tif", "--method", "bicubic"), INPUT, "is not UTF-8")


def test_what_gdal_does_not_write_may_lie_in_a_folder_that_is_not_utf8(latin, folder):
    done = upscale(folder, "--report", latin / "report.json")
    assert done.code == 0, done.err
    assert geosr("quicklook", folder / "source.tif", "-o", latin / "a.png").code == 0
    assert sorted(path.name for path in latin.iterdir()) == ["a.png", "report.json"]


# --- the other commands, and real processes ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "more"),
    [("tile", ("-o", "pairs")), ("assess", ("--method", "bicubic")), ("compare", ("--methods", "bicubic"))],
)
def test_the_other_commands_refuse_alike(command, more, folder, monkeypatch):
    monkeypatch.chdir(folder)
    pair, before = (folder / "source.tif", folder / "guide.tif"), contents(folder)
    check_refused(geosr(command, *pair, "--scale", 1, *more), USAGE, SCALES)
    check_refused(geosr(command, pair[0], folder / "no.tif", *more), INPUT, "no.tif", "No such file")
    check_refused(geosr(command, pair[0], *more), USAGE, "GUIDE", f"geosr {command} --help")
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("build", "described", "phrases"),
    [
        (disjoint, ["source", "guide"], ["do not overlap"]),
        (guide_coarser, ["source", "guide"], ["is the source perhaps the guide?"]),
        (one_without_crs, ["source", "guide"], ["source has no CRS"]),
        (lambda folder: (folder / "guide.tif").write_text("no"), [], ["guide.tif: not a supported raster"]),
        (lambda folder: (folder / "source.tif").unlink(), [], ["source.tif: cannot be read"]),
    ],
)
def test_info_describes_both_files_where_it_refuses_them_as_a_pair(build, described, phrases, folder):
    build(folder)
    outcome = geosr("info", folder / "source.tif", folder / "guide.tif", "--method", "bicubic")
    assert [line.split()[0] for line in outcome.out.splitlines()] == described
    for line, role in zip(outcome.out.splitlines(), described, strict=True):
        with rasterio.open(folder / f"{role}.tif") as file:
            assert f"{role}.tif: {file.width} x {file.height} pixels of {file.res[0]:g} x " in line
    check_refused(replace(outcome, out=""), INPUT, *phrases)
    check_refused(geosr("info", folder / "source.tif", folder / "guide.tif", "--scale", 1), USAGE, SCALES)


@pytest.mark.parametrize(
    "option", [("--time",), ("--method", "bicubic"), ("--scale", 4), ("--bounds", 0, 0, 1, 1), ("--guide-nodata", 0)]
)
def test_info_of_one_raster_takes_no_option_of_a_pair(option, folder):
    refused = geosr("info", folder / "source.tif", *option)
    check_refused(refused, USAGE, f"{option[0]} has no effect without GUIDE")


def test_tile_leaves_an_existing_folder_alone(folder):
    (folder / "pairs").mkdir()
    before = contents(folder)
    pair = (folder / "source.tif", folder / "guide.tif")
    check_refused(geosr("tile", *pair, "-o", folder / "pairs"), USAGE, "pairs exists")
    check_refused(geosr("tile", *pair, "-o", folder / "new", "--tile", 3), USAGE, "tile of 3 pixels")
    check_refused(geosr("tile", *pair, "-o", folder / "no" / "new"), OUTPUT, "make the folder first")
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("options", "code", "phrase"),
    [
        (["--scale", "2.5"], USAGE, "whole number"),
        (["--scale", "4"], INPUT, "guide.tif: not a supported raster"),
        (["--method", "magic"], UNAVAILABLE, "'magic'"),
        (["-o", "no/out.tif"], OUTPUT, "make the folder first"),
    ],
)
def test_exit_codes_of_the_real_command(options, code, phrase, folder):
    if code == INPUT:
        (folder / "guide.tif").write_text("no raster")
    before = contents(folder)
    done = real_upscale(folder, *options)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("Error: ")
    assert phrase in done.stderr
    assert done.stderr.count("\n") == 1
    assert contents(folder) == before
