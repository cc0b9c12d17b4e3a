"""A guide's values on another grid: numpy and pyproj only.

GDAL's warper is not used. Its kernels take their width from the chunk at hand, so a window read alone
differs from the same window of a larger read; it sees longitudes on one side of the date line only; and its
approximation is an option that is easily forgotten. Here a value depends on its own pixel's corners alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce

import numpy as np
import numpy.typing as npt
from numpy.polynomial.chebyshev import chebvander
from odc.geo.geobox import GeoBox

from geosr.coordinates import Floats, Mask, pixels_in, same_crs, step_ratio, turn
from geosr.displacement import Displacement
from geosr.grid import Window, crop

Reader = Callable[[Window], tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]]
"""Reads a window of a raster's own grid: values (bands, rows, columns) and validity (rows, columns)."""

_SAMPLES_AT_ONCE = 1 << 19
"""Bound on the working set: this many samples, or this many guide pixels, times the bands, are held at once."""
_LATTICE = 65536.0
"""Positions are rounded to 1/65536 of a guide pixel. Rounding errors of 1e-8 otherwise decide on which side of a
pixel edge a sample falls (grids that share a corner put many samples exactly there), window by window."""
_NODES = 6
_CLOSE = 1e-5
"""Polynomials between `_NODES` nodes a side stand for PROJ where they are no further off, in guide pixels: less than a
step of the lattice."""


@dataclass(frozen=True)
class Sampling:
    """How a guide is averaged onto a target: `pool` x `pool` guide pixels first, `across` x `down` samples then."""

    pool: int
    across: int
    down: int

    @property
    def cubic(self) -> bool:
        """One sample a pixel: the guide is no finer than the target, and cubic interpolation is used."""
        return self.pool == self.across == self.down == 1


def plan_sampling(guide: GeoBox, grid: GeoBox) -> Sampling:
    """Samples no further apart than a (pooled) guide pixel, a tenth of it tolerated; pools of a quarter target pixel.

    The plan must come from the whole target grid: taken from a window's own centre, it could change from one
    window to the next where the two CRS differ.
    """
    ratios = step_ratio(grid, guide)
    if not all(map(math.isfinite, ratios)):
        return Sampling(1, 1, 1)
    pool = max(1, math.floor(min(ratios) / 4))
    across, down = (max(1, math.ceil(r / pool - 0.1)) for r in ratios)
    return Sampling(pool, across, down)


def warp(
    read: Reader, bands: int, guide: GeoBox, target: GeoBox, plan: Sampling, displacement: Displacement | None = None
) -> tuple[npt.NDArray[np.float32], Mask]:
    """The guide on `target`: float32 (bands, rows, columns) and validity (rows, columns); 0 where invalid.

    With a `displacement` it is looked for that much away from where its file says.

    A sample counts where it falls inside a valid guide pixel, and takes its value from valid neighbours only;
    a target pixel is the mean of its samples and valid where at least half of them count.
    """
    rows, cols = target.shape
    values = np.zeros((bands, rows, cols), np.float32)
    valid = np.zeros((rows, cols), bool)
    todo = [Window(0, 0, rows, cols)]
    while todo:
        window = todo.pop()
        splittable = max(window.shape) > 1
        if splittable and window.pixels * plan.across * plan.down * bands > 4 * _SAMPLES_AT_ONCE:
            todo += _halves(window)
            continue
        corners = _corners(crop(target, window), guide, displacement)
        all_u, all_v = np.broadcast_arrays(*corners)
        cell = _whole_cells(all_u, all_v, guide)
        source = _source_window(all_u, all_v, cell, guide, plan.pool)
        if source is None:
            continue
        if splittable and source.pixels * bands > 8 * _SAMPLES_AT_ONCE:
            todo += _halves(window)
            continue
        image = _pooled(read, source, guide, plan.pool)
        u, v = corners[0] / plan.pool - source.col / plan.pool, corners[1] / plan.pool - source.row / plan.pool
        y, x = window.slices
        values[:, y, x], valid[y, x] = _sample(image, u, v, cell, plan)
    return values, valid


