"""The shift between guide and source: found from what the two show, and told with how sure it is.

Heights and colours have little in common but where they change. So the search asks, shift by shift, how well the
guide's colours, averaged over the source's pixels, explain the source inside small windows, each with a law of its own:
the model of guided filters (He et al. 2010) as a measure of likeness (LC2, Wein et al. 2013). That finds the source
pixel. The fraction of it is read from the guided answer itself: a guide that is off makes every edge twice, where the
guide has it and where the source needs it, so the answer is smoothest where the guide lies right; smooth in the sense
of natural images, sum of |gradient|^(1/2) (Krishnan and Fergus 2009).

What differs from place to place is a smooth field through what the windows say (`local_shift`).

`docs/coregistration.md` has what was measured, and what else was tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import islice, product

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from geosr import methods
from geosr.consistency import blocks_of
from geosr.displacement import Displacement
from geosr.errors import InputError
from geosr.grid import GridPair, Window
from geosr.local_shift import FEWEST, NEIGHBOURS, Costs, fit_field, paraboloid
from geosr.pair import Pair, Stats, normalise
from geosr.tiling import SIDE, Tile, cut

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Lag = tuple[int, int]
"""Rows and columns, in high pixels, by which the guide is looked at further down and right than its file says."""

_Guide = tuple[NDArray[np.float32], Mask]
ReadSource = Callable[[Window], tuple[Array, Mask]]
ReadGuide = Callable[[Window, Displacement | None], _Guide]

REACH = 3
"""Source pixels to either side that are searched: beyond, a georeference is wrong and not inexact."""

_WINDOW = 8  # source pixels a side in which one law holds: 64 values for 12 unknowns
_FEWEST = 12  # windows: on 8 and 9 of them an orchard's thermal pair was sure of shifts that did harm
_COMPONENTS = 3  # of the guide's bands: with squares and products 9, well below a window's 64 values
_NOISE = 1e-4  # of the source's variance is noise that no law need explain
_RESAMPLES = 200
_SURE = 0.95  # of them; 52 guides that were turned round or made of noise reached 0.87 at most
_ROUNDS = 4  # of the diffusion: 12 and 24 place the guide no better
_PIXELS = 1 << 19  # high pixels that are looked at in a larger scene
_SMALLEST = 0.25  # output pixels: for less the guide is not interpolated again


@dataclass(frozen=True)
class Shift:
    """Where the guide shows what the source has, seen from where its file says.

    Attributes:
        rows: output pixels further down the grid.
        cols: output pixels further along its rows.
        error: standard error in output pixels, in the direction where it is largest.
        confidence: share of resampled scenes that agree to half a source pixel, 0 to 1.
        obstacle: why no shift could be estimated; empty where one was.
        local: what is to be added from place to place, its mean about zero; None where one shift does as well.
    """

    rows: float = 0.0
    cols: float = 0.0
    error: float = 0.0
    confidence: float = 0.0
    obstacle: str = ""
    local: Displacement | None = None

    @property
    def applied(self) -> tuple[float, float]:
        """(rows, cols) to be made: zeros with an obstacle, and where the shift is no larger than its error."""
        distinct = max(abs(self.rows), abs(self.cols)) >= max(_SMALLEST, 2 * self.error)
        return (self.rows, self.cols) if distinct and not self.obstacle else (0.0, 0.0)

    @property
    def tags(self) -> dict[str, str]:
        """For an output's metadata: how far the guide is moved along columns and rows, in output pixels."""
        rows, cols = self.applied
        local = {"GEOSR_COREGISTER_LOCAL": f"{self.local.farthest:.4f}"} if self.local else {}
        return {"GEOSR_COREGISTER_SHIFT": f"{0 - cols:.4f} {0 - rows:.4f}", **local}

    def content(self) -> dict[str, object]:
        """For JSON: how far the guide is moved along columns and rows, in output pixels, and how sure that is."""
        rows, cols = self.applied
        return {
            "columns": 0 - cols,
            "rows": 0 - rows,
            "local": self.local.farthest if self.local else None,
            "error": self.error,
            "confidence": self.confidence,
            "obstacle": self.obstacle or None,
        }

    def describe(self, grids: GridPair, given: tuple[float, float] = (0.0, 0.0)) -> str:
        """A sentence for a person: how far the guide is moved and which way, or why it is not.

        `given` is the guide shift, (x, y) in CRS units, that was applied before this one was looked for.
        """
        whole = self._whole(grids, given)
        if self.local:
            return f"{whole}; local displacement up to {self.local.farthest:.2f} output pixels"
        if self.obstacle:
            return f"{whole}; the guide stays where it is"
        return whole if any(self.applied) else f"{whole}; it stays where it is"

    def _whole(self, grids: GridPair, given: tuple[float, float]) -> str:
        """What is said of the guide as a whole; in CRS units, too, as one can give it another time."""
        if self.obstacle:
            return f"no shift could be estimated: {self.obstacle}"
        found = f"standard error {self.error:.2f}, confidence {self.confidence:.0%}"
        if self.applied == (0.0, 0.0):
            far = max(abs(self.rows), abs(self.cols))
            return f"the guide lies within {far:.2f} output pixels of the source ({found})"
        source_pixels = np.hypot(self.rows, self.cols) / grids.scale
        way = " and ".join(_directions(-self.rows, -self.cols, grids.high))
        a = grids.high.affine
        x, y = given[0] - a.a * self.cols - a.b * self.rows, given[1] - a.d * self.cols - a.e * self.rows
        return (
            f"guide moved by {way}, in output pixels ({source_pixels:.2f} source pixels, "
            f"as by --guide-shift {x:.6g} {y:.6g}; {found})"
        )


