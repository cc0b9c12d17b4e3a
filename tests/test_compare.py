"""`geosr compare`: methods in processes of their own, with a truth and without."""

import csv
import json
import os
import re

import numpy as np
import pytest
from outputs import block_means, physical
from pairs import geosr, make_pair, upscale
from rasters import UTM, grid, write
from test_assess import blocks

from geosr.comparison import Comparison, Entry
from geosr.errors import TileError
from geosr.metrics import score_arrays
from geosr.trials import attempt_alone


@pytest.fixture
def town(tmp_path):
    """A source whose edges its guide shows, and the truth on a finer grid than the output's."""
    truth = 10 * blocks()
    write(tmp_path / "truth.tif", np.kron(truth, np.ones((2, 2))), grid(500000, 5000000, 0.5), UTM)
    write(tmp_path / "source.tif", block_means(truth, 4), grid(500000, 5000000, 4), UTM)
    write(tmp_path / "guide.tif", (truth - truth.min()).astype("uint8")[None], grid(500000, 5000000, 1), UTM)
    return tmp_path


def test_with_a_truth_the_errors_are_those_of_a_run(town):
    pair = town / "source.tif", town / "guide.tif"
    done = geosr("compare", *pair, "--truth", town / "truth.tif", "--methods", "diffusion", "-o", town / "made")
    assert done.code == 0, done.err
    made = town / "made"
    assert sorted(path.name for path in made.iterdir()) == [f"compare.{end}" for end in ("csv", "json", "md", "png")]
    content = json.loads((made / "compare.json").read_text())
    assert [row["method"] for row in content["methods"]] == ["bicubic", "diffusion"]
    truth = block_means(physical(town / "truth.tif"), 2)
    for row in content["methods"]:
        assert upscale(town, method=row["method"], output=f"{row['method']}.tif").code == 0
        error = physical(town / f"{row['method']}.tif") - truth
        assert row["scores"]["rmse"] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-4)
        assert row["scores"]["bias"] == pytest.approx(0, abs=1e-4)
    bicubic, diffusion = (row["peak_memory_bytes"] for row in content["methods"])
    assert bicubic < diffusion  # each is that of a process of its own
    rows = [*csv.DictReader((made / "compare.csv").read_text().splitlines())]
    assert float(rows[1]["rmse"]) < 0.7 * float(rows[0]["rmse"])
    assert (made / "compare.png").read_bytes().startswith(b"\x89PNG")
    again = geosr("compare", *pair, "-o", made)
    assert again.code == 2
    assert "exists" in again.err


def test_where_the_source_is_unknown_nothing_is_compared(town):
    """As in a run, whose output is nodata there: the truth under a hole says nothing of a method."""
    source = physical(town / "source.tif")
    source[5:9, 4:12] = np.nan
    write(town / "source.tif", source, grid(500000, 5000000, 4), UTM, nodata=np.nan)
    pair = town / "source.tif", town / "guide.tif", "--truth", town / "truth.tif"
    done = geosr("compare", *pair, "--methods", "bicubic", "--json", town / "out.json")
    assert done.code == 0, done.err
    assert upscale(town, method="bicubic", output="run.tif").code == 0
    error = physical(town / "run.tif") - block_means(physical(town / "truth.tif"), 2)
    (row,) = json.loads((town / "out.json").read_text())["methods"]
    assert row["scores"]["pixels"] == np.isfinite(error).sum() < error.size
    assert row["scores"]["rmse"] == pytest.approx(np.sqrt(np.nanmean(error**2)), rel=1e-4)


