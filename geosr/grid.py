"""`GridPair`: the source's grid and the output's grid as one value."""

from __future__ import annotations

import math
from dataclasses import dataclass

from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox

from geosr.errors import InputError, UsageError

MIN_SCALE, MAX_SCALE = 2, 32


def check_scale(scale: float) -> int:
    """`scale` as an int from 2 to 32; `UsageError` for anything else."""
    if not MIN_SCALE <= scale <= MAX_SCALE or int(scale) != scale:
        raise UsageError(f"scale is {scale:g}; it must be a whole number from {MIN_SCALE} to {MAX_SCALE}")
    return int(scale)


@dataclass(frozen=True)
class Window:
    """A rectangle of pixels: rows `row:row+height`, columns `col:col+width` (rows first, as in arrays)."""

    row: int
    col: int
    height: int
    width: int

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width

    @property
    def slices(self) -> tuple[slice, slice]:
        """Row and column slices into an array of the window's grid."""
        return slice(self.row, self.row + self.height), slice(self.col, self.col + self.width)

    @property
    def pixels(self) -> int:
        """How many there are."""
        return self.height * self.width

    def times(self, scale: int) -> Window:
        """The same ground in pixels `scale` times smaller."""
        return Window(self.row * scale, self.col * scale, self.height * scale, self.width * scale)

    def relative_to(self, other: Window) -> Window:
        """This window in the pixel coordinates of `other`'s upper left corner."""
        return self.shifted(-other.row, -other.col)

    def shifted(self, rows: int, cols: int) -> Window:
        """As large, so many rows further down and columns further right."""
        return Window(self.row + rows, self.col + cols, self.height, self.width)

    def grown(self, margin: int) -> Window:
        """With so many pixels more on every side."""
        return Window(self.row - margin, self.col - margin, self.height + 2 * margin, self.width + 2 * margin)

    def intersection(self, other: Window) -> Window:
        """What both hold; a window of no pixels where they share none."""
        row, col = max(self.row, other.row), max(self.col, other.col)
        bottom = min(self.row + self.height, other.row + other.height)
        right = min(self.col + self.width, other.col + other.width)
        return Window(row, col, max(bottom - row, 0), max(right - col, 0))


def crs_name(crs: CRS | None) -> str:
    """A CRS in a few words for a person: `EPSG:32633 (WGS 84 / UTM zone 33N)`."""
    if crs is None:
        return "no CRS"
    name = crs.proj.name
    return f"EPSG:{crs.epsg} ({name})" if crs.epsg else name


@dataclass(frozen=True)
class GridPair:
    """The low grid (the source's own) and the high grid nested in it, `scale` x `scale` pixels to one.

    The high grid has the CRS and the corner of the low one, rotation and axis directions included, so
    the nesting holds by construction: nothing else in geosr computes an output transform.
    """

    low: GeoBox
    scale: int

    def __post_init__(self) -> None:
        check_scale(self.scale)

    @property
    def high(self) -> GeoBox:
        """The output's grid."""
        rows, cols = self.low.shape
        step = 1.0 / self.scale
        return GeoBox((rows * self.scale, cols * self.scale), self.low.affine * Affine.scale(step, step), self.low.crs)

    def high_window(self, window: Window) -> GeoBox:
        """The grid of `window` (given in high pixels)."""
        return crop(self.high, window)


def crop(geobox: GeoBox, window: Window) -> GeoBox:
    """The part of `geobox` under `window`."""
    return GeoBox(window.shape, geobox.affine * Affine.translation(window.col, window.row), geobox.crs)


