"""What `geosr info` says of a pair: what is in it, how it fits, and what would be done."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from odc.geo.geobox import GeoBox

from geosr import coordinates, raster
from geosr.assess import decide
from geosr.estimates import memory_load, scratch_bytes
from geosr.grid import crs_name
from geosr.memory import memory_limit
from geosr.options import Execution, Inputs, Recipe
from geosr.placement import check_batch
from geosr.plan import Plan, make_plan
from geosr.raster import Raster
from geosr.raster_guard import show
from geosr.sampling import sample
from geosr.scene import suspicions


@dataclass(frozen=True)
class Inspection:
    """What `geosr info` says of a pair.

    Attributes:
        plan: what would be done.
        source_valid: share of the source that is valid, on a sample of the tiles.
        guide_valid: share of the sampled area that the guide covers.
        memory: bytes at the peak, about.
        notes: what the user should know.
    """

    plan: Plan
    source_valid: float
    guide_valid: float
    memory: int
    notes: tuple[str, ...]


def inspect(inputs: Inputs, recipe: Recipe, execution: Execution) -> Inspection:
    """Look at a pair as a run would, without working on it; torch is not loaded but to choose a method."""
    plan = make_plan(inputs, decide(inputs, recipe, execution))
    check_batch(plan, execution)
    scene, tiles = plan.scene, plan.tiles
    source, guide, pixels = 0, 0, 0.0
    for tile in sample(tiles):
        source_valid = scene.read_source(tile.window)[1]
        pair = scene.read(tile)
        source, pixels = source + int(source_valid.sum()), pixels + source_valid.size
        guide += int(pair.guide_valid.sum()) // scene.grids.scale**2 if pair else 0
    notes = (*scene.notes, *(suspicions(scene)))
    pixels *= math.prod(scene.grids.low.shape) / sum(math.prod(tile.core.shape) for tile in tiles)  # gaps have no tiles
    return Inspection(plan, source / pixels, guide / pixels, memory_load(plan, execution).peak, notes)


def rows(found: Inspection, *, settings: bool = False, notes: bool = True) -> list[tuple[str, str]]:
    """The lines of `geosr info` as (name, text)."""
    plan, scene, grids = found.plan, found.plan.scene, found.plan.scene.grids
    finer = coordinates.step_ratio(grids.high, scene.guide.geobox)
    height, width = plan.tiles[0].window.times(grids.scale).shape
    chosen = ", ".join(f"{name}={value}" for name, value in asdict(plan.method.settings).items())
    too_much = ", more than this machine has" if found.memory > (memory_limit() or found.memory) else ""
    lines = [
        ("source", _file_row(scene.source)),
        ("guide", _file_row(scene.guide)),
        ("work", f"{grids.low.shape[1]} x {grids.low.shape[0]} source pixels, {found.source_valid:.1%} of them valid"),
        (
            "overlap",
            f"{raster.overlap_fraction(grids.low, scene.guide):.1%} inside the guide's outline, "
            f"{found.guide_valid:.1%} with valid guide pixels",
        ),
        ("output", f"{_grid_row(grids.high)}, scale {grids.scale}"),
        ("ratio", f"{finer[0]:.2f} x {finer[1]:.2f} guide pixels to one output pixel"),
        ("method", f"{plan.method.name}, preset {plan.recipe.preset}, consistency {plan.consistency}"),
        ("tiles", f"{len(plan.tiles)} of {width} x {height} pixels"),
        ("memory", f"about {_size(found.memory)}{too_much}"),
        ("disk", f"up to {_size(scratch_bytes(plan))} until the end of a run"),
    ]
    if settings and chosen:
        lines.append(("settings", chosen))
    return lines + [("note", text) for text in found.notes if notes]


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
