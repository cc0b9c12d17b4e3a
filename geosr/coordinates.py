"""Where grids lie on the ground and in one another: coordinate systems, outlines, sizes of pixels."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyproj
from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from pyproj.exceptions import CRSError, ProjError
from pyproj.transformer import AreaOfInterest, Transformer, TransformerGroup

from geosr.errors import InputError, UsageError
from geosr.grid import Window, crop, crs_name
from geosr.mosaic import overlaps
from geosr.raster_guard import show

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_KEPT = 0.02  # LAEA Europe is 1.3 % off at the North Cape, UTM 0.5 % in the next zone


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


def same_datum(a: str, b: str) -> bool:
    """Whether two WKTs measure from one datum, so that the way between them is one of formulas alone."""
    first, second = (pyproj.CRS.from_wkt(wkt).geodetic_crs for wkt in (a, b))
    return same_crs(a, b) or bool(first and second and first.equals(second, ignore_axis_order=True))


@lru_cache(maxsize=64)
def _transformer(source: str, target: str, area: AreaOfInterest | None) -> Transformer:
    return Transformer.from_crs(
        pyproj.CRS.from_wkt(source), pyproj.CRS.from_wkt(target), always_xy=True, area_of_interest=area
    )


def transform(x: Floats, y: Floats, source: GeoBox, target: GeoBox) -> tuple[Floats, Floats]:
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
    return _turned(x, target, _centre(target)[0]), y


def _turned(x: Floats, grid: GeoBox, near: float) -> Floats:
    """Longitudes of `grid`'s CRS moved by whole turns to within half a turn of `near`; coordinates in metres stay."""
    if grid.crs is None or not grid.crs.geographic:
        return x
    whole = turn(grid.crs)
    with np.errstate(invalid="ignore"):
        return x - whole * np.round((x - near) / whole)


def turn(crs: CRS) -> float:
    """A whole turn in the units of a geographic CRS: 360 where they are degrees."""
    return float(2 * math.pi / pyproj.CRS.from_wkt(crs.to_wkt()).axis_info[0].unit_conversion_factor)


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
    degrees, zero = math.degrees(geodetic.axis_info[0].unit_conversion_factor), geodetic.prime_meridian
    lon, lat = lon * degrees, lat * degrees
    lon += math.degrees(zero.longitude * float(zero.unit_conversion_factor)) if zero else 0.0
    if not (np.isfinite(lon).all() and np.isfinite(lat).all()) or np.ptp(lon) > 180 or np.abs(lat).max() > 90:
        return None
    turns = 360 * round((lon.min() + lon.max()) / 720)  # PROJ knows longitudes within half a turn only
    west, east = float(lon.min()) - turns, float(lon.max()) - turns
    west, east = west if west >= -180 else west + 360, east if east <= 180 else east - 360
    return AreaOfInterest(west, float(lat.min()), east, float(lat.max()))


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
    x, y = transform(*_apply(grid.affine, col, row), grid, other)
    return _apply(~other.affine, x, y)


def moved(grid: GeoBox, shift: tuple[float, float], at: GeoBox) -> GeoBox:
    """`grid` moved by (x, y) in the units of `at`'s CRS: in its own CRS by what that is at the centre of `at`."""
    x, y = _centre(at)
    u, v = transform(np.array([x, x + shift[0]]), np.array([y, y + shift[1]]), at, grid)
    return GeoBox(grid.shape, Affine.translation(float(u[1] - u[0]), float(v[1] - v[0])) * grid.affine, grid.crs)


def step_ratio(grid: GeoBox, other: GeoBox) -> tuple[float, float]:
    """Length of one column step and of one row step of `grid`, in pixels of `other`, at `grid`'s centre."""
    rows, cols = grid.shape
    h = 0.5
    col, row = cols / 2 + np.array([-h, h, 0, 0]), rows / 2 + np.array([0.0, 0.0, -h, h])
    x, y = transform(*_apply(grid.affine, col, row), grid, other)
    x = _turned(x, other, float(x[0]))  # the centre may lie where the other's longitudes begin and end
    u, v = _apply(~other.affine, x, y)
    return float(np.hypot(u[1] - u[0], v[1] - v[0])), float(np.hypot(u[3] - u[2], v[3] - v[2]))


