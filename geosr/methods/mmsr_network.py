"""MMSR's network and how it is fitted; `geosr.methods.mmsr_settings` has its settings.

Everything has a leading axis of tiles, each of which has weights of its own: one on the CPU, as many as there is memory
for on a GPU, whose time a single tile's small layers would not fill.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from geosr.device import deterministic, generator, torch_threads
from geosr.errors import TileError, UsageError
from geosr.methods.base import FloatArray, Patch, State, tell_share
from geosr.methods.convolution import convolve
from geosr.methods.mmsr_settings import MmsrSettings
from geosr.methods.muon import Muon
from geosr.methods.neighbourhood import neighbourhood_filter
from geosr.methods.pointwise import Layer, chain, supports
from geosr.methods.recorded import Recorded

_LEVELS = 8192
"""Source values at which the source branch is evaluated; see `_Levels`."""

_RIM = 8
"""Pixels along a crop's inner edge that its loss leaves out: half of a neighbourhood and some convolutions."""

_PIXELS = 8192
"""Pixels at a time in layers of one pixel on the CPU, without the compiled kernels: 64 channels stay in the cache."""

_LOOK = 20
"""Epochs between two looks at whether any fit is still sound: a look waits for a GPU to be done."""

Enough = Callable[[int, Callable[[], list[State]]], bool]
"""Asked after every epoch, with its number and a function that gives the networks as they are: may the fit end here?"""


def fit(
    patches: Sequence[Patch], settings: MmsrSettings, seed: int, device: str, enough: Enough | None = None
) -> State:
    """Fit a network to the patches, each seen once an epoch, until all epochs are done or it is `enough`.

    Raises:
        UsageError: the patches differ in their number of guide bands.
        TileError: the loss is not finite, or the memory does not suffice.
    """
    bands = {len(patch.guide) for patch in patches}
    if len(bands) != 1:
        raise UsageError(f"patches to fit have {sorted(bands)} guide bands; they must all have as many")
    on_cpu = device == "cpu"
    with deterministic(device), _threads(settings, len(patches) if on_cpu else 1) as at_once:
        net = _build(bands.pop(), settings, [seed]).to(device)
        batches = [_Tensors.of([patch], device) for patch in patches]
        (state,) = _optimise(net, batches, settings, [seed], enough, at_once)
    if isinstance(state, TileError):
        raise state
    return state


def fit_each(
    patches: Sequence[Patch],
    settings: MmsrSettings,
    seeds: Sequence[int],
    device: str,
    enough: Enough | None = None,
) -> list[State | TileError]:
    """Fit to each patch a network of its own, all at once: what `fit` makes of each, but for the order of its sums.

    Args:
        patches: all of one shape.
        settings: of all.
        seeds: of each.
        device: as torch names it.
        enough: whether all may end.

    Returns:
        For each patch its state, or in its place the error where its loss was not finite.

    Raises:
        UsageError: the patches differ in shape.
        OutOfMemoryError: the memory does not suffice for so many.
    """
    shapes = {(patch.guide.shape, patch.source.shape) for patch in patches}
    if len(shapes) != 1:
        raise UsageError(f"patches to fit at once have {len(shapes)} different shapes; they must all have one")
    with deterministic(device), _threads(settings, 1) as at_once:
        net = _build(len(patches[0].guide), settings, seeds).to(device)
        return _optimise(net, [_Tensors.of(patches, device)], settings, seeds, enough, at_once)


def predict(patch: Patch, state: State, settings: MmsrSettings, device: str) -> FloatArray:
    """The network's answer on the patch's high grid; nothing is projected or refined here."""
    with deterministic(device):
        net = _build(len(patch.guide), settings, seeds=[0])
        net.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
        (values,) = _answer(net.to(device), _Tensors.of([patch], device))
        return values


@dataclass(frozen=True)
class _Tensors:
    """Patches of one shape on the device, and their sources interpolated to the guides' size."""

    guide: Tensor
    bilinear: Tensor
    levels: _Levels
    source: Tensor
    valid: Tensor

    @classmethod
    def of(cls, patches: Sequence[Patch], device: str) -> _Tensors:
        guide = torch.from_numpy(np.stack([patch.guide for patch in patches]))
        source = torch.from_numpy(np.stack([patch.source[None] for patch in patches]))
        bilinear = F.interpolate(source, size=guide.shape[2:], mode="bilinear", align_corners=False)
        valid = torch.from_numpy(np.stack([patch.source_valid[None] for patch in patches]))
        return cls._on(*(part.to(device) for part in (guide, bilinear, source, valid)))

    @classmethod
    def _on(cls, guide: Tensor, bilinear: Tensor, source: Tensor, valid: Tensor) -> _Tensors:
        guide = guide.contiguous(memory_format=torch.channels_last)
        return cls(guide, bilinear, _Levels.of(bilinear, _LEVELS), source, valid)

    @property
    def scale(self) -> int:
        return self.guide.shape[2] // self.source.shape[2]

    def crop(self, corners: Tensor, shape: tuple[int, int]) -> _Tensors:
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


