"""A run that was killed goes on where it was: only tiles that were in progress are recomputed, and no bit differs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
import rasters
from pairs import contents, copy_of_geosr, make_pair, upscale

from geosr import digests, files
from geosr.errors import OutputError
from geosr.files import write_whole
from geosr.run_folder import run_folder
from geosr.tile_store import TileResult, TileStore
from geosr.tiling import cut

SMALL = ["--method", "mmsr", "--preset", "paper-dem", "--set", "epochs=2", "--set", "channels=4", "--tile", "96"]
FAST = ["--method", "bicubic", "--tile", "64"]
COMMAND = [sys.executable, "-m", "geosr", "upscale", "--source", "source.tif", "--guide", "guide.tif"]


def begin(folder, output, *more, **environment):
    command = [*COMMAND, "-o", output, *more]
    return subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True, env=os.environ | environment)


def finish(folder, output, *more):
    run = begin(folder, output, *more)
    said = run.communicate(timeout=600)[1]
    assert run.returncode == 0, said
    return said


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A pair, and what uninterrupted runs make of it."""
    folder = tmp_path_factory.mktemp("resume")
    make_pair(folder, size=60)
    for options in (SMALL, FAST):
        finish(folder, f"{options[1]}.tif", *options)
    return folder


def tiles_of(folder, output):
    return sorted(folder.glob(f".{output}-*.geosr/tiles/*.tile"))


def wait_for_tiles(folder, output, count, run):
    while len(tiles_of(folder, output)) < count:
        assert run.poll() is None
        time.sleep(0.002)


@pytest.mark.chaos
@pytest.mark.parametrize(
    ("options", "moment", "tiles"),
    [(SMALL, 6, 16), (FAST, 1, 36), (FAST, 20, 36), (FAST, 36, 36)],
    ids=["mmsr-6", "bicubic-1", "bicubic-20", "bicubic-36"],
)
def test_killed_and_called_again_the_output_is_the_same_byte_for_byte(options, moment, tiles, folder):
    output = f"killed-{moment}.tif"
    run = begin(folder, output, *options)
    wait_for_tiles(folder, output, moment, run)
    run.kill()
    run.communicate()
    assert not (folder / output).exists()
    kept = {path: path.stat().st_mtime_ns for path in tiles_of(folder, output)}

    run = begin(folder, output, *options)
    assert run.stderr.readline() == f"note: continuing an earlier run: {len(kept)} of {tiles} tiles are done\n"
    assert run.stderr.readline() == f"tiles: {len(kept)} of {tiles}\n"
    for path in set(tiles_of(folder, output)) & set(kept):
        with suppress(FileNotFoundError):  # the run has ended meanwhile
            assert path.stat().st_mtime_ns == kept[path]
    said = run.communicate(timeout=600)[1]
    assert run.returncode == 0, said
    assert (folder / output).read_bytes() == (folder / f"{options[1]}.tif").read_bytes()
    assert not [*folder.glob(f".{output}*")]


@pytest.mark.chaos
def test_what_is_written_beside_the_output_is_the_same_byte_for_byte_too(folder):
    names = ("std.tif", "change.tif")
    uninterrupted = [folder / f"whole-{name}" for name in names]
    finish(folder, "whole.tif", *FAST, "--uncertainty", uninterrupted[0], "--guide-influence", uninterrupted[1])
    more = (*FAST, "--uncertainty", "std.tif", "--guide-influence", "change.tif")
    run = begin(folder, "beside.tif", *more)
    wait_for_tiles(folder, "beside.tif", 9, run)
    run.kill()
    run.communicate()
    count = len(tiles_of(folder, "beside.tif"))
    assert not any((folder / name).exists() for name in names)
    first, second = tiles_of(folder, "beside.tif")[:2]  # a tile is done only if all of its parts are whole
    (first.parents[1] / "uncertainty" / first.name).unlink()
    with (second.parents[1] / "influence" / second.name).open("r+b") as part:
        part.seek(-4, os.SEEK_END)
        part.write(b"\0\1\2\3")

    said = finish(folder, "beside.tif", *more)
    assert f"continuing an earlier run: {count - 2} of 36 tiles are done; 1 more were damaged" in said
    for name, whole in zip(names, uninterrupted, strict=True):
        assert (folder / name).read_bytes() == whole.read_bytes()
    assert not [*folder.glob(".beside*")]


