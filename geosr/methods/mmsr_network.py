"""MMSR's network and how it is fitted; `geosr.methods.mmsr` has the settings."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from geosr.device import deterministic, generator
from geosr.errors import TileError, UsageError
from geosr.methods.base import FloatArray, Patch, State
from geosr.methods.neighbourhood import neighbourhood_filter

if TYPE_CHECKING:
    from geosr.methods.mmsr import MmsrSettings

_LEVELS = 8192
"""Source values at which the source branch is evaluated; see `_Levels`."""

_RIM = 8
"""Pixels along a crop's inner edge that its loss leaves out: half of a neighbourhood and some convolutions."""

_PIXELS = 8192
"""Pixels at a time in the pointwise tail of the network: its layers of 64 channels then stay in the cache."""

OnEpoch = Callable[[int, float, Callable[[], list[FloatArray]]], None]
"""Called after every epoch with its number, its mean loss and a function that predicts all patches."""


def fit(
    patches: Sequence[Patch], settings: MmsrSettings, seed: int, device: str, on_epoch: OnEpoch | None = None
) -> State:
    """Fit a network to the patches, each seen once an epoch.

    Raises:
        UsageError: the patches differ in their number of guide bands.
        TileError: the loss is not finite, or the memory does not suffice.
    """
    bands = {len(patch.guide) for patch in patches}
    if len(bands) != 1:
        raise UsageError(f"patches to fit have {sorted(bands)} guide bands; they must all have as many")
    with deterministic(device):
        net = _build(bands.pop(), settings, seed).to(device)
        _optimise(net, [_Tensors.of(patch, device) for patch in patches], settings, seed, on_epoch)
        return {name: value.detach().cpu().numpy().copy() for name, value in net.state_dict().items()}


def predict(patch: Patch, state: State, settings: MmsrSettings, device: str) -> FloatArray:
    """The network's answer on the patch's high grid; nothing is projected or refined here."""
    with deterministic(device):
        net = _build(len(patch.guide), settings, seed=0)
        net.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
        return _answer(net.to(device), _Tensors.of(patch, device))


@dataclass(frozen=True)
class _Tensors:
    """A patch on the device, with the leading batch axis, and its source interpolated to the guide's size."""

    guide: Tensor
    bilinear: Tensor
    levels: _Levels
    source: Tensor
    valid: Tensor

    @classmethod
    def of(cls, patch: Patch, device: str) -> _Tensors:
        guide = torch.from_numpy(patch.guide.copy())[None].contiguous(memory_format=torch.channels_last)
        source = torch.from_numpy(patch.source.copy())[None, None]
        bilinear = F.interpolate(source, size=guide.shape[2:], mode="bilinear", align_corners=False)
        valid = torch.from_numpy(patch.source_valid.copy())[None, None]
        return cls._on(*(part.to(device) for part in (guide, bilinear, source, valid)))

    @classmethod
    def _on(cls, guide: Tensor, bilinear: Tensor, source: Tensor, valid: Tensor) -> _Tensors:
        return cls(guide, bilinear, _Levels.of(bilinear, _LEVELS), source, valid)

    def crop(self, rows: slice, cols: slice) -> _Tensors:
        """The part over some source pixels."""
        scale = self.guide.shape[2] // self.source.shape[2]
        high = tuple(slice(part.start * scale, part.stop * scale) for part in (rows, cols))
        guide, bilinear = (image[:, :, high[0], high[1]] for image in (self.guide, self.bilinear))
        guide = guide.contiguous(memory_format=torch.channels_last)
        return self._on(guide, bilinear, self.source[:, :, rows, cols], self.valid[:, :, rows, cols])


