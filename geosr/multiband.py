"""All bands of a source in one run: the guide is brought onto the output's grid once, for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geosr import raster
from geosr.assess import decide
from geosr.bands import ALL, wavelength_of
from geosr.describe import describe_guide
from geosr.errors import InputError, UsageError
from geosr.estimates import scratch_bytes
from geosr.events import Event, Note, Planned
from geosr.files import check_room, reported
from geosr.geotiff import write_strips
from geosr.grid import GridPair, Window
from geosr.inspection import Inspection, inspect, planned
from geosr.notes import notes_on_earlier_run
from geosr.options import Execution, Inputs, Recipe
from geosr.outputs import digest_tags, guide_tags, without_empty
from geosr.pipeline import fingerprint_of, upscale_file
from geosr.placement import Crew, place_plan
from geosr.plan import Plan
from geosr.publish import check_own_output
from geosr.raster_guard import show
from geosr.run_folder import RunFolder, run_folder
from geosr.scene import Scene
from geosr.writer import merge_bands

_ROWS = 256  # of the guide that are brought onto the grid at once


@dataclass(frozen=True)
class BandsReport:
    """What a run for all bands did.

    Attributes:
        output: the file that was written.
        tiles: of all bands together.
        interpolated: how many of them failed and hold the interpolated source.
        errors: root mean square error to be expected, of each band in its units.
    """

    output: Path
    tiles: int
    interpolated: int
    errors: tuple[float, ...]


def upscale_bands(
    inputs: Inputs, recipe: Recipe, execution: Execution, output: Path, crew: Crew | None = None
) -> BandsReport:
    """Super-resolve every band of `inputs.source` but alpha into one GeoTIFF, each as `upscale_file` does it.

    Reading the guide, bringing it onto the output's grid and, with `coregister`, looking for its shift is done once.
    Each band has a fit and statistics of its own. Finished bands are kept if the run ends early, and the next's tiles.

    Bands have their wavelengths as descriptions, where the file gives those. What differs between the bands of an
    output's tags, the error to be expected for one, is in their own.

    Raises:
        UsageError, InputError, UnavailableError, TileError, OutputError: as `upscale_file`.
        UsageError: something is to be written beside the output.
        InputError: the bands differ in type or nodata value.
    """
    bands, tell = check_bands(inputs, execution), _told(execution)
    output = check_own_output(output, [inputs.source, inputs.guide, *recipe.files], overwrite=execution.overwrite)
    first = replace(inputs, band=bands[0])
    plan = replace(decide(first, recipe, execution), digests=digest_tags(inputs.source, inputs.guide))
    recipe = replace(recipe, method=plan.method.name)
    execution.on_event(planned(plan, execution, _scratch_bytes(plan, len(bands))))
    for text in plan.scene.notes:
        tell(text)
    with run_folder(output, fingerprint_of(plan, place_plan(plan, execution, crew)) | {"band": ALL}) as folder:
        overwrite = folder.may_replace(overwrite=execution.overwrite)
        for text in notes_on_earlier_run(folder):
            tell(text)
        check_room(folder.path, _scratch_bytes(plan, len(bands)))
        guide = _guide_once(folder, plan.scene, tell)
        common = replace(inputs, guide=guide, guide_nodata=None, guide_shift=None, coregister=False)
        done = _each_band(bands, common, recipe, execution, folder, crew, plan.scene)
        merge_bands(
            [_file_of(folder, band) for band in bands],
            folder.path,
            output,
            name=_name,
            tags=_tags(plan) | _interpolated_tags(done),
            compress=recipe.compress,
            overwrite=overwrite,
        )
    return _report(output, [*done.values()])


def inspect_bands(inputs: Inputs, recipe: Recipe, execution: Execution) -> Inspection:
    """What `upscale_bands` would do, by the first of the bands, but the disk is what all of them take.

    Raises:
        UsageError, InputError, UnavailableError: as `upscale_bands`.
    """
    bands = check_bands(inputs, execution)
    found = inspect(replace(inputs, band=bands[0]), recipe, execution)
    return replace(found, disk=_scratch_bytes(found.plan, len(bands)))


def _guide_once(folder: RunFolder, scene: Scene, tell: Callable[[str], None]) -> Path:
    """The guide on the output's grid, for all bands and all runs that continue each other."""
    guide = folder.path / "bands" / "guide.tif"
    with reported(f"cannot write in {folder.path}"):
        guide.parent.mkdir(exist_ok=True)
    folder.remember_file("the guide", guide, partial(_write_guide, _part_for_guide(scene), guide), tell)
    return guide


def _file_of(folder: RunFolder, band: int) -> Path:
    """Where the output of one band lies."""
    return folder.path / "bands" / f"band{band:04d}.tif"


def _each_band(
    bands: Sequence[int],
    common: Inputs,
    recipe: Recipe,
    execution: Execution,
    folder: RunFolder,
    crew: Crew | None,
    scene: Scene,
) -> dict[int, Mapping[str, Any]]:
    """What is known of every band, each made in the run folder; `common` is what holds for all of them.

    Raises:
        ChangedInputError: the source is not any more what was planned on.
    """
    quiet = replace(execution, overwrite=True, on_event=_once(execution.on_event, scene.notes))
    done = {}
    for number, band in enumerate(bands, 1):
        _told(execution)(f"band {band}, {number} of {len(bands)}")
        raster.check_unchanged(scene.source)  # each band's run looks at it again
        part = _file_of(folder, band)
        run = partial(_run, replace(common, band=band), recipe, quiet, part, crew)
        done[band] = _finished(folder, f"band {band}", part, run, execution)
    raster.check_unchanged(scene.source)
    return done