def _halves(window: Window) -> list[Window]:
    """`window` cut in two across its longer side."""
    row, col, height, width = window.row, window.col, window.height, window.width
    if height >= width:
        h = height // 2
        return [Window(row, col, h, width), Window(row + h, col, height - h, width)]
    w = width // 2
    return [Window(row, col, height, w), Window(row, col + w, height, width - w)]


def _corners(target: GeoBox, guide: GeoBox, displacement: Displacement | None = None) -> tuple[Floats, Floats]:
    """Guide columns and rows of the pixel corners of `target`; NaN where undefined.

    Both (rows + 1, columns + 1); but (1, columns + 1) and (rows + 1, 1) where the two grids are parallel.
    """
    rows, cols = target.shape
    col, row = np.arange(cols + 1.0), np.arange(rows + 1.0)
    if displacement is None and _are_parallel(target, guide):
        return (
            pixels_in(target, guide, col, np.zeros_like(col))[0][None],
            pixels_in(target, guide, np.zeros_like(row), row)[1][:, None],
        )
    found = None if displacement else _polynomial(target, guide)
    if found is None:
        col, row = (axis.ravel() for axis in np.meshgrid(col, row))
        if displacement:
            col, row = displacement.moved(target, col, row)
        found = pixels_in(target, guide, col, row)
    u, v = found
    lost = ~(np.isfinite(u) & np.isfinite(v))
    u, v = np.where(lost, np.nan, u), np.where(lost, np.nan, v)
    return u.reshape(rows + 1, cols + 1), v.reshape(rows + 1, cols + 1)


def _are_parallel(a: GeoBox, b: GeoBox) -> bool:
    """Whether both grids have one CRS (or none) and their axes along it: columns depend on columns only."""
    turned = any((a.affine.b, a.affine.d, b.affine.b, b.affine.d))
    return not turned and ((a.crs is None or b.crs is None) or same_crs(a.crs.to_wkt(), b.crs.to_wkt()))


def _polynomial(target: GeoBox, guide: GeoBox) -> tuple[Floats, Floats] | None:
    """`_corners` by PROJ on a few nodes and polynomials of their degree between; None where these do not hold.

    A projection is smooth over a tile: on one of 320 pixels of 0.5 m the polynomials are off by 4e-8 of a guide pixel,
    as PROJ's own rounding. That they hold is seen at other points, the edges among them.
    """
    if target.crs is None or guide.crs is None or min(target.shape) < _NODES:
        return None
    if same_crs(target.crs.to_wkt(), guide.crs.to_wkt()):
        return None  # affine: as cheap as the polynomials
    (rows, cols), places = target.shape, np.linspace(-1, 1, 8)
    nodes = -np.cos(np.pi * np.arange(_NODES) / (_NODES - 1))  # of Chebyshev and Lobatto
    lattices = [np.meshgrid((t + 1) / 2 * cols, (t + 1) / 2 * rows) for t in (nodes, places)]
    col, row = (np.concatenate([lattice[i].ravel() for lattice in lattices]) for i in (0, 1))
    to_nodes = np.linalg.inv(chebvander(nodes, _NODES - 1))
    across, down, check = (
        chebvander(t, _NODES - 1) @ to_nodes
        for t in (np.linspace(-1, 1, cols + 1), np.linspace(-1, 1, rows + 1), places)
    )
    found = []
    for exact in pixels_in(target, guide, col, row):
        at_nodes, at_places = exact[: _NODES**2].reshape(_NODES, _NODES), exact[_NODES**2 :].reshape(8, 8)
        with np.errstate(invalid="ignore"):
            if not np.abs(check @ at_nodes @ check.T - at_places).max() < _CLOSE:
                return None
        found.append(down @ at_nodes @ across.T)
    return found[0], found[1]