BETWEEN = """
import os, signal
from geosr import writer
publish, named = writer.publish, []
def end_at_the_last(finished, output, **options):
    if len(named) == {after}:
        {end}
    publish(finished, output, **options)
    named.append(output)
writer.publish = end_at_the_last
"""
ENDS = {"killed": "os.kill(os.getpid(), signal.SIGKILL)", "failed": "raise OSError(5, 'the disk is gone')"}


@pytest.mark.chaos
@pytest.mark.parametrize(("end", "links"), [("killed", True), ("killed", False), ("failed", True)])
@pytest.mark.parametrize(("after", "more"), [(1, ()), (2, ()), (2, ("--seed", "3")), (2, ("--overwrite",))])
def test_ended_between_two_names_the_same_command_goes_on(after, more, end, links, folder, tmp_path):
    hook = BETWEEN.format(after=after, end=ENDS[end]) + (
        "" if links else "def refuse(*names): raise PermissionError(1)\nos.link = refuse"
    )
    (tmp_path / "sitecustomize.py").write_text(hook)
    output, names = f"{end}-{after}-{links}-{'-'.join(more)}.tif", ["std.tif", "change.tif"]
    names = [f"{output}-{name}" for name in names]
    options = (*FAST, "--uncertainty", names[0], "--guide-influence", names[1])
    run = begin(folder, output, *options, PYTHONPATH=str(tmp_path))
    assert run.communicate(timeout=600)[0] is None
    assert run.returncode == (-signal.SIGKILL if end == "killed" else 6)
    assert sum((folder / name).exists() for name in names) == after
    assert not (folder / output).exists()

    assert finish(folder, output, *options, *more)
    assert (folder / output).exists()
    assert not [*folder.glob(f".{output}*")]
    if not more:
        again = [f"again-{name}" for name in names]
        finish(folder, f"again-{output}", *FAST, "--uncertainty", again[0], "--guide-influence", again[1])
        for name in (output, *names):
            assert (folder / name).read_bytes() == (folder / f"again-{name}").read_bytes()


