"""Does the guide tell where the source's edges are? Judged on the pair itself, one scale lower.

Pooled by the scale the guide lies on the source's own grid, and the pooled source is a source whose truth is known
(Wald, Ranchin and Mangolini 1997). No truth of the user's is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from geosr.consistency import Consistency, blocks_of, confine, pool, project, spread
from geosr.methods.base import BoolArray, FloatArray, Patch
from geosr.methods.diffusion_settings import MILD, DiffusionSettings
from geosr.methods.diffusion_solver import diffuse
from geosr.methods.solve import interpolate

_FEWEST = 32
"""Source pixels that must be left one scale lower; with fewer the test is chance."""

_LIMITS = {4: (0.9, 0.8), 3: (0.9, 0.8), 2: (0.7, 0.6)}
"""For each step the errors of the diffusion, relative to the interpolation's, at which the guide is not believed, and
fully. What helps at the coarse scale helps less at the fine one, so a gain must be large to be believed, and larger
where the step asks for less than the scale does. The better of the two counts: a step of 4 leaves nothing of small
objects. On the eight pairs of `shared/data` with man-made edges, where the diffusion helps, one of the two always
believes fully (x2, x4, x8); where it harms, the least are 0.90 (4) and 0.705 (2, the town's heights; docs/accuracy.md).
"""

_LIMITS_AT_2 = (0.65, 0.6)
"""In place of the step's own where the scale is 2: the pairs that gain have up to 0.56, the town's heights, which the
diffusion makes 38 % worse, 0.653."""

_LIMITS_BEYOND_8 = (0.95, 0.8)
"""In place of those of step 2 there. A tile has few source pixels then, often too few for a step of 4, and a step of 2
sees little of what is smaller than a source pixel; nor does it cost much to be wrong, for the interpolation is no good
either. At x16 belief makes seven of the eight pairs with man-made edges 33 to 61 % better, which have 0.68 to 0.99, and
none of the others more than 17 % worse, which have 0.93 to 1.14 (docs/accuracy.md)."""

_NEAR = 2  # source pixels to each side whose range a value has to keep to
_SLACK = 1e-5  # standard deviations of the source: what is flat may have rounding errors

_BACK_PROJECTIONS = 3
"""Times that `back_project` adds what is missing."""


def judge_edges(patches: Sequence[Patch], settings: DiffusionSettings, device: str) -> FloatArray:
    """How far to believe the guide's edges on these patches, from 0 to 1; 0 where too little is left to tell."""
    if settings.belief == "full":
        return np.array(1, np.float32)
    if patches[0].judged:
        return np.array(patches[0].judged.belief, np.float32)
    scale = patches[0].scale
    beliefs = [
        np.clip((none - ratio) / (none - full), 0, 1)
        for step in {min(scale, 4), 2}
        if (ratio := _ratio(patches, settings, device, step)) is not None
        for none, full in [_limits(step, scale)]
    ]
    return np.array(max(beliefs, default=0), np.float32)


def _limits(step: int, scale: int) -> tuple[float, float]:
    """The ratios at which the guide is not believed, and fully."""
    if scale == 2:
        return _LIMITS_AT_2
    return _LIMITS_BEYOND_8 if scale > 8 and step == 2 else _LIMITS[step]


def _ratio(patches: Sequence[Patch], settings: DiffusionSettings, device: str, step: int) -> float | None:
    """The diffusion's error over the interpolation's one scale lower; None where nothing can be told."""
    guided = plain = 0.0
    # as many source pixels as at full size: with 3 of x8's coarse pixels, whole objects, one sample has 0.87 for 0.70
    near = replace(settings, reach=max(1, round(settings.reach * step / patches[0].scale)))
    for patch in patches:
        for low, truth, known in one_step_down(patch, (step,)):
            guided += float(((exact(diffuse(low, near, device), low) - truth)[known] ** 2).sum())
            plain += float(((exact(interpolate(low.source, low.scale), low) - truth)[known] ** 2).sum())
    return float(np.sqrt(guided / plain)) if plain else None


def judge_prediction(patches: Sequence[Patch], predict: Callable[[Patch], FloatArray], device: str) -> FloatArray:
    """What share of a fitted network's detail to take over, from 0 to 1; 0 where too little is left to tell.

    The network, as it was fitted, predicts the patches one scale lower; the share is the one with the least squared
    error between the mild diffusion (0) and that prediction (1). It was never fitted at that scale, so the share is
    rather too small: 0.3 to 1.0 on the pairs where 0.6 to 1.0 would have been best.

    Below x4 it fades where the network adds less at full size than it did there. A source that was smoothed or
    resampled has hardly any detail at its own pixels, and proves nothing about it: on the town's heights, where the
    detail is 0.29 times as large, a share of 0.75 made the answer 19 % worse than the interpolation at x2
    (docs/accuracy.md).
    """
    if patches[0].judged:
        return np.array(patches[0].judged.share, np.float32)
    along, length, pixels = _proof(patches, predict, device, (4, 2))
    share = np.clip(along / length, 0, 1) if length else 0.0
    fade = max(4 - patches[0].scale, 0) / 2
    if fade and share:
        share *= min(_detail_square(patches, predict, device) / (length / pixels), 1) ** fade
    return np.array(share, np.float32)


def proves_itself(patches: Sequence[Patch], predict: Callable[[Patch], FloatArray], device: str) -> bool:
    """Whether any share at all of a network's detail would help one scale lower, by 4 or by 2.

    For a network half fitted: with steps of 4 the orchard's heights have -0.81 after a quarter of the fit and 1.11 in
    the end (0.48 and 1.65 with steps of 2), when the answer's error is 0.85 of the interpolation's.
    """
    if patches[0].judged:
        return patches[0].judged.share > 0
    return any(_proof(patches, predict, device, (step,))[0] > 0 for step in (4, 2))


def _proof(
    patches: Sequence[Patch], predict: Callable[[Patch], FloatArray], device: str, steps: tuple[int, ...]
) -> tuple[float, float, int]:
    """How far the detail goes along what is missing one scale lower, its squares, and over how many pixels."""
    along = length = 0.0
    pixels = 0
    for patch in patches:
        for low, truth, known in one_step_down(patch, steps):
            mild, detail = (values[known] for values in _mild_and_detail(low, predict, device))
            along += float((detail * (truth[known] - mild)).sum())
            length += float((detail**2).sum())
            pixels += detail.size
    return along, length, pixels


def _mild_and_detail(
    patch: Patch, predict: Callable[[Patch], FloatArray], device: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The mild diffusion, and what the prediction adds to it."""
    mild = exact(_smooth(patch, device), patch)
    return mild, back_project(predict(patch), patch) - mild


def _detail_square(patches: Sequence[Patch], predict: Callable[[Patch], FloatArray], device: str) -> float:
    """Mean square of the detail at full size, where both source and guide are valid."""
    known = [spread(patch.source_valid, patch.scale) & patch.guide_valid for patch in patches]
    squares = sum(
        float((_mild_and_detail(patch, predict, device)[1][seen] ** 2).sum())
        for patch, seen in zip(patches, known, strict=True)
    )
    return squares / max(sum(int(seen.sum()) for seen in known), 1)


def answer(
    patch: Patch,
    settings: DiffusionSettings,
    belief: float,
    device: str,
    hint: FloatArray | None = None,
    share: float = 0.0,
) -> FloatArray:
    """The sharp diffusion's values as far as the guide's edges are believed; smooth ones for the rest.

    Those have a share of the detail that the hint (a network's prediction) adds to them.
    """
    settings = settings.for_noise(belief * patch.noise, patch.scale)
    if belief == 1:
        return keep_near(diffuse(patch, settings, device, hint), patch)
    values = _smooth(patch, device)
    if hint is not None:
        values = values + np.float32(share) * (back_project(hint, patch).astype(np.float32) - values)
    if belief > 0:
        values = values + np.float32(belief) * (diffuse(patch, settings, device, hint) - values)
    return keep_near(values, patch)


def keep_near(values: FloatArray, patch: Patch) -> FloatArray:
    """Values within the range of the 5 x 5 source pixels around each, widened by its width to both sides.

    The means over source pixels stay. What a source pixel lacks or has too much goes where it costs the diffusion
    least: to the pixel that the guide ties to its neighbours least, where it is one pixel. On a sample of values from
    73 to 189 one had -165, with a tenth of the sample's squared error in a thousandth of its pixels
    (docs/accuracy.md).
    """
    side = 2 * _NEAR + 1
    around = sliding_window_view(np.pad(patch.source.astype(np.float64), _NEAR, "edge"), (side, side))
    low, high = around.min(axis=(2, 3)), around.max(axis=(2, 3))
    room = high - low + _SLACK
    everywhere = np.ones(values.shape, bool)
    return confine(values.astype(np.float64), everywhere, patch.scale, (low - room, high + room)).astype(np.float32)


def _smooth(patch: Patch, device: str) -> FloatArray:
    """The mild diffusion's values from x4 on, the interpolated source at x2, both by halves at x3.

    At x2 a block has too few pixels to be shaped: on the ten pairs of `shared/data` whose guide is not believed the
    mild diffusion has 0.95 to 1.07 of the interpolation's error, and one scale lower does not tell where which
    (docs/accuracy.md).
    """
    share = np.float32(min(patch.scale / 2 - 1, 1))
    if share == 1:
        return diffuse(patch, MILD, device)
    values = back_project(interpolate(patch.source, patch.scale), patch).astype(np.float32)
    return values + share * (diffuse(patch, MILD, device) - values) if share else values


def exact(values: NDArray[np.floating], patch: Patch) -> NDArray[np.float64]:
    """Values projected onto the patch's source."""
    everywhere, source = np.ones(values.shape, bool), patch.source.astype(np.float64)
    return project(values.astype(np.float64), everywhere, source, patch.source_valid, Consistency(patch.tolerance))


def back_project(values: FloatArray, patch: Patch) -> NDArray[np.float64]:
    """Values projected onto the patch's source without steps between its pixels, as far as that is possible.

    Iterated back-projection (Irani and Peleg 1991): what is missing is interpolated and added, three times, before the
    constants of `exact`, which alone leave the source's pixels to be seen. The network's prediction has 0.5 to 16 %
    less error so on eight of ten pairs, as much as before on the others (docs/accuracy.md); ten times bring no more.
    """
    found, everywhere = values.astype(np.float64), np.ones(values.shape, bool)
    for _ in range(_BACK_PROJECTIONS):
        missing = np.where(patch.source_valid, patch.source - pool(found, everywhere, patch.scale)[0], 0.0)
        missing -= np.clip(missing, -patch.tolerance, patch.tolerance)
        found = found + interpolate(missing.astype(np.float32), patch.scale)
    return exact(found, patch)


def can_tell(patches: Sequence[Patch]) -> bool:
    """Whether enough is left one scale lower by 4, or by the scale where that is less."""
    step = min(patches[0].scale, 4)
    return all(any(True for _ in one_step_down(patch, (step,))) for patch in patches)


def one_step_down(patch: Patch, steps: tuple[int, ...] = (4, 2)) -> Iterator[tuple[Patch, FloatArray, BoolArray]]:
    """The patch pooled, its source as the truth, and where that is known; nothing where too little is left.

    The first of the steps that leaves enough is taken; the scale itself where it is smaller (with 8 a tile's 40 x 40
    source pixels would become 25).
    """
    for step in (min(patch.scale, step) for step in steps):
        rows, cols = (side // step * step for side in patch.source.shape)
        truth, known = patch.source[:rows, :cols], patch.source_valid[:rows, :cols]
        valid: BoolArray = np.all(blocks_of(known, step), axis=(1, 3))
        if valid.sum() >= _FEWEST:
            source = np.where(valid, blocks_of(truth, step).mean(axis=(1, 3)), 0)
            guide, guide_valid = _pooled_guide(patch, rows, cols)
            inside = known & spread(valid, step)
            yield Patch(guide, guide_valid, source.astype(np.float32), valid), truth, inside
            return


def _pooled_guide(patch: Patch, rows: int, cols: int) -> tuple[FloatArray, BoolArray]:
    """The guide's means over its valid pixels on the source's grid, to unit standard deviation again."""
    high = slice(rows * patch.scale), slice(cols * patch.scale)
    weights = blocks_of(patch.guide_valid[high].astype(np.float32), patch.scale).mean(axis=(1, 3))
    valid = weights >= 0.5
    bands = [blocks_of(band[high] * patch.guide_valid[high], patch.scale).mean(axis=(1, 3)) for band in patch.guide]
    return np.stack([_standard(band / np.maximum(weights, 1e-6), valid) for band in bands]), valid


def _standard(band: NDArray[np.floating], valid: BoolArray) -> FloatArray:
    if not valid.any():
        return np.zeros(band.shape, np.float32)
    centred = band - band[valid].mean()
    return np.where(valid, centred / max(float(centred[valid].std()), 1e-6), 0).astype(np.float32)
