"""The GPU's half of `geosr.methods.convolution`: one with weights a tile, and its gradient, as Triton kernels.

Images are (T, H, W, C), channels last. A program of `_convolve` answers for a run of a tile's pixels and adds up one
product of matrices for each of the kernel's places and each few input features; bias and ReLU go along. The gradient
of the image is the same with the kernel's places the other way round. `_grad_weight` sums over a run of pixels for one
row of the kernel; the runs' sums are added afterwards in a fixed order, so the bits are the same each time. There
float32 becomes bfloat16 where TF32 is allowed, else two of them (three products, to about 2^-16): pixels, over which
it sums, are not what follows each other in memory, and tensor cores take such images of 16-bit numbers alone.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from geosr.methods.neighbourhood_triton import padded, product_precision

_BLOCK = 128
"""Pixels of a program."""

_STRETCH = 32
"""Pixels that a gradient of weights adds at a time."""

_DEPTH = 32
"""Input features at a time: with 128 of each other kind a block and its weights take 32 KB of shared memory."""

_HALF = tl.bfloat16
"""Type of 16 bits that float32 is split into; Triton's interpreter can only multiply the other, float16."""

_WARPS, _STAGES = 4, 3

_LARGEST = 128
"""Features of either side."""

_NUMBERS = 2**31
"""In an image, its kernels count no further."""

_STRETCHES = 8
"""At least so many to a run: of fewer, adding up the runs takes longer than making them."""

_PROGRAMS = 1024
"""About so many sum up a layer's gradient of weights: several for each multiprocessor of a large card."""