@pytest.mark.chaos
def test_a_file_that_took_the_name_after_a_kill_is_left_alone(folder, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(BETWEEN.format(after=1, end=ENDS["killed"]))
    options = (*FAST, "--uncertainty", "taken.tif")
    begin(folder, "alone.tif", *options, PYTHONPATH=str(tmp_path)).communicate(timeout=600)
    (folder / "taken.tif").unlink()
    (folder / "taken.tif").write_text("somebody else's")
    run = begin(folder, "alone.tif", *options)
    assert "taken.tif exists; use --overwrite" in run.communicate(timeout=600)[1]
    assert run.returncode == 2
    assert (folder / "taken.tif").read_text() == "somebody else's"


AT_THE_END = """
import os, signal
from geosr import {module}
before, ended = {module}.{name}, []
def end(path, *more, **named):
    done = before(path, *more, **named) if {after} else None
    if not ended and path.suffix in (".geosr", ".tif"):
        ended.append(path)
        os.kill(os.getpid(), signal.{signal})
    return done if {after} else before(path, *more, **named)
{module}.{name} = end
"""
"""The process gets a signal once its output has its name, or once its folder is to be removed."""


@pytest.mark.chaos
def test_what_a_finished_output_had_beside_it_is_never_taken_back(folder, tmp_path):
    hook = AT_THE_END.format(module="run_folder", name="remove", after=False, signal="SIGKILL")
    (tmp_path / "sitecustomize.py").write_text(hook)
    run = begin(folder, "moved.tif", *FAST, "--uncertainty", "of_moved.tif", PYTHONPATH=str(tmp_path))
    run.communicate(timeout=600)
    assert run.returncode == -signal.SIGKILL
    beside = (folder / "of_moved.tif").read_bytes()
    (folder / "moved.tif").rename(folder / "elsewhere.tif")
    refused = begin(folder, "moved.tif", *FAST, "--uncertainty", "of_moved.tif")
    assert "of_moved.tif exists; use --overwrite" in refused.communicate(timeout=600)[1]
    finish(folder, "moved.tif", "--method", "lanczos", "--uncertainty", "another.tif")
    assert (folder / "of_moved.tif").read_bytes() == beside
    assert not [*folder.glob(".moved.tif*")]


BESIDE = ("--style", "--report", "ended.json")


@pytest.mark.chaos
@pytest.mark.parametrize("after", [False, True])
def test_a_run_killed_after_the_output_has_its_name_is_ended_by_the_same_command(after, folder, tmp_path):
    hook = AT_THE_END.format(module="pipeline", name="write_style", after=after, signal="SIGKILL")
    (tmp_path / "sitecustomize.py").write_text(hook)
    run = begin(folder, f"ended{after}.tif", *FAST, *BESIDE, PYTHONPATH=str(tmp_path))
    run.communicate(timeout=600)
    assert run.returncode == -signal.SIGKILL
    named = (folder / f"ended{after}.tif").read_bytes()
    finish(folder, f"ended{after}.tif", *FAST, *BESIDE)
    tiles = json.loads((folder / "ended.json").read_text())["tiles"]
    assert (tiles["resumed"], tiles["total"]) == (36, 36)
    assert (folder / f"ended{after}.tif").read_bytes() == named
    assert (folder / f"ended{after}.qml").exists()
    assert not [*folder.glob(".ended*")]


@pytest.mark.chaos
def test_killed_once_more_before_the_output_is_named_again_it_is_the_runs_own_still(folder, tmp_path):
    for module, name in (("run_folder", "remove"), ("writer", "publish")):
        hook = AT_THE_END.format(module=module, name=name, after=False, signal="SIGKILL")
        (tmp_path / "sitecustomize.py").write_text(hook)
        run = begin(folder, "twice.tif", *FAST, PYTHONPATH=str(tmp_path))
        run.communicate(timeout=600)
        assert run.returncode == -signal.SIGKILL
        assert (folder / "twice.tif").read_bytes() == (folder / "bicubic.tif").read_bytes()
    finish(folder, "twice.tif", *FAST)
    assert (folder / "twice.tif").read_bytes() == (folder / "bicubic.tif").read_bytes()
    assert not [*folder.glob(".twice*")]


@pytest.mark.chaos
def test_another_command_does_not_replace_the_output_of_a_run_killed_after_it_had_named_it(folder, tmp_path):
    hook = AT_THE_END.format(module="run_folder", name="remove", after=False, signal="SIGKILL")
    (tmp_path / "sitecustomize.py").write_text(hook)
    run = begin(folder, "kept.tif", *FAST, PYTHONPATH=str(tmp_path))
    run.communicate(timeout=600)
    assert run.returncode == -signal.SIGKILL
    named = (folder / "kept.tif").read_bytes()
    refused = upscale(folder, "-o", folder / "kept.tif", "--method", "lanczos")
    assert refused.code == 2
    assert "kept.tif exists; use --overwrite to replace it" in refused.err
    assert (folder / "kept.tif").read_bytes() == named
    assert not [*folder.glob(".kept*")]


@pytest.mark.chaos
@pytest.mark.parametrize(("module", "name", "after"), [("writer", "publish", True), ("run_folder", "remove", False)])
def test_an_interruption_after_the_output_has_its_name_says_so_and_leaves_nothing(
    module, name, after, folder, tmp_path
):
    hook = AT_THE_END.format(module=module, name=name, after=after, signal="SIGINT")
    (tmp_path / "sitecustomize.py").write_text(hook)
    run = begin(folder, f"late{name}.tif", *FAST, PYTHONPATH=str(tmp_path))
    said = run.communicate(timeout=600)[1]
    assert run.returncode == 130
    assert said.endswith(f"interrupted; {folder / f'late{name}.tif'} was written\n")
    assert (folder / f"late{name}.tif").read_bytes() == (folder / "bicubic.tif").read_bytes()
    assert not [*folder.glob(f".late{name}*")]


def test_a_tile_that_another_runs_worker_brings_late_is_not_in_this_one(tmp_path):
    """On a cluster a worker goes on when its run is gone; the next run of other settings has the same folder."""
    tile = cut((4, 4), 4, size=16, halo=0)[0]
    late, own = TileStore(tmp_path, "a" * 32), TileStore(tmp_path, "b" * 32)
    own.save(TileResult(tile, centre=1.0), np.full((16, 16), 1.0))
    late.save(TileResult(tile, centre=2.0), np.full((16, 16), 2.0))
    assert own.find(tile) == TileResult(tile, centre=1.0)
    assert (own.load(tile.index, check=True) == 1).all()


@pytest.mark.chaos
def test_a_run_in_work_is_not_joined_by_a_second_one(folder):
    first = begin(folder, "shared.tif", "--tile", "112", "--fit", "tile", "--set", "epochs=1000000")
    assert first.stderr.readline().startswith("tiles: 0 of")
    second = begin(folder, "shared.tif", *FAST, "--overwrite")
    said = second.communicate(timeout=600)[1]
    first.kill()
    first.communicate()
    assert second.returncode == 6
    assert f"being made by another run (process {first.pid} on " in said
    assert finish(folder, "shared.tif", *FAST)  # the lock died with its holder
    assert (folder / "shared.tif").read_bytes() == (folder / "bicubic.tif").read_bytes()


# --- what is taken over, and what is not ---------------------------------------------------------------------


@pytest.fixture
def stopped(tmp_path):
    """A folder with a pair and a run of it that ended before its mosaic, all tiles kept."""
    make_pair(tmp_path)
    options = ("--tile", "48", "--seed", "1")
    (tmp_path / "out.tif").write_text("in the way")
    store_at = run_to_mosaic(tmp_path, *options)
    (tmp_path / "out.tif").unlink()
    return tmp_path, options, store_at


def run_to_mosaic(folder, *options):
    """Leaves a run folder with all tiles: the run is interrupted when its mosaic begins."""
    from geosr import pipeline

    def stop(*arguments, **named):
        raise KeyboardInterrupt

    before, pipeline.write = pipeline.write, stop
    try:
        assert upscale(folder, *options, "--overwrite").code == 130
    finally:
        pipeline.write = before
    (left,) = folder.glob(".out.tif-*.geosr")
    return left


def resumed(outcome):
    """How many tiles the run took over."""
    lines = [line for line in outcome.err.splitlines() if line.startswith("note: continuing")]
    return int(lines[0].split(": ")[2].split()[0]) if lines else 0


def fresh(folder, *options):
    """The bytes of the same run without anything to continue."""
    assert upscale(folder, *options, output="fresh.tif").code == 0
    return (folder / "fresh.tif").read_bytes()


def test_the_run_folder_is_private_hidden_and_named_when_it_is_kept(stopped):
    folder, options, left = stopped
    assert sorted(path.name for path in left.iterdir()) == ["lock", "run.json", "tiles"]
    assert left.stat().st_mode & 0o077 == 0
    before = contents(folder)
    outcome = upscale(folder, *options, "--bounds", 0, 0, 1, 1)
    assert outcome.code == 2
    assert contents(folder) == before  # a call that is refused touches nothing


def test_everything_is_taken_over_and_gone_at_the_end(stopped):
    folder, options, left = stopped
    count = len([*left.glob("tiles/*")])
    outcome = upscale(folder, *options)
    assert (outcome.code, resumed(outcome)) == (0, count)
    assert (folder / "out.tif").read_bytes() == fresh(folder, *options)
    assert not left.exists()


def test_workers_and_overwrite_change_nothing_that_is_kept(stopped):
    folder, options, _ = stopped
    outcome = upscale(folder, *options, "--workers", 2, "--overwrite")
    assert resumed(outcome) > 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--seed", "2"], "seed (was 1, is 2)"),
        (["--scale", "2", "--tile", "24"], "scale (was 4, is 2), tile (was 48, is 24)"),
        (["--consistency", "off"], "consistency (was exact, is off)"),
        (["--source-nodata", "7"], "source_nodata (was not set, is 7.0)"),
        (["--dtype", "float64"], "dtype (was float32, is float64)"),
    ],
)
def test_another_setting_starts_afresh_and_says_so(change, said, stopped):
    folder, options, _ = stopped
    outcome = upscale(folder, *options, *change)
    assert outcome.code == 0
    assert f"note: an earlier run for this output is not continued but started afresh: {said}\n" in outcome.err
    assert resumed(outcome) == 0
    assert (folder / "out.tif").read_bytes() == fresh(folder, *options, *change)