def _whole_cells(u: Floats, v: Floats, guide: GeoBox) -> npt.NDArray[np.bool_]:
    """Target pixels with four defined corners that do not jump from one side of the guide to the other."""
    if guide.crs is None or not guide.crs.geographic:
        return np.asarray(np.logical_and.reduce([np.isfinite(corner) for corner in _quad(u)]))
    along = _quad(guide.affine.a * u + guide.affine.b * v)  # longitude, but for a constant
    with np.errstate(invalid="ignore"):
        return np.asarray(np.maximum.reduce(along) - np.minimum.reduce(along) < turn(guide.crs) / 2)


def _source_window(u: Floats, v: Floats, cell: npt.NDArray[np.bool_], guide: GeoBox, pool: int) -> Window | None:
    """The guide pixels under `cell` and two (pooled) pixels around, in whole pools; None if there are none."""
    use = np.zeros(u.shape, bool)
    for dy in (0, 1):
        for dx in (0, 1):
            use[dy : dy + cell.shape[0], dx : dx + cell.shape[1]] |= cell
    if not use.any():
        return None
    spans = []
    for position, size in ((v, guide.shape[0]), (u, guide.shape[1])):
        lo, hi = float(position[use].min()), float(position[use].max())
        if hi < 0 or lo > size:
            return None
        first = math.floor(max(lo, 0) / pool) - 2
        last = math.ceil(min(hi, size) / pool) + 2
        spans.append((first * pool, (last - first) * pool))
    (row, height), (col, width) = spans
    return Window(row, col, height, width)


@dataclass(frozen=True)
class _Image:
    """A part of the guide: (bands, rows, columns), 0 where invalid, and validity (rows, columns)."""

    values: npt.NDArray[np.float32]
    valid: Mask


def _pooled(read: Reader, window: Window, guide: GeoBox, pool: int) -> _Image:
    """`window` of the guide, which may reach over its edges, pooled."""
    inside = window.intersection(Window(0, 0, *guide.shape))
    values, valid = read(inside)
    rows, cols = inside.relative_to(window).slices
    beyond = (rows.start, window.height - rows.stop), (cols.start, window.width - cols.stop)
    if not valid.all():
        values = np.where(valid, values, np.float32(0))
    image = np.pad(values, ((0, 0), *beyond)), np.pad(valid, beyond)
    return _Image(*image) if pool == 1 else _Image(*_block_mean(*image, pool))


def _block_mean(values: npt.NDArray[np.float32], valid: Mask, size: int) -> tuple[npt.NDArray[np.float32], Mask]:
    """Means over the valid pixels of size x size blocks where these are at least half of a block, else 0; and where."""
    count, total = _block_sum(valid.astype(np.float32), size), _block_sum(values, size)
    enough = count * 2 >= size * size
    return np.where(enough, total / np.maximum(count, 1), 0).astype(np.float32), enough


def _block_sum(image: npt.NDArray[np.float32], size: int) -> npt.NDArray[np.float32]:
    """Over the last two axes; several times faster than sum(axis=...)."""
    summed = reduce(np.add, (image[..., j::size, :] for j in range(size)))
    return np.asarray(reduce(np.add, (summed[..., i::size] for i in range(size))))


# --- samples: positions count from the corner of the part of the guide that was read ---------------------------------


def _sample(image: _Image, u: Floats, v: Floats, cell: Mask, plan: Sampling) -> tuple[npt.NDArray[np.float32], Mask]:
    """Means of the samples of each pixel of `cell`, from the positions of its corners, and where they count.

    Where all guide pixels that are used are valid, one weighted sum does it; the others are treated one by one. That
    depends on the pixel alone, so a window gives the same bits as a larger one.
    """
    counted = np.zeros(cell.shape, bool)
    if not image.valid.any():
        return np.zeros((len(image.values), *cell.shape), np.float32), counted
    parallel = u.shape != v.shape
    mean, whole = _separable(image, u[0], v[:, 0], plan) if parallel else _scattered(image, u, v, plan)
    counted = whole & cell
    rest = cell & ~whole
    mean[:, ~counted] = 0
    if rest.any():
        quads = [[corner[rest] for corner in _quad(np.broadcast_to(p, (len(v), u.shape[1])))] for p in (u, v)]
        mean[:, rest], counted[rest] = _among_valid(image, quads[0], quads[1], plan)
    return mean, counted


