"""MMSR's network; `geosr.methods.mmsr_fit` fits it.

Everything has a leading axis of tiles, each of which has weights of its own: one on the CPU, as many as there is memory
for on a GPU, whose time a single tile's small layers would not fill.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from geosr.device import generator
from geosr.methods.convolution import convolve
from geosr.methods.mmsr_batch import Levels
from geosr.methods.mmsr_settings import MmsrSettings
from geosr.methods.neighbourhood import neighbourhood_filter
from geosr.methods.pointwise import Layer, chain, supports

_PIXELS = 8192
"""Pixels at a time in layers of one pixel on the CPU, without the compiled kernels: 64 channels stay in the cache."""


def build(bands: int, settings: MmsrSettings, seeds: Sequence[int]) -> Network:
    """A network for each seed with torch's usual initial weights, drawn from a generator of its own."""
    with torch.device("meta"):
        net = Network(len(seeds), bands, settings)
    net.to_empty(device="cpu")
    with torch.no_grad():
        for tile, draw in enumerate(map(generator, seeds)):
            for layer in net.modules():
                if isinstance(layer, Conv):
                    bound = 1 / math.sqrt(layer.weight[0].numel())
                    for parameter in (layer.weight, layer.bias):
                        parameter.chunk(len(seeds))[tile].uniform_(-bound, bound, generator=draw)
    for parameter in net.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return net


