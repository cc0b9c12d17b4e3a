"""MMSR: settings, sizes, masks, seeds."""

import gc
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from outputs import block_means

from geosr import device
from geosr.errors import TileError, UnavailableError, UsageError
from geosr.methods import mmsr_batch, mmsr_fit, mmsr_network
from geosr.methods.base import Patch
from geosr.methods.mmsr import _BESIDE, Mmsr, create
from geosr.methods.mmsr_settings import CHOICES, PRESETS, MmsrSettings
from geosr.methods.recorded import Recorded

SMALL = {"epochs": 2, "channels": 8, "source_to_guide": 5, "guide_to_source": 3, "belief": "full"}

TOGETHER = 1e-4
"""Of the largest value. Products of matrices for one network and for three may have sums of another order: 6e-5 after
six steps of Adam and 2e-5 of a gradient on an Intel with AVX-512."""


def make_patch(scale=4, rows=6, cols=7, bands=3, seed=0, guide=None, source=None):
    rng = np.random.default_rng(seed)
    shape = rows * scale, cols * scale
    return Patch(
        guide=(rng.normal(size=(bands, *shape)) if guide is None else guide).astype(np.float32),
        guide_valid=np.ones(shape, bool),
        source=(rng.normal(size=(rows, cols)) if source is None else source).astype(np.float32),
        source_valid=np.ones((rows, cols), bool),
    )


def answer(method, patch, seed=0):
    state = method.fit([patch], seed, "cpu")
    return state, method.predict(patch, state, "cpu").values


def test_paper_presets_are_the_papers_numbers():
    depth = PRESETS["paper-depth"]
    assert (depth.source_to_guide, depth.guide_to_source, depth.epochs, depth.channels) == (11, 5, 1000, 64)
    assert (depth.learning_rate, depth.lr_decay, depth.lr_decay_every) == (0.002, 0.9998, 5)
    assert (depth.weight_decay, depth.schedule, depth.refine, depth.variant) == (0.0005, "step", "none", "mutual")
    assert (depth.statistics, depth.consistency, depth.fusion) == ("tile", "off", "conv")
    assert PRESETS["paper-dem"] == replace(depth, source_to_guide=5, guide_to_source=3)


def test_learning_rate_of_the_paper():
    rates = [0.002 * PRESETS["paper-depth"].rate(epoch) for epoch in (0, 4, 5, 999)]
    assert rates == pytest.approx([0.002, 0.002, 0.002 * 0.9998, 0.002 * 0.9998**199])


@pytest.mark.parametrize("bands", [1, 3, 8])
def test_the_papers_network_has_the_papers_weights(bands):
    net = mmsr_network.build(bands, PRESETS["paper-depth"], seeds=[0])
    guide = (9 * bands * 64 + 64) + 5 * (9 * 64 * 64 + 64)
    source = (64 + 64) + 5 * (64 * 64 + 64)
    rest = 2 * (64 * 64 + 64) + (128 * 64 + 64) + 6 * (64 * 64 + 64) + (64 + 1)
    assert sum(p.numel() for p in net.parameters()) == guide + source + rest


def test_initial_weights_are_torchs_usual_ones():
    weight = mmsr_network.build(3, PRESETS["paper-depth"], seeds=[0]).guide[1].weight.detach()
    bound = 1 / np.sqrt(9 * 64)
    assert weight.abs().max() <= bound
    assert float(weight.std()) == pytest.approx(bound / np.sqrt(3), rel=0.02)


@pytest.mark.parametrize("name", ["variant", "fusion"])
def test_every_choice_runs(name):
    patch = make_patch()
    for choice in CHOICES[name]:
        _, values = answer(create("paper-dem", SMALL | {name: choice}), patch)
        assert values.shape == (24, 28)
        assert values.dtype == np.float32
        assert np.isfinite(values).all()


@pytest.mark.parametrize("preset", list(PRESETS))
def test_same_seed_same_bits_and_the_global_generator_is_left_alone(preset):
    method, patch = create(preset, SMALL), make_patch()
    before = torch.get_rng_state()
    first, values = answer(method, patch, seed=5)
    again, same = answer(method, patch, seed=5)
    assert torch.equal(before, torch.get_rng_state())
    assert values.tobytes() == same.tobytes()
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert values.tobytes() != answer(method, patch, seed=6)[1].tobytes()