def _directions(rows: float, cols: float, grid: GeoBox) -> tuple[str, str]:
    """A movement on `grid` in compass directions, in the grid's own where it has no CRS."""
    names = ("right", "left", "up", "down") if grid.crs is None else ("east", "west", "north", "south")
    a = grid.affine
    along, down = np.array([a.a, a.d]) / np.hypot(a.a, a.d), np.array([a.b, a.e]) / np.hypot(a.b, a.e)
    east, north = (cols, -rows) if grid.crs is None else cols * along + rows * down
    return (
        f"{abs(east):.2f} {names[0] if east >= 0 else names[1]}",
        f"{abs(north):.2f} {names[2] if north >= 0 else names[3]}",
    )


@dataclass(frozen=True)
class Piece:
    """A part of the scene: the source, and the guide with `margin` high pixels more on each side.

    Attributes:
        guide: (bands, s*h + 2*margin, s*w + 2*margin) float32.
        guide_valid: (s*h + 2*margin, s*w + 2*margin) bool.
        source: (h, w) float64.
        source_valid: (h, w) bool.
        place: of the source in the scene.
        core: the source pixels that are this piece's own: neighbours overlap.
        scale: s.
        margin: the largest shift that can be looked at.
    """

    guide: NDArray[np.float32]
    guide_valid: Mask
    source: Array
    source_valid: Mask
    place: Window
    core: Window
    scale: int
    margin: int

    def seen_at(self, lag: Lag) -> Pair:
        """The pair as it were if `lag` were right."""
        starts, sizes = (self.margin + d for d in lag), (self.scale * n for n in self.source.shape)
        rows, cols = (slice(start, start + size) for start, size in zip(starts, sizes, strict=True))
        return Pair(self.guide[:, rows, cols], self.guide_valid[rows, cols], self.source, self.source_valid)

    @cached_property
    def usable(self) -> Mask:
        """(h, w): valid pixels of the core, under which the guide is valid at every lag."""
        gaps = _integral(~self.guide_valid[None])
        side, (h, w) = self.scale + 2 * self.margin, self.source.shape
        own = np.zeros((h, w), bool)
        own[self.core.slices] = True
        return np.asarray(own & self.source_valid & (_square_sums(gaps, (0, 0), (h, w), self.scale, side)[0] == 0))

    @cached_property
    def voting(self) -> Mask:
        """(windows,): which of all windows have half of their pixels usable at least."""
        return np.asarray(_windows(self.usable).mean(axis=-1) >= 0.5)

    def in_windows(self, values: Array) -> Array:
        """(..., h, w) as (..., voting windows, pixels), 0 for what is not usable."""
        return np.asarray(_windows(np.where(self.usable, values, 0.0))[..., self.voting, :])


