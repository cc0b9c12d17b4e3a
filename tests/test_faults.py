"""A tile that fails costs that tile: it is tried again where that may help, named, and the others are kept."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasters
import torch
from outputs import SMALL_NETWORK, check_means, physical, run
from pairs import DIVERGING, contents, make_corner_pair, make_pair, upscale

from geosr import files
from geosr.errors import ChangedInputError, OutputError
from geosr.events import Progress, Stage, TileFailed
from geosr.methods.classic import Interpolation
from geosr.multiband import upscale_bands
from geosr.options import Execution, Inputs, Recipe
from geosr.raster_guard import digest_of_parts


@pytest.fixture
def folder(tmp_path):
    make_corner_pair(tmp_path)
    return tmp_path


def kept(folder, output="out.tif"):
    return len([*folder.glob(f".{output}-*.geosr/tiles/*.tile")])


def test_a_fit_that_diverges_costs_its_tile_and_the_others_are_kept(folder):
    outcome = upscale(folder, *DIVERGING, "--quiet", method=None)
    assert outcome.code == 5
    lines = outcome.err.splitlines()
    count = kept(folder)
    assert count > 0
    assert lines[0] == f"Error: 1 of {count + 1} tiles failed; nothing was written"
    assert lines[1].startswith("tile 0 (row 0, column 0): the fit diverged in epoch ")
    assert lines[2].startswith(f"finished tiles ({count}) are kept in {folder}/.out.tif-")
    assert lines[3:] == []
    assert not (folder / "out.tif").exists()


def test_what_failed_is_tried_again_by_the_next_run_and_can_be_interpolated(folder):
    assert upscale(folder, *DIVERGING, "--quiet", method=None).code == 5
    outcome = upscale(folder, *DIVERGING, "--on-tile-error", "interpolate", method=None)
    assert outcome.code == 5
    assert "note: continuing an earlier run" in outcome.err
    assert "tile 0 (row 0, column 0) failed: the fit diverged" in outcome.err
    assert "tried again" not in outcome.err  # the same seed would diverge again
    assert "1 tile failed and hold the interpolated source" in outcome.err
    with rasterio.open(folder / "out.tif") as made:
        assert made.tags()["GEOSR_INTERPOLATED_TILES"] == "tile 0 (row 0, column 0)"
    check_means(folder / "source.tif", folder / "out.tif", 4)
    assert upscale(folder, "--tile", 96, output="bicubic.tif").code == 0
    here = physical(folder / "out.tif")[:16, :16]
    assert np.allclose(here, physical(folder / "bicubic.tif")[:16, :16], atol=1e-4)
    assert not [*folder.glob(".out*")]


def test_interpolated_tiles_are_tried_again_by_a_run_that_continues(folder):
    options = (*DIVERGING, "--quiet", "--on-tile-error", "interpolate")
    (folder / "out.tif").write_text("in the way, as far as the first run can see only at its end")
    from geosr import pipeline

    def stop(*arguments, **named):
        raise KeyboardInterrupt

    before, pipeline.write = pipeline.write, stop
    try:
        assert upscale(folder, *options, "--overwrite", method=None).code == 130
    finally:
        pipeline.write = before
    outcome = upscale(folder, *DIVERGING, "--quiet", "--overwrite", method=None)
    assert outcome.code == 5
    assert "1 of " in outcome.err


def test_without_failures_the_option_changes_nothing(tmp_path):
    make_pair(tmp_path)
    assert upscale(tmp_path, "--on-tile-error", "interpolate").code == 0
    assert upscale(tmp_path, output="plain.tif").code == 0
    assert (tmp_path / "out.tif").read_bytes() == (tmp_path / "plain.tif").read_bytes()


def test_a_clock_that_stands_still_is_no_fault(tmp_path, monkeypatch):
    """That of some machines goes on by 16 ms at a time, and a small tile takes less."""
    make_pair(tmp_path)
    monkeypatch.setattr("geosr.tile_run.time.monotonic", lambda: 1.0)
    outcome = upscale(tmp_path)
    assert outcome.code == 0, outcome.err


# --- files that cannot be read -------------------------------------------------------------------------------


def damage(path, block):
    """Zero the beginning of one compressed block, so that the decoder rejects it."""
    with rasterio.open(path) as dataset:
        offset = int(dataset.get_tag_item(f"BLOCK_OFFSET_{block[1]}_{block[0]}", "TIFF", bidx=1))
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(bytes(16))


@pytest.mark.parametrize(
    ("name", "block", "rescued"), [("guide.tif", (2, 2), True), ("source.tif", (8, 8), False)], ids=["guide", "source"]
)
@pytest.mark.usefixtures("guided_bicubic")
def test_a_block_that_cannot_be_read_costs_its_tiles(name, block, rescued, tmp_path, monkeypatch):
    monkeypatch.setattr("geosr.preflight.SMALL", 0)  # as if too large to be read through beforehand
    blocks = {"tiled": True, "blockxsize": 128, "blockysize": 128, "compress": "deflate"}
    for each, side, step in (("source.tif", 1100, 4.0), ("guide.tif", 2200, 2.0)):
        values = (
            np.random.default_rng(0).integers(1, 200, (side // 10, side // 10), "uint8").repeat(10, 0).repeat(10, 1)
        )
        rasters.write(tmp_path / each, values, rasters.grid(500000, 5000000, step), **blocks)
    damage(tmp_path / name, block)
    outcome = upscale(tmp_path, "--scale", 2, "--tile", 768, "--on-tile-error", "interpolate")
    assert outcome.code == 5, outcome.err
    failed = [line for line in outcome.err.splitlines() if line.startswith("tile ") and "failed:" in line]
    index = 0 if rescued else 8
    assert len(failed) == 2
    assert all(line.startswith(f"tile {index} (row ") for line in failed)
    assert f"{name}: cannot be read at row" in failed[0]
    assert [line.endswith("; it will be tried again at the end") for line in failed] == [True, False]
    assert (tmp_path / "out.tif").exists() == rescued
    if not rescued:
        assert kept(tmp_path) == 8
        assert "Error: 1 of 9 tiles failed; nothing was written\n" in outcome.err


@pytest.mark.usefixtures("guided_bicubic")
def test_a_report_that_cannot_be_written_does_not_hide_the_tiles_that_failed(tmp_path, monkeypatch):
    monkeypatch.setattr("geosr.preflight.SMALL", 0)
    values = np.random.default_rng(0).integers(1, 200, (550, 550), "uint8")
    for each, step, times in (("source.tif", 4.0, 2), ("guide.tif", 2.0, 4)):
        scaled = values.repeat(times, 0).repeat(times, 1)
        blocks = {"tiled": True, "blockxsize": 128, "blockysize": 128, "compress": "deflate"}
        rasters.write(tmp_path / each, scaled, rasters.grid(500000, 5000000, step), **blocks)
    damage(tmp_path / "source.tif", (8, 8))
    write = files.write_whole

    def full(path, data):
        if path.name == "run.json" and path.parent == tmp_path:
            raise OutputError(f"cannot write {path}: No space left on device")
        write(path, data)

    monkeypatch.setattr("geosr.report.write_whole", full)
    outcome = upscale(tmp_path, "--scale", 2, "--tile", 768, "--report", tmp_path / "run.json")
    assert outcome.code == 5, outcome.err
    assert "tiles failed; nothing was written" in outcome.err
    assert "run.json: No space left on device" in outcome.err


def test_a_source_that_changes_midway_is_never_mixed(tmp_path):
    pair = make_pair(tmp_path, size=60)
    seen = []

    def cut_short(event):
        seen.append(event)
        if isinstance(event, Progress) and event.done == 3:
            with pair[0].open("r+b") as file:
                file.truncate(3000)

    with pytest.raises(ChangedInputError, match="has changed since the run began") as error:
        run(*pair, tmp_path / "out.tif", 4, tile=64, on_event=cut_short)
    assert not any(isinstance(event, TileFailed) for event in seen)  # the others are not even tried
    assert "of use if that file comes back as it was" in error.value.__notes__[0]
    assert kept(tmp_path) == 3
    assert not (tmp_path / "out.tif").exists()


def test_bands_of_two_versions_of_a_file_are_never_mixed(tmp_path):
    make_pair(tmp_path)
    values = rasters.plain_read(tmp_path / "source.tif")
    affine = rasters.grid(500000, 5000000, 4)
    rasters.write(tmp_path / "two.tif", np.stack([values, values]), affine)
    rasters.write(tmp_path / "new.tif", np.stack([values, values + 1000]), affine)

    def replace_it(event):
        if "band 2" in getattr(event, "text", ""):
            (tmp_path / "new.tif").replace(tmp_path / "two.tif")

    inputs = Inputs(tmp_path / "two.tif", tmp_path / "guide.tif", 4, band="all")
    with pytest.raises(ChangedInputError, match=r"two\.tif: the file has changed"):
        upscale_bands(inputs, Recipe(method="bicubic"), Execution("cpu", on_event=replace_it), tmp_path / "out.tif")
    assert not (tmp_path / "out.tif").exists()


def test_the_digest_is_that_of_the_file_that_was_read(tmp_path):
    """It is replaced when all tiles are made: the output is of the old one, and a batch must be able to tell."""
    _, guide = make_pair(tmp_path)
    before = digest_of_parts(guide)

    def replace_it(event):
        if isinstance(event, Stage) and event.name == "mosaic":
            guide.write_bytes(guide.read_bytes() + b"more")

    run(tmp_path / "source.tif", guide, tmp_path / "out.tif", on_event=replace_it)
    with rasterio.open(tmp_path / "out.tif") as made:
        assert made.tags()["GEOSR_GUIDE_DIGEST"] == before != digest_of_parts(guide)


@pytest.mark.usefixtures("guided_bicubic")
def test_a_file_that_is_gone_for_a_while_costs_nothing(tmp_path):
    pair = make_pair(tmp_path, size=60)
    run(*pair, tmp_path / "undisturbed.tif", 4, tile=64)
    seen = []

    def disturb(event):
        seen.append(event)
        if isinstance(event, Progress) and event.done == 3 and not event.failed:
            pair[1].rename(tmp_path / "away")
        if isinstance(event, TileFailed):
            (tmp_path / "away").rename(pair[1])

    run(*pair, tmp_path / "out.tif", 4, tile=64, on_event=disturb)
    assert [event.retry for event in seen if isinstance(event, TileFailed)] == [True]
    last = [event for event in seen if isinstance(event, Progress)][-1]
    assert (last.done, last.failed, last.retried) == (36, 0, 1)
    assert (tmp_path / "out.tif").read_bytes() == (tmp_path / "undisturbed.tif").read_bytes()


# --- memory --------------------------------------------------------------------------------------------------

NO_MEMORY = """
import os, resource, sys
sys.path.insert(0, {tests!r})
from outputs import run
from geosr.errors import TileError
from geosr.events import TileFailed
failures = []
def note(event):
    if isinstance(event, TileFailed):
        failures.append(event.retry)