def test_another_source_starts_afresh(stopped):
    folder, options, _ = stopped
    with rasterio.open(folder / "source.tif", "r+") as dataset:
        dataset.write(dataset.read(1) + 1, 1)
    outcome = upscale(folder, *options)
    assert "started afresh: source\n" in outcome.err
    assert (folder / "out.tif").read_bytes() == fresh(folder, *options)


def test_another_sidecar_starts_afresh(stopped):
    folder, options, _ = stopped
    (folder / "guide.tif.aux.xml").write_text(
        '<PAMDataset><PAMRasterBand band="1"><NoDataValue>0</NoDataValue></PAMRasterBand></PAMDataset>'
    )
    assert "started afresh: guide\n" in upscale(folder, *options).err


def test_a_source_with_its_old_time_and_size_is_still_another_one(stopped):
    folder, options, _ = stopped
    source = folder / "source.tif"
    before = source.stat()
    data = bytearray(source.read_bytes())
    data[-1] ^= 1
    source.write_bytes(data)
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert "started afresh: source\n" in upscale(folder, *options).err


@pytest.mark.parametrize("name", ["source", "guide"])
def test_a_file_of_another_time_starts_afresh_and_the_time_is_named(name, stopped):
    folder, options, _ = stopped
    os.utime(folder / f"{name}.tif", ns=(0, 1_000_000_001))
    assert f"started afresh: {name} (time)\n" in upscale(folder, *options).err