@dataclass(frozen=True)
class _Levels:
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
    def of(cls, images: Tensor, count: int) -> _Levels:
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


def _optimise(
    net: _Network,
    batches: list[_Tensors],
    settings: MmsrSettings,
    seeds: Sequence[int],
    enough: Enough | None,
    at_once: AtOnce,
) -> list[State | TileError]:
    """The pooled L1 loss (Eq. 5) made small, in an epoch by one step on each patch, or by one on a square of each.

    There is one batch, or there are batches of one patch each. A tile's gradients are those of its own loss, and the
    optimisers treat each tile's weights by themselves: the sum of the losses fits each tile as if it were alone.
    """
    draws, optimisers = [generator(seed) for seed in seeds], _optimisers(net, settings)
    groups = [batches] if settings.crop else [[batch] for batch in batches]
    steps = [_Step(net, group, settings.crop, optimisers, at_once) for group in groups]
    sums = torch.zeros(len(seeds), device=batches[0].guide.device)  # not finite once a loss was not
    sound = torch.zeros_like(sums, dtype=torch.long)  # epochs before that
    for epoch in range(settings.epochs):
        (order, *_) = [torch.randperm(len(steps), generator=draw).tolist() for draw in draws]
        total = torch.zeros_like(sums)
        for place, index in enumerate(order):
            _set_rate(
                optimisers, settings.learning_rate * steps[index].rate * settings.rate(epoch + place / len(steps))
            )
            total += steps[index](draws)
        sums += total
        sound += sums.isfinite()
        if epoch % _LOOK == 0 and int(sound.max()) <= epoch:
            break
        tell_share((epoch + 1) / settings.epochs)
        if enough and enough(epoch + 1, lambda: [_state(net, tile, len(seeds)) for tile in range(len(seeds))]):
            break
    return [
        _state(net, tile, len(seeds))
        if epochs == epoch + 1
        else TileError(f"the fit diverged in epoch {epochs + 1}; use a lower learning_rate")
        for tile, epochs in enumerate(sound.tolist())
    ]


class _Step:
    """A step of the optimisers on the mean loss of some batches: on whole patches, or on a random square of each.

    Attributes:
        rate: how many times as long it is as one on a single batch: as long as those that it stands for.
    """

    def __init__(
        self,
        net: _Network,
        batches: Sequence[_Tensors],
        crop: int,
        optimisers: Sequence[torch.optim.Optimizer],
        at_once: AtOnce,
    ) -> None:
        self._net, self._optimisers, self._at_once = net, optimisers, at_once
        self._parameters = [*net.parameters()]
        self._looks = [_Look(batch, crop) for batch in batches]
        self._recorded = Recorded(batches[0].source.device.type)
        self.rate = len(batches)

    def __call__(self, draws: Sequence[torch.Generator]) -> Tensor:
        """Each tile's loss before the step, to be read before the next."""
        for look in self._looks:
            look.draw(draws)
        return self._recorded(self._compute)

    def _compute(self) -> Tensor:
        losses, gradients = zip(*self._at_once(self._gradients, self._looks), strict=True)
        for parameter, *parts in zip(self._parameters, *gradients, strict=True):
            parameter.grad = _alike(parameter, reduce(torch.add, parts))
        for optimiser in self._optimisers:
            optimiser.step()
        return cast(Tensor, reduce(torch.add, losses))

    def _gradients(self, look: _Look) -> tuple[Tensor, tuple[Tensor, ...]]:
        """A batch's share of the mean loss, by tile, and its gradients."""
        losses = _loss(self._net, look.seen()) / len(self._looks)
        return losses.detach(), torch.autograd.grad(losses.sum(), self._parameters)


def _alike(parameter: Tensor, gradient: Tensor) -> Tensor:
    """A gradient in the order in which the parameter lies in memory, as the optimisers' kernels expect it."""
    images = parameter.dim() == 4
    return gradient.contiguous(memory_format=torch.channels_last if images else torch.contiguous_format)


