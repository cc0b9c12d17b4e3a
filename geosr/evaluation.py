"""A raster against the truth: both brought onto one grid, measured window by window (`geosr.metrics`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox

from geosr import coordinates, raster
from geosr.bands import Band, wavelength_of
from geosr.consistency import pool_measured
from geosr.describe import describe_guide, describe_source
from geosr.errors import InputError, UsageError
from geosr.grid import Window, crop, reconcile
from geosr.metrics import HALO, Array, Block, Mask, Scores, score
from geosr.raster import Raster
from geosr.raster_guard import digest_of_parts, show
from geosr.units import conversion, metres_of

WINDOW = 1024
"""Pixels a side that are measured at once: with them some 350 MB are held, however large the rasters are."""


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    Attributes:
        scores: the metrics.
        units: of the truth, None where its file says nothing.
        notes: on what grid the two were compared, and what else the user should know.
    """

    scores: Scores
    units: str | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Both:
    """Prediction and truth, and the grid on which they are compared: the one with the larger pixels."""

    prediction: Raster
    truth: Raster
    grid: GeoBox
    guide: Raster | None = None

    def blocks(self) -> Iterator[Block]:
        """The windows in which both have a valid pixel."""
        rows, cols = self.grid.shape
        for row in range(0, rows, WINDOW):
            for col in range(0, cols, WINDOW):
                core = Window(row, col, min(WINDOW, rows - row), min(WINDOW, cols - col))
                if block := self._block(core):
                    yield block

    def _block(self, core: Window) -> Block | None:
        window = core.grown(HALO).intersection(Window(0, 0, *self.grid.shape))
        prediction, valid = read_onto(self.prediction, self.grid, window)
        if not valid.any():
            return None
        truth, truth_valid = read_onto(self.truth, self.grid, window)
        block = Block(prediction, truth, valid & truth_valid, core.relative_to(window))
        if self.guide is None:
            return block
        guide, guide_valid = raster.read_guide(self.guide, crop(self.grid, window), grid=self.grid)
        return replace(block, guide=guide.astype(np.float64), guide_valid=guide_valid)


def evaluate(
    prediction: Path,
    truth: Path,
    *,
    source: Path | None = None,
    guide: Path | None = None,
    band: Band | None = None,
    elevation: bool = False,
    step: float | None = None,
    assume_crs: str | None = None,
) -> Evaluation:
    """Measure a prediction against the truth, over the pixels that are valid in both.

    Two rasters on one pixel grid are compared as they are. Otherwise the one with the larger pixels sets the grid, and
    the other is brought onto it as a guide is in a run: averaged where it is finer (a pixel counts where at least half
    of it is valid), cubic convolution where the pixels are as large but lie elsewhere.

    Args:
        prediction: scale and offset are applied; brought into the truth's units where both name theirs.
        truth: of the same ground.
        source: what the prediction was made from; gives the source consistency.
        guide: what it was made with; tells how much of its texture is in the errors.
        band: of those of prediction, truth and source that have several; a number, or a wavelength where all of
            these give theirs.
        elevation: the values are heights, in metres where no unit of length is named; gives errors of slope and aspect.
        step: height of an edge in the truth's units, see `metrics.score`.
        assume_crs: CRS of the rasters that have none.

    Raises:
        InputError: a raster is refused, or the two have no valid pixel in common.
        UsageError: `band`, `step` or `assume_crs` makes no sense.
    """
    files = [truth, prediction, *([source] if source else [])]
    chosen = dict.fromkeys(files) if band is None else _choose(band, {path: _bands(path, assume_crs) for path in files})
    sharp = partial(_describe_sharp, guide, assume_crs)
    return _evaluate(prediction, truth, source, chosen, sharp, elevation, step, assume_crs)


def _describe_sharp(guide: Path | None, assume_crs: str | None, grid: GeoBox) -> Raster | None:
    """The guide as it is wanted for a grid, where there is one."""
    return None if guide is None else describe_guide(guide, assume_crs=assume_crs, near=grid)