@pytest.mark.parametrize(("scale", "rows", "cols"), [(2, 3, 5), (8, 3, 2), (4, 1, 1), (3, 9, 4)])
@pytest.mark.parametrize("preset", list(PRESETS))
def test_any_scale_and_size(preset, scale, rows, cols):
    patch = make_patch(scale, rows, cols)
    assert answer(create(preset, SMALL), patch)[1].shape == (rows * scale, cols * scale)


@pytest.mark.parametrize(("scale", "rows", "cols"), [(2, 2, 70), (2, 3, 64), (4, 70, 2), (4, 1, 65), (2, 5, 5)])
@pytest.mark.parametrize("belief", ["judged", "full"])
def test_a_strip_is_judged_and_answered(scale, rows, cols, belief):
    method = create("default", SMALL | {"belief": belief})
    assert answer(method, make_patch(scale, rows, cols))[1].shape == (rows * scale, cols * scale)


def test_fits_several_patches_of_different_sizes():
    patches = [make_patch(seed=1), make_patch(rows=4, cols=5, seed=2)]
    method = create("default", SMALL)
    state = method.fit(patches, 0, "cpu")
    assert method.predict(patches[1], state, "cpu").values.shape == (16, 20)
    with pytest.raises(UsageError, match="guide bands"):
        method.fit([patches[0], make_patch(bands=2)], 0, "cpu")