class Network(nn.Module):
    """Two branches, mutual modulation, fusion and prediction (paper, Fig. 2 and 3)."""

    def __init__(self, tiles: int, bands: int, settings: MmsrSettings) -> None:
        super().__init__()
        width = settings.channels
        self.tiles, self.sizes = tiles, (settings.source_to_guide, settings.guide_to_source)
        self.variant = settings.variant
        self.guide = _branch(tiles, bands, width, 3)
        self.source = _branch(tiles, 1, width, 1)
        self.guide_in = Conv(tiles, width, width, 1)
        self.source_in = Conv(tiles, width, width, 1)
        if settings.variant == "convolution":
            self.source_filter = Conv(tiles, width, width, self.sizes[0])
            self.guide_filter = Conv(tiles, width, width, self.sizes[1])
        self.fuse: _Fusion | _Joined = _Fusion(tiles, width, settings.fusion)
        if settings.variant == "joint-convolution":
            self.fuse = _Joined(tiles, width, self.sizes[0])
        blocks = [_ResBlock(tiles, width, 1) for _ in range(3)]
        self.head = nn.Sequential(*blocks, Conv(tiles, width, 1, 1))

    def forward(self, guide: Tensor, source: Levels) -> Tensor:
        """(T, 1, H, W), the normalised values."""
        g = _pointwise([self.guide(guide)], self.guide_in)
        s = source.spread(_pointwise([source.values], self.source, self.source_in))
        joined = self.fuse(*self.modulate(s, g))
        return _pointwise(joined, self.head) if self.fuse.mix is None else _pointwise(joined, self.fuse.mix, self.head)

    def modulate(self, s: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """Source and guide features, each filtered with the other as its target (Eq. 1 to 4)."""
        n, m = self.sizes
        if self.variant == "convolution":
            return self.source_filter(s), self.guide_filter(g)
        if self.variant == "self":
            return neighbourhood_filter(s, s, n), neighbourhood_filter(g, g, m)
        to_guide, to_source = s, g
        if self.variant in ("mutual", "source-to-guide"):
            to_guide = neighbourhood_filter(s, g, n)
        if self.variant in ("mutual", "guide-to-source"):
            to_source = neighbourhood_filter(g, s, m)
        return to_guide, to_source


def _branch(tiles: int, inputs: int, width: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        Conv(tiles, inputs, width, kernel, relu=True),
        Conv(tiles, width, width, kernel, relu=True),
        _ResBlock(tiles, width, kernel),
        _ResBlock(tiles, width, kernel),
    )


class Conv(nn.Module):
    """A convolution of (T, inputs, H, W), zeros around it, with weights of its own for each tile; then maybe a ReLU.

    The weights of all tiles follow each other on the first axis.
    """

    def __init__(self, tiles: int, inputs: int, outputs: int, kernel: int, *, relu: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(tiles * outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.empty(tiles * outputs))
        self.tiles, self.relu = tiles, relu

    def joins(self, channels: int) -> bool:
        """Whether it leads from so many features to so many, or from and to more."""
        return min(self.weight.shape[0] // self.tiles, self.weight.shape[1]) >= channels

    def forward(self, x: Tensor) -> Tensor:
        """(T, outputs, H, W)."""
        return convolve(x, self.weight, self.bias, relu=self.relu)


class _ResBlock(nn.Module):
    """x + conv(ReLU(conv(x)))."""

    def __init__(self, tiles: int, channels: int, kernel: int) -> None:
        super().__init__()
        self.first = Conv(tiles, channels, channels, kernel, relu=True)
        self.second = Conv(tiles, channels, channels, kernel)

    def forward(self, x: Tensor) -> Tensor:
        return x + cast(Tensor, self.second(self.first(x)))


class _Attention(nn.Module):
    """Channel, then spatial attention, as in CBAM (Woo et al., ECCV 2018)."""

    def __init__(self, tiles: int, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 16, 1)
        self.channel = nn.Sequential(Conv(tiles, channels, hidden, 1, relu=True), Conv(tiles, hidden, channels, 1))
        self.spatial = Conv(tiles, 2, 1, 7)

    def forward(self, x: Tensor) -> Tensor:
        means, peaks = x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
        x = x * torch.sigmoid(self.channel(means) + self.channel(peaks))
        stacked = torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), 1)
        return x * torch.sigmoid(self.spatial(stacked))


class _Fusion(nn.Module):
    """Source and guide features as one image or, where they are to be mixed pixel by pixel, as two."""

    def __init__(self, tiles: int, width: int, kind: str) -> None:
        super().__init__()
        attended = kind.startswith("attention")
        self.attend = nn.ModuleList(_Attention(tiles, width) if attended else nn.Identity() for _ in range(2))
        self.mix = Conv(tiles, 2 * width, width, 1) if kind.endswith("conv") else None

    def forward(self, s: Tensor, g: Tensor) -> list[Tensor]:
        s, g = self.attend[0](s), self.attend[1](g)
        return [s + g] if self.mix is None else [s, g]


class _Joined(nn.Module):
    """Both as one image, by a convolution of theirs."""

    mix: Conv | None = None

    def __init__(self, tiles: int, width: int, kernel: int) -> None:
        super().__init__()
        self.join = Conv(tiles, 2 * width, width, kernel)

    def forward(self, s: Tensor, g: Tensor) -> list[Tensor]:
        return [self.join(torch.cat((s, g), 1))]


def _pointwise(images: Sequence[Tensor], *modules: nn.Module) -> Tensor:
    """Modules of kernels of one pixel, one after the other, on the features of all images side by side (T, C, H, W)."""
    layers = [layer for module in modules for layer in _layers(module)]
    if supports(images, layers):
        return chain(images, layers)

    def pass_through(*images: Tensor) -> Tensor:
        x = images[0] if len(images) == 1 else torch.cat(images, 1)
        for module in modules:
            x = module(x)
        return x

    return _by_rows(pass_through, *images)


def _layers(module: nn.Module) -> list[Layer]:
    """What a module does whose kernels are of one pixel."""
    if isinstance(module, Conv):
        return [Layer(module.weight, module.bias, module.relu)]
    if isinstance(module, _ResBlock):
        return [*_layers(module.first), *(layer._replace(residual=True) for layer in _layers(module.second))]
    return [layer for part in module.children() for layer in _layers(part)]


def _by_rows(pointwise: Callable[..., Tensor], *images: Tensor) -> Tensor:
    """A pointwise function of images (T, C, H, W); on the CPU some rows at a time, and again in the backward pass."""
    rows = max(1, _PIXELS // (images[0].shape[0] * images[0].shape[3]))
    if images[0].is_cuda or rows >= images[0].shape[2]:
        return pointwise(*images)
    parts = zip(*(torch.split(image, rows, dim=2) for image in images), strict=True)
    return torch.cat([_recomputed(pointwise, *part) for part in parts], 2)


def _recomputed(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    return cast(Tensor, checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False))
