"""The GPU's kernels against plain torch in float64: interpreted on the CPU, unless there is a card and
TRITON_INTERPRET=0 (see conftest.py). The neighbourhoods' are in test_neighbourhood.py.
"""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from geosr import methods
from geosr.methods import convolution, gpu_kernels, mmsr_fit, neighbourhood
from geosr.methods.base import Patch
from geosr.methods.convolution import convolve
from geosr.methods.diffusion_settings import DiffusionSettings
from geosr.methods.diffusion_solver import _Edges, _fastest, _Link, diffuse
from geosr.methods.mmsr_settings import PRESETS

CARD = "cuda" if torch.cuda.is_available() and os.environ["TRITON_INTERPRET"] == "0" else "cpu"


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def kernels(monkeypatch):
    """Those of convolutions; interpreted, they split float32 into float16, the only 16 bits that can be multiplied."""
    module = pytest.importorskip("geosr.methods.convolution_triton", reason="no Triton")
    if CARD == "cpu":
        monkeypatch.setattr(module, "_HALF", module.tl.float16)
    return module


def fused(images, weight, bias, relu):
    """The kernels' answer, on whatever device they run."""
    from geosr.methods.convolution_triton import Convolution

    given = (x.to(CARD) for x in (images, weight, bias))
    return convolution._in_one(Convolution.apply, *given, relu).to(images.device)


def with_gradients(layer, *inputs):
    inputs = [x.detach().requires_grad_() for x in inputs]
    out = layer(*inputs)
    return out.detach(), *torch.autograd.grad((out * draw(*out.shape, seed=1).to(out.dtype)).sum(), inputs)


LAYERS = {
    "first of the guide's": (2, 3, 5, 9, 7, 3, True),
    "features in parts": (1, 40, 20, 13, 12, 3, False),
    "levels": (3, 1, 8, 200, 1, 1, True),
    "pixels": (2, 64, 32, 11, 17, 1, False),
    "fusion": (1, 128, 64, 10, 31, 1, False),
    "large": (1, 2, 1, 9, 9, 7, False),
    "smaller than the kernel": (2, 4, 4, 1, 2, 5, True),
    "several runs": (1, 5, 6, 40, 33, 3, True),
}


@pytest.mark.parametrize("shape", LAYERS.values(), ids=LAYERS)
def test_convolutions_with_their_gradients(kernels, shape):
    tiles, inputs, outputs, height, width, size, relu = shape
    given = draw(tiles, inputs, height, width), draw(tiles * outputs, inputs, size, size), draw(tiles * outputs)
    ours = with_gradients(lambda *x: fused(*x, relu), *(x.float() for x in given))
    exact = with_gradients(lambda *x: convolve(*x, relu=relu), *given)
    for mine, other in zip(ours, exact, strict=True):
        assert (mine - other).abs().max() <= 1e-4 * other.abs().max()


def test_convolutions_of_tf32_have_gradients_near_enough(kernels):
    """The gradient of weights is then a single product of 16 bits."""
    given = draw(1, 8, 30, 20), draw(6, 8, 3, 3), draw(6)
    torch.set_float32_matmul_precision("high")
    try:
        ours = with_gradients(lambda *x: fused(*x, False), *(x.float() for x in given))
    finally:
        torch.set_float32_matmul_precision("highest")
    exact = with_gradients(lambda *x: convolve(*x, relu=False), *given)
    for mine, other in zip(ours, exact, strict=True):
        assert (mine - other).abs().max() <= 0.01 * other.abs().max()
    assert not torch.equal(ours[2], with_gradients(lambda *x: fused(*x, False), *(x.float() for x in given))[2])


def test_an_image_without_gradient_gets_none(kernels):
    images, weight, bias = draw(1, 3, 8, 8).float(), draw(4, 3, 3, 3).float().requires_grad_(), draw(4).float()
    fused(images, weight, bias, True).sum().backward()
    assert weight.grad.shape == weight.shape
    assert images.grad is None


def test_convolutions_give_the_same_bits_again(kernels):
    given = draw(2, 5, 20, 20).float(), draw(6, 5, 3, 3).float(), draw(6).float()
    first, again = (with_gradients(lambda *x: fused(*x, True), *given) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one, other)


