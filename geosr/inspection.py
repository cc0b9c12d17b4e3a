"""What `geosr info` says of a pair: what is in it, how it fits, and what would be done."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from geosr import coordinates
from geosr.assess import decide
from geosr.contents import Contents, measure_contents
from geosr.describe import describe_guide
from geosr.errors import GeosrError
from geosr.estimates import memory_load, scratch_bytes
from geosr.events import Planned
from geosr.grid import Window
from geosr.machine import memory_limit
from geosr.moments import Moments
from geosr.options import Execution, Inputs, Recipe
from geosr.placement import check_batch
from geosr.plan import Plan, notes_on
from geosr.preflight import suspicion, suspicious_constant
from geosr.raster import Raster, value_text
from geosr.raster_guard import show
from geosr.sampling import sample

_SOURCE_TILES, _GUIDE_TILES = 256, 64  # that are looked at at most: a tile of the guide has many times the pixels
_NAMED = 12  # bands that get a line each


@dataclass(frozen=True)
class Share:
    """A share of an area, 0 to 1, and whether it is that of a sample of the tiles."""

    value: float
    sampled: bool

    def __str__(self) -> str:
        return f"about {self.value:.0%}" if self.sampled else f"{self.value:.1%}"


@dataclass(frozen=True)
class Inspection:
    """What `geosr info` says of a pair.

    Attributes:
        plan: what would be done.
        source_valid: share of the source's pixels that is valid.
        source_values: of those of its pixels that were looked at: all, or a sample as of the share.
        guide_valid: share of the output's pixels on which there is a guide; in gaps without tiles none is counted.
        memory: bytes at the peak, about.
        disk: bytes that a run takes until its end, about.
        planning: seconds that a run will spend again before its tiles: on finding a shift and choosing a method.
        notes: what the user should know.
    """

    plan: Plan
    source_valid: Share
    source_values: Moments
    guide_valid: Share
    memory: int
    disk: int
    planning: float = 0.0
    notes: tuple[str, ...] = ()


def inspect(inputs: Inputs, recipe: Recipe, execution: Execution) -> Inspection:
    """Look at a pair as a run would, without working on it; torch is not loaded but to choose a method."""
    began = time.monotonic()
    plan = decide(inputs, recipe, execution)
    planning = time.monotonic() - began
    check_batch(plan, execution)
    return replace(_look_at(plan, execution, scratch_bytes(plan)), planning=planning, notes=tuple(notes_on(plan)))


def _look_at(plan: Plan, execution: Execution, disk: int) -> Inspection:
    """What there is to say of a plan that is made, but for what its making took and brought up."""
    scene = plan.scene
    values = Moments(1)

    def read_source(core: Window) -> NDArray[np.bool_]:
        physical, valid = scene.read_source(core)
        values.add(physical[valid][None])
        return valid

    source = _share(plan, _SOURCE_TILES, read_source)
    guide = _share(plan, _GUIDE_TILES, lambda core: scene.read_guide(core.times(scene.grids.scale))[1])
    return Inspection(plan, source, values, guide, memory_load(plan, execution).peak, disk)


def _share(plan: Plan, most: int, read_valid: Callable[[Window], NDArray[np.bool_]]) -> Share:
    """Share of valid pixels in the scene, of which at most so many tiles are looked at; gaps have no tiles."""
    tiles = plan.tiles
    inside = sum(math.prod(tile.core.shape) for tile in tiles) / math.prod(plan.scene.grids.low.shape)
    drawn = sample(tiles, most)
    masks = (read_valid(tile.core) for tile in drawn)
    valid, pixels = np.sum([(mask.sum(), mask.size) for mask in masks], axis=0)
    return Share(float(inside * valid / pixels), len(drawn) < len(tiles))


def describe_files(inputs: Inputs) -> Iterator[tuple[str, str]]:
    """The lines on two files that are refused as a pair; none where one cannot be read, for its error says all."""
    with suppress(GeosrError):
        source, guide = (
            describe_guide(path, nodata=nodata, assume_crs=inputs.assume_crs)
            for path, nodata in ((inputs.source, inputs.source_nodata), (inputs.guide, inputs.guide_nodata))
        )
        yield from (("source", _file_row(source)), ("guide", _file_row(guide)))


def describe_one(path: Path, *, nodata: float | None, assume_crs: str | None) -> Iterator[tuple[str, str]]:
    """What `geosr info` says of one raster, be it source or guide.

    Raises:
        InputError, UsageError: as `describe_guide`.
        InputError: it cannot be read.
    """
    file = describe_guide(path, nodata=nodata, assume_crs=assume_crs)
    found = measure_contents(file)
    yield "raster", _file_row(file)
    yield "extent", coordinates.extent_text(file.geobox)
    yield from _band_rows(found, file.dtype)
    if not found.valid:
        yield "note", "no pixel is valid" + (", of those that were looked at" if found.sampled else "")
    constant = suspicious_constant(file)
    for text in (*file.warnings, *coordinates.unused_crs(assume_crs, [file.geobox])):
        yield "note", text
    if constant is not None:
        yield "note", suspicion("it", value_text(constant, file.dtype))


def planned(plan: Plan, execution: Execution, disk: int) -> Planned:
    """The event of a run whose plan is made, and which takes so many bytes of disk; its notes are told as such."""
    return Planned(lambda: rows(_look_at(plan, execution, disk), settings=True))


def _band_rows(found: Contents, dtype: str) -> Iterator[tuple[str, str]]:
    """A line for each of the first bands, and one on how many pixels are valid."""
    by_band = len({str(band.nodata) for band in found.bands}) > 1
    for band in found.bands[:_NAMED]:
        parts = [band.name, _values_text(band.low, band.high, band.mean, band.deviation, band.units)]
        if (band.scale, band.offset) != (1.0, 0.0):
            parts.append(f"scale {band.scale:.6g} and offset {band.offset:.6g} applied")
        if by_band:
            parts.append(_nodata_text(band.nodata, dtype))
        yield f"band {band.number}", "; ".join(part for part in parts if part)
    if further := found.bands[_NAMED:]:
        low, high = min(band.low for band in further), max(band.high for band in further)
        yield "further", f"{len(further)} bands; {low:.6g} to {high:.6g}"
    share, invalid = Share(found.valid / found.pixels, found.sampled), found.pixels - found.valid
    which = ", all but " + str(invalid) if found.valid and invalid and not found.sampled else ""
    sample = "; as the values, of a sample of them" if found.sampled else ""
    yield "valid", f"{share} of the pixels{which}{sample}"


def _source_values(found: Inspection) -> str:
    values = found.source_values
    if not values.count:
        return "no valid pixel"
    low, high, mean, deviation = (float(each[0]) for each in (values.low, values.high, values.mean, values.deviation))
    sample = "; of a sample of the pixels" if found.source_valid.sampled else ""
    return _values_text(low, high, mean, deviation, found.plan.scene.source.units) + sample


def _values_text(low: float, high: float, mean: float, deviation: float, units: str | None) -> str:
    if math.isnan(low):
        return "no valid pixel"
    unit = f" {show(units)}" if units else ""
    return f"{low:.6g} to {high:.6g}{unit}, mean {mean:.6g}, standard deviation {deviation:.6g}"


def rows(found: Inspection, *, settings: bool = False) -> list[tuple[str, str]]:
    """The lines of `geosr info` as (name, text)."""
    plan, scene, grids = found.plan, found.plan.scene, found.plan.scene.grids
    finer = coordinates.step_ratio(grids.high, scene.guide.geobox)
    covered = coordinates.overlap_fraction(grids.low, scene.guide.geobox, scene.guide.places)
    height, width = plan.tiles[0].window.times(grids.scale).shape
    chosen = ", ".join(f"{name}={value}" for name, value in asdict(plan.method.settings).items())
    too_much = ", more than this machine has" if found.memory > (memory_limit() or found.memory) else ""
    lines = [
        ("source", _file_row(scene.source)),
        ("guide", _file_row(scene.guide)),
        ("work", f"{grids.low.shape[1]} x {grids.low.shape[0]} source pixels, {found.source_valid} of them valid"),
        ("values", _source_values(found)),
        (
            "overlap",
            f"{covered:.1%} inside the guide's outline, {found.guide_valid} with valid guide pixels",
        ),
        ("output", f"{_grid_row(grids.high, scene.source.crs_wkt)}, scale {grids.scale}"),
        ("ratio", f"{finer[0]:.2f} x {finer[1]:.2f} guide pixels to one output pixel"),
        ("method", f"{plan.method.name}, preset {plan.recipe.preset}, consistency {plan.consistency}"),
        ("tiles", f"{len(plan.tiles)} of {width} x {height} pixels"),
        ("memory", f"about {_size(found.memory)}{too_much}"),
        ("disk", f"up to {_size(found.disk)} until the end of a run"),
    ]
    if settings and chosen:
        lines.append(("settings", chosen))
    return lines + [("note", text) for text in found.notes]


def _size(number: float) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{math.ceil(number / 1e6)} MB"


def _file_row(file: Raster) -> str:
    nodata = _nodata_text(file.nodata, file.dtype) if len({*map(str, file.nodatas)}) == 1 else "nodata by band"
    bands = f"{len(file.bands)} band" + ("s" if len(file.bands) > 1 else "") + (" and alpha" if file.alpha else "")
    name = show(file.path.name) + (f" ({len(file.parts)} files)" if file.parts else "")
    unit = f" in {show(file.units)}" if file.units and len(file.bands) == 1 else ""
    return f"{name}: {_grid_row(file.geobox, file.crs_wkt)}, {bands} of {file.dtype}{unit}, {nodata}"


def _nodata_text(nodata: float | None, dtype: str) -> str:
    return "nodata none declared" if nodata is None else f"nodata {value_text(nodata, dtype)}"


def _grid_row(box: GeoBox, crs_wkt: str | None) -> str:
    crs = coordinates.whole_crs_name(crs_wkt, box)
    return f"{box.shape[1]} x {box.shape[0]} pixels of {coordinates.pixel_text(box)}, {show(crs)}"