def _quad(corners: Floats) -> list[Floats]:
    """Of each pixel the corners: upper left, upper right, lower left, lower right."""
    return [corners[:-1, :-1], corners[:-1, 1:], corners[1:, :-1], corners[1:, 1:]]


def _samples(u: list[Floats], v: list[Floats], plan: Sampling) -> Iterator[tuple[Floats, Floats]]:
    """The positions of each sample inside the pixels with such corners, on the lattice.

    Linear between the corners: the curvature of a projection inside one pixel is far below the lattice.
    """
    for s in _fractions(plan.down):
        for t in _fractions(plan.across):
            weights = (1 - s) * (1 - t), (1 - s) * t, s * (1 - t), s * t
            yield _on_lattice(_weighted(weights, u)), _on_lattice(_weighted(weights, v))


def _weighted(weights: tuple[float, ...], corners: list[Floats]) -> Floats:
    return np.asarray(reduce(np.add, (w * corner for w, corner in zip(weights, corners, strict=True))))


def _fractions(count: int) -> Floats:
    return (np.arange(count) + 0.5) / count


def _on_lattice(position: Floats) -> Floats:
    return np.asarray(np.round(position * _LATTICE) / _LATTICE)


def _inside(position: Floats, size: int) -> Mask:
    """Far enough from the ends for all taps; False for NaN."""
    with np.errstate(invalid="ignore"):
        return np.asarray((position >= 2) & (position < size - 2))


def _separable(image: _Image, u: Floats, v: Floats, plan: Sampling) -> tuple[npt.NDArray[np.float32], Mask]:
    """Means where columns depend on columns only and rows on rows, and where all that is used is valid."""
    _, rows, cols = image.values.shape
    down, across = _axis(v, plan.down, rows, plan.cubic), _axis(u, plan.across, cols, plan.cubic)
    strips = reduce(np.add, (w[:, None] * image.values[:, index] for w, index, _ in down.taps))
    mean = reduce(np.add, (w * np.take(strips, index, axis=2) for w, index, _ in across.taps))
    if image.valid.all():
        return mean, np.logical_and.outer(down.inside, across.inside)
    whole = np.logical_and.reduce([image.valid[index] | ~used[:, None] for _, index, used in down.taps])
    whole = np.logical_and.reduce([whole[:, index] | ~used for _, index, used in across.taps])
    return mean, np.asarray(whole & down.inside[:, None] & across.inside)


@dataclass(frozen=True)
class _Axis:
    """What is summed for each target pixel along an axis.

    Attributes:
        taps: weights and pixels, tap by tap, and whether the target pixel has as many.
        inside: whether all of its pixels lie inside the image.
    """

    taps: list[tuple[npt.NDArray[np.float32], npt.NDArray[np.intp], Mask]]
    inside: Mask


def _axis(corners: Floats, samples: int, size: int, cubic: bool) -> _Axis:
    """The mean of so many samples between each two `corners`."""
    position = _on_lattice(corners[:-1, None] * (1 - _fractions(samples)) + corners[1:, None] * _fractions(samples))
    inside = _inside(position, size)
    kernel, reach = (_keys, 1) if cubic else (_linear, 0)
    position = np.where(inside, position, 2.0)
    base = np.floor(position - 0.5)
    tap_weights = kernel(position - 0.5 - base)
    start = base.astype(np.intp) - reach
    first = start.min(axis=1)
    counts = start.max(axis=1) - first + len(tap_weights)
    weights, pixels = np.zeros((int(counts.max()), len(first)), np.float32), np.arange(len(first))
    for j in range(samples):
        for i, weight in enumerate(tap_weights):
            weights[start[:, j] + i - first, pixels] += weight[:, j] / np.float32(samples)
    taps = [(weight, np.minimum(first + k, size - 1), k < counts) for k, weight in enumerate(weights)]
    return _Axis(taps, np.asarray(inside.all(axis=1)))