def test_what_the_convolutions_take(kernels):
    assert kernels.supports(torch.empty(2, 64, 4, 4), torch.empty(256, 64, 1, 1), 2)
    assert not kernels.supports(torch.empty(1, 64, 4, 4), torch.empty(129, 64, 1, 1), 1)
    large = torch.empty(1, device="meta").expand(1, 64, 5793, 5793)  # of more numbers than their 32 bits count
    assert not kernels.supports(large, torch.empty(64, 64, 1, 1), 1)
    assert not kernels.supports(torch.empty(1, 64, 4, 4, dtype=torch.float64), torch.empty(64, 64, 1, 1), 1)


@pytest.mark.parametrize("shape", [(20, 31), (3, 2), (1, 1)])
def test_the_diffusions_links(shape):
    kernels = pytest.importorskip("geosr.methods.diffusion_triton", reason="no Triton")
    links = [_Link(rows, cols) for rows, cols in [(0, 1), (1, 0), (1, -1), (2, 3), (3, -2)] if rows <= shape[0]]
    links = tuple(link for link in links if abs(link.cols) <= shape[1])
    values = draw(*shape).float()
    numbers = tuple(link.near(draw(*shape, seed=2).float()).abs() for link in links)
    plain = _Edges(links, numbers)
    ours = kernels.Edges.of([(link.rows, link.cols) for link in links], [x.to(CARD) for x in numbers])
    there = values.to(CARD)
    for mine, other in (
        (ours.flow(there), plain.flow(values)),
        (ours.degree(there), plain.degree(values)),
        (ours.moved(there, 0.3, 0.7).flow(there), plain.moved(values, 0.3, 0.7).flow(values)),
        (ours.moved(there, 0.3, 0.0).degree(there), plain.degree(values)),
    ):
        torch.testing.assert_close(mine.to("cpu"), other, rtol=1e-5, atol=1e-5)


NO_COMPILER = "Failed to find C compiler. Please specify via CC environment variable or set triton.knobs.build.impl."
FAILS = [
    (RuntimeError(NO_COMPILER), "Triton says: Failed to find C compiler"),
    (subprocess.CalledProcessError(1, ["/usr/bin/gcc", "cuda_utils.c"]), "/usr/bin/gcc fails, perhaps for want of"),
    (
        AssertionError("libcuda.so cannot found!\nPossible files are located at []."),
        "Triton says: libcuda.so cannot found!)",
    ),
    (ModuleNotFoundError("No module named 'triton'"), "Triton is not installed"),
]


@pytest.mark.parametrize(("error", "why"), FAILS, ids=[why for _, why in FAILS])
def test_where_triton_cannot_compile_torch_does_the_work_and_the_user_is_told(error, why, monkeypatch):
    runtime = pytest.importorskip("triton.runtime", reason="no Triton")

    class Driver:
        @property
        def active(self):
            raise error

    monkeypatch.setattr(runtime, "driver", Driver())
    gpu_kernels.missing.cache_clear()
    try:
        with FakeTensorMode():  # tensors that only say where they are
            image = torch.empty(1, 8, 9, 9, device="cuda")
            assert neighbourhood._kernel(image, 3) is neighbourhood._Blocked
            assert convolve(
                image, torch.empty(4, 8, 3, 3, device="cuda"), torch.empty(4, device="cuda"), relu=True
            ).is_cuda
            edges = _Edges((_Link(0, 1),), (torch.empty(9, 8, device="cuda"),))
            assert _fastest(edges) is edges
        assert neighbourhood.kernels("cuda") == "torch"
        for name in ("mmsr", "diffusion"):
            assert why in methods.create(name).slowness("cuda")
            assert why not in (methods.create(name).slowness("cpu") or "")
    finally:
        gpu_kernels.missing.cache_clear()


needs_card = pytest.mark.skipif(CARD == "cpu", reason="no CUDA device, or TRITON_INTERPRET is not 0")


@needs_card
@pytest.mark.parametrize("settings", [{"crop": 64}, {"crop": 0, "channels": 16}], ids=["squares", "whole"])
def test_a_recorded_step_has_the_bits_of_one_that_is_not(settings, monkeypatch):
    few = replace(PRESETS["default"], epochs=12, **settings)
    recorded, again = (mmsr_fit.fit_each([patch()] * 2, few, [1, 2], "cuda") for _ in range(2))
    monkeypatch.setattr("geosr.methods.recorded._FIRST", 100)
    plain = mmsr_fit.fit_each([patch()] * 2, few, [1, 2], "cuda")
    for other in (again, plain):
        for one, two in zip(recorded, other, strict=True):
            assert all(np.array_equal(one[name], two[name]) for name in one)


