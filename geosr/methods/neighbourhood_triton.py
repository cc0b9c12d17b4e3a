"""The GPU's half of `geosr.methods.neighbourhood`: the filter and its gradient as three fused Triton kernels.

A program answers for one block of pixels and walks over the window of pixels that any of their neighbourhoods
reaches, a chunk at a time: logits live for one block and one chunk only. With the names of `neighbourhood.c`:

    forward             out_i    = sum_k p_ik v_k                   and log(sum_k exp(v_k . t_i)) for the other two
    gradient of target  grad t_i = sum_k e_ik v_k
    gradient of values  grad v_k = sum_i (e_ik t_i + p_ik g_i)      over the pixels i whose neighbourhood holds k

The last is a gather as well, since i is in k's neighbourhood where k is in i's: nothing is added to by two programs,
so the bits are the same each time.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

_COLS = 8

_WARPS, _STAGES = 4, 2

_SMALLEST = 16  # side of a matrix product that Triton takes

_LARGEST = 64
"""Channels; for 128 the kernels compiled for compute capability 8.6 need 136 KB of shared memory where there are 99."""


def version() -> str:
    """Triton's."""
    return str(triton.__version__)


def supports(values: Tensor) -> bool:
    """Whether the kernels can treat such a (B, C, H, W) tensor on any card."""
    return values.dtype in (torch.float32, torch.bfloat16, torch.float16) and values.shape[1] <= _LARGEST


class Fused(torch.autograd.Function):
    """The filter on (B, H, W, C), summed in float32; the backward pass recomputes the weights."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, target: Tensor, size: int) -> Tensor:
        """The filtered image."""
        values, target = values.contiguous(), target.contiguous()
        out, totals = torch.empty_like(values), values.new_empty(values.shape[:3], dtype=torch.float32)
        _forward[_grid(values)](values, target, out, totals, **_shape(values, size))
        ctx.save_for_backward(values, target, out, totals)
        ctx.size = size
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        """Gradients in `values` and `target`."""
        values, target, out, totals = ctx.saved_tensors
        grad = grad.contiguous()
        means = (grad.float() * out.float()).sum(3)  # sum over j of p_j d_j
        given = values, target, grad, totals, means
        grad_values, grad_target = torch.empty_like(values), torch.empty_like(target)
        _grad_target[_grid(values)](*given, grad_target, **_shape(values, ctx.size))
        _grad_values[_grid(values)](*given, grad_values, **_shape(values, ctx.size))
        return grad_values, grad_target, None


def _grid(image: Tensor) -> tuple[int, int, int]:
    """One program for each block of pixels."""
    batch, height, width, _ = image.shape
    return triton.cdiv(width, _COLS), triton.cdiv(height, _extent(image.shape[3])[0]), batch


def _shape(image: Tensor, size: int) -> dict[str, Any]:
    """What the kernels are told of the images."""
    _, height, width, channels = image.shape
    return {"height": height, "width": width, **_settings(channels, size)}


def _settings(channels: int, size: int) -> dict[str, Any]:
    """What the kernels are compiled for."""
    rows, chunk = _extent(channels)
    return {
        "CHANNELS": channels,
        "DEPTH": padded(channels),
        "SIZE": size,
        "ROWS": rows,
        "COLS": _COLS,
        "CHUNK": chunk,
        "PRECISION": product_precision(),
        "num_warps": _WARPS,
        "num_stages": _STAGES,
    }


def _extent(channels: int) -> tuple[int, int]:
    """Rows of a block, and pixels of its window at a time: the fastest of 23 choices on an H100.

    A pixel needs 37 % of the window of 8 x 8 (18 x 18 for a neighbourhood of 11) and 48 % of that of 4 x 8 (14 x 18).
    With 64 channels the latter is faster by a fifth to a third; with 32 the former by a tenth, which gives tensor cores
    64 rows. Three products for one leave no registers for a chunk of 64.
    """
    if channels <= 32:
        return 8, 32
    return 4, 32 if product_precision() == "tf32x3" else 64


def padded(features: int) -> int:
    """As many as a product takes: a power of two, 16 at least."""
    return max(_SMALLEST, int(triton.next_power_of_2(features)))


def product_precision() -> str:
    """Of products of float32, as torch is told for its own: TF32 only where the caller allowed it.

    Otherwise three TF32 products make one, to about 2^-21: as compiled for compute capability 9.0 they run on the
    tensor cores, while `ieee` has none of those and spills hundreds of bytes of registers.
    """
    return "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"


@triton.jit
def _block(height, width, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Rows, columns and places in the batch's images of this program's pixels, and which of them exist."""
    pixel = tl.arange(0, ROWS * COLS)
    rows = tl.program_id(1) * ROWS + pixel // COLS
    cols = tl.program_id(0) * COLS + pixel % COLS
    first = tl.program_id(2).to(tl.int64) * height * width
    return rows, cols, first + rows * width + cols, (rows < height) & (cols < width)


