"""What `geosr assess` and `--method auto` say, against scenes whose answer is known."""

import csv
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import rasterio
from pairs import geosr, make_pair, upscale
from rasters import UTM, grid, write

from geosr.assess import Assessment, Score, assess
from geosr.methods import create
from geosr.methods.base import Patch
from geosr.methods.diffusion_settings import MILD, DiffusionSettings
from geosr.methods.diffusion_solver import diffuse
from geosr.methods.judgement import answer, back_project, exact, judge_edges, judge_prediction, keep_near, one_step_down
from geosr.methods.solve import interpolate


def blocks(shape=(160, 160), side=20, seed=0):
    """Flat squares of random height, edges off the grid of four."""
    heights = np.random.default_rng(seed).normal(size=(shape[0] // side + 2, shape[1] // side + 2))
    return np.kron(heights, np.ones((side, side)))[3 : shape[0] + 3, 6 : shape[1] + 6].astype(np.float32)


def patch_of(truth, guide, scale=4):
    rows, cols = truth.shape[0] // scale, truth.shape[1] // scale
    source = truth.reshape(rows, scale, cols, scale).mean(axis=(1, 3)).astype(np.float32)
    return Patch(guide[None], np.ones(truth.shape, bool), source, np.ones(source.shape, bool))


def test_edges_that_the_guide_shows_are_believed_and_noise_is_not():
    truth = blocks()
    noise = np.random.default_rng(1).normal(size=truth.shape).astype(np.float32)
    assert judge_edges([patch_of(truth, truth)], DiffusionSettings(), "cpu") == 1
    assert judge_edges([patch_of(truth, noise)], DiffusionSettings(), "cpu") == 0
    assert judge_edges([patch_of(truth, noise)], DiffusionSettings(belief="full"), "cpu") == 1


def test_too_little_to_judge_by_is_no_belief():
    truth = blocks((40, 40))
    assert judge_edges([patch_of(truth, truth)], DiffusionSettings(), "cpu") == 0
    assert not [*one_step_down(patch_of(truth, truth))]


def test_a_step_down_is_the_pooled_pair_and_hidden_values_have_no_say():
    truth, rng = blocks(), np.random.default_rng(2)
    patch = patch_of(truth, rng.normal(size=truth.shape).astype(np.float32))
    patch.source_valid[3, 5] = False
    patch.guide_valid[:9, :9] = False
    ((low, known_truth, known),) = one_step_down(patch)
    np.testing.assert_array_equal(known_truth, patch.source)
    expected = patch.source.reshape(10, 4, 10, 4).mean(axis=(1, 3))
    np.testing.assert_allclose(low.source[low.source_valid], expected[low.source_valid], atol=1e-6)
    assert not low.source_valid[0, 1]
    assert not known[3, 5]
    patch.guide[:, :9, :9] = 1e6
    patch.source[3, 5] = 1e6
    ((other, _, _),) = one_step_down(patch)
    np.testing.assert_array_equal(low.guide, other.guide)
    np.testing.assert_array_equal(low.source, other.source)


@pytest.mark.parametrize(("scale", "share"), [(2, 0), (3, 0.5), (4, 1)])
def test_what_no_guide_is_believed_on_is_interpolated_at_x2(scale, share):
    truth = blocks((120, 120))
    patch = patch_of(truth, truth, scale)
    plain, mild = back_project(interpolate(patch.source, scale), patch), diffuse(patch, MILD, "cpu")
    found = answer(patch, DiffusionSettings(), 0.0, "cpu")
    np.testing.assert_allclose(found, keep_near((1 - share) * plain + share * mild, patch), atol=1e-6)
    assert np.abs(plain - mild).max() > 0.01


@pytest.mark.parametrize(
    ("scale", "power", "contrast"), [(4, 0.5 + 0.2 * 0.75 * 0.8, 0.02 * (1 + (0.75 * 0.8) ** 2)), (8, 0.5, 0.02)]
)
def test_the_more_a_believed_guide_was_noise_the_more_the_values_count(scale, power, contrast):
    truth, belief = blocks(), 0.75
    patch = replace(patch_of(truth, truth, scale), noise=0.8)
    sharp = diffuse(patch, DiffusionSettings(value_power=power, value_contrast=contrast), "cpu")
    expected = belief * sharp + (1 - belief) * diffuse(patch, MILD, "cpu")
    found = answer(patch, DiffusionSettings(), belief, "cpu")
    np.testing.assert_allclose(found, keep_near(expected, patch), atol=1e-6)


def test_a_prediction_is_taken_over_as_far_as_it_is_right():
    truth = blocks()
    patch = patch_of(truth, truth)
    right = judge_prediction([patch], lambda low: patch.source, "cpu")
    wrong = judge_prediction([patch], lambda low: -3 * patch.source, "cpu")
    assert right == pytest.approx(1, abs=1e-4)
    assert wrong == 0
    hint = np.random.default_rng(3).normal(size=truth.shape).astype(np.float32)
    found = answer(patch, DiffusionSettings(), 0.0, "cpu", hint, 1.0)
    np.testing.assert_allclose(found, keep_near(back_project(hint, patch), patch), atol=1e-5)


def test_what_is_fitted_pools_to_the_source_and_shows_less_of_its_pixels():
    rows, cols = np.mgrid[:96, :96]
    truth = (np.sin(rows / 7) + np.cos(cols / 9) + np.sin((rows + cols) / 2)).astype(np.float32)
    patch = patch_of(truth, truth)
    patch.source_valid[3:5, 4] = False
    patch.source[3:5, 4] = -9999
    blurred = interpolate(patch_of(truth, truth).source, 4)
    found, plain = back_project(blurred, patch), exact(blurred, patch)
    pooled = found.reshape(24, 4, 24, 4).mean(axis=(1, 3))
    np.testing.assert_allclose(pooled[patch.source_valid], patch.source[patch.source_valid], atol=1e-12)
    inside = np.s_[32:-8, 32:-8]
    errors = [np.sqrt(np.mean((values - truth)[inside] ** 2)) for values in (found, plain)]
    assert errors[0] < 0.6 * errors[1]
    steps = [np.abs(np.diff(values - truth, axis=0)[35:-8:4, 32:-8]).mean() for values in (found, plain)]
    assert steps[0] < 0.35 * steps[1]
    soft = back_project(blurred, replace(patch, tolerance=0.01)).reshape(24, 4, 24, 4).mean(axis=(1, 3))
    off = np.abs(soft - patch.source)[patch.source_valid]
    assert 0.005 < off.max() <= 0.01 + 1e-9
    assert np.array_equal(back_project(blurred, replace(patch, tolerance=np.inf)), blurred.astype(np.float64))


@pytest.mark.parametrize(("scale", "fades"), [(2, 1.0), (3, 0.5), (4, 0.0)])
def test_detail_that_fades_towards_full_size_counts_less_below_x4(scale, fades):
    """One step down the prediction is right; at full size it adds detail of a seventh of that size."""
    truth = blocks((120, 120))
    seen = np.random.default_rng(5).random(truth.shape) < 0.8
    patch = replace(patch_of(truth, truth, scale), guide_valid=seen)
    ((low, low_truth, _),) = one_step_down(patch)
    smooth, low_smooth = (exact(answer(each, DiffusionSettings(), 0.0, "cpu"), each) for each in (patch, low))
    proved = float(((low_truth - low_smooth) ** 2).mean())
    noise = np.random.default_rng(3).normal(size=truth.shape)
    added = exact(smooth + noise, patch) - smooth
    added *= np.sqrt(proved / 49 / (added[seen] ** 2).mean())

    def predict(each):
        return (smooth + added if each is patch else low_truth).astype(np.float32)

    assert judge_prediction([patch], predict, "cpu") == pytest.approx((1 / 49) ** fades, rel=0.02)
    added *= 50  # more than was proved is no reason to take more of it
    assert judge_prediction([patch], predict, "cpu") == pytest.approx(1, abs=1e-4)


def test_assess_tells_the_step_and_what_there_is_to_note(tmp_path):
    make_pair(tmp_path, size=40)
    with rasterio.open(tmp_path / "source.tif", "r+") as dataset:
        dataset.units = ["m"]
    found = geosr("assess", tmp_path / "source.tif", tmp_path / "guide.tif", "--scale", 16, "--method", "guided-filter")
    assert found.code == 0, found.err
    assert "note: tried at scale 2: pooled by 16 too little" in found.err
    assert "the guide is coarser than the output" in found.err
    assert re.search(r"^guided-filter  RMSE [\d.]+ m,", found.out, re.MULTILINE)


def test_assess_measures_what_it_says():
    truth = blocks()
    patch = patch_of(truth, truth)
    found = assess([patch], [create("diffusion")], 2.5, 0, "cpu")
    ((low, low_truth, _),) = one_step_down(patch)
    plain = create("bicubic").predict(low, {}, "cpu").values
    assert [score.method for score in found.scores] == ["bicubic", "diffusion"]
    assert found.pixels == 1600
    assert found.scores[0].rmse == pytest.approx(2.5 * np.sqrt(((exact(plain, low) - low_truth) ** 2).mean()))
    assert found.best.method == "diffusion"
    assert found.gain(found.best) > 0.35
    assert found.verdict.startswith("the guide helps: expected gain over bicubic")
    assert assess([], [create("diffusion")], 1.0, 0, "cpu").verdict.startswith("cannot tell")


@pytest.fixture
def town(tmp_path):
    truth = 10 * blocks()
    low = truth.reshape(40, 4, 40, 4).mean(axis=(1, 3))
    write(tmp_path / "source.tif", low, grid(500000, 5000000, 4), UTM)
    write(tmp_path / "guide.tif", (truth - truth.min()).astype("uint8")[None], grid(500000, 5000000, 1), UTM)
    return tmp_path


def test_the_command_prints_a_table_and_a_verdict(town):
    found = geosr("assess", town / "source.tif", town / "guide.tif", "--method", "diffusion")
    assert found.code == 0
    lines = found.out.splitlines()
    assert [line.split()[0] for line in lines] == ["bicubic", "diffusion", "the"]
    assert "by diffusion" in lines[-1]


def test_bicubic_alone_says_nothing_of_the_guide(town):
    """With which others do much better."""
    found = geosr("assess", town / "source.tif", town / "guide.tif", "--method", "bicubic")
    assert found.code == 0, found.err
    assert found.out.splitlines()[-1] == "nothing but bicubic was tried, which does not use the guide"


def test_a_gain_without_the_guide_is_not_the_guides():
    scores = Score("bicubic", 1.0, 0.0, guided=False), Score("lanczos", 0.9, 0.0, guided=False)
    assert Assessment(1, 100, scores).verdict == "expected gain over bicubic 10%, by lanczos"
    worse = Score("diffusion", 1.1, 0.0, guided=True)
    assert "methods tried (diffusion) is clearly" in Assessment(1, 100, (scores[0], worse)).verdict


def test_the_command_writes_what_it_prints(town):
    files = {kind: town / f"found.{ending}" for kind, ending in (("json", "json"), ("csv", "csv"), ("markdown", "md"))}
    options = [text for kind, path in files.items() for text in (f"--{kind}", path)]
    found = geosr("assess", town / "source.tif", town / "guide.tif", "--method", "diffusion", *options)
    assert found.code == 0, found.err
    content = json.loads(files["json"].read_text())
    rows = list(csv.DictReader(files["csv"].read_text().splitlines()))
    assert (content["scale"], content["verdict"]) == (4, found.out.splitlines()[-1])
    assert (
        [row["method"] for row in rows] == [each["method"] for each in content["methods"]] == ["bicubic", "diffusion"]
    )
    plain, better = content["methods"]
    assert f", {better['gain']:.0%} smaller than bicubic's, " in found.out.splitlines()[1]
    for row, each, line in zip(rows, content["methods"], found.out.splitlines()[:2], strict=True):
        assert float(row["rmse"]) == each["rmse"]
        assert each["gain"] == pytest.approx(1 - each["rmse"] / plain["rmse"])
        assert f"RMSE {each['rmse']:.4g}, " in line
        assert f"| {each['method']} | {each['rmse']:.4g} |" in files["markdown"].read_text()
    assert better["gain"] > 0.3
    refused = geosr("assess", town / "source.tif", town / "guide.tif", "--json", town / "found.csv")
    assert (refused.code, "--json wants a name that ends in .json" in refused.err) == (2, True)


def test_the_command_says_where_nothing_can_be_told(tmp_path):
    make_pair(tmp_path, size=8)
    found = geosr("assess", tmp_path / "source.tif", tmp_path / "guide.tif", "--method", "diffusion")
    assert found.code == 0
    assert found.out.strip().startswith("cannot tell")


def test_auto_picks_what_does_best_and_says_so(town, monkeypatch):
    monkeypatch.setattr("geosr.methods.candidates", lambda: ("diffusion", "bicubic"))
    done = upscale(town, method="auto")
    assert done.code == 0, done.err
    assert "method diffusion" in done.out + done.err
    with rasterio.open(town / "out.tif") as file:
        assert file.tags()["GEOSR_METHOD"] == "diffusion"
    refused = upscale(town, "--set", "epochs=3", method="auto", output="other.tif")
    assert refused.code == 2
    assert "need a method's name" in refused.err


def test_info_of_auto_says_what_would_be_taken_and_how_long_that_takes(town, monkeypatch):
    monkeypatch.setattr("geosr.methods.candidates", lambda: ("diffusion", "bicubic"))
    shown = geosr("info", town / "source.tif", town / "guide.tif", "--method", "auto", "--time")
    assert shown.code == 0, shown.err
    assert "diffusion, preset default" in shown.out
    assert "about" in shown.out.splitlines()[-1]
