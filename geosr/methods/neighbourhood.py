"""The cross-domain adaptive filter of MMSR (Dong et al., ECCV 2022, Eq. 1 to 4)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from geosr.methods import compiled, gpu_kernels

BLOCK = 8
"""Side of a block of queries: of 4x8 to 16x16, 8x8 was fastest forward and backward together for n = 11."""

CHUNK_PIXELS = {"cpu": 4096, "cuda": 1 << 20}
"""Queries at a time: on the CPU about one row of blocks of a tile, whose keys stay in the cache."""


def neighbourhood_filter(values: Tensor, target: Tensor, size: int) -> Tensor:
    """Replace each pixel of `values` by a weighted mean of its neighbourhood that resembles `target`.

    At a pixel with target feature `t` and the `size` x `size` neighbours `v_k` of `values`, the weights are
    softmax_k(v_k . t) and the result is their sum over `v_k` (Eq. 1 and 2; Eq. 3 and 4 with the roles
    exchanged). Neighbours outside the image are zero vectors that stay in the softmax.

    Args:
        values: (B, C, H, W) features to filter.
        target: (B, C, H, W) features to compare with, of the same type.
        size: odd side of the neighbourhood.

    Returns:
        (B, C, H, W), differentiable once in both arguments.
    """
    if values.shape != target.shape:
        raise ValueError(f"values {tuple(values.shape)} and target {tuple(target.shape)} differ in shape")
    if size < 1 or size % 2 == 0:
        raise ValueError(f"neighbourhood size is {size}; it must be odd")
    apply: Callable[[Tensor, Tensor, int], Tensor] = _kernel(values, size).apply
    return apply(values.permute(0, 2, 3, 1), target.permute(0, 2, 3, 1), size).permute(0, 3, 1, 2)


def kernels(device: str) -> str:
    """What the filter is made of there, which differs by rounding.

    `compiled` with the numbers in a register, `triton` with its version, or `torch`.
    """
    if device == "cpu":
        library = compiled.library()
        return f"compiled for {library.geosr_lanes()} lanes" if library else "torch"
    fused = _fused()
    return f"triton {fused.version()}" if fused else "torch"


def _kernel(values: Tensor, size: int) -> type[torch.autograd.Function]:
    """The fastest that can treat such a tensor with such a neighbourhood."""
    if compiled.supports(values, size):
        return _Compiled
    fused = _fused() if values.device.type == "cuda" else None
    return fused.Fused if fused and fused.supports(values) else _Blocked


def _fused() -> Any:
    """The module of the GPU's kernels; None where they cannot be used."""
    if gpu_kernels.missing():
        return None
    from geosr.methods import neighbourhood_triton

    return neighbourhood_triton


class _Compiled(torch.autograd.Function):
    """The filter on (B, H, W, C) by the compiled kernel, which recomputes the weights in the backward pass."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, target: Tensor, size: int) -> Tensor:
        values, target = values.contiguous(), target.contiguous()
        ctx.save_for_backward(values, target)
        ctx.size = size
        return compiled.filter_forward(values, target, size)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        values, target = ctx.saved_tensors
        return *compiled.filter_backward(values, target, grad.contiguous(), ctx.size), None


class _Blocked(torch.autograd.Function):
    """The same in torch, on any device and in any precision: the filter as attention of 8x8 blocks of queries.

    Each block sees its (8+size-1)^2 keys. Only the two inputs are kept for the backward pass, which attends again
    chunk by chunk.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, target: Tensor, size: int) -> Tensor:
        ctx.save_for_backward(values, target)
        ctx.size = size
        keys, queries = _pad_keys(values, size), _pad_queries(target)
        out = torch.empty_like(queries)
        mask = _mask(size, values)
        for rows, reach in _chunks(queries, size):
            attended = _attend(_blocks(queries[:, rows]), _windows(keys[:, reach], size), mask)
            out[:, rows] = _unblock(attended, out[:, rows].shape)
        return out[:, : values.shape[1], : values.shape[2]]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        values, target = ctx.saved_tensors
        size, height, width = ctx.size, values.shape[1], values.shape[2]
        keys, queries, grads = _pad_keys(values, size), _pad_queries(target), _pad_queries(grad)
        grad_keys, grad_queries = torch.zeros_like(keys), torch.empty_like(queries)
        mask = _mask(size, values)
        for rows, reach in _chunks(queries, size):
            block = _blocks(queries[:, rows]).requires_grad_()
            window = _windows(keys[:, reach], size).requires_grad_()
            with torch.enable_grad():
                attended = _attend(block, window, mask)
            grad_block, grad_window = torch.autograd.grad(attended, (block, window), _blocks(grads[:, rows]))
            grad_queries[:, rows] = _unblock(grad_block, grad_queries[:, rows].shape)
            _add_windows(grad_keys[:, reach], grad_window, size)
        pad = size // 2
        return (
            grad_keys[:, pad : pad + height, pad : pad + width],
            grad_queries[:, :height, :width],
            None,
        )