def test_another_version_starts_afresh(stopped, monkeypatch):
    folder, options, _ = stopped
    monkeypatch.setattr("geosr.provenance.__version__", "9.9")
    assert "started afresh: geosr (was 0.1.0, is 9.9)\n" in upscale(folder, *options).err


def test_another_commit_of_the_same_version_starts_afresh(stopped, tmp_path):
    folder, options, _ = stopped
    copy_of_geosr(tmp_path / "copy", change="# another commit\n")
    more = ("--method", "bicubic", *options)
    run = begin(folder, "out.tif", *more, PYTHONPATH=f"{tmp_path / 'copy'}{os.pathsep}{os.getenv('PYTHONPATH', '')}")
    said = run.communicate(timeout=600)[1]
    assert run.returncode == 0, said
    assert "started afresh: geosr's code (was " in said


def flip(data):
    return data[:200] + bytes([data[200] ^ 1]) + data[201:]


DAMAGE = {
    "flipped": flip,
    "cut": lambda data: data[:-100],
    "empty": lambda data: b"",
    "longer": lambda data: data + b"x",
    "text": lambda data: b"not a tile at all\n",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_tile_is_made_anew(damage, stopped):
    folder, options, left = stopped
    tiles = sorted(left.glob("tiles/*"))
    tiles[1].write_bytes(DAMAGE[damage](tiles[1].read_bytes()))
    outcome = upscale(folder, *options)
    assert (outcome.code, resumed(outcome)) == (0, len(tiles) - 1)
    assert "1 more were damaged and are recomputed" in outcome.err
    assert (folder / "out.tif").read_bytes() == fresh(folder, *options)


def test_a_tile_of_another_run_is_not_taken(stopped):
    folder, options, left = stopped
    tiles = sorted(left.glob("tiles/*"))
    foreign = TileStore(left / "tiles", "another key")
    tile = cut((24, 24), 4, size=48, halo=8)[1]
    foreign.save(TileResult(tile, 5.0, 1.0, 3), np.ones(tile.window.times(4).shape))
    assert resumed(upscale(folder, *options)) == len(tiles)
    assert (folder / "out.tif").read_bytes() == fresh(folder, *options)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"fingerprint": 3}', "\0\xff"])
def test_a_manifest_that_cannot_be_read_starts_afresh(text, stopped):
    folder, options, left = stopped
    (left / "run.json").write_text(text)
    outcome = upscale(folder, *options)
    assert outcome.code == 0
    assert "started afresh: its record cannot be read\n" in outcome.err
    assert (folder / "out.tif").read_bytes() == fresh(folder, *options)


def test_statistics_are_stored_and_have_their_say_in_the_tiles(stopped):
    folder, options, left = stopped
    manifest = json.loads((left / "run.json").read_text())
    assert manifest["remembered"]["statistics"]["source_centre"] == pytest.approx(103, abs=1)
    manifest["remembered"]["statistics"]["source_centre"] += 1
    (left / "run.json").write_text(json.dumps(manifest))
    assert resumed(upscale(folder, *options)) == 0


