"""P2P against the published network written in torch's own layers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pairs import contents, make_pair, upscale
from torch import nn

from geosr.device import generator
from geosr.errors import TileError, UsageError
from geosr.methods import p2p_network
from geosr.methods.base import Patch
from geosr.methods.p2p import create
from geosr.methods.p2p_settings import PRESETS

SMALL = replace(PRESETS["paper"], hidden=300, channels=5, batch=7, steps=12)


def make_patch(rows=6, cols=5, scale=4, bands=3, seed=0):
    rng, shape = np.random.default_rng(seed), (rows * scale, cols * scale)
    guide, source = rng.normal(size=(bands, *shape)), rng.normal(size=(rows, cols))
    return Patch(guide.astype(np.float32), np.ones(shape, bool), source.astype(np.float32), np.ones((rows, cols), bool))


class Published(nn.Module):
    """The paper's network as layers, with the weights of ours."""

    def __init__(self, views):
        super().__init__()
        weight = {name: view.clone().double() for name, view in views.items()}
        wide = weight["wide"].t()
        half = len(wide) // 2
        self.place = self.branch(weight["position"], wide[1:half], wide[0])
        self.colour = self.branch(weight["guide"], wide[half:-1], wide[-1])
        last = weight["last"]
        self.head = nn.Sequential(
            nn.ReLU(), layer(weight["head"], weight["middle"]), nn.ReLU(), layer(last[:-1, None], last[-1:])
        )

    def branch(self, small, wide, bias):
        return nn.Sequential(layer(small[:-1], small[-1]), nn.ReLU(), layer(wide, bias))

    def forward(self, place, colour):
        return self.head(self.place(place) + self.colour(colour))[..., 0]


def layer(weight, bias):
    made = nn.Linear(*weight.shape, dtype=torch.float64)
    made.weight, made.bias = nn.Parameter(weight.t().clone()), nn.Parameter(bias.clone())
    return made


def test_paper_preset_is_the_papers_numbers():
    paper = PRESETS["paper"]
    assert (paper.steps, paper.batch, paper.hidden, paper.channels) == (32768, 32, 2048, 32)
    assert (paper.learning_rate, paper.schedule) == (0.001, "constant")
    assert (paper.position_decay, paper.guide_decay, paper.head_decay) == (1e-4, 1e-3, 1e-4)
    assert (paper.statistics, paper.consistency) == ("tile", "off")


def test_weights_are_the_papers_in_number_and_torchs_in_size():
    net = p2p_network._Network.create(3, PRESETS["paper"], generator(0), "cpu")
    branches = (2 * 32 + 32) + (3 * 32 + 32) + 2 * (32 * 2048 + 2048)
    assert net.weights.numel() == branches + (2048 * 32 + 32) + (32 + 1)
    for name, inputs in (("wide", 32), ("head", 2048), ("last", 32), ("guide", 3)):
        assert float(net.views[name].abs().max()) <= inputs**-0.5
        assert float(net.views[name].abs().max()) > 0.7 * inputs**-0.5


