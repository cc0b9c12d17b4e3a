"""How MMSR's network is fitted to patches, and what it then answers.

One network is fitted to some patches, or one to each of them at once, in step: see `geosr.methods.mmsr_network`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import reduce
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from geosr.device import deterministic, generator, torch_threads
from geosr.errors import TileError, UsageError
from geosr.methods.base import FloatArray, Patch, State, tell_share
from geosr.methods.mmsr_batch import Batch, Look
from geosr.methods.mmsr_network import Conv, Network, build
from geosr.methods.mmsr_settings import MmsrSettings
from geosr.methods.muon import Muon
from geosr.methods.recorded import Recorded

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
        net = build(bands.pop(), settings, [seed]).to(device)
        batches = [Batch.of([patch], device) for patch in patches]
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
        net = build(len(patches[0].guide), settings, seeds).to(device)
        return _optimise(net, [Batch.of(patches, device)], settings, seeds, enough, at_once)


def predict(patch: Patch, state: State, settings: MmsrSettings, device: str) -> FloatArray:
    """The network's answer on the patch's high grid; nothing is projected or refined here."""
    with deterministic(device):
        net = build(len(patch.guide), settings, seeds=[0])
        net.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
        (values,) = _answer(net.to(device), Batch.of([patch], device))
        return values


@torch.no_grad()
def _answer(net: Network, batch: Batch) -> list[FloatArray]:
    return [*net(batch.guide, batch.levels)[:, 0].float().cpu().numpy()]  # bfloat16 under autocast


def _optimise(
    net: Network,
    batches: list[Batch],
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


def _loss(net: Network, batch: Batch) -> Tensor:
    """(T,): mean absolute difference between pooled predictions and sources, over valid source pixels.

    What lies under the others has no influence, not even a NaN.
    """
    prediction = net(batch.guide, batch.levels)
    difference = (F.avg_pool2d(prediction, batch.scale) - batch.source).abs()
    return torch.where(batch.valid, difference, 0.0).sum((1, 2, 3)) / batch.valid.sum((1, 2, 3)).clamp(min=1)


class _Step:
    """A step of the optimisers on the mean loss of some batches: on whole patches, or on a random square of each.

    Attributes:
        rate: how many times as long it is as one on a single batch: as long as those that it stands for.
    """

    def __init__(
        self,
        net: Network,
        batches: Sequence[Batch],
        crop: int,
        optimisers: Sequence[torch.optim.Optimizer],
        at_once: AtOnce,
    ) -> None:
        self._net, self._optimisers, self._at_once = net, optimisers, at_once
        self._parameters = [*net.parameters()]
        self._looks = [Look(batch, crop) for batch in batches]
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

    def _gradients(self, look: Look) -> tuple[Tensor, tuple[Tensor, ...]]:
        """A batch's share of the mean loss, by tile, and its gradients."""
        losses = _loss(self._net, look.seen()) / len(self._looks)
        return losses.detach(), torch.autograd.grad(losses.sum(), self._parameters)


def _alike(parameter: Tensor, gradient: Tensor) -> Tensor:
    """A gradient in the order in which the parameter lies in memory, as the optimisers' kernels expect it."""
    images = parameter.dim() == 4
    return gradient.contiguous(memory_format=torch.channels_last if images else torch.contiguous_format)


AtOnce = Callable[[Callable[[Look], Any], Sequence[Look]], Iterable[Any]]
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


def _state(net: Network, tile: int, tiles: int) -> State:
    values = {name: value.chunk(tiles)[tile] for name, value in net.state_dict().items()}
    return {name: value.detach().cpu().numpy().copy() for name, value in values.items()}


def _optimisers(net: Network, settings: MmsrSettings) -> list[torch.optim.Optimizer]:
    """Adam; or Muon for the matrices between features, and Adam for biases, first and last layers."""
    between = {
        id(layer.weight) for layer in net.modules() if isinstance(layer, Conv) and layer.joins(settings.channels)
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
