"""FDSR's network: fast depth super-resolution with high-frequency guidance (He et al., CVPR 2021).

It works at a quarter of the output's resolution, on 4 x 4 pixels as 16 channels. Octave convolutions part the guide's
features into a fine and a coarse half, and only the fine one joins the source's features.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_FOLD = 4
"""Output pixels to one of the network's along a side."""

_LUMINANCE = (0.299, 0.587, 0.114)


class Fdsr(nn.Module):
    """Guide (n, bands, H, W) and interpolated source (n, 1, H, W) to the refined source (n, 1, H, W).

    H and W are multiples of `block`.
    """

    block = 2 * _FOLD

    def __init__(self, bands: int, features: int, colour: int) -> None:
        super().__init__()
        self.colour = bool(colour)
        folded, coarse = _FOLD**2, features // 4
        fine = features - coarse
        self.guide_stem = _conv(folded * (bands if colour else 1), features)
        self.octaves = nn.ModuleList(
            [_Octave((features, 0), (fine, coarse)), *(_Octave((fine, coarse), (fine, coarse)) for _ in range(2))]
        )
        self.source_stem = _conv(folded, features)
        self.first = _MultiScale(features)
        self.fusions = nn.ModuleList(_MultiScale(features + turn * fine) for turn in (1, 2, 3))
        self.rise = nn.ModuleList([_conv(features + 3 * fine, 4 * features), _conv(features, 4 * features)])
        self.last = _conv(features, 1)

    def forward(self, guide: Tensor, start: Tensor) -> Tensor:
        """The start and what the network adds to it (Fig. 5 of the paper)."""
        if not self.colour:
            guide = (guide * guide.new_tensor(_LUMINANCE)[:, None, None]).sum(1, keepdim=True)
        seen: tuple[Tensor, Tensor | None] = (_leaky(self.guide_stem(F.pixel_unshuffle(guide, _FOLD))), None)
        features = self.first(_leaky(self.source_stem(F.pixel_unshuffle(start, _FOLD))))
        for octave, fusion in zip(self.octaves, self.fusions, strict=True):
            seen = octave(*seen)
            features = fusion(torch.cat((features, seen[0]), 1))
        features = _leaky(features)
        for rise in self.rise:
            features = F.pixel_shuffle(rise(features), 2)
        return cast(Tensor, start + self.last(features))


class _MultiScale(nn.Module):
    """Two convolutions of different reach beside each other, added, mixed, and added to what came in."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.near, self.far = _conv(features, features), _conv(features, features, dilation=2)
        self.mix = nn.Conv2d(features, features, 1)

    def forward(self, features: Tensor) -> Tensor:
        return cast(Tensor, features + self.mix(_leaky(self.near(features)) + _leaky(self.far(features))))


class _Octave(nn.Module):
    """Fine features and coarse ones at half the resolution, each made of both (Chen et al., ICCV 2019)."""

    def __init__(self, before: tuple[int, int], after: tuple[int, int]) -> None:
        super().__init__()
        self.fine_to_fine, self.fine_to_coarse = (_conv(before[0], count, bias=False) for count in after)
        if before[1]:
            self.coarse_to_fine, self.coarse_to_coarse = (_conv(before[1], count, bias=False) for count in after)

    def forward(self, fine: Tensor, coarse: Tensor | None) -> tuple[Tensor, Tensor]:
        made = self.fine_to_fine(fine), self.fine_to_coarse(F.avg_pool2d(fine, 2))
        if coarse is not None:
            up = F.interpolate(self.coarse_to_fine(coarse), scale_factor=2, mode="nearest")
            made = made[0] + up, made[1] + self.coarse_to_coarse(coarse)
        return _leaky(made[0]), _leaky(made[1])


def _conv(before: int, after: int, *, dilation: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, padding=dilation, dilation=dilation, bias=bias)


def _leaky(features: Tensor) -> Tensor:
    return F.leaky_relu(features, 0.2)
