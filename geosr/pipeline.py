"""The story of a run: plan, statistics, fit, tiles, mosaic.

The parts, in the order of the data's way: `scene` opens the pair, `plan` and `placement` decide what is done and where,
`sampling` measures the scene and fits the method, `tile_work` makes a tile's values, `outputs` says what is written of
them, `report` what was done, `notes` what is to be said on the way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from geosr.assess import decide
from geosr.errors import OutputError, TileError
from geosr.estimates import scratch_bytes
from geosr.events import Event, Fitting, Note, Stage
from geosr.files import check_room
from geosr.inspection import planned
from geosr.methods.base import told_to
from geosr.notes import (
    notes_on_earlier_run,
    notes_on_output,
    notes_on_plan,
    notes_on_statistics,
    notes_on_tiles,
)
from geosr.options import Execution, Inputs, Recipe
from geosr.outputs import check_outputs, digest_tags, mosaics
from geosr.pair import Stats
from geosr.placement import Crew, Placement, open_pool, place_plan
from geosr.plan import Plan
from geosr.provenance import fingerprint, software
from geosr.report import Report, write_report
from geosr.run_folder import RunFolder, run_folder
from geosr.sampling import fit_scene, measure_scene
from geosr.style import write_style
from geosr.tile_run import Group, TileRun, run_tiles
from geosr.tile_store import TileResult, TileStore
from geosr.tile_work import interpolate_tile, upscale_group
from geosr.writer import write


def upscale_file(
    inputs: Inputs, recipe: Recipe, execution: Execution, output: Path, crew: Crew | None = None
) -> Report:
    """Super-resolve `inputs.source` with `inputs.guide` into the GeoTIFF `output`.

    With a `crew` its workers make the tiles, beside those of other runs; else this run has workers of its own.

    Raises:
        UsageError, InputError, UnavailableError: before any work.
        TileError: tiles failed; the others are kept for the next run, and nothing was written.
        OutputError: the output could not be written, or another run is making it; nothing is left under its name.
    """
    record = _Record(execution.on_event)
    execution = replace(execution, on_event=record)
    output, further = check_outputs(output, [inputs.source, inputs.guide, *recipe.files], execution)
    plan = _plan(inputs, recipe, execution)
    placement = place_plan(plan, execution, crew)
    record.say(notes_on_plan(plan, placement, execution))
    depends_on = fingerprint_of(plan, placement)
    with run_folder(output, depends_on) as folder, crew.room(placement, execution) if crew else nullcontext():
        overwrite = folder.may_replace(overwrite=execution.overwrite)
        record.say(notes_on_earlier_run(folder))
        placement = _settle_batch(placement, folder)
        check_room(folder.path, scratch_bytes(plan))
        stats = _measure(plan, folder, record)
        plan = _fit(plan, placement, stats, folder, record)
        record.begin("tiles")
        store = folder.tiles(plan.layers)
        made = _run_tiles(plan, placement, stats, store, folder.path, execution, crew)
        report = Report(output, made.results, made.resumed, record.seconds, notes=record.notes)
        record.say(notes_on_tiles(plan, placement, report))
        tell = partial(write_report, plan=plan, placement=placement, execution=execution, depends_on=depends_on)
        if report.failed:
            raise _failure(report, plan.scene.grids.scale, tell)
        record.begin("mosaic")
        files = mosaics(plan, placement, report, store, folder.path, further)
        *_, written = write(files, compress=recipe.compress, overwrite=overwrite)
        record.say(notes_on_output(plan, stats, written))
        report = replace(report, written=written, seconds=record.seconds)
        if execution.style:
            write_style(output)
        tell(report)
    return report


class _Record:
    """Passes events on and keeps what a report needs: notes, and when each stage began; the first is planning."""

    def __init__(self, tell: Callable[[Event], None]) -> None:
        self.notes: list[str] = []
        self._tell = tell
        self._began = [("plan", time.monotonic())]

    def __call__(self, event: Event) -> None:
        """Hear an event."""
        if isinstance(event, Note):
            self.notes.append(event.text)
        if isinstance(event, Stage):
            self._began.append((event.name, time.monotonic()))
        self._tell(event)

    def begin(self, name: str) -> None:
        """The stage before ends."""
        self(Stage(name))

    def say(self, texts: Iterable[str]) -> None:
        """Notes."""
        for text in texts:
            self(Note(text))

    @property
    def seconds(self) -> dict[str, float]:
        """By stage."""
        ends = [*(start for _, start in self._began[1:]), time.monotonic()]
        return {name: end - start for (name, start), end in zip(self._began, ends, strict=True)}


def _plan(inputs: Inputs, recipe: Recipe, execution: Execution) -> Plan:
    """What will be done, and it is told."""
    plan = decide(inputs, recipe, execution)
    plan = replace(plan, layers=tuple(execution.layers), digests=digest_tags(inputs.source, inputs.guide))
    execution.on_event(planned(plan, execution, scratch_bytes(plan)))
    return plan


@contextmanager
def _fit_told(tell: Callable[[Event], None]) -> Iterator[None]:
    """Tells how far a fit in the block is, a hundredth of it at a time."""
    began, told = time.monotonic(), 0.0

    def listen(share: float) -> None:
        nonlocal told
        if share >= told + 0.01:
            told = share
            tell(Fitting(share, time.monotonic() - began))

    with told_to(listen):
        yield


def fingerprint_of(plan: Plan, placement: Placement) -> dict[str, object]:
    """Everything that changes the bytes of a run's output, by name."""
    machine = {
        "threads a tile": str(placement.threads),
        "tiles fitted together": "planned" if placement.planned else str(placement.batch),
        "further rasters": ", ".join(plan.layers),
        **software(placement.device, plan.method.name),
    }
    scene = plan.scene
    recipe = replace(plan.recipe, fit=plan.fit) if plan.method.needs_fit else plan.recipe
    return fingerprint(scene.source, scene.guide, plan.inputs, recipe, plan.method, plan.consistency, machine)


