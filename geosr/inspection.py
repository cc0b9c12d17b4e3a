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
from geosr.describe import describe_guide
from geosr.errors import GeosrError
from geosr.estimates import memory_load, scratch_bytes
from geosr.grid import Window, crs_name
from geosr.memory import memory_limit
from geosr.options import Execution, Inputs, Planned, Recipe
from geosr.placement import check_batch
from geosr.plan import Plan
from geosr.preflight import suspicious_constant
from geosr.raster import Raster
from geosr.raster_guard import show
from geosr.sampling import sample
from geosr.scene import suspicions

_SOURCE_TILES, _GUIDE_TILES = 256, 64  # that are looked at at most: a tile of the guide has many times the pixels


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
        guide_valid: share of the output's pixels on which there is a guide; in gaps without tiles none is counted.
        memory: bytes at the peak, about.
        disk: bytes that a run takes until its end, about.
        planning: seconds that a run will spend again before its tiles: on finding a shift and choosing a method.
        notes: what the user should know.
    """

    plan: Plan
    source_valid: Share
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
    notes = (*plan.scene.notes, *suspicions(plan.scene, limited=recipe.limited))
    return replace(_look_at(plan, execution, scratch_bytes(plan)), planning=planning, notes=notes)


def _look_at(plan: Plan, execution: Execution, disk: int) -> Inspection:
    """What there is to say of a plan that is made, but for what its making took and brought up."""
    scene = plan.scene
    source = _share(plan, _SOURCE_TILES, lambda core: scene.read_source(core)[1])
    guide = _share(plan, _GUIDE_TILES, lambda core: scene.read_guide(core.times(scene.grids.scale))[1])
    return Inspection(plan, source, guide, memory_load(plan, execution).peak, disk)


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
    """
    file = describe_guide(path, nodata=nodata, assume_crs=assume_crs)
    yield "raster", _file_row(file)
    yield "extent", coordinates.extent_text(file.geobox)
    if file.units:
        yield "unit", show(file.units)
    constant = suspicious_constant(file)
    suspicion = () if constant is None else (f"it contains {constant:.17g}, which looks like undeclared nodata",)
    for text in (*file.warnings, *coordinates.unused_crs(assume_crs, [file.geobox]), *suspicion):
        yield "note", text


def planned(plan: Plan, execution: Execution, disk: int) -> Planned:
    """The event of a run whose plan is made, and which takes so many bytes of disk; its notes are told as such."""
    return Planned(lambda: rows(_look_at(plan, execution, disk), settings=True))


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
        (
            "overlap",
            f"{covered:.1%} inside the guide's outline, {found.guide_valid} with valid guide pixels",
        ),
        ("output", f"{_grid_row(grids.high)}, scale {grids.scale}"),
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
    nodata = "none declared" if file.nodata is None else f"{file.nodata:g}"
    bands = f"{len(file.bands)} band" + ("s" if len(file.bands) > 1 else "") + (" and alpha" if file.alpha else "")
    name = show(file.path.name) + (f" ({len(file.parts)} files)" if file.parts else "")
    return f"{name}: {_grid_row(file.geobox)}, {bands} of {file.dtype}, nodata {nodata}"


def _grid_row(box: GeoBox) -> str:
    x, y = coordinates.ground_resolution(box)
    unit = "m" if box.crs else "pixels"
    return f"{box.shape[1]} x {box.shape[0]} pixels of {x:.4g} x {y:.4g} {unit}, {crs_name(box.crs)}"