def test_a_moved_folder_is_still_continued(stopped):
    """The inputs' paths belong to the fingerprint: they stay, the output moves."""
    folder, options, left = stopped
    (folder / "new").mkdir()
    left.rename(folder / "new" / left.name)
    assert resumed(upscale(folder, *options, output="new/out.tif")) > 0


def test_a_link_under_the_folders_name_is_refused(stopped):
    folder, options, left = stopped
    left.rename(folder / "elsewhere")
    left.symlink_to(folder / "elsewhere")
    outcome = upscale(folder, *options)
    assert outcome.code == 6
    assert "is in the way" in outcome.err


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_that_another_user_made_beforehand_is_refused(stopped):
    folder, options, left = stopped
    victim = folder / "victim"
    victim.write_text("precious")
    (left / "lock").unlink()
    (left / "lock").symlink_to(victim)  # whoever takes the lock writes its process's number there
    os.chown(left, 65534, 65534)
    outcome = upscale(folder, *options)
    assert outcome.code == 6
    assert "is in the way" in outcome.err
    assert victim.read_text() == "precious"


# --- the folder itself ---------------------------------------------------------------------------------------


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from geosr.run_folder import run_folder\n"
        "with run_folder(Path(sys.argv[1]), {'a': '1'}):\n    os.kill(os.getpid(), 9)"
    )
    dead = subprocess.run([sys.executable, "-c", code, str(tmp_path / "out.tif")], timeout=600, check=False)
    assert dead.returncode == -signal.SIGKILL
    assert len([*tmp_path.iterdir()]) == 1
    with run_folder(tmp_path / "out.tif", {"a": "1"}) as folder:
        assert folder.changes == ()
    assert not [*tmp_path.iterdir()]


DYING = """
import os, shutil
from pathlib import Path
import geosr_cli.main
def die(path, *more, remove=shutil.rmtree, **named):
    if not Path(path).name.endswith(".geosr.gone"):
        return remove(path, *more, **named)
    (Path(path) / "lock").unlink()
    os.kill(os.getpid(), 9)
shutil.rmtree = die
geosr_cli.main.main()
"""


def test_what_a_run_killed_while_it_removed_its_folder_leaves_is_removed_by_the_next(folder):
    command = [sys.executable, "-c", DYING, *COMMAND[3:], "-o", "half.tif", *FAST]
    dead = subprocess.run(command, cwd=folder, timeout=600, check=False)
    assert dead.returncode == -signal.SIGKILL
    (left,) = folder.glob(".half.tif-*")
    assert left.name.endswith(".geosr.gone")
    assert [*left.glob("tiles/*.tile")]
    assert (folder / "half.tif").read_bytes() == (folder / "bicubic.tif").read_bytes()
    assert upscale(folder, "-o", folder / "half.tif", *FAST).code == 2
    assert not [*folder.glob(".half.tif-*")]
    assert (folder / "half.tif").read_bytes() == (folder / "bicubic.tif").read_bytes()


def test_a_link_under_the_name_of_what_is_being_removed_costs_nothing_of_what_it_leads_to(tmp_path):
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "precious").write_text("kept")
    with run_folder(tmp_path / "out.tif", {}) as made:
        gone = made.path.with_name(f"{made.path.name}.gone")
    gone.symlink_to(tmp_path / "else")
    with run_folder(tmp_path / "out.tif", {}):
        assert not gone.is_symlink()
    assert contents(tmp_path).keys() == {"else", "else/precious"}


def test_long_names_that_begin_alike_have_folders_of_their_own(tmp_path):
    with (
        run_folder(tmp_path / ("ö" * 120 + "1.tif"), {}) as a,
        run_folder(tmp_path / ("ö" * 120 + "2.tif"), {}) as b,
    ):
        assert a.path != b.path


def test_a_value_is_made_once(tmp_path):
    made = []

    def measure():
        made.append(1)
        return {"numbers": (0.1, 1e-300, 4503599627370497.5)}

    tile = cut((4, 4), 4, size=16, halo=0)[0]
    with suppress(ZeroDivisionError), run_folder(tmp_path / "out.tif", {"a": "1"}) as folder:
        folder.remember("thing", measure)
        folder.tiles().save(TileResult(tile))
        raise ZeroDivisionError
    with run_folder(tmp_path / "out.tif", {"a": "1"}) as folder:
        assert folder.remember("thing", measure)["numbers"] == [0.1, 1e-300, 4503599627370497.5]
        assert folder.tiles().find(tile) == TileResult(tile)
        key = folder.tiles().key
        folder.remember("state", lambda: {"digest": "abc"})
        assert folder.tiles().key != key
    assert made == [1]