run({small[0]!r}, {small[1]!r}, {warm!r}, 4, method={method!r}, settings={settings!r})
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + ({room} << 20), -1))
try:
    large = {settings!r} | {large!r}
    run({source!r}, {guide!r}, {output!r}, 4, method={method!r}, settings=large, tile=640, on_event=note)
except TileError as error:
    print(failures, error, flush=True)
    os._exit(error.exit_code)  # as the command does: torch may abort Python's own end after a failed backward pass
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="measures the process as Linux does")
@pytest.mark.parametrize(
    ("method", "settings", "large", "room"),
    [("mmsr", SMALL_NETWORK["settings"], {"channels": 256}, 150), ("diffusion", {}, {}, 150)],
)
def test_a_tile_that_needs_more_memory_than_there_is_fails_by_name(method, settings, large, room, tmp_path):
    (tmp_path / "small").mkdir()
    small = [str(path) for path in make_pair(tmp_path / "small", size=24)]
    source, guide = make_pair(tmp_path, size=160)
    values = {"tests": Path(__file__).parent, "source": source, "guide": guide, "warm": tmp_path / "small/w.tif"}
    texts = {name: str(value) for name, value in values.items()} | {"output": str(tmp_path / "out.tif")}
    code = NO_MEMORY.format(**texts, small=small, method=method, settings=settings, large=large, room=room)
    tight = os.environ | {"MALLOC_ARENA_MAX": "1"}  # what other arenas hold in reserve would not count
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=tight)
    assert done.returncode == 5, done.stderr
    assert done.stdout.startswith("[True, False] 1 of 1 tiles failed; nothing was written\ntile 0 (row 0, column 0): ")
    assert re.search("out of memory|Unable to allocate", done.stdout)  # torch's want, or NumPy's before it
    assert [name for name in contents(tmp_path) if not name.startswith("small")] == ["guide.tif", "source.tif"]


@dataclass(frozen=True)
class Insatiable(Interpolation):
    """Bicubic that asks for more memory than any machine has."""

    ask: Callable[[int], object] = np.empty

    def predict(self, patch, state, device):
        self.ask(1 << 57)
        raise AssertionError("there was as much memory")


@pytest.mark.parametrize("ask", [np.empty, torch.empty], ids=["numpy", "torch"])
def test_a_tile_with_no_memory_for_its_interpolation_either_stays_failed(ask, tmp_path, monkeypatch):
    make_pair(tmp_path)
    method = Insatiable("bicubic", 2, ask=ask)
    monkeypatch.setattr("geosr.methods.classic.create_bicubic", lambda preset, settings: method)
    outcome = upscale(tmp_path, "--on-tile-error", "interpolate")
    assert outcome.code == 5, outcome.err
    assert "Error: 1 of 1 tiles failed; nothing was written\ntile 0 (row 0, column 0): " in outcome.err
    assert not (tmp_path / "out.tif").exists()