class _Look:
    """What a step sees of a batch: all of it, or a random square of each patch."""

    def __init__(self, batch: _Tensors, crop: int) -> None:
        self._batch = batch
        self._square = _Square.of(batch, crop) if crop else None
        self._corners = torch.zeros(len(batch.source), 2, dtype=torch.long, device=batch.source.device)

    def draw(self, draws: Sequence[torch.Generator]) -> None:
        """Other squares from now on."""
        if self._square:
            self._corners.copy_(torch.tensor([self._square.draw(draw) for draw in draws]))

    def seen(self) -> _Tensors:
        return self._square.cut(self._batch, self._corners) if self._square else self._batch


AtOnce = Callable[[Callable[[_Look], Any], Sequence[_Look]], Iterable[Any]]
"""A function's results for some looks, in their order, some worked on at once."""


@contextmanager
def _threads(settings: MmsrSettings, squares: int) -> Iterator[AtOnce]:
    """The calling thread's for the block; where steps look at squares, one for each square at most.

    A step on 64 x 64 pixels took 32 ms with one thread and 24 with two where nothing else ran; beside two busy
    processes on two cores 50 with one, and 130 to 2200 with two, which wait for each other a hundred times a step.
    Threads with a square each meet once a step.
    """
    count = min(torch.get_num_threads(), squares)
    with torch_threads(1) if settings.crop else nullcontext():
        if not settings.crop or count == 1:
            yield map
            return
        with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool.map


def _state(net: _Network, tile: int, tiles: int) -> State:
    values = {name: value.chunk(tiles)[tile] for name, value in net.state_dict().items()}
    return {name: value.detach().cpu().numpy().copy() for name, value in values.items()}


def _optimisers(net: _Network, settings: MmsrSettings) -> list[torch.optim.Optimizer]:
    """Adam; or Muon for the matrices between features, and Adam for biases, first and last layers."""
    between = {
        id(layer.weight) for layer in net.modules() if isinstance(layer, _Conv) and layer.joins(settings.channels)
    }
    matrices = between if settings.optimiser == "muon" else set()
    guide = {id(parameter) for parameter in net.guide.parameters()}

    def groups(*, of_matrices: bool) -> list[dict[str, Any]]:
        chosen = [p for p in net.parameters() if (id(p) in matrices) == of_matrices]
        guides, others = [p for p in chosen if id(p) in guide], [p for p in chosen if id(p) not in guide]
        return [{"params": guides, "weight_decay": settings.weight_decay}, {"params": others}]

    on_gpu = next(net.parameters()).is_cuda
    rate = torch.zeros((), device="cuda") if on_gpu else 0.0  # a step that is recorded reads it from a tensor
    adam = torch.optim.Adam(groups(of_matrices=False), lr=rate, fused=True, capturable=on_gpu)
    return [adam, Muon(groups(of_matrices=True), rate, net.tiles)] if matrices else [adam]


def _set_rate(optimisers: Sequence[torch.optim.Optimizer], rate: float) -> None:
    for group in (group for optimiser in optimisers for group in optimiser.param_groups):
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def _loss(net: _Network, batch: _Tensors) -> Tensor:
    """(T,): mean absolute difference between pooled predictions and sources, over valid source pixels.

    What lies under the others has no influence, not even a NaN.
    """
    prediction = net(batch.guide, batch.levels)
    difference = (F.avg_pool2d(prediction, batch.scale) - batch.source).abs()
    return torch.where(batch.valid, difference, 0.0).sum((1, 2, 3)) / batch.valid.sum((1, 2, 3)).clamp(min=1)


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
    def of(cls, batch: _Tensors, side: int) -> _Square:
        """`side` in output pixels, or so much more that something is left between two rims."""
        rim = -(-_RIM // batch.scale)
        size = max(side // batch.scale, 2 * rim + 1)
        height, width = batch.source.shape[2:]
        return cls((height, width), (min(size, height), min(size, width)), rim)

    def draw(self, draw: torch.Generator) -> tuple[int, int]:
        """A corner; pixels at the patch's ends are drawn as often as those within."""
        row, col = (_draw_first(*lengths, draw) for lengths in zip(self.patch, self.shape, strict=True))
        return row, col

    def cut(self, batch: _Tensors, corners: Tensor) -> _Tensors:
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


@torch.no_grad()
def _answer(net: _Network, batch: _Tensors) -> list[FloatArray]:
    return [*net(batch.guide, batch.levels)[:, 0].float().cpu().numpy()]  # bfloat16 under autocast


class _Conv(nn.Module):
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
        return convolve(x, self.weight, self.bias, relu=self.relu)


class _ResBlock(nn.Module):
    """x + conv(ReLU(conv(x)))."""

    def __init__(self, tiles: int, channels: int, kernel: int) -> None:
        super().__init__()
        self.first = _Conv(tiles, channels, channels, kernel, relu=True)
        self.second = _Conv(tiles, channels, channels, kernel)

    def forward(self, x: Tensor) -> Tensor:
        return x + cast(Tensor, self.second(self.first(x)))


class _Attention(nn.Module):
    """Channel, then spatial attention, as in CBAM (Woo et al., ECCV 2018)."""

    def __init__(self, tiles: int, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 16, 1)
        self.channel = nn.Sequential(_Conv(tiles, channels, hidden, 1, relu=True), _Conv(tiles, hidden, channels, 1))
        self.spatial = _Conv(tiles, 2, 1, 7)

    def forward(self, x: Tensor) -> Tensor:
        means, peaks = x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
        x = x * torch.sigmoid(self.channel(means) + self.channel(peaks))
        stacked = torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), 1)
        return x * torch.sigmoid(self.spatial(stacked))


