"""MMSR: a network fitted on one pair alone by mutual modulation (Dong et al., ECCV 2022)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geosr.device import deterministic, generator
from geosr.errors import TileError, UsageError
from geosr.methods.base import Method, Patch, Prediction, State
from geosr.methods.neighbourhood import neighbourhood_filter

CHOICES: dict[str, tuple[str, ...]] = {
    "variant": (
        "mutual",  # the paper's MMSR; with 11/11 its Model3
        "none",  # Model0: features fused as they are
        "guide-to-source",  # Model1
        "source-to-guide",  # Model2
        "convolution",  # Model4: a plain convolution on each branch instead of its filter
        "joint-convolution",  # Model5: one plain convolution on both branches together
        "self",  # Model6: filters whose target is the pixel itself
    ),
    "fusion": ("conv", "sum", "attention-sum", "attention-conv"),
    "schedule": ("step", "cosine"),
    "start": ("none", "residual"),
    "statistics": ("scene", "tile"),
    "consistency": ("exact", "off"),
    "precision": ("auto", "float32", "bfloat16"),
}


@dataclass(frozen=True)
class MmsrSettings:
    """Everything that changes the result; the defaults are the paper's for depth (x4 and x8).

    Attributes:
        source_to_guide: n, odd side of the neighbourhood that modulates the source's features.
        guide_to_source: m, odd side of the neighbourhood that modulates the guide's features.
        channels: features in every layer.
        variant: the paper's ablation (Tables 2 and 3).
        fusion: how the two modulated features are joined (supplement, Table I).
        epochs: optimiser steps for each patch; one step sees a whole patch.
        learning_rate: of Adam.
        schedule: `step` multiplies the rate by `lr_decay` every `lr_decay_every` epochs; `cosine` brings
            it to zero at the last epoch after a linear `warmup`.
        lr_decay: factor of the `step` schedule.
        lr_decay_every: epochs between two decays.
        warmup: share of the epochs in which the `cosine` schedule rises.
        weight_decay: L2 penalty in Adam, on the guide branch only.
        average: decay of a running mean of the weights, which is what is kept; 0 keeps the last weights.
        start: `residual` predicts what to add to the interpolated source.
        stop_window: stop once the mean loss of this many steps is no lower than `1 - stop_gain` of that of
            as many before them; 0 never stops early. It needs no truth.
        stop_gain: see `stop_window`.
        statistics: normalise by the `scene`'s or, as in the paper, by the `tile`'s own.
        consistency: what is done to the output when nothing else is asked for; `off` in the paper.
        precision: of the network's arithmetic; `auto` is float32.
    """

    source_to_guide: int = 11
    guide_to_source: int = 5
    channels: int = 64
    variant: str = "mutual"
    fusion: str = "conv"
    epochs: int = 1000
    learning_rate: float = 0.002
    schedule: str = "step"
    lr_decay: float = 0.9998
    lr_decay_every: int = 5
    warmup: float = 0.0
    weight_decay: float = 0.0005
    average: float = 0.0
    start: str = "none"
    stop_window: int = 0
    stop_gain: float = 0.0
    statistics: str = "tile"
    consistency: str = "off"
    precision: str = "float32"

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise UsageError(f"{name} is {getattr(self, name)!r}; use one of {', '.join(choices)}")
        for name in ("source_to_guide", "guide_to_source"):
            size = getattr(self, name)
            if not 1 <= size <= 31 or size % 2 == 0:
                raise UsageError(f"{name} is {size}; it must be odd, from 1 to 31")
        for name in ("channels", "epochs", "learning_rate", "lr_decay", "lr_decay_every"):
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be positive")
        for name in ("warmup", "weight_decay", "average", "stop_window", "stop_gain"):
            if not 0 <= getattr(self, name) < (math.inf if name == "stop_window" else 1):
                raise UsageError(f"{name} is {getattr(self, name)}; it must be at least 0 and below 1")


PRESETS = {
    "default": MmsrSettings(
        epochs=60,
        schedule="cosine",
        warmup=0.1,
        start="residual",
        statistics="scene",
        consistency="exact",
        precision="auto",
    ),
    "paper-depth": MmsrSettings(),
    "paper-dem": MmsrSettings(source_to_guide=5, guide_to_source=3),
}


def create(preset: str, settings: Mapping[str, Any]) -> Mmsr:
    """`Mmsr` with a preset's settings, some of them replaced; `UsageError` for what does not exist."""
    if preset not in PRESETS:
        raise UsageError(f"mmsr has no preset {preset!r}; there are: {', '.join(PRESETS)}")
    known = {field.name: type(field.default) for field in fields(MmsrSettings)}
    values: dict[str, Any] = {}
    for name, value in settings.items():
        if name not in known:
            raise UsageError(f"mmsr has no setting {name!r}; there are: {', '.join(known)}")
        try:
            values[name] = known[name](value)
        except (TypeError, ValueError) as error:
            raise UsageError(f"{name} is {value!r}; it must be of type {known[name].__name__}") from error
    return Mmsr(replace(PRESETS[preset], **values))