def _evaluate(
    prediction: Path,
    truth: Path,
    source: Path | None,
    bands: Mapping[Path, Band | None],
    sharp: Callable[[GeoBox], Raster | None],
    elevation: bool,
    step: float | None,
    assume_crs: str | None,
) -> Evaluation:
    """`evaluate` of the band of each file that `bands` has; `sharp` gives the guide for a grid, if there is one."""
    if step is not None and not 0 <= step < np.inf:
        raise UsageError(f"step is {step:g}; a height of an edge is 0 or more, in the truth's units")
    made = describe_source(prediction, band=bands[prediction], assume_crs=assume_crs)
    real = describe_source(truth, band=bands[truth], assume_crs=assume_crs)
    converted, unit_note = convert(made, real.units, "prediction", "truth")
    both, notes = _align(converted, real)
    if guide := sharp(both.grid):
        guide, note = place_on(both.grid, guide, "truth", "guide")
        both, notes = replace(both, guide=guide), (*notes, *note)
    spacing, height_note = _spacing(both.grid, real.units or made.units) if elevation else (None, ())
    scores = score(both.blocks, step=step, spacing=spacing)
    if not scores.pixels:
        raise InputError(
            f"no pixel is valid in both\nprediction: {coordinates.extent_text(made.geobox)}\n"
            f"truth: {coordinates.extent_text(both.truth.geobox)}"
        )
    if source is not None:
        given = describe_source(
            source, band=bands[source], assume_crs=assume_crs, native_resolution=_native_resolution(made)
        )
        rms, largest, note = measure_consistency(made, given)
        scores = replace(scores, consistency_rms=rms, consistency_max=largest)
        notes = (*notes, *note, *given.warnings)
    unused = coordinates.unused_crs(assume_crs, (made.geobox, real.geobox))
    notes = (*notes, *unused, *made.warnings, *real.warnings, *unit_note, *height_note)
    notes = (*notes, *_wavelength_note(made, real), *_source_note(made, real))
    return Evaluation(scores, real.units, tuple(dict.fromkeys(notes)))


def evaluate_bands(
    prediction: Path,
    truth: Path,
    *,
    source: Path | None = None,
    guide: Path | None = None,
    elevation: bool = False,
    step: float | None = None,
    assume_crs: str | None = None,
) -> dict[int, Evaluation]:
    """`evaluate` of every band, by number: the prediction's first with the truth's first, and so on.

    Raises:
        InputError: as `evaluate`; the two have not as many bands, or the source has another number than they and not 1.
    """
    files = [truth, prediction, *([source] if source else [])]
    known = {path: _bands(path, assume_crs) for path in files}
    bands = known[prediction]
    for path, fewest in ((truth, len(bands)), *([(source, 1)] if source else [])):
        if len(known[path]) not in (fewest, len(bands)):
            raise InputError(
                f"{show(prediction.name)} has {len(bands)} bands, {show(path.name)} {len(known[path])}: "
                "choose one with --band"
            )
    sharp = cache(partial(_describe_sharp, guide, assume_crs))
    measure = partial(_evaluate, sharp=sharp, elevation=elevation, step=step, assume_crs=assume_crs)
    return {band: measure(prediction, truth, source, _choose(band, known)) for band in bands}


def _bands(path: Path, assume_crs: str | None) -> tuple[int, ...]:
    """Numbers of a raster's bands, but for alpha."""
    return describe_guide(path, assume_crs=assume_crs).bands


def _choose(band: Band, known: Mapping[Path, tuple[int, ...]]) -> dict[Path, Band | None]:
    """The band of each raster that has several; where none has, of the first one, which may refuse it."""
    several = [path for path, bands in known.items() if len(bands) > 1] or [*known][:1]
    return {path: band if path in several else None for path in known}


def _native_resolution(made: Raster) -> float | None:
    """Metres to which a run of geosr averaged its source first, by the output's tags."""
    try:
        return float(made.tags["GEOSR_NATIVE_RESOLUTION"])
    except (KeyError, ValueError):
        return None


