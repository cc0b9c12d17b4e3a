"""The command line as a newcomer, a script and a strange terminal meet it."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
import rasterio
import rasters
from affine import Affine
from geosr_cli.main import cli
from geosr_cli.options import PATH, read_settings
from geosr_cli.render import clock, printable
from pairs import contents, geosr, make_pair, upscale

import geosr as package
from geosr import errors, methods


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A folder with a small pair that no test changes."""
    folder = tmp_path_factory.mktemp("pair")
    make_pair(folder)
    return folder


def real(*arguments, cwd, **environment):
    """The command as a process."""
    return subprocess.run(
        [sys.executable, "-m", "geosr", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        env=os.environ | environment,
        timeout=600,
    )


QUICK = ("--preset", "paper-dem", "--set", "epochs=2")


# --- help ----------------------------------------------------------------------------------------------------


def test_help_names_every_command_and_the_exit_codes():
    outcome = geosr("--help")
    assert (outcome.code, outcome.err) == (0, "")
    for name in ("upscale", "info", "tile", "methods"):
        assert re.search(rf"^  {name}  +\w", outcome.out, re.MULTILINE)
    for text in ("geosr upscale --source", "Exit codes: 0 done", "130", "--version"):
        assert text in outcome.out
    assert geosr("-h").out == outcome.out


@pytest.mark.parametrize("name", ["upscale", "info", "tile", "methods"])
def test_every_option_is_explained(name):
    outcome = geosr(name, "--help")
    assert (outcome.code, outcome.err) == (0, "")
    command = cli.get_command(None, name)
    for parameter in command.params:
        if parameter.param_type_name == "option":
            assert parameter.help, parameter.name
            assert parameter.opts[0] in outcome.out
    assert max(map(len, outcome.out.splitlines())) <= 100


def test_help_groups_the_options():
    text = geosr("upscale", "--help").out
    sections = [line for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert sections == [
        "What the job is:",
        "What the files do not say:",
        "How the result is made:",
        "How it runs:",
        "Other options:",
    ]
    assert text.count("--help") == 1 + text.count("geosr upscale --help")


@pytest.mark.parametrize("name", list(cli.list_commands(None)))
def test_nothing_stands_in_the_help_without_an_explanation(name):
    """Arguments once stood first of all, under "Other options" and without a word."""
    text = geosr(name, "--help").out
    headings = [line for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert headings[-1] in ("Other options:", "Options:")
    entries = text.partition(headings[0])[2].splitlines()
    alone = [line for line in entries if re.fullmatch(r"  [A-Z]+", line)]
    assert not alone, alone


def test_the_defaults_in_the_help_are_those_of_the_library():
    from geosr.options import Execution, Inputs, Recipe

    given = cli.get_command(None, "upscale").make_context(
        "upscale", ["--source", "a", "--guide", "b", "-o", "c"], resilient_parsing=False
    )
    inputs, recipe, execution = Inputs(Path("a"), Path("b")), Recipe(), Execution()
    for values in (inputs, recipe, execution):
        for name in set(vars(values)) & set(given.params) - {"settings"}:
            assert given.params[name] == getattr(values, name), name


def test_nothing_at_all_shows_the_help_and_is_wrong_usage():
    outcome = geosr()
    assert outcome.code == 2
    assert outcome.out == ""
    assert "Commands:" in outcome.err


def test_the_module_is_the_command_too(tmp_path):
    done = subprocess.run([sys.executable, "-m", "geosr_cli.main", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"geosr, version {package.__version__}\n")


def test_version():
    assert geosr("--version").out == f"geosr, version {package.__version__}\n"


def test_methods_lists_each_with_source_cost_use_and_presets():
    lines = geosr("methods").out.splitlines()
    names = [line.partition(":")[0] for line in lines if not line.startswith(" ")]
    assert names == [*methods.names()]
    assert lines[1:5] == [
        "  source    Dong et al., ECCV 2022",
        "  cost      half a minute or more a tile",
        "  use       the best result on most pairs, where there is time for it",
        "  presets   default, paper-depth, paper-dem",
    ]
    assert "settings" not in "\n".join(lines)


def test_methods_with_a_name_shows_its_settings():
    shown = geosr("methods", "p2p", "lanczos")
    assert shown.code == 0
    assert "  settings  steps=4096, batch=32, hidden=512" in shown.out
    assert shown.out.splitlines()[-1] == "  settings  none"
    refused = geosr("methods", "magic")
    assert refused.code == 4
    assert "mmsr, diffusion, p2p" in refused.err


LIGHT = [
    (["--help"], ("torch", "rasterio", "xarray", "distributed", "rich")),
    (["upscale", "--help"], ("torch", "rasterio", "xarray", "distributed", "rich")),
    (["info", "--help"], ("torch", "rasterio", "xarray", "distributed", "rich")),
    (["methods"], ("torch", "rasterio", "xarray", "distributed", "rich", "PIL", "sklearn")),
    (["methods", "mmsr", "p2p", "regression"], ("torch", "rasterio", "sklearn")),
    (["info", "source.tif", "guide.tif"], ("torch", "distributed")),
    (["info", "source.tif", "guide.tif", "--method", "bicubic"], ("torch", "distributed")),
]


@pytest.mark.parametrize(("arguments", "banned"), LIGHT, ids=[" ".join(a) for a, _ in LIGHT])
def test_what_is_only_looked_at_imports_nothing_heavy(arguments, banned, pair):
    code = (
        "import sys; from geosr_cli.main import run; code = run(sys.argv[2:]);"
        "print(code, *sorted(set(sys.argv[1].split(',')) & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, ",".join(banned), *arguments],
        cwd=pair,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.stderr == "0\n"


# --- info, tile, upscale -------------------------------------------------------------------------------------


def rows(text):
    """The table of `info` as a mapping."""
    return {line[:10].strip(): line[10:] for line in text.splitlines()}


def test_info_says_what_is_there_and_what_would_be_done(pair):
    before = contents(pair)
    outcome = geosr("info", pair / "source.tif", pair / "guide.tif")
    assert (outcome.code, outcome.err) == (0, "")
    assert rows(outcome.out) == {
        "source": "source.tif: 24 x 24 pixels of 4 x 4 m, EPSG:32632 (WGS 84 / UTM zone 32N), "
        "1 band of float32, nodata none declared",
        "guide": "guide.tif: 96 x 96 pixels of 1 x 1 m, EPSG:32632 (WGS 84 / UTM zone 32N), "
        "3 bands of uint8, nodata none declared",
        "work": "24 x 24 source pixels, 100.0% of them valid",
        "values": "100 to 105.53, mean 102.64, standard deviation 1.70208",
        "overlap": "100.0% inside the guide's outline, 100.0% with valid guide pixels",
        "output": "96 x 96 pixels of 1 x 1 m, EPSG:32632 (WGS 84 / UTM zone 32N), scale 4",
        "ratio": "1.00 x 1.00 guide pixels to one output pixel",
        "method": "mmsr, preset default, consistency exact",
        "tiles": "1 of 96 x 96 pixels",
        "memory": rows(outcome.out)["memory"],
        "disk": "up to 1 MB until the end of a run",
    }
    assert re.fullmatch(r"about \d+ MB", rows(outcome.out)["memory"])
    assert contents(pair) == before


@pytest.mark.parametrize(("scale", "source_said", "guide_said"), [(4, "54.1%", "54.1%"), (8, "54.1%", "about 5")])
def test_info_states_the_share_that_is_valid(scale, source_said, guide_said):
    folder = rasters.shared_data() / "aurea_orchard"
    with rasterio.open(folder / "thermal.tif") as source, rasterio.open(folder / "20180714_drone_ms4c_p.tif") as guide:
        for dataset in (source, guide):  # both cover the same ground
            assert f"{(dataset.dataset_mask() > 0).mean():.1%}" == "54.1%"
        found = rows(geosr("info", source.name, guide.name, "--scale", scale).out)
    assert found["work"] == f"258 x 346 source pixels, {source_said} of them valid"
    assert f", {guide_said}" in found["overlap"]


def test_info_of_one_raster_describes_it(pair, tmp_path):
    outcome = geosr("info", pair / "guide.tif")
    assert (outcome.code, outcome.err) == (0, "")
    name = "EPSG:32632 (WGS 84 / UTM zone 32N)"
    assert rows(outcome.out) == {
        "raster": f"guide.tif: 96 x 96 pixels of 1 x 1 m, {name}, 3 bands of uint8, nodata none declared",
        "extent": f"x 500000.0 to 500096.0, y 4999904.0 to 5000000.0 ({name})",
        "band 1": "red; 0 to 199, mean 98.7986, standard deviation 57.5089",
        "band 2": "green; 0 to 199, mean 100.028, standard deviation 57.4434",
        "band 3": "blue; 0 to 199, mean 99.7209, standard deviation 58.1288",
        "valid": "100.0% of the pixels",
    }
    odd = rasters.write(tmp_path / "odd.tif", np.where(np.mgrid[:40, :40][0] < 4, -9999, 5).astype("int16"), crs=None)
    found = rows(geosr("info", odd, "--assume-crs", "EPSG:32633").out)
    assert "EPSG:32633" in found["raster"]
    assert found["note"] == "it contains -9999, which looks like undeclared nodata"
    assert "note" not in rows(geosr("info", odd, "--source-nodata", -9999).out)


def test_info_estimates_the_time(pair):
    outcome = geosr("info", pair / "source.tif", pair / "guide.tif", "--method", "bicubic", "--time")
    assert re.fullmatch(r"about [\d.]+ s", rows(outcome.out)["time"])


def test_info_is_of_the_fit_and_the_batch_that_a_run_would_have(tmp_path):
    make_pair(tmp_path, size=100)  # four tiles
    files = (tmp_path / "source.tif", tmp_path / "guide.tif", "--device", "cpu")

    found = rows(geosr("info", *files, "--fit", "tile", "--batch", 4).out)["memory"]
    tile = methods.create("mmsr").memory(3, (320, 320), 4)
    assert found == f"about {0.5 + 4 * tile / 1e9:.1f} GB"
    assert "--batch fits tiles together" in geosr("info", *files, "--batch", 2).err


def test_info_of_a_part(pair):
    outcome = geosr("info", pair / "source.tif", pair / "guide.tif", "--bounds", 500001, 4999981, 500011, 4999999)
    assert rows(outcome.out)["work"].startswith("3 x 5 source pixels")
    assert rows(outcome.out)["output"].startswith("12 x 20 pixels of 1 x 1 m")


def test_info_points_out_nodata_that_nobody_declared(tmp_path):
    make_pair(tmp_path)
    with rasterio.open(tmp_path / "source.tif", "r+") as dataset:
        values = dataset.read(1)
        values[:4] = -9999
        dataset.write(values, 1)
    advice = "--source-nodata -9999"
    assert advice in rows(geosr("info", tmp_path / "source.tif", tmp_path / "guide.tif").out)["note"]
    assert advice in upscale(tmp_path).err
    assert advice not in upscale(tmp_path, "--source-nodata", -9999, "--overwrite").err


@pytest.mark.parametrize("command", [("assess", "--method", "bicubic"), ("compare", "--methods", "bicubic"), ("tile",)])
def test_what_tries_or_cuts_a_pair_points_it_out_too(command, tmp_path):
    make_pair(tmp_path, size=96)
    with rasterio.open(tmp_path / "source.tif", "r+") as dataset:
        values = dataset.read(1)
        values[:4] = -9999
        dataset.write(values, 1)
    name, *more = command
    output = ("-o", tmp_path / "pairs") if name == "tile" else ()
    run = (name, tmp_path / "source.tif", tmp_path / "guide.tif", *more)
    advice = "the source contains -9999, which looks like undeclared nodata; if it is, pass --source-nodata -9999"
    assert f"note: {advice}\n" in geosr(*run, *output).err
    output = ("-o", tmp_path / "again") if name == "tile" else ()
    assert advice not in geosr(*run, "--source-nodata", -9999, *output).err


@pytest.mark.parametrize(("role", "said"), [("source", True), ("guide", False)])
def test_zeros_that_look_like_nodata_may_be_ground(role, said, tmp_path):
    make_pair(tmp_path)
    with rasterio.open(tmp_path / f"{role}.tif", "r+") as dataset:
        values = dataset.read()
        values[:, :20] = 0
        dataset.write(values)
    note = rows(geosr("info", tmp_path / "source.tif", tmp_path / "guide.tif").out)["note"]
    assert f"--{role}-nodata 0" in note
    assert ("if 0 is a real value, --min 0 keeps the output from going below it" in note) == said


def test_upscale_on_plain_streams(tmp_path):
    make_pair(tmp_path)
    outcome = upscale(tmp_path)
    assert (outcome.code, outcome.out) == (0, "")
    lines = outcome.err.splitlines()
    assert lines[:-1] == ["tiles: 0 of 1", "tiles: 1 of 1"]
    assert re.match(
        rf"wrote {re.escape(str(tmp_path / 'out.tif'))} in [\d.]+ s: 1 tile; pooled output - sou", lines[-1]
    )
    with rasterio.open(tmp_path / "out.tif") as made:
        assert (made.shape, made.transform[:6]) == ((96, 96), (1, 0, 500000, 0, -1, 5000000))
    assert set(contents(tmp_path)) == {"source.tif", "guide.tif", "out.tif"}


def test_quiet_says_nothing(tmp_path):
    make_pair(tmp_path)
    outcome = upscale(tmp_path, "--quiet")
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")
    assert (tmp_path / "out.tif").is_file()


def test_verbose_adds_grids_settings_and_stages(tmp_path):
    make_pair(tmp_path)
    outcome = upscale(tmp_path, "-v", *QUICK, "--tile", 64, method="mmsr")
    assert (outcome.code, outcome.out) == (0, "")
    assert "epochs=2" in rows(outcome.err)["settings"]
    assert rows(outcome.err)["output"].startswith("96 x 96 pixels of 1 x 1 m")
    assert re.search(
        r"^stage: statistics\nstage: tiles\ntiles: 0 of (\d+)\n(tiles: .*\n)*tiles: \1 of \1\nstage: mosaic\n",
        outcome.err,
        re.MULTILINE,
    )


def test_dry_run_writes_nothing(pair):
    before = contents(pair)
    outcome = upscale(pair, "--dry-run", "--scale", 2, "--set", "epochs=7", method="mmsr")
    assert (outcome.code, outcome.err) == (0, "")
    assert rows(outcome.out)["output"].startswith("48 x 48 pixels of 2 x 2 m")
    assert "epochs=7" in rows(outcome.out)["settings"]
    assert contents(pair) == before


def test_a_tilde_that_the_shell_left_is_the_users_home(tmp_path, monkeypatch):
    make_pair(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    done = geosr("upscale", "--source=~/source.tif", "--guide=~/guide.tif", "--output=~/out.tif", "--method=bicubic")
    assert done.code == 0, done.err
    assert (tmp_path / "out.tif").is_file()
    assert geosr("info", "~/out.tif").code == 0
    patterns = ("--source=~/s*.tif", "--guide=~/guide.tif", "--output=~/many/{stem}.tif")
    assert geosr("batch", *patterns, "--method=bicubic").code == 0
    assert [path.name for path in (tmp_path / "many").iterdir()] == ["ource.tif"]
    refused = geosr("batch", "--dataset", "middlebury", "~/nothing", "-o", "~/{stem}.tif")
    assert (refused.code, f"{tmp_path}/nothing" in refused.err) == (3, True)


@pytest.mark.parametrize("name", cli.list_commands(None))
def test_every_path_is_read_in_the_same_way(name):
    for parameter in cli.get_command(None, name).params:
        kinds = getattr(parameter.type, "types", [parameter.type])
        assert all(kind is PATH for kind in kinds if isinstance(kind, click.Path)), parameter.name


def test_bounds_make_a_part_of_the_whole_grid(tmp_path):
    make_pair(tmp_path)
    assert upscale(tmp_path, "--bounds", 500009, 4999970, 500041, 4999991).code == 0
    with rasterio.open(tmp_path / "out.tif") as made:
        assert made.transform[:6] == (1, 0, 500008, 0, -1, 4999992)
        assert made.shape == (24, 36)


def test_overwrite_replaces_the_target_of_a_link(tmp_path):
    make_pair(tmp_path)
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "old.tif").write_text("old")
    (tmp_path / "out.tif").symlink_to("store/old.tif")
    assert upscale(tmp_path, "--overwrite").code == 0
    assert (tmp_path / "out.tif").is_symlink()
    with rasterio.open(tmp_path / "store" / "old.tif") as made:
        assert made.shape == (96, 96)
    assert set(contents(tmp_path)) == {"source.tif", "guide.tif", "out.tif", "store", "store/old.tif"}


def test_a_pair_without_any_georeference_shares_its_corner(tmp_path):
    rasters.write(tmp_path / "source.tif", 0.1 * np.arange(576.0).reshape(24, 24), Affine.identity(), None)
    noise = np.random.default_rng(0).integers(0, 255, (3, 96, 96), "uint8")
    rasters.write(tmp_path / "guide.tif", noise, Affine.identity(), None)
    outcome = upscale(tmp_path)
    assert outcome.code == 0, outcome.err
    assert "neither raster is georeferenced: they are taken to share their corners" in outcome.err


def test_assume_crs_names_the_missing_one(tmp_path):
    make_pair(tmp_path, guide_crs=None)
    assert upscale(tmp_path).code == 3
    run = upscale(tmp_path, "--assume-crs", rasters.UTM)
    assert run.code == 0
    assert "--assume-crs" not in run.err


def test_an_assumed_crs_that_no_file_needs_is_said_not_to_be_used(tmp_path):
    source, guide = make_pair(tmp_path)
    said = "--assume-crs EPSG:32633 is not used: it is for files that name no CRS"
    for files in ((source, guide), (source,)):
        assert said in geosr("info", *files, "--assume-crs", "EPSG:32633").out
        assert "note" not in geosr("info", *files, "--assume-crs", rasters.UTM).out
    assert f"note: {said}\n" in upscale(tmp_path, "--assume-crs", "EPSG:32633").err
    scored = geosr("evaluate", source, source, "--assume-crs", "EPSG:32633")
    assert said in scored.out + scored.err


def test_tile_writes_aligned_pairs_with_an_index(tmp_path):
    make_pair(tmp_path)
    folder = tmp_path / "pairs"
    outcome = geosr("tile", tmp_path / "source.tif", tmp_path / "guide.tif", "-o", folder, "--tile", 64)
    assert (outcome.code, outcome.err) == (0, "")
    with (folder / "index.csv").open() as file:
        index = list(csv.DictReader(file))
    assert outcome.out == f"wrote {len(index)} pairs to {folder}\n"
    features = json.loads((folder / "index.geojson").read_text())["features"]
    assert len(features) == len(index) == 4
    corners = np.array([f["geometry"]["coordinates"][0] for f in features])
    assert (corners[..., 0].min(), corners[..., 1].max()) == pytest.approx((9, 45.1533), abs=0.001)
    for row in index:
        with rasterio.open(folder / row["source"]) as low, rasterio.open(folder / row["guide"]) as high:
            assert low.bounds == high.bounds
            assert (high.height, high.width) == (4 * low.height, 4 * low.width) == (64, 64)


# --- strange paths, strange terminals ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["with space.tif", "höhen→.tif", "-dash.tif"])
def test_names(name, tmp_path, monkeypatch):
    make_pair(tmp_path)
    (tmp_path / "source.tif").rename(tmp_path / name)
    (tmp_path / "made").mkdir()
    monkeypatch.chdir(tmp_path)
    made = Path("made") / name
    outcome = geosr("upscale", "--source", name, "--guide", "guide.tif", "-o", made, "--method", "bicubic")
    assert outcome.code == 0, outcome.err
    assert name in outcome.err
    assert set(contents(tmp_path / "made")) == {name}


@pytest.mark.parametrize("name", ["a" * 251 + ".tif", "ö" * 125 + "o.tif"])
def test_the_longest_name(name, tmp_path):
    make_pair(tmp_path)
    assert upscale(tmp_path, output=name).code == 0
    assert set(contents(tmp_path)) == {"source.tif", "guide.tif", name}


def test_a_newline_in_a_name_does_not_break_the_line(tmp_path):
    make_pair(tmp_path)
    (tmp_path / "source.tif").rename(tmp_path / "a\nb.tif")
    outcome = upscale(tmp_path, source="a\nb.tif", guide="no\x1b[2J\nError: fake.tif")
    assert outcome.code == 3
    assert outcome.err.count("\n") == 1
    assert "\x1b" not in outcome.err
    done = upscale(tmp_path, source="a\nb.tif", output="c\nd.tif")
    assert done.code == 0
    assert r"/c\nd.tif in " in done.err.splitlines()[-1]


def test_control_characters_are_escaped():
    assert printable("a\x1b[2Jb\x07\r\u202ec\udcffö") == "a\\x1b[2Jb\\x07\\r\\u202ec\\udcffö"
    assert geosr("info", "x\x1b[31m.tif", "y.tif").err.count("\x1b") == 0
    assert geosr("\x1b[31mred").err.count("\x1b") == 0


ASCII = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}


LATIN = {"PYTHONIOENCODING": "latin-1"}


@pytest.mark.parametrize("environment", [ASCII, LATIN, {"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
def test_plain_terminals(environment, tmp_path):
    make_pair(tmp_path)
    (tmp_path / "guide.tif").rename(tmp_path / "→.tif")
    done = real("info", "source.tif", "→.tif", "--method", "bicubic", cwd=tmp_path, **environment)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (b"\\u2192.tif" if environment is LATIN else "→.tif".encode()) in done.stdout
    assert b"\x1b" not in done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="GNU's OpenMP is what tells")
@pytest.mark.parametrize(("asked", "policy"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_that_wait_sleep_unless_the_user_wants_otherwise(asked, policy, pair, tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    files = ("--source", pair / "source.tif", "--guide", pair / "guide.tif", "-o", tmp_path / "out.tif")
    wanted = {"OMP_WAIT_POLICY": asked} if asked else {}
    done = real("upscale", *files, "--method", "bicubic", cwd=tmp_path, OMP_DISPLAY_ENV="TRUE", **wanted)
    assert done.returncode == 0
    assert f"OMP_WAIT_POLICY = '{policy}'" in done.stderr.decode()


@pytest.mark.parametrize("closed", ["<&- >&- 2>&-", ">&-", "2>&-", ">/dev/full"])
def test_closed_streams(closed, tmp_path):
    make_pair(tmp_path)
    command = f'"$0" -m geosr upscale --source source.tif --guide guide.tif -o out.tif --method bicubic -q {closed}'
    done = subprocess.run(["sh", "-c", command, sys.executable], cwd=tmp_path, capture_output=True, timeout=600)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    with rasterio.open(tmp_path / "out.tif") as made:
        assert made.read(1).shape == (96, 96)


@pytest.mark.parametrize("command", ["methods", "info source.tif guide.tif --method bicubic", "--help"])
def test_a_reader_who_leaves(command, pair):
    script = f'{{ "$0" -m geosr {command}; echo $? >&2; }} | true'
    done = subprocess.run(["sh", "-c", script, sys.executable], cwd=pair, capture_output=True, text=True, timeout=600)
    assert done.stderr in ("0\n", "141\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize(
    ("command", "encoding"),
    [
        ("methods", "utf-8"),
        ("methods", "ascii"),  # click writes through a stream of its own
        ("--help", "utf-8"),
        ("info source.tif guide.tif --method bicubic", "utf-8"),
        ("upscale --source source.tif --guide guide.tif -o x.tif --method bicubic --dry-run", "utf-8"),
        ("batch --manifest pairs.csv -o {stem}_x4.tif --method bicubic --summary s.csv -q", "utf-8"),
    ],
)
def test_a_full_disk_under_stdout(command, encoding, tmp_path):
    make_pair(tmp_path)
    (tmp_path / "pairs.csv").write_text("source,guide\nsource.tif,guide.tif\n")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "geosr", *command.split()],
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=600,
            env=os.environ | {"PYTHONIOENCODING": encoding},
        )
    assert (done.returncode, done.stderr) == (6, "Error: standard output: No space left on device\n")
    if "batch" in command:
        assert "source,done" in (tmp_path / "s.csv").read_text()


# --- the rest ------------------------------------------------------------------------------------------------


def test_every_error_has_its_own_exit_code_and_becomes_one_line(monkeypatch):
    kinds = errors.GeosrError.__subclasses__()
    assert {kind.__name__: kind.exit_code for kind in kinds} == {
        "UsageError": 2,
        "InputError": 3,
        "UnavailableError": 4,
        "TileError": 5,
        "OutputError": 6,
    }
    for kind in kinds:
        monkeypatch.setattr(cli, "invoke", raising(kind("what is wrong")))
        outcome = geosr("methods")
        assert (outcome.code, outcome.out, outcome.err) == (kind.exit_code, "", "Error: what is wrong\n")


def test_a_fault_of_ours_shows_its_traceback(monkeypatch):
    monkeypatch.setattr(cli, "invoke", raising(ZeroDivisionError("oops")))
    outcome = geosr("methods")
    assert outcome.code == 1
    assert "Traceback" in outcome.err
    assert "ZeroDivisionError: oops" in outcome.err
    assert outcome.err.endswith("This is a fault of geosr; please report it with the lines above.\n")


def raising(error):
    def invoke(context):
        raise error

    return invoke


def test_settings_are_numbers_truth_values_or_text():
    given = ("a=3", "b=0.5", "c=true", "d=FALSE", "e=1e-3", "f=x=y", "g=", "h=[1]")
    assert read_settings(given) == {
        "a": 3,
        "b": 0.5,
        "c": True,
        "d": False,
        "e": 0.001,
        "f": "x=y",
        "g": "",
        "h": "[1]",
    }


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")],
)
def test_clock(seconds, text):
    assert clock(seconds) == text


def test_a_tile_that_fails_is_named_and_nothing_is_written(tmp_path, monkeypatch):
    make_pair(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = contents(tmp_path)
    pair = ["--source", "source.tif", "--guide", "guide.tif", "-o", "out.tif"]
    ended = geosr("upscale", *pair, "--set", "learning_rate=1e12", "--set", "epochs=5", "--quiet")
    assert ended.code == 5
    assert "tile 0 (row 0, column 0): the fit diverged" in ended.err
    assert contents(tmp_path) == before
