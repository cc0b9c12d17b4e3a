"""Tiles that are fitted together: what each gets, what a kill, a failure and want of memory cost, what is refused."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
from outputs import SMALL_NETWORK, physical
from pairs import make_corner_pair, make_pair, upscale

from geosr import estimates, pipeline
from geosr.errors import OutOfMemoryError
from geosr.events import Progress, TileFailed
from geosr.methods.base import Method, Prediction, ShortRuns
from geosr.methods.solve import fit_together
from geosr.options import Execution, Inputs, Recipe
from geosr.pipeline import upscale_file
from geosr.placement import place, tiles_that_fit
from geosr.plan import make_plan
from geosr.report import _batches
from geosr.tile_store import TileResult

PLAIN = {"method": "mmsr", "settings": SMALL_NETWORK["settings"] | {"refine": "none"}}
"""The network by itself: it is what is fitted in batches."""

SETTINGS = [part for name, value in PLAIN["settings"].items() for part in ("--set", f"{name}={value}")]
OPTIONS = ["--method", "mmsr", *SETTINGS, "--fit", "tile", "--tile", "80"]
BATCH = [*OPTIONS, "--batch", "3"]
COMMAND = [sys.executable, "-m", "geosr", "upscale", "--source", "source.tif", "--guide", "guide.tif"]


def begin(folder, output, *options):
    return subprocess.Popen([*COMMAND, "-o", output, *options], cwd=folder, stderr=subprocess.PIPE, text=True)


def tiles_of(folder, output):
    return sorted(folder.glob(f".{output}-*.geosr/tiles/*.tile"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A pair of which a batch of three leaves one tile over, and what an uninterrupted run makes of it."""
    folder = tmp_path_factory.mktemp("batches")
    make_pair(folder, size=60)
    assert upscale(folder, *BATCH, output="together.tif", method=None).code == 0
    return folder


def test_tiles_fitted_together_have_the_values_of_one_after_the_other(folder):
    report = folder / "alone.json"
    assert upscale(folder, *OPTIONS, "--report", report, output="alone.tif", method=None).code == 0
    count = json.loads(report.read_text())["tiles"]["total"]
    assert count % 3 == 1
    alone, together = physical(folder / "alone.tif"), physical(folder / "together.tif")
    assert np.abs(together - alone).max() <= 1e-5 * np.ptp(alone)
    with rasterio.open(folder / "together.tif") as made, rasterio.open(folder / "alone.tif") as other:
        assert made.tags()["GEOSR_BATCH"] == "3"
        assert "GEOSR_SMALLER_BATCHES" not in made.tags()
        assert "GEOSR_BATCH" not in other.tags()


@pytest.mark.parametrize(
    "options", [("--workers", 1), ("--workers", 3), ("--workers", 2, "--scheduler", "processes")], ids=str
)
def test_schedulers_and_workers_change_no_byte(options, folder):
    assert upscale(folder, *BATCH, *options, "--overwrite", method=None).code == 0
    assert (folder / "out.tif").read_bytes() == (folder / "together.tif").read_bytes()