def ground_resolution(geobox: GeoBox) -> tuple[float, float]:
    """Length on the ground of a pixel's column step and row step at the centre of `geobox`.

    In metres where there is a CRS, else in the units of the transform. It is geodesic, but for projections that keep
    lengths to 2 % there, as UTM, national grids and LAEA Europe do where they are meant to be used: there it is the
    length on the map, for a pixel of 10 m is called so, and not 9.996. The length on the map is also what remains
    where PROJ has no answer: for engineering CRSs and outside of a projection's area.
    """
    a = geobox.affine
    across, down = math.hypot(a.a, a.d), math.hypot(a.b, a.e)
    if geobox.crs is None:
        return across, down
    crs = pyproj.CRS.from_wkt(geobox.crs.to_wkt())
    unit = crs.axis_info[0].unit_conversion_factor if crs.axis_info else 1.0
    across, down = across * unit, down * unit
    geodesic = _geodesic_steps(geobox, crs)
    if geodesic is None:
        return across, down
    keeps_lengths = np.allclose(geodesic, (across, down), rtol=_KEPT, atol=0.0)
    return (across, down) if keeps_lengths and not crs.is_geographic else geodesic


def _geodesic_steps(geobox: GeoBox, crs: pyproj.CRS) -> tuple[float, float] | None:
    """Metres of a column step and a row step from the centre along the ellipsoid; None where PROJ has no answer."""
    geodetic, geod, a = crs.geodetic_crs, crs.get_geod(), geobox.affine
    if geodetic is None or geod is None:
        return None
    col, row = (
        side / 2 + np.array(steps) for side, steps in zip(geobox.shape[::-1], ((0, 1, 0), (0, 0, 1)), strict=True)
    )
    x, y = _apply(a, col, row)
    if not crs.is_geographic:
        try:
            x, y = _transformer(crs.to_wkt(), geodetic.to_wkt(), None).transform(x, y)
        except ProjError:
            return None
    degrees = math.degrees(geodetic.axis_info[0].unit_conversion_factor)
    lon, lat = x * degrees, y * degrees
    lengths = geod.inv(lon[[0, 0]], lat[[0, 0]], lon[1:], lat[1:])[2]
    return (float(lengths[0]), float(lengths[1])) if (lengths > 0).all() else None


def pixel_text(geobox: GeoBox) -> str:
    """Size of a pixel in the units of the CRS, for a person, and on the ground where that is something else."""
    a = geobox.affine
    size = math.hypot(a.a, a.d), math.hypot(a.b, a.e)
    text = f"{size[0]:.4g} x {size[1]:.4g}"
    if geobox.crs is None:
        return f"{text} units"
    axes = pyproj.CRS.from_wkt(geobox.crs.to_wkt()).axis_info
    unit = axes[0].unit_name if axes else "metre"
    ground = ground_resolution(geobox)
    named = {"metre": "m", "degree": "degrees"}.get(unit, show(unit, 40))
    if unit == "metre" and ground == size:
        return f"{text} {named}"
    return f"{text} {named} ({ground[0]:.4g} x {ground[1]:.4g} m on the ground)"


def overlap_fraction(low: GeoBox, guide: GeoBox, parts: Sequence[Window] = ()) -> float:
    """Share of `low`'s area that lies inside `guide`'s outline, or its `parts`, 0 to 1 (validity of pixels aside)."""
    if not parts:
        return _share(low, guide, Window(0, 0, *guide.shape), (), 96)
    counted: list[list[Window]] = [[] for _ in parts]
    for _, place, shared in overlaps(parts):
        counted[place].append(shared)
    return min(sum(_share(low, guide, *each, 32) for each in zip(parts, counted, strict=True)), 1.0)


def _share(low: GeoBox, guide: GeoBox, part: Window, others: Sequence[Window], n: int) -> float:
    """Share of `low`'s area that lies in `part` of `guide` and in none of `others`; an n x n lattice is looked at."""
    rows, cols = low.shape
    world = outline(crop(guide, part))
    u, v = _apply(~low.affine, *transform(*world, guide, low))
    seen = np.isfinite(u) & np.isfinite(v)
    left, right, top, bottom = 0.0, float(cols), 0.0, float(rows)
    if seen.all():
        left, right = max(0.0, float(u.min())), min(float(cols), float(u.max()))
        top, bottom = max(0.0, float(v.min())), min(float(rows), float(v.max()))
    if right <= left or bottom <= top:
        return 0.0
    t = (np.arange(n) + 0.5) / n
    col, row = np.meshgrid(left + t * (right - left), top + t * (bottom - top))
    u, v = pixels_in(low, guide, col.ravel(), row.ravel())
    inside = _within(part, u, v)
    for other in others:
        inside &= ~_within(other, u, v)
    return float(inside.mean()) * (right - left) * (bottom - top) / (rows * cols)


def _within(window: Window, u: Floats, v: Floats) -> Mask:
    with np.errstate(invalid="ignore"):
        across = (u >= window.col) & (u <= window.col + window.width)
        return across & (v >= window.row) & (v <= window.row + window.height)


