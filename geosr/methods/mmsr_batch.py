"""What MMSR's network sees: patches as tensors, squares of them, and sources as a few levels.

Everything has a leading axis of patches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from geosr.methods.base import Patch

_LEVELS = 8192
"""Source values at which the source branch is evaluated; see `Levels`."""

_RIM = 8
"""Pixels along a crop's inner edge that its loss leaves out: half of a neighbourhood and some convolutions."""


@dataclass(frozen=True)
class Batch:
    """Patches of one shape on the device, and their sources interpolated to the guides' size."""

    guide: Tensor
    bilinear: Tensor
    levels: Levels
    source: Tensor
    valid: Tensor

    @classmethod
    def of(cls, patches: Sequence[Patch], device: str) -> Batch:
        """Copied to the device."""
        guide = torch.from_numpy(np.stack([patch.guide for patch in patches]))
        source = torch.from_numpy(np.stack([patch.source[None] for patch in patches]))
        bilinear = F.interpolate(source, size=guide.shape[2:], mode="bilinear", align_corners=False)
        valid = torch.from_numpy(np.stack([patch.source_valid[None] for patch in patches]))
        return cls._on(*(part.to(device) for part in (guide, bilinear, source, valid)))

    @classmethod
    def _on(cls, guide: Tensor, bilinear: Tensor, source: Tensor, valid: Tensor) -> Batch:
        guide = guide.contiguous(memory_format=torch.channels_last)
        return cls(guide, bilinear, Levels.of(bilinear, _LEVELS), source, valid)

    @property
    def scale(self) -> int:
        """High pixels to one source pixel along a side."""
        return self.guide.shape[2] // self.source.shape[2]

    def crop(self, corners: Tensor, shape: tuple[int, int]) -> Batch:
        """From each patch the part of so many source pixels that begins at its corner (T, 2)."""
        high = shape[0] * self.scale, shape[1] * self.scale
        guide, bilinear = (_parts(image, corners * self.scale, high) for image in (self.guide, self.bilinear))
        return self._on(guide, bilinear, *(_parts(image, corners, shape) for image in (self.source, self.valid)))


def _parts(images: Tensor, corners: Tensor, shape: tuple[int, int]) -> Tensor:
    """A part of each image (T, C, H, W); the corners are in a tensor, as a recorded step needs them."""
    rows, cols = (
        corners[:, axis, None] + torch.arange(length, device=images.device) for axis, length in enumerate(shape)
    )
    tiles = torch.arange(len(images), device=images.device)[:, None, None]
    return images.permute(0, 2, 3, 1)[tiles, rows[:, :, None], cols[:, None, :]].permute(0, 3, 1, 2)


class Look:
    """What a step sees of a batch: all of it, or a random square of each patch."""

    def __init__(self, batch: Batch, crop: int) -> None:
        self._batch = batch
        self._square = _Square.of(batch, crop) if crop else None
        self._corners = torch.zeros(len(batch.source), 2, dtype=torch.long, device=batch.source.device)

    def draw(self, draws: Sequence[torch.Generator]) -> None:
        """Other squares from now on."""
        if self._square:
            self._corners.copy_(torch.tensor([self._square.draw(draw) for draw in draws]))

    def seen(self) -> Batch:
        """The squares drawn last, or all of the batch."""
        return self._square.cut(self._batch, self._corners) if self._square else self._batch


