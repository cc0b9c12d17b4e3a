"""Where the pixels of one grid lie in another, and a guide's values there: numpy and pyproj only.

GDAL's warper is not used. Its kernels take their width from the chunk at hand, so a window read alone
differs from the same window of a larger read; it sees longitudes on one side of the date line only; and its
approximation is an option that is easily forgotten. Here a value depends on its own pixel's corners alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, reduce

import numpy as np
import numpy.typing as npt
import pyproj
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj.exceptions import ProjError
from pyproj.transformer import AreaOfInterest, Transformer

from geosr.errors import InputError
from geosr.grid import Window, crop

Floats = npt.NDArray[np.float64]
Reader = Callable[[Window], tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]]
"""Reads a window of a raster's own grid: values (bands, rows, columns) and validity (rows, columns)."""

_SAMPLES_AT_ONCE = 1 << 19
"""Bound on the working set: this many samples, or this many guide pixels, times the bands, are held at once."""
_LATTICE = 65536.0
"""Positions are rounded to 1/65536 of a guide pixel. Rounding errors of 1e-8 otherwise decide on which side of a
pixel edge a sample falls (grids that share a corner put many samples exactly there), window by window."""


# --- coordinates ---------------------------------------------------------------------------------------------


def horizontal(crs: pyproj.CRS) -> pyproj.CRS:
    """The two-dimensional part of `crs`: heights are never transformed."""
    if crs.is_bound and crs.source_crs is not None and crs.source_crs.is_compound:
        return horizontal(crs.source_crs)
    if crs.is_compound:
        return horizontal(crs.sub_crs_list[0])
    return crs.to_2d()


@lru_cache(maxsize=256)
def same_crs(a: str, b: str) -> bool:
    """Whether two WKTs mean one CRS (axis order aside: x always comes first here)."""
    return a == b or bool(pyproj.CRS.from_wkt(a).equals(pyproj.CRS.from_wkt(b), ignore_axis_order=True))


@lru_cache(maxsize=64)
def _transformer(source: str, target: str, area: AreaOfInterest | None) -> Transformer:
    return Transformer.from_crs(
        pyproj.CRS.from_wkt(source), pyproj.CRS.from_wkt(target), always_xy=True, area_of_interest=area
    )


def project(x: Floats, y: Floats, source: GeoBox, target: GeoBox) -> tuple[Floats, Floats]:
    """World coordinates of `source`'s CRS in `target`'s; infinite where the projection is not defined.

    Longitudes come out within half a turn of `target`'s centre, so that a grid across the date line, or one
    that counts from 0 to 360, meets one that counts from -180 to 180.

    Raises:
        InputError: one grid has a CRS and the other none, or there is no way from one to the other.
    """
    if (source.crs is None) != (target.crs is None):
        raise InputError("one raster has a CRS and the other none; name the missing one with --assume-crs")
    if source.crs is None or target.crs is None:
        return x, y
    a, b = source.crs.to_wkt(), target.crs.to_wkt()
    if not same_crs(a, b):
        try:
            x, y = _transformer(a, b, area_of(target)).transform(x, y)
        except ProjError as error:
            raise InputError(f"no way from {source.crs} to {target.crs}: {error}") from error
    if target.crs.geographic:
        turn = 2 * math.pi / pyproj.CRS.from_wkt(b).axis_info[0].unit_conversion_factor
        middle = _centre(target)[0]
        with np.errstate(invalid="ignore"):
            x = x - turn * np.round((x - middle) / turn)
    return x, y


@lru_cache(maxsize=64)
def area_of(geobox: GeoBox) -> AreaOfInterest | None:
    """The box in degrees around `geobox`, for PROJ to choose the best operation; None if it has none."""
    if geobox.crs is None:
        return None
    x, y = outline(geobox, 8)
    geodetic = pyproj.CRS.from_wkt(geobox.crs.to_wkt()).geodetic_crs
    if geodetic is None:
        return None
    try:
        lon, lat = _transformer(geobox.crs.to_wkt(), geodetic.to_wkt(), None).transform(x, y)
    except ProjError:
        return None
    if not (np.isfinite(lon).all() and np.isfinite(lat).all()) or np.ptp(lon) > 180 or np.abs(lat).max() > 90:
        return None
    return AreaOfInterest(float(lon.min()), float(lat.min()), float(lon.max()), float(lat.max()))