@dataclass(frozen=True)
class _Levels:
    """An image (1, 1, H, W) as a few levels, and between which two of them each pixel lies.

    The source branch is a function of one number a pixel, piecewise linear: evaluated at 8192 levels and interpolated
    it differs only next to a kink (features below 1e-4, its weights' gradients by 1e-3 of the largest) at a twelfth of
    the work. An image of fewer pixels is its own levels.

    Attributes:
        values: (1, 1, levels, 1).
        shape: (H, W).
        bags: for each pixel two levels, then for each level its pixels; None where the image is its own levels.
    """

    values: Tensor
    shape: tuple[int, int]
    bags: tuple[_Bags, _Bags] | None

    @classmethod
    def of(cls, image: Tensor, count: int) -> _Levels:
        shape = (image.shape[2], image.shape[3])
        low, high = image.amin(), image.amax()
        if image.numel() <= count:
            return cls(image.reshape(1, 1, -1, 1), shape, None)
        place = (image.flatten() - low) / (high - low).clamp(min=1e-12) * (count - 1)
        below = place.floor().clamp(0, count - 2).long()
        levels = torch.stack((below, below + 1), 1).flatten()
        weights = torch.stack((1 - (place - below), place - below), 1).flatten()
        order = levels.argsort(stable=True)
        begins = torch.bincount(levels, minlength=count).cumsum(0).roll(1)
        begins[0] = 0
        each_pixel = _Bags(levels, torch.arange(0, 2 * len(place), 2, device=image.device), weights)
        each_level = _Bags(order // 2, begins, weights[order])
        values = low + (high - low) * torch.linspace(0, 1, count, device=image.device)
        return cls(values.reshape(1, 1, -1, 1), shape, (each_pixel, each_level))

    def spread(self, features: Tensor) -> Tensor:
        """(1, C, levels, 1) features of the levels to (1, C, H, W) features of the pixels."""
        rows = features[0, :, :, 0].t()
        interpolate: Callable[..., Tensor] = _Interpolate.apply
        pixels = rows if self.bags is None else interpolate(rows, *self.bags)
        return pixels.reshape(1, *self.shape, -1).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class _Bags:
    """Weighted sums of some of the rows of a matrix."""

    rows: Tensor
    begins: Tensor
    weights: Tensor

    def sum(self, matrix: Tensor) -> Tensor:
        return F.embedding_bag(self.rows, matrix, self.begins, mode="sum", per_sample_weights=self.weights)


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
    net: _Network, patches: list[_Tensors], settings: MmsrSettings, seed: int, on_epoch: OnEpoch | None
) -> None:
    """Adam on the pooled L1 loss (Eq. 5), one step a patch and epoch."""
    draw, optimiser = generator(seed), _optimiser(net, settings)
    for epoch in range(settings.epochs):
        total = 0.0
        for place, index in enumerate(torch.randperm(len(patches), generator=draw).tolist()):
            for group in optimiser.param_groups:
                group["lr"] = settings.learning_rate * settings.rate(epoch + place / len(patches))
            optimiser.zero_grad()
            loss = _crop_loss(net, patches[index], settings.crop, draw) if settings.crop else _loss(net, patches[index])
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            total += float(loss.detach())
            if not math.isfinite(total):
                raise TileError(f"the fit diverged in epoch {epoch + 1}; use a lower learning_rate")
        if on_epoch:
            on_epoch(epoch + 1, total / len(patches), lambda: [_answer(net, patch) for patch in patches])


def _optimiser(net: _Network, settings: MmsrSettings) -> torch.optim.Adam:
    guide = {id(parameter) for parameter in net.guide.parameters()}
    groups: list[dict[str, Any]] = [
        {"params": list(net.guide.parameters()), "weight_decay": settings.weight_decay},
        {"params": [p for p in net.parameters() if id(p) not in guide]},
    ]
    return torch.optim.Adam(groups, lr=settings.learning_rate)


def _loss(net: _Network, patch: _Tensors) -> Tensor:
    """Mean absolute difference between the pooled prediction and the source, over valid source pixels.

    What lies under the others has no influence, not even a NaN.
    """
    return _pooled_loss(net(patch.guide, patch.levels), patch.source, patch.valid)