def _attend(queries: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
    """softmax(queries keys^T + mask) keys: torch's fused kernel never stores the logits of a chunk."""
    blocks = queries[:, None], keys[:, None]
    return F.scaled_dot_product_attention(blocks[0], blocks[1], blocks[1], attn_mask=mask, scale=1.0)[:, 0]


def _mask(size: int, like: Tensor) -> Tensor:
    """(BLOCK^2, (BLOCK+size-1)^2): 0 where a key is in the query's neighbourhood, else minus infinity."""
    side = BLOCK + size - 1
    offset = torch.arange(side)[None, :] - torch.arange(BLOCK)[:, None]
    near = (offset >= 0) & (offset < size)
    both = near[:, None, :, None] & near[None, :, None, :]
    mask = torch.zeros(BLOCK * BLOCK, side * side).masked_fill(~both.reshape(BLOCK * BLOCK, -1), -torch.inf)
    return mask.to(like.device, like.dtype)


def _chunks(queries: Tensor, size: int) -> Iterator[tuple[slice, slice]]:
    """Rows of queries to treat at a time, and the rows of padded keys that they reach."""
    batch, height, width, _ = queries.shape
    step = max(1, CHUNK_PIXELS.get(queries.device.type, 4096) // (batch * width * BLOCK)) * BLOCK
    for row in range(0, height, step):
        stop = min(row + step, height)
        yield slice(row, stop), slice(row, stop + size - 1)


def _pad_queries(x: Tensor) -> Tensor:
    """Zeros below and to the right, up to whole blocks."""
    return F.pad(x, (0, 0, 0, -x.shape[2] % BLOCK, 0, -x.shape[1] % BLOCK))


def _pad_keys(x: Tensor, size: int) -> Tensor:
    """As `_pad_queries`, and zeros all round as far as a neighbourhood reaches over the edge."""
    pad = size // 2
    return F.pad(x, (0, 0, pad, pad + (-x.shape[2] % BLOCK), pad, pad + (-x.shape[1] % BLOCK)))


def _blocks(x: Tensor) -> Tensor:
    """(B, R*8, X*8, C) -> (B*R*X, 64, C)."""
    batch, height, width, channels = x.shape
    split = x.reshape(batch, height // BLOCK, BLOCK, width // BLOCK, BLOCK, channels)
    return split.transpose(2, 3).reshape(-1, BLOCK * BLOCK, channels)


def _unblock(blocks: Tensor, shape: torch.Size) -> Tensor:
    """The inverse of `_blocks`."""
    batch, height, width, channels = shape
    split = blocks.reshape(batch, height // BLOCK, width // BLOCK, BLOCK, BLOCK, channels)
    return split.transpose(2, 3).reshape(shape)


def _windows(keys: Tensor, size: int) -> Tensor:
    """(B, R*8+size-1, X*8+size-1, C) -> (B*R*X, (8+size-1)^2, C): the keys that each block of queries sees."""
    side = BLOCK + size - 1
    windows = keys.unfold(1, side, BLOCK).unfold(2, side, BLOCK)
    return windows.permute(0, 1, 2, 4, 5, 3).reshape(-1, side * side, keys.shape[3])


def _add_windows(keys: Tensor, windows: Tensor, size: int) -> None:
    """The transpose of `_windows`, added to `keys` in place, in a fixed order."""
    side = BLOCK + size - 1
    batch, height, width, channels = keys.shape
    rows, cols = (height - size + 1) // BLOCK, (width - size + 1) // BLOCK
    windows = windows.reshape(batch, rows, cols, side, side, channels)
    for top in range(0, side, BLOCK):
        for left in range(0, side, BLOCK):
            part = windows[:, :, :, top : top + BLOCK, left : left + BLOCK]
            high, wide = part.shape[3], part.shape[4]
            into = keys[:, top:, left:].unfold(1, high, BLOCK).unfold(2, wide, BLOCK)
            into[:, :rows, :cols].permute(0, 1, 2, 4, 5, 3).add_(part)