def pool_grid(geobox: GeoBox, times: int) -> GeoBox:
    """The grid of whole blocks of `times` x `times` pixels, from the same corner."""
    rows, cols = (side // times for side in geobox.shape)
    return GeoBox((rows, cols), geobox.affine * Affine.scale(times, times), geobox.crs)


def plan_grids(
    source: GeoBox, guide: GeoBox, scale: int, bounds: tuple[float, float, float, float] | None = None
) -> tuple[GridPair, GeoBox, Window, tuple[str, ...]]:
    """The grids of a run, the guide's grid (which a pair without georeference takes from the source), and notes.

    Args:
        source: the source's grid.
        guide: the guide's grid.
        scale: output pixels to one source pixel along a side.
        bounds: (left, bottom, right, top) in the source's CRS; snapped outward to source pixels.

    Returns:
        The grids of the part to work on; the guide's grid; that part in source pixels; sentences to show.

    Raises:
        UsageError: the scale is out of range, or the bounds miss the source.
        InputError: one raster has no CRS, or neither has a position and their pixels do not nest.
    """
    check_scale(scale)
    guide, notes = reconcile(source, guide)
    origin = _window(source, bounds)
    edges = origin.row, origin.col, origin.row + origin.height, origin.col + origin.width
    if bounds is not None and _touched(source, bounds) != edges:
        notes += ("the bounds reach beyond the source: only its part of them is worked on",)
    grids = GridPair(crop(source, origin), scale)
    return grids, guide, origin, notes


def reconcile(
    source: GeoBox, guide: GeoBox, names: tuple[str, str] = ("source", "guide")
) -> tuple[GeoBox, tuple[str, ...]]:
    """The guide's grid in the world of the source's, and a note; only a pair without any CRS needs it.

    Raises:
        InputError: one of them, called by its name, has no CRS, or neither has a position and their pixels do not nest.
    """
    if (source.crs is None) != (guide.crs is None):
        which, other = (names[0], guide) if source.crs is None else (names[1], source)
        raise InputError(
            f"the {which} has no CRS, the other raster has {crs_name(other.crs)}; "
            "name the missing one with --assume-crs"
        )
    if source.crs is not None:
        return guide, ()
    if not any(box.affine.almost_equals(Affine.identity()) for box in (source, guide)):
        return guide, ("neither raster has a CRS: their coordinates are taken to be of the same one",)
    factors = [g / s for g, s in zip(guide.shape, source.shape, strict=True)]
    if (
        not (_counts_pixels(source) and _counts_pixels(guide))
        or factors[0] != factors[1]
        or not factors[0].is_integer()
    ):
        raise InputError(
            f"neither raster has a CRS, and their pixels do not nest: "
            f"{names[0]} {_size(source)}, {names[1]} {_size(guide)}; "
            "give both a georeference"
        )
    placed = GeoBox(guide.shape, source.affine * Affine.scale(1 / factors[0]), None)
    return placed, ("neither raster is georeferenced: they are taken to share their corners",)


def _counts_pixels(box: GeoBox) -> bool:
    """Whether the coordinates are those of pixels, a whole raster's corner at 0, 0: as in a result of such a pair."""
    a, b, c, d, e, f = box.affine[:6]
    return bool(b == c == d == f == 0 and a == e > 0)


def _size(box: GeoBox) -> str:
    corner = (
        "no georeference" if box.affine.almost_equals(Affine.identity()) else f"corner {box.affine.c}, {box.affine.f}"
    )
    return f"{box.shape[1]} x {box.shape[0]} pixels, {corner}"


def _window(source: GeoBox, bounds: tuple[float, float, float, float] | None) -> Window:
    """The source pixels that `bounds` touches."""
    rows, cols = source.shape
    if bounds is None:
        return Window(0, 0, rows, cols)
    left, bottom, right, top = bounds
    if not (-math.inf < left < right < math.inf and -math.inf < bottom < top < math.inf):
        raise UsageError(f"bounds {bounds} are empty or not finite; give LEFT BOTTOM RIGHT TOP in the source's CRS")
    first_row, first_col, last_row, last_col = _touched(source, bounds)
    first_col, first_row = max(first_col, 0), max(first_row, 0)
    last_col, last_row = min(last_col, cols), min(last_row, rows)
    if first_col >= last_col or first_row >= last_row:
        extent = tuple(round(x, 6) for x in source.extent.boundingbox) if source.crs else f"{cols} x {rows} pixels"
        raise UsageError(f"bounds {bounds} lie outside the source, whose extent is {extent}")
    return Window(first_row, first_col, last_row - first_row, last_col - first_col)


def _touched(source: GeoBox, bounds: tuple[float, float, float, float]) -> tuple[int, int, int, int]:
    """First row and column of the source's pixels that the bounds touch, and those after the last, also beyond it."""
    left, bottom, right, top = bounds
    corners = [~source.affine * corner for corner in ((left, bottom), (left, top), (right, bottom), (right, top))]
    slack = 1e-6  # of a pixel: bounds that lie on pixel edges must not take in one more row
    first = (math.floor(min(c[i] for c in corners) + slack) for i in (1, 0))
    last = (math.ceil(max(c[i] for c in corners) - slack) for i in (1, 0))
    return (*first, *last)