def _pooled_loss(prediction: Tensor, source: Tensor, valid: Tensor) -> Tensor:
    difference = (F.avg_pool2d(prediction, prediction.shape[-1] // source.shape[-1]) - source).abs()
    return torch.where(valid, difference, 0.0).sum() / valid.sum().clamp(min=1)


def _crop_loss(net: _Network, patch: _Tensors, side: int, draw: torch.Generator) -> Tensor:
    """The same on a random square, but for its rim where what the network sees ends and the patch does not."""
    scale = patch.guide.shape[2] // patch.source.shape[2]
    rows, cols = (_draw_span(length, max(side // scale, 3), draw) for length in patch.source.shape[2:])
    part = patch.crop(rows, cols)
    rim = -(-_RIM // scale)
    inner = tuple(
        slice(rim if span.start > 0 else 0, span.stop - span.start - (rim if span.stop < length else 0))
        for span, length in zip((rows, cols), patch.source.shape[2:], strict=True)
    )
    high = tuple(slice(span.start * scale, span.stop * scale) for span in inner)
    prediction = net(part.guide, part.levels)[:, :, high[0], high[1]]
    return _pooled_loss(prediction, part.source[:, :, inner[0], inner[1]], part.valid[:, :, inner[0], inner[1]])


def _draw_span(length: int, size: int, draw: torch.Generator) -> slice:
    """`size` of `length` source pixels; those at the ends are drawn as often as those within."""
    size = min(size, length)
    first = int(torch.randint(-(size // 2), length - size + size // 2 + 1, (), generator=draw))
    first = min(max(first, 0), length - size)
    return slice(first, first + size)


@torch.no_grad()
def _answer(net: _Network, patch: _Tensors) -> FloatArray:
    return cast(FloatArray, net(patch.guide, patch.levels)[0, 0].cpu().numpy())


class _ResBlock(nn.Module):
    """x + conv(ReLU(conv(x)))."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.first = _conv(channels, channels, kernel)
        self.second = _conv(channels, channels, kernel)

    def forward(self, x: Tensor) -> Tensor:
        return x + cast(Tensor, self.second(F.relu_(self.first(x))))


class _Attention(nn.Module):
    """Channel, then spatial attention, as in CBAM (Woo et al., ECCV 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 16, 1)
        self.channel = nn.Sequential(_conv(channels, hidden, 1), nn.ReLU(), _conv(hidden, channels, 1))
        self.spatial = _conv(2, 1, 7)

    def forward(self, x: Tensor) -> Tensor:
        means, peaks = x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
        x = x * torch.sigmoid(self.channel(means) + self.channel(peaks))
        stacked = torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), 1)
        return x * torch.sigmoid(self.spatial(stacked))


class _Network(nn.Module):
    """Two branches, mutual modulation, fusion and prediction (paper, Fig. 2 and 3)."""

    def __init__(self, bands: int, settings: MmsrSettings) -> None:
        super().__init__()
        width = settings.channels
        self.bands = bands
        self.sizes = settings.source_to_guide, settings.guide_to_source
        self.variant = settings.variant
        self.guide = _branch(bands, width, 3)
        self.source = _branch(1, width, 1)
        self.guide_in = _conv(width, width, 1)
        self.source_in = _conv(width, width, 1)
        if settings.variant == "convolution":
            self.source_filter = _conv(width, width, self.sizes[0])
            self.guide_filter = _conv(width, width, self.sizes[1])
        self.fuse: nn.Module = _Fusion(width, settings.fusion)
        if settings.variant == "joint-convolution":
            self.fuse = _Joined(width, self.sizes[0])
        blocks = [_ResBlock(width, 1) for _ in range(3)]
        self.head = nn.Sequential(*blocks, _conv(width, 1, 1))

    def forward(self, guide: Tensor, source: _Levels) -> Tensor:
        g, s = self.guide_in(self.guide(guide)), source.spread(self.source_in(self.source(source.values)))
        s, g = self.modulate(s, g)
        if isinstance(self.fuse, _Fusion) and self.fuse.pointwise:
            return _by_rows(lambda s, g: self.head(self.fuse(s, g)), s, g)
        return _by_rows(self.head, self.fuse(s, g))

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
    def __init__(self, width: int, kind: str) -> None:
        super().__init__()
        attended = kind.startswith("attention")
        self.attend = nn.ModuleList(_Attention(width) if attended else nn.Identity() for _ in range(2))
        self.mix = _conv(2 * width, width, 1) if kind.endswith("conv") else None
        self.pointwise = not attended

    def forward(self, s: Tensor, g: Tensor) -> Tensor:
        s, g = self.attend[0](s), self.attend[1](g)
        return s + g if self.mix is None else cast(Tensor, self.mix(torch.cat((s, g), 1)))


class _Joined(nn.Module):
    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.mix = _conv(2 * width, width, kernel)

    def forward(self, s: Tensor, g: Tensor) -> Tensor:
        return cast(Tensor, self.mix(torch.cat((s, g), 1)))


def _by_rows(pointwise: Callable[..., Tensor], *images: Tensor) -> Tensor:
    """A pointwise function of images (B, C, H, W) some rows at a time, evaluated again in the backward pass."""
    rows = max(1, _PIXELS // (images[0].shape[0] * images[0].shape[3]))
    parts = zip(*(torch.split(image, rows, dim=2) for image in images), strict=True)
    return torch.cat([_recomputed(pointwise, *part) for part in parts], 2)


def _recomputed(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    return cast(Tensor, checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False))


def _conv(inputs: int, outputs: int, kernel: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)


def _branch(inputs: int, width: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        _conv(inputs, width, kernel),
        nn.ReLU(inplace=True),
        _conv(width, width, kernel),
        nn.ReLU(),
        _ResBlock(width, kernel),
        _ResBlock(width, kernel),
    )


def _build(bands: int, settings: MmsrSettings, seed: int) -> _Network:
    """A network with torch's usual initial weights, drawn from a generator of its own."""
    with torch.device("meta"):
        net = _Network(bands, settings)
    net.to_empty(device="cpu")
    draw = generator(seed)
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, nn.Conv2d):
                bound = 1 / math.sqrt(layer.weight[0].numel())
                layer.weight.uniform_(-bound, bound, generator=draw)
                cast(Tensor, layer.bias).uniform_(-bound, bound, generator=draw)
    for parameter in net.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return net
