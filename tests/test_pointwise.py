"""Layers of one pixel after each other, by the compiled kernels, against the formula in float64."""

import time

import pytest
import torch
from kernels import use_kernels

from geosr.device import torch_threads
from geosr.methods import compiled
from geosr.methods.pointwise import Layer, chain, supports


@pytest.fixture(params=["AVX512", "AVX2"])
def kernel(request, monkeypatch):
    use_kernels(request.param, monkeypatch)


def random_layers(tiles, inputs, widths, kinds, seed=0):
    """Layers of such widths; of kinds `-`, `r` (ReLU), `+` (residual) or `*` (both)."""
    draw = torch.Generator().manual_seed(seed)
    layers = []
    for outputs, kind in zip(widths, kinds, strict=True):
        weight = torch.randn(tiles * outputs, inputs, 1, 1, generator=draw) / inputs**0.5
        bias = torch.randn(tiles * outputs, generator=draw)
        layers.append(Layer(weight.requires_grad_(), bias.requires_grad_(), kind in "r*", kind in "+*"))
        inputs = outputs
    return layers


def random_images(tiles, features, shape, seed=1):
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(tiles, count, *shape, generator=draw).requires_grad_(count > 1) for count in features]


def by_the_formula(images, layers):
    x, before = torch.cat(images, 1).double(), None
    for layer in layers:
        weight = layer.weight.double().view(len(x), -1, x.shape[1])
        y = torch.einsum("tchw,toc->tohw", x, weight) + layer.bias.double().view(len(x), -1, 1, 1)
        y = y + before if layer.residual else y
        before, x = x, y.relu() if layer.relu else y
    return x


def gradients(images, layers, answer):
    """Of all that need one, with other weights at every pixel."""
    weights = torch.randn(answer.shape, generator=torch.Generator().manual_seed(2))
    needed = [image for image in images if image.requires_grad] + [part for layer in layers for part in layer[:2]]
    return torch.autograd.grad((answer * weights).sum(), needed)


CASES = {
    "the tail of the network": (1, (32, 32), [32] * 7 + [1], "-r+r+r+-", (21, 33)),
    "its source branch": (2, (1,), [32] * 7, "rrr+r+-", (64, 1)),
    "residual blocks alone": (1, (32,), [32] * 6 + [1], "r+r+r+-", (9, 20)),
    "ends residual": (2, (16,), [32, 48, 32], "-r+", (9, 9)),
    "one layer": (1, (64,), [64], "-", (7, 9)),
    "one pixel": (1, (16,), [48, 16, 16], "rr-", (1, 1)),
    "widths that change": (3, (48, 16), [16, 112, 16, 32], "r-+-", (10, 13)),
    "ReLU after the sum": (1, (32,), [32, 32, 32, 16], "-r*-", (10, 20)),
    "several pieces": (1, (16, 16), [32, 32, 32, 1], "-r+-", (75, 60)),
}


@pytest.mark.parametrize("case", CASES)
def test_answer_and_gradients_are_those_of_the_formula(case, kernel):
    tiles, features, widths, kinds, shape = CASES[case]
    images, layers = random_images(tiles, features, shape), random_layers(tiles, sum(features), widths, kinds)
    assert supports(images, layers)
    answer, exact = chain(images, layers), by_the_formula(images, layers)
    torch.testing.assert_close(answer.double(), exact, rtol=1e-5, atol=1e-5)
    for ours, other in zip(gradients(images, layers, answer), gradients(images, layers, exact), strict=True):
        assert (ours - other).norm() <= 1e-4 * other.norm()


def test_threads_and_layout_change_no_bit(kernel):
    images, layers = random_images(2, (32, 32), (90, 70)), random_layers(2, 64, [32] * 4 + [1], "-r+r-")
    found = []
    for threads, layout in ((1, torch.contiguous_format), (2, torch.channels_last), (3, torch.channels_last)):
        with torch_threads(threads):
            answer = chain([image.contiguous(memory_format=layout) for image in images], layers)
            found.append((answer, *gradients(images, layers, answer)))
    for other in found[1:]:
        assert all(torch.equal(ours, first) for ours, first in zip(other, found[0], strict=True))


def test_what_is_no_number_stays_so(kernel):
    images, layers = random_images(1, (16,), (4, 4)), random_layers(1, 16, [16, 16], "r-")
    with torch.no_grad():
        images[0][0, 3, 1, 2] = torch.nan
        assert chain(images, layers).isnan().any(1).nonzero().tolist() == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("features", "widths", "dtype"),
    [
        ((16,), [10, 1], torch.float32),
        ((16,), [1, 16], torch.float32),
        ((5,), [16], torch.float32),
        ((16,), [16], torch.float64),
    ],
)
def test_other_widths_and_types_are_not_for_the_kernels(features, widths, dtype, kernel):
    images = [image.to(dtype) for image in random_images(1, features, (3, 3))]
    assert not supports(images, random_layers(1, sum(features), widths, "-" * len(widths)))


def test_no_gradient_is_left_out_silently(kernel):
    image, layers = torch.ones(1, 1, 3, 3), random_layers(1, 1, [16], "r")
    assert supports([image], layers)
    assert not supports([image.requires_grad_()], layers)


def test_a_single_feature_at_the_end_is_not_rectified(kernel):
    images = random_images(1, (16,), (3, 3))
    assert supports(images, random_layers(1, 16, [16, 1], "r-"))
    assert not supports(images, random_layers(1, 16, [16, 1], "-r"))


def test_no_kernel_is_at_work_after_an_error():
    ended = []

    def slow():
        time.sleep(0.3)
        ended.append(True)
        return 0

    with torch_threads(2):
        with pytest.raises(RuntimeError, match="can't allocate memory"):
            compiled._share([lambda: 1, slow])
        assert ended == [True]
        with pytest.raises(ZeroDivisionError):
            compiled._share([lambda: 1 // 0, slow])
        assert ended == [True, True]


def test_without_kernels_nothing_fits(monkeypatch):
    monkeypatch.setattr(compiled, "library", lambda: None)
    assert not supports(random_images(1, (16,), (3, 3)), random_layers(1, 16, [16], "-"))
