"""What a run writes: where it will lie, the further rasters beside the output, the tags."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from geosr import methods
from geosr.consistency import Consistency
from geosr.encoding import Encoding
from geosr.errors import OutputError, UsageError
from geosr.methods.base import Method
from geosr.options import Execution, Inputs, Layer, Recipe
from geosr.placement import Placement
from geosr.plan import Plan, tile_size
from geosr.publish import check_output, check_own_output
from geosr.published import published_before
from geosr.raster_guard import digest_of_parts, is_folder, show
from geosr.report import Report, check_report
from geosr.style import check_style
from geosr.tile_store import TileStore
from geosr.version import __version__
from geosr.writer import Mosaic

LAYER_ENCODING = Encoding("float32", float("nan"))


def check_outputs(output: Path, inputs: Sequence[Path], execution: Execution) -> tuple[Path, dict[Layer, Path]]:
    """Where the output of a run will lie, and the rasters beside it, before any work is done.

    Raises:
        UsageError, OutputError: as `check_output` and `check_report`; two of them have the same name.
        OutputError: one lies on another file system than the output, beside which all are made.
    """
    output = check_own_output(output, inputs, overwrite=execution.overwrite)
    left, further = published_before(output), {}
    for layer, path in execution.layers.items():
        free = execution.overwrite or Path(os.path.realpath(path)) in left
        further[layer] = check_output(path, inputs, overwrite=free)
        if further[layer].parent.stat().st_dev != output.parent.stat().st_dev:
            raise OutputError(
                f"{show(path)} lies on another file system than the output, beside which it is made; give a name on "
                "that of the output"
            )
    if len({output, *further.values()}) < 1 + len(further):
        raise UsageError("the output and what is written beside it need different names")
    if execution.report:
        check_report(execution.report, [*inputs, output, *further.values()])
    if execution.style:
        check_style(output, overwrite=execution.overwrite or output in left)
    return output, further


def mosaics(
    plan: Plan, placement: Placement, report: Report, store: TileStore, folder: Path, further: Mapping[Layer, Path]
) -> list[Mosaic]:
    """What is to be written, the output itself last.

    Args:
        plan: of the run.
        placement: of the run.
        report: on its tiles.
        store: holds them.
        folder: to work in.
        further: where the rasters beside the output will lie.
    """
    scene = plan.scene
    output = Mosaic(
        source=scene.source,
        grids=scene.grids,
        results=report.results,
        tiles=store,
        folder=folder,
        read_source=scene.read_source,
        consistency=plan.consistency,
        encoding=Encoding.choose(scene.source, plan.recipe.dtype),
        output=report.output,
        tags=_tags(plan, placement, report),
        limits=plan.recipe.limits,
    )
    return [*(_further(output, layer, path) for layer, path in further.items()), output]


def _further(mosaic: Mosaic, layer: Layer, output: Path) -> Mosaic:
    """The mosaic of a raster that is written beside the output: in its units, as it comes from the tiles."""
    return replace(
        mosaic,
        source=replace(mosaic.source, description=layer.description, band_tags={}),
        results=[replace(result, centre=None if result.centre is None else 0.0) for result in mosaic.results],
        tiles=mosaic.tiles.layer(layer),
        consistency=Consistency(np.inf),
        encoding=LAYER_ENCODING,
        output=output,
        tags={**mosaic.tags, "GEOSR_LAYER": str(layer)},
        pools=False,
        limits=(-np.inf, np.inf),
    )


def _tags(plan: Plan, placement: Placement, report: Report) -> dict[str, str]:
    """All tags but what is measured on the output."""
    scene, weights = plan.scene, plan.method.weights
    names = "; ".join(result.tile.name(scene.grids.scale) for result in report.interpolated)
    smaller = "; ".join(f"{each.tile.name(scene.grids.scale)}: {each.batch}" for each in report.results if each.batch)
    pooled = scene.source.pooled
    tags = {
        "GEOSR_VERSION": __version__,
        **asked_tags(plan.inputs, plan.recipe, plan.method),
        "GEOSR_METHOD_PACKAGE": methods.entry(plan.method.name).package or "",
        "GEOSR_WEIGHTS": weights.path.name if weights else "",
        "GEOSR_WEIGHTS_DIGEST": weights.digest if weights else "",
        "GEOSR_DEVICE": placement.device,
        "GEOSR_THREADS_PER_TILE": str(placement.threads),
        "GEOSR_BATCH": str(placement.batch) if placement.batch > 1 else "",
        "GEOSR_SMALLER_BATCHES": smaller,
        "GEOSR_SOURCE": scene.source.path.name,
        "GEOSR_GUIDE": scene.guide.path.name,
        **(scene.shift.tags if scene.shift else {}),
        "GEOSR_POOLED": "" if plan.inputs.native_resolution is None else f"{pooled} x {pooled}",
        "GEOSR_INTERPOLATED_TILES": names,
        "GEOSR_GUIDED_PERCENT": f"{100 * report.guided:.2f}",
        "GEOSR_EXPECTED_ERROR": f"{report.expected:.4g}",
    }
    return without_empty(tags) | dict(plan.digests)  # of a folder an empty one


def without_empty(tags: Mapping[str, str]) -> dict[str, str]:
    """Those that say something."""
    return {name: text for name, text in tags.items() if text}


def digest_tags(source: Path, guide: Path) -> dict[str, str]:
    """What tells the files from others of their names.

    A folder goes by its name, and has none: which of its files count is up to the pair.

    Raises:
        InputError: one cannot be read.
    """
    files = {"GEOSR_SOURCE_DIGEST": source, "GEOSR_GUIDE_DIGEST": guide}
    return {name: "" if is_folder(path) else digest_of_parts(path) for name, path in files.items()}


def asked_tags(inputs: Inputs, recipe: Recipe, method: Method | None) -> dict[str, str]:
    """What an output's tags say if it is made as is asked for; it has none of those that are empty here.

    Args:
        inputs: as asked for.
        recipe: as asked for.
        method: the recipe's; None leaves out what follows from it.
    """
    bounds, limits, native = inputs.bounds, recipe.limits, inputs.native_resolution
    tags = {
        "GEOSR_SCALE": str(inputs.scale),
        "GEOSR_SEED": str(recipe.seed),
        "GEOSR_BOUNDS": " ".join(map(str, bounds or ())),
        "GEOSR_LIMITS": " ".join(map(str, limits)) if np.isfinite(limits).any() else "",
        "GEOSR_SOURCE_NODATA": _number(inputs.source_nodata),
        **guide_tags(inputs),
        "GEOSR_BAND": "" if inputs.band is None else str(inputs.band),
        "GEOSR_NATIVE_RESOLUTION": "" if native is None else f"{native:g}",
    }
    consistency = recipe.consistency
    if method:
        consistency = consistency or Consistency.parse(method.consistency)
        tags |= {
            "GEOSR_METHOD": method.name,
            "GEOSR_PRESET": recipe.preset,
            "GEOSR_SETTINGS": json.dumps(asdict(method.settings), sort_keys=True),
            "GEOSR_TILE": str(tile_size(recipe, method, inputs.scale)),
            "GEOSR_FIT": recipe.fit or method.fit_scope,
        }
    return tags | ({"GEOSR_CONSISTENCY": str(consistency)} if consistency else {})


def guide_tags(inputs: Inputs) -> dict[str, str]:
    """Of these, what was taken for nodata in the guide, and by how much it was moved."""
    shift = " ".join(map(_number, inputs.guide_shift or ()))
    return {"GEOSR_GUIDE_NODATA": _number(inputs.guide_nodata), "GEOSR_GUIDE_SHIFT": shift}


def _number(value: float | None) -> str:
    """All of its digits; empty where there is none."""
    return "" if value is None else f"{value:.17g}"