def outline(geobox: GeoBox, steps: int = 32) -> tuple[Floats, Floats]:
    """World coordinates along the edge of `geobox`, `steps` to a side, clockwise from the first corner."""
    rows, cols = geobox.shape
    t = np.arange(steps) / steps
    o, e = np.zeros(steps), np.ones(steps)
    col, row = np.concatenate([t, e, 1 - t, o]) * cols, np.concatenate([o, t, e, 1 - t]) * rows
    return _apply(geobox.affine, col, row)


def _apply(affine: Affine, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """`affine` of whole arrays; where a projection has no answer they are infinite, and what comes of it is NaN."""
    with np.errstate(invalid="ignore"):
        return affine.a * x + affine.b * y + affine.c, affine.d * x + affine.e * y + affine.f


def _centre(geobox: GeoBox) -> tuple[float, float]:
    """World coordinates of the middle."""
    rows, cols = geobox.shape
    x, y = _apply(geobox.affine, np.array(cols / 2), np.array(rows / 2))
    return float(x), float(y)


def pixels_in(grid: GeoBox, other: GeoBox, col: Floats, row: Floats) -> tuple[Floats, Floats]:
    """Columns and rows of `grid` (corners at whole numbers) as columns and rows of `other`."""
    x, y = project(*_apply(grid.affine, col, row), grid, other)
    return _apply(~other.affine, x, y)


def step_ratio(grid: GeoBox, other: GeoBox) -> tuple[float, float]:
    """Length of one column step and of one row step of `grid`, in pixels of `other`, at `grid`'s centre."""
    rows, cols = grid.shape
    h = 0.5
    u, v = pixels_in(grid, other, cols / 2 + np.array([-h, h, 0, 0]), rows / 2 + np.array([0.0, 0.0, -h, h]))
    return float(np.hypot(u[1] - u[0], v[1] - v[0])), float(np.hypot(u[3] - u[2], v[3] - v[2]))


def ground_resolution(geobox: GeoBox) -> tuple[float, float]:
    """Length on the ground of a pixel's column step and row step at the centre of `geobox`.

    In metres where there is a CRS (geodesic for degrees, the CRS's own unit converted otherwise), else in the
    units of the transform.
    """
    a = geobox.affine
    if geobox.crs is None:
        return math.hypot(a.a, a.d), math.hypot(a.b, a.e)
    crs = pyproj.CRS.from_wkt(geobox.crs.to_wkt())
    unit = crs.axis_info[0].unit_conversion_factor if crs.axis_info else 1.0
    if not crs.is_geographic:
        return math.hypot(a.a, a.d) * unit, math.hypot(a.b, a.e) * unit
    lon, lat = _centre(geobox)
    geod, degrees = crs.get_geod(), math.degrees(unit)
    assert geod is not None
    steps = (
        geod.inv(lon * degrees, lat * degrees, (lon + dx) * degrees, (lat + dy) * degrees)[2]
        for dx, dy in ((a.a, a.d), (a.b, a.e))
    )
    x, y = steps
    return float(x), float(y)


def overlap_fraction(low: GeoBox, guide: GeoBox) -> float:
    """Share of `low`'s area that lies inside `guide`'s outline, 0 to 1 (validity of pixels aside)."""
    rows, cols = low.shape
    world = outline(guide)
    u, v = _apply(~low.affine, *project(*world, guide, low))
    seen = np.isfinite(u) & np.isfinite(v)
    left, right, top, bottom = 0.0, float(cols), 0.0, float(rows)
    if seen.all():
        left, right = max(0.0, float(u.min())), min(float(cols), float(u.max()))
        top, bottom = max(0.0, float(v.min())), min(float(rows), float(v.max()))
    if right <= left or bottom <= top:
        return 0.0
    n = 96
    t = (np.arange(n) + 0.5) / n
    col, row = np.meshgrid(left + t * (right - left), top + t * (bottom - top))
    u, v = pixels_in(low, guide, col.ravel(), row.ravel())
    with np.errstate(invalid="ignore"):
        inside = (u >= 0) & (u <= guide.shape[1]) & (v >= 0) & (v <= guide.shape[0])
    return float(inside.mean()) * (right - left) * (bottom - top) / (rows * cols)


# --- values --------------------------------------------------------------------------------------------------


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
    read: Reader, bands: int, guide: GeoBox, target: GeoBox, plan: Sampling
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """The guide on `target`: float32 (bands, rows, columns) and validity (rows, columns); 0 where invalid.

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
        if splittable and window.height * window.width * plan.across * plan.down * bands > 4 * _SAMPLES_AT_ONCE:
            todo += _halves(window)
            continue
        corner_u, corner_v = _corners(crop(target, window), guide)
        cell = _whole_cells(corner_u, corner_v, guide)
        source = _source_window(corner_u, corner_v, cell, guide, plan.pool)
        if source is None:
            continue
        if splittable and source.height * source.width * bands > 8 * _SAMPLES_AT_ONCE:
            todo += _halves(window)
            continue
        image = _pooled(read, source, guide, plan.pool)
        u = _subdivide(corner_u, plan) / plan.pool - source.col / plan.pool
        v = _subdivide(corner_v, plan) / plan.pool - source.row / plan.pool
        sampled = _sample(image, np.round(u * _LATTICE) / _LATTICE, np.round(v * _LATTICE) / _LATTICE, plan.cubic)
        mean, counted = _block_mean(sampled, plan.down, plan.across)
        counted &= cell
        y, x = window.slices
        values[:, y, x] = np.moveaxis(np.where(counted[..., None], mean, 0), -1, 0)
        valid[y, x] = counted
    return values, valid


def _halves(window: Window) -> list[Window]:
    """`window` cut in two across its longer side."""
    row, col, height, width = window.row, window.col, window.height, window.width
    if height >= width:
        h = height // 2
        return [Window(row, col, h, width), Window(row + h, col, height - h, width)]
    w = width // 2
    return [Window(row, col, height, w), Window(row, col + w, height, width - w)]


def _corners(target: GeoBox, guide: GeoBox) -> tuple[Floats, Floats]:
    """Guide columns and rows of the pixel corners of `target`, (rows + 1, columns + 1); NaN where undefined."""
    rows, cols = target.shape
    col, row = np.meshgrid(np.arange(cols + 1.0), np.arange(rows + 1.0))
    u, v = pixels_in(target, guide, col.ravel(), row.ravel())
    lost = ~(np.isfinite(u) & np.isfinite(v))
    u, v = np.where(lost, np.nan, u), np.where(lost, np.nan, v)
    return u.reshape(col.shape), v.reshape(col.shape)


def _whole_cells(u: Floats, v: Floats, guide: GeoBox) -> npt.NDArray[np.bool_]:
    """Target pixels with four defined corners that do not jump from one side of the guide to the other."""
    lo = np.minimum.reduce([u[:-1, :-1], u[:-1, 1:], u[1:, :-1], u[1:, 1:]])
    hi = np.maximum.reduce([u[:-1, :-1], u[:-1, 1:], u[1:, :-1], u[1:, 1:]])
    if guide.crs is None or not guide.crs.geographic:
        return np.asarray(np.isfinite(lo) & np.isfinite(hi))
    turn = 2 * math.pi / pyproj.CRS.from_wkt(guide.crs.to_wkt()).axis_info[0].unit_conversion_factor
    step = math.hypot(guide.affine.a, guide.affine.b)
    with np.errstate(invalid="ignore"):
        return np.asarray((hi - lo) * step < turn / 2)


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


def _pooled(read: Reader, window: Window, guide: GeoBox, pool: int) -> npt.NDArray[np.float32]:
    """`window` of the guide, which may reach over its edges, as (rows, columns, bands + 1), pooled.

    The last channel is 1 for a valid pixel and 0 for others, which hold 0 in the other channels too.
    """
    top, left = max(window.row, 0), max(window.col, 0)
    bottom = min(window.row + window.height, guide.shape[0])
    right = min(window.col + window.width, guide.shape[1])
    values, valid = read(Window(top, left, bottom - top, right - left))
    image = np.zeros((*window.shape, values.shape[0] + 1), np.float32)
    part = image[top - window.row : bottom - window.row, left - window.col : right - window.col]
    part[..., :-1] = np.moveaxis(values, 0, -1)
    part[..., -1] = valid
    part[~valid] = 0
    if pool == 1:
        return image
    mean, counted = _block_mean(image, pool, pool)
    return np.concatenate([np.where(counted[..., None], mean, 0), counted[..., None]], axis=-1, dtype=np.float32)


def _block_mean(
    image: npt.NDArray[np.float32], down: int, across: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Mean over blocks of the pixels whose last channel is 1, and where these are at least half of a block."""
    rows, cols, channels = image.shape
    if down == across == 1:
        return image[..., :-1], image[..., -1] > 0.5
    strips = image.reshape(rows // down, down, cols, channels)
    summed = reduce(np.add, (strips[:, j] for j in range(down)))  # several times faster than sum(axis=...)
    total = reduce(np.add, (summed[:, i::across] for i in range(across)))
    count = total[..., -1:]
    return (total[..., :-1] / np.maximum(count, 1)).astype(np.float32), count[..., 0] * 2 >= down * across


def _subdivide(corners: Floats, plan: Sampling) -> Floats:
    """Positions of the samples inside the pixels, from the pixels' corners: (rows x down, columns x across).

    Linear between the corners: the curvature of a projection inside one pixel is far below the lattice.
    """
    s = (np.arange(plan.down) + 0.5)[None, :, None] / plan.down
    rows = (corners[:-1, None] * (1 - s) + corners[1:, None] * s).reshape(-1, corners.shape[1])
    t = (np.arange(plan.across) + 0.5) / plan.across
    return (rows[:, :-1, None] * (1 - t) + rows[:, 1:, None] * t).reshape(rows.shape[0], -1)


def _sample(image: npt.NDArray[np.float32], u: Floats, v: Floats, cubic: bool) -> npt.NDArray[np.float32]:
    """`image` (validity last) at columns `u` and rows `v`: (rows, columns, channels), validity last, 0 or 1."""
    rows, cols = image.shape[:2]
    with np.errstate(invalid="ignore"):
        inside = (u >= 2) & (u < cols - 2) & (v >= 2) & (v < rows - 2)
    u, v = np.where(inside, u, 2.0), np.where(inside, v, 2.0)
    flat = image.reshape(rows * cols, -1)
    counted = inside & (flat[v.astype(np.intp) * cols + u.astype(np.intp), -1] > 0)
    if cubic:
        result = _taps(flat, cols, u, v, _keys)
        gaps = counted & ~_surrounded(image[..., -1], u, v)
        result[gaps] = _linear_among_valid(flat, cols, u[gaps], v[gaps])
    else:
        result = _linear_among_valid(flat, cols, u, v)
    result[..., -1] = 1
    result *= counted[..., None]
    return result


def _surrounded(valid: npt.NDArray[np.float32], u: Floats, v: Floats) -> npt.NDArray[np.bool_]:
    """Whether all 4 x 4 pixels that cubic interpolation takes at (u, v) are valid."""
    whole = np.asarray(np.lib.stride_tricks.sliding_window_view(valid > 0, (4, 4)).all(axis=(2, 3)))
    return np.asarray(whole[np.floor(v - 0.5).astype(np.intp) - 1, np.floor(u - 0.5).astype(np.intp) - 1])


def _linear_among_valid(flat: npt.NDArray[np.float32], cols: int, u: Floats, v: Floats) -> npt.NDArray[np.float32]:
    """Linear interpolation among those of the four neighbours that are valid."""
    result = _taps(flat, cols, u, v, _linear)
    weight = result[..., -1:]
    return np.asarray(result / np.where(weight > 0, weight, 1))


Kernel = Callable[[Floats], list[npt.NDArray[np.float32]]]


def _taps(flat: npt.NDArray[np.float32], cols: int, u: Floats, v: Floats, kernel: Kernel) -> npt.NDArray[np.float32]:
    """Weighted sum over the pixels around (u, v), a separable `kernel` of the distance from their centres."""
    base_u, base_v = np.floor(u - 0.5), np.floor(v - 0.5)
    across, down = kernel(u - 0.5 - base_u), kernel(v - 0.5 - base_v)
    reach = len(across) // 2 - 1
    index = (base_v.astype(np.intp) - reach) * cols + base_u.astype(np.intp) - reach
    total = np.zeros((*u.shape, flat.shape[1]), np.float32)
    for j, wy in enumerate(down):
        for i, wx in enumerate(across):
            total += (wy * wx)[..., None] * flat[index + (j * cols + i)]
    return total


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