@needs_card
def test_a_recorded_scene_of_several_patches_has_the_bits_of_one_that_is_not(monkeypatch):
    few, scene = replace(PRESETS["default"], epochs=12), [patch(), patch(1)]
    recorded, again = (mmsr_fit.fit(scene, few, 0, "cuda") for _ in range(2))
    monkeypatch.setattr("geosr.methods.recorded._FIRST", 100)
    plain = mmsr_fit.fit(scene, few, 0, "cuda")
    for other in (again, plain):
        assert all(np.array_equal(recorded[name], other[name]) for name in recorded)


@needs_card
def test_the_first_steps_on_a_scene_of_several_patches_are_the_cpus():
    few = replace(PRESETS["default"], epochs=3)
    there, here = (mmsr_fit.fit([patch(), patch(1)], few, 0, device) for device in ("cuda", "cpu"))
    for name in here:
        np.testing.assert_allclose(there[name], here[name], atol=0.02)  # steps of 0.001, and TF32


@needs_card
@pytest.mark.parametrize("hinted", [False, True])
def test_the_diffusion_is_the_cpus(hinted):
    given = patch()
    hint = given.guide[0] if hinted else None
    there, here = (diffuse(given, DiffusionSettings(), device, hint) for device in ("cuda", "cpu"))
    np.testing.assert_allclose(there, here, atol=0.01)


def patch(seed=0):
    """160 x 160, x4: blocks of one value, and a guide that shows them."""
    rng = np.random.default_rng(seed)
    truth = np.kron(rng.normal(size=(10, 10)), np.ones((16, 16))).astype(np.float32)
    truth = np.roll(truth, (5, 3), (0, 1))
    guide = truth + 0.1 * rng.normal(size=(3, 160, 160)).astype(np.float32)
    source = truth.reshape(40, 4, 40, 4).mean((1, 3))
    return Patch(guide, np.ones((160, 160), bool), source, np.ones((40, 40), bool))


COMPILE = """
import triton
import triton.language as tl
from geosr.methods import convolution_triton as layers, diffusion_triton as links
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

KINDS = dict.fromkeys(("height", "width", "stretches"), "i32") | dict.fromkeys(("contrast", "power"), "fp32")
KINDS |= {"steps": "*i32"}


def build(kernel, constants, numbers="*fp32"):
    kinds = KINDS | dict.fromkeys(constants, "constexpr") | dict.fromkeys(("weights", "biases"), "*fp32")
    signature = {name: kinds.get(name, numbers) for name in kernel.arg_names}
    values = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    whole = {
        (place,): [["tt.divisibility", 16]]
        for place, name in enumerate(kernel.arg_names)
        if signature[name][0] == "*" or name in ("height", "width")
    }
    options = {"num_warps": layers._WARPS, "num_stages": layers._STAGES}
    compiled = triton.compile(ASTSource(kernel, signature, values, whole), GPUTarget("cuda", 90, 32), options)
    print(compiled.metadata.shared)


sizes = dict(INPUTS=64, OUTPUTS=64, OUT_DEPTH=64, SIZE=3)
layer = sizes | dict(DEPTH=layers._DEPTH, BLOCK=layers._BLOCK, PRECISION="tf32x3")
build(layers._convolve, layer | dict(RELU=True))
build(layers._convolve, layer | dict(RELU=False, bias=None, PRECISION="tf32"), "*bf16")
sums = sizes | dict(IN_DEPTH=64, ROW=3, BLOCK=layers._STRETCH, HALF=layers._HALF)
build(layers._grad_weight, sums | dict(PARTS=2))
build(layers._grad_weight, sums | dict(PARTS=1), "*bf16")
build(links._move, dict(BLOCK=links._BLOCK))
build(links._flow, dict(LINKS=18, DIFFERENCES=True, BLOCK=links._BLOCK))
"""


def test_they_compile_for_a_card_that_is_not_here(tmp_path):
    """Types and layouts, which the interpreter does not look at; the smallest of today's cards have 99 KB."""
    pytest.importorskip("triton")
    settings = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", COMPILE], env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == 6
    assert all(int(size) <= 99 * 1024 for size in done.stdout.split())