def _settle_batch(placement: Placement, folder: RunFolder) -> Placement:
    """A planned batch is planned once for all runs that continue each other, whatever memory is free then."""
    if not placement.planned:
        return placement
    batch = folder.remember("tiles fitted together", partial(dict, batch=placement.batch))["batch"]
    return replace(placement, batch=batch)


def _measure(plan: Plan, folder: RunFolder, record: _Record) -> Stats:
    """The scene's statistics, measured once for all runs that continue each other."""
    record.begin("statistics")
    stored = folder.remember("statistics", lambda: asdict(measure_scene(plan)))
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in stored.items()}
    stats = Stats(**values)
    record.say(notes_on_statistics(plan, stats))
    return stats


def _fit(plan: Plan, placement: Placement, stats: Stats, folder: RunFolder, record: _Record) -> Plan:
    """The plan with what a fit on the scene found, if the method has one; made once for all such runs, too."""
    if not plan.fits_scene:
        return plan
    record.begin("fit")
    with _fit_told(record):
        state = folder.remember_state(lambda: fit_scene(plan, placement, stats))
    return replace(plan, state=state or None)


def _run_tiles(
    plan: Plan,
    placement: Placement,
    stats: Stats,
    store: TileStore,
    folder: Path,
    execution: Execution,
    crew: Crew | None,
) -> TileRun:
    """Every tile, failed ones interpolated if that is asked for."""
    from geosr.device import threads_kept

    job = (replace(plan, tiles=[]), placement, stats, store)  # small: it goes to every worker
    work, scale = partial(upscale_group, *job), plan.scene.grids.scale

    def told(group: Group) -> list[TileResult]:
        with _fit_told(execution.on_event):
            return work(group)

    alone = len(plan.tiles) == 1 and execution.scheduler == "threads" and not crew  # more tell by being done
    with threads_kept(), open_pool(plan, placement, folder, execution, crew) as pool:
        made = run_tiles(
            told if alone else work,
            plan.tiles,
            store,
            batch=placement.batch,
            scale=scale,
            pool=pool,
            at_once=crew.at_once(placement) if crew else None,
            on_event=execution.on_event,
        )
        if execution.on_tile_error == "fail":
            return made
        results = [interpolate_tile(*job, result) if result.failed else result for result in made.results]
        return replace(made, results=results)


def _failure(report: Report, scale: int, tell: Callable[[Report], None]) -> TileError:
    """What ends a run of which tiles failed; its report is written all the same, if it can be."""
    failure = report.failure(scale)
    try:
        tell(report)
    except OutputError as error:
        failure.add_note(str(error))
    return failure