def test_what_there_is_to_note_of_the_truth_is_said(town):
    """Where it lies is known to some metres only, more than one of the output's pixels."""
    crs = "EPSG:23032"  # ED50, beside the source's WGS 84
    truth = write(town / "far.tif", np.ones((320, 320), "float32"), grid(500000, 5000300, 1), crs)
    pair = town / "source.tif", town / "guide.tif", "--truth", truth
    done = geosr("compare", *pair, "--methods", "bicubic", "--json", town / "out.json")
    assert done.code == 0, done.err
    said = r"the truth is brought from EPSG:23032 .* with an accuracy of \d+ m"
    assert re.search(f"note: {said}", done.err)
    assert any(re.match(said, note) for note in json.loads((town / "out.json").read_text())["notes"])


def test_without_a_truth_it_runs_one_step_down_as_assess_does(town):
    pair = town / "source.tif", town / "guide.tif"
    done = geosr("compare", *pair, "--methods", "bicubic", "--json", town / "out.json")
    assert done.code == 0, done.err
    assert "one scale lower (x4)" in done.err
    assessed = geosr("assess", *pair, "--method", "bicubic")
    expected = dict(line.split()[::2][:2] for line in assessed.out.splitlines()[:1])
    for row in json.loads((town / "out.json").read_text())["methods"]:
        assert f"{row['scores']['rmse']:.4g}," == expected[row["method"]]
        assert row["scores"]["pixels"] == 1600


@pytest.mark.parametrize(("holed", "row", "col"), [(False, 60, 80), (True, 124, 0)])
def test_the_part_is_the_middle_of_the_scene_or_the_valid_one_nearest_to_it(tmp_path, holed, row, col):
    """The truth is known on that part only, and all of it is compared."""
    source, guide = make_pair(tmp_path, size=121)
    values = physical(source)[:111]
    if holed:
        values[:], values[100, 5] = np.nan, 3
    write(source, values, grid(500000, 5000000, 4), UTM, nodata=np.nan)
    truth = np.full((444, 484), np.nan, "float32")
    truth[row : row + 320, col : col + 320] = np.random.default_rng(0).normal(size=(320, 320))
    write(tmp_path / "truth.tif", truth, grid(500000, 5000000, 1), UTM, nodata=np.nan)
    files = "--truth", tmp_path / "truth.tif", "--json", tmp_path / "out.json"
    done = geosr("compare", source, guide, "--methods", "bicubic", *files)
    assert done.code == 0, done.err
    assert f"compared on 320 x 320 output pixels from row {row}, column {col}" in done.err
    (found,) = json.loads((tmp_path / "out.json").read_text())["methods"]
    assert found["scores"]["pixels"] == (16 if holed else 320 * 320)


def test_refusals(tmp_path, town):
    (tmp_path / "small").mkdir()
    source, guide = make_pair(tmp_path / "small", size=8)
    small = geosr("compare", source, guide, "--methods", "bicubic")
    assert small.code == 3
    assert "cannot tell" in small.err
    nowhere = geosr("compare", source, guide, "--methods", "magic,bicubic", "-o", tmp_path / "not/there")
    assert nowhere.code == 6  # before anything else
    assert "not does not exist; make the folder first" in nowhere.err
    far = geosr("compare", source, guide, "--truth", write(tmp_path / "far.tif", np.ones((9, 9)), grid(0, 0, 1)))
    assert far.code == 3
    assert "no valid pixel" in far.err


class Deadly:
    """What ends the process that receives it."""

    def __reduce__(self):
        return os._exit, (9,)


def test_a_process_that_dies_is_a_failed_method_and_not_the_end():
    with pytest.raises(TileError, match="process died") as raised:
        attempt_alone(Deadly(), "bicubic", "default", seed=0, device="cpu", threads=1)
    image = np.zeros((4, 4))
    good = Entry("good", image, score_arrays(image, image), 1.0, 10_000_000)
    found = Comparison((good, Entry("bad", failure=str(raised.value))), image[None], image, image, None, ())
    assert found.table.columns[-2:] == ("MB", "failure")
    assert found.table.rows[1][-1].startswith("its process died")
    assert Comparison((good,), image[None], image, image, None, ()).table.columns[-1] == "MB"
    assert found.picture().startswith(b"\x89PNG")
