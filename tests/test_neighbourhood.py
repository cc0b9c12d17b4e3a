"""The adaptive filter against the paper's formula, pixel by pixel."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from kernels import EVERY, use_kernels
from torch._subclasses.fake_tensor import FakeTensorMode

from geosr.device import torch_threads
from geosr.methods import compiled, gpu_kernels, neighbourhood
from geosr.methods.neighbourhood import neighbourhood_filter


@pytest.fixture(params=EVERY)
def kernel(request, monkeypatch):
    """Every way of working that this processor can go; what is not float32 always goes through torch."""
    use_kernels(request.param, monkeypatch)


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_the_kernels_are_built_where_there_is_a_compiler():
    assert compiled.library() is not None


def one_pixel_at_a_time(values, target, size):
    """Eq. 1 and 2 in float64: softmax of (neighbours . target), weighted sum of the neighbours."""
    batch, channels, height, width = values.shape
    reach = size // 2
    padded = np.pad(values, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
    out = np.empty_like(values)
    for b, i, j in np.ndindex(batch, height, width):
        neighbours = padded[b, :, i : i + size, j : j + size].reshape(channels, -1)
        logits = neighbours.T @ target[b, :, i, j]
        weights = np.exp(logits - logits.max())
        out[b, :, i, j] = neighbours @ (weights / weights.sum())
    return out


def by_unfolding(values, target, size):
    """The same as one softmax over all neighbourhoods, for gradients."""
    batch, channels, height, width = values.shape
    unfolded = torch.nn.functional.unfold(values, size, padding=size // 2)
    neighbours = unfolded.view(batch, channels, size * size, height, width)
    weights = (neighbours * target[:, :, None]).sum(1, keepdim=True).softmax(2)
    return (neighbours * weights).sum(2)


def random_pair(shape, seed=0, dtype=torch.float64):
    draw = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=draw, dtype=dtype) for _ in range(2))


@pytest.mark.parametrize("size", [1, 3, 5, 7, 9, 11, 13])
@pytest.mark.parametrize("shape", [(1, 5, 16, 24), (2, 3, 19, 9), (1, 4, 3, 5), (1, 3, 35, 81)])
def test_forward_is_the_formula(size, shape, kernel):
    values, target = random_pair(shape)
    expected = one_pixel_at_a_time(values.numpy(), target.numpy(), size)
    np.testing.assert_allclose(neighbourhood_filter(values, target, size).numpy(), expected, rtol=0, atol=1e-12)
    single = neighbourhood_filter(values.float(), target.float(), size)
    np.testing.assert_allclose(single.numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [3, 5, 7, 9, 11, 13, 19])
@pytest.mark.parametrize("shape", [(1, 4, 16, 16), (2, 3, 19, 9), (1, 3, 53, 83)])
def test_gradients_are_those_of_the_formula(size, shape, kernel):
    values, target = (x.float().requires_grad_() for x in random_pair(shape))
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    ours = torch.autograd.grad((neighbourhood_filter(values, target, size) * weight).sum(), (values, target))
    exact_inputs = [x.detach().double().requires_grad_() for x in (values, target)]
    exact = torch.autograd.grad((by_unfolding(*exact_inputs, size) * weight).sum(), exact_inputs)
    for mine, other in zip(ours, exact, strict=True):
        assert (mine - other).abs().max() <= 1e-4 * other.abs().max()


@pytest.mark.parametrize("size", [3, 5])
def test_gradcheck(size):
    values, target = (x.requires_grad_() for x in random_pair((2, 2, 5, 9)))
    assert torch.autograd.gradcheck(lambda v, t: neighbourhood_filter(v, t, size), (values, target))


def test_threads_change_no_bit():
    values, target = (x.requires_grad_() for x in random_pair((2, 8, 100, 70), dtype=torch.float32))
    answers = []
    for threads in (1, 2, 3):
        with torch_threads(threads):
            out = neighbourhood_filter(values, target, 11)
            answers.append((out, *torch.autograd.grad(out.square().sum(), (values, target))))
    for answer in answers[1:]:
        assert all(torch.equal(mine, first) for mine, first in zip(answer, answers[0], strict=True))


def test_rows_in_several_chunks(monkeypatch):
    values, target = (x.requires_grad_() for x in random_pair((2, 3, 30, 21)))
    whole = neighbourhood_filter(values, target, 7)
    whole_gradients = torch.autograd.grad(whole.square().sum(), (values, target))
    monkeypatch.setattr("geosr.methods.neighbourhood.CHUNK_PIXELS", {"cpu": 1})
    rows = neighbourhood_filter(values, target, 7)
    torch.testing.assert_close(rows, whole, rtol=0, atol=1e-12)
    for mine, other in zip(torch.autograd.grad(rows.square().sum(), (values, target)), whole_gradients, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12)


def test_layout_does_not_matter():
    values, target = random_pair((1, 8, 17, 20), dtype=torch.float32)
    other = [x.contiguous(memory_format=torch.channels_last) for x in (values, target)]
    assert torch.equal(neighbourhood_filter(values, target, 5), neighbourhood_filter(*other, 5))


def test_far_apart_logits_stay_finite(kernel):
    values, target = ((1e3 * x).requires_grad_() for x in random_pair((1, 8, 9, 9), dtype=torch.float32))
    out = neighbourhood_filter(values, target, 11)
    slopes = torch.autograd.grad(out.sum(), (values, target))
    assert all(torch.isfinite(x).all() for x in (out, *slopes))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", ["values", "target"])
def test_what_is_not_finite_stays_so_in_answer_and_gradients(bad, place, kernel):
    """Else a fit that diverged would look like one that did not."""
    given = dict(zip(("values", "target"), random_pair((1, 5, 23, 37), dtype=torch.float32), strict=True))
    given[place][0, 2, 9, 30] = bad
    ours = with_gradients(lambda v, t: neighbourhood_filter(v, t, 5), *given.values())
    formula = with_gradients(lambda v, t: by_unfolding(v, t, 5), *given.values())
    for mine, other in zip(ours, formula, strict=True):
        lost = mine[~torch.isfinite(other)]
        assert len(lost)
        assert not torch.isfinite(lost).any()


def test_refuses_even_sizes_and_different_shapes():
    values, target = random_pair((1, 2, 4, 4))
    with pytest.raises(ValueError, match="odd"):
        neighbourhood_filter(values, target, 4)
    with pytest.raises(ValueError, match="differ"):
        neighbourhood_filter(values, target[..., :3], 3)


def test_a_size_beyond_the_kernels_goes_through_torch():
    values, target = random_pair((1, 2, 9, 7))
    expected = one_pixel_at_a_time(values.numpy(), target.numpy(), 33)
    np.testing.assert_allclose(neighbourhood_filter(values.float(), target.float(), 33).numpy(), expected, atol=1e-5)


# The GPU's kernels: interpreted on the CPU unless there is a card and TRITON_INTERPRET=0 (see conftest.py).
CARD = "cuda" if torch.cuda.is_available() and os.environ["TRITON_INTERPRET"] == "0" else "cpu"


def fused_filter(values, target, size):
    neighbourhood_triton = pytest.importorskip("geosr.methods.neighbourhood_triton", reason="no Triton")
    last = (x.to(CARD).permute(0, 2, 3, 1) for x in (values, target))
    return neighbourhood_triton.Fused.apply(*last, size).permute(0, 3, 1, 2).to(values.device)


def with_gradients(function, *inputs):
    """The answer, and the gradients of a fixed weighted sum of it."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    out = function(*inputs)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    return out.detach(), *torch.autograd.grad((out * weight.to(out.dtype)).sum(), inputs)