def _align(prediction: Raster, truth: Raster) -> tuple[_Both, tuple[str, ...]]:
    """The two on the grid of the one with the larger pixels, and what to say of it."""
    if prediction.shape[0] < truth.shape[0]:  # without georeference, a coarser grid can be told by its size alone
        truth, notes = place_on(prediction.geobox, truth, "prediction", "truth")
    else:
        prediction, notes = place_on(truth.geobox, prediction, "truth", "prediction")
    ratio = min(coordinates.step_ratio(truth.geobox, prediction.geobox))
    if ratio >= 0.99:
        on, moved, name, reference = truth, prediction, "prediction", "truth"
    else:
        on, moved, name, reference = prediction, truth, "truth", "prediction"
        ratio = min(coordinates.step_ratio(prediction.geobox, truth.geobox))
    both = _Both(prediction, truth, on.geobox)
    if (nested := _nested(on.geobox, moved.geobox)) and nested[0] == 1:
        return both, (*notes, "prediction and truth lie on one pixel grid: compared as they are")
    how = "averaged" if ratio > 1.01 else "interpolated (cubic convolution)"
    text = f"the {name}, {ratio:.3g} of its pixels to one of the {reference}'s, is {how} onto the {reference}'s grid"
    return both, (*notes, text)


def place_on(grid: GeoBox, moved: Raster, name: str, other: str) -> tuple[Raster, tuple[str, ...]]:
    """A raster in the world of a grid, and what to say of the way there; `name` and `other` are what they are called.

    Raises:
        InputError: one of them has no CRS, or there is no way from one to the other.
    """
    box, notes = reconcile(grid, moved.geobox, (name, other))
    moved = replace(moved, geobox=box)
    # a raster that stands for the grid: only where it lies matters
    way = coordinates.check_transform(grid, moved.geobox, allow_ballpark=True, name=other)
    return moved, (*notes, *((way,) if way else ()))


def convert(file: Raster, units: str | None, name: str, other: str) -> tuple[Raster, tuple[str, ...]]:
    """A raster in the units of another where both name theirs, and what to say of it; by the names of the two."""
    if not file.units or not units:
        return file, ()
    text = f"the {name} is in {show(file.units)}, the {other} in {show(units)}"
    way = conversion(file.units, units)
    if way is None:
        return file, (f"{text}: not converted",)
    factor, offset = way
    converted = replace(file, scale=factor * file.scale, offset=factor * file.offset + offset, units=units)
    return converted, () if way == (1.0, 0.0) else (f"{text}: converted",)


def _spacing(grid: GeoBox, units: str | None) -> tuple[tuple[float, float], tuple[str, ...]]:
    """Length of a column step and a row step in the units of heights, and what to say of it.

    Where those or a CRS are not named, the grid's own: heights are taken to be in the same.
    """
    across, down = coordinates.ground_resolution(grid)
    metres = metres_of(units)
    if grid.crs is None or metres == 1:
        return (across, down), ()
    return (across / metres, down / metres), (f"heights are in {show(units)}: converted to metres for slopes",)


def _source_note(prediction: Raster, truth: Raster) -> tuple[str, ...]:
    """Where the truth is the file that the prediction was made from, by its digest; averaged first it may be one."""
    made_from = prediction.tags.get("GEOSR_SOURCE_DIGEST")
    averaged = "GEOSR_NATIVE_RESOLUTION" in prediction.tags
    if made_from and not averaged and not truth.parts and made_from == digest_of_parts(truth.path):
        return ("the truth is the source of this prediction: this measures consistency, not accuracy",)
    return ()


def _wavelength_note(prediction: Raster, truth: Raster) -> tuple[str, ...]:
    ours, theirs = wavelength_of(prediction.band_tags), wavelength_of(truth.band_tags)
    if ours and theirs and not math.isclose(ours, theirs, rel_tol=1e-3):
        return (f"the prediction's band is at {ours:.4g} um, the truth's at {theirs:.4g} um",)
    return ()