@pytest.mark.parametrize("every", [2, 1])
def test_steps_are_those_of_autograd_and_adam_on_the_published_network(every):
    patch, settings = make_patch(), SMALL
    net = p2p_network._Network.create(3, settings, generator(4), "cpu")
    net.views["wide"][::every, 0] -= 9  # half of the features, or all, are zero at every pixel
    theirs = Published(net.views)
    decays = settings.position_decay, settings.guide_decay, settings.head_decay
    parts = zip((theirs.place, theirs.colour, theirs.head), decays, strict=True)
    adam = torch.optim.Adam([{"params": p.parameters(), "weight_decay": d} for p, d in parts], lr=0.001)
    blocks = p2p_network._Blocks.of(patch, "cpu")
    batches = blocks.batches(settings.batch, generator(9))
    for _ in range(settings.steps):
        place, colour, _, source = (part.double() for part in next(batches))
        adam.zero_grad()
        means = theirs(place, colour).reshape(len(source), -1).mean(1)
        nn.functional.l1_loss(means, source).backward()
        adam.step()
    p2p_network._optimise(net, blocks, settings, generator(9))
    after = {name: view.detach() for name, view in Published(net.views).state_dict().items()}
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=2e-4)  # each moved by 0.012 at most
    state = {name: view.numpy() for name, view in net.views.items()}
    rows, cols = np.mgrid[-0.5:0.5:24j, -0.5:0.5:20j]
    place = torch.from_numpy(np.stack((rows, cols), -1).reshape(-1, 2))
    colour = torch.from_numpy(patch.guide.reshape(3, -1).T.astype(np.float64))
    expected = Published(net.views)(place, colour).detach().numpy().reshape(24, 20)
    np.testing.assert_allclose(p2p_network.predict(patch, state, "cpu"), expected, atol=1e-5)


def test_each_round_sees_every_source_pixel_once():
    blocks = p2p_network._Blocks.of(make_patch(), "cpu")
    batches = blocks.batches(7, generator(1))
    seen = torch.cat([next(batches)[3] for _ in range(5)])
    torch.testing.assert_close(seen.sort().values, blocks.source.sort().values)


def test_it_learns_from_valid_source_pixels_that_the_guide_covers():
    patch = make_patch()
    patch.source_valid[1, 2] = False
    patch.guide_valid[:4, :3] = False  # three quarters of a source pixel
    patch.guide_valid[8:12, :1] = False  # a quarter of another
    blocks = p2p_network._Blocks.of(patch, "cpu")
    expected = np.delete(patch.source.ravel(), [0, 7])
    np.testing.assert_array_equal(np.sort(blocks.source), np.sort(expected))
    torch.testing.assert_close(blocks.share.sum(1), torch.ones(28))
    assert float(blocks.share.max()) == pytest.approx(1 / 12)


def test_a_function_of_the_colour_is_found():
    patch = make_patch(12, 12)
    truth = np.tanh(patch.guide[0]) - 0.5 * patch.guide[1]
    source = truth.reshape(12, 4, 12, 4).mean(axis=(1, 3))
    method, patch = create("default", {"steps": 1500, "hidden": 256}), replace(patch, source=source)
    values = method.predict(patch, method.fit([patch], 0, "cpu"), "cpu").values
    assert np.sqrt(((values - truth) ** 2).mean()) < 0.25 * truth.std()


def test_rates_and_refusals():
    assert [PRESETS["paper"].rate(step) for step in (0, 32767)] == [1, 1]
    assert [PRESETS["default"].rate(step) for step in (0, 2048)] == pytest.approx([1, 0.5])
    for wrong in ({"steps": 0}, {"schedule": "slow"}, {"guide_decay": 1.0}, {"learning_rate": float("inf")}):
        with pytest.raises(UsageError):
            create("default", wrong)
    with pytest.raises(UsageError, match="one tile at a time"):
        create("paper", {}).fit([make_patch(), make_patch()], 0, "cpu")
    with pytest.raises(TileError, match="diverged"):
        create("paper", {"steps": 9, "hidden": 8, "learning_rate": 1e30}).fit([make_patch()], 0, "cpu")


def test_on_a_scene_it_fits_every_tile(tmp_path):
    make_pair(tmp_path, size=40, nodata=103.39)
    quick = ("--set", "steps=4", "--set", "hidden=32", "--tile", "96")
    assert upscale(tmp_path, *quick, "--workers", "1", method="p2p").code == 0
    assert upscale(tmp_path, *quick, "--workers", "2", method="p2p", output="again.tif").code == 0
    made = contents(tmp_path)
    assert made["out.tif"] == made["again.tif"]
    refused = upscale(tmp_path, *quick, "--fit", "scene", method="p2p", output="other.tif")
    assert refused.code == 2
    assert "holds for its own tile only" in refused.err