def test_killed_and_called_again_the_output_is_the_same_byte_for_byte(folder):
    run = begin(folder, "killed.tif", *BATCH, "--workers", "1")
    while len(tiles_of(folder, "killed.tif")) < 4:  # one batch, and a part of the next
        assert run.poll() is None
        time.sleep(0.001)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    left = tiles_of(folder, "killed.tif")
    left[1].unlink()  # one more batch is no longer whole
    kept = {int(path.stem[:7]) for path in left} - {int(left[1].stem[:7])}
    whole = {index for index in kept if {*range(index // 3 * 3, min(index // 3 * 3 + 3, 25))} <= kept}
    again = begin(folder, "killed.tif", *BATCH, "--workers", "1")
    assert again.stderr.readline() == (
        f"note: continuing an earlier run: {len(whole)} of 25 tiles are done; "
        f"{len(kept - whole)} more are recomputed with the rest of their batch\n"
    )
    said = again.communicate(timeout=300)[1]
    assert again.returncode == 0, said
    assert (folder / "killed.tif").read_bytes() == (folder / "together.tif").read_bytes()


def test_another_batch_starts_afresh(folder):
    run = begin(folder, "changed.tif", *BATCH, "--workers", "1")
    while len(tiles_of(folder, "changed.tif")) < 3:
        assert run.poll() is None
        time.sleep(0.001)
    run.kill()
    run.communicate()
    outcome = upscale(folder, *OPTIONS, "--batch", 2, output="changed.tif", method=None)
    assert outcome.code == 0
    assert "started afresh: tiles fitted together (was 3, is 2)" in outcome.err


# --- what fails costs itself ---------------------------------------------------------------------------------


TIGHT = """
from dataclasses import dataclass, replace
import numpy as np
from geosr.errors import OutOfMemoryError
from geosr.methods import Entry
from geosr.methods.mmsr import Mmsr, create as create_mmsr
ENTRY = Entry("tight", "tight:create", "s", source="s", use="u", cost="instant")
SPOILED = int(np.random.SeedSequence([7, 1]).generate_state(1, np.uint64)[0] >> 1)  # tile 1 with --seed 7

@dataclass(frozen=True)
class Tight(Mmsr):
    name: str = "tight"
    def fit_each(self, patches, seeds, device):
        if len(patches) > 2:
            raise OutOfMemoryError("no room for three")
        nothing = [replace(patch, guide=np.full_like(patch.guide, np.nan)) for patch in patches]
        spoiled = [bad if seed == SPOILED else good for good, bad, seed in zip(patches, nothing, seeds)]
        return super().fit_each(spoiled, seeds, device)

def create(preset, settings):
    return Tight(create_mmsr(preset, settings).settings)
"""


@pytest.fixture
def tight(tmp_path, monkeypatch):
    """A pair, and a method `tight`: MMSR that has memory for two tiles at a time, and of whose fits one can diverge."""
    info = tmp_path / "site" / "tight-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tight\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[geosr.methods]\ntight = tight:ENTRY\n")
    (tmp_path / "site" / "tight.py").write_text(TIGHT)
    monkeypatch.syspath_prepend(tmp_path / "site")
    make_pair(tmp_path, size=60)
    return tmp_path


def test_a_tile_that_diverges_in_a_batch_is_named_and_the_others_are_kept(tight):
    options = ("--batch", 2, "--seed", 7, "--report", tight / "report.json", "--quiet")
    outcome = upscale(tight, "--method", "tight", *OPTIONS[2:], *options, method=None)
    assert outcome.code == 5, outcome.err
    assert outcome.err.splitlines()[1].startswith("tile 1 (row 0, column 40): the fit diverged in epoch 1")
    tiles = json.loads((tight / "report.json").read_text())["tiles"]
    assert [each["index"] for each in tiles["failed"]] == [1]
    assert tiles["done"] == 24 == len(tiles_of(tight, "out.tif"))


def test_tiles_that_tell_nothing_are_in_nobodys_way(tmp_path):
    make_corner_pair(tmp_path)
    for output, options in (("alone.tif", OPTIONS), ("together.tif", BATCH)):
        assert upscale(tmp_path, *options, output=output, method=None).code == 0
    alone, together = physical(tmp_path / "alone.tif"), physical(tmp_path / "together.tif")
    assert np.abs(together - alone).max() <= 1e-5 * np.ptp(alone)


def test_a_batch_with_a_tile_that_cannot_be_read_for_a_while_is_made_anew_whole(tmp_path, folder):
    source, guide = make_pair(tmp_path, size=60)
    seen = []

    def disturb(event):
        seen.append(event)
        if isinstance(event, Progress) and event.done == 3 and not event.failed:
            guide.rename(tmp_path / "away")
        if isinstance(event, TileFailed) and not guide.exists():
            (tmp_path / "away").rename(guide)

    recipe = Recipe(**PLAIN, fit="tile", tile=80)
    upscale_file(Inputs(source, guide), recipe, Execution("cpu", 1, batch=3, on_event=disturb), tmp_path / "out.tif")
    failed = [event for event in seen if isinstance(event, TileFailed)]
    assert failed
    assert all(event.retry for event in failed)
    last = [event for event in seen if isinstance(event, Progress)][-1]
    assert (last.done, last.failed, last.retried % 3) == (25, 0, 0)
    assert (tmp_path / "out.tif").read_bytes() == (folder / "together.tif").read_bytes()


# --- memory --------------------------------------------------------------------------------------------------


def test_a_batch_for_which_there_is_no_memory_is_halved_and_recorded(tight, folder):
    report = tight / "report.json"
    outcome = upscale(tight, "--method", "tight", *OPTIONS[2:], "--batch", 5, "--report", report, method=None)
    assert outcome.code == 0, outcome.err
    assert "memory did not suffice for 5 tiles at once: 25 were fitted in smaller batches" in outcome.err
    batches = json.loads(report.read_text())["batches"]
    assert (batches["planned"], batches["same_bytes_again"]) == (5, False)
    assert [each["index"] for each in batches["smaller"]] == [*range(25)]
    assert [each["batch"] for each in batches["smaller"]] == [2, 2, 2, 2, 1] * 5  # five, three, two
    with rasterio.open(tight / "out.tif") as made:
        assert made.tags()["GEOSR_SMALLER_BATCHES"].startswith("tile 0 (row 0, column 0): 2; tile 1 ")
    page = ("--report", tight / "report.html", "--overwrite")
    assert upscale(tight, "--method", "tight", *OPTIONS[2:], "--batch", 5, *page, method=None).code == 0
    assert "25 tiles, for want of memory: another run may differ by rounding" in (tight / "report.html").read_text()
    here, there = physical(tight / "out.tif"), physical(folder / "together.tif")
    assert np.abs(here - there).max() <= 1e-5 * np.ptp(there)


@pytest.mark.parametrize(
    ("failure", "retry", "same"), [(None, False, True), ("full", True, False), ("bad", False, True)]
)
def test_bytes_are_promised_again_only_where_no_tile_failed_that_may_go_better(failure, retry, same, tmp_path):
    (tile, *_) = make_plan(Inputs(*make_pair(tmp_path, size=60)), Recipe(tile=112, fit="tile")).tiles
    found = _batches([TileResult(tile, failure=failure, retry=retry)], 4, 2)
    assert found == {"planned": 2, "smaller": [], "same_bytes_again": same}


class Greedy:
    """A method whose memory suffices for one tile at a time, and not for the second one alone."""

    def fit_each(self, patches, seeds, device):
        self.asked = [*getattr(self, "asked", []), len(patches)]
        if len(patches) > 1 or seeds[0] == 1:
            raise MemoryError
        return [{"seed": np.array(seeds[0])}]


def test_the_halving_goes_down_to_one_and_costs_only_the_tile_that_needs_more():
    method, patches = Greedy(), [object()] * 5
    fits = fit_together(patches, method, range(5), "cpu")
    assert method.asked == [5, 3, 2, 1, 1, 1, 1, 1]
    assert [fit.batch for fit in fits] == [1] * 5
    assert isinstance(fits[1].found, OutOfMemoryError)
    assert [int(fits[place].found["seed"]) for place in (0, 2, 3, 4)] == [0, 2, 3, 4]


# --- what is planned and what is refused ---------------------------------------------------------------------


def test_a_planned_batch_takes_half_of_the_free_memory_in_powers_of_two(tmp_path):
    plan = make_plan(Inputs(*make_pair(tmp_path, size=60)), Recipe(tile=112, fit="tile"))
    each = plan.method.memory(3, (112, 112), 4)
    found = [tiles_that_fit(plan, room * each) for room in (0, 1, 2, 3, 4, 9, 15, 16, 1000)]
    assert found == [1, 1, 1, 1, 2, 4, 4, 8, 32]
    few = replace(plan, tiles=plan.tiles[:5])
    assert tiles_that_fit(few, 1000 * each) == 4


def test_a_planned_batch_is_kept_by_the_run_that_continues(tmp_path, folder, monkeypatch):
    pair, usual = make_pair(tmp_path, size=60), place(9, Execution("cpu", 1))  # nine batches

    def go(free, stop=None):
        """As on a GPU with room for so many tiles; the rest is real."""
        planned = replace(usual, batch=free, planned=True)
        monkeypatch.setattr(pipeline, "place_plan", lambda plan, execution, crew: planned)

        def end(event):
            if isinstance(event, Progress) and event.done == stop:
                raise KeyboardInterrupt

        recipe = Recipe(**PLAIN, fit="tile", tile=80)
        upscale_file(Inputs(*pair), recipe, Execution("cpu", 1, on_event=end), tmp_path / "out.tif")

    with pytest.raises(KeyboardInterrupt):
        go(3, stop=6)
    assert tiles_of(tmp_path, "out.tif")
    go(2)
    assert (tmp_path / "out.tif").read_bytes() == (folder / "together.tif").read_bytes()


@dataclass(frozen=True)
class Clocked(Method):
    """A method by whose own clock a prediction takes a second, and a fit one for each epoch, however many tiles."""

    clock: list[float]
    epochs: int = 1
    together: bool = False
    threaded: bool = False
    settings: None = None
    name: str = "clocked"
    needs_fit: bool = True
    fits_together: bool = True

    def memory(self, bands, shape, scale):
        return 1

    def trial(self):
        return ShortRuns(self, replace(self, epochs=3), 50, self.together, self.threaded)

    def fit(self, patches, seed, device):
        return self.fit_each(patches, [seed], device)[0]

    def fit_each(self, patches, seeds, device):
        self.clock[0] += self.epochs
        return [{}] * len(patches)

    def predict(self, patch, state, device):
        self.clock[0] += 1
        return Prediction(np.zeros(patch.guide_valid.shape, np.float32))


@pytest.mark.parametrize(("batch", "workers", "turns"), [(1, 1, 25), (3, 1, 9), (3, 2, 5), (99, 1, 1)])
def test_the_time_that_is_estimated_is_that_of_the_batches(batch, workers, turns, tmp_path, monkeypatch):
    plan = make_plan(Inputs(*make_pair(tmp_path, size=60)), Recipe(**SMALL_NETWORK, tile=112, fit="tile"))
    clock = [0.0]
    monkeypatch.setattr(estimates, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    found = estimates.run_seconds(replace(plan, method=Clocked(clock)), Execution("cpu", workers, batch=batch))
    assert found == turns * (1 + 50 * 2 + min(batch, 25))  # the first epoch, the rest, the predictions


@pytest.mark.parametrize(
    ("how", "threads", "fits"),
    [({}, 4, 4), ({"together": True}, 1, 1), ({"threaded": True}, 1, 4), ({"threaded": True}, 3, 2)],
)
def test_the_time_of_a_scenes_fit_is_that_of_its_four_tiles_or_of_fewer(how, threads, fits, tmp_path, monkeypatch):
    plan = make_plan(Inputs(*make_pair(tmp_path, size=60)), Recipe(**SMALL_NETWORK, tile=112, fit="scene"))
    clock = [0.0]
    monkeypatch.setattr(estimates, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    execution = Execution("cpu", 1, threads=threads)
    assert estimates.run_seconds(replace(plan, method=Clocked(clock, **how)), execution) == fits * 50 * 2 + 25 * (1 + 1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--method", "bicubic", "--batch", 2), "bicubic does not fit tiles together; leave --batch out"),
        (("--batch", 2), "it needs --fit tile"),
        (("--fit", "scene", "--batch", 2, "--dry-run"), "it needs --fit tile"),
        (("--batch", 0), "batch is 0; it must be at least 1"),
    ],
)
def test_a_batch_that_would_change_nothing_is_refused(options, said, tmp_path):
    make_pair(tmp_path)
    outcome = upscale(tmp_path, *options, method=None)
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert said in outcome.err
    assert not [*tmp_path.glob(".out*")]
