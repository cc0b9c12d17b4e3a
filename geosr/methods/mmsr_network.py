"""MMSR's network and how it is fitted; `geosr.methods.mmsr` has the settings."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geosr.device import deterministic, generator
from geosr.errors import TileError, UsageError
from geosr.methods.base import FloatArray, Patch, State
from geosr.methods.neighbourhood import neighbourhood_filter

if TYPE_CHECKING:
    from geosr.methods.mmsr import MmsrSettings

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
    source: Tensor
    valid: Tensor

    @classmethod
    def of(cls, patch: Patch, device: str) -> _Tensors:
        guide = torch.from_numpy(patch.guide.copy())[None].contiguous(memory_format=torch.channels_last)
        source = torch.from_numpy(patch.source.copy())[None, None]
        bilinear = F.interpolate(source, size=guide.shape[2:], mode="bilinear", align_corners=False)
        valid = torch.from_numpy(patch.source_valid.copy())[None, None]
        return cls(*(part.to(device) for part in (guide, bilinear, source, valid)))


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
            loss = _loss(net(patches[index].guide, patches[index].bilinear), patches[index])
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


def _loss(prediction: Tensor, patch: _Tensors) -> Tensor:
    """Mean absolute difference between the pooled prediction and the source, over valid source pixels.

    What lies under the others has no influence, not even a NaN.
    """
    scale = prediction.shape[-1] // patch.source.shape[-1]
    difference = (F.avg_pool2d(prediction, scale) - patch.source).abs()
    return torch.where(patch.valid, difference, 0.0).sum() / patch.valid.sum().clamp(min=1)


@torch.no_grad()
def _answer(net: _Network, patch: _Tensors) -> FloatArray:
    return cast(FloatArray, net(patch.guide, patch.bilinear)[0, 0].cpu().numpy())


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

    def forward(self, guide: Tensor, source: Tensor) -> Tensor:
        g, s = self.guide_in(self.guide(guide)), self.source_in(self.source(source))
        return cast(Tensor, self.head(self.fuse(*self.modulate(s, g))))

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

    def forward(self, s: Tensor, g: Tensor) -> Tensor:
        s, g = self.attend[0](s), self.attend[1](g)
        return s + g if self.mix is None else cast(Tensor, self.mix(torch.cat((s, g), 1)))


class _Joined(nn.Module):
    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.mix = _conv(2 * width, width, kernel)

    def forward(self, s: Tensor, g: Tensor) -> Tensor:
        return cast(Tensor, self.mix(torch.cat((s, g), 1)))


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
