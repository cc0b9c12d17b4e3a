"""Deformable kernel networks, DKN and its fast form FDKN (Kim, Ponce and Ham, IJCV 2021).

Each pixel of the result is the interpolated source there plus a weighted sum of nine samples of it near by. Where the
samples lie and what they weigh is found by two networks, one that looks at the guide and one at the source; what both
say is multiplied, and the weights of a pixel add up to zero (the paper's residual form).

Two departures from the published code, which make no difference to what the networks can do: samples start about the
pixel itself (there they start half a pixel off), and one that would leave the 15 x 15 window is held at its edge (there
it reads zero).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_SAMPLES = 9
_FURTHEST = 7.0
"""Pixels from a pixel to the edge of the window that its samples come from."""

_FOLD = 4
"""Output pixels to one of FDKN's along a side."""


class Dkn(nn.Module):
    """Guide (n, bands, H, W) and interpolated source (n, 1, H, W) to the refined source (n, 1, H, W)."""

    block = 1

    def __init__(self, bands: int, features: int) -> None:
        super().__init__()
        self.guide, self.source = _dense_trunk(bands, features), _dense_trunk(1, features)
        self.heads = nn.ModuleList(_Heads(4 * features, 1) for _ in range(2))

    def forward(self, guide: Tensor, start: Tensor) -> Tensor:
        """Kernels from 50 x 50 pixels about each pixel, of which those outside the image are zero."""
        around = (25, 24, 25, 24)
        seen = self.guide(F.pad(guide, around)), self.source(F.pad(start, around))
        return _filter(start, *(head(features) for head, features in zip(self.heads, seen, strict=True)))


class Fdkn(nn.Module):
    """As `Dkn`, at a quarter of the resolution: 4 x 4 pixels as 16 channels. H and W are multiples of `block`."""

    block = _FOLD

    def __init__(self, bands: int, features: int) -> None:
        super().__init__()
        self.guide, self.source = _folded_trunk(bands, features), _folded_trunk(1, features)
        self.heads = nn.ModuleList(_Heads(4 * features, _FOLD) for _ in range(2))

    def forward(self, guide: Tensor, start: Tensor) -> Tensor:
        """Kernels from the pixels about each 4 x 4 block."""
        seen = self.guide(F.pixel_unshuffle(guide, _FOLD)), self.source(F.pixel_unshuffle(start, _FOLD))
        return _filter(start, *(head(features) for head, features in zip(self.heads, seen, strict=True)))


def _dense_trunk(bands: int, features: int) -> nn.Sequential:
    """The paper's seven layers, two of them with stride 2, at every pixel.

    The published code shifts its input sixteen times and puts the results together. Without the strides, and with what
    follows them dilated instead, the same sums are made once: 7 x 7 is not computed sixteen times over.
    """
    one, two, four = features, 2 * features, 4 * features
    return nn.Sequential(
        *_layer(bands, one, 7, norm=True),
        *_layer(one, one, 2),
        *_layer(one, two, 5, dilation=2, norm=True),
        *_layer(two, two, 2, dilation=2),
        *_layer(two, four, 5, dilation=4, norm=True),
        *_layer(four, four, 3, dilation=4),
        *_layer(four, four, 3, dilation=4),
    )


def _folded_trunk(bands: int, features: int) -> nn.Sequential:
    counts = (_FOLD**2 * bands, features, features, 2 * features, 2 * features, 4 * features, 4 * features)
    layers = [_layer(counts[i], counts[i + 1], 3, padding=1, norm=i % 2 == 0) for i in range(6)]
    return nn.Sequential(*(part for layer in layers for part in layer))


def _layer(
    before: int, after: int, side: int, *, padding: int = 0, dilation: int = 1, norm: bool = False
) -> list[nn.Module]:
    made: list[nn.Module] = [nn.Conv2d(before, after, side, padding=padding, dilation=dilation)]
    return [*made, *([nn.BatchNorm2d(after)] if norm else []), nn.ReLU()]


class _Heads(nn.Module):
    """Weights (n, 9, H, W) from 0 to 1 and offsets (n, 18, H, W) in pixels, of features at 1 / `fold` of that size."""

    def __init__(self, features: int, fold: int) -> None:
        super().__init__()
        self.fold = fold
        self.weight = nn.Conv2d(features, _SAMPLES * fold**2, 1)
        self.offset = nn.Conv2d(features, 2 * _SAMPLES * fold**2, 1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        weight, offset = torch.sigmoid(self.weight(features)), self.offset(features)
        return F.pixel_shuffle(weight, self.fold), F.pixel_shuffle(offset, self.fold)


def _filter(start: Tensor, by_guide: tuple[Tensor, Tensor], by_source: tuple[Tensor, Tensor]) -> Tensor:
    """The start plus the weighted sum of its samples, in float32 at least: in bfloat16 no weights add up to zero."""
    weight, offset = (a.to(start.dtype) * b.to(start.dtype) for a, b in zip(by_guide, by_source, strict=True))
    weight = weight - weight.mean(1, keepdim=True)
    return start + (_samples(start, offset) * weight).sum(1, keepdim=True)


def _samples(start: Tensor, offset: Tensor) -> Tensor:
    """(n, 9, H, W): the start at the 3 x 3 pixels about each pixel, moved by the offsets, rows before columns.

    Beyond its edges the start is repeated.
    """
    count, _, rows, cols = start.shape
    shifts = torch.arange(3, device=start.device, dtype=start.dtype) - 1
    around = torch.stack(torch.meshgrid(shifts, shifts, indexing="ij")).reshape(2, _SAMPLES, 1, 1)
    moved = (around + offset.view(count, 2, _SAMPLES, rows, cols)).clamp(-_FURTHEST, _FURTHEST)
    row = moved[:, 0] + torch.arange(rows, device=start.device)[:, None]
    col = moved[:, 1] + torch.arange(cols, device=start.device)
    grid = torch.stack(((2 * col + 1) / cols - 1, (2 * row + 1) / rows - 1), -1).view(count, -1, cols, 2)
    found = F.grid_sample(start, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return found.view(count, _SAMPLES, rows, cols)
