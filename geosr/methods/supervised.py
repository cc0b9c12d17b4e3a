"""Networks that are trained on pairs with a truth: made from a card, applied to patches, trained step by step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from geosr.device import deterministic, generator
from geosr.errors import InputError, TileError
from geosr.methods.base import BoolArray, FloatArray, Patch
from geosr.methods.dkn_network import Dkn, Fdkn
from geosr.methods.fdsr_network import Fdsr
from geosr.methods.solve import interpolate
from geosr.methods.training_settings import TrainingSettings
from geosr.methods.weights import Arrays, Card, WeightsFile, read_arrays
from geosr.raster_guard import show

_NETWORKS: dict[str, type[Fdsr | Fdkn | Dkn]] = {"fdsr": Fdsr, "fdkn": Fdkn, "dkn": Dkn}

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What Adam keeps of each weight."""


@dataclass(frozen=True)
class Example:
    """A tile with its truth, normalised as a run normalises it.

    Attributes:
        patch: what the method sees.
        start: (H, W) float32, the interpolated source.
        truth: (H, W) float32, finite everywhere.
        known: (H, W) bool, where the truth is known and the guide is there: only these pixels are learnt from.
    """

    patch: Patch
    start: FloatArray
    truth: FloatArray
    known: BoolArray


def make_example(patch: Patch, truth: NDArray[np.floating]) -> Example:
    """An example of a normalised patch and a normalised truth, NaN where unknown."""
    known = np.isfinite(truth)
    values = np.where(known, truth, 0).astype(np.float32)
    return Example(patch, interpolate(patch.source, patch.scale), values, known & patch.guide_valid)


def predict(file: WeightsFile, patch: Patch, device: str) -> FloatArray:
    """The network's values on the patch's high grid."""
    with deterministic(device):
        return apply(_loaded(file, device), patch, device)


@lru_cache(maxsize=4)
def _loaded(file: WeightsFile, device: str) -> nn.Module:
    """The network with the file's weights, once a process and device."""
    network = _empty(file.card)
    weights = {name: torch.from_numpy(array.copy()) for name, array in read_arrays(file).items()}
    wanted, wrong = network.state_dict(), f"{show(file.path)}: its weights are not those of the network on its card"
    try:
        network.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise InputError(wrong) from error
    if any(weights[name].dtype != value.dtype for name, value in wanted.items()):
        raise InputError(wrong)
    return network.to(device).eval()


def _empty(card: Card) -> nn.Module:
    """The network without values: layers would draw theirs from torch's global generator."""
    with torch.device("meta"):
        return _NETWORKS[card.method](card.bands, **card.network)


@torch.no_grad()
def apply(network: nn.Module, patch: Patch, device: str) -> FloatArray:
    """A network's values for a patch of any size: edges are repeated up to whole blocks of the network's."""
    block = cast(int, network.block)
    rows, cols = patch.guide_valid.shape
    beyond = (0, -cols % block, 0, -rows % block)
    maps = (patch.guide, interpolate(patch.source, patch.scale)[None])
    guide, start = (F.pad(torch.from_numpy(m.copy())[None], beyond, mode="replicate").to(device) for m in maps)
    return cast(FloatArray, network(guide, start)[0, 0, :rows, :cols].float().cpu().numpy())


