"""CMSR's parts against formulas, scipy and each other, and what it promises on a scene."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conformance import Conformance
from pairs import contents, make_pair, upscale
from scipy.interpolate import RBFInterpolator
from scipy.ndimage import gaussian_filter

from geosr.device import generator
from geosr.errors import TileError, UsageError
from geosr.methods import cmsr_network
from geosr.methods.base import Patch
from geosr.methods.cmsr import create
from geosr.methods.cmsr_settings import PRESETS
from geosr.methods.deformation import Deformation, grid, look

SMALL = {"steps": 2, "channels": 8, "layers": 3, "back_projections": 2}


def make_patch(rows=20, cols=24, scale=2, bands=3, seed=0):
    rng, shape = np.random.default_rng(seed), (rows * scale, cols * scale)
    guide, source = rng.normal(size=(bands, *shape)), rng.normal(size=(rows, cols))
    return Patch(guide.astype(np.float32), np.ones(shape, bool), source.astype(np.float32), np.ones((rows, cols), bool))


def network(patch, seed=0, **settings):
    given = create("paper", settings).settings
    return cmsr_network._Network(len(patch.guide), given, patch.source.shape, generator(seed)), given


def scene(patch):
    return cmsr_network._Scene.of(patch, "cpu")


@pytest.fixture
def method():
    return create("default", {"deformation": "none", "ensemble": 2, **SMALL})


class TestWithoutDeformation(Conformance):
    """What one fit for a scene promises."""


def test_paper_preset_is_the_published_network():
    net, paper = network(make_patch())
    assert (paper.steps, paper.crop, paper.upsampling, paper.learning_rate) == (800, 48, 0.3, 1e-4)
    assert (paper.deformation, paper.ensemble, paper.statistics, paper.consistency) == ("smooth", 8, "tile", "off")
    source, guide = ([layer for layer in branch if hasattr(layer, "weight")] for branch in (net.source, net.guide))
    assert [tuple(layer.weight.shape) for layer in source] == [(64, 1, 3, 3), *[(64, 64, 3, 3)] * 6, (1, 64, 3, 3)]
    assert [layer.out_channels for layer in guide] == [4, 8, 16, 16, 16, 8, 4, 1]
    assert [layer.kernel_size[0] for layer in guide] == [3] * 5 + [1] * 3
    assert all(layer.bias is None for layer in (*source, *guide))
    assert float(source[3].weight.detach().std()) == pytest.approx(math.sqrt(0.1 / (9 * 64)), rel=0.02)
    assert sum(p.numel() for p in net.deform.parameters()) == 6 + 32


@pytest.mark.parametrize("scale", range(2, 33))
def test_stages_are_the_prime_factors(scale):
    stages = cmsr_network.factors(scale)
    assert math.prod(stages) == scale
    assert stages == sorted(stages)
    assert all(factor % part for factor in stages for part in range(2, factor))


def test_a_deformation_is_an_affine_map_and_then_scipys_thin_plate_spline():
    rng, deform = np.random.default_rng(1), Deformation((30, 40), 4)
    places = grid(5, 7, "cpu")
    torch.testing.assert_close(deform(places), places)
    affine, spline = rng.normal(size=(2, 3)), rng.normal(size=(16, 2))
    with torch.no_grad():
        deform.affine.copy_(torch.from_numpy(affine))
        deform.spline.copy_(torch.from_numpy(spline))
    flat, unit = places.reshape(-1, 2).double().numpy(), [2 / 40, 2 / 30]
    moved = flat + unit * (flat @ affine[:, :2].T + affine[:, 2])
    axis = np.linspace(-1, 1, 4)
    control = np.array([(x, y) for y in axis for x in axis])
    expected = moved + unit * RBFInterpolator(control, spline, kernel="thin_plate_spline")(moved)
    np.testing.assert_allclose(deform(places).detach().reshape(-1, 2), expected, atol=1e-5)


def test_one_branch_sees_source_and_covered_guide():
    patch = make_patch()
    net, _ = network(patch, fusion="concat", channels=16, layers=3)
    guide, son, covered = torch.from_numpy(patch.guide), torch.zeros(1, 40, 48), torch.ones(1, 40, 48)
    (seen,) = net(son, guide, covered)
    assert float(seen.detach().abs().max()) > 1e-3
    (blind,) = net(son, guide, 0 * covered)
    assert float(blind.detach().abs().max()) == 0
    assert net.guide is None


def test_each_branch_learns_from_its_own_loss():
    net, settings = network(make_patch(), channels=16, layers=3)
    pair = scene(make_patch())
    with torch.no_grad():
        for layer in net.guide:
            if hasattr(layer, "weight"):
                layer.weight.mul_(9)

    def slopes(covered):
        net.zero_grad()
        share = {level: image * covered for level, image in pair.covered.items()}
        father, draw = pair.answers[0], generator(5)
        cmsr_network._loss(net, replace(pair, covered=share), father, settings, 2, draw).backward()
        return {name: p.grad.clone() for name, p in net.named_parameters()}

    with_guide, without = slopes(1), slopes(0)
    for name, slope in with_guide.items():
        if name.startswith("source"):
            torch.testing.assert_close(slope, without[name], rtol=0, atol=0)
        else:
            assert slope.abs().max() > 0
            assert without[name].abs().max() == 0


def test_invalid_source_pixels_teach_nothing():
    patch = make_patch(rows=48, cols=48)
    net, settings = network(patch, channels=8)
    with torch.no_grad():
        net.source[-1].weight.zero_()  # what is left mixes pixels that are near each other: son and father
    pair, col = scene(patch), torch.arange(48).expand(1, 48, 48)
    known = (col < 12).float()
    fathers = [cmsr_network._Image(known + value * (col > 36), known, 1) for value in (0, 1e3)]
    for seed in range(40):
        losses = [cmsr_network._loss(net, pair, father, settings, 2, generator(seed)).item() for father in fathers]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4) != 0


def test_a_view_is_a_part_of_the_father_turned_and_mirrored_or_lies_inside_it():
    image = torch.arange(60.0 * 70).reshape(1, 60, 70)
    father = cmsr_network._Image(image, torch.ones_like(image), 1)
    whole, parts = 0, {tuple(np.arange(3)): 0}
    for seed in range(200):
        places = cmsr_network._view(father, 16, generator(seed))
        assert float(places.abs().max()) <= 1 + 1e-5
        part = look(image, places)[0].numpy()
        rounded = part.round().astype(int)
        if np.abs(part - rounded).max() > 0.01:
            continue
        whole += 1
        rows, cols = np.divmod(rounded, 70)
        assert (np.ptp(rows), np.ptp(cols)) == (15, 15)
        steps = np.abs([np.diff(rows, axis=0).mean(), np.diff(cols, axis=0).mean()])
        parts[tuple(steps)] = parts.get(tuple(steps), 0) + 1
    assert 70 < whole < 130  # half of them
    assert len(parts) == 3  # along rows and along columns


def test_the_upsampling_scheme_has_its_probability_and_takes_over_where_pixels_are_few():
    pair = scene(make_patch(rows=6, cols=6, scale=4))
    raised = pair.answers[0].up(2)
    draw = generator(0)
    taken = [cmsr_network._father(pair, raised, 0.3, 2, draw) is raised for _ in range(2000)]
    assert np.mean(taken) == pytest.approx(0.3, abs=0.04)
    assert all(cmsr_network._father(pair, raised, 0.0, 7, draw) is raised for _ in range(5))


def test_a_flipped_pair_has_the_flipped_answer():
    patch = make_patch(rows=12, cols=10, scale=4)
    method = create("default", {**SMALL, "steps": 6, "learning_rate": 0.01, "deformation": "none"})
    state = method.fit([patch], 0, "cpu")
    flipped = replace(
        patch,
        guide=np.ascontiguousarray(patch.guide.transpose(0, 2, 1)[:, ::-1]),
        guide_valid=patch.guide_valid.T[::-1],
        source=np.ascontiguousarray(patch.source.T[::-1]),
        source_valid=patch.source_valid.T[::-1],
    )
    values = method.predict(patch, state, "cpu").values
    np.testing.assert_allclose(method.predict(flipped, state, "cpu").values, values.T[::-1], atol=1e-5)


def test_back_projection_brings_the_answer_to_its_source():
    pair, image = scene(make_patch()).answers[0], torch.zeros(1, 40, 48)
    lacks = []
    for rounds in (0, 3, 12):
        found = cmsr_network._back_project(image, pair, create("default", {"back_projections": rounds}).settings)
        lacks.append(float((cmsr_network._down(found, 2, "mean") - pair.image).abs().max()))
    assert lacks[1] < 0.4 * lacks[0]
    assert lacks[2] < 0.2 * lacks[1]


def test_rates_fall_where_the_loss_no_longer_does():
    paper, noise = PRESETS["paper"], torch.from_numpy(np.random.default_rng(0).normal(size=800))

    def rates(slope):
        losses = []
        for rate in cmsr_network._rates(paper, losses):
            losses.append(noise[len(losses)] - slope * len(losses))
            yield rate

    assert [*rates(1.0)] == [1.0] * 800
    flat = [*rates(0.0)]
    assert flat[:300] == [1.0] * 300
    assert len(flat) < 800
    cosine = [*cmsr_network._rates(create("default", {"steps": 10}).settings, [])]
    assert [cosine[0], cosine[5], len(cosine)] == pytest.approx([1, 0.5, 10])


def test_refusals():
    for wrong in ({"steps": 0}, {"kernel": "box"}, {"upsampling": 1.1}, {"crop": 16}, {"learning_rate": float("nan")}):
        with pytest.raises(UsageError):
            create("default", wrong)
    with pytest.raises(UsageError, match="one tile at a time"):
        create("default", {"deformation": "affine"}).fit([make_patch(), make_patch()], 0, "cpu")
    with pytest.raises(UsageError, match="guide bands"):
        create("default", {"deformation": "none"}).fit([make_patch(), make_patch(bands=1)], 0, "cpu")
    with pytest.raises(TileError, match="diverged"):
        create("default", {**SMALL, "steps": 20, "learning_rate": 1e30}).fit([make_patch()], 0, "cpu")


def test_a_guide_that_lies_elsewhere_is_found_and_helps():
    truth = np.where(gaussian_filter(np.random.default_rng(4).normal(size=(96, 96)), 5) > 0, 1.0, -1.0)
    guide = np.stack([truth, np.abs(gaussian_filter(truth, 1))])
    guide = np.roll(guide, (-2, 3), axis=(1, 2)).astype(np.float32)  # -1 and 1.5 source pixels
    source = truth.reshape(48, 2, 48, 2).mean((1, 3)).astype(np.float32)
    patch = Patch(guide, np.ones((96, 96), bool), source, np.ones((48, 48), bool))
    quick = {"steps": 200, "channels": 16, "layers": 4, "learning_rate": 0.003}
    errors = {}
    for way in ("none", "affine", "smooth"):
        method = create("default", {**quick, "deformation": way})
        state = method.fit([patch], 0, "cpu")
        errors[way] = np.sqrt(((method.predict(patch, state, "cpu").values - truth)[8:-8, 8:-8] ** 2).mean())
        found = np.median(cmsr_network.displacement(patch, state, method.settings), axis=(0, 1))
        np.testing.assert_allclose(found, [0, 0] if way == "none" else [1.5, -1], atol=0.3)
    assert max(errors["affine"], errors["smooth"]) < 0.93 * errors["none"]


def test_on_a_scene_every_tile_has_its_own_deformation_or_the_scene_one_network(tmp_path):
    make_pair(tmp_path, size=40, nodata=103.39)
    quick = (
        "--set",
        "steps=2",
        "--set",
        "channels=4",
        "--set",
        "ensemble=1",
        "--tile",
        "160",
        "--set",
        "deformation=smooth",
    )
    assert upscale(tmp_path, *quick, "--workers", "1", method="cmsr").code == 0
    assert upscale(tmp_path, *quick, "--workers", "2", method="cmsr", output="again.tif").code == 0
    made = contents(tmp_path)
    assert made["out.tif"] == made["again.tif"]
    refused = upscale(tmp_path, *quick, "--fit", "scene", method="cmsr", output="other.tif")
    assert refused.code == 2
    assert "holds for its own tile only" in refused.err
    shared = upscale(tmp_path, *quick, "--set", "deformation=none", "--fit", "scene", method="cmsr", output="other.tif")
    assert shared.code == 0
