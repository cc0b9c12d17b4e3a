"""CMSR's network and how it is fitted; `geosr.methods.cmsr_settings` has its settings.

A father is a part of the source (or of an earlier stage's answer), its son the same taken down by the stage's factor.
The network sees the son, interpolated, and the guide over it, and is to give the father. That teaches it what the
guide says of the source a scale down; in the up-sampling scheme the father is the interpolated source and the guide is
seen at its own scale. Then the stage's answer is predicted and becomes the next one's source.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geosr.device import deterministic, generator
from geosr.errors import TileError, UsageError
from geosr.methods.base import FloatArray, Patch, State, tell_share
from geosr.methods.cmsr_settings import CmsrSettings
from geosr.methods.deformation import Deformation, grid, look

_GUIDE_WIDTHS = (4, 8, 16, 16, 16, 8, 4)
_INITIAL_VARIANCE = {"sum": 0.1, "concat": 1.0}
"""Of a layer's weights, times its inputs. With the published 0.1 eight layers let 1e-5 of a signal through, and a guide
among the inputs is heard late: on a Middlebury sample 200 steps came to an RMSE of 2.25, with 1.0 to 1.68."""

_AS_IS, _AFFINE = 0.05, 0.5
"""Shares of the steps that see a father as it lies, and through a random affine map; the rest flip and rotate it."""

_SMALLEST, _STRETCH, _SHEAR = 0.5, 0.25, 0.1
"""Of those maps: how far they shrink, and standard deviations of their anisotropy and shear."""

_WINDOW, _LOOK, _LEAST_RATE = 256, 60, 0.09
"""Of the `plateau` schedule: steps that a line is laid through, steps between two looks, least share of the rate."""

_CHECK = 64
"""Steps between two looks at whether the loss is still finite."""


def factors(scale: int) -> list[int]:
    """The stages' factors: the scale's prime factors, the smallest first."""
    for factor in range(2, scale + 1):
        if scale % factor == 0:
            return [factor, *factors(scale // factor)]
    return []


def fit(patches: Sequence[Patch], settings: CmsrSettings, seed: int, device: str) -> State:
    """Fit one network to the patches, stage by stage.

    Raises:
        UsageError: the patches differ in their number of guide bands or in scale.
        TileError: the loss is not finite, or the memory does not suffice.
    """
    kinds = {(len(patch.guide), patch.scale) for patch in patches}
    if len(kinds) != 1:
        raise UsageError(f"patches to fit have {sorted(kinds)} guide bands and scales; they must all have the same")
    ((bands, scale),) = kinds
    with deterministic(device):
        draw = generator(seed)
        net = _Network(bands, settings, patches[0].source.shape, draw).to(device)
        scenes = [_Scene.of(patch, device) for patch in patches]
        state: State = {}
        for stage, factor in enumerate(factors(scale)):
            if stage:
                for scene in scenes:
                    scene.answers.append(_answer(net, scene, settings, factors(scale)[stage - 1]))
            for share in _optimise(net, scenes, settings, factor, draw):
                tell_share((stage + share) / len(factors(scale)))
            state |= {f"{stage}.{name}": array.cpu().numpy().copy() for name, array in net.state_dict().items()}
        return state


def predict(patch: Patch, state: State, settings: CmsrSettings, device: str) -> FloatArray:
    """The answer on the patch's high grid; nothing but the last back-projection makes it consistent."""
    with deterministic(device):
        net, scene = _Network(len(patch.guide), settings, patch.source.shape, generator(0)), _Scene.of(patch, device)
        net = net.to(device)
        for stage, factor in enumerate(factors(patch.scale)):
            own = {name: array for name, array in state.items() if name.startswith(f"{stage}.")}
            net.load_state_dict({name.partition(".")[2]: torch.from_numpy(array) for name, array in own.items()})
            scene.answers.append(_answer(net, scene, settings, factor))
        return cast(FloatArray, scene.answers[-1].image[0].cpu().numpy())