def plainly(net, guide, bilinear):
    """The network as the paper writes it: every layer on every pixel, neighbourhoods unfolded."""

    def filtered(values, target, size):
        neighbours = torch.nn.functional.unfold(values, size, padding=size // 2)
        neighbours = neighbours.view(1, values.shape[1], size * size, *values.shape[2:])
        return (neighbours * (neighbours * target[:, :, None]).sum(1, keepdim=True).softmax(2)).sum(2)

    g, s = net.guide_in(net.guide(guide)), net.source_in(net.source(bilinear))
    mixed = torch.cat((filtered(s, g, net.sizes[0]), filtered(g, s, net.sizes[1])), 1)
    return net.head(net.fuse.mix(mixed))


@pytest.mark.parametrize(("rows", "cols"), [(26, 24), (9, 7)])
def test_the_fast_network_is_the_papers(rows, cols):
    settings = replace(PRESETS["paper-depth"], channels=16)
    patch = mmsr_batch.Batch.of([make_patch(rows=rows, cols=cols)], "cpu")
    net = mmsr_network.build(3, settings, seeds=[3])
    exact = mmsr_network.build(3, settings, seeds=[3]).double()
    bilinear = torch.nn.functional.interpolate(patch.source.double(), scale_factor=4, mode="bilinear")
    weight = torch.randn(1, 1, 4 * rows, 4 * cols, generator=torch.Generator().manual_seed(0))
    ours, expected = net(patch.guide, patch.levels), plainly(exact, patch.guide.double(), bilinear)
    assert (ours - expected).abs().max() <= 1e-4 * expected.abs().max()
    (ours * weight).sum().backward()
    (expected * weight).sum().backward()
    for (name, mine), other in zip(net.named_parameters(), exact.parameters(), strict=True):
        near = 3e-3 if name.startswith("source.") else 1e-4  # interpolated between 8192 levels, see _Levels
        assert (mine.grad - other.grad).abs().max() <= near * other.grad.abs().max() + 1e-6, name


def test_a_step_on_squares_follows_the_mean_loss_of_all_patches():
    settings = replace(PRESETS["default"], channels=16)
    net, exact = (mmsr_network.build(3, settings, seeds=[3]) for _ in range(2))
    sizes = [(6, 7), (12, 5), (9, 11)]
    patches = [make_patch(rows=rows, cols=cols, seed=rows) for rows, cols in sizes]
    patches[1].source_valid[2:4] = False
    batches = [mmsr_batch.Batch.of([patch], "cpu") for patch in patches]
    step = mmsr_fit._Step(net, batches, 32, [], map)
    (loss,) = step([device.generator(1)]).tolist()
    assert step.rate == 3
    expected = 0
    for look in step._looks:
        seen = look.seen()
        values = plainly(exact.double(), seen.guide.double(), seen.bilinear.double())
        low = values.unflatten(2, (-1, 4)).unflatten(4, (-1, 4)).mean((3, 5))
        expected += (low - seen.source).abs()[seen.valid].mean() / 3
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    for (name, mine), other in zip(net.named_parameters(), exact.parameters(), strict=True):
        assert (mine.grad - other.grad).abs().max() <= 1e-4 * other.grad.abs().max() + 1e-6, name


def test_threads_share_the_squares_and_change_no_bit():
    settings = create("default", SMALL | {"epochs": 5, "crop": 16}).settings
    patches = [make_patch(rows=rows, seed=rows) for rows in (5, 6, 7, 8, 9)]

    def fit(threads):
        with device.torch_threads(threads):
            return mmsr_fit.fit(patches, settings, 0, "cpu")

    alone = fit(1)
    for threads in (2, 3, 8):
        found = fit(threads)
        assert all(found[name].tobytes() == values.tobytes() for name, values in alone.items())


def losses_of(patch, settings):
    """After each epoch of a fit: mean size of (the network's answer pooled - the source)."""
    losses = []

    def enough(epoch, networks):
        made = mmsr_fit.predict(patch, networks()[0], settings, "cpu")
        losses.append(np.abs(block_means(made, patch.scale) - patch.source)[patch.source_valid].mean())
        return False

    mmsr_fit.fit([patch], settings, 0, "cpu", enough)
    return losses


def test_the_loss_falls():
    losses = losses_of(make_patch(), create("paper-dem", SMALL | {"epochs": 40}).settings)
    assert len(losses) == 40
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(("crop", "threads"), [(16, 1), (0, 2)])
def test_a_square_takes_one_thread_and_a_whole_patch_all(crop, threads):
    seen, settings = set(), create("default", SMALL | {"crop": crop}).settings
    with device.torch_threads(2):
        for fit in (
            lambda look: mmsr_fit.fit([make_patch()], settings, 0, "cpu", look),
            lambda look: mmsr_fit.fit_each([make_patch()], settings, [0], "cpu", look),
        ):
            fit(lambda *_: seen.add(torch.get_num_threads()))
            assert torch.get_num_threads() == 2
    assert seen == {threads}


def test_divergence_is_one_clear_error():
    with pytest.raises(TileError, match="diverged"):
        answer(create("paper-dem", SMALL | {"epochs": 50, "learning_rate": 1e12}), make_patch())


def test_halo_is_whole_blocks():
    assert create("paper-depth", {}).halo(4) == 16
    assert create("paper-dem", {}).halo(8) == 16
    assert create("paper-depth", {}).halo(32) == 64


def test_trial_is_a_small_part():
    for preset, epochs in (("paper-depth", 1000), ("default", 1000)):
        trial = create(preset, {}).trial()
        few, more = trial.less.settings.epochs, trial.more.settings.epochs
        assert more < 50
        assert few + trial.times * (more - few) == pytest.approx(epochs)


@pytest.mark.parametrize(
    "settings",
    [{"epochs": -1}, {"source_to_guide": 4}, {"variant": "model7"}, {"nonsense": 1}, {"epochs": "many"}, {"warmup": 1}],
)
def test_refuses_settings(settings):
    with pytest.raises(UsageError, match=next(iter(settings))):
        create("default", settings)
    with pytest.raises(UsageError, match="preset"):
        create("fastest", {})


def test_device():
    assert device.pick_device("cpu") == "cpu"
    assert device.pick_device("auto") in ("cpu", "cuda")
    if not torch.cuda.is_available():
        with pytest.raises(UnavailableError, match="--device cpu"):
            device.pick_device("cuda")
    before = torch.get_num_threads()
    with device.torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


@pytest.fixture
def torchs_flags(monkeypatch):
    """What `deterministic` changes in torch and in the environment, as it was before when the test is over."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    cudnn, precision = torch.backends.cudnn, torch.get_float32_matmul_precision()
    flags, strict = (cudnn.benchmark, cudnn.allow_tf32), torch.are_deterministic_algorithms_enabled()
    yield
    cudnn.benchmark, cudnn.allow_tf32 = flags
    torch.use_deterministic_algorithms(strict)
    torch.set_float32_matmul_precision(precision)


@pytest.mark.usefixtures("torchs_flags")
def test_a_gpu_is_asked_for_the_same_bits_and_for_one_precision_of_products_and_convolutions(monkeypatch):
    """What can be seen of it without one."""
    torch.backends.cudnn.allow_tf32 = False
    with device.deterministic("cuda"):
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.backends.cudnn.allow_tf32
        assert torch.get_float32_matmul_precision() == "high"
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    monkeypatch.setattr(device, "PRODUCTS", "highest")
    with device.deterministic("cuda"):
        assert not torch.backends.cudnn.allow_tf32
        assert torch.get_float32_matmul_precision() == "highest"
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_a_fit_leaves_no_garbage():
    """A recorded step that only the collector frees keeps its memory, and spoils what is recorded when it goes."""
    few = replace(PRESETS["default"], epochs=2, channels=4)
    mmsr_fit.fit([make_patch()], few, 0, "cpu")  # torch imports more with its first optimiser, and leaves some
    gc.collect()
    gc.disable()
    try:
        mmsr_fit.fit([make_patch()], few, 0, "cpu")
        assert not [thing for thing in gc.get_objects() if type(thing) in (Recorded, mmsr_fit._Step)]
    finally:
        gc.enable()


def test_settings_are_the_papers_by_default():
    assert MmsrSettings() == PRESETS["paper-depth"]
    assert Mmsr().settings == PRESETS["default"]


@pytest.mark.parametrize(
    ("preset", "settings", "shape"),
    [
        ("paper-dem", {}, (6, 7)),
        ("paper-dem", {}, (26, 20)),  # more pixels than levels
        ("default", {"crop": 16}, (6, 7)),
    ],
)
def test_several_fits_at_once_are_those_of_one_after_the_other(preset, settings, shape):
    method = create(preset, SMALL | {"epochs": 6} | settings)
    patches, seeds = [make_patch(4, *shape, seed=seed) for seed in range(3)], [7, 8, 9]
    for patch, seed, state in zip(patches, seeds, method.fit_each(patches, seeds, "cpu"), strict=True):
        alone, expected = answer(method, patch, seed)
        assert alone.keys() == state.keys()
        values = method.predict(patch, state, "cpu").values
        np.testing.assert_allclose(values, expected, rtol=0, atol=TOGETHER * np.abs(expected).max())


@pytest.mark.parametrize(
    "choice", [("variant", name) for name in CHOICES["variant"]] + [("fusion", name) for name in CHOICES["fusion"]]
)
def test_several_networks_at_once_are_each_of_them(choice):
    settings = create("paper-dem", SMALL | dict([choice])).settings
    patches, seeds = [make_patch(seed=seed) for seed in range(3)], [7, 8, 9]
    together = mmsr_network.build(3, settings, seeds)
    losses = mmsr_fit._loss(together, mmsr_batch.Batch.of(patches, "cpu"))
    losses.sum().backward()
    for tile, (patch, seed) in enumerate(zip(patches, seeds, strict=True)):
        alone = mmsr_network.build(3, settings, [seed])
        loss = mmsr_fit._loss(alone, mmsr_batch.Batch.of([patch], "cpu"))
        loss.sum().backward()
        assert losses[tile].item() == pytest.approx(loss.item(), rel=1e-6)
        for (name, mine), other in zip(together.named_parameters(), alone.parameters(), strict=True):
            assert torch.equal(mine.chunk(3)[tile], other), name
            assert (mine.grad.chunk(3)[tile] - other.grad).abs().max() <= TOGETHER * other.grad.abs().max() + 1e-8, name


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_a_crop_however_small_leaves_something_between_its_rims(scale):
    look = mmsr_batch.Look(mmsr_batch.Batch.of([make_patch(scale, rows=40, cols=40)], "cpu"), crop=8)
    draw = device.generator(0)
    for _ in range(5):
        look.draw([draw])
        assert look.seen().valid.any()


def test_a_fit_that_diverges_takes_no_other_with_it():
    settings = create("paper-dem", SMALL).settings
    patches = [make_patch(seed=0), make_patch(seed=1, guide=np.full((3, 24, 28), np.nan)), make_patch(seed=2)]
    states = mmsr_fit.fit_each(patches, settings, [0, 1, 2], "cpu")
    assert "diverged in epoch 1;" in str(states[1])
    alone = mmsr_fit.fit([patches[2]], settings, 2, "cpu")
    for name, values in alone.items():
        np.testing.assert_allclose(states[2][name], values, rtol=0, atol=1e-5)
    with pytest.raises(UsageError, match="shape"):
        mmsr_fit.fit_each([patches[0], make_patch(rows=3)], settings, [0, 1], "cpu")


# --- when to stop --------------------------------------------------------------------------------------------

JUDGED = SMALL | {"belief": "judged", "epochs": 80, "crop": 32, "learning_rate": 0.01}


def waves_and_noise():
    """Patches that nobody's edges are in: of two the guide shows how the source waves, two are noise throughout."""
    row, col = np.mgrid[:96, :96]
    waves = np.sin(row / 9.0) + np.sin(col / 7.0)
    source = waves.reshape(24, 4, 24, 4).mean(axis=(1, 3))
    shown = make_patch(rows=24, cols=24, guide=np.stack([waves] * 3), source=source)
    first, second = (make_patch(rows=24, cols=24, seed=seed) for seed in (0, 2))
    return [first, shown, second, shown]


def after(epochs, patch, seed):
    """The network when so many epochs of the whole schedule are done."""
    settings = create("default", JUDGED).settings
    return mmsr_fit.fit([patch], settings, seed, "cpu", enough=lambda epoch, networks: epoch == epochs)


def is_network(state, network):
    return all(np.array_equal(state[name], values) for name, values in network.items())


def test_a_fit_ends_after_a_quarter_where_nothing_of_it_proves_itself():
    method = create("default", JUDGED)
    ended = []
    for seed, patch in enumerate(waves_and_noise()):
        state, values = answer(method, patch, seed)
        ended.append(is_network(state, after(20, patch, seed)))
        if ended[-1]:
            assert (state["belief"], state["share"]) == (0, 0)
            without = {name: state[name] * np.nan for name in state if name not in _BESIDE}
            assert np.array_equal(method.predict(patch, state | without, "cpu").values, values)
        else:
            assert is_network(state, after(80, patch, seed))
    assert {*ended} == {True, False}


def test_fits_at_once_go_on_for_those_that_need_it_and_each_gets_what_it_has_alone():
    method, patches, seeds = create("default", JUDGED), waves_and_noise(), range(4)
    for patch, seed, state in zip(patches, seeds, method.fit_each(patches, seeds, "cpu"), strict=True):
        alone, expected = answer(method, patch, seed)
        assert (state["belief"], state["share"]) == (alone["belief"], pytest.approx(alone["share"], abs=1e-4))
        np.testing.assert_allclose(method.predict(patch, state, "cpu").values, expected, rtol=0, atol=1e-4)


def squares():
    """A patch whose edges are in the guide."""
    truth = np.kron(np.random.default_rng(0).normal(size=(8, 8)), np.ones((20, 20)))
    source = truth.reshape(40, 4, 40, 4).mean(axis=(1, 3))
    return make_patch(rows=40, cols=40, guide=np.stack([truth] * 3), source=source)


def test_edges_that_are_believed_are_worth_the_whole_fit():
    patch = squares()
    state = create("default", JUDGED).fit([patch], 0, "cpu")
    assert state["belief"] > 0
    assert is_network(state, after(80, patch, 0))


def test_a_guide_whose_edges_are_not_believed_gets_the_papers_neighbourhoods_for_heights():
    few = JUDGED | {"epochs": 3, "source_to_guide": 7, "guide_to_source": 7}
    method, fixed = create("default", few), create("default", few | {"neighbourhoods": "fixed"})
    heights = create("default", few | {"neighbourhoods": "fixed", "source_to_guide": 5, "guide_to_source": 3})
    row, col = np.mgrid[:160, :160]
    waves = np.sin(row / 9.0) + np.sin(col / 7.0)
    source = waves.reshape(40, 4, 40, 4).mean(axis=(1, 3))
    texture = make_patch(rows=40, cols=40, guide=np.stack([waves] * 3), source=source)
    patches, plain = [squares(), texture, squares()], [fixed, heights, fixed]
    few_pixels = make_patch(rows=20, cols=20, guide=np.stack([waves[:80, :80]] * 3), source=source[:20, :20])
    for patch, other in zip([*patches, few_pixels], [*plain, fixed], strict=True):  # 25 pixels one scale lower by 4
        (state, values), (expected, same) = answer(method, patch), answer(other, patch)
        assert is_network(state, expected)
        assert np.array_equal(values, same)
    together = method.fit_each(patches, [0, 0, 0], "cpu")
    for patch, other, state in zip(patches, plain, together, strict=True):
        alone = answer(other, patch)[0]
        assert state["belief"] == alone["belief"]
        assert all(np.allclose(state[name], alone[name], rtol=0, atol=1e-3) for name in alone)
    assert together[0]["belief"] >= 0.5 > together[1]["belief"]
