"""P2P's network and how it is fitted; `geosr.methods.p2p` has the settings.

The network looks at one output pixel at a time: 66 numbers of two small layers, 2048 features, 32, one value. What
takes the time is the wide layer, so a step is written out by hand: one matrix product where the published network has
two and their sum, gradients of its weights and biases in one product more, no patches cut or copied, all weights in one
piece of memory for Adam. The formulas are those of the published network to the last term.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from geosr.device import deterministic, generator
from geosr.errors import TileError
from geosr.methods.base import FloatArray, Patch, State

if TYPE_CHECKING:
    from geosr.methods.p2p import P2pSettings

_PIXELS = 1024
"""Pixels at a time when a tile is predicted."""

_COLUMNS = 256
"""Of the wide layer at a time: half a megabyte for a batch at x4."""

_CHECK = 256
"""Steps between two looks at whether the loss is still finite."""


def fit(patch: Patch, settings: P2pSettings, seed: int, device: str) -> State:
    """Fit a network to one patch.

    Raises:
        TileError: the loss is not finite, or the memory does not suffice.
    """
    with deterministic(device):
        draw = generator(seed)
        net = _Network.create(len(patch.guide), settings, draw, device)
        _optimise(net, _Blocks.of(patch, device), settings, draw)
        return {name: view.cpu().numpy().copy() for name, view in net.views.items()}


def predict(patch: Patch, state: State, device: str) -> FloatArray:
    """The network's value at every pixel of the patch, which must be the one that it was fitted to."""
    with deterministic(device):
        views = {name: torch.from_numpy(array).to(device) for name, array in state.items()}
        inputs = [part.flatten(1).t() for part in _inputs(patch, device)]
        parts = (torch.split(part, _PIXELS) for part in inputs)
        features = _Features(_PIXELS, views["wide"])
        narrow = (_narrow(views, *part) for part in zip(*parts, strict=True))
        values = torch.cat([_values(views, features.forward(views, part).relu_()) for part in narrow])
        return cast(FloatArray, values.reshape(patch.guide_valid.shape).cpu().numpy())


def _inputs(patch: Patch, device: str) -> tuple[Tensor, Tensor]:
    """(2, H, W) row and column, each from -0.5 to 0.5, and (bands, H, W) the guide."""
    axes = [torch.linspace(-0.5, 0.5, side) for side in patch.guide_valid.shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).to(device), torch.from_numpy(patch.guide.copy()).to(device)