def _run(inputs: Inputs, recipe: Recipe, execution: Execution, output: Path, crew: Crew | None) -> dict[str, Any]:
    """One band, and what is to be remembered of it."""
    done = upscale_file(inputs, recipe, execution, output, crew)
    names = [result.tile.name(inputs.scale) for result in done.interpolated]
    return {"tiles": done.tiles, "interpolated": names, "expected": done.expected}


def _finished(
    folder: RunFolder, name: str, file: Path, run: Callable[[], Mapping[str, Any]], execution: Execution
) -> Mapping[str, Any]:
    """What is known of a band, made now or by an earlier run; one that holds interpolated tiles only if they may be."""
    found = folder.remember_file(name, file, run, _told(execution))
    if found["interpolated"] and execution.on_tile_error == "fail":
        folder.forget(name)
        found = folder.remember_file(name, file, run, _told(execution))
    return found


def _report(output: Path, done: Sequence[Mapping[str, Any]]) -> BandsReport:
    tiles, interpolated = sum(each["tiles"] for each in done), sum(len(each["interpolated"]) for each in done)
    return BandsReport(output, tiles, interpolated, tuple(each["expected"] for each in done))


def _told(execution: Execution) -> Callable[[str], None]:
    return lambda text: execution.on_event(Note(text))


def _scratch_bytes(plan: Plan, bands: int) -> int:
    """Disk that a run takes, about: what one band's takes, the guide, all bands one by one, together and as output."""
    rows, cols = plan.scene.grids.high.shape
    guide, band = 4 * plan.scene.guide.channels, np.dtype(plan.recipe.dtype).itemsize  # bytes a pixel
    return scratch_bytes(plan) + rows * cols * (guide + 4 * bands * band)


def check_bands(inputs: Inputs, execution: Execution) -> tuple[int, ...]:
    """Numbers of the source's bands, if they can go into one file.

    Raises:
        UsageError: something is to be written beside the output.
        InputError: they have no type or no nodata value in common.
    """
    if execution.layers or execution.report or execution.style:
        raise UsageError("all bands go into one GeoTIFF: reports, styles and rasters beside it need one --band")
    file = describe_guide(inputs.source, nodata=inputs.source_nodata, assume_crs=inputs.assume_crs)
    if any(len({str(nodata) for nodata in part.nodatas}) > 1 for part in file.files):
        raise InputError(f"{show(file.path.name)}: its bands have different nodata values; do them one by one")
    return file.bands


def _name(tags: Mapping[str, str]) -> str | None:
    """A band's wavelength, if its tags give it."""
    centre = wavelength_of(tags)
    return None if centre is None else f"{centre:.4g} um"


def _part_for_guide(scene: Scene) -> Scene:
    """What the guide is needed on; all of it where nothing but its size places it."""
    if scene.source.geobox.crs is not None:
        return scene
    rows, cols = scene.source.shape
    return replace(scene, grids=GridPair(scene.source.geobox, scene.grids.scale), origin=Window(0, 0, rows, cols))


def _write_guide(scene: Scene, path: Path) -> Mapping[str, Any]:
    """The guide on the high grid, as the tiles would read it: float32, NaN where it is missing; nothing to remember."""
    high = scene.grids.high
    names = [f"guide {number}" for number in range(1, scene.guide.channels + 1)]
    write_strips(
        path, _guide_strips(scene), high, scene.source.crs_wkt, units="", description=names, tags={}, overwrite=True
    )
    return {}


def _guide_strips(scene: Scene) -> Iterator[tuple[int, NDArray[np.float32]]]:
    rows, cols = scene.grids.high.shape
    for row in range(0, rows, _ROWS):
        bands, valid = scene.read_guide(Window(row, 0, min(_ROWS, rows - row), cols))
        yield row, np.where(valid, bands, np.float32(np.nan))


def _once(tell: Callable[[Event], None], told: Sequence[str]) -> Callable[[Event], None]:
    """Passes events on, each note only once and no band's plan: what holds for the pair is said of every band."""
    known = set(told)

    def pass_on(event: Event) -> None:
        if isinstance(event, Planned):
            return
        if isinstance(event, Note):
            if event.text in known:
                return
            known.add(event.text)
        tell(event)

    return pass_on


def _tags(plan: Plan) -> dict[str, str]:
    """What the bands' own tags do not know: the real guide, and where it was found."""
    shift = plan.scene.shift
    guide = {"GEOSR_GUIDE": plan.scene.guide.path.name, **plan.digests, **without_empty(guide_tags(plan.inputs))}
    return guide | {"GEOSR_BAND": ALL} | (shift.tags if shift else {})


def _interpolated_tags(done: Mapping[int, Mapping[str, Any]]) -> dict[str, str]:
    """The file's tag that names every band's interpolated tiles: a batch reads no band's own."""
    named = [f"band {band}: {', '.join(each['interpolated'])}" for band, each in done.items() if each["interpolated"]]
    return {"GEOSR_INTERPOLATED_TILES": "; ".join(named)} if named else {}
