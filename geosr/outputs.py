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
from geosr.options import Bounds, Execution, Inputs, Layer
from geosr.placement import Placement
from geosr.plan import Plan
from geosr.publish import check_output, check_own_output
from geosr.published import published_before
from geosr.raster import Raster
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


def bounds_text(bounds: Bounds | None) -> str:
    """As in the tag, and empty where there are none."""
    return " ".join(map(str, bounds or ()))


def limits_text(limits: tuple[float, float]) -> str:
    """As in the tag, and empty where there are none."""
    return " ".join(map(str, limits)) if np.isfinite(limits).any() else ""


def settings_text(method: Method) -> str:
    """As in the tag: JSON."""
    return json.dumps(asdict(method.settings), sort_keys=True)


def _tags(plan: Plan, placement: Placement, report: Report) -> dict[str, str]:
    scene, recipe = plan.scene, plan.recipe
    names = "; ".join(result.tile.name(scene.grids.scale) for result in report.interpolated)
    package, weights = methods.entry(plan.method.name).package, plan.method.weights
    smaller = "; ".join(f"{each.tile.name(scene.grids.scale)}: {each.batch}" for each in report.results if each.batch)
    special = (
        ({"GEOSR_INTERPOLATED_TILES": names} if names else {})
        | (scene.shift.tags if scene.shift else {})
        | ({"GEOSR_METHOD_PACKAGE": package} if package else {})
        | ({"GEOSR_WEIGHTS": weights.path.name, "GEOSR_WEIGHTS_DIGEST": weights.digest} if weights else {})
        | ({"GEOSR_BATCH": str(placement.batch)} if placement.batch > 1 else {})
        | ({"GEOSR_LIMITS": limits_text(recipe.limits)} if limits_text(recipe.limits) else {})
        | _source_tags(plan.inputs, scene.source)
        | ({"GEOSR_SMALLER_BATCHES": smaller} if smaller else {})
    )
    return special | {
        "GEOSR_VERSION": __version__,
        "GEOSR_METHOD": plan.method.name,
        "GEOSR_PRESET": recipe.preset,
        "GEOSR_SETTINGS": settings_text(plan.method),
        "GEOSR_SCALE": str(scene.grids.scale),
        "GEOSR_CONSISTENCY": str(plan.consistency),
        "GEOSR_TILE": str(recipe.tile),
        "GEOSR_FIT": plan.fit,
        "GEOSR_SEED": str(recipe.seed),
        "GEOSR_DEVICE": placement.device,
        "GEOSR_THREADS_PER_TILE": str(placement.threads),
        "GEOSR_SOURCE": scene.source.path.name,
        "GEOSR_GUIDE": scene.guide.path.name,
        **plan.digests,
        **guide_tags(plan.inputs),
        "GEOSR_GUIDED_PERCENT": f"{100 * report.guided:.2f}",
        "GEOSR_EXPECTED_ERROR": f"{report.expected:.4g}",
    }


def digest_tags(source: Path, guide: Path) -> dict[str, str]:
    """What tells the files from others of their names.

    A folder goes by its name, and has none: which of its files count is up to the pair.

    Raises:
        InputError: one cannot be read.
    """
    files = {"GEOSR_SOURCE_DIGEST": source, "GEOSR_GUIDE_DIGEST": guide}
    return {name: "" if is_folder(path) else digest_of_parts(path) for name, path in files.items()}


def guide_tags(inputs: Inputs) -> dict[str, str]:
    """What was taken for nodata in the guide, and by how much it was moved, if that was asked for."""
    nodata, shift = nodata_text(inputs.guide_nodata), shift_text(inputs.guide_shift)
    return ({"GEOSR_GUIDE_NODATA": nodata} if nodata else {}) | ({"GEOSR_GUIDE_SHIFT": shift} if shift else {})


def shift_text(shift: tuple[float, float] | None) -> str:
    """As in the tag, and empty where none was given."""
    return " ".join(f"{number:.17g}" for number in shift or ())


def nodata_text(value: float | None) -> str:
    """As in the tag, and empty where none was given."""
    return "" if value is None else f"{value:.17g}"


def _source_tags(inputs: Inputs, source: Raster) -> dict[str, str]:
    """What was taken of the source's file: the part and the band asked for, and that it was averaged first."""
    part = {} if inputs.bounds is None else {"GEOSR_BOUNDS": bounds_text(inputs.bounds)}
    part |= {} if inputs.band is None else {"GEOSR_BAND": str(inputs.band)}
    part |= {} if inputs.source_nodata is None else {"GEOSR_SOURCE_NODATA": nodata_text(inputs.source_nodata)}
    if inputs.native_resolution is None:
        return part
    return part | {
        "GEOSR_NATIVE_RESOLUTION": f"{inputs.native_resolution:g}",
        "GEOSR_POOLED": f"{source.pooled} x {source.pooled}",
    }
