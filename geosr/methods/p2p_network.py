"""P2P's network and how it is fitted; `geosr.methods.p2p_settings` has its settings.

The network looks at one output pixel at a time: 66 numbers of two small layers, 2048 features, 32, one value. What
takes the time is the wide layer, so a step is written out by hand: one matrix product where the published network has
two and their sum, gradients of its weights and biases in one product more, no patches cut or copied, all weights in one
piece of memory for Adam. Features that are zero at every pixel of a step are left out of all that follows them, which
is exact: their part of every sum is zero. Weight decay makes them many: on a canopy pair 11 % of the features of the
paper's preset were at first zero throughout a step, 71 % after 4000 steps, 94 % after 20 000. The formulas are those of
the published network to the last term.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from geosr.device import deterministic, generator
from geosr.errors import TileError
from geosr.methods.base import FloatArray, Patch, State, tell_share
from geosr.methods.p2p_settings import P2pSettings

_PIXELS = 1024
"""Pixels at a time when a tile is predicted."""

_FEATURES = 256
"""Wide features at a time: half a megabyte for a batch at x4, which the cache holds."""

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
        values = inputs[0].new_empty(patch.guide_valid.size)
        # kept for all parts: allocated each time, between the small ones, the memory was torn and grew by up to 300 MB
        room = values.new_empty(len(views["wide"]) * min(_PIXELS, len(values)))
        for place, part in zip(torch.split(values, _PIXELS), zip(*parts, strict=True), strict=True):
            place.copy_(_values(views, room, *part))
        return cast(FloatArray, values.reshape(patch.guide_valid.shape).cpu().numpy())


def _values(views: dict[str, Tensor], room: Tensor, position: Tensor, guide: Tensor) -> Tensor:
    """(n,), from (n, 2) and (n, bands); `room` (hidden * n or more) is for the wide features."""
    narrow = _narrow(views, position, guide)
    shape = len(views["wide"]), len(narrow)
    active, features = _active(views["wide"], narrow, room[: math.prod(shape)].view(shape))
    return _head(views, views["head"][active], features)[1]


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
    """Weights, their gradients and their decays, each kind in one piece of memory, seen as matrices.

    Attributes:
        weights, gradients, decays: all of them, one after the other.
        views: the matrices in `weights`: `position` (3, 32), `guide` (bands + 1, 32) and `last` (33,), each with its
            biases in the last row; `wide` (hidden, 66), of which the first and the last column are the biases of the
            position's and the guide's half; `head` (hidden, 32) and its biases `middle` (32,).
        slopes: the same matrices in `gradients`.
    """

    weights: Tensor
    gradients: Tensor
    decays: Tensor
    views: dict[str, Tensor]
    slopes: dict[str, Tensor]

    @classmethod
    def create(cls, bands: int, settings: P2pSettings, draw: torch.Generator, device: str) -> _Network:
        """With torch's usual initial weights, drawn from a generator of its own."""
        narrow, hidden = settings.channels, settings.hidden
        fans = {"position": 2, "wide": narrow, "guide": bands, "head": hidden, "middle": hidden, "last": narrow}
        shapes = {
            "position": (3, narrow),
            "wide": (2 * narrow + 2, hidden),
            "guide": (bands + 1, narrow),
            "head": (hidden, narrow),
            "middle": (narrow,),
            "last": (narrow + 1,),
        }
        drawn = {
            name: torch.empty(shape).uniform_(-(fans[name] ** -0.5), fans[name] ** -0.5, generator=draw)
            for name, shape in shapes.items()
        }
        drawn["wide"] = drawn["wide"].t()
        decays = {name: torch.full_like(part, settings.head_decay) for name, part in drawn.items()}
        decays["position"][:] = decays["wide"][:, : narrow + 1] = settings.position_decay
        decays["guide"][:] = decays["wide"][:, narrow + 1 :] = settings.guide_decay
        weights, decay = (torch.cat([part.flatten() for part in kind.values()]).to(device) for kind in (drawn, decays))
        gradients = torch.zeros_like(weights)
        sizes = [part.numel() for part in drawn.values()]
        views, slopes = (
            {name: part.view(drawn[name].shape) for name, part in zip(drawn, torch.split(flat, sizes), strict=True)}
            for flat in (weights, gradients)
        )
        return cls(weights, gradients, decay, views, slopes)

    def optimiser(self, settings: P2pSettings) -> torch.optim.Adam:
        """Adam on all weights; the gradients have the weight decay already."""
        self.weights.grad = self.gradients
        return torch.optim.Adam([self.weights], lr=settings.learning_rate, fused=True)