def _windows(values: NDArray[np.generic]) -> Array:
    """(..., h, w) cut into windows: (..., windows, pixels); what is left over at the ends is dropped."""
    *more, h, w = values.shape
    rows, cols = h // _WINDOW, w // _WINDOW
    whole = values[..., : rows * _WINDOW, : cols * _WINDOW].reshape(*more, rows, _WINDOW, cols, _WINDOW)
    return np.moveaxis(whole, -2, -3).reshape(*more, rows * cols, _WINDOW**2).astype(np.float64)


def _integral(bands: NDArray[np.generic]) -> Array:
    """Sums of (bands, rows, cols) over everything above and left of each corner."""
    return np.pad(bands.astype(np.float64).cumsum(axis=1).cumsum(axis=2), ((0, 0), (1, 0), (1, 0)))


def _square_sums(integral: Array, start: Lag, shape: tuple[int, int], step: int, side: int) -> Array:
    """Sums over `shape` squares of `side`, `step` apart from `start` on."""
    (top, left), (h, w) = start, shape
    rows, cols = top + step * np.arange(h), left + step * np.arange(w)
    above, below = integral[:, rows], integral[:, rows + side]
    return np.asarray(below[..., cols + side] - below[..., cols] - above[..., cols + side] + above[..., cols])


def find_shift(grids: GridPair, read_source: ReadSource, read_guide: ReadGuide) -> Shift:
    """The shift between guide and source of a scene; of a large one, over pieces spread evenly.

    Args:
        grids: of the scene.
        read_source: values and validity of a window of the low grid.
        read_guide: values and validity of the guide on a window of the high grid, which may reach over its edges,
            looked for as far away as a displacement says.

    Returns:
        See `estimate`; with a local displacement where the guide fits better with it, and surely.
    """
    pieces = _look(grids, read_source, lambda window: read_guide(window, None))
    shift = estimate(pieces)
    local = _local(pieces, grids)
    if local is None or local.farthest < _SMALLEST:
        return shift
    bent = _look(grids, read_source, lambda window: read_guide(window, local))
    both = replace(estimate(bent), local=local)
    return both if both.confidence >= _SURE and _smoother(bent, both, pieces, shift) else shift