def displacement(patch: Patch, state: State, settings: CmsrSettings) -> FloatArray:
    """(h, w, 2) float32: how far along columns and rows, in source pixels, the guide was looked for elsewhere."""
    rows, cols = patch.source.shape
    last = len(factors(patch.scale)) - 1
    deform = Deformation((rows, cols), settings.points)
    deform.load_state_dict({name: torch.from_numpy(state[f"{last}.deform.{name}"]) for name in ("affine", "spline")})
    places = grid(rows, cols, "cpu")
    with torch.no_grad():
        return cast(FloatArray, ((deform(places) - places) / deform.unit).numpy())


class _Network(nn.Module):
    """What is added to the interpolated son, and the guide's deformation.

    As published, two branches, one of which sees the son and the other one the guide; or one that sees both.
    """

    def __init__(self, bands: int, settings: CmsrSettings, shape: tuple[int, ...], draw: torch.Generator) -> None:
        super().__init__()
        concat, variance = settings.fusion == "concat", _INITIAL_VARIANCE[settings.fusion]
        widths = [1 + bands * concat, *([settings.channels] * (settings.layers - 1)), 1]
        self.source = _layers(widths, [3] * settings.layers, variance, draw)
        self.guide = None if concat else _layers([bands, *_GUIDE_WIDTHS, 1], [3] * 5 + [1] * 3, variance, draw)
        self.deform = Deformation((shape[0], shape[1]), settings.points)
        self.deform.requires_grad_(settings.deformation != "none")
        self.deform.spline.requires_grad_(settings.deformation == "smooth")

    def forward(self, son: Tensor, guide: Tensor, covered: Tensor) -> tuple[Tensor, ...]:
        """Answers (1, h, w), the last of which counts, from (1, h, w) and (bands, h, w).

        The guide is used as far as it covers a pixel. Of two branches the first answer is the source branch's alone,
        and the guide branch learns from the second what that one leaves.
        """
        if self.guide is None:
            return (son + self.source(torch.cat((son, covered * guide))[None])[0],)
        alone = son + self.source(son[None])[0]
        return alone, alone.detach() + covered * self.guide(guide[None])[0]

    def see(self, guide: Tensor, covered: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """The deformed guide at places, and how far it is valid there."""
        if self.deform.affine.requires_grad:
            places = self.deform(places)
        return look(guide, places), look(covered, places, "zeros").detach()

    def optimiser(self, settings: CmsrSettings) -> torch.optim.Adam:
        """Adam with the deformation's own rates."""
        rates = (
            (settings.learning_rate, [*self.source.parameters(), *(self.guide.parameters() if self.guide else ())]),
            (settings.affine_rate, [self.deform.affine]),
            (settings.smooth_rate, [self.deform.spline]),
        )
        return torch.optim.Adam([{"params": own, "lr": rate} for rate, own in rates if own[0].requires_grad])


def _layers(widths: Sequence[int], sizes: Sequence[int], variance: float, draw: torch.Generator) -> nn.Sequential:
    """Convolutions without biases, ReLU between them; edges repeated, for zeros would frame every tile."""
    layers: list[nn.Module] = []
    for before, after, size in zip(widths, widths[1:], sizes, strict=False):
        layer = nn.Conv2d(before, after, size, padding=size // 2, padding_mode="replicate", bias=False)
        with torch.no_grad():
            layer.weight.normal_(0, math.sqrt(variance / (before * size**2)), generator=draw)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@dataclass(frozen=True)
class _Image:
    """A source, an answer, or one interpolated.

    Attributes:
        image: (1, h, w).
        valid: (1, h, w), 0 or 1.
        level: pixels to one of the source along a side.
    """

    image: Tensor
    valid: Tensor
    level: int

    @property
    def sides(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.image.shape[1], self.image.shape[2]

    def up(self, factor: int) -> _Image:
        """Interpolated."""
        valid = F.interpolate(self.valid[None], scale_factor=factor, mode="nearest")[0]
        return _Image(_up(self.image, factor), valid, self.level * factor)


@dataclass(frozen=True)
class _Scene:
    """A patch on the device.

    Attributes:
        guide, covered: by level, (bands, h, w) the guide's means and (1, h, w) the share of it that is valid.
        answers: the source, then each stage's answer.
    """

    guide: dict[int, Tensor]
    covered: dict[int, Tensor]
    answers: list[_Image]

    @classmethod
    def of(cls, patch: Patch, device: str) -> _Scene:
        guide = torch.from_numpy(patch.guide.copy()).to(device)
        covered = torch.from_numpy(patch.guide_valid[None].astype(np.float32)).to(device)
        source = torch.from_numpy(patch.source[None].copy()).to(device)
        valid = torch.from_numpy(patch.source_valid[None].astype(np.float32)).to(device)
        levels = np.cumprod([1, *factors(patch.scale)]).tolist()
        guides, shares = (
            {level: F.avg_pool2d(image, patch.scale // level) for level in levels} for image in (guide, covered)
        )
        return cls(guides, shares, [_Image(source, valid, 1)])


def _up(image: Tensor, factor: int) -> Tensor:
    return F.interpolate(image[None], scale_factor=factor, mode="bicubic", align_corners=False)[0]


def _down(image: Tensor, factor: int, kernel: str) -> Tensor:
    if kernel == "mean":
        return F.avg_pool2d(image, factor)
    size = image.shape[1] // factor, image.shape[2] // factor
    return F.interpolate(image[None], size=size, mode="bicubic", align_corners=False, antialias=True)[0]


def _optimise(
    net: _Network, scenes: Sequence[_Scene], settings: CmsrSettings, factor: int, draw: torch.Generator
) -> Iterator[float]:
    """A stage's steps; after each, what share of them is done."""
    optimiser, losses = net.optimiser(settings), list[Tensor]()
    full = [group["lr"] for group in optimiser.param_groups]
    raised = [scene.answers[-1].up(factor) for scene in scenes]
    for rate in _rates(settings, losses):
        for group, own in zip(optimiser.param_groups, full, strict=True):
            group["lr"] = own * rate
        which = int(torch.randint(len(scenes), (), generator=draw))
        father = _father(scenes[which], raised[which], settings.upsampling, factor, draw)
        optimiser.zero_grad()
        loss = _loss(net, scenes[which], father, settings, factor, draw)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(loss.detach())
        if (len(losses) % _CHECK == 0 or len(losses) == settings.steps) and not math.isfinite(float(losses[-1])):
            raise TileError(f"the fit diverged before step {len(losses)}; use a lower learning_rate")
        yield len(losses) / settings.steps


def _rates(settings: CmsrSettings, losses: Sequence[Tensor]) -> Iterator[float]:
    """For each step the share of the learning rates; `losses` are those of the steps so far.

    A plateau is where the losses' fall over the last 256 steps cannot be told from chance.
    """
    rate, since = 1.0, 0
    for step in range(settings.steps):
        if settings.schedule == "cosine":
            rate = 0.5 * (1 + math.cos(math.pi * step / settings.steps))
        elif step % _LOOK == 0 and step - since >= _WINDOW and _is_flat(torch.stack([*losses[-_WINDOW:]])):
            rate, since = rate / 10, step
            if rate < _LEAST_RATE:
                return
        yield rate


def _is_flat(losses: Tensor) -> bool:
    """Whether 1.5 times the fall of a line through them is less than its standard error."""
    values = losses.double().cpu().numpy()
    (slope, _), covariance = np.polyfit(np.arange(len(values)), values, 1, cov=True)
    return bool(-1.5 * slope < math.sqrt(covariance[0, 0]))


def _father(scene: _Scene, raised: _Image, upsampling: float, factor: int, draw: torch.Generator) -> _Image:
    """What a step learns from: the source interpolated, or the source or an answer that has pixels enough."""
    large = [answer for answer in scene.answers if min(answer.sides) >= factor]
    chance, which = torch.rand(2, generator=draw).tolist()
    return raised if chance < upsampling or not large else large[int(which * len(large))]


def _loss(
    net: _Network, scene: _Scene, father: _Image, settings: CmsrSettings, factor: int, draw: torch.Generator
) -> Tensor:
    """Mean absolute difference from the father where it is valid, of all the network's answers."""
    side = min(settings.crop, *father.sides) // factor * factor
    places = _view(father, side, draw)
    truth, valid = look(father.image, places), look(father.valid, places, "zeros") > 0.999
    son = _up(_down(truth, factor, settings.kernel), factor)
    answers = torch.stack(net(son, *net.see(scene.guide[father.level], scene.covered[father.level], places)))
    return ((answers - truth).abs() * valid).sum() / valid.sum().clamp(min=1)


def _view(father: _Image, side: int, draw: torch.Generator) -> Tensor:
    """(side, side, 2) places of a random part of the father, as it lies, turned and mirrored, or through an affine map.

    Its centre is next to a random valid pixel.
    """
    kind, mirror, turn, shrink = torch.rand(4, generator=draw).tolist()
    stretch, *shear = torch.randn(3, generator=draw).tolist()
    matrix = np.eye(2)
    if kind >= 1 - _AFFINE:
        least = min(1.0, max(_SMALLEST, side / min(father.sides)))
        scale, differ = least + shrink * (1 - least), _STRETCH * stretch / 2
        skew = np.array([[1, _SHEAR * shear[0]], [_SHEAR * shear[1], 1]])
        matrix = np.diag([1 / max(scale + differ, _SMALLEST), 1 / max(scale - differ, _SMALLEST)]) @ skew
    if kind >= _AS_IS:
        angle = 2 * math.pi * turn if kind >= 1 - _AFFINE else math.pi / 2 * int(4 * turn)
        matrix = _turn(angle) @ matrix @ np.diag([-1 if mirror < 0.5 else 1, 1])
    size = np.array(father.sides[::-1])
    centre = _near(father, np.abs(matrix).sum(1) * side / 2, side / 2 % 1, draw)
    offsets = grid(side, side, father.image.device.type) * (side / 2)
    to_place = torch.from_numpy(2 / size[:, None] * matrix).float().to(offsets.device)
    return offsets @ to_place.t() + torch.from_numpy(2 * centre / size - 1).float().to(offsets.device)


def _turn(angle: float) -> np.ndarray:
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, -sin], [sin, cos]])


def _near(father: _Image, reach: np.ndarray, fraction: float, draw: torch.Generator) -> np.ndarray:
    """A centre (x, y) in pixels such that, where there is room, nothing within `reach` of it lies outside.

    Its fraction of a pixel is such that a part that is only turned lies on the father's own pixels.
    """
    known = father.valid[0].flatten().nonzero()[:, 0]
    row, col = divmod(int(known[int(torch.randint(len(known), (), generator=draw))]), father.sides[1])
    size = np.array(father.sides[::-1])
    wanted = np.array([col, row]) + fraction
    return np.where(2 * reach < size, np.clip(wanted, reach, size - reach), size / 2)


@torch.no_grad()
def _answer(net: _Network, scene: _Scene, settings: CmsrSettings, factor: int) -> _Image:
    """A stage's answer: the median of what the network makes of the last one, flipped and turned."""
    before, raised = scene.answers[-1], scene.answers[-1].up(factor)
    places = grid(*raised.sides, raised.image.device.type)
    guide, covered = net.see(scene.guide[raised.level], scene.covered[raised.level], places)
    answers = []
    for way in range(settings.ensemble):
        seen = net(*(_flip(image, way) for image in (raised.image, guide, covered)))[-1]
        answers.append(_back_project(_unflip(seen, way), before, settings))
    ordered = torch.stack(answers).sort(0).values
    median = (ordered[(settings.ensemble - 1) // 2] + ordered[settings.ensemble // 2]) / 2
    return _Image(_back_project(median, before, settings), raised.valid, raised.level)


def _flip(image: Tensor, way: int) -> Tensor:
    """One of the eight: quarter turns, from the fifth on mirrored after them."""
    turned = image.rot90(way % 4, (1, 2))
    return turned.flip(2) if way >= 4 else turned


def _unflip(image: Tensor, way: int) -> Tensor:
    return (image.flip(2) if way >= 4 else image).rot90(-(way % 4), (1, 2))


def _back_project(image: Tensor, before: _Image, settings: CmsrSettings) -> Tensor:
    """What the answer, taken down, lacks of what it was made from, interpolated and added; several rounds."""
    factor = image.shape[1] // before.sides[0]
    for _ in range(settings.back_projections):
        image = image + _up((before.image - _down(image, factor, settings.kernel)) * before.valid, factor)
    return image