def _scattered(image: _Image, u: Floats, v: Floats, plan: Sampling) -> tuple[npt.NDArray[np.float32], Mask]:
    """Means for pixels with corners anywhere, and where all that is used is valid."""
    rows, cols = image.valid.shape
    shape, gaps = (len(u) - 1, u.shape[1] - 1), not image.valid.all()
    total, whole = np.zeros((len(image.values), *shape), np.float32), np.ones(shape, bool)
    for x, y in _samples(_quad(u), _quad(v), plan):
        inside = _inside(x, cols) & _inside(y, rows)
        whole &= inside
        for weight, index in _taps(
            np.where(inside, x, 2.0), np.where(inside, y, 2.0), cols, _keys if plan.cubic else _linear
        ):
            for band, pixels in zip(total, image.values, strict=True):
                band += weight * np.take(pixels, index)
            if gaps:
                whole &= np.take(image.valid, index)
    total /= plan.down * plan.across
    return total, whole


def _among_valid(
    image: _Image, u: list[Floats], v: list[Floats], plan: Sampling
) -> tuple[npt.NDArray[np.float32], Mask]:
    """Means of those samples that fall inside valid guide pixels, and where they are at least half.

    Each is interpolated linearly among those of its four neighbours that are valid.
    """
    rows, cols = image.valid.shape
    total, count = np.zeros((len(image.values), len(u[0])), np.float32), np.zeros(len(u[0]), np.float32)
    for x, y in _samples(u, v, plan):
        inside = _inside(x, cols) & _inside(y, rows)
        x, y = np.where(inside, x, 2.0), np.where(inside, y, 2.0)
        counted = inside & image.valid[y.astype(np.intp), x.astype(np.intp)]
        values, share = np.zeros_like(total), np.zeros_like(count)
        for weight, index in _taps(x, y, cols, _linear):
            share += weight * np.take(image.valid, index)
            for band, pixels in zip(values, image.values, strict=True):
                band += weight * np.take(pixels, index)
        total += np.where(counted, values / np.where(share > 0, share, 1), 0)
        count += counted
    enough = count * 2 >= plan.down * plan.across
    return np.where(enough, total / np.maximum(count, 1), 0), enough


Kernel = Callable[[Floats], list[npt.NDArray[np.float32]]]


def _taps(
    u: Floats, v: Floats, cols: int, kernel: Kernel
) -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.intp]]]:
    """Weights, a separable `kernel` of the distance, and places in the flattened image of the pixels around (u, v)."""
    base_u, base_v = np.floor(u - 0.5), np.floor(v - 0.5)
    across, down = kernel(u - 0.5 - base_u), kernel(v - 0.5 - base_v)
    reach = len(across) // 2 - 1
    index = (base_v.astype(np.intp) - reach) * cols + base_u.astype(np.intp) - reach
    for j, wy in enumerate(down):
        for i, wx in enumerate(across):
            yield wy * wx, index + (j * cols + i)


def _linear(t: Floats) -> list[npt.NDArray[np.float32]]:
    """Weights of the two neighbours."""
    return [(1 - t).astype(np.float32), t.astype(np.float32)]


def _keys(t: Floats) -> list[npt.NDArray[np.float32]]:
    """Weights of four neighbours: cubic convolution with a = -1/2 (Keys 1981, eq. 4)."""
    weights = (
        ((-0.5 * t + 1) * t - 0.5) * t,
        (1.5 * t - 2.5) * t * t + 1,
        ((-1.5 * t + 2) * t + 0.5) * t,
        (0.5 * t - 0.5) * t * t,
    )
    return [w.astype(np.float32) for w in weights]