class Trainer:
    """A network and its optimiser. Step k is a function of both and of the examples, the seed and k: it has no past.

    Raises:
        TileError: `loss` is asked for and the training has diverged.
    """

    def __init__(self, card: Card, settings: TrainingSettings, seed: int, device: str) -> None:
        self._settings, self._seed, self._device = settings, seed, device
        self.network = _initial(card, generator(seed)).to(device)
        self._optimiser = torch.optim.Adam(self.network.parameters(), lr=settings.learning_rate)
        self._sum, self._count = torch.zeros((), device=device), 0

    def step(self, number: int, examples: Sequence[Example]) -> None:
        """One step of Adam on the mean absolute error, in mixed precision on a GPU."""
        guide, start, truth, known = self._draw(number, examples)
        self.network.train()
        for group in self._optimiser.param_groups:
            group["lr"] = self._settings.rate(number)
        self._optimiser.zero_grad()
        with deterministic(self._device):
            with torch.autocast(self._device, torch.bfloat16, enabled=self._device == "cuda"):
                made = self.network(guide, start)
            loss = ((made.float() - truth).abs() * known).sum() / known.sum().clamp(min=1)
            loss.backward()
            self._optimiser.step()
        self._sum, self._count = self._sum + loss.detach(), self._count + 1

    def loss(self) -> float:
        """Mean over the steps since it was asked for last.

        Raises:
            TileError: it is not finite.
        """
        mean = float(self._sum) / max(self._count, 1)
        self._sum, self._count = torch.zeros((), device=self._device), 0
        if not math.isfinite(mean):
            raise TileError("the training diverged: the loss is not finite; use a lower learning_rate")
        return mean

    def weights(self) -> Arrays:
        """The network's, as they are stored."""
        return {name: value.cpu().numpy().copy() for name, value in self.network.state_dict().items()}

    def arrays(self) -> Arrays:
        """Everything that the next step depends on."""
        kept = self._optimiser.state_dict()["state"]
        moments = {f"adam/{i}/{name}": kept[i][name].cpu().numpy().copy() for i in kept for name in _MOMENTS}
        return moments | {f"network/{name}": array for name, array in self.weights().items()}

    def restore(self, arrays: Arrays) -> None:
        """Go on from what `arrays` gave."""
        tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
        prefix = "network/"
        self.network.load_state_dict({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
        state = self._optimiser.state_dict()
        state["state"] = {
            i: {name: tensors[f"adam/{i}/{name}"] for name in _MOMENTS}
            for i in range(len([*self.network.parameters()]))
            if f"adam/{i}/step" in tensors
        }
        self._optimiser.load_state_dict(state)

    def _draw(self, number: int, examples: Sequence[Example]) -> list[Tensor]:
        """Crops, drawn by the seed and the step's number alone: (n, C, side, side) each."""
        rng = np.random.default_rng([self._seed, number])
        crops = [self._crop(examples[int(rng.integers(len(examples)))], rng) for _ in range(self._settings.batch)]
        return [torch.from_numpy(np.stack(maps)).to(self._device) for maps in zip(*crops, strict=True)]

    def _crop(self, example: Example, rng: np.random.Generator) -> list[FloatArray]:
        """Guide, start, truth and known of one crop, mirrored and turned if that is asked for."""
        scale, shape = example.patch.scale, example.patch.source.shape
        side = crop_side(self._settings, scale, cast(int, self.network.block)) // scale
        row, col = (int(rng.integers(length - side + 1)) * scale for length in shape)
        part = slice(row, row + side * scale), slice(col, col + side * scale)
        known = example.known[part].astype(np.float32)
        maps = [example.patch.guide[:, *part], *(m[None] for m in (example.start[part], example.truth[part], known))]
        if self._settings.augment:
            turns, mirror = int(rng.integers(4)), bool(rng.integers(2))
            maps = [np.rot90(m[:, ::-1] if mirror else m, turns, (1, 2)) for m in maps]
        return [np.ascontiguousarray(m) for m in maps]


def block_of(method: str) -> int:
    """Pixels a side of the blocks that a method's network works on."""
    return _NETWORKS[method].block


def crop_side(settings: TrainingSettings, scale: int, block: int) -> int:
    """A crop's side in output pixels: whole source pixels and whole blocks of the network's."""
    unit = math.lcm(scale, block)
    return max(settings.crop // unit, 1) * unit


def _initial(card: Card, draw: torch.Generator) -> nn.Module:
    """The network with torch's usual initial weights, drawn from a generator of its own."""
    network = _empty(card).to_empty(device="cpu")
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            bound = 1 / math.sqrt(module.weight[0].numel())
            with torch.no_grad():
                module.weight.uniform_(-bound, bound, generator=draw)
                if module.bias is not None:
                    module.bias.uniform_(-bound, bound, generator=draw)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    return network