def check_fused(shape, size, dtype=torch.float32, near=1e-4):
    inputs = [x.to(dtype) for x in random_pair(shape)]
    ours = with_gradients(lambda v, t: fused_filter(v, t, size), *inputs)
    exact = with_gradients(lambda v, t: by_unfolding(v, t, size), *(x.double() for x in inputs))
    for mine, other in zip(ours, exact, strict=True):
        assert (mine - other).abs().max() <= near * max(other.abs().max(), 0.1)  # one has none: what cancels is 1


@pytest.mark.parametrize("size", [1, 3, 5, 7, 9, 11])
def test_fused_kernels_are_the_formula(size):
    check_fused((2, 3, 9, 5), size)


@pytest.mark.parametrize(
    ("shape", "size"), [((1, 20, 5, 3), 31), ((1, 1, 1, 1), 3), ((1, 64, 9, 11), 3), ((1, 33, 17, 2), 3)]
)
def test_fused_kernels_for_any_shape(shape, size):
    check_fused(shape, size)


@pytest.mark.parametrize(("dtype", "near"), [(torch.float16, 0.005), (torch.bfloat16, 0.03)])
def test_fused_kernels_in_half_precision(dtype, near):
    if CARD == "cpu" and dtype == torch.bfloat16:
        pytest.skip("the interpreter multiplies bfloat16 as if they were integers")
    check_fused((1, 20, 7, 12), 5, dtype, near)


def test_fused_kernels_give_the_same_bits_again_and_stay_finite_far_apart():
    inputs = [1e3 * x for x in random_pair((1, 8, 9, 9), dtype=torch.float32)]
    first, again = (with_gradients(lambda v, t: fused_filter(v, t, 3), *inputs) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one, other)
        assert torch.isfinite(one).all()


def test_which_kernel_treats_what(monkeypatch):
    triton_kernels = pytest.importorskip("geosr.methods.neighbourhood_triton", reason="no Triton")
    monkeypatch.setattr(gpu_kernels, "missing", lambda: None)
    with FakeTensorMode():  # tensors that only say where they are
        on_card = [
            torch.empty(1, channels, 8, 8, dtype=dtype, device="cuda")
            for channels, dtype in ((64, torch.float32), (64, torch.float64), (65, torch.float32))
        ]
        chosen = [neighbourhood._kernel(image, 11) for image in on_card]
    assert chosen == [triton_kernels.Fused, neighbourhood._Blocked, neighbourhood._Blocked]
    assert neighbourhood.kernels("cuda").startswith("triton")


COMPILE = """
import triton
from geosr.methods import neighbourhood_triton as kernels
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

constants = dict(kernels._settings(64, 11))
options = {name: constants.pop(name) for name in ("num_warps", "num_stages")}
for kernel in (kernels._forward, kernels._grad_target, kernels._grad_values):
    kinds = {"height": "i32", "width": "i32"} | dict.fromkeys(constants, "constexpr")
    signature = {name: kinds.get(name, "*fp32") for name in kernel.arg_names}
    values = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    compiled = triton.compile(ASTSource(kernel, signature, values), target=GPUTarget("cuda", 90, 32), options=options)
    print(compiled.metadata.shared)
"""


def test_fused_kernels_compile_for_a_card_that_is_not_here(tmp_path):
    """Types and layouts, which the interpreter does not look at; a Hopper card has 227 KB of shared memory."""
    pytest.importorskip("triton")
    settings = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", COMPILE]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(0 < int(size) <= 227 * 1024 for size in done.stdout.split())
    assert len(done.stdout.split()) == 3


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_the_gpu_benchmark_refuses_without_a_card():
    command = [sys.executable, str(Path(__file__).parents[1] / "benchmarks" / "gpu_speed.py"), "check", "steps"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (4, "")
    assert "nothing was measured" in done.stderr