def measure_consistency(prediction: Raster, source: Raster) -> tuple[float, float, tuple[str, ...]]:
    """RMS and largest size of (prediction averaged over a source pixel - that pixel), and what to say of the way.

    In the source's units where both name theirs.

    Raises:
        InputError: no source pixel is covered.
    """
    prediction, unit_note = convert(prediction, source.units, "prediction", "source")
    prediction, notes = place_on(source.geobox, prediction, "source", "prediction")
    squares, count, largest = 0.0, 0, 0.0
    rows, cols = source.shape
    side = max(1, WINDOW // max(1, round(min(coordinates.step_ratio(source.geobox, prediction.geobox)))))
    for row in range(0, rows, side):
        for col in range(0, cols, side):
            window = Window(row, col, min(side, rows - row), min(side, cols - col))
            pooled, known = read_onto(prediction, source.geobox, window)
            values, valid = raster.read_source(source, window)
            off = np.abs((pooled - values)[known & valid])
            squares, count = squares + float((off**2).sum()), count + off.size
            largest = max(largest, float(off.max(initial=0.0)))
    if not count:
        raise InputError(f"the prediction covers no valid pixel of the source {show(source.path.name)}")
    return math.sqrt(squares / count), largest, (*unit_note, *notes)


def read_onto(file: Raster, grid: GeoBox, window: Window) -> tuple[Array, Mask]:
    """Physical values of one band on a window of another grid, and where they are valid.

    Exact means in float64 where the grid's pixels are whole blocks of the file's (or the same); else as a
    guide is read, in float32. A pixel of which less than half is valid is not.

    Args:
        file: from `describe_source`, its geobox in the world of `grid`.
        grid: the whole grid.
        window: of it.

    Raises:
        InputError: the file cannot be read; no way from one CRS to the other.
    """
    nested = _nested(grid, file.geobox)
    if nested is None:
        bands, valid = raster.read_guide(file, crop(grid, window), grid=grid)
        return np.where(valid, bands[0].astype(np.float64) * file.scale + file.offset, 0.0), valid
    scale, row, col = nested
    values, valid = _read_padded(file, window.times(scale).shifted(row, col))
    return (values, valid) if scale == 1 else pool_measured(values, valid, scale)


def _read_padded(file: Raster, window: Window) -> tuple[Array, Mask]:
    """A window that may reach over the file's edges; invalid there."""
    values, valid = np.zeros(window.shape), np.zeros(window.shape, bool)
    part = window.intersection(Window(0, 0, *file.shape))
    if part.pixels:
        inside = part.relative_to(window).slices
        values[inside], valid[inside] = raster.read_source(file, part)
    return values, valid


def _turns(grid: GeoBox, fine: GeoBox) -> float:
    """How far round the globe `grid` lies from `fine`, in whole turns, where one counts from 0 to 360."""
    if fine.crs is None or not fine.crs.geographic:
        return 0.0
    (rows, cols), (fine_rows, fine_cols) = grid.shape, fine.shape
    apart = (grid.affine * (cols / 2, rows / 2))[0] - (fine.affine * (fine_cols / 2, fine_rows / 2))[0]
    return coordinates.turn(fine.crs) * round(apart / coordinates.turn(fine.crs))


def _nested(grid: GeoBox, fine: GeoBox) -> tuple[int, int, int] | None:
    """How many of `fine`'s pixels make a side of one of `grid`'s, and the row and column where it begins; or None."""
    if (grid.crs is None) != (fine.crs is None):
        return None
    if grid.crs is not None and fine.crs is not None and not coordinates.same_crs(grid.crs.to_wkt(), fine.crs.to_wkt()):
        return None
    way = ~fine.affine * Affine.translation(-_turns(grid, fine), 0) * grid.affine
    scale, row, col = round(way.a), round(way.f), round(way.c)
    if scale < 1:
        return None
    rows, cols = grid.shape
    drift = max(abs(way.a - scale), abs(way.e - scale), abs(way.b), abs(way.d)) * max(rows, cols)
    if drift + max(abs(way.c - col), abs(way.f - row)) > 1e-3:
        return None
    return scale, row, col