def test_a_file_is_whole_or_not_there(tmp_path, monkeypatch):
    write_whole(tmp_path / "a", b"old")
    monkeypatch.setattr(files.os, "fsync", lambda handle: os.close(-1))
    with pytest.raises(OutputError, match="cannot write"):
        write_whole(tmp_path / "a", b"new")
    assert contents(tmp_path).keys() == {"a"}
    assert (tmp_path / "a").read_bytes() == b"old"


def test_a_fit_is_stored_as_earlier_versions_did(tmp_path):
    """Its digest is part of every tile's key: a run that they began goes on."""
    state = {"weight": np.arange(6, dtype="float32").reshape(2, 3), "steps": np.array(3), "f": np.ones((4, 4)).T}
    with run_folder(tmp_path / "out.tif", {}) as folder:
        found = folder.remember_state(lambda: state)
        stored = (folder.path / "state.npz").read_bytes()
    assert found.keys() == state.keys()
    assert all(np.array_equal(found[name], state[name]) for name in state)
    np.savez(tmp_path / "before.npz", **state)
    assert stored == (tmp_path / "before.npz").read_bytes()


def test_digests_are_those_of_earlier_versions(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert digests.digest_of(b"abc") == digests.digest_of_file(tmp_path / "file") == "cf4ab791c62b8d2b2109c90275287816"


# --- room ----------------------------------------------------------------------------------------------------


def test_too_little_disk_is_said_before_the_work(tmp_path):
    """A sparse raster whose upscaled tiles would take tens of terabytes."""
    for name, side, step in (("source.tif", 100_000, 4.0), ("guide.tif", 200_000, 2.0)):
        profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "crs": rasters.UTM, "tiled": True}
        blocks = {"blockxsize": 2048, "blockysize": 2048, "SPARSE_OK": True, "BIGTIFF": "YES", "compress": "deflate"}
        affine = rasters.grid(500000, 5000000, step)
        with rasterio.open(
            tmp_path / name, "w", height=side, width=side, transform=affine, **profile, **blocks
        ) as dataset:
            noise = np.random.default_rng(0).integers(1, 255, (1, 1024, 1024), "uint8")
            dataset.write(noise, window=((0, 1024), (0, 1024)))
    before = contents(tmp_path)
    outcome = upscale(tmp_path, "--scale", 32, "--tile", 6400, "--workers", 1)
    assert outcome.code == 6
    assert "of disk until its end" in outcome.err
    assert "GB free; make room" in outcome.err
    assert contents(tmp_path) == before


def test_files_that_vanish_are_no_trouble_while_room_is_looked_for(tmp_path, monkeypatch):
    (tmp_path / "kept").write_bytes(bytes(1000))
    monkeypatch.setattr(os, "walk", lambda folder: [(str(folder), [], ["gone.part", "kept"])])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=5000))
    files.check_room(tmp_path, 6000)
    with pytest.raises(OutputError, match="until its end"):
        files.check_room(tmp_path, 6001)


def test_room_is_told_in_units_in_which_there_is_some(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2_500_000))
    with pytest.raises(OutputError, match=r"needs up to 12\.3 GB of disk until its end, .* has 2\.5 MB free"):
        files.check_room(tmp_path, 12_345_678_901)


def test_what_is_done_already_needs_no_more_room(stopped):
    _, _, left = stopped
    there = sum(path.stat().st_size for path in left.glob("tiles/*"))
    free = shutil.disk_usage(left).free
    with pytest.raises(OutputError, match="until its end"):
        files.check_room(left, 2 * (free + there))
    files.check_room(left, free // 2 + there)


def test_finished_bands_need_no_more_room(tmp_path, monkeypatch):
    (tmp_path / "bands/.band0002.geosr/tiles").mkdir(parents=True)
    for name in ("bands/guide.tif", "bands/band0001.tif", "bands/.band0002.geosr/tiles/0000000.tile"):
        (tmp_path / name).write_bytes(bytes(1000))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=5000))
    files.check_room(tmp_path, 8000)
    with pytest.raises(OutputError, match="until its end"):
        files.check_room(tmp_path, 8001)