def parse_crs(text: str) -> pyproj.CRS:
    """A CRS from an EPSG code, a PROJ string or WKT that a person typed; neither files nor URLs are opened.

    Raises:
        UsageError: it names no CRS.
    """
    hint = f"'{show(text, 60)}' names no CRS; give one like EPSG:32632, or WKT"
    if any(part in text for part in ("://", "+init", "nadgrids=", "geoidgrids=")):
        raise UsageError(hint)
    try:
        return pyproj.CRS.from_user_input(text)
    except (CRSError, ProjError) as error:
        raise UsageError(hint) from error


def unused_crs(assumed: str | None, grids: Iterable[GeoBox]) -> tuple[str, ...]:
    """What to say of a CRS for files that name none (`parse_crs`) where all have another one: at most one sentence."""
    if assumed is None:
        return ()
    wkt = horizontal(parse_crs(assumed)).to_wkt()
    if any(grid.crs is None or same_crs(wkt, grid.crs.to_wkt()) for grid in grids):
        return ()
    return (f"--assume-crs {show(assumed, 60)} is not used: it is for files that name no CRS",)


def whole_crs_name(wkt: str | None, grid: GeoBox) -> str:
    """As `crs_name` of a grid whose whole CRS is `wkt`, its vertical part included: `EPSG:25833+7837 (...)`."""
    crs = pyproj.CRS.from_wkt(wkt) if wkt else None
    if crs and crs.is_bound:
        crs = crs.source_crs
    if crs is None or len(crs.axis_info) < 3:
        return crs_name(grid.crs)
    codes = [part.to_epsg() for part in crs.sub_crs_list or [crs]]
    return f"EPSG:{'+'.join(map(str, codes))} ({crs.name})" if all(codes) else crs.name


def extent_text(geobox: GeoBox) -> str:
    """Bounds and CRS of `geobox` for a message."""
    x, y = outline(geobox)
    places = 5 if geobox.crs is not None and geobox.crs.geographic else 1
    left, bottom, right, top = (f"{n:.{places}f}" for n in (x.min(), y.min(), x.max(), y.max()))
    return f"x {left} to {right}, y {bottom} to {top} ({_named(geobox)})"


def check_transform(source: GeoBox, guide: GeoBox, *, allow_ballpark: bool = False, name: str = "guide") -> str | None:
    """How well the guide's CRS can be brought into the source's: None (exactly), or a warning that calls it `name`.

    Raises:
        InputError: only a ballpark transformation or one of unknown accuracy can be had here, or one worse than
            half a source pixel where a better one lacks its grid files; `allow_ballpark` makes a warning of it.
    """
    if source.crs is None or guide.crs is None:
        return None
    a, b = source.crs.to_wkt(), guide.crs.to_wkt()
    if same_datum(a, b):
        return None  # formulas without error; PROJ 9.8 no longer says so of every one
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            group = TransformerGroup(
                pyproj.CRS.from_wkt(a),
                pyproj.CRS.from_wkt(b),
                always_xy=True,
                area_of_interest=area_of(guide),
            )
        except (CRSError, ProjError) as error:
            raise InputError(f"no way from {_named(guide)} to {_named(source)}: {show(error)}") from error
    names = f"from {_named(guide)} to {_named(source)}"
    if not group.transformers:
        raise InputError(f"no way {names}; {_without_database() or f'reproject the {name} with gdalwarp first'}")
    best = group.transformers[0]
    ballpark = "ballpark" in best.description.lower() or best.accuracy < 0
    limit = max(ground_resolution(source)) / 2
    if not ballpark and best.accuracy <= limit / 5:
        return None
    accuracy = "unknown accuracy" if ballpark else f"an accuracy of {best.accuracy:g} m"
    missing = "" if group.best_available else " (a better way needs grid files: projsync)"
    message = f"the {name} is brought {names} with {accuracy}{missing}"
    if not allow_ballpark and (ballpark or (best.accuracy > limit and not group.best_available)):
        raise InputError(f"{message}; reproject it yourself, or accept that with --allow-ballpark")
    return message


def _without_database() -> str:
    """What to do where PROJ was sent to a folder without its database; empty where it was not."""
    for variable in ("PROJ_DATA", "PROJ_LIB"):
        folders = [folder for folder in os.environ.get(variable, "").split(os.pathsep) if folder]
        if folders and not any(Path(folder, "proj.db").is_file() for folder in folders):
            return f"{variable} is {show(os.environ[variable])}, where PROJ's database proj.db is not: unset it"
    return ""


def _named(grid: GeoBox) -> str:
    """Its CRS for a message."""
    return show(crs_name(grid.crs), 80)
