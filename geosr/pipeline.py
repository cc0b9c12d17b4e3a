"""The story of a run: plan, statistics, tiles, blend, publish."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from geosr import methods, raster
from geosr.assess import WITHOUT_GUIDE, Assessment, assess
from geosr.consistency import Consistency, spread
from geosr.coregister import Shift, find_shift
from geosr.errors import InputError, OutOfMemoryError, TileError, UsageError
from geosr.grid import GridPair, Window, crop, plan_grids
from geosr.options import AUTO, Execution, Inputs, Note, Recipe, Stage, processors
from geosr.pair import Pair, Stats
from geosr.provenance import fingerprint, versions
from geosr.raster import Raster
from geosr.raster_guard import show
from geosr.report import check_report, describe_run, write_report
from geosr.runner import Pool, Threads
from geosr.store import RunFolder, TileResult, TileStore, check_room, run_folder, write_whole
from geosr.style import check_style, write_style
from geosr.tile_run import Group, TileRun, run_tiles
from geosr.tiling import Tile, cut
from geosr.version import __version__
from geosr.writer import Encoding, Mosaic, Written, check_output, write

if TYPE_CHECKING:
    from geosr.methods.base import Method, Patch, State
    from geosr.methods.solve import Fit, Solution

_SAMPLE_TILES = 32  # tiles whose pixels make the scene's statistics
FIT_TILES = 4  # tiles that a method is fitted on for a whole scene
_ASSESS_TILES = 2  # tiles that methods are tried on one step down
_LARGEST_BATCH = 32  # tiles planned to be fitted together at most: a kill costs all of them
OUTPUT = "output"
"""Name of the output among those that a run writes."""

_LAYER_ENCODING = Encoding("float32", float("nan"))
_NAMED = 20  # failed tiles that an error names; each was told of when it failed


@dataclass(frozen=True)
class Scene:
    """A source and a guide brought onto one pair of nested grids.

    Attributes:
        source: the coarse raster's file.
        guide: the sharp raster's file.
        grids: of the part that is worked on.
        origin: that part in the source's own pixels.
        notes: what the user should know about the pair.
        shift: how far off the guide was found to be; None where nobody asked.
    """

    source: Raster
    guide: Raster
    grids: GridPair
    origin: Window
    notes: tuple[str, ...] = ()
    shift: Shift | None = None

    def read_source(self, window: Window) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Physical values and validity of a window of the low grid."""
        row, col = window.row + self.origin.row, window.col + self.origin.col
        return raster.read_source(self.source, Window(row, col, window.height, window.width))

    def read_guide(self, window: Window) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """The guide and its validity on a window of the high grid."""
        return raster.read_guide(self.guide, crop(self.seen, window), grid=self.seen)

    @property
    def seen(self) -> GeoBox:
        """The high grid as the guide is looked for: where the shift says."""
        rows, cols = self.shift.applied if self.shift else (0.0, 0.0)
        high = self.grids.high
        return GeoBox(high.shape, high.affine * Affine.translation(cols, rows), high.crs)

    def read(self, tile: Tile, *, with_guide: bool = True) -> Pair | None:
        """The tile's aligned arrays; None where the source has no valid pixel. Without the guide it has no bands."""
        source, source_valid = self.read_source(tile.window)
        if not source_valid.any():
            return None
        high = tile.window.times(self.grids.scale)
        guide = self.read_guide(high) if with_guide else _no_bands(high.shape)
        return Pair(*guide, source, source_valid)