@dataclass(frozen=True)
class _Blocks:
    """What there is to learn from: source pixels, each with the s*s output pixels over it.

    Only valid source pixels of which the guide covers half at least (or as much as it covers of any) count.

    Attributes:
        position: (n, s*s, 2).
        guide: (n, s*s, bands).
        share: (n, s*s), 1 over the number of valid guide pixels in the block where the guide is valid, else 0.
        source: (n,).
    """

    position: Tensor
    guide: Tensor
    share: Tensor
    source: Tensor

    @classmethod
    def of(cls, patch: Patch, device: str) -> _Blocks:
        valid = torch.from_numpy(patch.guide_valid.copy()).to(device)[None]
        position, guide, covered = (_cut(part, patch.scale) for part in (*_inputs(patch, device), valid))
        count = covered.sum(1, dtype=torch.float32)
        known = torch.from_numpy(patch.source_valid.copy()).to(device).flatten()
        most = torch.where(known[:, None], count, 0).max()
        used = known & (count[:, 0] >= min(float(most), patch.scale**2 / 2))
        source = torch.from_numpy(patch.source.copy()).to(device).flatten()
        share = (covered / count.clamp(min=1)[:, None])[..., 0]
        return cls(position[used], guide[used], share[used], source[used])

    def batches(self, size: int, draw: torch.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """For ever, each source pixel once in each round."""
        while True:
            for chosen in torch.split(torch.randperm(len(self.source), generator=draw), size):
                chosen = chosen.to(self.source.device)
                position, guide = self.position[chosen].flatten(0, 1), self.guide[chosen].flatten(0, 1)
                yield position, guide, self.share[chosen], self.source[chosen]


def _cut(image: Tensor, scale: int) -> Tensor:
    """(C, h*s, w*s) to (h*w, s*s, C)."""
    bands, rows, cols = image.shape
    blocks = image.reshape(bands, rows // scale, scale, cols // scale, scale)
    return blocks.permute(1, 3, 2, 4, 0).reshape(-1, scale * scale, bands)


@dataclass(frozen=True)
class _Network:
    """Weights and their gradients, each kind in one piece of memory, seen as matrices.

    Attributes:
        weights: all of them, those of position, guide and head one after the other.
        gradients: the same for their gradients.
        views: the matrices in `weights`: `position` (3, 32), `guide` (bands + 1, 32) and `last` (33,), each with its
            biases in the last row; `wide` (66, hidden), of which the first and the last row are the biases of the
            position's and the guide's half; `head` (hidden, 32) and its biases `middle` (32,).
        slopes: the same matrices in `gradients`.
        ends: where in `weights` the position's and the guide's part end.
    """

    weights: Tensor
    gradients: Tensor
    views: dict[str, Tensor]
    slopes: dict[str, Tensor]
    ends: tuple[int, int]

    @classmethod
    def create(cls, bands: int, settings: P2pSettings, draw: torch.Generator, device: str) -> _Network:
        """With torch's usual initial weights, drawn from a generator of its own."""
        narrow, hidden = settings.channels, settings.hidden
        shapes = {
            "position": (3, narrow),
            "wide": (2 * narrow + 2, hidden),
            "guide": (bands + 1, narrow),
            "head": (hidden, narrow),
            "middle": (narrow,),
            "last": (narrow + 1,),
        }
        fans = {"position": 2, "wide": narrow, "guide": bands, "head": hidden, "middle": hidden, "last": narrow}
        sizes = [math.prod(shape) for shape in shapes.values()]
        weights = torch.cat(
            [
                torch.empty(size).uniform_(-1 / math.sqrt(fan), 1 / math.sqrt(fan), generator=draw)
                for size, fan in zip(sizes, fans.values(), strict=True)
            ]
        ).to(device)
        gradients = torch.zeros_like(weights)
        views, slopes = (
            {name: part.view(shapes[name]) for name, part in zip(shapes, torch.split(flat, sizes), strict=True)}
            for flat in (weights, gradients)
        )
        half = sizes[0] + sizes[1] // 2
        return cls(weights, gradients, views, slopes, (half, half + sizes[1] // 2 + sizes[2]))

    def optimiser(self, settings: P2pSettings) -> torch.optim.Adam:
        """Adam with a weight decay for each of the three parts."""
        parts, slopes = (flat.tensor_split(self.ends) for flat in (self.weights, self.gradients))
        for part, slope in zip(parts, slopes, strict=True):
            part.grad = slope
        decays = settings.position_decay, settings.guide_decay, settings.head_decay
        groups = [{"params": [part], "weight_decay": decay} for part, decay in zip(parts, decays, strict=True)]
        return torch.optim.Adam(groups, lr=settings.learning_rate, fused=True)


class _Features:
    """The wide features of up to so many pixels, some columns at a time: what is worked on then stays in the cache.

    Its memory is kept from step to step: given back and asked for again, 4 MB at x4 cost a tenth of the arithmetic,
    16 MB at x8 a half.
    """

    def __init__(self, pixels: int, wide: Tensor) -> None:
        self._parts = [wide.new_empty(pixels, part.shape[1]) for part in torch.split(wide, _COLUMNS, 1)]
        self._grad = torch.empty_like(self._parts[0])

    def forward(self, views: dict[str, Tensor], narrow: Tensor) -> Tensor:
        """(n, 32) products of the features with the head, from (n, 66) inputs."""
        out = views["middle"].repeat(len(narrow), 1)
        for room, wide, head in self._columns(views, len(narrow)):
            torch.mm(narrow, wide, out=room).relu_()
            out.addmm_(room, head)
        return out

    def backward(self, views: dict[str, Tensor], slopes: dict[str, Tensor], narrow: Tensor, grad: Tensor) -> Tensor:
        """Gradient in the inputs where `grad` is that in what the last `forward` gave; the weights' in `slopes`."""
        out = torch.zeros_like(narrow)
        columns = zip(self._columns(views, len(narrow)), self._columns(slopes, len(narrow)), strict=True)
        for (room, wide, head), (_, wide_slope, head_slope) in columns:
            torch.mm(room.t(), grad, out=head_slope)
            back = torch.mm(grad, head.t(), out=self._grad[: len(narrow), : room.shape[1]])
            torch.ops.aten.threshold_backward.grad_input(back, room, 0, grad_input=back)
            torch.mm(narrow.t(), back, out=wide_slope)
            out.addmm_(back, wide.t())
        return out

    def _columns(self, views: dict[str, Tensor], pixels: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        rooms = (part[:pixels] for part in self._parts)
        return zip(rooms, torch.split(views["wide"], _COLUMNS, 1), torch.split(views["head"], _COLUMNS), strict=True)


def _narrow(views: dict[str, Tensor], position: Tensor, guide: Tensor) -> Tensor:
    """(n, 66): the two small layers, with a column of ones for the biases of each half of the wide one."""
    ones = position.new_ones(len(position), 1)
    near = torch.addmm(views["position"][-1], position, views["position"][:-1])
    seen = torch.addmm(views["guide"][-1], guide, views["guide"][:-1])
    return torch.cat((ones, near.relu_(), seen.relu_(), ones), 1)


def _values(views: dict[str, Tensor], middle: Tensor) -> Tensor:
    return middle @ views["last"][:-1] + views["last"][-1]


def _step(net: _Network, features: _Features, position: Tensor, guide: Tensor, share: Tensor, source: Tensor) -> Tensor:
    """The mean absolute difference between block means and source; its gradients are left in the network."""
    views, slopes = net.views, net.slopes
    narrow = _narrow(views, position, guide)
    middle = features.forward(views, narrow).relu_()
    difference = (_values(views, middle).view_as(share) * share).sum(1) - source
    grad = (difference.sign() / len(source))[:, None].mul(share).view(-1, 1)
    slopes["last"][-1] = grad.sum()
    torch.mm(middle.t(), grad, out=slopes["last"][:-1, None])
    grad = torch.where(middle > 0, grad * views["last"][:-1], 0.0)
    slopes["middle"][:] = grad.sum(0)
    grad = torch.where(narrow > 0, features.backward(views, slopes, narrow, grad), 0.0)[:, 1:-1]
    for name, inputs, part in zip(("position", "guide"), (position, guide), grad.chunk(2, 1), strict=True):
        torch.mm(inputs.t(), part, out=slopes[name][:-1])
        slopes[name][-1] = part.sum(0)
    return difference.abs().mean()


@torch.no_grad()
def _optimise(net: _Network, blocks: _Blocks, settings: P2pSettings, draw: torch.Generator) -> None:
    optimiser, batches = net.optimiser(settings), blocks.batches(settings.batch, draw)
    features = _Features(min(settings.batch, len(blocks.source)) * blocks.share.shape[1], net.views["wide"])
    for step in range(settings.steps):
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * settings.rate(step)
        loss = _step(net, features, *next(batches))
        optimiser.step()
        looked_at = (step + 1) % _CHECK == 0 or step + 1 == settings.steps
        if looked_at and not math.isfinite(float(loss)):
            raise TileError(f"the fit diverged before step {step + 1}; use a lower learning_rate")