class _Network(nn.Module):
    """Two branches, mutual modulation, fusion and prediction (paper, Fig. 2 and 3)."""

    def __init__(self, tiles: int, bands: int, settings: MmsrSettings) -> None:
        super().__init__()
        width = settings.channels
        self.tiles, self.sizes = tiles, (settings.source_to_guide, settings.guide_to_source)
        self.variant = settings.variant
        self.guide = _branch(tiles, bands, width, 3)
        self.source = _branch(tiles, 1, width, 1)
        self.guide_in = _Conv(tiles, width, width, 1)
        self.source_in = _Conv(tiles, width, width, 1)
        if settings.variant == "convolution":
            self.source_filter = _Conv(tiles, width, width, self.sizes[0])
            self.guide_filter = _Conv(tiles, width, width, self.sizes[1])
        self.fuse: _Fusion | _Joined = _Fusion(tiles, width, settings.fusion)
        if settings.variant == "joint-convolution":
            self.fuse = _Joined(tiles, width, self.sizes[0])
        blocks = [_ResBlock(tiles, width, 1) for _ in range(3)]
        self.head = nn.Sequential(*blocks, _Conv(tiles, width, 1, 1))

    def forward(self, guide: Tensor, source: _Levels) -> Tensor:
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


class _Fusion(nn.Module):
    """Source and guide features as one image or, where they are to be mixed pixel by pixel, as two."""

    def __init__(self, tiles: int, width: int, kind: str) -> None:
        super().__init__()
        attended = kind.startswith("attention")
        self.attend = nn.ModuleList(_Attention(tiles, width) if attended else nn.Identity() for _ in range(2))
        self.mix = _Conv(tiles, 2 * width, width, 1) if kind.endswith("conv") else None

    def forward(self, s: Tensor, g: Tensor) -> list[Tensor]:
        s, g = self.attend[0](s), self.attend[1](g)
        return [s + g] if self.mix is None else [s, g]


class _Joined(nn.Module):
    """Both as one image, by a convolution of theirs."""

    mix: _Conv | None = None

    def __init__(self, tiles: int, width: int, kernel: int) -> None:
        super().__init__()
        self.join = _Conv(tiles, 2 * width, width, kernel)

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
    if isinstance(module, _Conv):
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


def _branch(tiles: int, inputs: int, width: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        _Conv(tiles, inputs, width, kernel, relu=True),
        _Conv(tiles, width, width, kernel, relu=True),
        _ResBlock(tiles, width, kernel),
        _ResBlock(tiles, width, kernel),
    )


def _build(bands: int, settings: MmsrSettings, seeds: Sequence[int]) -> _Network:
    """A network for each seed with torch's usual initial weights, drawn from a generator of its own."""
    with torch.device("meta"):
        net = _Network(len(seeds), bands, settings)
    net.to_empty(device="cpu")
    with torch.no_grad():
        for tile, draw in enumerate(map(generator, seeds)):
            for layer in net.modules():
                if isinstance(layer, _Conv):
                    bound = 1 / math.sqrt(layer.weight[0].numel())
                    for parameter in (layer.weight, layer.bias):
                        parameter.chunk(len(seeds))[tile].uniform_(-bound, bound, generator=draw)
    for parameter in net.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return net