def _no_bands(shape: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """A guide for a method that does not use any."""
    return np.zeros((0, *shape), np.float32), np.ones(shape, bool)


@dataclass(frozen=True)
class Report:
    """What a run did.

    Attributes:
        output: the file to be written.
        results: of every tile.
        resumed: how many of them an earlier run had done.
        guided: share of the valid area on which the guide had a say, 0 to 1.
        written: consistency and seams, as measured on the output; None where none was written.
        expected: root mean square error to be expected, in the source's units.
        seconds: by stage.
    """

    output: Path
    results: list[TileResult]
    resumed: int
    guided: float
    written: Written | None
    expected: float
    seconds: dict[str, float]

    @property
    def tiles(self) -> int:
        """How many tiles the scene was cut into."""
        return len(self.results)

    @property
    def skipped(self) -> int:
        """Tiles without any valid source pixel."""
        return sum(result.skipped for result in self.results)

    @property
    def failed(self) -> list[TileResult]:
        """Tiles without an answer: there is no output then."""
        return [result for result in self.results if result.failed]

    @property
    def interpolated(self) -> list[TileResult]:
        """Tiles that failed and hold the interpolated source."""
        return [result for result in self.results if result.interpolated]


@dataclass(frozen=True)
class Plan:
    """Everything decided before the first tile is worked on.

    `reads_guide`: whether the method uses it. `fit` is `scene` or `tile`; `state` is that of the method fitted on the
    scene; None where it is fitted on each tile. `layers` names the rasters to be made beside the output.
    """

    inputs: Inputs
    scene: Scene
    recipe: Recipe
    method: Method
    consistency: Consistency
    tiles: list[Tile]
    fit: str
    reads_guide: bool = True
    state: State | None = None
    layers: tuple[str, ...] = ()

    def read(self, tile: Tile) -> Pair | None:
        """As `Scene.read`, with what the method uses."""
        return self.scene.read(tile, with_guide=self.reads_guide)

    @property
    def fits_scene(self) -> bool:
        """Whether there is a fit to be made before the tiles."""
        return self.fit == "scene" and self.method.needs_fit and len(self.tiles) > 1


@dataclass(frozen=True)
class Placement:
    """Where tiles are worked on: `workers` at once, each with `threads` of the processor, and one of `gpus` if any.

    A fit for the scene has the `fit_threads`.
    `batch` tiles are fitted together; `planned` says that the free memory decided how many.
    """

    device: str
    workers: int
    threads: int
    fit_threads: int
    gpus: tuple[str, ...] = ()
    batch: int = 1
    planned: bool = False


def open_scene(inputs: Inputs) -> Scene:
    """Look at both rasters, see that they can be read, and plan the grids.

    Raises:
        UsageError: a scale or an option out of range.
        InputError: a raster is refused, or the two do not fit.
    """
    if inputs.assume_crs is not None:
        raster.parse_crs(inputs.assume_crs)  # wrong is wrong, also where both files name theirs
    source = raster.describe_source(
        inputs.source, band=inputs.band, nodata=inputs.source_nodata, assume_crs=inputs.assume_crs
    )
    guide = raster.describe_guide(inputs.guide, nodata=inputs.guide_nodata, assume_crs=inputs.assume_crs)
    grids, guide_box, origin, notes = plan_grids(source.geobox, guide.geobox, inputs.scale, inputs.bounds)
    guide = replace(guide, geobox=guide_box)
    shift = raster.check_transform(source, guide, allow_ballpark=inputs.allow_ballpark)
    fit = _check_fit(source, guide, grids)
    notes = (*source.warnings, *guide.warnings, *notes, *(note for note in (shift, *fit) if note))
    scene = Scene(source, guide, grids, origin, notes)
    return _coregistered(scene) if inputs.coregister else scene


def _coregistered(scene: Scene) -> Scene:
    """The scene with its guide looked for where it fits the source."""
    shift = find_shift(scene.grids, scene.read_source, scene.read_guide)
    return replace(scene, shift=shift, notes=(*scene.notes, shift.describe(scene.grids)))


def _check_fit(source: Raster, guide: Raster, grids: GridPair) -> Iterator[str]:
    """What to say of a guide that covers a part only or is coarse; refuse one that is of no use."""
    covered = raster.overlap_fraction(grids.low, guide)
    if covered == 0:
        raise InputError(
            "source and guide do not overlap\n"
            f"source: {raster.extent_text(grids.low)}\nguide: {raster.extent_text(guide.geobox)}"
        )
    finer = min(raster.guide_ratio(guide, grids.low))
    if finer <= 1.01:
        raise InputError(
            f"the guide {show(guide.path.name)} is no finer than the source: {finer:.2f} of its pixels to one source "
            "pixel; a guide with smaller pixels is needed"
        )
    if covered < 0.9995:
        yield f"the guide covers {covered:.1%} of the source"
    if finer < 0.99 * grids.scale:
        support = f"it could support --scale {int(finer + 0.01)}" if finer >= 1.99 else "less than --scale 2"
        yield f"the guide is coarser than the output, {finer:.2f} of its pixels to one source pixel: {support}"


def make_plan(inputs: Inputs, recipe: Recipe) -> Plan:
    """Decide method and tiles; torch is not loaded."""
    method = methods.create(recipe.method, recipe.preset, recipe.settings)
    fit = recipe.fit or method.fits
    if fit == "scene" and method.fits == "tile":
        raise UsageError(
            f"a fit of {method.name} with preset {recipe.preset} holds for its own tile only and is of no use to "
            "the others; use --fit tile"
        )
    if inputs.scale not in method.scales:
        raise UsageError(f"{method.name} works at scales {_spelled(method.scales)}; --scale is {inputs.scale}")
    scene = open_scene(inputs)
    tiles = cut(scene.grids.low.shape, inputs.scale, size=recipe.tile, halo=method.halo(inputs.scale))
    consistency = recipe.consistency or Consistency.parse(method.consistency)
    return Plan(inputs, scene, recipe, method, consistency, tiles, fit, method.uses_guide)


def _spelled(scales: range) -> str:
    return ", ".join(str(scale) for scale in scales)


def place(tiles: int, execution: Execution) -> Placement:
    """Decide device, workers and threads.

    Threads a tile are those of `execution`, or follow from the number of tiles and the machine; never from the
    workers, so that the number of workers changes no bit of the output.

    Raises:
        UnavailableError: the device asked for is not there.
    """
    from geosr.device import pick_device, pick_gpus

    cores = processors()
    fit_threads = execution.threads or cores
    if execution.gpus is not None:
        gpus = pick_gpus(execution.gpus)
        return Placement("cuda", len(gpus), 1, fit_threads, gpus)
    device = pick_device(execution.device)
    if device != "cpu":
        return Placement(device, execution.workers or 1, 1, fit_threads)
    threads = execution.threads or max(1, cores // tiles)
    return Placement(device, execution.workers or max(1, cores // threads), threads, fit_threads)


def place_plan(plan: Plan, execution: Execution) -> Placement:
    """Decide device, workers, threads, and how many tiles are fitted together.

    Raises:
        UnavailableError: the device asked for is not there.
        UsageError: a batch was asked for and would change nothing.
    """
    from geosr.device import free_memory

    check_batch(plan, execution)
    tiles, device = len(plan.tiles), place(len(plan.tiles), execution).device
    planned = execution.batch is None and device != "cpu" and plan.method.fits_together and plan.fit == "tile"
    batch = plan_batch(plan, free_memory(device)) if planned else min(execution.batch or 1, tiles)
    return replace(place(-(-tiles // batch), execution), batch=batch, planned=planned)


def check_batch(plan: Plan, execution: Execution) -> None:
    """See that a batch that is asked for has something to change.

    Raises:
        UsageError: it has not.
    """
    if (execution.batch or 1) == 1:
        return
    if not plan.method.fits_together:
        raise UsageError(f"{plan.method.name} does not fit tiles together; leave --batch out")
    if plan.fit == "scene":
        raise UsageError("--batch fits tiles together that each have a fit of their own: it needs --fit tile")


def plan_batch(plan: Plan, free: int) -> int:
    """How many tiles to fit together in `free` bytes: what half of them hold, for the method's figure is a CPU's.

    A power of two, so that a few bytes more or less make no other batch.
    """
    shape = plan.tiles[0].window.times(plan.scene.grids.scale).shape
    room = free // 2 // plan.method.memory(plan.scene.guide.channels, shape)
    return 1 << max(min(room, len(plan.tiles), _LARGEST_BATCH), 1).bit_length() - 1


def upscale_file(inputs: Inputs, recipe: Recipe, execution: Execution, output: Path) -> Report:
    """Super-resolve `inputs.source` with `inputs.guide` into the GeoTIFF `output`.

    Raises:
        UsageError, InputError, UnavailableError: before any work.
        TileError: tiles failed; the others are kept for the next run, and nothing was written.
        OutputError: the output could not be written, or another run is making it; nothing is left under its name.
    """
    stages = _Stages(execution)
    paths = [inputs.source, inputs.guide]
    outputs = check_outputs(output, paths, execution)
    output = outputs.pop(OUTPUT)
    recipe = decide(inputs, recipe, execution)
    plan = replace(make_plan(inputs, recipe), layers=tuple(outputs))
    placement = place_plan(plan, execution)
    slowness = plan.method.slowness(placement.device)
    for text in (*plan.scene.notes, *suspicions(plan.scene), *([slowness] if slowness else [])):
        execution.on_event(Note(text))
    depends_on = _fingerprint(plan, placement)
    with run_folder(output, depends_on) as folder:
        if folder.changes:
            changes = ", ".join(folder.changes)
            execution.on_event(Note(f"an earlier run for this output is not continued but started afresh: {changes}"))
        if placement.planned:  # once for all runs that continue each other, whatever memory is free then
            batch = folder.remember("tiles fitted together", partial(dict, batch=placement.batch))["batch"]
            placement = replace(placement, batch=batch)
        check_room(folder.path, scratch_bytes(plan))
        stages.begin("statistics")
        stats = _statistics(plan, folder)
        if plan.method.statistics == "scene" and any(stats.guide_noise):
            share = max(stats.guide_noise)
            execution.on_event(Note(f"the guide is noisy (up to {share:.0%} of its spread): it is smoothed first"))
        if plan.fits_scene:
            stages.begin("fit")
            state = folder.remember_state(lambda: fit_scene(plan, placement, stats))
            plan = replace(plan, state=state or None)
        stages.begin("tiles")
        store = folder.tiles(plan.layers)
        with _pool(plan, placement, folder.path, execution) as pool:
            made = _run_tiles(plan, placement, stats, store, pool, execution)
        if smaller := sum(result.batch is not None for result in made.results):
            execution.on_event(
                Note(
                    f"memory did not suffice for {placement.batch} tiles at once: {smaller} were fitted in smaller "
                    "batches, and another run may differ in last bits"
                )
            )
        guided, expected = _guided_share(made.results), _expected_error(made.results)
        report = Report(output, made.results, made.resumed, guided, None, expected, stages.seconds)
        if report.failed:
            _report(plan, placement, execution, depends_on, report)
            raise _failure(report, plan.scene.grids.scale)
        if plan.reads_guide and guided < 1:
            execution.on_event(Note(f"no guide on {1 - guided:.1%} of the area: the source is interpolated there"))
        stages.begin("mosaic")
        mosaic = _mosaic(plan, report, store, folder.path, _tags(plan, placement, report))
        further = [_further(mosaic, name, path) for name, path in outputs.items()]
        *_, written = write([*further, mosaic], compress=recipe.compress, overwrite=execution.overwrite)
    report = replace(report, written=written, seconds=stages.seconds)
    if execution.style:
        write_style(output, inputs.source)
    _report(plan, placement, execution, depends_on, report)
    return report


def check_outputs(output: Path, inputs: Sequence[Path], execution: Execution) -> dict[str, Path]:
    """Where everything that a run writes will lie, by name, before any work is done.

    Raises:
        UsageError, OutputError: as `check_output` and `check_report`; two of them have the same name.
    """
    asked = {OUTPUT: output, **execution.layers}
    outputs = {name: check_output(path, inputs, overwrite=execution.overwrite) for name, path in asked.items()}
    if len({*outputs.values()}) < len(outputs):
        raise UsageError("the output and what is written beside it need different names")
    if execution.report:
        check_report(execution.report, [*inputs, *outputs.values()])
    if execution.style:
        check_style(outputs[OUTPUT], overwrite=execution.overwrite)
    return outputs


class _Stages:
    """Tells of each stage as it begins, and how long each took so far; the first is planning."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self._began = [("plan", time.monotonic())]

    def begin(self, name: str) -> None:
        """The stage before ends."""
        self._began.append((name, time.monotonic()))
        self._execution.on_event(Stage(name))

    @property
    def seconds(self) -> dict[str, float]:
        """By stage."""
        ends = [*(start for _, start in self._began[1:]), time.monotonic()]
        return {name: end - start for (name, start), end in zip(self._began, ends, strict=True)}


def _report(plan: Plan, placement: Placement, execution: Execution, depends_on: dict[str, str], report: Report) -> None:
    """Write the run's report if one is asked for."""
    if execution.report is None:
        return
    found = report.written
    content = describe_run(
        depends_on,
        versions(),
        report.results,
        report.resumed,
        plan.scene.grids.scale,
        placement.batch,
        output=str(report.output) if found else None,
        exit_code=TileError.exit_code if report.failed or report.interpolated else 0,
        scheduler=execution.scheduler,
        workers=placement.workers,
        seconds={name: round(seconds, 3) for name, seconds in report.seconds.items()},
        guided_percent=round(100 * report.guided, 2),
        expected_error=float(f"{report.expected:.4g}"),
        deviation=asdict(found.deviation) if found else None,
        seam_ratio=found.seam_ratio if found else None,
    )
    if execution.report.suffix.lower() == ".json":
        write_report(execution.report, content)
        return
    write_whole(execution.report, _page(plan, report, content, execution.uncertainty))


def _page(plan: Plan, report: Report, content: dict[str, object], uncertainty: Path | None) -> bytes:
    """The report as a page, with pictures of what was read and written."""
    from geosr.report_page import make_page
    from geosr.views import Look, Subject, look

    scene, found = plan.scene, report.written
    seen: Look | str
    try:
        result = raster.describe_source(report.output) if found else None
        doubt = raster.describe_source(uncertainty) if found and uncertainty else None
        seen = look(Subject(scene.source, scene.guide, result, scene.grids, scene.origin, scene.seen, doubt))
    except InputError as error:  # of a block that cannot be read, which made tiles fail
        seen = str(error)
    names = {"source": scene.source.path.name, "guide": scene.guide.path.name}
    fallen = [each.tile.core.times(scene.grids.scale) for each in report.results if each.failure]
    return make_page(content, names, seen, found.deviations if found else None, fallen)


def _failure(report: Report, scale: int) -> TileError:
    """What ends a run of which tiles failed."""
    failed = report.failed
    lines = [f"{result.tile.name(scale)}: {result.failure}" for result in failed[:_NAMED]]
    more = [f"and {len(failed) - _NAMED} more"] if len(failed) > _NAMED else []
    summary = f"{len(failed)} of {report.tiles} tiles failed; nothing was written"
    return TileError("\n".join([summary, *lines, *more]))


def _fingerprint(plan: Plan, placement: Placement) -> dict[str, str]:
    from geosr.device import device_kind
    from geosr.methods.neighbourhood import kernels

    machine = {
        "device": device_kind(placement.device),
        "threads a tile": str(placement.threads),
        "tiles fitted together": "planned" if placement.planned else str(placement.batch),
        "kernels": kernels(placement.device),
        "further rasters": ", ".join(plan.layers),
    }
    scene = plan.scene
    return fingerprint(scene.source, scene.guide, plan.inputs, plan.recipe, plan.method, plan.consistency, machine)


def scratch_bytes(plan: Plan) -> int:
    """Disk that a run takes until its end, about: the tiles, a mosaic before compression, and the outputs.

    An output with its overviews (a third more pixels, which GDAL makes in a file of their own first) is taken as if it
    could not be compressed.
    """
    scale, rows, cols = plan.scene.grids.scale, *plan.scene.grids.high.shape
    tiles = sum(tile.window.height * tile.window.width for tile in plan.tiles) * scale**2 * 4
    mosaic = rows * cols * np.dtype(plan.recipe.dtype).itemsize
    further = tiles + rows * cols * np.dtype(_LAYER_ENCODING.dtype).itemsize * 4 // 3
    return tiles + mosaic + mosaic * 5 // 3 + len(plan.layers) * further


def _statistics(plan: Plan, folder: RunFolder) -> Stats:
    """The scene's statistics, measured once for all runs that continue each other."""
    stored = folder.remember("statistics", lambda: asdict(measure_scene(plan)))
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in stored.items()}
    return Stats(**values)


def fit_scene(plan: Plan, placement: Placement, stats: Stats) -> State:
    """The method fitted on a few tiles drawn from the scene; empty if none tells anything.

    It takes all threads where the scene has the machine to itself.

    Raises:
        TileError: the fit failed.
    """
    from geosr.device import torch_threads

    patches = _draw_patches(plan, stats, FIT_TILES)
    if not patches:
        return {}
    with torch_threads(placement.fit_threads):
        return plan.method.fit(patches, plan.recipe.seed, placement.device)


def _draw_patches(plan: Plan, stats: Stats, count: int) -> list[Patch]:
    """As many patches of the scene in which there is anything to be made out, drawn by the recipe's seed."""
    from geosr.methods.solve import prepare, tells

    drawn = [plan.tiles[place] for place in np.random.default_rng(plan.recipe.seed).permutation(len(plan.tiles))]
    patches = (prepare(pair, stats, plan.consistency) for pair in _pairs(plan, drawn))
    return [*islice((patch for patch in patches if tells(patch)), count)]


def assess_file(inputs: Inputs, recipe: Recipe, execution: Execution, names: Sequence[str]) -> Assessment:
    """Methods one step down on a few tiles of the pair; their default presets, nothing is written.

    Raises:
        UsageError, InputError, UnavailableError: as `upscale_file`.
        TileError: a fit failed.
    """
    from geosr.device import torch_threads

    plan = replace(make_plan(inputs, replace(recipe, method=names[0])), reads_guide=True)  # some of them use it
    placement, stats = place(1, execution), measure_scene(plan)
    patches = _draw_patches(plan, stats, _ASSESS_TILES)
    with torch_threads(placement.threads):
        chosen = [methods.create(name) for name in names]
        return assess(patches, chosen, stats.source_spread, recipe.seed, placement.device)


def decide(inputs: Inputs, recipe: Recipe, execution: Execution) -> Recipe:
    """With `auto`, the method that does best one step down; where nothing can be told, the default one."""
    if recipe.method != AUTO:
        return recipe
    if recipe.preset != "default" or recipe.settings:
        raise UsageError(f"--method {AUTO} chooses among default presets; a preset or settings need a method's name")
    execution.on_event(Stage("assessment"))
    names = methods.candidates()
    found = assess_file(inputs, recipe, execution, names)
    chosen = found.best.method if found.best else names[0]
    execution.on_event(Note(f"{found.verdict}; method {chosen}"))
    return replace(recipe, method=chosen)


def suspicions(scene: Scene) -> Iterator[str]:
    """Constants in the files that look like nodata which nobody declared."""
    for role, file in (("source", scene.source), ("guide", scene.guide)):
        with suppress(InputError):  # what cannot be read will be named by its tile
            constant = raster.suspicious_constant(file)
            if constant is not None:
                yield f"the {role} holds {constant:g} as if for nodata; if it is, say --{role}-nodata {constant:g}"


def measure_scene(plan: Plan) -> Stats:
    """Statistics over a fixed, evenly spread sample of the tiles that hold valid pixels.

    Raises:
        InputError: no source pixel is valid, or the guide is missing everywhere.
    """
    sampled = sample(plan.tiles)
    pairs = _pairs(plan, sampled)  # one at a time: of a guide with many bands 32 would take gigabytes
    if not any(pair.guide_valid.any() for pair in _pairs(plan, sampled)):
        pairs = islice((pair for pair in _pairs(plan, plan.tiles) if pair.guide_valid.any()), _SAMPLE_TILES)
    first = next(pairs, None)
    if first is None:
        find_valid(plan.scene, plan.tiles)
        raise InputError(
            f"the guide {show(plan.scene.guide.path.name)} has no valid pixel where the source has one; "
            "check its nodata and the extents with geosr info"
        )
    return Stats.measure(chain([first], pairs), noise=True)


def _pairs(plan: Plan, tiles: Iterable[Tile]) -> Iterator[Pair]:
    """The tiles with a valid source pixel; what cannot be read will fail as a tile, by its name."""
    for tile in tiles:
        with suppress(InputError):
            if pair := plan.read(tile):
                yield pair


def find_valid(scene: Scene, tiles: list[Tile], *, with_guide: bool = True) -> tuple[Tile, Pair]:
    """The first tile with a valid source pixel, from the middle of the scene onwards.

    Raises:
        InputError: there is none.
    """
    for tile in tiles[len(tiles) // 2 :] + tiles[: len(tiles) // 2]:
        if pair := scene.read(tile, with_guide=with_guide):
            return tile, pair
    raise InputError(f"the source {show(scene.source.path.name)} has no valid pixel here; all are nodata")


def sample(tiles: list[Tile]) -> list[Tile]:
    """Tiles spread evenly over the scene, always the same."""
    step = max(len(tiles) // _SAMPLE_TILES, 1)
    return tiles[step // 2 :: step]


@contextmanager
def _pool(plan: Plan, placement: Placement, folder: Path, execution: Execution) -> Iterator[Pool]:
    """What the tiles are worked on by.

    Raises:
        UnavailableError: it cannot be had.
    """
    if execution.scheduler == "threads":
        yield Threads(placement.workers)
        return
    from geosr import cluster  # takes a while

    timeout = execution.tile_timeout

    def tell(text: str) -> None:
        execution.on_event(Note(text))

    if execution.scheduler == "processes":
        workers = min(placement.workers, len(plan.tiles))
        gpus = placement.gpus[:workers]
        with cluster.start_processes(workers, folder / "workers", gpus=gpus, timeout=timeout, tell=tell) as pool:
            yield pool
        return
    files = {file.path: file.fingerprint[0] for file in (plan.scene.source, plan.scene.guide)}
    with cluster.connect(execution.scheduler, execution.workers, files, folder, timeout=timeout, tell=tell) as pool:
        if address := cluster.dashboard(pool.client):
            execution.on_event(Note(f"Dask's dashboard: {address}"))
        yield pool


def _run_tiles(
    plan: Plan, placement: Placement, stats: Stats, store: TileStore, pool: Pool, execution: Execution
) -> TileRun:
    """Every tile, failed ones interpolated if that is asked for."""
    job = (replace(plan, tiles=[]), placement, stats, store)  # small: it goes to every worker
    work, scale = partial(upscale_group, *job), plan.scene.grids.scale
    made = run_tiles(
        work, plan.tiles, store, batch=placement.batch, scale=scale, pool=pool, on_event=execution.on_event
    )
    if execution.on_tile_error == "fail":
        return made
    results = [interpolate_tile(*job, result) if result.failed else result for result in made.results]
    return replace(made, results=results)


def upscale_group(plan: Plan, placement: Placement, stats: Stats, store: TileStore, group: Group) -> list[TileResult]:
    """Tiles from reading to their files in the run folder: a pure function of plan, statistics and tiles.

    What is wrong with a tile alone (it cannot be read, the fit diverges, memory runs out) becomes its failure.

    Raises:
        UsageError, OutputError: what would fail for every tile.
    """
    if len(group) > 1:
        for tile in group:  # an earlier attempt may have fitted it with fewer others
            store.discard(tile)
    pairs = [_read(plan, tile) for tile in group]
    fits = _fit_group(plan, placement, stats, group, pairs) if len(group) > 1 else {}
    return [
        _upscale_tile(plan, placement, stats, store, tile, pair, fits.get(tile.index))
        for tile, pair in zip(group, pairs, strict=True)
    ]


def _read(plan: Plan, tile: Tile) -> Pair | Exception | None:
    """The tile's pair, or what is wrong with it."""
    try:
        pair = plan.read(tile)
        if pair:
            Encoding.choose(plan.scene.source, plan.recipe.dtype).check(pair.source[pair.source_valid])
    except (InputError, TileError, MemoryError) as error:
        return error
    return pair


def _fit_group(
    plan: Plan,
    placement: Placement,
    stats: Stats,
    group: Sequence[Tile],
    pairs: Sequence[Pair | Exception | None],
) -> dict[int, Fit]:
    """By index, the fits of those tiles in which the method has a say."""
    from geosr.device import torch_threads
    from geosr.methods.solve import Fit, asks, fit_together, prepare

    own = plan.method.statistics == "tile"
    with torch_threads(placement.threads):
        try:
            patches = {
                tile: prepare(pair, Stats.measure([pair]) if own else stats, plan.consistency)
                for tile, pair in zip(group, pairs, strict=True)
                if isinstance(pair, Pair)
            }
        except MemoryError:
            return {tile.index: Fit(OutOfMemoryError("out of memory")) for tile in group}
        asking = {tile: patch for tile, patch in patches.items() if asks(patch, plan.method)}
        seeds = [_seed(plan, tile) for tile in asking]
        fits = fit_together([*asking.values()], plan.method, seeds, placement.device)
    return {tile.index: fit for tile, fit in zip(asking, fits, strict=True)}


def _upscale_tile(
    plan: Plan,
    placement: Placement,
    stats: Stats,
    store: TileStore,
    tile: Tile,
    pair: Pair | Exception | None,
    fit: Fit | None,
) -> TileResult:
    """One tile of a group, fitted there or now."""
    if pair is None:
        return store.save(TileResult(tile))
    try:
        if isinstance(pair, Exception):
            raise pair
        found = fit.found if fit else plan.state
        if isinstance(found, TileError):
            raise found
        solution = solve_tile(plan.method, replace(plan, state=found), placement, stats, pair, tile)
    except (InputError, TileError, MemoryError) as error:
        # a fit that diverged would do so again: it has the same seed
        passing = isinstance(error, InputError | OutOfMemoryError | MemoryError)
        return TileResult(tile, failure=str(error) or "out of memory", retry=passing)
    valid, seen = _counts(pair, tile)
    expected = _expected_square(pair, tile, solution)
    batch = fit.batch if fit else None
    result = TileResult(tile, solution.centre, seen / max(valid, 1), valid, expected, batch=batch)
    return _save(plan, store, result, solution)


def interpolate_tile(
    plan: Plan, placement: Placement, stats: Stats, store: TileStore, failed: TileResult
) -> TileResult:
    """The source interpolated, as where there is no guide, in place of a tile that failed; it keeps its failure.

    A tile whose source cannot be read stays failed.
    """
    tile, scale = failed.tile, plan.scene.grids.scale
    try:
        source, valid = plan.scene.read_source(tile.window)
    except InputError:
        return failed
    if not valid.any():
        return store.save(TileResult(tile))
    Encoding.choose(plan.scene.source, plan.recipe.dtype).check(source[valid])
    rows, cols = tile.window.times(scale).shape
    bands = plan.scene.guide.channels if plan.reads_guide else 0
    pair = Pair(np.zeros((bands, rows, cols), np.float32), np.zeros((rows, cols), bool), source, valid)
    solution = solve_tile(methods.create(WITHOUT_GUIDE), plan, placement, stats, pair, tile)
    expected = _expected_square(pair, tile, solution)
    interpolated = replace(failed, centre=solution.centre, valid=_counts(pair, tile)[0], expected=expected)
    return _save(plan, store, interpolated, solution)


def _save(plan: Plan, store: TileStore, result: TileResult, solution: Solution) -> TileResult:
    """All of a tile's rasters; what makes it a finished one last."""
    further = {"influence": solution.influence, "uncertainty": solution.deviation}
    for name in plan.layers:
        store.layer(name).save(replace(result, centre=0.0), further[name])
    return store.save(result, solution.values)


def _counts(pair: Pair, tile: Tile) -> tuple[int, float]:
    """Valid source pixels of the tile's core, and how many of them the guide covers."""
    core = tile.core.relative_to(tile.window)
    valid = pair.source_valid[core.slices]
    if not len(pair.guide):
        return int(valid.sum()), 0.0
    covered = pair.guide_valid[core.times(pair.scale).slices] & spread(valid, pair.scale)
    return int(valid.sum()), float(covered.sum()) / pair.scale**2


def _expected_square(pair: Pair, tile: Tile, solution: Solution) -> float:
    """Mean square of the estimated error over the core's valid pixels."""
    core = tile.core.relative_to(tile.window)
    valid = spread(pair.source_valid[core.slices], pair.scale)
    deviation = solution.deviation[core.times(pair.scale).slices]
    return float((deviation[valid] ** 2).sum()) / max(int(valid.sum()), 1)


def solve_tile(method: Method, plan: Plan, placement: Placement, stats: Stats, pair: Pair, tile: Tile) -> Solution:
    """`method` on one tile as the plan has it, with the threads and the seed that the tile gets."""
    from geosr.device import torch_threads
    from geosr.methods.solve import solve

    own = stats if method.statistics == "scene" else None
    with torch_threads(placement.threads):
        return solve(
            pair,
            method,
            stats=own,
            consistency=plan.consistency,
            seed=_seed(plan, tile),
            device=placement.device,
            state=plan.state,
            influence="influence" in plan.layers,
        )


def _seed(plan: Plan, tile: Tile) -> int:
    return int(np.random.SeedSequence([plan.recipe.seed, tile.index]).generate_state(1, np.uint64)[0] >> 1)


def _expected_error(results: list[TileResult]) -> float:
    """Root mean square over the scene's valid pixels."""
    valid = sum(result.valid for result in results)
    return float(np.sqrt(sum(result.expected * result.valid for result in results) / max(valid, 1)))


def _guided_share(results: list[TileResult]) -> float:
    valid = sum(result.valid for result in results)
    return sum(result.guided * result.valid for result in results) / max(valid, 1)


def _mosaic(plan: Plan, report: Report, store: TileStore, folder: Path, tags: dict[str, str]) -> Mosaic:
    scene = plan.scene
    return Mosaic(
        source=scene.source,
        grids=scene.grids,
        results=report.results,
        tiles=store,
        folder=folder,
        read_source=scene.read_source,
        consistency=plan.consistency,
        encoding=Encoding.choose(scene.source, plan.recipe.dtype),
        output=report.output,
        tags=tags,
    )


def _further(mosaic: Mosaic, name: str, output: Path) -> Mosaic:
    """The mosaic of a raster that is written beside the output: in its units, as it comes from the tiles."""
    described = {"influence": "changed by the guide", "uncertainty": "standard deviation"}[name]
    return replace(
        mosaic,
        source=replace(mosaic.source, description=described, band_tags={}),
        results=[replace(result, centre=None if result.centre is None else 0.0) for result in mosaic.results],
        tiles=mosaic.tiles.layer(name),
        consistency=Consistency(np.inf),
        encoding=_LAYER_ENCODING,
        output=output,
        tags={**mosaic.tags, "GEOSR_LAYER": name},
        pools=False,
    )


def _tags(plan: Plan, placement: Placement, report: Report) -> dict[str, str]:
    scene, recipe = plan.scene, plan.recipe
    names = "; ".join(result.tile.name(scene.grids.scale) for result in report.interpolated)
    rows, cols = scene.shift.applied if scene.shift else (0.0, 0.0)
    moved = f"{0 - cols:.4f} {0 - rows:.4f}"  # the guide, along columns and rows, in output pixels
    package = methods.entry(plan.method.name).package
    smaller = "; ".join(f"{each.tile.name(scene.grids.scale)}: {each.batch}" for each in report.results if each.batch)
    special = (
        ({"GEOSR_INTERPOLATED_TILES": names} if names else {})
        | ({"GEOSR_COREGISTER_SHIFT": moved} if scene.shift else {})
        | ({"GEOSR_METHOD_PACKAGE": package} if package else {})
        | ({"GEOSR_BATCH": str(placement.batch)} if placement.batch > 1 else {})
        | ({"GEOSR_SMALLER_BATCHES": smaller} if smaller else {})
    )
    return special | {
        "GEOSR_VERSION": __version__,
        "GEOSR_METHOD": plan.method.name,
        "GEOSR_PRESET": recipe.preset,
        "GEOSR_SETTINGS": json.dumps(asdict(plan.method.settings), sort_keys=True),
        "GEOSR_SCALE": str(scene.grids.scale),
        "GEOSR_CONSISTENCY": str(plan.consistency),
        "GEOSR_TILE": str(recipe.tile),
        "GEOSR_FIT": plan.fit,
        "GEOSR_SEED": str(recipe.seed),
        "GEOSR_DEVICE": placement.device,
        "GEOSR_THREADS_PER_TILE": str(placement.threads),
        "GEOSR_SOURCE": scene.source.path.name,
        "GEOSR_GUIDE": scene.guide.path.name,
        "GEOSR_GUIDED_PERCENT": f"{100 * report.guided:.2f}",
        "GEOSR_EXPECTED_ERROR": f"{report.expected:.4g}",
    }