@dataclass(frozen=True)
class Mmsr:
    """The method: one network from random weights for the patches given, no outside data."""

    settings: MmsrSettings = PRESETS["default"]
    name: str = "mmsr"

    @property
    def statistics(self) -> str:
        """What normalises a patch."""
        return self.settings.statistics

    @property
    def consistency(self) -> str:
        """The consistency that is meant when none is asked for."""
        return self.settings.consistency

    def halo(self, scale: int) -> int:
        """Six 3x3 convolutions, half a neighbourhood and the interpolation's source pixel, in whole blocks."""
        widest = max(self.settings.source_to_guide, self.settings.guide_to_source)
        return -(-(6 + widest // 2 + scale) // scale) * scale

    def memory(self, bands: int, shape: tuple[int, int]) -> int:
        """Some 34 feature maps are alive at the peak of a step (measured: 0.9 GB at 320 x 320)."""
        return 4 * shape[0] * shape[1] * (34 * self.settings.channels + 2 * bands)

    def trial(self) -> tuple[Method, float]:
        """Three epochs."""
        epochs = min(3, self.settings.epochs)
        return Mmsr(replace(self.settings, epochs=epochs)), self.settings.epochs / epochs

    def fit(self, patches: Sequence[Patch], seed: int, device: str) -> State:
        """Fit a network to the patches, each seen once an epoch.

        Raises:
            TileError: the loss is not finite, or the memory does not suffice.
        """
        return fit_trace(self.settings, patches, seed, device)

    def predict(self, patch: Patch, state: State, device: str) -> Prediction:
        """The network's answer; nothing is projected here."""
        with deterministic(device), torch.no_grad():
            net = _build(len(patch.guide), self.settings, seed=0)
            net.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
            return Prediction(_answer(net.to(device), _Tensors.of(patch, device), self.settings))


OnStep = Callable[[int, float, Callable[[], list[np.ndarray[Any, np.dtype[np.float32]]]]], None]
"""Called after every epoch with its number, its mean loss and a function that predicts all patches."""


def fit_trace(
    settings: MmsrSettings, patches: Sequence[Patch], seed: int, device: str, on_epoch: OnStep | None = None
) -> State:
    """As `Mmsr.fit`, with a hook that sees every epoch."""
    bands = {len(patch.guide) for patch in patches}
    if len(bands) != 1:
        raise UsageError(f"patches to fit have {sorted(bands)} guide bands; they must all have as many")
    with deterministic(device):
        net = _build(bands.pop(), settings, seed).to(device)
        tensors = [_Tensors.of(patch, device) for patch in patches]
        kept = _optimise(net, tensors, settings, seed, on_epoch)
        return {name: value.detach().cpu().numpy().copy() for name, value in kept.state_dict().items()}


@dataclass(frozen=True)
class _Tensors:
    """A patch on the device, with the leading batch axis."""

    guide: Tensor
    bilinear: Tensor
    start: Tensor
    source: Tensor
    valid: Tensor

    @classmethod
    def of(cls, patch: Patch, device: str) -> _Tensors:
        valid = torch.from_numpy(patch.source_valid)[None, None]
        source = torch.from_numpy(np.ascontiguousarray(patch.source))[None, None]
        size = patch.guide.shape[1:]
        bilinear = F.interpolate(source, size=size, mode="bilinear", align_corners=False)
        bicubic = F.interpolate(source, size=size, mode="bicubic", align_corners=False)
        guide = torch.from_numpy(np.ascontiguousarray(patch.guide))[None]
        parts = (guide.contiguous(memory_format=torch.channels_last), bilinear, bicubic, source, valid)
        return cls(*(part.to(device) for part in parts))


def _optimise(
    net: _Network, patches: list[_Tensors], settings: MmsrSettings, seed: int, on_epoch: OnStep | None
) -> _Network:
    """Adam on the pooled L1 loss (Eq. 5), one step a patch; the network whose weights are to be kept."""
    guide = {id(parameter) for parameter in net.guide.parameters()}
    groups = [
        {"params": list(net.guide.parameters()), "weight_decay": settings.weight_decay},
        {"params": [p for p in net.parameters() if id(p) not in guide]},
    ]
    optimiser = torch.optim.Adam(groups, lr=settings.learning_rate)
    draw = generator(seed)
    kept = _build(net.bands, settings, seed).to(patches[0].guide.device) if settings.average else net
    losses: list[float] = []
    for epoch in range(settings.epochs):
        total = 0.0
        for place, index in enumerate(torch.randperm(len(patches), generator=draw).tolist()):
            rate = settings.learning_rate * _rate(settings, epoch + place / len(patches))
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.zero_grad()
            loss = _loss(_forward(net, patches[index], settings), patches[index])
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            total += float(loss.detach())
            if not math.isfinite(total):
                raise TileError(
                    f"the fit diverged in epoch {epoch + 1}: loss {total}; use a lower learning_rate or float32"
                )
            if settings.average:
                _follow(kept, net, min(settings.average, (epoch + 1) / (epoch + 10)))
        losses.append(total / len(patches))
        if on_epoch:
            on_epoch(epoch + 1, losses[-1], lambda: [_answer(kept, patch, settings) for patch in patches])
        if _stalled(losses, settings):
            break
    return kept


def _rate(settings: MmsrSettings, epoch: float) -> float:
    """The learning rate at `epoch` (fractional) as a share of the first."""
    if settings.schedule == "step":
        return float(settings.lr_decay ** (int(epoch) // settings.lr_decay_every))
    rise = settings.warmup * settings.epochs
    if epoch < rise:
        return (epoch + 1) / (rise + 1)
    return 0.5 * (1 + math.cos(math.pi * (epoch - rise) / max(settings.epochs - rise, 1)))


def _stalled(losses: list[float], settings: MmsrSettings) -> bool:
    window = settings.stop_window
    if not window or len(losses) < 2 * window:
        return False
    return sum(losses[-window:]) >= (1 - settings.stop_gain) * sum(losses[-2 * window : -window])


@torch.no_grad()
def _follow(kept: nn.Module, net: nn.Module, decay: float) -> None:
    for mean, value in zip(kept.parameters(), net.parameters(), strict=True):
        mean.lerp_(value, 1 - decay)


def _loss(prediction: Tensor, patch: _Tensors) -> Tensor:
    """Mean absolute difference between the pooled prediction and the source, over valid source pixels."""
    scale = prediction.shape[-1] // patch.source.shape[-1]
    difference = (F.avg_pool2d(prediction, scale) - patch.source).abs()
    return torch.where(patch.valid, difference, 0.0).sum() / patch.valid.sum().clamp(min=1)


def _forward(net: _Network, patch: _Tensors, settings: MmsrSettings) -> Tensor:
    with _arithmetic(settings, patch.guide.device.type):
        out: Tensor = net(patch.guide, patch.bilinear)
    return out.float() + patch.start if settings.start == "residual" else out.float()


@torch.no_grad()
def _answer(net: _Network, patch: _Tensors, settings: MmsrSettings) -> np.ndarray[Any, np.dtype[np.float32]]:
    return cast("np.ndarray[Any, np.dtype[np.float32]]", _forward(net, patch, settings)[0, 0].cpu().numpy())


def _arithmetic(settings: MmsrSettings, device: str) -> AbstractContextManager[Any]:
    return torch.autocast(device, torch.bfloat16) if settings.precision == "bfloat16" else nullcontext()


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
    return net.to(memory_format=torch.channels_last)