@triton.jit
def _window(start, height, width, SIZE: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, CHUNK: tl.constexpr):
    """The same of the pixels from `start` of the window about this program's block."""
    pixel = start + tl.arange(0, CHUNK)
    rows = tl.program_id(1) * ROWS - SIZE // 2 + pixel // (COLS + SIZE - 1)
    cols = tl.program_id(0) * COLS - SIZE // 2 + pixel % (COLS + SIZE - 1)
    first = tl.program_id(2).to(tl.int64) * height * width
    return rows, cols, first + rows * width + cols, (rows >= 0) & (rows < height) & (cols >= 0) & (cols < width)


@triton.jit
def _near(rows, cols, other_rows, other_cols, SIZE: tl.constexpr):
    """(block, chunk): which pixels are in each other's neighbourhood. None behind the window's end."""
    down, right = other_rows[None, :] - rows[:, None], other_cols[None, :] - cols[:, None]
    return (down >= -(SIZE // 2)) & (down <= SIZE // 2) & (right >= -(SIZE // 2)) & (right <= SIZE // 2)


@triton.jit
def _load(image, places, exist, CHANNELS: tl.constexpr, DEPTH: tl.constexpr):
    """(pixels, DEPTH): zeros for what does not exist."""
    channel = tl.arange(0, DEPTH)
    inside = exist[:, None] & (channel < CHANNELS)[None, :]
    return tl.load(image + places[:, None] * CHANNELS + channel[None, :], mask=inside, other=0.0)


@triton.jit
def _store(image, places, exist, pixels, CHANNELS: tl.constexpr, DEPTH: tl.constexpr):
    channel = tl.arange(0, DEPTH)
    inside = exist[:, None] & (channel < CHANNELS)[None, :]
    tl.store(image + places[:, None] * CHANNELS + channel[None, :], pixels.to(image.dtype.element_ty), mask=inside)


@triton.jit
def _compare(left, right, PRECISION: tl.constexpr):
    """(pixels, others): the products of their features."""
    return tl.dot(left, tl.trans(right), input_precision=PRECISION)


@triton.jit
def _gather(weights, features, PRECISION: tl.constexpr):
    """(pixels, DEPTH): the others' features, weighted and summed."""
    return tl.dot(weights.to(features.dtype), features, input_precision=PRECISION)


@triton.jit
def _weights(logs, near):
    """(pixels, others): at most 1, also where huge logits are rounded to more."""
    return tl.where(near, tl.exp(tl.minimum(logs, 0.0)), 0.0)


@triton.jit
def _forward(
    values,
    target,
    out,
    totals,
    height,
    width,
    CHANNELS: tl.constexpr,
    DEPTH: tl.constexpr,
    SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    CHUNK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    rows, cols, places, exist = _block(height, width, ROWS, COLS)
    query = _load(target, places, exist, CHANNELS, DEPTH)
    peak = tl.full((ROWS * COLS,), -1e38, tl.float32)  # finite: a pixel's first chunks may hold no neighbour of it
    total = tl.zeros((ROWS * COLS,), tl.float32)
    answer = tl.zeros((ROWS * COLS, DEPTH), tl.float32)
    for start in range(0, (ROWS + SIZE - 1) * (COLS + SIZE - 1), CHUNK):
        other_rows, other_cols, others, there = _window(start, height, width, SIZE, ROWS, COLS, CHUNK)
        keys = _load(values, others, there, CHANNELS, DEPTH)  # zeros outside the image, which stay in the softmax
        near = _near(rows, cols, other_rows, other_cols, SIZE)
        logits = tl.where(near, _compare(query, keys, PRECISION), float("-inf"))
        higher = tl.maximum(peak, tl.max(logits, 1))
        shrink = tl.exp(peak - higher)
        weights = tl.exp(logits - higher[:, None])
        total = total * shrink + tl.sum(weights, 1)
        answer = answer * shrink[:, None] + _gather(weights, keys, PRECISION)
        peak = higher
    _store(out, places, exist, answer / total[:, None], CHANNELS, DEPTH)
    tl.store(totals + places, peak + tl.log(total), mask=exist)


@triton.jit
def _grad_target(
    values,
    target,
    grad,
    totals,
    means,
    grad_target,
    height,
    width,
    CHANNELS: tl.constexpr,
    DEPTH: tl.constexpr,
    SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    CHUNK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    rows, cols, places, exist = _block(height, width, ROWS, COLS)
    query = _load(target, places, exist, CHANNELS, DEPTH)
    slope = _load(grad, places, exist, CHANNELS, DEPTH)
    total = tl.load(totals + places, mask=exist, other=0.0)
    mean = tl.load(means + places, mask=exist, other=0.0)
    answer = tl.zeros((ROWS * COLS, DEPTH), tl.float32)
    for start in range(0, (ROWS + SIZE - 1) * (COLS + SIZE - 1), CHUNK):
        other_rows, other_cols, others, there = _window(start, height, width, SIZE, ROWS, COLS, CHUNK)
        keys = _load(values, others, there, CHANNELS, DEPTH)
        near = _near(rows, cols, other_rows, other_cols, SIZE)
        weights = _weights(_compare(query, keys, PRECISION) - total[:, None], near)
        answer += _gather(weights * (_compare(slope, keys, PRECISION) - mean[:, None]), keys, PRECISION)
    _store(grad_target, places, exist, answer, CHANNELS, DEPTH)


@triton.jit
def _grad_values(
    values,
    target,
    grad,
    totals,
    means,
    grad_values,
    height,
    width,
    CHANNELS: tl.constexpr,
    DEPTH: tl.constexpr,
    SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    CHUNK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    rows, cols, places, exist = _block(height, width, ROWS, COLS)
    key = _load(values, places, exist, CHANNELS, DEPTH)
    answer = tl.zeros((ROWS * COLS, DEPTH), tl.float32)
    for start in range(0, (ROWS + SIZE - 1) * (COLS + SIZE - 1), CHUNK):
        other_rows, other_cols, others, there = _window(start, height, width, SIZE, ROWS, COLS, CHUNK)
        queries = _load(target, others, there, CHANNELS, DEPTH)
        slopes = _load(grad, others, there, CHANNELS, DEPTH)
        total = tl.load(totals + others, mask=there, other=0.0)
        mean = tl.load(means + others, mask=there, other=0.0)
        near = _near(rows, cols, other_rows, other_cols, SIZE) & there[None, :]
        weights = _weights(_compare(key, queries, PRECISION) - total[None, :], near)
        answer += _gather(weights * (_compare(key, slopes, PRECISION) - mean[None, :]), queries, PRECISION)
        answer += _gather(weights, slopes, PRECISION)
    _store(grad_values, places, exist, answer, CHANNELS, DEPTH)