def supports(image: Tensor, weight: Tensor, tiles: int) -> bool:
    """Whether the kernels can treat such images (T, C, H, W) with such weights (T * outputs, inputs, k, k)."""
    kinds = torch.float32, torch.bfloat16, torch.float16
    features = max(weight.shape[0] // tiles, weight.shape[1])
    return image.dtype in kinds and features <= _LARGEST and features * image[0, 0].numel() < _NUMBERS


class Convolution(torch.autograd.Function):
    """(T, H, W, inputs) to (T, H, W, outputs), zeros around the images, summed in float32."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cuda", cast_inputs=torch.bfloat16)  # only under autocast
    def forward(ctx: Any, image: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> Tensor:
        """Weights are (T, outputs, k, k, inputs), the bias (T, outputs)."""
        image, weight = image.contiguous(), weight.contiguous()
        out = image.new_empty(*image.shape[:3], weight.shape[1])
        _launch(image, weight, bias, out, relu=relu)
        ctx.save_for_backward(image, weight, out if relu else None)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:
        """Gradients in image, weight and bias."""
        image, weight, out = ctx.saved_tensors
        grad, grad_image = grad.contiguous(), None
        if out is not None:
            grad = torch.ops.aten.threshold_backward(grad, out, 0)
        if ctx.needs_input_grad[0]:
            grad_image = torch.empty_like(image)
            _launch(grad, weight.permute(0, 4, 2, 3, 1).contiguous(), None, grad_image, relu=False)
        return grad_image, *_sums(image, grad, weight.shape[2]), None


def _launch(image: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor, *, relu: bool) -> None:
    """Weights are (T, features found, k, k, features given); with a bias forward, without one backward."""
    tiles, height, width, inputs = image.shape
    outputs, size = out.shape[3], weight.shape[2]
    blocks = triton.cdiv(height * width, _BLOCK), tiles
    _convolve[blocks](
        image,
        weight,
        bias,
        out,
        height,
        width,
        INPUTS=inputs,
        OUTPUTS=outputs,
        DEPTH=min(_DEPTH, padded(inputs)),
        OUT_DEPTH=padded(outputs),
        SIZE=size,
        RELU=relu,
        BLOCK=_BLOCK,
        PRECISION=product_precision(),
        num_warps=_WARPS,
        num_stages=_STAGES,
    )


def _sums(image: Tensor, grad: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Gradients of the weights (T, outputs, k, k, inputs) and of the bias (T, outputs)."""
    tiles, height, width, inputs = image.shape
    outputs = grad.shape[3]
    stretches = triton.cdiv(height * width, _STRETCH)
    row = 3 if size == 3 else 1
    runs = min(triton.cdiv(stretches, _STRETCHES), triton.cdiv(_PROGRAMS, tiles * size**2 // row))
    weights = image.new_empty((tiles, runs, outputs, size, size, inputs), dtype=torch.float32)
    biases = image.new_empty((tiles, runs, outputs), dtype=torch.float32)
    _grad_weight[(runs, size**2 // row, tiles)](
        image,
        grad,
        weights,
        biases,
        height,
        width,
        triton.cdiv(stretches, runs),
        INPUTS=inputs,
        OUTPUTS=outputs,
        IN_DEPTH=padded(inputs),
        OUT_DEPTH=padded(outputs),
        SIZE=size,
        ROW=row,
        BLOCK=_STRETCH,
        HALF=_HALF,
        PARTS=2 if image.dtype == torch.float32 and product_precision() == "tf32x3" else 1,
        num_warps=_WARPS,
        num_stages=_STAGES,
    )
    return weights.sum(1), biases.sum(1)


@triton.jit
def _pixels(image, places, exist, features, COUNT: tl.constexpr):
    """(pixels, features) of an image, zeros for what does not exist."""
    inside = exist[:, None] & (features < COUNT)[None, :]
    return tl.load(image + places[:, None] * COUNT + features[None, :], mask=inside, other=0.0)


@triton.jit
def _convolve(
    image,
    weight,
    bias,
    out,
    height,
    width,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    DEPTH: tl.constexpr,
    OUT_DEPTH: tl.constexpr,
    SIZE: tl.constexpr,
    RELU: tl.constexpr,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    tile = tl.program_id(1).to(tl.int64)
    image += tile * height * width * INPUTS
    out += tile * height * width * OUTPUTS
    weight += tile * (SIZE * SIZE * INPUTS * OUTPUTS)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    rows, cols = pixel // width, pixel % width
    found = tl.arange(0, OUT_DEPTH)
    answer = tl.zeros((BLOCK, OUT_DEPTH), tl.float32)
    for step in range(0, SIZE * SIZE * tl.cdiv(INPUTS, DEPTH)):
        tap, part = step // tl.cdiv(INPUTS, DEPTH), step % tl.cdiv(INPUTS, DEPTH)
        down, right = tap // SIZE - SIZE // 2, tap % SIZE - SIZE // 2
        if bias is None:  # the gradient in a pixel comes from where the pixel was read for
            down, right = -down, -right
        there = (rows + down >= 0) & (rows + down < height) & (cols + right >= 0) & (cols + right < width)
        given = part * DEPTH + tl.arange(0, DEPTH)
        near = _pixels(image, pixel + down * width + right, there, given, INPUTS)
        spots = (found[None, :] * (SIZE * SIZE) + tap) * INPUTS + given[:, None]
        factors = tl.load(weight + spots, mask=(given < INPUTS)[:, None] & (found < OUTPUTS)[None, :], other=0.0)
        answer = tl.dot(near, factors.to(near.dtype), answer, input_precision=PRECISION)
    if bias is not None:
        answer += tl.load(bias + tile * OUTPUTS + found, mask=found < OUTPUTS, other=0.0)[None, :]
    if RELU:
        answer = tl.maximum(answer, 0.0)
    inside = (rows < height)[:, None] & (found < OUTPUTS)[None, :]
    tl.store(out + pixel[:, None] * OUTPUTS + found[None, :], answer.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _add_product(answer, slope, near, HALF: tl.constexpr, PARTS: tl.constexpr):
    """(found, given): the sum over pixels of what their features multiply to."""
    if slope.dtype != tl.float32:
        return tl.dot(tl.trans(slope), near, answer)
    large, others = slope.to(HALF), near.to(HALF)
    answer = tl.dot(tl.trans(large), others, answer)
    if PARTS == 2:
        answer = tl.dot(tl.trans(large), (near - others.to(tl.float32)).to(HALF), answer)
        answer = tl.dot(tl.trans((slope - large.to(tl.float32)).to(HALF)), others, answer)
    return answer


@triton.jit
def _store_sum(
    weights, answer, part, tap, found, given, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, TAPS: tl.constexpr
):
    spots = ((part * OUTPUTS + found[:, None]) * TAPS + tap) * INPUTS + given[None, :]
    tl.store(weights + spots, answer, mask=(found < OUTPUTS)[:, None] & (given < INPUTS)[None, :])


@triton.jit(do_not_specialize=["stretches"])
def _grad_weight(
    image,
    grad,
    weights,
    biases,
    height,
    width,
    stretches,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    IN_DEPTH: tl.constexpr,
    OUT_DEPTH: tl.constexpr,
    SIZE: tl.constexpr,
    ROW: tl.constexpr,
    BLOCK: tl.constexpr,
    HALF: tl.constexpr,
    PARTS: tl.constexpr,
):
    """`ROW` of the kernel's places at once, which share the slopes: the three of a row, or one."""
    run, tap, tile = tl.program_id(0), tl.program_id(1) * ROW + ROW // 2, tl.program_id(2).to(tl.int64)
    image += tile * height * width * INPUTS
    grad += tile * height * width * OUTPUTS
    down, right = tap // SIZE - SIZE // 2, tap % SIZE - SIZE // 2
    given, found = tl.arange(0, IN_DEPTH), tl.arange(0, OUT_DEPTH)
    middle, total = tl.zeros((OUT_DEPTH, IN_DEPTH), tl.float32), tl.zeros((OUT_DEPTH,), tl.float32)
    if ROW == 3:
        before, after = tl.zeros((OUT_DEPTH, IN_DEPTH), tl.float32), tl.zeros((OUT_DEPTH, IN_DEPTH), tl.float32)
    for stretch in range(0, stretches):
        pixel = (run * stretches + stretch) * BLOCK + tl.arange(0, BLOCK)
        rows, cols = pixel // width + down, pixel % width + right
        there, places = (rows >= 0) & (rows < height), pixel + down * width + right
        slope = _pixels(grad, pixel, pixel < height * width, found, OUTPUTS)
        near = _pixels(image, places, there & (cols >= 0) & (cols < width), given, INPUTS)
        middle = _add_product(middle, slope, near, HALF, PARTS)
        if ROW == 3:
            near = _pixels(image, places - 1, there & (cols > 0), given, INPUTS)
            before = _add_product(before, slope, near, HALF, PARTS)
            near = _pixels(image, places + 1, there & (cols < width - 1), given, INPUTS)
            after = _add_product(after, slope, near, HALF, PARTS)
        total += tl.sum(slope.to(tl.float32), 0)
    part = tile * tl.num_programs(0) + run
    _store_sum(weights, middle, part, tap, found, given, INPUTS, OUTPUTS, SIZE * SIZE)
    if ROW == 3:
        _store_sum(weights, before, part, tap - 1, found, given, INPUTS, OUTPUTS, SIZE * SIZE)
        _store_sum(weights, after, part, tap + 1, found, given, INPUTS, OUTPUTS, SIZE * SIZE)
    if tl.program_id(1) == 0:
        tl.store(biases + part * OUTPUTS + found, total, mask=found < OUTPUTS)
