"""What a page shows of a run: source, result, guide and relief side by side, as a whole and in details.

Everything is read thinned out, so that time and size do not grow with the scene: a whole of at most 720 pixels a
side, and two details of at most 448 at the output's own resolution, in which single pixels can be seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from geosr import coordinates, raster
from geosr.grid import GridPair, Window, crop
from geosr.picture import Array, Kind, Mask, Picture, Stretch, around, hillshade, paint, paint_relief
from geosr.quicklook import kind_of, paint_photo, steps_of
from geosr.raster import Raster

WHOLE = 720  # pixels a side at most
DETAIL = 448
BINS = 80  # of the histogram
_KNOWN = 0.8  # share of a detail that must be valid
_ENDS = (0.5, 99.5)  # percentiles between which the histogram's bins lie


@dataclass(frozen=True)
class Subject:
    """The files of a run and how they lie to each other.

    Attributes:
        source, guide: as described.
        result: None where nothing was written.
        grids: of the part that was worked on.
        origin: that part in the source's own pixels.
        seen: the high grid as the guide is looked for.
        uncertainty: the result's standard deviation, if it was written.
    """

    source: Raster
    guide: Raster
    result: Raster | None
    grids: GridPair
    origin: Window
    seen: GeoBox
    uncertainty: Raster | None = None


@dataclass(frozen=True)
class Surface:
    """Values (rows, columns) and where they are valid."""

    values: Array
    valid: Mask


@dataclass(frozen=True)
class View:
    """One window of the high grid, drawn.

    Attributes:
        title: what it shows.
        window: in high pixels.
        step: high pixels to one of the view, along a side.
        pictures: by the name of the layer; the source's has its own, larger pixels.
        surfaces: the same of those that have values.
        stretch: values at the two ends of the colours.
        relief: by how much it was exaggerated.
        affine: from columns and rows of the view to the CRS.
        ground: length of a column step and of a row step of the view: metres, without CRS the transform's units.
        doubt: standard deviation at the bright end of its layer; None without such a layer.
    """

    title: str
    window: Window
    step: int
    pictures: dict[str, Picture]
    surfaces: dict[str, Surface]
    stretch: Stretch
    relief: float
    affine: Affine
    ground: tuple[float, float]
    doubt: float | None = None


@dataclass(frozen=True)
class Histogram:
    """How often values occur, of the pixels of the whole view.

    Attributes:
        edges: of the bins; what lies beyond is counted in the first and the last.
        shares: 0 to 1 for each bin, by the name of the layer.
    """

    edges: NDArray[np.float64]
    shares: dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Look:
    """All there is to see.

    Attributes:
        kind: of the values.
        views: the whole first, then details.
        histogram: of the whole.
        placed: whether there is a CRS; else lengths are in the transform's units.
    """

    kind: Kind
    views: tuple[View, ...]
    histogram: Histogram
    placed: bool


def look(subject: Subject) -> Look:
    """Read and draw everything.

    Raises:
        InputError: a file cannot be read any more.
    """
    kind = kind_of(subject.source)
    rows, cols = subject.grids.high.shape
    everything, step = Window(0, 0, rows, cols), -(-max(rows, cols) // WHOLE)
    whole = _view(subject, kind, "The whole", everything, step)
    details = (_view(subject, kind, title, window, 1) for title, window in _details(subject, whole))
    return Look(kind, (whole, *details), _histogram(whole), subject.seen.crs is not None)


def _view(subject: Subject, kind: Kind, title: str, window: Window, step: int) -> View:
    shape = rows, cols = -(-window.height // step), -(-window.width // step)
    part = Affine.scale(window.width / cols, window.height / rows)
    surfaces = _surfaces(subject, window, step)
    shown = surfaces.get("result", surfaces["source"])
    stretch = Stretch.measure(shown.values, shown.valid)
    painted, relief = _painted(subject, kind, window, surfaces, stretch)
    doubt, drawn = _doubt(subject, window, step)
    pictures = {"guide": _guide(subject, window, shape, part), **painted, **drawn}
    high = subject.grids.high_window(window)
    ground = coordinates.ground_resolution(GeoBox(shape, high.affine * part, high.crs))
    return View(title, window, step, pictures, surfaces, stretch, relief, high.affine * part, ground, doubt)


def _guide(subject: Subject, window: Window, shape: tuple[int, int], part: Affine) -> Picture:
    there = crop(subject.seen, window)
    bands, seen = raster.glance_guide(subject.guide, GeoBox(shape, there.affine * part, there.crs))
    return paint_photo(subject.guide, bands, seen)[0]


def _surfaces(subject: Subject, window: Window, step: int) -> dict[str, Surface]:
    """By the name of the layer, what is shown last."""
    surfaces = {"source": _source(subject, window, max(step // subject.grids.scale, 1))}
    if subject.result:
        surfaces["result"] = Surface(*raster.glance_source(subject.result, step, window))
    return surfaces


def _painted(
    subject: Subject, kind: Kind, window: Window, surfaces: Mapping[str, Surface], stretch: Stretch
) -> tuple[dict[str, Picture], float]:
    """Each surface and the relief of the last, in pictures; and by how much that was exaggerated."""
    pictures = {}
    for name, surface in surfaces.items():
        pixel = window.height / surface.valid.shape[0]  # in high pixels
        shade, factor = hillshade(surface.values, surface.valid, steps_of(subject.grids.high, kind, pixel))
        relief = shade if kind.name == "elevation" else None
        pictures[name] = paint(surface.values, surface.valid, kind.name, stretch, relief)
    return {**pictures, "hillshade": paint_relief(shade, surface.valid)}, factor


def _doubt(subject: Subject, window: Window, step: int) -> tuple[float | None, dict[str, Picture]]:
    """The standard deviation at the bright end of its picture, and that, if it was written."""
    if not subject.uncertainty:
        return None, {}
    values, valid = raster.glance_source(subject.uncertainty, step, window)
    doubt = Stretch.measure(values, valid).high
    return doubt, {"uncertainty": paint(values, valid, "other", Stretch(0.0, doubt))}


def _source(subject: Subject, window: Window, step: int) -> Surface:
    """The source under a window of the high grid, in its own pixels or larger ones."""
    scale, origin = subject.grids.scale, subject.origin
    low = Window(window.row // scale, window.col // scale, window.height // scale, window.width // scale)
    return Surface(*raster.glance_source(subject.source, step, low.shifted(origin.row, origin.col)))


def _details(subject: Subject, whole: View) -> Iterator[tuple[str, Window]]:
    """Where to look closer: where the relief of the whole is strongest, and where it is as usual."""
    scale, size = subject.grids.scale, subject.grids.high.shape
    high, wide = (min(DETAIL // scale * scale, length) for length in size)
    down, across = high // whole.step, wide // whole.step  # pixels of the view
    surface = whole.surfaces.get("result")
    if whole.step == 1 or surface is None or min(down, across, *surface.valid.shape) < 2:
        return
    steps = np.hypot(*np.gradient(np.where(surface.valid, surface.values, np.nan)))
    rows, cols = steps.shape[0] // down, steps.shape[1] // across
    cells = steps[: rows * down, : cols * across].reshape(rows, down, cols, across).swapaxes(1, 2)
    cells = cells.reshape(rows * cols, down * across)
    known = np.isfinite(cells)
    strength = np.where(known, cells, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    order = [int(i) for i in np.argsort(strength) if known[i].mean() > _KNOWN]
    places = {order[-1]: "strongest relief", order[len(order) // 2]: "usual relief"} if order else {}
    for number, (place, words) in enumerate(places.items(), 1):
        row, col = place // cols * down * whole.step, place % cols * across * whole.step
        row, col = min(row, size[0] - high) // scale * scale, min(col, size[1] - wide) // scale * scale
        yield f"Detail {number}: {words}", Window(row, col, high, wide)


def _histogram(whole: View) -> Histogram:
    known = {name: surface.values[surface.valid] for name, surface in whole.surfaces.items()}
    together = np.concatenate([*known.values()])
    low, high = np.percentile(together, _ENDS) if together.size else (0.0, 1.0)
    edges = np.linspace(low, high, BINS + 1) if low < high else np.linspace(*around(low), BINS + 1)
    counts = {name: np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0] for name, values in known.items()}
    return Histogram(edges, {name: count / max(count.sum(), 1) for name, count in counts.items()})