def _narrow(views: dict[str, Tensor], position: Tensor, guide: Tensor) -> Tensor:
    """(n, 66): the two small layers, with a column of ones for the biases of each half of the wide one."""
    ones = position.new_ones(len(position), 1)
    near = torch.addmm(views["position"][-1], position, views["position"][:-1])
    seen = torch.addmm(views["guide"][-1], guide, views["guide"][:-1])
    return torch.cat((ones, near.relu_(), seen.relu_(), ones), 1)


def _active(wide: Tensor, narrow: Tensor, room: Tensor) -> tuple[Tensor, Tensor]:
    """(m,) indices and (m, n) values, in `room` (hidden, n), of the wide features not zero at all of the n pixels."""
    indices, count = [], 0
    for start in range(0, len(wide), _FEATURES):
        values = torch.mm(wide[start : start + _FEATURES], narrow.t()).relu_()
        active = values.amax(1).nonzero()[:, 0]
        torch.index_select(values, 0, active, out=room[count : count + len(active)])
        indices.append(active + start)
        count += len(active)
    return torch.cat(indices), room[:count]


def _head(views: dict[str, Tensor], head: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    """(32, n) what follows the wide features, and (n,) the network's values."""
    middle = torch.addmm(views["middle"][:, None], head.t(), features).relu_()
    return middle, views["last"][:-1] @ middle + views["last"][-1]


def _step(net: _Network, rooms: Tensor, position: Tensor, guide: Tensor, share: Tensor, source: Tensor) -> Tensor:
    """The mean absolute difference between block means and source.

    Its gradients and those of the weight decay are left in the network. `rooms` (2, hidden * n or more) is for the wide
    features and their gradient: memory allocated each time costs more than what is computed in it.
    """
    views, slopes = net.views, net.slopes
    narrow = _narrow(views, position, guide)
    shape = len(views["wide"]), len(narrow)
    room, second = rooms[:, : math.prod(shape)].view(2, *shape)
    active, features = _active(views["wide"], narrow, room)
    wide, head = views["wide"][active], views["head"][active]
    middle, values = _head(views, head, features)
    difference = (values.view_as(share) * share).sum(1) - source

    torch.mul(net.weights, net.decays, out=net.gradients)
    grad = ((difference.sign() / len(source))[:, None] * share).flatten()
    slopes["last"][:-1].addmv_(middle, grad)
    slopes["last"][-1] += grad.sum()
    grad = _where_positive(views["last"][:-1, None] * grad, middle)
    slopes["middle"] += grad.sum(1)
    slopes["head"].index_add_(0, active, features @ grad.t())
    grad = _where_positive(torch.mm(head, grad, out=second[: len(active)]), features)
    slopes["wide"].index_add_(0, active, grad @ narrow)
    grad = _where_positive((wide.t() @ grad).t().contiguous(), narrow)[:, 1:-1]
    for name, inputs, part in zip(("position", "guide"), (position, guide), grad.chunk(2, 1), strict=True):
        slopes[name][:-1].addmm_(inputs.t(), part)
        slopes[name][-1] += part.sum(0)
    return difference.abs().mean()


def _where_positive(grad: Tensor, values: Tensor) -> Tensor:
    """`grad`, itself set to zero where a ReLU's `values` are; `torch.where` takes five times as long."""
    torch.ops.aten.threshold_backward.grad_input(grad, values, 0, grad_input=grad)
    return grad


@torch.no_grad()
def _optimise(net: _Network, blocks: _Blocks, settings: P2pSettings, draw: torch.Generator) -> None:
    optimiser, batches = net.optimiser(settings), blocks.batches(settings.batch, draw)
    pixels = min(settings.batch, len(blocks.source)) * blocks.share.shape[1]
    rooms = net.weights.new_empty(2, settings.hidden * pixels)
    for step in range(settings.steps):
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * settings.rate(step)
        loss = _step(net, rooms, *next(batches))
        optimiser.step()
        looked_at = (step + 1) % _CHECK == 0 or step + 1 == settings.steps
        if looked_at and not math.isfinite(float(loss)):
            raise TileError(f"the fit diverged before step {step + 1}; use a lower learning_rate")
        tell_share((step + 1) / settings.steps)