@dataclass(frozen=True)
class _Square:
    """Squares of patches, all of one size, in source pixels.

    Attributes:
        patch: shape of what they are cut from.
        shape: theirs; a patch smaller than the square is taken whole.
        rim: along a square's inner edge, where what the network sees ends and the patch does not; no loss there.
    """

    patch: tuple[int, int]
    shape: tuple[int, int]
    rim: int

    @classmethod
    def of(cls, batch: Batch, side: int) -> _Square:
        """`side` in output pixels, or so much more that something is left between two rims."""
        rim = -(-_RIM // batch.scale)
        size = max(side // batch.scale, 2 * rim + 1)
        height, width = batch.source.shape[2:]
        return cls((height, width), (min(size, height), min(size, width)), rim)

    def draw(self, draw: torch.Generator) -> tuple[int, int]:
        """A corner; pixels at the patch's ends are drawn as often as those within."""
        row, col = (_draw_first(*lengths, draw) for lengths in zip(self.patch, self.shape, strict=True))
        return row, col

    def cut(self, batch: Batch, corners: Tensor) -> Batch:
        """The squares with those corners (T, 2), valid where they count."""
        part = batch.crop(corners, self.shape)
        rows, cols = (self._inside(axis, corners[:, axis, None]) for axis in (0, 1))
        return replace(part, valid=part.valid & (rows[:, :, None] & cols[:, None, :])[:, None])

    def _inside(self, axis: int, first: Tensor) -> Tensor:
        """(T, length): which rows or columns are in no rim, of squares that begin at `first`."""
        length = self.shape[axis]
        place = torch.arange(length, device=first.device)
        after = (place >= self.rim) | (first == 0)
        return after & ((place < length - self.rim) | (first + length == self.patch[axis]))


def _draw_first(length: int, size: int, draw: torch.Generator) -> int:
    first = int(torch.randint(-(size // 2), length - size + size // 2 + 1, (), generator=draw))
    return min(max(first, 0), length - size)


@dataclass(frozen=True)
class Levels:
    """Images (T, 1, H, W) as a few levels each, and between which two of them each pixel lies.

    The source branch is a function of one number a pixel, piecewise linear: evaluated at 8192 levels and interpolated
    it differs only next to a kink (features below 1e-4, its weights' gradients by 1e-3 of the largest) at a twelfth of
    the work. Images of fewer pixels are their own levels.

    Attributes:
        values: (T, 1, levels, 1).
        shape: (H, W).
        bags: for each pixel two levels, then for each level its pixels; None where the images are their own levels.
    """

    values: Tensor
    shape: tuple[int, int]
    bags: tuple[_Bags, _Bags] | None

    @classmethod
    def of(cls, images: Tensor, count: int) -> Levels:
        """`count` levels of each image, as far apart from each other, or the pixels themselves."""
        tiles, _, *shape = images.shape
        pixels = images.flatten(1)
        if pixels.shape[1] <= count:
            return cls(pixels[:, None, :, None], (shape[0], shape[1]), None)
        low, high = pixels.amin(1, keepdim=True), pixels.amax(1, keepdim=True)
        place = (pixels - low) / (high - low).clamp(min=1e-12) * (count - 1)
        below = place.floor().clamp(0, count - 2)
        share = (place - below).flatten()
        first = torch.arange(0, tiles * count, count, device=images.device)[:, None]  # each tile's levels follow
        lower = (below.long() + first).flatten()
        levels = torch.stack((lower, lower + 1), 1).flatten()
        weights = torch.stack((1 - share, share), 1).flatten()
        order = levels.argsort(stable=True)
        begins = torch.searchsorted(levels[order], torch.arange(tiles * count, device=images.device))
        each_pixel = _Bags(levels, torch.arange(0, 2 * len(lower), 2, device=images.device), weights)
        each_level = _Bags(order // 2, begins, weights[order])
        values = low + (high - low) * torch.linspace(0, 1, count, device=images.device)
        return cls(values[:, None, :, None], (shape[0], shape[1]), (each_pixel, each_level))

    def spread(self, features: Tensor) -> Tensor:
        """(T, C, levels, 1) features of the levels to (T, C, H, W) features of the pixels."""
        rows = features[..., 0].transpose(1, 2).flatten(0, 1)
        interpolate: Callable[..., Tensor] = _Interpolate.apply
        pixels = rows if self.bags is None else interpolate(rows, *self.bags)
        return pixels.reshape(len(features), *self.shape, -1).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class _Bags:
    """Weighted sums of some of the rows of a matrix."""

    rows: Tensor
    begins: Tensor
    weights: Tensor

    def sum(self, matrix: Tensor) -> Tensor:
        weights = self.weights.to(matrix.dtype)
        return F.embedding_bag(self.rows, matrix, self.begins, mode="sum", per_sample_weights=weights)


class _Interpolate(torch.autograd.Function):
    """Rows of pixels from rows of levels; the transpose is a sum over each level's pixels, in a fixed order."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, each_pixel: _Bags, each_level: _Bags) -> Tensor:
        ctx.each_level = each_level
        return each_pixel.sum(rows.contiguous())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.each_level.sum(grad.contiguous()), None, None