def _look(grids: GridPair, read_source: ReadSource, read_guide: Callable[[Window], _Guide]) -> list[Piece]:
    """The parts of the scene that are looked at."""
    size = max(SIDE, 4 * _WINDOW * grids.scale)
    tiles, count = cut(grids.low.shape, grids.scale, size=size, halo=0), max(_PIXELS // size**2, 1)
    step = -(-len(tiles) // count)
    spread = (tile for first in range(step) for tile in tiles[(first + step // 2) % step :: step])
    return [*islice(_pieces(spread, grids.scale, read_source, read_guide), count)]


def _pieces(
    tiles: Iterable[Tile], scale: int, read_source: ReadSource, read_guide: Callable[[Window], _Guide]
) -> Iterator[Piece]:
    """Those of the tiles that hold valid source pixels."""
    margin = REACH * scale
    for tile in tiles:
        with suppress(InputError):  # what cannot be read will fail as a tile, by its name
            source, valid = read_source(tile.window)
            if not valid.any():
                continue
            high = tile.window.times(scale)
            core = tile.core.relative_to(tile.window)
            yield Piece(*read_guide(high.grown(margin)), source, valid, tile.window, core, scale, margin)


def _local(pieces: Sequence[Piece], grids: GridPair) -> Displacement | None:
    """The field of shifts that the windows agree on; None where one shift does as well."""
    pieces = [piece for piece in pieces if piece.voting.any()]
    if sum(int(piece.voting.sum()) for piece in pieces) < FEWEST:
        return None
    stats = Stats.measure(piece.seen_at((0, 0)) for piece in pieces)
    scale, margin = pieces[0].scale, pieces[0].margin
    step = max(round(scale / 4), 1)
    reach = margin // 2 // step * step
    (row, col), _ = _search(pieces, stats)
    row, col = (int(np.clip(lag, reach - margin, margin - reach)) for lag in (row, col))
    axis, directions = np.arange(-reach, reach + 1, step), _principal(pieces, stats)
    lags = np.array(list(product(row + axis, col + axis)))
    costs = np.concatenate([_unexplained(piece, stats, directions, lags) for piece in pieces], axis=1)
    places = np.concatenate([_places(piece, grids) for piece in pieces])
    field = fit_field(Costs(costs.reshape(len(axis), len(axis), -1), step, places))
    return None if field is None else Displacement(grids.high, tuple(field[:, 0].tolist()), tuple(field[:, 1].tolist()))


def _places(piece: Piece, grids: GridPair) -> Array:
    """(voting windows, 2): their centres, from 0 to 1 over the scene's rows and columns."""
    inside = _windows(np.mgrid[: piece.place.height, : piece.place.width] + 0.5).mean(axis=-1)
    corner = np.array([[piece.place.row], [piece.place.col]])
    return np.asarray(((inside + corner) / np.array(grids.low.shape)[:, None]).T[piece.voting])


def _smoother(bent: Sequence[Piece], both: Shift, pieces: Sequence[Piece], shift: Shift) -> bool:
    """Whether the guided answer is smoother with the displacement than without, by more than the standard error.

    The windows' colours told the displacement: this asks the edges, which had no say in it.
    """
    stats = Stats.measure(piece.seen_at((0, 0)) for piece in pieces)
    gains = [np.zeros(1)]
    for before, after in zip(pieces, bent, strict=True):
        common = before.voting & after.voting
        if common.any():
            rough = _mean_roughness(before, stats, shift), _mean_roughness(after, stats, both)
            gains.append(rough[0][common[before.voting]] - rough[1][common[after.voting]])
    gain = np.concatenate(gains)
    return bool(gain.sum() > gain.std() * np.sqrt(len(gain)))


def _mean_roughness(piece: Piece, stats: Stats, shift: Shift) -> Array:
    """(voting windows,): by usable pixel, which a displaced guide has other ones of at its ends."""
    rows, cols = shift.applied
    pixels = piece.in_windows(np.ones(piece.source.shape)).sum(axis=1)
    return np.asarray(_roughness(piece, stats, (round(rows), round(cols))) / pixels)


def estimate(pieces: Sequence[Piece]) -> Shift:
    """The one shift that fits all `pieces`.

    Invalid pixels of either side take no part, nor do source pixels with a gap of the guide nearer than the largest
    shift. Nothing is raised: with nothing to go by, or where parts of the scene disagree, the answer has an obstacle.
    """
    pieces = [piece for piece in pieces if piece.voting.any()]
    if sum(int(piece.voting.sum()) for piece in pieces) < _FEWEST:
        return Shift(obstacle="too little of the source has the guide all around it")
    stats = Stats.measure(piece.seen_at((0, 0)) for piece in pieces)
    if all(np.ptp(piece.source[piece.usable]) == 0 for piece in pieces):
        return Shift(obstacle="the source is the same everywhere")
    if all(np.ptp(piece.guide[:, piece.guide_valid], axis=1).max() == 0 for piece in pieces):
        return Shift(obstacle="the guide is the same everywhere")
    lag, confidence = _search(pieces, stats)
    coarse = Shift(*lag, confidence=confidence)
    if confidence < _SURE:
        return replace(coarse, obstacle=f"parts of the scene disagree (confidence {confidence:.0%})")
    if max(map(abs, lag)) > pieces[0].margin - pieces[0].scale // 2:
        return replace(coarse, obstacle=f"it may be larger than the {REACH} source pixels that are searched")
    return _refine(pieces, stats, coarse)


# --- which source pixel --------------------------------------------------------------------------------------


def _search(pieces: Sequence[Piece], stats: Stats) -> tuple[Lag, float]:
    """The best lag in steps of half a source pixel, and the share of resampled scenes that agree (Efron 1979)."""
    step, margin = pieces[0].scale // 2, pieces[0].margin
    axis = range(-(margin // step) * step, margin + 1, step)
    lags = np.array(list(product(axis, axis)))
    directions = _principal(pieces, stats)
    costs = np.concatenate([_unexplained(piece, stats, directions, lags) for piece in pieces], axis=1)
    best = lags[costs.sum(axis=1).argmin()]
    windows = costs.shape[1]
    drawn = np.random.default_rng(0).multinomial(windows, np.full(windows, 1 / windows), _RESAMPLES)
    others = lags[(costs @ drawn.T).argmin(axis=0)]
    agree = np.abs(others - best).max(axis=1) <= step
    return (int(best[0]), int(best[1])), float(agree.mean())


def _principal(pieces: Sequence[Piece], stats: Stats) -> Array:
    """(components, bands): the directions of the standardised guide that vary most."""
    bands = len(stats.guide_centres)
    total, count = np.zeros((bands, bands)), 0
    for piece in pieces:
        values = _standardised(piece, stats)[:, piece.guide_valid]
        total, count = total + values @ values.T, count + values.shape[1]
    vectors = np.linalg.eigh(total / max(count, 1))[1]
    return np.asarray(vectors[:, ::-1][:, :_COMPONENTS].T)


def _standardised(piece: Piece, stats: Stats) -> Array:
    return np.where(piece.guide_valid, stats.normal_guide(piece.guide), 0.0)


def _unexplained(piece: Piece, stats: Stats, directions: Array, lags: NDArray[np.int_]) -> Array:
    """(lags, windows): minus twice the log-likelihood of the source in each window under its own law.

    The law is linear in the block means of the guide's components, of their squares and products (a curve of the
    colour, taken before it is averaged) and in the position. With an unknown noise in each window, no window
    outweighs the others because its steps are higher.
    """
    colours = np.tensordot(directions, _standardised(piece, stats), axes=1)
    pairs = [(i, j) for i in range(len(colours)) for j in range(i, len(colours))]
    integral = _integral(np.concatenate([colours, *(colours[i : i + 1] * colours[j : j + 1] for i, j in pairs)]))
    weights = piece.in_windows(np.ones(piece.source.shape))
    counts = weights.sum(axis=1)
    source = _centred(piece.in_windows(piece.source - stats.source_centre), weights)
    position = np.broadcast_to(_windows(np.mgrid[:_WINDOW, :_WINDOW]), (2, len(weights), _WINDOW**2))
    floor, costs = _NOISE * stats.source_spread**2, []
    for row, col in lags:
        start = piece.margin + row, piece.margin + col
        means = _square_sums(integral, start, piece.source.shape, piece.scale, piece.scale) / piece.scale**2
        features = _centred(np.concatenate([piece.in_windows(means), position * weights]), weights)
        costs.append(counts * np.log(_residual(np.moveaxis(features, 0, 1), source) / counts + floor))
    return np.array(costs)


def _centred(values: Array, weights: Array) -> Array:
    """(..., windows, pixels) less each window's mean over the pixels that count."""
    means = values.sum(axis=-1, keepdims=True) / weights.sum(axis=-1, keepdims=True)
    return np.asarray((values - means) * weights)


def _residual(features: Array, target: Array) -> Array:
    """(windows,): the squares that the best law, linear in (windows, features, pixels), leaves of (windows, pixels)."""
    normal = features @ features.transpose(0, 2, 1)
    ridge = 1e-6 * np.trace(normal, axis1=1, axis2=2) + 1e-9
    moments = features @ target[..., None]
    law = np.linalg.solve(normal + ridge[:, None, None] * np.eye(normal.shape[1]), moments)
    return np.asarray(np.maximum((target**2).sum(axis=1) - (law * moments).sum(axis=(1, 2)), 0.0))


# --- the fraction of it --------------------------------------------------------------------------------------


def _refine(pieces: Sequence[Piece], stats: Stats, coarse: Shift) -> Shift:
    """Where the guided answer is smoothest near `coarse`, to a fraction of a high pixel."""
    scale, start = pieces[0].scale, (round(coarse.rows), round(coarse.cols))
    step = max(scale // 8, 1)

    @cache
    def roughness(lag: Lag) -> Array:
        return np.concatenate([_roughness(piece, stats, lag) for piece in pieces])

    def cost(lag: Lag) -> float:
        strayed = max(abs(a - b) for a, b in zip(lag, start, strict=True)) > 0.75 * scale
        return np.inf if strayed or max(map(abs, lag)) > pieces[0].margin else float(roughness(lag).sum())

    lag = _descend(cost, start, max(scale // 4, step), step)
    near = [(lag[0] + step * i, lag[1] + step * j) for i, j in NEIGHBOURS]
    if np.isinf([cost(other) for other in near]).any():
        return replace(coarse, obstacle="colours and edges indicate different shifts")
    offset, error = _vertex(np.array([roughness(other) for other in near]))
    if not error <= scale / (4 * step):
        return replace(coarse, obstacle="the edges leave an uncertainty of more than a quarter of a source pixel")
    rows, cols = (a + step * b for a, b in zip(lag, offset, strict=True))
    shift, gain = Shift(rows, cols, step * error, coarse.confidence), roughness((0, 0)) - roughness(lag)
    if any(shift.applied) and gain.sum() < gain.std() * np.sqrt(len(gain)):
        return replace(shift, obstacle="the guide fits no better at the estimated position than at its own")
    return shift


def _descend(cost: Callable[[Lag], float], lag: Lag, step: int, last: int) -> Lag:
    """A lag with no better one among its eight neighbours, `last` apart."""
    while True:
        better = min(((lag[0] + step * i, lag[1] + step * j) for i, j in NEIGHBOURS), key=cost)
        if cost(better) < cost(lag):
            lag = better
        elif step > last:
            step //= 2
        else:
            return lag


def _roughness(piece: Piece, stats: Stats, lag: Lag) -> Array:
    """(windows,): sum of |gradient|^(1/2) of what the guide at `lag` makes of the source."""
    from geosr.device import torch_threads
    from geosr.methods.diffusion_solver import diffuse

    settings = methods.create("diffusion", settings={"rounds": _ROUNDS}).settings
    with torch_threads(1):
        answer = diffuse(normalise(piece.seen_at(lag), stats), settings, "cpu").astype(np.float64)
    down, along = np.diff(answer, axis=0, append=answer[-1:]), np.diff(answer, axis=1, append=answer[:, -1:])
    edges = np.hypot(down, along) ** 0.5
    return np.asarray(piece.in_windows(blocks_of(edges, piece.scale).mean(axis=(1, 3))).sum(axis=1))


def _vertex(costs: Array) -> tuple[tuple[float, float], float]:
    """The lowest point of a paraboloid through (neighbours, windows), in steps, and its standard error.

    The error is the sandwich of M-estimates (Huber 1967): how far the windows pull apart, over how sharp the
    minimum is. Infinite where there is none.
    """
    _, di, dj, dii, djj, dij = paraboloid(costs)
    curvature = np.array([[2 * dii.sum(), dij.sum()], [dij.sum(), 2 * djj.sum()]])
    if np.linalg.eigvalsh(curvature)[0] <= 0:
        return (0.0, 0.0), np.inf
    a, b = -np.linalg.solve(curvature, [di.sum(), dj.sum()])
    pulls = np.stack([di + 2 * dii * a + dij * b, dj + 2 * djj * b + dij * a])
    flat = np.linalg.inv(curvature)
    spread = np.linalg.eigvalsh(flat @ (pulls @ pulls.T) @ flat)[-1]
    return (float(np.clip(a, -1, 1)), float(np.clip(b, -1, 1))), float(np.sqrt(spread))
