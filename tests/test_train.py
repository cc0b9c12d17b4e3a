"""`geosr train`: it learns, goes on after any end to the same bytes, says what it did, and refuses in one line."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import rasters
import torch
import torch.nn.functional as F
from pairs import contents, geosr, upscale, write_samples
from safetensors import safe_open
from safetensors.numpy import load_file
from trained import write_truths

from geosr.errors import OutputError, UsageError
from geosr.events import Trained
from geosr.methods.base import Patch
from geosr.methods.supervised import Example, Trainer, block_of, crop_side
from geosr.methods.training_settings import TRAINING, training_settings
from geosr.methods.weights import Card
from geosr.options import Execution
from geosr.pair_lists import Job, true_pairs
from geosr.train import Course, split, train

TINY = {"features": 8, "batch": 2, "crop": 32, "steps": 9, "validate_every": 3, "learning_rate": 0.003}


def sets(**changes):
    return [part for name, value in (TINY | changes).items() for part in ("--set", f"{name}={value}")]


def run(folder, *more, output="w.safetensors", pairs="pairs.csv", **changes):
    files = ("--pairs", folder / pairs, "-o", folder / output)
    return geosr("train", *files, "--device", "cpu", "--threads", "1", *sets(**changes), *more)


@pytest.fixture
def folder(tmp_path):
    write_truths(tmp_path)
    return tmp_path


@pytest.mark.parametrize("method", ["fdsr", "fdkn", "dkn"])
def test_it_learns_what_a_guide_shows_and_its_weights_do_better_than_bicubic_on_another_pair(method, tmp_path):
    write_truths(tmp_path, count=4)
    steps = {"fdsr": 150, "fdkn": 200, "dkn": 40}[method]
    rate = {"fdsr": 0.003, "fdkn": 0.005, "dkn": 0.005}[method]
    settings = {"steps": steps, "validate_every": steps // 2, "learning_rate": rate, "decay_every": steps}
    done = run(tmp_path, "--method", method, "--log", tmp_path / "log.csv", **settings)
    assert done.code == 0, done.err
    with (tmp_path / "log.csv").open() as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    assert [row["step"] for row in rows] == [steps // 2, steps]
    assert rows[1]["loss"] < rows[0]["loss"]
    assert rows[1]["rmse"] < 0.97 * rows[1]["bicubic"]
    write_truths(tmp_path, count=6)  # the last was in no training
    truth = rasters.plain_read(tmp_path / "truth5.tif").astype(float)
    low = truth.reshape(16, 4, 16, 4).mean((1, 3)).astype("float32")
    rasters.write(tmp_path / "source.tif", low, rasters.grid(500000, 5000000, 4))
    errors = []
    for name, more in ((method, ("--weights", tmp_path / "w.safetensors")), ("bicubic", ())):
        made = upscale(tmp_path, *more, guide="guide5.tif", output=f"{name}.tif", method=name)
        assert made.code == 0, made.err
        errors.append(np.sqrt(((rasters.plain_read(tmp_path / f"{name}.tif") - truth) ** 2).mean()))
    assert errors[0] < 0.97 * errors[1]


def test_what_there_is_to_note_of_a_pairs_files_is_said_by_its_name(folder):
    image = np.random.default_rng(0).integers(0, 256, (3, 256, 256)).astype("uint8")
    rasters.write(folder / "guide1.tif", image, rasters.grid(500000, 5000250, 1), "EPSG:23032")  # ED50
    done = run(folder)
    assert done.code == 0, done.err
    (said,) = (line for line in done.err.splitlines() if "brought" in line)
    assert re.match(r"note: truth1.tif: the guide is brought from EPSG:23032 .* with an accuracy of \d+ m", said)


def test_interrupted_anywhere_it_comes_to_the_same_bytes(folder):
    jobs, course = true_pairs(folder / "pairs.csv"), Course("fdkn", settings=TINY, seed=4)
    train(jobs, course, Execution("cpu", threads=1), folder / "whole.safetensors", log=folder / "whole.csv")
    for end in (2, 4, 9):

        def stop(event, end=end):
            if isinstance(event, Trained) and event.step == end:
                raise KeyboardInterrupt

        output, log = folder / f"w{end}.safetensors", folder / f"w{end}.csv"
        with pytest.raises(KeyboardInterrupt) as ended:
            train(jobs, course, Execution("cpu", threads=1, on_event=stop), output, log=log)
        assert not output.exists()
        assert ("the last checkpoint is kept" in str(getattr(ended.value, "__notes__", ""))) == (end > 3)
        train(jobs, course, Execution("cpu", threads=1), output, log=log)
        assert output.read_bytes() == (folder / "whole.safetensors").read_bytes()
        assert log.read_bytes() == (folder / "whole.csv").read_bytes()
    assert not [*folder.glob(".*")]


def at_step(number, act):
    """An event handler that does something when a step is done."""
    return lambda event: act() if isinstance(event, Trained) and event.step == number else None


@pytest.mark.parametrize("name", ["w.safetensors", "w.md"])
def test_files_that_appear_meanwhile_are_left_alone_and_the_same_command_then_makes_both(name, folder):
    jobs, course = true_pairs(folder / "pairs.csv"), Course(settings=TINY)
    train(jobs, course, Execution("cpu", threads=1), folder / "whole.safetensors")
    appear = at_step(9, lambda: (folder / name).write_text("mine"))
    with pytest.raises(OutputError, match=rf"{name} appeared while this run was at work") as ended:
        train(jobs, course, Execution("cpu", threads=1, on_event=appear), folder / "w.safetensors")
    assert "the last checkpoint is kept" in str(ended.value.__notes__)
    assert (folder / name).read_text() == "mine"
    (folder / name).unlink()
    begun = []
    train(jobs, course, Execution("cpu", threads=1, on_event=begun.append), folder / "w.safetensors")
    assert not [event for event in begun if isinstance(event, Trained)]
    for suffix in (".safetensors", ".md"):
        assert (folder / f"w{suffix}").read_bytes() == (folder / f"whole{suffix}").read_bytes()
    assert not [*folder.glob(".*")]


def test_without_its_card_no_weights_are_replaced(folder):
    assert run(folder).code == 0
    (folder / "w.md").unlink()
    before = (folder / "w.safetensors").read_bytes()
    jobs, course = true_pairs(folder / "pairs.csv"), Course(settings=TINY, seed=1)
    execution = Execution("cpu", threads=1, overwrite=True, on_event=at_step(9, (folder / "w.md").mkdir))
    with pytest.raises(OutputError, match=r"w.md: Is a directory"):
        train(jobs, course, execution, folder / "w.safetensors")
    assert (folder / "w.safetensors").read_bytes() == before
    (folder / "w.md").rmdir()
    again = run(folder, "--seed", "1", "--overwrite")
    assert (again.code, "goes on from step 9" in again.err) == (0, True)
    assert (folder / "w.safetensors").read_bytes() != before
    assert (folder / "w.md").exists()


@pytest.mark.chaos
def test_a_killed_process_is_continued_from_its_checkpoint(folder):
    long = {"steps": 36, "validate_every": 3, "learning_rate": 0.001}
    assert run(folder, output="whole.safetensors", **long).code == 0
    command = [sys.executable, "-m", "geosr", "train", "--pairs", "pairs.csv", "-o", "w.safetensors", "--device", "cpu"]
    process = subprocess.Popen([*command, "--threads", "1", *sets(**long)], cwd=folder, stderr=subprocess.DEVNULL)
    while not [*folder.glob(".w.safetensors-*.geosr/checkpoint.safetensors")]:
        assert process.poll() is None
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (folder / "w.safetensors").exists()
    again = run(folder, **long)
    assert again.code == 0
    assert "goes on from step" in again.err
    assert (folder / "w.safetensors").read_bytes() == (folder / "whole.safetensors").read_bytes()


def test_a_damaged_checkpoint_is_not_used(folder):
    def stop(event):
        if isinstance(event, Trained) and event.step == 7:
            raise KeyboardInterrupt

    jobs, course = true_pairs(folder / "pairs.csv"), Course(settings=TINY)
    with pytest.raises(KeyboardInterrupt):
        train(jobs, course, Execution("cpu", threads=1, on_event=stop), folder / "w.safetensors")
    (checkpoint,) = folder.glob(".*/checkpoint.safetensors")
    checkpoint.write_bytes(checkpoint.read_bytes()[:-8])
    again = run(folder)
    assert again.code == 0
    assert "the checkpoint of an earlier training is no whole safetensors file" in again.err
    assert run(folder, output="whole.safetensors").code == 0
    assert (folder / "w.safetensors").read_bytes() == (folder / "whole.safetensors").read_bytes()


def test_other_data_or_settings_start_afresh_and_the_seed_decides(folder):
    jobs = true_pairs(folder / "pairs.csv")

    def stop(event):
        if isinstance(event, Trained) and event.step == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(jobs, Course(settings=TINY), Execution("cpu", threads=1, on_event=stop), folder / "w.safetensors")
    other = run(folder, "--seed", "1")
    assert other.code == 0
    assert "not continued but started afresh: seed (was 0, is 1)" in other.err
    assert run(folder, output="zero.safetensors").code == 0
    assert (folder / "w.safetensors").read_bytes() != (folder / "zero.safetensors").read_bytes()


def test_the_card_says_how_the_weights_came_about_and_its_errors_can_be_measured_again(folder):
    assert run(folder, "--licence", "CC-BY-4.0 | ours").code == 0
    with safe_open(folder / "w.safetensors", "np") as file:
        about = json.loads(file.metadata()["geosr"])["about"]
    assert (about["method"], about["scale"], about["bands"]) == ("fdsr", 4, 3)
    told = about["about"]
    assert told["licence"] == "CC-BY-4.0 | ours"
    assert told["settings"]["steps"] == 9
    trained, validated = ([pair["pair"] for pair in told["data"][part]] for part in ("trained on", "validated on"))
    assert len(trained) == 2
    assert sorted([*trained, *validated]) == ["truth0.tif", "truth1.tif", "truth2.tif"]
    (score,) = told["metrics"]["pairs"]
    truth = rasters.plain_read(folder / score["pair"]).astype(float)
    blocks = truth.reshape(16, 4, 16, 4)
    low = torch.from_numpy(blocks.mean((1, 3)))
    plain = F.interpolate(low[None, None], scale_factor=4, mode="bicubic", align_corners=False)[0, 0].numpy()
    off = low.numpy() - plain.reshape(16, 4, 16, 4).mean((1, 3))
    exact = plain + np.kron(off, np.ones((4, 4)))
    assert score["bicubic"] == pytest.approx(np.sqrt(((exact - truth) ** 2).mean()), rel=1e-4)
    assert told["metrics"]["bicubic"] == pytest.approx(score["bicubic"] / low.numpy().std(), rel=1e-4)
    made = [score["rmse"]]
    rasters.write(folder / "source.tif", low.numpy().astype("float32"), rasters.grid(500000, 5000000, 4))
    guide = score["pair"].replace("truth", "guide")
    assert upscale(folder, "--weights", folder / "w.safetensors", guide=guide, method="fdsr").code == 0
    made.append(np.sqrt(((rasters.plain_read(folder / "out.tif") - truth) ** 2).mean()))
    assert made[0] == pytest.approx(made[1], rel=1e-3)
    card = (folder / "w.md").read_text()
    assert "# fdsr, x4, guides of 3 bands" in card
    assert f"| {score['pair']} |" in card
    assert "CC-BY-4.0" in card


@pytest.mark.parametrize("seed", range(8))
def test_pairs_with_one_guide_are_never_on_both_sides(seed, tmp_path):
    jobs = [Job(str(i), tmp_path / f"s{i}.tif", tmp_path / f"g{i // 2}.tif", tmp_path, "") for i in range(9)]
    learnt, left_out = split(jobs, Course(validation=0.3, seed=seed))
    assert {job.name for job in learnt} | {job.name for job in left_out} == {str(i) for i in range(9)}
    assert not {job.guide for job in learnt} & {job.guide for job in left_out}
    assert 3 <= len(left_out) <= 4
    assert left_out == split(jobs, Course(validation=0.3, seed=seed))[1]


@pytest.mark.parametrize("seed", range(8))
def test_nor_are_pairs_with_one_truth_or_that_hang_together_by_others(seed, tmp_path):
    """A truth with the photos of two seasons; and a chain of photos and truths."""
    files = [("a", 1), ("a", 2), ("b", 3), ("c", 3), ("c", 4), ("d", 5), ("e", 6)]
    jobs = [Job(str(i), tmp_path / s, tmp_path / f"g{g}", tmp_path, "") for i, (s, g) in enumerate(files)]
    learnt, left_out = split(jobs, Course(validation=0.3, seed=seed))
    for shared in ("guide", "source"):
        assert not {getattr(job, shared) for job in learnt} & {getattr(job, shared) for job in left_out}
    assert learnt
    assert left_out


def test_a_data_set_is_learnt_from_as_well(tmp_path):
    write_samples(tmp_path, ["a", "b", "c"])
    settings = [*sets(steps=2), "--dataset", "middlebury", tmp_path, "-o", tmp_path / "w.safetensors"]
    done = geosr("train", "--device", "cpu", "--threads", "1", *settings)
    assert done.code == 0, done.err
    assert "/a" in (tmp_path / "w.md").read_text()


def test_what_is_unknown_or_without_a_guide_is_not_learnt_from(tmp_path):
    """Values under the masks of truth and guide change no weight."""
    written = []
    for stored in (-9999.0, np.nan):
        write_truths(tmp_path)
        for seed in range(3):
            truth, guide = (tmp_path / f"{kind}{seed}.tif" for kind in ("truth", "guide"))
            values = rasters.plain_read(truth)
            bands = np.stack([rasters.plain_read(guide, band) for band in (1, 2, 3)]).astype("float32")
            values[10:20, 5:40] = bands[:, 30:45, 20:50] = stored
            for path, array in ((truth, values), (guide, bands)):
                rasters.write(path, array, rasters.grid(500000, 5000000, 1), nodata=-9999.0)
        assert run(tmp_path, "--overwrite").code == 0
        written.append(load_file(tmp_path / "w.safetensors"))
    for name, array in written[0].items():
        np.testing.assert_array_equal(array, written[1][name])


def test_the_published_schedules():
    fdsr, dkn, fdkn = (TRAINING[name]["paper"] for name in ("fdsr", "dkn", "fdkn"))
    assert [fdsr.rate(step) for step in (0, 79_999, 80_000, 160_000)] == [0.0005, 0.0005, 0.00025, 0.000125]
    assert (fdsr.batch, fdsr.features, fdsr.network(3)) == (1, 32, {"features": 32, "colour": 0})
    assert dkn == fdkn
    assert (dkn.steps, dkn.batch, dkn.features) == (40_000, 1, 32)
    assert [dkn.rate(step) for step in (0, 10_000, 20_000)] == pytest.approx([0.001, 0.0002, 0.00004])


@pytest.mark.parametrize(("scale", "side"), [(2, 32), (3, 24), (4, 32), (5, 40), (8, 32), (32, 32)])
def test_crops_are_whole_source_pixels_cut_where_guide_and_truth_are(scale, side):
    """A crop's truth pools to what its start was made from, however it was turned, and the guide goes with it."""
    settings = training_settings("fdsr", "default", {"crop": 39, "features": 8, "batch": 6})
    assert crop_side(settings, scale, block_of("fdsr")) == side
    rows = np.arange(2 * side)[:, None] * 1000.0 + np.arange(3 * side)
    field = rows.astype(np.float32)
    low = field.reshape(2 * side // scale, scale, 3 * side // scale, scale).mean((1, 3))
    valid = np.ones(field.shape, bool)
    patch = Patch(field[None], valid, low, np.ones(low.shape, bool))
    example = Example(patch, field, field, valid)
    trainer = Trainer(Card("fdsr", scale, 1, settings.network(1), {}), settings, 0, "cpu")
    corners = set()
    for number in range(3):
        guide, start, truth, known = (part.numpy() for part in trainer._draw(number, [example]))
        np.testing.assert_array_equal(guide, truth)
        np.testing.assert_array_equal(start, truth)
        assert truth.shape == (6, 1, side, side)
        assert known.all()
        for crop in truth[:, 0]:
            first = crop.min()
            assert first // 1000 % scale == 0
            assert first % 1000 % scale == 0
            corners.add((crop[0, 0], crop[0, -1], crop[-1, 0]))
    assert len(corners) > 8


@pytest.mark.parametrize(("method", "scale"), [("dkn", 3), ("fdkn", 7), ("dkn", 19)])
def test_images_hold_the_crops_that_are_cut_from_them(method, scale, tmp_path):
    """Of 64 pixels a side, in blocks of the network's own: 8 for all would be 48, 56 and 152 of these."""
    unit = {"dkn": 1, "fdkn": 4}[method] * scale
    side = 64 // unit * unit
    pairs = write_truths(tmp_path, count=2, side=-(-side // 8) * 8)
    settings = ("--scale", scale, "--method", method, *sets(crop=64, steps=3, validate_every=3, features=4))
    done = geosr("train", "--pairs", pairs, "-o", tmp_path / "w.safetensors", "--device", "cpu", *settings)
    assert done.code == 0, done.err


def refusal(folder, *more, code=2, **changes):
    before = contents(folder)
    outcome = run(folder, *more, **changes)
    assert outcome.code == code, outcome.err
    assert outcome.err.startswith("Error: ")
    assert outcome.err.count("\n") == 1
    assert contents(folder) == before
    return outcome.err


def test_what_cannot_be_trained_is_refused_in_one_line(folder):
    assert "bicubic is not trained; there are: fdsr, fdkn, dkn" in refusal(folder, "--method", "bicubic")
    assert "no preset 'magic'" in refusal(folder, "--preset", "magic")
    assert "no setting 'magic'" in refusal(folder, magic=1)
    assert "multiple of 4" in refusal(folder, features=6)
    assert "validation is 1.0" in refusal(folder, "--validation", "1")
    assert "ends in .safetensors" in refusal(folder, output="w.pt")
    assert "wants a name that ends in .csv" in refusal(folder, "--log", folder / "log.txt")
    assert "the log is the list of pairs" in refusal(folder, "--log", folder / "pairs.csv")
    assert "crops have 96 a side" in refusal(folder, crop=96, code=3)
    assert "cannot be read as CSV" in refusal(folder, pairs="none.csv", code=3)
    for given in ((), ("--pairs", folder / "pairs.csv", "--dataset", "middlebury", folder)):
        refused = geosr("train", *given, "-o", folder / "w.safetensors")
        assert (refused.code, refused.err) == (2, "Error: give exactly one of --pairs and --dataset\n")
    (folder / "w.md").write_text("mine")
    assert "the model card" in refusal(folder)


def test_the_log_is_never_the_list_however_its_name_is_spelled(folder):
    (folder / "sub").mkdir()
    (folder / "link.csv").symlink_to(folder / "pairs.csv")
    for name in ("sub/../pairs.csv", "link.csv"):
        assert "the log is the list of pairs" in refusal(folder, "--log", f"{folder}/{name}")


def test_pairs_that_cannot_be_learnt_from_are_refused_in_one_line(folder):
    (folder / "one.csv").write_text("source,guide\ntruth0.tif,guide0.tif\n")
    assert "training needs two at least" in refusal(folder, pairs="one.csv")
    (folder / "twin.csv").write_text("source,guide\ntruth0.tif,guide0.tif\ntruth1.tif,guide0.tif\n")
    assert "pairs with one guide or one truth count as one" in refusal(folder, pairs="twin.csv")
    (folder / "hole.csv").write_text("source,guide\ntruth0.tif,guide0.tif\ntruth1.tif,\n")
    assert "line 3: names no source or no guide" in refusal(folder, pairs="hole.csv", code=3)
    rasters.write(folder / "guide1.tif", np.ones((2, 64, 64), "uint8"), rasters.grid(500000, 5000000, 1))
    assert "a network takes guides of one kind" in refusal(folder, code=3)
    write_truths(folder)
    rasters.write(folder / "truth2.tif", np.full((64, 64), 5, "float32"), rasters.grid(500000, 5000000, 1))
    assert "truth2.tif" in refusal(folder, code=3)
    (folder / "truth2.tif").write_bytes(b"II*\0 no raster")
    assert "truth2.tif" in refusal(folder, code=3)


def test_a_training_that_diverges_ends_in_one_line(folder):
    outcome = run(folder, learning_rate=1e30)
    assert outcome.code == 5
    assert "the training diverged" in outcome.err
    assert not (folder / "w.safetensors").exists()


def test_settings_out_of_range_are_refused():
    for wrong in ({"steps": 0}, {"decay": 1.5}, {"features": 0}, {"crop": -1}, {"learning_rate": float("nan")}):
        with pytest.raises(UsageError):
            training_settings("fdkn", "default", wrong)
    with pytest.raises(UsageError, match="colour"):
        training_settings("fdsr", "paper", {}).network(4)


def test_a_guide_on_a_finer_grid_in_a_larger_extent_teaches_the_same(tmp_path):
    """It is averaged onto the truth's grid; rows and columns beyond whole source pixels are left out."""
    learnt = []
    for factor in (1, 2):
        write_truths(tmp_path, side=72)
        for seed in range(3):
            truth, guide = (tmp_path / f"{kind}{seed}.tif" for kind in ("truth", "guide"))
            values = rasters.plain_read(truth)[:67, :65]
            rasters.write(truth, values, rasters.grid(500000, 5000000, 1))
            bands = np.stack([rasters.plain_read(guide, band) for band in (1, 2, 3)])
            fine = np.pad(bands, ((0, 0), (3, 0), (5, 0)), mode="edge").repeat(factor, 1).repeat(factor, 2)
            rasters.write(guide, fine, rasters.grid(500000 - 5, 5000000 + 3, 1 / factor))
        assert run(tmp_path, "--overwrite").code == 0
        learnt.append(load_file(tmp_path / "w.safetensors"))
    for name, array in learnt[0].items():
        np.testing.assert_allclose(array, learnt[1][name], atol=1e-6)
